"""The card to share: what it says, that its bars are those of the first screen, and that it holds
together whatever is asked."""

import re
from xml.etree import ElementTree

import pytest

from lora_profiler import find_gpu, find_model
from lora_profiler.dashboard.answered import Answered, answered
from lora_profiler.dashboard.question import Question, predict_arguments
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.report.card import HEIGHT, WIDTH, frame, share_card
from lora_profiler.report.first_screen import Run, three_numbers, verdict_words

SVG = "{http://www.w3.org/2000/svg}"


def asked(
    model: str = "meta-llama/Llama-3.1-8B", gpu: str | None = "rtx_4090", **options: object
) -> Answered:
    wanted = Question(
        model=model,
        trainer="bare",
        options={**DEFAULTS, "methods": ("full", "lora", "qlora"), **options},
        gpu=gpu,
    )
    return answered(find_model(model), wanted)


def card(result: Answered) -> ElementTree.Element:
    answer = result.about("lora")
    words = predict_arguments(result.question)
    return ElementTree.fromstring(share_card(result.answers, answer, Run(), words))


def texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def test_it_says_question_verdict_numbers_and_command() -> None:
    result = asked()
    picture, answer = card(result), result.about("lora")
    said = texts(picture)
    assert said[:2] == [
        "Fine-tune meta-llama/Llama-3.1-8B",
        "with LoRA r16 on NVIDIA GeForce RTX 4090, 1 × 2,048 tokens",
    ]
    verdict = verdict_words(answer)
    assert f"{verdict.words}{verdict.numbers}" in said
    assert any(text.startswith("→ Gradient checkpointing: 18.9 GiB") for text in said)
    for number in three_numbers(answer, Run()):
        assert {number.label, number.value} <= set(said)
    assert "--method qlora --gpu rtx_4090" in " ".join(said)
    assert verdict.words in picture.attrib["aria-label"]


def test_its_bars_are_those_of_the_first_screen() -> None:
    result = asked()
    bars = frame(result.answers, result.about("lora").prediction)
    boxes = [
        float(box.attrib["width"])
        for box in card(result).iter(f"{SVG}rect")
        if box.attrib.get("class") in ("accent", "warning") or "url" in box.attrib.get("fill", "")
    ][1:]  # the first is the line above all
    shares = [high - low for bar in bars.bars for _, low, high in bars.parts(bar)]
    assert boxes == pytest.approx([640 * share / 100 for share in shares], abs=0.01)


@pytest.mark.parametrize(
    ("model", "gpu", "options"),
    [
        ("openai-community/gpt2", None, {"seq_len": 512}),
        ("meta-llama/Llama-3.1-405B", "h100_sxm_80gb", {"batch_size": 4096, "seq_len": 131072}),
        ("meta-llama/Llama-3.1-8B", "rtx_4090", {"targets": "q_proj," * 80 + "v_proj"}),
    ],
)
def test_it_holds_together(model: str, gpu: str | None, options: dict[str, object]) -> None:
    picture = card(asked(model, gpu, **options))
    assert (picture.attrib["width"], picture.attrib["height"]) == (str(WIDTH), str(HEIGHT))
    assert all(0 < float(text.attrib["y"]) < HEIGHT for text in picture.iter(f"{SVG}text"))
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)", ElementTree.tostring(picture, "unicode")
    )
    assert find_gpu(gpu).name in " ".join(texts(picture)) if gpu else True
