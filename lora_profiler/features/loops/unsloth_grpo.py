"""Unsloth's GRPO (2026.10.9). For a pass it lays what is no padding end to end beside TRL's
columns: ids, their positions and the place of each, a row and a column (unsloth-zoo
`rl_replacements.py`, grpo_accumulated_loss). Its reference scores all completions of a step in one
pass, as it does while they leave a fifth of the card free (`models/rl_replacements.py`,
_get_per_token_logps_and_entropies). It asks for all layers' outputs and takes the last
(`models/rl.py`, _install_grpo_hidden_states_forward_wrapper). TRL 1.9 switches transformers' own
checkpoints on where the model has generated (`models/utils.py`, unwrap_model_for_generation;
rehearsed)."""

from typing import Any

from lora_profiler._common.polynomial import TOKENS, B, Polynomial, S, constant
from lora_profiler.question.loop import LoopFacts

_LENGTH_BYTES = 4
FEATURE = LoopFacts(
    2,
    4,
    4,
    pass_columns=7,
    generates=True,
    scores=True,
    scores_step=True,
    returns_all=True,
    plain_checkpoints=True,
    own_4_bit=True,
    repeats_for_math=True,
    flexes_sinks=True,
)


def put_together_bytes(setup: Any) -> Polynomial:
    """Beside the columns of a pass: a mask of the completions, four switches of a token, and the
    padding, length and first completed token of each row."""
    completion = setup.max_completion_length
    scored = S if completion is None else constant(completion)
    return B * scored * 8 + TOKENS * 4 - 2 + B * (3 * 8 + _LENGTH_BYTES)


def doubts(setup: Any) -> dict[str, object]:
    return {
        "A prompt is counted with each of its completions. From 1.3 times the tokens Unsloth runs"
        " it once for all, except in the first step. After generation by the model layer inputs"
        " stay on the GPU, with a BLAS workspace.": not setup.use_vllm
    }
