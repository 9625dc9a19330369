"""Evaluation and generation between two steps: what an answer takes for granted. No torch."""

from lora_profiler.support.losses import head_of
from lora_profiler.units import bytes_text
from lora_profiler.workload import DTYPE_BYTES, TrainSetup, Workload


def evaluation_words(workload: Workload) -> tuple[str, ...]:
    """What an answer takes for granted of evaluation, a sentence each."""
    setup, head = workload.setup, head_of(workload.model)
    size = setup.eval_batch_size
    if size is None:
        return ()
    words = (
        f"Evaluation between steps: {size:,} sequences of {setup.seq_len:,} tokens without"
        " gradients, as in transformers' Trainer without compute_metrics."
    )
    if head is None or head.out_features is None or setup.loss != "plain":
        return (words,)
    wide = 4 if setup.autocast_dtype else DTYPE_BYTES[setup.dtype]
    gathered = bytes_text(size * setup.seq_len * head.out_features * wide)
    return (
        words,
        (
            f"With compute_metrics the logits of each batch stay, {gathered} a batch until"
            " eval_accumulation_steps, on top."
        ),
    )


def generation_words(setup: TrainSetup) -> tuple[str, ...]:
    """What an answer takes for granted of generation, a sentence each."""
    rows, completion = setup.completions_at_once, setup.max_completion_length
    if not rows:
        return ()
    prompt = "prompts as long as that"
    if completion is not None:
        prompt = f"{completion:,} of them after the prompt"
    return (
        f"Generation between steps makes {rows:,} completions at once with transformers."
        f" Sequences of {setup.seq_len:,} tokens, {prompt}; all of one length, without a mask."
        " FLOPs and time are for training only.",
    )
