"""Unsloth's fused cross-entropy: unsloth-zoo 2026.10.9, `fused_losses/fused_linear.py`."""

from typing import Any, NamedTuple

from lora_profiler.question.loop import loop_facts
from lora_profiler.question.loss import LossFacts

TILE_COLUMNS = 16_384
"""Words of a tile, and of a split of the statistics: _SPLIT_COLS."""
_LEAST_LOGITS = 512 * 151_936
_LEAST_ROWS, MOST_ROWS = 512, 4096
_LARGEST_BUFFER = 2 << 30
_TILED_CAPABILITY = 80
_SHIFT = 1 << 20
FEATURE = LossFacts(
    title="Unsloth's fused cross-entropy",
    assumption=(
        "The unsloth loss: Unsloth 2026.10's fused cross-entropy, in float32. Chunks have 512 to"
        " 4,096 labelled tokens, or 16,384 words: from 4,096 tokens on, and up to 24.5 GiB. At"
        " least 4 GiB of the GPU are assumed free."
    ),
    kept="the gradients that the loss has made; final norm, positions",
    scales_logits=True,
)
_SCORED_ASSUMPTION = (
    "The unsloth loss: Unsloth 2026.10's fused log-probabilities, in float32. Chunks have 512 to"
    " 4,096 scored tokens, or 16,384 words: from 4,096 tokens on, and up to 24.5 GiB. At least"
    " 4 GiB of the GPU are assumed free."
)


def assumption(setup: Any) -> str:
    """Unsloth's loops that score completions have log-probabilities in place of the loss."""
    return _SCORED_ASSUMPTION if loop_facts(setup.loop_state).scores else FEATURE.assumption


def refusals(workload: Any) -> dict[str, object]:
    return {
        "the unsloth loss is known as Triton's kernels on CUDA alone; leave --loss out.": (
            workload.setup.device != "cuda"
        )
    }


def is_unchecked(setup: Any) -> bool:
    """Whether the model is not Unsloth's own."""
    return bool(setup.kernels != "unsloth")


def doubts(workload: Any) -> dict[str, object]:
    setup = workload.setup
    return {
        "Unsloth's own code for this model is predicted as transformers'. In rehearsals Gemma 3"
        " needed 1 to 3 % less, with the peak in a layer 18 % less; Phi-4-mini needed 4.5 %"
        " more.": setup.kernels != "unsloth",
        "Unsloth's loss with trained embedding and head needed 4 bytes less in its one"
        " rehearsal.": setup.lora is not None and setup.lora.modules_to_save,
    }


class Cut(NamedTuple):
    """`parts` of the labelled tokens, `rows` each but the last, which has what is left. `tiled`:
    logits of a tile of words at a time. Of a row `sequences`; 0 where log-probabilities are the
    loss's, of `completion` tokens of a row, or of all but the first where that is 0."""

    rows: int
    parts: int
    sequences: int
    tiled: bool
    completion: int = 0


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """A `Cut` as one number, below 0 of log-probabilities: unsloth-zoo
    `fused_losses/fused_linear.py` (fused_linear_rows, _ce_impl, _logprobs_impl). Half of the card's
    free memory would cap the buffer before 2 GiB does."""
    assert head.in_features is not None and head.out_features is not None
    setup, words = workload.setup, head.out_features
    loop = loop_facts(setup.loop_state)
    scores, completes = loop.scores, loop.generates
    completion = setup.max_completion_length if completes else None
    scored = seq - 1 if completion is None else completion
    tokens = batch * (scored if scores else seq - sequences)
    least = min(max(_LEAST_ROWS, _power_below(_LEAST_LOGITS // words)), MOST_ROWS)
    rows, power = least, least
    while power < MOST_ROWS:
        rows = rows + power * (tokens * head.in_features >= 2 * power * words)
        power *= 2
    cap = max(_LARGEST_BUFFER // (4 * words), 2)
    rows = rows + (cap - rows) * (rows > cap)
    from_tokens = 1 if workload.platform.has_small_memory else MOST_ROWS
    tiled = (tokens >= from_tokens) * _makes_tiles(workload, words, scores=scores)
    rows = rows + (MOST_ROWS - rows) * tiled
    parts = -(-tokens // rows)
    cut = ((2 * rows + tiled) * _SHIFT + parts) * _SHIFT
    return -1 - cut - scored * completes if scores else cut + sequences


def cut_of(regime: int) -> Cut:
    """The `Cut` that `regime` put into a number."""
    scores = regime < 0
    rest, of_row = divmod(-1 - regime if scores else regime, _SHIFT)
    cut, parts = divmod(rest, _SHIFT)
    rows, tiled = divmod(cut, 2)
    counted = (0, bool(tiled), of_row) if scores else (of_row, bool(tiled))
    return Cut(rows, max(parts, 1), *counted)


def _power_below(number: int) -> int:
    return 1 << max(number.bit_length() - 1, 0)


def _makes_tiles(workload: Any, words: int, *, scores: bool) -> bool:
    """Whether the card, the head and the formats are those of the tiled pass (_ce_impl), which
    log-probabilities take on every card (_logprobs_impl)."""
    setup, capability = workload.setup, workload.platform.capability
    lora = setup.lora
    name = (workload.model.output_embedding or "").rpartition(".")[2]
    trains_head = lora is None or name in lora.modules_to_save
    is_half = setup.autocast_dtype is not None or setup.dtype != "float32"
    return (
        not trains_head
        and is_half
        and words > 2 * TILE_COLUMNS
        and (scores or capability is None or capability >= _TILED_CAPABILITY)
    )
