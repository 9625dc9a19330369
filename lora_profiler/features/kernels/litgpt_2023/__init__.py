"""LitGPT's own Llama of 27 October 2023, with bitsandbytes 0.41."""

from typing import Any

from lora_profiler.features.kernels._litgpt import FACTS, as_made, by_old_bitsandbytes

__all__ = ["FEATURE", "as_made", "base", "refusals"]

FEATURE = FACTS._replace(
    title="LitGPT's model of 2023",
    assumption=(
        "LitGPT's own Llama of 27 October 2023; bitsandbytes 0.41 keeps every input of a 4-bit"
        " layer."
    ),
)


def base(nf4: Any) -> Any:
    """The first batch has the longest sample (`finetune/lora.py`), so that no pass before another
    kept as much."""
    return by_old_bitsandbytes(nf4)._replace(keeps_past_backward=False)


def refusals(workload: Any) -> dict[str, object]:
    setup, lora, kind = workload.setup, workload.setup.lora, workload.model.model_type
    return {
        f"LitGPT's model of 2023 is known as Llama alone, not as {kind}; leave --kernels out.": (
            kind != "llama"
        ),
        "LitGPT's model of 2023 is known with adapters on q_proj and v_proj alone; take --targets"
        " q_proj,v_proj.": (
            lora is not None and set(lora.target_modules or ()) != {"q_proj", "v_proj"}
        ),
        "LitGPT's model of 2023 is known of one process without checkpointing and autocast; leave"
        " them out.": setup.checkpointing or setup.is_shared or setup.autocast_dtype,
    }
