"""Predict's first screen without a browser: what it says is the answer's, what it offers leads where
it says, and its sliders know every size as a fresh answer does."""

from dataclasses import replace
from typing import Any

import pytest

from lora_profiler import (
    LoraConfig,
    TrainSetup,
    Workload,
    find_gpu,
    find_model,
    fit,
    predict,
    step_time,
)
from lora_profiler.dashboard.answered import answered, applied
from lora_profiler.dashboard.question import METHODS, Question, completed
from lora_profiler.planning.advise import advise
from lora_profiler.planning.answers import Answer, answers
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.placement import find_network
from lora_profiler.planning.setups import setups, written_options
from lora_profiler.planning.timing import run_time
from lora_profiler.report.answer.timing import smallest_cards_table
from lora_profiler.report.answer.verdicts import size_text
from lora_profiler.report.first_screen import (
    ChangeOffer,
    TrainingRun,
    offers,
    speed_numbers,
    trust,
    verdict,
)
from lora_profiler.report.page.predicted import times_drawing
from lora_profiler.units import GIB, rate_text, short_seconds_text

LLAMA, GPT2 = "meta-llama/Llama-3.1-8B", "openai-community/gpt2"


def asked(
    model: str = LLAMA, gpu: str | None = "rtx_4090", trainer: str | None = None, **options: Any
) -> Question:
    chosen = completed(trainer, {"methods": METHODS, **options}, model)
    return Question(model=model, gpu=gpu, trainer=trainer, options=chosen, offline=True)


def one(model: str = LLAMA, gpu: str | None = None, **setup: Any) -> Answer:
    """The answer to LoRA of that setup."""
    asked = TrainSetup(**{"lora": LoraConfig(), **setup})
    workload = Workload(model=find_model(model), setup=asked)
    return answers([workload], find_gpu(gpu) if gpu else None)[0]


QUESTIONS = (
    asked(),
    asked(gpu="rtx_5090"),
    asked(gpu="rtx_4060"),
    asked(gpu=None),
    asked(GPT2, seq_len=256),
    asked(GPT2, "custom:2GiB", batch_size=8, seq_len=512, optimizer="sgd"),
    asked(trainer="trl-sft"),
    asked("Qwen/Qwen2.5-0.5B", "rtx_3060", "trl-dpo", seq_len=1024),
    asked("Qwen/Qwen2.5-0.5B", "t4", batch_size=16, seq_len=2048),
    asked("Qwen/Qwen2.5-0.5B", "rtx_4090", "axolotl", packed=512, seq_len=4096),
)


@pytest.mark.grid
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.model}-{q.gpu}-{q.trainer}")
def test_apply_leads_to_what_the_offer_says(question: Question) -> None:
    """The question that Apply asks has the very setup of the offer, on its card, and fits."""
    model = find_model(question.model)
    result = answered(model, question)
    kinds = set()
    for answer in result.answers:
        for offer in offers(answer, question.engine):
            wanted = applied(offer, answer, model, question)
            if wanted is None:
                kinds.add("none")
                continue
            after = answered(model, wanted)
            if offer.setup is None:  # another card may have another dtype by default
                same = after.about(answer.prediction.workload.setup.method)
            else:
                (same,) = [a for a in after.answers if a.prediction.workload.setup == offer.setup]
            kinds.add("card" if offer.gpu else "setup")
            assert same.fit is not None or question.gpu is None
            if same.fit is not None:
                assert same.fit.verdict == "fits"
            peak = size_text(same.prediction.peak.total_bytes)
            if offer.setup is not None and not offer.text.endswith(" that fits"):
                assert f": {peak}" in offer.text
            if offer.gpu is not None:
                assert wanted.gpu == offer.gpu and offer.gpu in {
                    card.key for card in smallest_cards(answer.prediction)
                }
    assert kinds - {"none"}, "nothing was offered"


def test_an_offer_that_no_question_has_gets_no_button() -> None:
    """TRL's DPO lays out two rows for a pair: three rows are no question."""
    question = asked("Qwen/Qwen2.5-0.5B", "rtx_3060", "trl-dpo", seq_len=1024)
    model = find_model(question.model)
    answer = answered(model, question).about("lora")
    setup = answer.prediction.workload.setup
    for rows, batch in ((4, 2), (3, None)):
        offer = ChangeOffer(text="", tip="", setup=replace(setup, batch_size=rows))
        wanted = applied(offer, answer, model, question)
        assert (wanted.options["batch_size"] if wanted else None) == batch


def test_offers_are_the_advice_in_its_order_and_growth_is_the_largest_that_fits() -> None:
    gpu, lora = find_gpu("rtx_4090"), one(gpu="rtx_4090")
    remedies = advise(lora.prediction.workload, gpu)
    offered = [offer.setup for offer in offers(lora) if offer.setup is not None]
    assert offered == [r.workload.setup for r in remedies[:4]]
    first = offers(lora)[0]
    assert first.text.startswith("Gradient checkpointing: 18.9 GiB, ") and first.tip
    assert lora.timing is not None and lora.timing.step is not None
    before, after = lora.timing.step.time.tokens_per_second, remedies[0].tokens_per_second
    assert after is not None
    assert f"{round(100 * (1 - after / before))} % slower" in first.text
    answer = one(GPT2, "rtx_4090", seq_len=256)
    judged = fit(answer.prediction.workload, gpu)
    assert judged is not None
    assert [offer.text for offer in offers(answer)] == [
        f"Batch {judged.largest_batch_size:,}: the largest that fits",
        "1,024 tokens: the longest that fits",  # memory allows more, the model was not made for it
        f"Rank {judged.highest_rank:,}: the highest that fits",
    ]


def test_hours_are_steps_of_the_step_time() -> None:
    """By hand: 3 epochs of 10,485,760 tokens, 8 x 1,024 x 4 a step, are 960 steps."""
    answer = one(GPT2, "rtx_4090", batch_size=8, seq_len=1024, accumulation=4)
    step = step_time(answer.prediction.workload, find_gpu("rtx_4090")).step
    assert step is not None
    found = run_time(step, 10_485_760, 3)
    for mine, of_step in (
        (found.seconds, step.time.seconds),
        (found.low, step.time.low),
        (found.high, step.time.high),
    ):
        assert mine == pytest.approx(960 * of_step)
    rate, hours = speed_numbers(answer, TrainingRun(rows=10_240, mean_length=1024, price=0.5))
    assert rate.value == f"{step.time.tokens_per_second:,.0f}"
    assert (
        hours.value == short_seconds_text(found.seconds)
        and hours.label == "for 3 epochs of 10.49 M tokens"
    )
    assert f"costs {0.5 * found.seconds / 3600:.2f} " in hours.note


def test_several_ranks_share_the_rows_and_each_has_a_price() -> None:
    sizes = {"batch_size": 8, "seq_len": 1024, "world_size": 2, "sharding": "ddp"}
    answer = one(GPT2, "h100_sxm_80gb", **sizes)
    step, run = answer.step, TrainingRun(rows=16_000, mean_length=1024, epochs=1, price=2)
    assert step is not None
    rate, hours = speed_numbers(answer, run)
    assert hours.value == short_seconds_text(1000 * step.time.seconds)
    assert f"costs {2 * 2 * 1000 * step.time.seconds / 3600:.2f} " in hours.note
    assert rate.label == "tokens/s each"
    (slow,) = answers([answer.prediction.workload], answer.gpu, network=find_network("0.01GB/s"))
    assert slow.communication is not None and slow.communication.seconds is not None
    assert slow.communication.seconds > step.time.seconds
    drawings = [times_drawing("times", [each]) for each in (slow, one(GPT2, "h100_sxm_80gb"))]
    assert ["send each other" in each.caption for each in drawings if each] == [True, False]
    assert speed_numbers(slow, run)[1].value == short_seconds_text(
        1000 * slow.communication.seconds
    )


def test_a_number_that_is_not_known_is_not_there() -> None:
    for gpu in (None, "custom:24GiB"):
        answer = one(GPT2, gpu, lora=None, seq_len=256)
        assert speed_numbers(answer, TrainingRun()) == ()


def test_the_verdict_says_what_is_enough_without_a_card() -> None:
    answer = one()
    card = smallest_cards(answer.prediction)[0]
    sentence = f"{verdict(answer).words}{verdict(answer).rest}"
    assert f"LoRA r16 needs a {card.memory_gib_marketed:g} GB GPU" in sentence
    answer = one(device="cpu")
    assert "GPU" not in verdict(answer).words and not offers(answer)


def test_what_it_rests_on_is_the_nearest_public_run_with_its_address() -> None:
    answer = one(gpu="rtx_4090")
    likely = answer.likely
    assert likely is not None
    told = trust(answer)
    assert told.url == likely.nearest.url and told.url.startswith("https://")
    assert f"{likely.nearest.measured_bytes / GIB:.2f} GiB" in told.text
    answer = one(device="cpu")
    assert trust(answer).url == "" and trust(answer).text


def test_smallest_cards_stand_with_the_fastest_first() -> None:
    answer = one(GPT2, seq_len=256)
    workload = answer.prediction.workload
    table = smallest_cards_table([answer])
    assert table is not None
    cards = smallest_cards(predict(workload))
    assert {row.cells[1] for row in table.rows} == {card.name for card in cards}
    rates = []
    for row in table.rows:
        (card,) = [c for c in cards if c.name == row.cells[1]]
        step = step_time(workload, card).step
        assert step is not None and row.cells[3] == rate_text(step.time.tokens_per_second)
        rates.append(step.time.tokens_per_second)
    assert rates == sorted(rates, reverse=True) and len(rates) > 1


@pytest.mark.parametrize("method", METHODS)
def test_written_options_are_read_as_the_same_setup(method: str) -> None:
    options = {
        "methods": (method,), "targets": "c_attn,c_proj", "layers_to_transform": "0,2",
        "modules_to_save": "lm_head", "rank": 4, "checkpointing": True, "double_quant": False,
    }  # fmt: skip
    question = asked(GPT2, None, **options)
    model = find_model(GPT2)
    (setup,) = setups(model, question.options, question.explicit)
    again = {**question.options, **written_options(setup)}
    assert setups(model, again, set(written_options(setup))) == [setup] or method == "qlora"
