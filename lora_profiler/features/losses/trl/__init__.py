"""The fused head of TRL 1.16, which every SFTTrainer has: `kernels/chunked_logprob.py`."""

from typing import Any

from lora_profiler.question.loss import LossFacts
from lora_profiler.question.support.losses import runs_triton

TILE_ROWS, TILE_COLUMNS = 4096, 32768
"""Tokens and words of the largest tile: TOKEN_CHUNK_SIZE in `kernels/chunked_logprob.py`,
_CHUNKED_LOGPROB_CHUNK_SIZE in `trainer/utils.py`."""
FEATURE = LossFacts(
    title="TRL's fused head, as in SFTTrainer",
    assumption=(
        "The trl loss is the fused head of TRL 1.16, which every SFTTrainer has: logits in tiles of"
        " at most 4,096 tokens x 32,768 words."
    ),
    kept="the last hidden state, labels, two numbers a token; final norm, rotary tables",
    head_again="the head once more",
    scales_logits=True,
    can_be_fused=True,
    leaves_stack=True,
)


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """Sequences of a row, whose first token nothing predicts, times three; one more where the
    labels fill two tiles, and two where they fill more. Of GRPO, which scores completions alone,
    minus the tokens of one."""
    setup = workload.setup
    scored = setup.max_completion_length
    if setup.loop_state == "trl-grpo" and scored and runs_triton(setup.device):
        return -3 * scored - _more_tiles(batch * scored)
    labels = batch * (seq - (sequences if runs_triton(setup.device) else 1))
    return 3 * sequences + _more_tiles(labels)


def _more_tiles(labels: Any) -> Any:
    """Tiles after the first one, at most two are counted: only the last tile is smaller."""
    return 1 * (labels > TILE_ROWS) + (labels > 2 * TILE_ROWS)
