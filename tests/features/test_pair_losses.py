"""Losses of trainers over all logits by hand; `tests/rehearsal/test_rehearsed_frameworks.py` and
`tests/rehearsal/test_rehearsed_trainers.py` hold them to what the trainers' own code asked for."""

from typing import Any

import pytest

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.memory.analytic import predict
from lora_profiler.planning import engine
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.workload import Workload

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


LOGITS, LOG_SHARES = ROWS * LENGTH * WORDS * 4, ROWS * (LENGTH - 1) * WORDS * 4
"""In float32: all, and all but a row's last."""
BATCH = {"batch_size": ROWS}
"""Of answers alone, which are rows."""


def test_pairs_without_a_reference_have_one_pass() -> None:
    by_hand = LOGITS + 2 * LOG_SHARES + ROWS * (LENGTH - 1) * (8 + 1)
    assert held("lora", "end_of_forward", "llamafactory-orpo") == by_hand
    assert held("lora", "loss_backward", "llamafactory-orpo") == held("lora", "loss_backward")


def test_odds_ratios_are_two_gradients_of_all_logits() -> None:
    """In backward those of the kernel and of cross-entropy meet, each as large as all logits; the
    second comes through the chosen half."""
    by_hand = 2 * LOGITS + LOGITS // 2 + 2 * 4
    assert held("lora", "loss_backward", "trl-orpo") == by_hand
    setup = setup_for(MODEL, "trl-orpo", "full", batch_size=ROWS // 2, seq_len=LENGTH)
    assert not setup.runs_reference and setup.batch_size == ROWS


def test_kto_of_llamafactory_has_logits_of_three_passes() -> None:
    """Copies of the policy's, the reference's, and the reference's of other prompts, whose
    log-probabilities are made; beside them the policy's own, six columns of a batch, labels as
    places and which there are of both. Of a row how many there are, the policy's sum, that of the
    other prompts', the reference's sum and mean, half a mean, and three times whether it is
    desirable."""
    labels = ROWS * (LENGTH - 1) * (8 + 1)
    by_hand = 3 * LOGITS + 3 * LOG_SHARES + 2 * labels + ROWS * LENGTH * 6 * 8
    by_hand += ROWS * (8 + 4 * 4 + 2 + 3)
    assert held("lora", "end_of_forward", "llamafactory-kto", **BATCH) == by_hand


def test_kto_of_trl_asks_for_a_second_batch() -> None:
    dpo = setup_for(MODEL, "trl-dpo", "lora", batch_size=ROWS // 2, seq_len=LENGTH)
    kto = setup_for(MODEL, "trl-kto", "lora", batch_size=ROWS, seq_len=LENGTH)
    pairs, answers = (predict(Workload(model=MODEL, setup=setup)) for setup in (dpo, kto))
    more = ROWS * LENGTH * 3 * 8 + ROWS  # its columns, and which answer is desirable
    assert answers.peak.total_bytes - pairs.peak.total_bytes == more
    assert (dpo.passes_beside, kto.passes_beside) == (1, 3)
    assert pairs.flops is not None and answers.flops is not None
    beside = pairs.flops.backward  # which the passes without a gradient have none of
    assert answers.flops.backward == beside and answers.flops.forward > pairs.flops.forward


def test_weights_of_tokens_by_hand() -> None:
    """DFT: log-softmax, and in backward two more of it. EAFT: beside both a copy of what has a
    label. ASFT: the reference's logits, the model's and log-softmax of its own loss, copies of the
    first two, three kept, and three that its divergence makes."""
    tokens, labelled = ROWS * LENGTH, ROWS * (LENGTH - 1)
    assert of_tokens("dft", "loss_backward") == 3 * LOGITS + 576 * WORDS * 2 + 2 * 4
    blocks = WORDS // 16_384
    counts = blocks * (256 * 2 + 8) + 256 * 4 + 3 * 4
    each = tokens * (8 + 1 + 8 + 4) + labelled * (4 + 4 + 20 * 12 + counts + 4) + ROWS * 8 + 4
    by_hand = 2 * LOGITS + LOG_SHARES + each + 576 * WORDS * 2
    assert of_tokens("eaft", "end_of_forward") == by_hand
    cache = 30 * 2 * 3 * 64 * tokens * 2
    own = tokens * 8 + labelled * (8 + 1 + 4) + 3 * 4
    assert of_tokens("asft", "end_of_forward") == (
        3 * LOGITS + 8 * LOG_SHARES + cache + own + 576 * WORDS * 2
    )


def of_tokens(loss: str, moment: str) -> int:
    return held("full", moment, "llamafactory", loss=f"llamafactory-{loss}", batch_size=ROWS)


def test_a_reward_model_has_a_head_of_one_output() -> None:
    setup = setup_for(MODEL, "trl-reward", "full", batch_size=ROWS // 2, seq_len=LENGTH)
    made = as_made(MODEL, setup)
    assert made.num_parameters == MODEL.num_parameters + 576  # the head was tied
    assert made.output_embedding == "score" and setup.batch_size == ROWS
    answer = predict(Workload(model=made, setup=setup))
    (loss,) = [m for m in answer.moments if (m.moment, m.step) == ("loss_backward", "steady")]
    gradients = ROWS * LENGTH * 576 * (2 + 4)  # of the hidden state, in 16 bit and converted
    assert loss.bytes["logits_and_loss"] == gradients + 576 * 4


def test_what_neither_can_do_is_refused() -> None:
    """A model with its own head has no scores, and ASFT no reference beside adapters
    (`create_ref_model` returns none)."""
    scored = setup_for(MODEL, "trl-reward", "full", batch_size=1, seq_len=LENGTH)
    with pytest.raises(UsageError, match="a head with one output"):
        engine.predict(Workload(model=MODEL, setup=scored))
    asft = setup_for(MODEL, "llamafactory", "lora", loss="llamafactory-asft", seq_len=LENGTH)
    with pytest.raises(UsageError, match="no reference model with adapters"):
        engine.predict(Workload(model=MODEL, setup=asft))


def test_every_decoders_head_becomes_a_score() -> None:
    for name in ("gpt2", "facebook/opt-125m", "google/gemma-2-2b"):
        model = find_model(name)
        setup = setup_for(model, "trl-reward", "full", batch_size=1, seq_len=LENGTH)
        assert predict(Workload(model=as_made(model, setup), setup=setup)).peak.total_bytes
