"""Context parallelism: what torch's `context_parallel` goes with, as accelerate and transformers
run it, and what was rehearsed. No torch."""

from lora_profiler.errors import refuse
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.engines import rules_unsupported_reason
from lora_profiler.workload import TrainSetup, Workload

UNTIMED = (
    "the time of a step under context parallelism is not known: what attention sends, and its part"
    " of the work, were held against no measurement."
)
_REHEARSED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_DENSE, _ALIGNED = "full_attention", 8


_HELD_LOOPS = ("none", "transformers", "transformers-unmasked", "trl")


def unknown_combination(setup: TrainSetup) -> str:
    """What of `setup` context parallelism is not known with, "" where it is with all."""
    half = setup.dtype != "float32" or setup.lowered_dtype is not None
    kinds = {
        f"sharding {setup.sharding}": setup.sharding != "fsdp",
        f"device {setup.device}": setup.device != "cuda",
        f"{setup.attention} attention": setup.attention not in ("auto", "flash", "cudnn"),
        "float32": not half,
        "autocast": setup.autocast_dtype,
        rules_unsupported_reason(setup) or "": rules_unsupported_reason(setup),
        f"the {setup.loss} loss": setup.loss != "plain",
        "label smoothing": setup.label_smoothing_factor,
        "held outputs": setup.hold_outputs,
        f"{setup.kernels}'s kernels": setup.kernels != "transformers",
        f"transformers {setup.transformers}": setup.transformers != "5",
        "packed rows": setup.is_packed,
        "padding": setup.is_padded,
        "evaluation": setup.eval_batch_size,
        "generation": setup.completions_at_once or setup.use_vllm,
        f"{setup.loop_state}'s loop": setup.loop_state not in _HELD_LOOPS,
        "what waits on the host": setup.offloads,
        "reentrant checkpoints": setup.is_reentrant,
        "fake-quantised layers": setup.qat != "none",
    }
    return next((kind for kind, applies in kinds.items() if applies), "")


def check_context_parallel(workload: Workload, engine: str) -> None:
    """Raises UsageError for what torch, accelerate or transformers refuse, and for what was held
    against no rehearsal."""
    setup, model, platform = workload.setup, workload.model, workload.platform
    ranks = setup.context_parallel_size
    if ranks == 1:
        return
    unknown = unknown_combination(setup)
    refuse(
        {
            "context parallelism is known to the rules alone: torch runs it on kernels of CUDA, and"
            " no loop of ours with it; take --engine analytic.": (
                engine not in ("auto", "analytic")
            ),
            f"context parallelism with {unknown} is not modelled; it needs --sharding fsdp, the"
            f" plain"
            " loss, and flash or cuDNN attention in 16 bit. Leave one of them out.": unknown,
            f"{setup.world_size} ranks are no multiple of --context-parallel-size {ranks}; take"
            " another of both.": setup.world_size % ranks,
            "flash and cuDNN attention need a GPU from sm_80.": (
                platform.capability is not None and platform.capability < 80
            ),
            f"context parallelism is known of {', '.join(_REHEARSED_TYPES)}, not of"
            f" {model.model_type}; leave --context-parallel-size out.": (
                model.model_type not in _REHEARSED_TYPES
            ),
            f"{model.id} attends to windows, which accelerate refuses under context parallelism:"
            " every mask is dropped there; leave --context-parallel-size out.": _slides(model),
            f"flash attention pads the heads of {model.id} to a multiple of {_ALIGNED}; that is not"
            " modelled with context parallelism. Leave --context-parallel-size out.": (
                _head_width(model) % _ALIGNED
            ),
        }
    )


def _head_width(model: ModelSpec) -> int:
    config = model.config
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _slides(model: ModelSpec) -> bool:
    """As accelerate 1.15 looks (`big_modeling.py`, _attach_context_parallel_hooks)."""
    config = model.config
    kinds = config.get("layer_types")
    if kinds is not None:
        return set(kinds) != {_DENSE}
    return bool(config.get("sliding_window") and config.get("use_sliding_window", True))
