"""Losses of pairs by hand; `tests/test_rehearsed_frameworks.py` holds them to what the frameworks'
own commands asked for."""

from typing import Any

from lora_profiler.analytic import predict
from lora_profiler.catalog import find_model
from lora_profiler.planning.setups import setup_for
from lora_profiler.workload import Workload

MODEL, ROWS, LENGTH, WORDS = find_model("HuggingFaceTB/SmolLM2-135M"), 4, 256, 49_152


def held(method: Any, moment: str, trainer: str = "llamafactory-dpo", **more: Any) -> int:
    options = {"batch_size": ROWS // 2, "seq_len": LENGTH, **more}
    setup = setup_for(MODEL, trainer, method, **options)
    assert setup.batch_size == ROWS
    moments = predict(Workload(model=MODEL, setup=setup)).moments
    steady = next(m for m in moments if m.moment == moment and m.step == "steady")
    return steady.bytes["logits_and_loss"]


def test_both_passes_by_hand() -> None:
    """The policy has its logits in float32, and log-probabilities of all but the last of a row; the
    reference the same, and a copy of the logits cut so."""
    logits, log_shares = ROWS * LENGTH * WORDS * 4, ROWS * (LENGTH - 1) * WORDS * 4
    labels = ROWS * (LENGTH - 1) * (8 + 1)  # as places, and which there are
    batch = ROWS * LENGTH * 3 * 8
    sums = ROWS * (8 + 4) + ROWS // 2 * 4  # labels of a row, its sum; a pair's mean
    by_hand = 2 * logits + 3 * log_shares + 2 * labels + batch + sums
    assert held("lora", "end_of_forward") == by_hand


def test_in_full_the_policy_s_ids_and_narrow_head_stay() -> None:
    more = held("full", "end_of_forward") - held("lora", "end_of_forward")
    assert more == ROWS * LENGTH * 8 + 576 * WORDS * 2


def test_backward_by_hand() -> None:
    """Log-softmax's backward has its output, the gradient that came and the one that it makes."""
    log_shares = ROWS * (LENGTH - 1) * WORDS * 4
    labels = ROWS * (LENGTH - 1) * (8 + 1) + ROWS * 8
    assert held("lora", "loss_backward") == 3 * log_shares + labels + 8


def test_axolotls_kernel_reads_a_copy_of_each_pass() -> None:
    """Logits in float32 and a copy without the last of a row, twice; labels as places, a sum of
    exponentials and a log-probability for each."""
    logits, copy = ROWS * LENGTH * WORDS * 4, ROWS * (LENGTH - 1) * WORDS * 4
    each = ROWS * (LENGTH - 1) * (8 + 4 + 4)
    assert held("lora", "end_of_forward", "axolotl-dpo") == 2 * (logits + copy + each)


def test_torchtunes_reference_is_there_while_the_policy_runs() -> None:
    """Its logits of the step before; the policy's, their quotient by a temperature, and log-softmax
    of that, beside labels as they came, and of the step before a sum of each row and pass, two
    rewards of a pair, which was right, the two means and the loss. The step's backward has its own
    reference's beside."""
    logits, log_shares = ROWS * LENGTH * WORDS * 4, ROWS * (LENGTH - 1) * WORDS * 4
    labels = ROWS * (LENGTH - 1) * (8 + 1)
    told = 2 * ROWS * 4 + 3 * ROWS // 2 * 4 + 2 * 4
    ahead, back = (
        held("lora", moment, "torchtune-dpo", accumulation=1)
        for moment in ("end_of_forward", "loss_backward")
    )
    assert ahead == 2 * logits + 2 * log_shares + labels + ROWS * LENGTH * 8 + told + 4
    assert back == logits + 3 * log_shares + labels + told + 2 * 4
