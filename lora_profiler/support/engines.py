"""Which setups an engine cannot answer, and why: layers that no rule describes, whose activations
take a trace; and memory that no profile holds, for it is no polynomial in the sizes, or not one
process's. No torch."""

from itertools import chain

from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.optimizer import optimizer_facts
from lora_profiler.support.bases import SPLIT_TOKENS, base_of, is_packed_base, splits_products
from lora_profiler.support.fake_quantizing import RULED
from lora_profiler.support.offloading import OFFLOADED_ACTIVATIONS
from lora_profiler.support.optimizers import widens_embeddings
from lora_profiler.workload import QUANT_TITLES, TrainSetup, Workload

NO_GENERATION = (
    "neither a profile nor a trace or rehearsal is of generation; take --engine analytic, or leave"
    " it out: no --generation-batch-size, and --use-vllm of GRPO."
)

_ALONE = "a profile is of a process alone; of several ranks the rules answer, or --engine traced."
_NO_IMAGES = "no profile is of images; take --engine traced, which traces exactly this size."
_ON_HOST = "no profile is of what waits on the host; take --engine analytic."


def profile_unsupported_reason(workload: Workload) -> str | None:
    """The reason and what to do, None where a profile can hold the workload."""
    setup, lora = workload.setup, workload.setup.lora
    if reason := trace_unsupported_reason(setup):
        return reason
    exactly = "take --engine analytic, or traced, which traces exactly this size."
    if setup.loss != "plain":
        return (
            f"no profile has the {setup.loss} loss; its chunks are not a polynomial in batch and"
            f" sequence. {exactly}"
        )
    requested = {  # a whole sentence, or what none is of
        _ALONE: setup.is_shared,
        "packed rows": setup.is_packed,
        _NO_IMAGES: setup.images is not None,
        "evaluation between steps": setup.eval_batch_size is not None,
        NO_GENERATION: setup.completions_at_once or setup.beta,
        "an older version of transformers": setup.transformers != "5",
        "fused adapters": lora is not None and (lora.fast_lora or lora.lora_kernels != "peft"),
        "norms and embeddings in float32 over 16 bit": setup.has_wide_ends,
        "routers in float32 over 16 bit": (setup.has_wide_routers and _has_routers(workload.model)),
        "inputs with a gradient and no checkpointing": (
            setup.has_input_gradients and not setup.checkpointing
        ),
        "steps in backward": setup.optimizer_in_bwd,
        _ON_HOST: setup.offloads,
        "fused kernels": setup.kernels != "transformers",
        "embeddings' optimizer states in 32 bit": (
            widens_embeddings(setup) and (lora is None or lora.modules_to_save)
        ),
    }
    why = next((what for what, is_asked in requested.items() if is_asked), None)
    return why if why is None or why.endswith(".") else f"no profile is of {why}; {exactly}"


def _has_routers(model: ModelSpec) -> bool:
    modules = ((part,) if isinstance(part, Module) else chain(*part.kinds) for part in model.parts)
    return any(module.name.endswith(".gate") for module in chain(*modules))


OUTLIERS = (
    "Outlier columns (llm_int8_threshold 6.0) depend on the data and are not counted. At most the"
    " inputs of int8 layers are kept twice."
)
"""What a trace of LLM.int8 on a card leaves out."""


def trace_unsupported_reason(setup: TrainSetup) -> str | None:
    """Why the base's layers or the optimizer cannot be run here, and what to do; None where they
    can."""
    if optimizer_facts(setup.optimizer).rules_alone:
        return (
            f"{setup.optimizer} is known to the rules alone, as its package's source has it; take"
            " --engine analytic, or another --optimizer."
        )
    if is_torchtune_dora(setup):
        return "torchtune's DoRA is known to the rules alone; take --engine analytic."
    if setup.quantization is None or not is_packed_base(setup):
        return None
    title = QUANT_TITLES[setup.quantization.quant_type]
    return (
        f"a base in {title} is known to the rules alone: its layers are its package's own; take"
        " --engine analytic, or --quant-type nf4."
    )


def omissions(setup: TrainSetup) -> tuple[str, ...]:
    """What the rules do not follow to the byte, a sentence each."""
    sentences = []
    if optimizer_facts(setup.optimizer).whole_weights_alone:
        sentences.append("Row and column sums of the optimizer's step are left out.")
    base = base_of(setup)
    if base is not None and is_packed_base(setup) and not base.in_torch:
        sentences.append(
            "The packages' layers were checked on a CPU only; GPU kernels follow their source."
        )
    if setup.offload_activations:
        sentences.append(OFFLOADED_ACTIVATIONS)
    if splits_products(setup):
        sentences.append(
            f"AWQ splits products of up to {SPLIT_TOKENS:,} tokens into eight float32 parts."
            f" They are"
            " left out: 32 B per token and output."
        )
    return tuple(sentences)


def rules_unsupported_reason(setup: TrainSetup) -> str | None:
    """Whose activations the rules do not know, None where they may."""
    if setup.images is not None:
        return "a vision tower"
    if setup.lora is not None and setup.lora.use_dora and not is_torchtune_dora(setup):
        return "DoRA's layers"
    if setup.lora is not None and setup.lora.peft_type != "lora":
        return f"{setup.lora.method_name}'s layers"
    if _is_int8(setup):
        return "layers in LLM.int8"
    if setup.qat not in ("none", *RULED):
        return f"linear layers fake-quantised in {setup.qat}"
    return None


def is_torchtune_dora(setup: TrainSetup) -> bool:
    """Whether adapters are torchtune's own DoRA, which neither a trace nor a measurement makes."""
    return setup.kernels == "torchtune" and setup.lora is not None and setup.lora.use_dora


def has_outliers(setup: TrainSetup) -> bool:
    """Whether memory depends on the data's outliers; a CPU multiplies without looking for any."""
    return _is_int8(setup) and setup.device not in ("cpu", "xpu")


def _is_int8(setup: TrainSetup) -> bool:
    return setup.quantization is not None and setup.quantization.quant_type == "int8"
