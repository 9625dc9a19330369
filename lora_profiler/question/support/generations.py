"""What older versions of transformers did otherwise than today's, as far as memory shows it. No
torch.

Read in the wheels of transformers 4.45.2, 4.48.1, 4.49.0 and 4.57.3: `modeling_{llama,mistral,
mixtral,qwen2,phi3}.py`, `integrations/sdpa_attention.py`, `loss/loss_utils.py`.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final, Literal

from lora_profiler.errors import UsageError, refuse
from lora_profiler.question.kernel_set import kernel_set, of_set
from lora_profiler.question.lora_kernel_set import lora_kernel_set
from lora_profiler.question.loss import is_predicted_only, loss_facts
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module, Weight
from lora_profiler.question.support.optimizers import package_of
from lora_profiler.question.workload import FLAT, FULLY_SHARDED, TrainSetup, Transformers, Workload

_REPEATED_BEFORE_FLASH: Final = frozenset({"mistral", "mixtral", "qwen2", "phi3"})
"""Types whose FlashAttention 2 class of 4.45 repeats keys and values to all heads; Llama's and
Gemma's hand grouped ones on."""
_WITH_SHIFTED_LOGITS: Final = frozenset({"4.48", "4.45"})
"""Versions that copy the logits to shift them; 4.49 shifts the labels instead."""
_APART: Final = ("mixtral",)
"""Types whose experts were layers of their own before transformers 5, and that are known so."""


def shifts_logits(version: Transformers) -> bool:
    return version in _WITH_SHIFTED_LOGITS


def casts_in_head(version: Transformers) -> bool:
    """Whether `lm_head(hidden).float()` leaves nothing of the 16-bit logits."""
    return version == "4.45"


def repeats_heads(workload: Workload) -> bool:
    """Whether keys and values are repeated to all heads before any kernel: by SDPA's classes up to
    4.49, and by some types' of FlashAttention 2 up to 4.45."""
    setup = workload.setup
    if kernel_set(setup.kernels).repeats_heads:
        return True
    if not shifts_logits(setup.transformers):
        return False
    if setup.is_flash_attention_2 or setup.is_flattened:
        return setup.transformers == "4.45" and workload.model.model_type in _REPEATED_BEFORE_FLASH
    return True


def rotary_tables(workload: Workload) -> Literal["once", "buffer", "each"]:
    """Whether cosines and sines are made once a pass, lie in a buffer, or are made at each call."""
    own = of_set(workload.setup.kernels, "rotary_tables")
    found: Literal["once", "buffer", "each"] = own(workload.model) if own else "once"
    return found


def as_of(model: ModelSpec, version: Transformers) -> ModelSpec:
    """`model` as that version of transformers makes it: with an expert a layer of its own before
    5. Another type whose experts are packed is returned as it is, for `check_generation` to
    refuse."""
    if version == "5" or model.model_type not in _APART:
        return model  # itself: an equal one may stand for another model that sees
    return _apart_as_of(model, version)


@lru_cache(maxsize=64)
def _apart_as_of(model: ModelSpec, version: Transformers) -> ModelSpec:
    parts = tuple(
        replace(part, kinds=tuple(tuple(_apart(kind)) for kind in part.kinds))
        if isinstance(part, LayerStack)
        else part
        for part in model.parts
    )
    return replace(model, parts=parts, fingerprint=f"{model.fingerprint}-{version}")


def as_made(model: ModelSpec, setup: TrainSetup) -> ModelSpec:
    """`model` as the library of `setup` makes it. With scores as its loss the head is that of
    AutoModelForSequenceClassification."""
    if loss_facts(setup.loss).one_score and model.output_embedding is not None:
        return _scored(as_of(model, setup.transformers))
    own = of_set(setup.kernels, "as_made")
    made = as_of(model, setup.transformers)
    return own(made) if own else made


@lru_cache(maxsize=64)
def _scored(model: ModelSpec) -> ModelSpec:
    """With transformers' `score` in place of the head: a linear layer of one output that shares
    nothing."""
    parts = []
    for part in model.parts:
        if part.name == model.output_embedding and isinstance(part, Module):
            weight = Weight(name="weight", shape=(1, part.in_features or 1))
            part = Module(name="score", kind="Linear", weights=(weight,))
        parts.append(part)
    return replace(
        model,
        parts=tuple(parts),
        config={**model.config, "final_logit_softcapping": None},
        output_embedding="score",
        fingerprint=f"{model.fingerprint}-scored",
    )


def check_generation(workload: Workload) -> None:
    """Raises UsageError for a version of transformers whose code for this model is not known."""
    version, model = workload.setup.transformers, workload.model
    if version == "5" or not any(_is_packed(m) for _, m in model.modules()):
        return
    raise UsageError(
        f"separate experts of {model.id} before transformers 5 are not modelled. Modelled:"
        f" {', '.join(_APART)}. Use --transformers 5."
    )


def version_words(workload: Workload) -> tuple[str, ...]:
    """What an answer takes for granted of the code that runs, where it is not today's."""
    setup, sentences = workload.setup, []
    if setup.transformers != "5":
        sentences.append(
            f"The code of transformers {setup.transformers}: {_WORDS[setup.transformers]}."
        )
    if setup.is_reentrant:
        sentences.append(
            "Reentrant checkpointing: a layer runs again to its end. Its output and gradient stay"
            " through its backward."
        )
    if words := kernel_set(setup.kernels).assumption:
        sentences.append(words)
    if setup.lora is not None and setup.lora.fast_lora:
        sentences.append(
            "Fused adapters as fms-acceleration's fast_lora: the input before and after dropout is"
            " kept, no mask."
        )
    return tuple(sentences)


_WORDS: Final = {
    "4.57": "an expert of Mixtral is a layer of its own",
    "4.48": "float32 logits are copied to shift them, and SDPA gets repeated heads",
    "4.45": (
        "logits are cast to float32 in the head and copied; heads are repeated, but for"
        " FlashAttention 2 of Llama and Gemma"
    ),
}


def has_packed_experts(model: ModelSpec) -> bool:
    """Whether experts are packed that were layers of their own before transformers 5."""
    return model.model_type in _APART and any(_is_packed(m) for _, m in model.modules())


def way_to_rules(setup: TrainSetup, other: str = "") -> str:
    """What has the rules answer, or `other` in place of what they alone know. They know no images:
    to name the rules would lead in a circle."""
    way, verb = "take --engine analytic", ""
    if setup.images is not None:
        way, verb = "leave --images out", "take "
    return f"{way}, or {verb}{other}" if other else way


def check_traceable(workload: Workload) -> None:
    """Raises UsageError for what the installed libraries cannot be made to run."""
    setup, model = workload.setup, workload.model
    functions = lora_kernel_set(setup.lora.lora_kernels if setup.lora else "peft")
    way = way_to_rules(setup)
    refuse(
        {
            f"FSDP1 is known to the rules alone; {way}.": setup.sharding in FLAT,
            f"torchao's states on FSDP's shards are known to the rules alone;"
            f" {way}.": setup.sharding in FULLY_SHARDED and package_of(setup) == "torchao",
            f"what waits on the host is known to the rules alone; {way}.": (setup.offloads),
            f"the {setup.loss} loss is known to the rules alone;"
            f" {way_to_rules(setup, 'another --loss')}.": is_predicted_only(setup.loss),
            f"{functions.title} are known to the rules alone; {way}.": (functions.rules_alone),
            f"{setup.kernels} is known to the rules alone; {way}.": (
                kernel_set(setup.kernels).rules_alone
            ),
            f"no transformers that is installed makes the experts of {model.id} layers of their"
            f" own; {way}.": any(".experts." in name for name, _ in model.modules()),
        }
    )


def _is_packed(module: Module) -> bool:
    return module.name.endswith("mlp.experts")


def _apart(kind: tuple[Module, ...]) -> list[Module]:
    """The modules of a layer with its packed experts, and the router, as linear layers."""
    modules: list[Module] = []
    for module in kind:
        if module.name == "mlp.gate":
            modules.append(replace(module, name="block_sparse_moe.gate", kind="Linear"))
        elif _is_packed(module):
            experts, double, hidden = module.weight("gate_up_proj").shape
            width = double // 2
            for number in range(experts):
                name = f"block_sparse_moe.experts.{number}"
                modules += [
                    _linear(f"{name}.w1", hidden, width),
                    _linear(f"{name}.w2", width, hidden),
                    _linear(f"{name}.w3", hidden, width),
                ]
        else:
            modules.append(module)
    return modules


def _linear(name: str, inputs: int, outputs: int) -> Module:
    return Module(
        name=name, kind="Linear", weights=(Weight(name="weight", shape=(outputs, inputs)),)
    )
