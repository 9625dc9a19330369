"""What older versions of transformers did otherwise than today's, as far as memory shows it. No
torch.

Read in the wheels of transformers 4.45.2, 4.48.1, 4.49.0 and 4.57.3: `modeling_{llama,mistral,
mixtral,qwen2,phi3}.py`, `integrations/sdpa_attention.py`, `loss/loss_utils.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final, Literal

from lora_profiler.errors import UsageError, refuse
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
    if setup.kernels in ("torchtune", "litgpt", "litgpt-2024"):
        return True  # 0.7, modules/attention.py; 0.5.13, model.py, CausalSelfAttention
    if not shifts_logits(setup.transformers):
        return False
    if setup.is_flash_attention_2 or setup.is_flattened:
        return setup.transformers == "4.45" and workload.model.model_type in _REPEATED_BEFORE_FLASH
    return True


def has_whole_tables(model: ModelSpec) -> bool:
    """Whether torchtune's tables are of the whole rotary width, not of half of it (0.7,
    models/{qwen2,phi3}/_position*_embeddings.py)."""
    return model.model_type.startswith("qwen") or model.architecture == "Phi3ForCausalLM"


def rotary_tables(workload: Workload) -> Literal["once", "buffer", "each"]:
    """torchtune 0.7 keeps them in a buffer, which its Qwen casts at each call
    (models/qwen2/_positional_embeddings.py); Unsloth in another (`question.support.unsloth`)."""
    if workload.setup.kernels == "unsloth":
        return "buffer"
    if workload.setup.kernels != "torchtune":
        return "once"
    return "each" if workload.model.model_type.startswith("qwen") else "buffer"


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


@lru_cache(maxsize=64)
def _untied(model: ModelSpec) -> ModelSpec:
    parts = tuple(
        replace(part, weights=tuple(replace(w, tied_to=None) for w in part.weights))
        if isinstance(part, Module)
        else part
        for part in model.parts
    )
    return replace(model, parts=parts, fingerprint=f"{model.fingerprint}-untied")


@lru_cache(maxsize=64)
def _unfused(model: ModelSpec) -> ModelSpec:
    """A Phi-3 whose q, k and v, and gate and up, are layers apart: a Llama of its sizes."""
    config = model.config
    width = config["hidden_size"] // config["num_attention_heads"]
    heads = (config["num_attention_heads"], *[config["num_key_value_heads"]] * 2)
    apart = {
        "self_attn.qkv_proj": dict(
            zip(("q_proj", "k_proj", "v_proj"), (n * width for n in heads), strict=True)
        ),
        "mlp.gate_up_proj": dict.fromkeys(("gate_proj", "up_proj"), config["intermediate_size"]),
    }

    def split(kind: tuple[Module, ...]) -> Iterator[Module]:
        for module in kind:
            if module.name not in apart:
                yield module
                continue
            parent = module.name.rpartition(".")[0]
            for name, rows in apart[module.name].items():
                weight = Weight(name="weight", shape=(rows, config["hidden_size"]))
                yield Module(name=f"{parent}.{name}", kind=module.kind, weights=(weight,))

    parts = tuple(
        replace(part, kinds=tuple(tuple(split(kind)) for kind in part.kinds))
        if isinstance(part, LayerStack)
        else part
        for part in model.parts
    )
    return replace(
        model, model_type="llama", parts=parts, fingerprint=f"{model.fingerprint}-unfused"
    )


def as_made(model: ModelSpec, setup: TrainSetup) -> ModelSpec:
    """`model` as the trainer of `setup` makes it: LitGPT ties no head to the embedding (0.5.13,
    model.py, GPT), torchtune's Phi-3 and Phi-4 have projections apart (0.7,
    models/phi3/_component_builders.py) and its Gemma 2 caps the hidden state before the head, not
    the logits (models/gemma2/_component_builders.py, Gemma2FinalNorm). With scores as its loss the
    head is that of AutoModelForSequenceClassification."""
    if loss_facts(setup.loss).one_score and model.output_embedding is not None:
        return _scored(as_of(model, setup.transformers))
    if setup.kernels == "torchtune" and model.model_type == "phi3":
        return _unfused(model)
    if setup.kernels == "torchtune" and model.model_type == "gemma2":
        config = {**model.config, "final_logit_softcapping": None}
        return replace(model, config=config, fingerprint=f"{model.fingerprint}-uncapped")
    made = as_of(model, setup.transformers)
    return _untied(made) if setup.is_by_litgpt and any(map(_is_tied, made.parts)) else made


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


def _is_tied(part: Module | LayerStack) -> bool:
    return isinstance(part, Module) and any(w.tied_to is not None for w in part.weights)


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
    if setup.kernels in _KERNEL_WORDS:
        sentences.append(_KERNEL_WORDS[setup.kernels])
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
_KERNEL_WORDS: Final = {
    "foak": (
        "fms-acceleration's kernels (RMSNorm, rotary embedding) follow their source (876e2ed)."
    ),
    "unsloth": (
        "Unsloth's kernels follow their source (2026.10.9). Rows are concatenated without padding;"
        " attention is SDPA over sequences of one length."
    ),
    "torchtune": (
        "torchtune 0.7 copies keys and values for all heads, and keeps rotary tables of all"
        " positions."
    ),
    "litgpt": "LitGPT's model copies keys and values for all heads, and ties no head (0.5.13).",
    "litgpt-2024": (
        "LitGPT's model copies keys and values for all heads, and ties no head (0.4);"
        " bitsandbytes 0.42 keeps every input of a 4-bit layer, through the next pass too."
    ),
    "litgpt-2023": (
        "LitGPT's own Llama of 27 October 2023; bitsandbytes 0.41 keeps every input of a 4-bit"
        " layer."
    ),
}


def has_packed_experts(model: ModelSpec) -> bool:
    """Whether experts are packed that were layers of their own before transformers 5."""
    return model.model_type in _APART and any(_is_packed(m) for _, m in model.modules())


def check_traceable(workload: Workload) -> None:
    """Raises UsageError for what the installed libraries cannot be made to run."""
    setup, model, lora = workload.setup, workload.model, workload.setup.lora
    refuse(
        {
            "FSDP1 is known to the rules alone; take --engine analytic.": setup.sharding in FLAT,
            "torchao's states on FSDP's shards are known to the rules alone; take --engine"
            " analytic.": setup.sharding in FULLY_SHARDED and package_of(setup) == "torchao",
            "what waits on the host is known to the rules alone; take --engine analytic.": (
                setup.offloads
            ),
            f"the {setup.loss} loss is known to the rules alone; take --engine analytic, or another"
            " --loss.": is_predicted_only(setup.loss),
            "Unsloth's LoRA kernels are known to the rules alone; take --engine analytic.": (
                lora is not None and lora.lora_kernels == "unsloth"
            ),
            f"{setup.kernels} is known to the rules alone; take --engine analytic.": (
                setup.is_by_litgpt or setup.kernels in ("torchtune", "unsloth")
            ),
            f"no transformers that is installed makes the experts of {model.id} layers of their"
            " own; take --engine analytic.": any(
                ".experts." in name for name, _ in model.modules()
            ),
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
