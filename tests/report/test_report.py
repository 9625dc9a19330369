"""Tables, JSON, CSV and explanations: columns that sum to what they state, and nothing that the
prediction does not hold."""

import csv
import io
import json
import re
import subprocess
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler.facts.catalog import Gpu, find_gpu, find_model
from lora_profiler.planning.answers import Answer, answers
from lora_profiler.planning.fit import Fit
from lora_profiler.planning.reserve import Judged
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report import labels, render, terminal
from lora_profiler.report.answer.comparison_table import comparison_table
from lora_profiler.report.answer.explain import explain_blocks, linear_flops, moments_table
from lora_profiler.report.answer.layers import (
    _range_name,
    cost_table,
    group_layers,
    layer_blocks,
    parameter_table,
)
from lora_profiler.report.answer.predictions import card_table, model_blocks
from lora_profiler.report.answer.short_answer import room
from lora_profiler.report.blocks import (
    Paragraph,
    Row,
    Table,
    heading,
    narrowed,
    shell_command,
    wrapped,
)
from lora_profiler.report.json.predict import (
    layer_records,
    predict_payload,
    predict_records,
    predict_schema,
)
from lora_profiler.units import byte_unit, bytes_text

MODELS = [
    "gpt2",
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen2.5-0.5B",
    "google/gemma-2-2b",
    "mistralai/Mixtral-8x7B-v0.1",
    "microsoft/phi-2",
]


def ask(
    name: str, gpu: str | None = None, *, levers: Literal["best", "all"] = "best", **setup: object
) -> list[Answer]:
    """In full, by LoRA and by QLoRA."""
    full = TrainSetup(**{"seq_len": 512, **setup})  # type: ignore[arg-type]
    lora = replace(full, lora=LoraConfig(r=8))
    setups = (full, lora, replace(lora, quantization=Quantization()))
    made = [Workload(model=find_model(name), setup=setup) for setup in setups]
    return answers(made, find_gpu(gpu) if gpu else None, levers=levers, may_trace=False)


def sections(table: Table) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    title = ""
    for row in table.rows:
        if row.kind == "section":
            title = row.cells[0].split(",")[0]
        else:
            found.setdefault(title, []).append(row)
    return found


def number(text: str) -> float:
    text = text.removeprefix("* ").replace(",", "").split(" ")[0]
    return 0.0 if text in ("<0.01", ">-0.01") else float(text)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_columns_sum_to_their_stated_totals(name: str, checkpointing: bool) -> None:
    found = sections(comparison_table(ask(name, checkpointing=checkpointing)))
    for title in ("persistent", "what the peak is made of"):
        *parts, total = found[title]
        assert total.kind == "total"
        for column in range(1, 4):
            assert sum(number(row.cells[column]) for row in parts) == pytest.approx(
                number(total.cells[column]), abs=0.005 * (len(parts) + 1)
            )
    peaks = found["memory at each moment"]
    for column in range(1, 4):
        moments = [row.cells[column] for row in peaks[:-1]]
        starred = [m for m in moments if m.startswith("* ")]
        assert len(starred) == 1
        assert number(starred[0]) == number(peaks[-1].cells[column]) == max(map(number, moments))
    if name != "microsoft/phi-2":
        compute = {row.cells[0]: row for row in found["compute per micro-batch"]}
        assert ("recompute" in compute) == checkpointing


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_sum_to_the_prediction(name: str, checkpointing: bool) -> None:
    for answer in ask(name, checkpointing=checkpointing):
        p = answer.prediction
        layers = p.layers
        held = p.persistent_bytes
        sums = {
            "num_parameters": p.parameters.base,
            "num_trainable_parameters": p.parameters.trainable,
            "parameter_bytes": held["parameters"] + held["quantization_state"] + held["adapters"],
            "gradient_bytes": held["gradients"],
            "optimizer_state_bytes": held["optimizer_states"],
        }
        if p.saved_activation_bytes is not None and p.flops is not None:
            sums |= {"saved_activation_bytes": p.saved_activation_bytes, "flops": p.flops.total}
        assert {name: sum(getattr(c, name) for c in layers) for name in sums} == sums
        groups = group_layers([layers])
        assert sum(g.count for g in groups) == len(layers)
        assert sum(g.count * g.costs[0].flops for g in groups) == sum(c.flops for c in layers)


def test_the_textbook_layer_stands_on_its_own_row() -> None:
    model = find_model("meta-llama/Llama-3.1-8B")
    setups = (TrainSetup(), TrainSetup(lora=LoraConfig(r=8)))
    predictions = [a.prediction for a in answers([Workload(model=model, setup=s) for s in setups])]
    rows = {row.cells[0]: "; ".join(row.cells[1:]) for row in parameter_table(predictions).rows}
    layer = "x32; 4096 x 4096; 16,777,216; 16,777,216; 65,536; 99.61 %"
    assert rows["model.layers.0-31.self_attn.q_proj"] == layer
    assert rows["lm_head"].endswith("; frozen")
    together = "x291; ; 8,030,261,248; 8,030,261,248; 20,971,520; 99.74 %"
    assert rows["all copies together"] == together


def test_parameter_rows_times_copies_sum_to_the_last_row() -> None:
    for name in MODELS:
        table = parameter_table([a.prediction for a in ask(name)])
        *parts, total = table.rows
        for column in range(3, 7):
            summed = sum(
                int(row.cells[1][1:]) * int(row.cells[column].replace(",", "")) for row in parts
            )
            assert summed == int(total.cells[column].replace(",", ""))


def test_layers_that_alternate_are_one_row_with_all_numbers() -> None:
    table = parameter_table([a.prediction for a in ask("google/gemma-2-2b")])
    assert "model.layers.0-25.self_attn.q_proj" in {row.cells[0] for row in table.rows}


def test_cost_table_says_what_no_layer_holds() -> None:
    for answer in ask("gpt2"):
        table = cost_table(answer.prediction)
        assert table.rows[-1].cells[0] == "all together"
        assert {row.cells[0] for row in table.rows}.isdisjoint({"outside the layers"})


def shown(text: str) -> Decimal:
    return Decimal(0) if text in ("<0.01", ">-0.01") else Decimal(text.replace(",", ""))


CARDS = ("rtx_4090", "h100_sxm_80gb", "custom:700MiB", "custom:3TiB")


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.1-8B"])
def test_the_numbers_of_the_card_table_add_up_as_they_stand(name: str, card: str) -> None:
    table = card_table(ask(name, card))
    named = {row.cells[0]: row.cells[1:] for row in table.rows}
    sums = ("peak", "reserve", "driver context", "BLAS", "fragmentation", "headroom")
    rows = {
        label: [shown(text) for text in cells]
        for label, cells in named.items()
        if label.startswith(sums)
    }
    usable = shown(re.search(rf", ([0-9,.]+) {table.columns[0]} usable", table.title)[1])  # type: ignore[index]
    parts = [of for label, of in rows.items() if label.startswith(sums[2:5])]
    assert len(parts) == 3
    for column, reserve in enumerate(rows["reserve for what tensors do not show"]):
        assert rows["peak"][column] + reserve + rows["headroom"][column] == usable
        assert sum(part[column] for part in parts) == reserve
    assert set(named["verdict"]) <= set(labels.VERDICT_LABELS.values())


RESERVES = [find_gpu("rtx_4090"), find_gpu("mi300x"), replace(find_gpu("rtx_4090"), vendor="apple")]


@given(st.integers(1, 2**44), st.integers(2**20, 2**44), st.sampled_from(RESERVES))
def test_room_adds_up_for_any_peak_on_any_card(peak: int, usable: int, gpu: Gpu) -> None:
    """And no number is further from the exact one than rounding is."""
    judged = Judged(ask("gpt2")[0].prediction.workload, peak, usable, gpu, "analytic")
    reserve = judged.reserve
    sizes: dict[str, int] = {"usable_bytes": usable, "peak_bytes": peak}
    growth: Any = None  # of which nothing is read
    fit = Fit(gpu=gpu, verdict=judged.verdict, judged=judged, growth=growth, **sizes)
    found, size = room(fit), byte_unit(usable)[1]
    parts = (found.context, found.workspaces, found.fragmentation)
    halves = (found.peak, found.reserve, found.headroom)
    assert shown(found.usable) == sum(map(shown, halves))
    assert shown(found.reserve) == sum(map(shown, parts))
    exact = (reserve.context_bytes, reserve.workspace_bytes, reserve.fragmentation_bytes)
    exact += (peak, fit.reserve_bytes, fit.headroom_bytes, usable)
    for text, number_ in zip((*parts, *halves, found.usable), exact, strict=True):
        assert abs(float(shown(text)) - number_ / size) < 0.0251
    if abs(fit.headroom_bytes) > size / 100 or fit.headroom_bytes == 0:
        assert (shown(found.headroom) >= 0) == (fit.headroom_bytes >= 0)


@pytest.mark.usefixtures("no_estimates")
def test_card_of_a_model_with_unknown_activations_shows_question_marks() -> None:
    text = terminal.plain(model_blocks(ask("microsoft/phi-2", "h100_sxm_80gb")))
    assert re.search(r"verdict +\? +\? +\?", text)
    assert "whether it fits is not known" in text
    assert "at least" in text


def test_the_excess_of_lora_is_said_in_one_line() -> None:
    asked = ask("meta-llama/Llama-3.1-8B")
    text = terminal.plain(model_blocks(asked), 1000)
    assert text.count("LoRA keeps more for backward than full") == 1


@pytest.mark.grid
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gpu", [None, "rtx_4090"])
def test_json_is_what_the_schema_says(name: str, gpu: str | None) -> None:
    document = predict_payload(ask(name, gpu, levers="all"))
    schema = predict_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(document)), schema)
    for prediction in document["predictions"]:
        assert set(prediction) == set(schema["$defs"]["AnswerJson"]["properties"]) - {"data"}
        assert set(prediction["setup"]) == set(schema["$defs"]["SetupFields"]["properties"])
        assert prediction["peak"] in prediction["moments"]
        timed = schema["$defs"]["StepTimeJson"]["properties"]
        if prediction["step_time"]:
            assert gpu is not None and set(prediction["step_time"]) == set(timed)
        assert (prediction["step_time_refusal"] is None) == (
            gpu is None or prediction["step_time"] is not None
        )
        counts = prediction["parameters"]
        assert counts["total"] == counts["base"] + counts["adapter"]
        for moment in prediction["moments"]:
            assert moment["total_bytes"] == sum(moment["bytes"].values())


def test_csv_has_one_record_a_prediction_with_the_paths_of_the_json() -> None:
    asked = ask("gpt2", "rtx_4090")
    rows = list(csv.DictReader(io.StringIO(render.csv_text(predict_records(asked)))))
    documents = predict_payload(asked)["predictions"]
    assert len(rows) == len(documents)
    for row, document in zip(rows, documents, strict=True):
        assert row["model.id"] == document["model"]["id"]
        assert int(row["peak.total_bytes"]) == document["peak"]["total_bytes"]
        assert int(row["moments.optimizer_step.steady"]) == document["moments"][-1]["total_bytes"]
        assert int(row["fit.reserve.context_bytes"]) == document["fit"]["reserve"]["context_bytes"]
        assert float(row["step_time.seconds"]) == document["step_time"]["seconds"]
        assert row["step_time_refusal"] == ""
        assert row["setup.rank"] == ("" if document["setup"]["rank"] is None else "8")
    layers = list(csv.DictReader(io.StringIO(render.csv_text(layer_records(asked)))))
    assert len(layers) == sum(len(d["layers"]) for d in documents)
    assert render.csv_text([]) == ""


@pytest.mark.usefixtures("no_estimates")
def test_csv_of_known_and_unknown_models_together_keeps_its_columns() -> None:
    records = predict_records([*ask("microsoft/phi-2"), *ask("gpt2")])
    assert len({tuple(r) for r in records}) == 1
    assert records[0]["flops.total"] is None
    assert "flops" not in records[0]


FORMULA = r"(?:weights|gradients|adapters): ([\d.]+ \w+) = ([\d,]+) [a-z ]+ x (\d) B \(\w+\)$"


@pytest.mark.parametrize("name", MODELS)
def test_explanations_use_the_predicted_numbers(name: str) -> None:
    for answer in ask(name):
        text = terminal.plain(explain_blocks(answer), 10_000)
        assert f"{answer.prediction.parameters.base:,}" in text
        for line in text.splitlines():
            if match := re.search(FORMULA, line):
                count = int(match[2].replace(",", "")) * int(match[3])
                assert match[1] == bytes_text(count)


def test_explained_saved_bytes_are_the_sum_of_their_lines() -> None:
    text = terminal.plain(explain_blocks(ask("meta-llama/Llama-3.1-8B", seq_len=2048)[1]), 10_000)
    assert "layer 0: 544.70 MiB = 1 x 571,154,456 B in model.layers, 278,884 B a token" in text
    assert "31 layers: 17.46 GiB = 31 x 604,717,080 B in model.layers, 295,272 B a token" in text
    assert "logits and loss at the peak: 12 B x 1 x 2,048 x 128,256 logits + 8 B" in text


def test_moments_table_rows_sum() -> None:
    for answer in ask("Qwen/Qwen2.5-0.5B"):
        for row in moments_table(answer.prediction).rows:
            *parts, total = map(number, row.cells[1:])
            assert sum(parts) == pytest.approx(total, abs=0.06)


def test_plain_text_wraps_without_parting_numbers_from_units() -> None:
    text = terminal.plain([Paragraph(lines=("x" * 90 + " it is 12.34 GiB (45 %) or so",))], 100)
    assert max(map(len, text.splitlines())) <= 100
    assert "12.34 GiB" in text
    assert "\0" not in text


def test_markdown_escapes_pipes_and_keeps_columns() -> None:
    table = Table(
        columns=("a", "b"), rows=(Row(cells=("x|y", "1")), Row(cells=("only",), kind="section"))
    )
    lines = render.markdown([table]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| x\\|y | 1 |", "| **only** |  |"]


def test_layer_blocks_render_in_both_texts() -> None:
    blocks = layer_blocks([a.prediction for a in ask("gpt2")])
    assert terminal.plain(blocks).count("all together") == 3
    assert render.markdown(blocks).count("all copies together") == 1


def test_number_ranges_of_layers() -> None:
    assert _range_name(["m.0.a", "m.1.a", "m.3.a"]) == "m.0-1,3.a"
    assert _range_name([f"m.{i}.a" for i in range(0, 12, 2)]) == "m.0..10.a"
    assert _range_name(["m.0.e.0.w", "m.0.e.1.w", "m.1.e.0.w", "m.1.e.1.w"]) == "m.0-1.e.0-1.w"
    assert _range_name(["lm_head"]) == "lm_head"


def test_explained_forward_is_linear_layers_adapters_and_attention() -> None:
    """What the linear layers and adapters leave is 4 B S^2 H D per layer: scores and values."""
    for answer in ask("meta-llama/Llama-3.1-8B"):
        p = answer.prediction
        assert p.flops is not None
        assert p.flops.forward - sum(linear_flops(p)) == 4 * 512**2 * 32 * 128 * 32


def test_a_narrower_terminal_breaks_text_anew() -> None:
    block = wrapped("one two three four five", "  six seven", width=16)
    assert block.lines == ("one two three", "  four five", "  six seven")
    assert narrowed(block, 16) is block
    assert narrowed(block, 9).lines == (
        "one two",
        "  three",
        "  four",
        "  five",
        "  six",
        "    seven",
    )
    whole = narrowed(heading("one two three"), 8)
    assert (whole.lines, whole.kind) == (("one two", "  three"), "heading")


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_shell_takes_a_command_from_several_lines(width: int) -> None:
    command = "lora-profile gpt2 --method lora --targets c_attn,c_proj --rank 8"
    for block in (shell_command(command, width), narrowed(shell_command(command), width)):
        assert max(map(len, block.lines)) <= width + 2
        script = "printf '%s\\n' " + "\n".join(block.lines)
        assert subprocess.check_output(["sh", "-c", script], text=True).split() == command.split()
