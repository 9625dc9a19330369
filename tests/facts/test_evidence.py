"""Public measurements as they come with the package: out of the committed results, with an address
each, and the nearest."""

import csv
import json
from dataclasses import replace
from math import ceil, lcm, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.public import misses
from benchmarks.public.address import address
from benchmarks.public.memory import memory_row, memory_rows
from benchmarks.public.packaged import OWN, memory_document, step_document
from benchmarks.public.replay import ROWS
from golden_files import Golden
from lora_profiler.facts.catalog import find_model
from lora_profiler.facts.evidence import (
    command_shares,
    interval,
    measured_memory,
    measured_steps,
    nearest_peak,
    own_rows,
    unexpressed,
)
from lora_profiler.facts.evidence.documents import document
from lora_profiler.facts.stacks import Gap, Trainer, find_stack
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import predict
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.planning.unknowns import peak_interval
from lora_profiler.question.workload import (
    LoraConfig,
    Method,
    Quantization,
    Sharding,
    TrainSetup,
    Workload,
)
from lora_profiler.report import labels
from lora_profiler.report.blocks import Fold, Paragraph
from lora_profiler.report.evidence import (
    apart_lines,
    coverage_words,
    errors_of,
    errors_table,
    graded_memory,
    left_out_lines,
    likely_lines,
    missed_lines,
    nearest_peak_line,
    sources_table,
    unseen_steps,
)
from lora_profiler.report.json.predict import predict_schema
from lora_profiler.report.page.content import public_section


def results(name: str) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text("utf-8"))


MISTRAL = find_model("mistralai/Mistral-7B-v0.1")
LORA = LoraConfig()


def published() -> dict[str, str]:
    with ROWS.open(newline="") as file:
        return {row["id"]: row["source"] for row in csv.DictReader(file)}


# --- addresses ------------------------------------------------------------------------------------


def test_an_address_says_what_its_source_says_and_no_more(golden_file: Golden) -> None:
    """A commit in parentheses may be of what was run, not of the file."""
    golden_file.compare_answers("addresses-of-sources", address)


def test_every_row_leads_to_the_file_that_its_source_names() -> None:
    words = published()
    for row in (*measured_memory(), *measured_steps()):
        repository, path, *_ = words[row.id].split(" ")
        where, _, line = row.url.partition("#L")
        blob = f"https://github.com/{repository}/blob/"
        assert where.startswith(blob) and where.removesuffix("?plain=1").endswith(f"/{path}")
        commit = where.removeprefix(blob).split("/")[0]
        assert commit == "HEAD" or commit in words[row.id]
        assert not line or f"line {line} " in words[row.id]


# --- what comes with the package ------------------------------------------------------------------


def test_the_package_s_memory_is_that_of_the_committed_results() -> None:
    found = results("public_accuracy")
    todo = "after new results: python -m benchmarks.public.accuracy --render"
    assert memory_document(found) == document("memory"), todo
    errors = [row["error"] for row in found["rows"]]
    assert [row.error for row in measured_memory()] == pytest.approx(errors, abs=1e-6)


def test_the_package_s_steps_are_those_of_the_committed_results() -> None:
    assert step_document(results("step_time")) == document("steps")


def test_the_package_s_shares_of_commands_are_those_of_the_committed_results() -> None:
    """The quantile by numpy; rows described exactly are described nearly, too."""
    rows = results("public_command")["rows"]
    shares = command_shares()
    assert shares["nearly"].rows + shares["not"].rows == len(rows)
    for description, share in shares.items():
        own = _described(rows, description)
        errors = np.abs([row["error"] for row in own])
        assert share.rows == len(errors)
        assert share.half_width == pytest.approx(_quantile(own), abs=1e-9)
        assert abs(share.worst) == pytest.approx(errors.max(), abs=1e-9)


def _described(rows: list[dict[str, Any]], description: str) -> list[dict[str, Any]]:
    others = {"nearly": ("exactly", "nearly")}.get(description, (description,))
    return [row for row in rows if row["description"] in others]


def _quantile(rows: list[dict[str, Any]]) -> float:
    """Of absolute errors: each source repeated until all have as many rows, then the split-conformal
    quantile of these, at the level that the true number of rows asks for."""
    by_source: dict[str, list[float]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(abs(row["error"]))
    most = lcm(*map(len, by_source.values()))
    shares = [np.repeat(errors, most // len(errors)) for errors in by_source.values()]
    repeated = np.sort(np.concatenate(shares))
    level = min(1.0, 0.9 * (len(rows) + 1) / len(rows))
    return float(repeated[ceil(round(level * len(repeated), 6)) - 1])


def test_no_row_of_a_source_sets_the_interval_that_it_is_held_to() -> None:
    rows = results("public_command")["rows"]
    for description, share in command_shares().items():
        own = _described(rows, description)
        sources = {row["source"] for row in own}
        assert set(share.by_source) == (sources if len(sources) > 1 else set())
        for source, found in share.by_source.items():
            width = _quantile([row for row in own if row["source"] != source])
            theirs = np.abs([row["error"] for row in own if row["source"] == source])
            assert found.half_width == pytest.approx(width, abs=1e-9)
            assert (found.rows, found.inside) == (len(theirs), (theirs <= width).sum())
        assert share.inside == sum(found.inside for found in share.by_source.values())


def test_every_public_row_is_shown_or_left_out_with_a_reason() -> None:
    shown = len(measured_memory()) + len(measured_steps())
    left_out = [*unexpressed("memory"), *unexpressed("steps")]
    with ROWS.open(newline="") as file:
        assert shown + sum(each.rows for each in left_out) == len(list(csv.DictReader(file))) == 497
    assert all(each.reason and each.example for each in left_out)


def test_litgpt_s_own_model_is_as_large_as_stated() -> None:
    raw = next(row for row in memory_rows() if row["id"] == "litgpt-rt:47")
    row = memory_row(raw)
    named = row.build(row.workload).named_parameters()
    assert OWN[row.group][1] == sum(p.numel() for name, p in named if "lora" not in name)


def test_every_miss_is_explained_and_nothing_else() -> None:
    rows = results("public_accuracy")["rows"]
    peaks = [row for row in rows if row["reading"] == "peak" and not row["apart"]]
    beyond = {row["id"] for row in peaks if abs(row["error"]) > interval().half_width}
    assert beyond == set(misses.MEMORY_MISSES)
    errors = {row.id: abs(row.error) for row in unseen_steps()}
    ninth_tenth = np.quantile(list(errors.values()), 0.9)
    assert {id for id, error in errors.items() if error > ninth_tenth} == set(misses.STEP_MISSES)
    told = "\n".join(missed_lines())
    assert all(id in told for id in (*misses.MEMORY_MISSES, *misses.STEP_MISSES))


def test_every_label_is_used() -> None:
    rows = (*measured_memory(), *measured_steps())
    assert {row.source for row in rows} == set(labels.SOURCE_LABELS)
    assert {row.reading for row in measured_memory()} == set(labels.READING_LABELS)
    assert {row.tier for row in measured_memory()} == set(labels.TIER_LABELS)
    assert interval().nominal in labels.NOMINAL_LABELS


# --- the interval ---------------------------------------------------------------------------------


def test_the_interval_is_of_peaks_and_its_coverage_of_sources_left_out() -> None:
    """Worked out anew from the rows, with numpy."""
    graded = [row for row in graded_memory() if row.reading == "peak"]
    peaks = [{"source": row.source, "error": row.error} for row in graded]
    found = interval()
    assert found.half_width == pytest.approx(_quantile(peaks), abs=1e-6)
    worst = max(abs(row.error) for row in graded)
    assert found.rows == len(peaks) and abs(found.worst) == pytest.approx(worst, abs=1e-6)
    inside = 0
    for source, share in found.by_source.items():
        width = _quantile([row for row in peaks if row["source"] != source])
        own = [row for row in peaks if row["source"] == source]
        assert share.half_width == pytest.approx(width, abs=1e-6) and share.rows == len(own)
        inside += share.inside
    assert inside == found.inside and 0 < found.low < found.inside / found.rows < found.high < 1


def test_what_the_interval_is_worth_beyond_the_largest_source_is_said() -> None:
    found = interval()
    others = [share for source, share in found.by_source.items() if source != "fms"]
    said = coverage_words(found)
    rows, inside = sum(s.rows for s in others), sum(s.inside for s in others)
    assert f"of the other sources' {rows} peaks {inside} lie inside" in said
    assert f"{found.inside} of {found.rows} lie inside" in said


ALL = frozenset(DEFAULTS)
"""A question that gives every option, in the loop of the package itself."""
BARE = Trainer(stack=find_stack("bare"), explicit=ALL, is_pinned=True)


def test_a_peak_at_either_end_is_as_far_off_as_the_interval_says() -> None:
    setup = TrainSetup(checkpointing=True, seq_len=4096, batch_size=4)
    prediction = predict(Workload(model=MISTRAL, setup=setup))
    likely = peak_interval(prediction, BARE, ALL)
    peak = prediction.peak.total_bytes + 2 * 8_519_680  # the workspaces of BLAS before Hopper
    assert likely is not None and prediction.error_bound is None and likely.unknowns == ()
    assert likely.low_bytes is not None and likely.high_bytes is not None
    assert likely.half_width == command_shares()["nearly"].half_width
    assert peak / likely.low_bytes - 1 == pytest.approx(likely.half_width, rel=1e-6)
    assert 1 - peak / likely.high_bytes == pytest.approx(likely.half_width, rel=1e-6)


def test_an_estimate_s_own_bound_widens_the_interval() -> None:
    setup = TrainSetup(checkpointing=True, lora=LORA)
    prediction = predict(Workload(model=MISTRAL, setup=setup), "analytic")
    likely = peak_interval(prediction)
    assert likely is not None and prediction.error_bound
    assert likely.half_width == command_shares()["nearly"].half_width + prediction.error_bound


def test_a_loop_that_holds_what_nothing_prices_has_the_error_of_such_runs() -> None:
    workload = Workload(model=MISTRAL, setup=TrainSetup(lora=LORA))
    loop = replace(BARE, stack=replace(BARE.stack, gaps=(Gap("something of its own"),)))
    (answer,) = answers([workload], trainer=loop)
    likely = answer.likely
    assert likely is not None and likely.described == "not"
    assert likely.half_width == command_shares()["not"].half_width


@pytest.mark.usefixtures("no_estimates")
def test_public_rows_say_nothing_of_lower_bounds_and_of_other_devices() -> None:
    assert peak_interval(predict(Workload(model=MISTRAL, setup=TrainSetup(device="cpu")))) is None
    unknown = predict(Workload(model=find_model("bigscience/bloom-560m")), "analytic")
    assert unknown.saved_activation_bytes is None and peak_interval(unknown) is None
    assert likely_lines(answers([unknown.workload], engine="analytic")) == []


# --- the nearest row ------------------------------------------------------------------------------


def asked(
    method: Method, *, checkpointing: bool, tokens: tuple[int, int], model: str = MISTRAL.id
) -> Workload:
    lora = None if method == "full" else LORA
    quantization = Quantization() if method == "qlora" else None
    sizes: Any = {"batch_size": tokens[0], "seq_len": tokens[1], "checkpointing": checkpointing}
    setup = TrainSetup(lora=lora, quantization=quantization, **sizes)
    return Workload(model=find_model(model), setup=setup)


def test_a_measured_question_finds_its_own_row() -> None:
    row = nearest_peak(asked("lora", checkpointing=True, tokens=(4, 4096)))
    assert row.id == "fms:refs_a100_80gb.csv:34" and row.tier == 1  # the first of several stacks
    assert (row.batch_size, row.seq_len, row.checkpointing, row.cards) == (4, 4096, True, 1)


MODELS = [MISTRAL.id, "meta-llama/Llama-3.1-8B", "openai-community/gpt2", "Qwen/Qwen2.5-32B"]


def ratio(one: int, other: int) -> float:
    return max(one, other) / min(one, other)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_the_nearest_row_is_the_nearest_in_the_order_that_is_stated(
    method: Method, checkpointing: bool, model: str
) -> None:
    """Filter by filter, where the package takes one minimum."""
    workload = asked(method, checkpointing=checkpointing, tokens=(2, 2048), model=model)
    peaks = [row for row in measured_memory() if row.cards == 1 and row.reading == "peak"]
    rows = [row for row in peaks if row.method == method]
    rows = [row for row in rows if row.checkpointing == checkpointing] or rows
    rows = [row for row in rows if row.model_type == workload.model.model_type] or rows
    size = workload.model.num_parameters
    times = [ratio(row.parameters, size) * ratio(row.tokens, 4096) for row in rows]
    found = nearest_peak(workload)
    assert found in rows and log(times[rows.index(found)]) == pytest.approx(min(map(log, times)))


@pytest.mark.parametrize(
    ("sharding", "several"),
    [("none", False), ("ddp", False), ("fsdp", True), ("fsdp-no-reshard", True)],
)
def test_ranks_that_share_weights_are_held_against_several_cards(
    sharding: Sharding, several: bool
) -> None:
    """Under DDP a rank holds what one card would."""
    workload = asked("lora", checkpointing=True, tokens=(2, 2048))
    shared = replace(workload.setup, sharding=sharding, world_size=1 if sharding == "none" else 2)
    assert (nearest_peak(replace(workload, setup=shared)).cards > 1) == several


def test_the_method_goes_before_checkpointing_and_that_before_the_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = nearest_peak(asked("lora", checkpointing=True, tokens=(4, 4096)))
    other_method = found._replace(id="method", method="full")
    other_checkpointing = found._replace(id="checkpointing", checkpointing=False)
    other_type = found._replace(id="type", model_type="llama")
    far = found._replace(id="far", parameters=10 * found.parameters)
    for near, rows in (
        ("checkpointing", [other_method, other_checkpointing]),
        ("type", [other_checkpointing, other_type]),
        ("far", [other_type, far]),
        ("far", [found._replace(cards=2), found._replace(reading="at rest"), far]),
    ):
        monkeypatch.setattr(
            "lora_profiler.facts.evidence.memory.measured_memory", lambda rows=rows: rows
        )
        assert nearest_peak(asked("lora", checkpointing=True, tokens=(4, 4096))).id == near


def test_a_row_that_is_no_test_says_so() -> None:
    apart = (row for row in measured_memory() if row.apart)
    row = next(row for row in apart if row.cards == 1 and row.reading == "peak")
    assert nearest_peak_line(row).endswith(f"with its stack replayed, and is no test: {row.apart}.")


def test_lines_name_ranges_the_interval_and_each_row_once() -> None:
    setup = TrainSetup(checkpointing=True, batch_size=4, seq_len=4096)
    pair = answers([Workload(model=MISTRAL, setup=s) for s in (setup, replace(setup, lora=LORA))])
    lines = likely_lines([*pair, pair[1]])
    assert lines[0].startswith("Expect full ") and lines[0].endswith(" more are not given.")
    assert "LoRA r16 " in lines[0] and lines[2].startswith("LoRA r16, one by one: ")
    share = command_shares()["nearly"]
    for words in (
        *("68 public peaks", "libraries and kernels replayed"),
        f"90 % of {share.rows} comparable runs",
        f"{share.inside} were within the errors of the other sources",
    ):
        assert words in lines[4]
    nearest = "LoRA, 4 x 4,096 tokens with checkpointing on a100_sxm_80gb peaked at 24.87 GiB"
    assert nearest in lines[6] and len(lines) == 7


# --- in sum ---------------------------------------------------------------------------------------


def test_errors_are_those_of_numpy() -> None:
    rows = unseen_steps()
    found, errors = errors_of(rows), np.abs([row.error for row in rows])
    assert found.rows == len(rows) and found.mean == pytest.approx(errors.mean())
    assert (found.median, found.p90) == pytest.approx(tuple(np.quantile(errors, (0.5, 0.9))))
    assert abs(found.worst) == errors.max()
    with pytest.raises(ValueError):
        errors_of([])


def test_tables_and_lines_hold_every_source_and_every_row_apart() -> None:
    names = [row.cells[0] for row in sources_table().rows if row.kind != "section"]
    assert set(names) == set(labels.SOURCE_LABELS.values())
    told = "\n".join(apart_lines())
    assert all(row.id in told for row in measured_memory() if row.apart)
    counts = [int(line.split(": ")[-1].split(" ")[0]) for line in left_out_lines("memory")]
    assert counts == [each.rows for each in unexpressed("memory")]


def test_the_report_says_how_far_off_public_rows_are() -> None:
    section = public_section()
    lines = [part.lines for part in section.parts if isinstance(part, Paragraph)]
    folds = {part.title: part for part in section.parts if isinstance(part, Fold)}
    assert coverage_words(interval()) in sum(lines, ()) and errors_table() in section.parts
    assert folds["Predicted, but no test"].parts == (Paragraph(lines=tuple(apart_lines())),)


def test_the_schema_has_the_fields_of_the_rows() -> None:
    text = json.dumps(predict_schema())
    for kind in ("memory", "steps"):
        assert all(f'"{name}"' in text for name in document(kind)["rows"][0])


# --- what this project itself held predictions to -------------------------------------------------


def test_the_package_shows_every_committed_record() -> None:
    """`python -m benchmarks.truth.records` writes them; the rehearsed ones are held to their results by
    `test_rehearsed_rules.py`."""
    from benchmarks.truth.records import RECORDS, packaged, scored_records

    found = [s for folder in sorted(RECORDS.iterdir()) for s in scored_records(folder)]
    assert packaged(found)["rows"] == [list(row) for row in own_rows("recorded")]
    assert len(found) == len(own_rows("recorded"))
    for row, s in zip(own_rows("recorded"), found, strict=True):
        (peak,) = (c for c in s.comparisons if c.metric == "peak_requested_bytes")
        assert (row.error, row.model) == (peak.relative_error, s.record.workload.model.id)
