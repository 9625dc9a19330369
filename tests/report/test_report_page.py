"""The HTML page: its content without any markup, the markup read back by another parser, and the
page in a real browser."""

import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accessibility import serious
from benchmarks.truth.reports import RECORDS, REPORTS, machines
from browser import launched
from commands import OnRecords, Run, in_python
from figure_texts import crowded, papers
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.record import Failure, Record
from lora_profiler.planning.answers import answers
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report import labels, palette
from lora_profiler.report.answer.layers import held_by_layers, held_bytes
from lora_profiler.report.blocks import Beside, Drawing, Fold, Part, Table, drawings
from lora_profiler.report.figures import plotly_script
from lora_profiler.report.json.predict import predict_payload
from lora_profiler.report.measured import run_labels
from lora_profiler.report.page import Content, embedded_data, report_content, write_page
from lora_profiler.report.page import write as page_write
from lora_profiler.report.page.content import provenance_section
from lora_profiler.report.page.runs import MOST_ROWS, full_and_lora, groups_alike, numbered
from lora_profiler.report.page.write import PACKED_ABOVE, json_text, packed
from lora_profiler.runs.comparison.errors import Scored, compare, scored
from lora_profiler.units import bytes_text, error_text
from records import CPU, H100, LORA_WORKLOAD, WORKLOAD, make_record

HOSTILE = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "{{7*7}}",
    "{% include 'x' %}", "\u202egpj.exe\u2066", "<!--<script>", "x" * 10_000,
    "'\"><img src=x onerror=alert(1)>", "</title><b>", "]]>", "\ud800", "&amp;lt;",
)  # fmt: skip
OF_QLORA = replace(
    WORKLOAD, setup=replace(WORKLOAD.setup, lora=LoraConfig(r=4), quantization=Quantization())
)
REFUSED = replace(
    WORKLOAD, setup=replace(WORKLOAD.setup, lora=LoraConfig(target_modules=("nowhere",)))
)


def some_records() -> list[Record]:
    """Full and LoRA alike, a repeat, a noisy QLoRA on a card, one out of memory, one whose reason
    is long, one not predicted."""
    lora: dict[str, Any] = {"num_trainable_parameters": 9_216, "peak_requested_bytes": 1_000_000}
    lora |= {"attribution_bytes": {"activations": 1_000_000}}
    unread = ("peak_requested_bytes", "peak_allocated_bytes", "attribution_bytes", "step_seconds")
    large = replace(WORKLOAD, setup=replace(WORKLOAD.setup, batch_size=64))
    no_room = Failure(reason="CUDA out of memory", phase="backward", step=2, tried_bytes=5)
    no_load = Failure(reason="x" * 5000, phase="load")
    return [
        make_record(flags=("unattributed_over_1_percent",)),
        make_record(LORA_WORKLOAD, **lora, phases=make_phases()),
        make_record(repeat=1, peak_requested_bytes=1_999_000),
        make_record(OF_QLORA, device=H100, status="noisy", peak_reserved_bytes=4_000_000),
        make_record(large, status="oom", step_seconds=None, failure=no_room),
        make_record(status="crash", repeat=2, failure=no_load, **dict.fromkeys(unread)),
        make_record(REFUSED),
    ]


def make_phases() -> tuple[Any, ...]:
    from lora_profiler.measuring.records.record import PhaseSample

    return tuple(
        PhaseSample(step=s, phase=p, requested_peak_bytes=10 * s, requested_bytes=5)
        for s in (1, 2)
        for p in ("forward", "backward")
    )


def answered() -> list[Any]:
    model = find_model("meta-llama/Llama-3.2-1B")
    setups = [TrainSetup(seq_len=64), TrainSetup(seq_len=64, lora=LoraConfig(r=8))]
    asked = [Workload(model=model, setup=setup) for setup in setups]
    return answers(asked, find_gpu("rtx_4090"), levers="all")


FOUND = scored(some_records(), "analytic")
ANSWERS = answered()
CONTENT = report_content(FOUND, ANSWERS, title="A title")
PAGE = write_page(CONTENT)


# --- the page as another parser reads it ----------------------------------------------------------


VOID = ("meta", "br", "img", "link", "input", "hr")


class Read(HTMLParser):
    """Elements with their attributes, the text of each table cell and heading, and the text of
    scripts by id."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.cells: list[list[str]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        within = self.open[-1] if self.open else ""
        if within == "script":
            self.scripts[-1] = self.scripts[-1][0], self.scripts[-1][1] + data
            return
        if within != "style":
            self.text += data
        if re.fullmatch("h[1-6]", within):
            self.headings[-1] = self.headings[-1][0], self.headings[-1][1] + data
        if within in ("td", "th"):
            self.cells[-1][-1] += data

    def block(self, name: str) -> str:
        ((attributes, text),) = (each for each in self.scripts if each[0].get("id") == name)
        if "data-packed" in attributes:
            return zlib.decompress(base64.b64decode(text), wbits=47).decode()  # zlib's or gzip's
        return text

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


READ = Read(PAGE)


def numbers_of(data: dict[str, Any]) -> set[tuple[Any, ...]]:
    """(record id, engine, metric, category, predicted, measured, relative error) of everything
    compared on a page."""
    ids = data["records"]["record_id"]
    return {
        (ids[n], c["engine"], c["metric"], c["category"], m + more, m, more / m if m else None)
        for c in data["comparisons"]
        for n, (m, more) in enumerate(zip(c["measured"], c["difference"], strict=True))
        if m is not None
    }


def test_every_record_and_every_number_is_that_of_the_command_line(
    run: Run, tmp_path: Path
) -> None:
    compare = OnRecords(run, tmp_path, "compare")
    path = compare.file("records.jsonl", some_records())
    told = json.loads(compare(path, "--engine", "analytic", "--format", "json").stdout)
    data = json.loads(READ.block("data"))
    assert data == embedded_data(PAGE)
    assert data["records"]["record_id"] == [r["id"] for r in told["records"]]
    assert numbers_of(data) == {tuple(c.values()) for c in told["comparisons"]}
    for name in ("record_id", "reason"):
        assert [r[name] for r in data["refusals"]] == [r[name] for r in told["refusals"]]
    for name in ("status", "peak_requested_bytes", "tokens_per_step", "num_parameters"):
        assert data["records"][name] == [r["measurement"][name] for r in told["records"]]
    steps = [r["measurement"]["step_seconds"] for r in told["records"]]
    medians = [median(seconds) if seconds else None for seconds in steps]
    assert data["records"]["median_step_seconds"] == medians


def test_predictions_are_those_of_predict() -> None:
    expected = json.loads(json.dumps(predict_payload(answered())["predictions"]))
    assert json.loads(READ.block("data"))["predictions"] == expected


def test_the_order_of_columns_is_that_of_comparisons() -> None:
    """What the test above reads by position."""
    first, *_ = compare(FOUND[0].record, FOUND[0].prediction)  # type: ignore[arg-type]
    names = ("record_id", "engine", "metric", "category", "predicted", "measured", "relative_error")
    assert tuple(f for f in first.__dataclass_fields__) == names


def test_every_run_has_a_row_and_every_failure_its_reason() -> None:
    rows = [row for row in READ.cells if row and re.fullmatch(r"\d+", row[0]) and len(row) > 9]
    assert [row[0] for row in rows] == [str(n) for n in range(1, 8)]
    assert rows[0][1:3] + rows[0][4:6] == ["tiny-gpt2", "full", "ok", "1.91 MiB"]
    for row, record in zip(rows, some_records(), strict=True):
        assert row[4] == run_labels.STATUS_LABELS[record.measurement.status]
        assert record.id.endswith(row[-1]) and len(row[-1]) > 20
    (failure,) = (row for row in READ.cells if "CUDA out of memory" in row)
    assert failure[:2] == ["5", "tiny-gpt2"]
    assert {"out of memory", "backward, step 2", "1.91 MiB"} <= set(failure)
    assert run_labels.STATUS_ADVICE["oom"].replace("`", "") in READ.text
    assert FOUND[6].refusal is not None
    assert any(row[:2] == ["7", "tiny-gpt2"] and "nowhere" in row[-1] for row in READ.cells)


def test_definitions_are_all_there() -> None:
    defined = {row[0]: row[1] for row in READ.cells if len(row) == 2}
    for names, meanings in (
        (run_labels.METRIC_LABELS, run_labels.METRIC_DEFINITIONS),
        (labels.CATEGORY_LABELS, labels.CATEGORY_DEFINITIONS),
        (labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS),
        (run_labels.STATUS_LABELS, run_labels.STATUS_DEFINITIONS),
    ):
        assert all(defined[names[name]] == meanings[name] for name in names)
    assert run_labels.ERROR_DEFINITION in READ.text


def test_headlines_are_right() -> None:
    cards = {card.label: card for card in report_content(FOUND[:3]).cards}
    peaks = [s.prediction.peak.total_bytes for s in FOUND[:3] if s.prediction]
    errors = [(p - m) / m for p, m in zip(peaks, (2_000_000, 1_000_000, 1_999_000), strict=True)]
    assert cards["mean error of the peak"].value == f"{100 * fmean(map(abs, errors)):.2f} %"
    worst = max(errors, key=abs)
    assert cards["worst error of the peak"].value == f"{100 * worst:+,.2f} %"
    assert cards["worst error of the peak"].note.startswith(f"#{errors.index(worst) + 1} ")
    assert cards["within 1 %"].value == f"{sum(abs(e) <= 0.01 for e in errors)} of 3"
    assert cards["runs"].value == "3"
    assert "2 did not go through" in next(c.note for c in CONTENT.cards if c.label == "runs")


def test_environments_are_told_once_with_packages_and_commits() -> None:
    tables = [part for part in every_part(CONTENT) if isinstance(part, Table)]
    one, two = (table for table in tables if table.title.startswith("Set-up"))
    assert one.title == "Set-up 1: A processor, 6 runs"
    assert two.title == "Set-up 2: NVIDIA H100 80GB HBM3, 1 run"
    told = {row.cells[0]: row.cells[-1] for row in one.rows}
    assert told.items() >= {"torch": "2.13.0", "Python": "3.11.7"}.items()
    assert told["commit of this program"] == "0123abc"
    assert (told["uncommitted changes"], told["memory of the device"]) == ("no", "8.00 GiB")
    said = str(provenance_section(numbered(scored([make_record()]))))
    assert "'1 run in 1 set-up of machine and software.'" in said


def every_part(content: Content) -> Iterator[Part]:
    def within(parts: Sequence[Part]) -> Iterator[Part]:
        for part in parts:
            yield part
            if isinstance(part, Fold | Beside):
                yield from within(part.parts)

    for section in content.sections:
        yield from within(section.parts)


# --- figures --------------------------------------------------------------------------------------


def by_name(content: Content) -> dict[str, Drawing]:
    return {d.name: d for section in content.sections for d in drawings(section.parts)}


def test_every_figure_is_on_the_page_with_words_and_numbers() -> None:
    wanted = [d for section in CONTENT.sections for d in drawings(section.parts)]
    placed = [a for tag, a in READ.elements if tag == "div" and a.get("class") == "figure"]
    assert [a["id"] for a in placed] == [d.name for d in wanted]
    planes = [a for tag, a in READ.elements if a.get("class") == "lp-plot"]
    assert [a["aria-label"] for a in planes] == [d.description for d in wanted]
    assert {a["role"] for a in planes} == {"img"}
    # those whose numbers stand elsewhere, which their captions name, and the others
    elsewhere = {"scatter", "errors-by-family", "errors-by-metric", "p0-bars", "p0-times"}
    own = {"peaks", "throughput", "step-1", "step-2", "steps-1", "curve-1", "curve-2"}
    own |= {"counters-2", "layers-0", "p0-curve-0", "p0-fit-1"}
    own |= {"p0-levers-0", "p0-held-0"}
    assert {d.name for d in wanted} >= own | elsewhere
    assert {d.name for d in wanted if d.numbers is None} == elsewhere
    assert all("numbers are in the table" in d.caption for d in wanted if d.numbers is None)


def test_what_layers_hold_is_drawn_with_all_their_copies_and_adds_up() -> None:
    drawn = by_name(CONTENT)
    for n, answer in enumerate(ANSWERS):
        drawing, prediction = drawn[f"p0-held-{n}"], answer.prediction
        rows = held_by_layers(prediction)
        totals = held_bytes(prediction)
        assert {c: sum(row.bytes[c] for row in rows) for c in totals} == totals
        largest = rows[0]
        name = re.sub(r"\d+-\d+", "*", largest.name)
        same = [c for c in prediction.layers if re.sub(r"\d+", "*", c.name) == name]
        assert largest.count == len(same) > 1
        assert largest.bytes["parameters"] == sum(cost.parameter_bytes for cost in same)
        bars = [t for t in drawing.figure["data"] if t["type"] == "bar"]
        shown = sum(size for trace in bars for size in trace["x"])
        axis = drawing.figure["layout"]["xaxis"]
        unit = {"MiB": 2**20, "GiB": 2**30}[axis["title"]["text"].rpartition(", ")[2]]
        assert round(shown * unit) == sum(totals.values())
        assert "type" not in axis  # linear


def test_the_scatter_and_the_bars_hold_every_compared_run() -> None:
    drawn = by_name(CONTENT)
    marks = [t for t in drawn["scatter"].figure["data"] if t["mode"] == "markers"]
    points = [pair for t in marks for pair in zip(t["x"], t["y"], strict=True)]
    compared = [s for s in FOUND if any(c.metric == "peak_requested_bytes" for c in s.comparisons)]
    workspaces = {"cuda": 2 * 8_519_680}  # of BLAS before Hopper, which a card's counters hold
    expected = []
    for s in (s for s in compared if s.prediction):
        beside = workspaces.get(s.record.workload.setup.device, 0)
        predicted = s.prediction.peak.total_bytes + beside
        expected.append((s.record.measurement.peak_requested_bytes, predicted))
    assert Counter(points) == Counter(expected)
    assert len(expected) >= 4
    bars = drawn["peaks"].figure["layout"]
    measured = (s.record.measurement for s in FOUND)
    said = [m for m in measured if m.went_through and m.attribution_bytes]
    assert bars["yaxis"]["ticktext"].count("measured") == len(said)


def test_full_is_shown_beside_the_lora_that_differs_in_nothing_else() -> None:
    beside = [
        [part.name for part in p.parts if isinstance(part, Drawing)]
        for p in every_part(CONTENT)
        if isinstance(p, Beside)
    ]
    assert ["step-1", "step-2"] in beside


def test_prediction_and_measurement_of_a_step_are_held_against_each_other() -> None:
    """In the words and numbers of the comparison, part by part."""
    drawn = by_name(CONTENT)
    for number in (1, 2):
        table = drawn[f"step-{number}"].numbers
        assert table is not None and len(table.rows) == 4
        for c in FOUND[number - 1].comparisons:
            if c.metric == "phase_peak_bytes":
                sizes = bytes_text(c.predicted), bytes_text(c.measured)
                row = run_labels.PHASE_LABELS[c.category], *sizes, error_text(c.relative_error or 0)
                assert row in [r.cells for r in table.rows]


BUNDLED_CURVES = """
from lora_profiler import LoraConfig, TrainSetup, Workload, find_gpu, find_model
from lora_profiler.runs.comparison.errors import PHASE_GROUPS, counted, predicted_peaks
from lora_profiler.planning.answers import answers

model = find_model("meta-llama/Llama-3.1-8B")
setups = [TrainSetup(), TrainSetup(lora=LoraConfig(r=8))]
asked = [Workload(model=model, setup=setup) for setup in setups]
for answer in answers(asked, find_gpu("rtx_4090"), may_trace=False, levers="none"):
    found, compared = answer.prediction, 0
    assert found.engine == "compiled"
    stated = predicted_peaks(found)
    for group, (phases, _) in PHASE_GROUPS.items():
        points = [point for point in found.curve if point.phase in phases]
        if points:
            highest = max(points, key=lambda point: point.total_bytes)
            held = sum(counted(found.workload, highest.bytes).values())
            # the curve has the batch put in place, which no stated moment between steps has
            batch = highest.bytes.get("inputs", 0) if group == "setup" else 0
            assert held - batch == stated[group], group
            compared += 1
    assert len(found.curve) > 20 and compared == 4, compared
"""


def test_a_profile_s_curve_reaches_the_peaks_that_are_stated_of_its_parts(tmp_path: Path) -> None:
    """The curve is drawn, the moments are compared: both are of one step. In a process that has the
    bundled profiles, which the tests' own has not."""
    environment = {**os.environ, "LORA_PROFILER_CACHE": str(tmp_path)}
    in_python(BUNDLED_CURVES, env=environment)


def test_lora_stands_against_full_among_the_conclusions() -> None:
    cards = {card.label: card for card in CONTENT.cards}
    assert cards["Peak of LoRA r4 against full"].value == "-50.0 %"  # 1,000,000 of 2,000,000
    assert cards["Step of LoRA r4 against full"].value == "the same"


def test_the_verdict_and_what_makes_it_fit_stand_first() -> None:
    model = find_model("meta-llama/Llama-3.1-8B")
    setup = TrainSetup(seq_len=2048, lora=LoraConfig(r=16))
    asked = answers([Workload(model=model, setup=setup)], find_gpu("rtx_4090"))
    content = report_content([], asked)
    first = content.cards[0]
    assert (first.label, first.value) == ("LoRA r16 on NVIDIA GeForce RTX 4090", "does not fit")
    assert "fits with --checkpointing: " in first.note
    assert content.lines[0].startswith("meta-llama/Llama-3.1-8B: llama, 32 layers")


def test_figures_stand_before_tables() -> None:
    names = [section.name for section in CONTENT.sections]
    figures = [s.name for s in CONTENT.sections if drawings(s.parts)]
    assert names[: len(figures)] == figures


def other_sizes() -> list[Record]:
    """Ten runs with ten batches, each with a peak of its own; LoRA only at the largest."""
    full = [replace(WORKLOAD, setup=replace(WORKLOAD.setup, batch_size=b)) for b in range(1, 11)]
    lora = replace(LORA_WORKLOAD, setup=replace(LORA_WORKLOAD.setup, batch_size=10))
    return [
        make_record(w, peak_requested_bytes=3_000_000 + 100_000 * (w.setup.batch_size % 7))
        for w in (*full, lora)
    ]


def test_runs_are_alike_only_where_nothing_but_the_method_differs() -> None:
    runs = numbered(scored(other_sizes(), "analytic"))
    assert [[run.number for run in group] for group in groups_alike(runs)] == [[10, 11]]
    assert [run.number for run in full_and_lora(groups_alike(runs))] == [10, 11]
    assert groups_alike(runs[:10]) == [] == full_and_lora([])


def test_of_many_runs_the_worst_are_shown_besides_the_largest_and_the_rest_in_folds() -> None:
    found = scored(other_sizes(), "analytic")
    errors = {
        n: abs(c.relative_error or 0)
        for n, s in enumerate(found, 1)
        for c in s.comparisons
        if c.metric == "peak_requested_bytes"
    }
    drawn = by_name(report_content(found))

    def heads(name: str) -> list[str]:
        notes = drawn[name].figure["layout"]["annotations"]
        return [note["text"].split(" ")[0] for note in notes]

    worst = sorted(errors, key=lambda n: -errors[n])[:4]
    assert heads("peaks-worst") == [f"#{n}" for n in worst]
    assert heads("peaks") == ["#6", "#11"]  # 3.6 MB the first full one, and the only LoRA
    assert drawn["peaks-0"].figure["layout"]["yaxis"]["ticktext"].count("measured") == 11


def test_whiskers_are_the_rates_at_the_ends_of_the_interval_of_the_median() -> None:
    """Ten steps: the interval of the median is from the second smallest to the second largest
    (Conover), 0.10 to 0.11 s here."""
    data = by_name(CONTENT)["throughput"].figure["data"]
    bar = next(trace for trace in data if trace["type"] == "bar")
    tokens = 16
    assert bar["x"][0] == pytest.approx(tokens / 0.1)
    assert bar["x"][0] - bar["error_x"]["arrayminus"][0] == pytest.approx(tokens / 0.11)
    assert bar["x"][0] + bar["error_x"]["array"][0] == pytest.approx(tokens / 0.1)


# --- markup ---------------------------------------------------------------------------------------


def test_nothing_is_asked_of_anybody() -> None:
    asking = {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not {tag for tag, _ in READ.elements} & asking
    for tag, attributes in READ.elements:
        assert not {"src", "srcset", "action", "ping"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\((?!#)", PAGE) and "@import" not in PAGE
    header = "Content-Security-Policy"
    (policy,) = (a["content"] for _, a in READ.elements if a.get("http-equiv") == header)
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    for part in ("default-src", "connect-src", "form-action", "base-uri"):
        assert parts[part] == "'none'"
    scripts = [text for attributes, text in READ.scripts if "id" not in attributes]
    digests = [hashlib.sha256(s.encode()).digest() for s in (*scripts, plotly_script())]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    assert len(scripts) == 2 and parts["script-src"].split() == allowed
    assert READ.block("plotly") == plotly_script()


def test_headings_ids_links_and_tables_make_sense() -> None:
    levels = [level for level, _ in READ.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(text.strip() for _, text in READ.headings)
    assert max(Counter(READ.ids()).values()) == 1
    ids = set(READ.ids())
    assert all(a["href"][1:] in ids for tag, a in READ.elements if tag == "a")
    for _, attributes in READ.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert {a.get("scope") for tag, a in READ.elements if tag == "th"} <= {"col", "row", "rowgroup"}
    regions = [a for _, a in READ.elements if a.get("role") == "region"]
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in regions)
    assert ("html", {"lang": "en"}) in READ.elements
    assert READ.headings[0][1] == "A title"


def test_the_same_content_makes_the_same_page() -> None:
    again = report_content(scored(some_records(), "analytic"), answered(), title="A title")
    assert write_page(again) == PAGE


def test_nothing_of_this_machine_or_this_day_is_on_the_page() -> None:
    assert str(Path.home()) not in PAGE and os.getcwd() not in PAGE
    assert not re.search(r"20\d\d-\d\d-\d\dT", PAGE.replace("2026-11-01T10:00:00", ""))


def test_a_page_of_nothing_says_so() -> None:
    content = report_content([])
    assert content.title == "Nothing to report"
    assert [section.name for section in content.sections] == ["public", "definitions"]
    assert embedded_data(write_page(content))["records"] == {}


def test_a_page_of_failures_alone_and_of_answers_alone() -> None:
    failures = report_content([FOUND[4], FOUND[5]])
    names = {s.name for s in failures.sections}
    assert {"failures", "runs", "provenance"} <= names
    assert not {"accuracy", "errors", "composition", "step", "speed"} & names
    Read(write_page(failures))
    alone = report_content([], answered())
    assert [s.name for s in alone.sections] == ["predicted-0", "numbers-0", "public", "definitions"]
    assert alone.title == "meta-llama/Llama-3.2-1B: predicted"
    Read(write_page(alone))


# --- text from elsewhere --------------------------------------------------------------------------


def named(text: str) -> list[Record]:
    """Records in which everything that a file can say in words is `text`."""
    model = replace(WORKLOAD.model, id=text)
    environment: dict[str, Any] = dict.fromkeys(("commit", "command", "platform"), text)
    environment |= {"packages": {text: text}, "variables": {text: text}}
    full, lora = (replace(workload, model=model) for workload in (WORKLOAD, LORA_WORKLOAD))
    failure = Failure(reason=text, phase=text)
    return [
        make_record(full, environment=environment, device=replace(CPU, name=text)),
        make_record(lora, environment=environment),
        make_record(full, repeat=1, status="oom", failure=failure),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_elsewhere_are_harmless(text: str) -> None:
    records = named(text)
    content = report_content(scored(records, "analytic"), title=text)
    page = write_page(content)
    page.encode("utf-8")
    read = Read(page)
    assert [a.get("id") for a, _ in read.scripts] == ["data", "figures", "plotly", None, None]
    assert not {tag for tag, _ in read.elements} & {"img", "b", "iframe"}
    assert page.partition("</head>")[0].count("<title>") == 1
    assert all(not name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert read.text.replace("\n", "").isprintable()
    assert "49" not in read.headings[0][1]
    assert len(read.text) < 200_000
    data = json.loads(read.block("data"))
    assert data["records"]["record_id"] == [record.id for record in records]
    assert data["records"]["model"] == [text] * 3
    assert data["records"]["reason"][2] == text


@given(st.text(max_size=40))
def test_any_text_in_a_block_comes_back(text: str) -> None:
    inside = json_text({"a": [text]})
    assert inside.isascii() and "<" not in inside
    read = Read(f'<script type="application/json" id="data">{inside}</script>')
    assert json.loads(read.block("data")) == {"a": [text]}


@pytest.mark.parametrize("length", [PACKED_ABOVE - 2, PACKED_ABOVE - 1, PACKED_ABOVE * 3])
def test_long_blocks_are_packed_and_come_back(length: int) -> None:
    text = json.dumps("é" + "x" * (length - 8))
    found, packing = packed(text)
    assert packing == ("deflate" if len(text) > PACKED_ABOVE else "")
    assert len(found) <= PACKED_ABOVE
    mark = " data-packed" if packing else ""
    assert embedded_data(f'<p>a</p><script id="data"{mark}>{found}</script>') == json.loads(text)


def test_a_foreign_page_has_no_data() -> None:
    with pytest.raises(ValueError, match="no data"):
        embedded_data("<html><script>data</script></html>")


# --- many -----------------------------------------------------------------------------------------


def test_ten_thousand_records_fit_a_page_that_holds_them_all() -> None:
    """Eight questions, each run 1,250 times with numbers of its own; every twentieth ran out of
    memory."""
    import random

    draw = random.Random(7)
    asked = []
    for b, s in itertools.product((1, 2, 3, 4), FOUND[:2]):
        workload = s.record.workload
        workload = replace(workload, setup=replace(workload.setup, batch_size=b))
        asked.append(replace(s.record, workload=workload))
    bases = scored(asked, "analytic")
    many: list[Scored] = []
    for n in range(10_000):
        base = bases[n % len(bases)]
        measured = base.record.measurement
        size = round((measured.peak_requested_bytes or 0) * draw.uniform(0.9, 1.1))
        changed: dict[str, Any] = {"saved_activation_bytes": size // 3}
        changed["peak_requested_bytes"] = size
        if n % 20 == 0:
            failure = Failure(reason="out of memory", phase="backward", step=n)
            changed |= {"status": "oom", "failure": failure}
        record = replace(base.record, repeat=n, measurement=replace(measured, **changed))
        assert base.prediction is not None
        many.append(replace(base, record=record, comparisons=compare(record, base.prediction)))
    page = write_page(report_content(many))
    assert len(page.encode()) < 6_000_000
    data = embedded_data(page)
    assert data["records"]["record_id"] == [s.record.id for s in many]
    found = numbers_of(data)
    assert len(found) == sum(len(s.comparisons) for s in many)
    ended_well = (s.record.measurement for s in many if s.record.measurement.went_through)
    peaks = {m.peak_requested_bytes for m in ended_well}
    assert {row[5] for row in found if row[2] == "peak_requested_bytes"} == peaks
    read = Read(page)
    rows = [row for row in read.cells if row and re.fullmatch(r"[\d,]+", row[0]) and len(row) > 9]
    assert len(rows) == MOST_ROWS
    assert "of 10,000; the downloads" in read.text
    assert sum("out of memory" in row[4:5] for row in read.cells) >= 500


# --- the project's own reports --------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports as the generator makes them now, in a process of its own."""
    folder = tmp_path_factory.mktemp("reports")
    environment = {k: v for k, v in os.environ.items() if k != "LORA_PROFILER_CACHE"}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.truth.reports", "--output", str(folder)],
        check=True,
        capture_output=True,
        env=environment,
        cwd=RECORDS.parents[1],
    )
    return folder


def test_committed_reports_are_what_the_generator_makes(generated: Path) -> None:
    names = sorted(path.name for path in generated.iterdir())
    assert sorted(path.name for path in REPORTS.iterdir()) == names != []
    for name in names:
        fresh, committed = ((of / name).read_text("utf-8") for of in (generated, REPORTS))
        old = f"{name} is old: python -m benchmarks.truth.reports"
        assert embedded_data(committed) == embedded_data(fresh), old
        assert committed == fresh, old


@pytest.mark.parametrize("machine", machines(), ids=lambda path: path.name)
def test_a_committed_report_holds_every_committed_record(machine: Path) -> None:
    page = (REPORTS / f"{machine.name}.html").read_text("utf-8")
    wanted = {r.id for path in machine.rglob("*.jsonl") for r in read_records(path).records}
    read = Read(page)
    assert set(json.loads(read.block("data"))["records"]["record_id"]) == wanted
    assert len(page.encode()) < 1_500_000
    tails = {row[-1] for row in read.cells if row}
    assert all(any(i.endswith(tail) for tail in tails if len(tail) > 20) for i in wanted)


# --- what must be installed -----------------------------------------------------------------------


def test_without_its_library_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_write, "missing", list)
    said = re.escape("the report needs jinja2: pip install 'lora-profiler[report]'")
    with pytest.raises(UsageError, match=said):
        page_write.check_installed()
    with pytest.raises(UsageError, match="jinja2"):
        write_page(report_content([]))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched("--disable-background-networking") as found:
        yield found


class Opened:
    """A page in the browser with all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": options.pop("width", 1200), "height": 900}, **options
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        address = path.absolute().as_uri()
        self.page.on("console", lambda m: self.wrong.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.wrong.append(f"error: {e}"))
        self.page.on("dialog", lambda d: (self.wrong.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on(
            "request", lambda r: r.url in (address,) or self.wrong.append(f"asked: {r.url[:80]}")
        )
        self.page.goto(address)

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    made: list[Opened] = []

    def open_(text: str, **options: Any) -> Any:
        path = tmp_path / f"{len(made)}.html"
        path.write_text(text, "utf-8")
        made.append(Opened(browser, path, **options))
        return made[-1].page

    yield open_
    for each in made:
        each.close()


def all_drawn(page: Any) -> None:
    """All that are not in a closed fold, wherever on the page."""
    page.evaluate(
        """async () => {
          for (const figure of document.querySelectorAll('.figure')) {
            figure.scrollIntoView();
            await new Promise(requestAnimationFrame);
          }
        }"""
    )
    undrawn = (  # the page's policy forbids `wait_for_function`
        "[...document.querySelectorAll('.figure')].filter((figure) => figure.clientWidth"
        " && !figure.querySelector('.main-svg')).length"
    )
    for _ in range(100):
        page.wait_for_timeout(300)
        if not page.evaluate(undrawn):
            break
    page.wait_for_timeout(1000)


@pytest.mark.browser
@pytest.mark.grid
@pytest.mark.parametrize("width", [390, 800, 1440, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_lies_on_the_page_in_the_colours_of_its_scheme(
    opened: Any, scheme: Any, width: int
) -> None:
    """Nothing runs out of the window, no word out of its figure, and ink is the palette's."""
    page = opened(PAGE, color_scheme=scheme, width=width)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    all_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """[...document.querySelectorAll('.figure')].flatMap((figure) => {
          const box = figure.closest('figure').getBoundingClientRect();
          const plot = figure.querySelector('.lp-plot');
          if (plot.scrollWidth > plot.clientWidth) return [];
          return [...figure.querySelectorAll('.main-svg text')]
            .filter((text) => text.getClientRects().length)
            .map((text) => [text.textContent, text.getBoundingClientRect()])
            .filter(([, r]) => r.left < box.left - 4 || r.right > box.right + 4)
            .map(([words, r]) => `${figure.id}: ${words} ${r.left - box.left} ${r.right - box.right}`);
        })"""
    )
    assert outside == []
    assert papers(page) == {palette.colour(palette.PAPER, scheme)}
    assert crowded(page) == []


@pytest.mark.browser
def test_the_colours_follow_the_system_and_paper_is_light(opened: Any) -> None:
    page = opened(PAGE, color_scheme="dark")
    paper = "getComputedStyle(document.documentElement).getPropertyValue('--lp-paper')"
    for media, scheme, expected in (
        ("screen", "dark", palette.PAPER.dark),
        ("print", "dark", palette.PAPER.light),
        ("screen", "light", palette.PAPER.light),
        ("screen", "dark", palette.PAPER.dark),
    ):
        page.emulate_media(media=media, color_scheme=scheme)
        all_drawn(page)
        assert page.evaluate(paper) == expected
        assert papers(page) == {expected}


@pytest.mark.browser
def test_on_paper_nothing_runs_out_of_the_margins(opened: Any) -> None:
    """As wide as A4 between the margins that the style sheet sets, in CSS pixels of 1/96 inch."""
    width = round((210 - 2 * 14) / 25.4 * 96)
    page = opened(PAGE, width=width)
    page.emulate_media(media="print")
    all_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert crowded(page) == []
    made = page.pdf(prefer_css_page_size=True)
    assert re.search(rb"/MediaBox \[0 0 59[45]\.?\d* 84[12]\.?\d*\]", made)
    assert len(made) < 1_500_000


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Any, scheme: Any) -> None:
    page = opened(PAGE, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    all_drawn(page)
    assert serious(page) == []


@pytest.mark.browser
def test_axe_finds_what_is_wrong(opened: Any) -> None:
    """What the reports were once found with: something to focus inside of an image."""
    page = opened(PAGE)
    all_drawn(page)
    page.evaluate(
        "document.querySelector('.lp-plot').append(Object.assign(document.createElement('button'),"
        " { textContent: 'press' }))"
    )
    assert any(found.startswith("nested-interactive") for found in serious(page))


@pytest.mark.browser
def test_without_scripts_a_figure_leaves_its_words_and_its_numbers(opened: Any) -> None:
    page = opened(PAGE, java_script_enabled=False)
    for drawing in by_name(CONTENT).values():
        figure = page.locator(f"#{drawing.name}")
        told = figure.get_by_role("img", name=drawing.description, include_hidden=True)
        assert told.count() == 1
        assert figure.locator("svg").count() == 0
        beside = page.locator(f"figure:has(#{drawing.name}) table")
        assert beside.count() == (drawing.numbers is not None)
        assert figure.get_by_text(drawing.description, exact=True).count() == 1
    assert page.locator(".downloads").is_hidden()


@pytest.mark.browser
def test_the_numbers_of_the_page_can_be_downloaded(opened: Any) -> None:
    import csv

    page = opened(PAGE)

    def downloaded(name: str) -> str:
        with page.expect_download() as found:
            page.get_by_role("button", name=name).click()
        return Path(found.value.path()).read_text("utf-8")

    data = embedded_data(PAGE)
    assert json.loads(downloaded("all numbers, JSON")) == data
    rows = list(csv.DictReader(downloaded("runs, CSV").splitlines()))
    assert [row["record_id"] for row in rows] == data["records"]["record_id"]
    assert [row["reason"] for row in rows] == [reason or "" for reason in data["records"]["reason"]]
    found = list(csv.DictReader(downloaded("comparisons, CSV").splitlines()))

    def number(value: Any) -> Any:
        return float(value) if value not in ("", None) else ""

    told = {(*row[:4], *map(str, row[4:6]), number(row[6])) for row in numbers_of(data)}
    assert {(*list(r.values())[:6], number(r["relative_error"])) for r in found} == told


@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(opened: Any) -> None:
    texts = enumerate(HOSTILE)
    records = [replace(record, repeat=n) for n, text in texts for record in named(text)]
    page = opened(write_page(report_content(scored(records, "analytic"), title=HOSTILE[0])))
    all_drawn(page)
    assert page.locator("svg a, svg image, main img").count() == 0
    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert "<script>alert(1)</script>" in page.locator("#peaks").text_content()
    told = page.evaluate("document.querySelector('#scatter .js-plotly-plot').data")
    assert "&lt;script>alert(1)&lt;/script>" in str(told) and "<script>" not in str(told)
