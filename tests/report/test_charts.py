"""Figures: plotly takes them, their numbers are those that went in, the colour-blind can read them,
and text is only text."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, get_args

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.records.record import STATUSES, Flag, PhaseSample
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.prediction import CATEGORIES, MOMENTS, PHASES, CurvePoint
from lora_profiler.planning.fit import SizeFit, Verdict
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.question.workload import LoraConfig, Method, TrainSetup, Workload
from lora_profiler.report import labels, palette
from lora_profiler.report.charts.bars import (
    CategoryBar,
    ThroughputBar,
    TimeBar,
    category_bars,
    lever_bars,
    measured_curve,
    memory_curve,
    phase_samples,
    throughput_bars,
    time_bars,
)
from lora_profiler.report.charts.dots import (
    ErrorDot,
    FrontPoint,
    ScatterPoint,
    error_strip,
    identity_scatter,
    plan_front,
)
from lora_profiler.report.charts.lines import (
    MethodLine,
    claim_chart,
    crossover_lines,
    fit_map,
    step_times,
)
from lora_profiler.report.charts.plot import LONGEST, Figure, Limit, ticks
from lora_profiler.report.claims.document import grouped_charts
from lora_profiler.report.labels import CATEGORY_LABELS
from lora_profiler.report.learn import LoraLayer, committed, counts_chart
from lora_profiler.report.measured import run_labels
from lora_profiler.runs.comparison.errors import METRICS, PHASE_GROUPS
from lora_profiler.steptime import PARTS
from lora_profiler.units import GIB, MIB, byte_unit, bytes_text, seconds_text
from records import make_record

HOSTILE = (
    "<script>alert(1)</script><a href='https://foreign.invalid'>a</a> &amp; %{x} {{7*7}} $x^2$"
    " \u202ekcab\x1b[2J"
)
LIMIT = Limit(label="a card", bytes=30 * GIB)
WORKLOADS = [
    Workload(model=find_model("meta-llama/Llama-3.2-1B"), setup=TrainSetup(seq_len=128, lora=lora))
    for lora in (None, LoraConfig(r=8))
]
PREDICTIONS = [predict(workload) for workload in WORKLOADS]


def sample(step: int, number: int) -> PhaseSample:
    requested = {"requested_peak_bytes": (number + 1) * MIB, "requested_bytes": number * MIB}
    allocated = (number + 2) * MIB if step > 1 else None
    read: dict[str, Any] = requested | {"allocated_peak_bytes": allocated}
    return PhaseSample(step=step, phase=PHASES[number], **read)


SAMPLES = [sample(step, number) for step in (1, 2) for number in range(len(PHASES))]
PREDICTED_PEAKS = {"setup": 5 * GIB, "forward": 6 * GIB, "backward": 7 * GIB, "optimizer": 5 * GIB}
READ_PEAKS = {"setup": 5 * GIB, "forward": 5 * GIB, "backward": 8 * GIB}
"""By part of a step; of the optimizer's nothing was read."""
LEVERS = [
    Lever(name=name, option=option, price=price, peak_bytes=5 * GIB - saved, saved_bytes=saved)
    for name, option, price, saved in (
        ("checkpointing", "--checkpointing", "time", 2 * GIB),
        ("8-bit AdamW", "--optimizer adamw_8bit", "none", 7),
    )
]
VERDICTS = get_args(Verdict)
CROSSING = [
    MethodLine(method="full", name="full", peak_bytes={1024: 6 * GIB, 4096: 15 * GIB}),
    MethodLine(
        method="lora", name=f"LoRA r16 {HOSTILE}", peak_bytes={1024: 5 * GIB, 4096: 16 * GIB}
    ),
]
CELLS = [
    SizeFit(batch_size=b, seq_len=s, peak_bytes=b * s * MIB, verdict=VERDICTS[(b > 1) + (s > 64)])
    for b in (1, 2)
    for s in (32, 64, 128)
]


def curve(count: int) -> list[CurvePoint]:
    """Phases in order, an activation more at each point up to two thirds, then one less."""
    phases: list[Any] = ["setup", *2 * ["forward"], "loss", *3 * ["backward"], "optimizer", "zero"]

    def point(i: int) -> CurvePoint:
        held: dict[Any, int] = {"parameters": 4 * GIB, "adapters": GIB, "temporaries": i % 3}
        held |= {"activations": min(i, 2 * count - 2 * i) * 100 * MIB}
        return CurvePoint(phase=phases[i * len(phases) // count], module=f"layer.{i}", bytes=held)

    return [point(i) for i in range(count)]


_CHEAPEST = FrontPoint(name="QLoRA r8 on t4", said="20 h", method="qlora", hours=20.0, cost=0.7)
PLANNED = [
    FrontPoint(name="LoRA r8 on l4", said="1 h, 3", method="lora", hours=1.0, cost=3.0),
    replace(_CHEAPEST, is_named=True, is_recommended=True),
]


def scatter(predicted: int, measured: int, id: str = "x", of: Method = "full") -> ScatterPoint:
    sizes = {"predicted_bytes": predicted, "measured_bytes": measured}
    return ScatterPoint(label="a", method=of, record_id=id, **sizes)


def figures() -> dict[str, Figure]:
    """Every chart with something to show, and with nothing."""
    measured = make_record().measurement
    bars = [
        CategoryBar(label=str(i), bytes=p.peak.bytes, group=f"run {i}", at_least=bool(i))
        for i, p in enumerate(PREDICTIONS)
    ]
    every = CategoryBar(label="a", bytes=dict.fromkeys(CATEGORIES, MIB))
    dots = [
        ErrorDot(group=g, label="a run", error=e, method=m, record_id=f"{g}{e}") for g, e, m in DOTS
    ]
    timed = ThroughputBar(
        label="full",
        method="full",
        tokens_per_second=10.0,
        low=9.5,
        high=12.0,
        steps=9,
        group="gpt2",
    )
    timed_steps = [
        TimeBar(label="full", seconds={part: 0.25 for part in PARTS}, low=1.5, high=3.0),
        TimeBar(label="LoRA", seconds={"gemm": 0.5, "launches": 0.0}, low=0.4, high=0.7),
    ]
    short = TimeBar(label="a", seconds={"gemm": 0.01}, low=0.009, high=0.02)
    return {
        "times": time_bars(timed_steps),
        "short times": time_bars([short]),
        "no times": time_bars([]),
        "bars": category_bars(bars, limit=LIMIT),
        "bars of every category": category_bars([every]),
        "no bars": category_bars([]),
        "long curve": memory_curve(curve(300), limit=LIMIT),
        "short curve": memory_curve(PREDICTIONS[1].curve),
        "no curve": memory_curve([]),
        "scatter": identity_scatter([scatter(GIB, GIB + 1)]),
        "no scatter": identity_scatter([]),
        "strip": error_strip(dots),
        "no strip": error_strip([]),
        "throughput": throughput_bars([timed]),
        "no throughput": throughput_bars([]),
        "steps": step_times(measured.warmup_seconds, measured.step_seconds),
        "no steps": step_times((), ()),
        "measured curve": measured_curve(curve(9), PREDICTED_PEAKS, READ_PEAKS),
        "no measured curve": measured_curve([], {}, {}),
        "phases": phase_samples(SAMPLES),
        "no phases": phase_samples([]),
        "levers": lever_bars(LEVERS),
        "no levers": lever_bars([]),
        "fit": fit_map(CELLS, (2, 64)),
        "no fit": fit_map([]),
        "crossover": crossover_lines(CROSSING, [3219, 4133], LIMIT),
        "no crossover": crossover_lines([], []),
        "plan": plan_front(PLANNED, "USD"),
        "no plan": plan_front([], ""),
        **{
            chart.key: claim_chart(chart)
            for charts in grouped_charts(committed() or {}).values()
            for chart in charts
        },
    }


DOTS: list[tuple[str, float, Method]] = [
    ("llama", 0.01, "full"),
    ("llama", -0.02, "lora"),
    ("llama", 0.0, "lora"),
    ("gpt2", 0.0, "qlora"),
    ("gpt2", 0.0, "full"),
]
LIGHT = figures()


def traces(figure: Figure, kind: str, **having: Any) -> list[dict[str, Any]]:
    return [
        t
        for t in figure["data"]
        if t["type"] == kind and all(t.get(name) == value for name, value in having.items())
    ]


def lengths_of_bars(figure: Figure, size: float) -> dict[float, float]:
    """Of each stack of bars, by its place, in units of 1 / `size`."""
    drawn: dict[float, float] = {}
    for trace in traces(figure, "bar"):
        for x, y in zip(trace["x"], trace["y"], strict=True):
            drawn[y] = drawn.get(y, 0.0) + x * size
    return drawn


# --- what plotly says -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIGHT)
def test_plotly_takes_every_figure(name: str) -> None:
    figure = LIGHT[name]
    data = [{"name": None, **trace} for trace in figure["data"]]
    layout = {**figure["layout"], "height": max(10, figure["layout"]["height"])}
    assert len(go.Figure({"data": data, "layout": layout}).data) == len(data)
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure


def test_plotly_would_refuse_a_wrong_attribute() -> None:
    with pytest.raises(ValueError, match="colour"):
        go.Figure({"data": [{"type": "bar", "marker": {"colour": "#000000"}}]})


UNITS = r", (B|KiB|MiB|GiB|TiB|ms|s)$|%|tokens|in each|compute|weights|relative to|loss|number of"


@pytest.mark.parametrize("name", LIGHT)
def test_no_figure_has_an_axis_without_a_unit(name: str) -> None:
    layout = LIGHT[name]["layout"]
    assert isinstance(layout["height"], int)
    titles = [layout[axis].get("title", {}).get("text", "") for axis in ("xaxis", "yaxis")]
    assert any(titles)
    for axis, title in zip(("xaxis", "yaxis"), titles, strict=True):
        # plain numbers: the title says of what
        if layout[axis].get("showgrid") and layout[axis].get("tickmode") != "array":
            assert re.search(UNITS, title), title


# --- the palette ----------------------------------------------------------------------------------

# Simulation of a missing kind of cone: G. M. Machado et al., IEEE TVCG 15 (2009), severity 1, on
# linear RGB.
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}
APART = 18.0
"""Least distance in CIELAB of two colours that are told apart by colour; 2.3 is just noticeable
side by side."""


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def seen(colour: str, sight: str) -> list[float]:
    """CIELAB (D65) of a colour as somebody with that sight sees it."""
    rgb = [
        min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear(colour), strict=True))))
        for row in SIGHT[sight]
    ]
    rows = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    x, y, z = (
        sum(a * b for a, b in zip(row, rgb, strict=True)) / white
        for row, white in zip(rows, (0.95047, 1, 1.08883), strict=True)
    )
    fx, fy, fz = (
        t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z)
    )
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


def contrast(a: str, b: str) -> float:
    """WCAG 2.1."""
    low, high = sorted(
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))
        for colour in (a, b)
    )
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white_is_known() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", get_args(palette.Theme))
def test_categories_and_methods_are_told_apart_by_colour_or_else_by_hatch_or_symbol(
    theme: palette.Theme, sight: str
) -> None:
    paints = (palette.CATEGORY_PAINTS, palette.PART_PAINTS)
    looks = [
        *([(p.hatch, p.colour, name) for name, p in of.items()] for of in paints),
        [("", mark.colour, name) for name, mark in palette.METHOD_MARKS.items()],
    ]

    def apart(*pair: palette.Colour) -> float:
        return math.dist(*(seen(palette.colour(colour, theme), sight) for colour in pair))

    for found in looks:
        for (hatch, one, name_a), (other, two, name_b) in itertools.combinations(found, 2):
            assert apart(one, two) >= APART or hatch != other, (name_a, name_b)
    # what fills nearly all of every bar needs no hatch
    main = "parameters adapters gradients optimizer_states activations logits_and_loss temporaries"
    by_name: Mapping[Any, palette.Paint] = palette.CATEGORY_PAINTS
    for one, two in itertools.combinations(main.split(), 2):
        assert apart(by_name[one].colour, by_name[two].colour) >= APART, (one, two)


@pytest.mark.parametrize("theme", get_args(palette.Theme))
def test_everything_stands_out_from_the_paper(theme: palette.Theme) -> None:
    def shown(*colours: palette.Colour) -> list[str]:
        return [palette.colour(colour, theme) for colour in colours]

    paper, panel, ink = shown(palette.PAPER, palette.PANEL, palette.INK)
    marks = (*palette.METHOD_MARKS.values(), *palette.COUNTER_MARKS.values(), *palette.SERIES_MARKS)
    for colour in shown(*(it.colour for it in (*palette.CATEGORY_PAINTS.values(), *marks))):
        assert contrast(colour, paper) >= 3
    for text in (ink, *shown(palette.FAINT_INK, palette.ACCENT, palette.WARNING)):
        assert contrast(text, paper) >= 4.5
        assert contrast(text, panel) >= 4.5
    for behind in shown(*palette.VERDICT_COLOURS.values()):
        assert contrast(ink, behind) >= 4.5


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (CATEGORIES, [palette.CATEGORY_PAINTS, CATEGORY_LABELS, labels.CATEGORY_SHORT]),
        (CATEGORIES, [labels.CATEGORY_DEFINITIONS]),
        (MOMENTS, [labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS]),
        (PARTS, [palette.PART_PAINTS, labels.PART_LABELS]),
        (get_args(Method), [palette.METHOD_MARKS]),
        (VERDICTS, [palette.VERDICT_COLOURS, palette.VERDICT_SIGNS]),
        (PHASES, [run_labels.PHASE_CURVE, run_labels.PHASE_LABELS]),
        (run_labels.COUNTER_LABELS, [palette.COUNTER_MARKS]),
        (run_labels.METRIC_LABELS, [run_labels.METRIC_DEFINITIONS]),
        (STATUSES, [run_labels.STATUS_LABELS, run_labels.STATUS_DEFINITIONS]),
        ({*STATUSES} - {"ok", "noisy"}, [run_labels.STATUS_ADVICE]),
        (get_args(Flag), [run_labels.FLAG_DEFINITIONS]),
    ],
)
def test_every_name_has_its_words_and_its_look(names: Any, told: list[Any]) -> None:
    assert all({*words} == {*names} for words in told)


def test_what_stands_for_a_name_is_told_apart() -> None:
    assert {*run_labels.METRIC_LABELS} >= {*METRICS} and {*PHASES} >= {*PHASE_GROUPS}
    for marks in (palette.METHOD_MARKS.values(), palette.SERIES_MARKS):
        assert len({mark.symbol for mark in marks}) == len(marks)


def test_a_light_colour_has_one_dark_twin() -> None:
    pairs = {(c.light, c.dark) for c in palette.all_colours()}
    assert len({light for light, _ in pairs}) == len(pairs)


@pytest.mark.parametrize(("name", "kind"), [("bars", "bar"), ("long curve", "scatter")])
def test_a_category_has_its_colour_and_hatch_everywhere(name: str, kind: str) -> None:
    by_label = {CATEGORY_LABELS[name]: paint for name, paint in palette.CATEGORY_PAINTS.items()}
    found = [t for t in traces(LIGHT[name], kind) if t.get("name") in by_label]
    assert len(found) > 3
    for trace in found:
        paint, is_bar = by_label[trace["name"]], kind == "bar"
        pattern = trace["marker"].get("pattern") if is_bar else trace.get("fillpattern")
        colour = trace["marker"]["color"] if is_bar else trace["fillcolor"]
        assert colour == paint.colour.light
        assert (pattern["shape"] if pattern else "") == paint.hatch
        assert pattern is None or pattern["bgcolor"] == paint.colour.light


# --- times ---

SPENT = st.dictionaries(st.sampled_from(PARTS), st.floats(1e-6, 100.0), min_size=1)


@given(st.lists(SPENT, min_size=1, max_size=4), st.floats(0.05, 0.5))
def test_bars_of_time_add_up_and_their_whiskers_end_where_the_intervals_do(
    found: list[dict[Any, float]], width: float
) -> None:
    totals = [sum(spent.values()) for spent in found]
    bars = [
        TimeBar(label=str(i), seconds=spent, low=total / (1 + width), high=total / (1 - width))
        for i, (spent, total) in enumerate(zip(found, totals, strict=True))
    ]
    figure = time_bars(bars)
    size = {"s": 1.0, "ms": 1e-3}[figure["layout"]["xaxis"]["title"]["text"].rpartition(", ")[2]]
    drawn = lengths_of_bars(figure, size)
    (whiskers,) = traces(figure, "scatter", mode="markers")
    (ends,) = traces(figure, "scatter", mode="markers+text")
    assert [drawn[y] for y in ends["y"]] == pytest.approx(totals)
    assert [text.strip() for text in ends["text"]] == [
        seconds_text(total, max(bar.high for bar in bars)) for total in totals
    ]
    arms = (whiskers["error_x"][side] for side in ("array", "arrayminus"))
    for bar, x, up, down in zip(bars, whiskers["x"], *arms, strict=True):
        assert ((x - down) * size, (x + up) * size) == pytest.approx((bar.low, bar.high))


# --- numbers --------------------------------------------------------------------------------------

SIZES = st.dictionaries(st.sampled_from(CATEGORIES), st.integers(0, 2**45), min_size=1)


@given(st.lists(SIZES, min_size=1, max_size=4))
def test_stacked_bars_add_up_to_the_totals_that_stand_at_their_ends(
    found: list[dict[Any, int]],
) -> None:
    bars = [CategoryBar(label=f"bar {i}", bytes=held) for i, held in enumerate(found)]
    figure = category_bars(bars)
    unit = figure["layout"]["xaxis"]["title"]["text"].rpartition(", ")[2]
    size = {byte_unit(10**n)[0]: byte_unit(10**n)[1] for n in range(16)}[unit]
    drawn = lengths_of_bars(figure, size)
    (ends,) = traces(figure, "scatter", mode="markers+text")
    totals = [sum(held.values()) for held in found]
    assert [drawn.get(y, 0.0) for y in ends["y"]] == pytest.approx(totals)
    assert [text.strip() for text in ends["text"]] == [bytes_text(total) for total in totals]
    assert [trace["name"] for trace in traces(figure, "bar")] == [
        CATEGORY_LABELS[c] for c in CATEGORIES if any(held.get(c) for held in found)
    ]


def test_bars_of_a_group_stand_under_one_heading_and_limits_have_their_line() -> None:
    bars = [
        CategoryBar(label=label, bytes={"parameters": GIB}, group=group)
        for group in ("a", "b")
        for label in ("p", "m")
    ]
    layout = category_bars(bars, limit=Limit(label="card", bytes=3 * GIB))["layout"]
    heads = {note["text"]: note["y"] for note in layout["annotations"]}
    assert set(heads) == {"a", "b", "card: 3.00 GiB"}
    places = layout["yaxis"]["tickvals"]
    assert heads["a"] < places[0] < places[1] < heads["b"] < places[2] < places[3]
    assert layout["shapes"][0]["x0"] == layout["shapes"][0]["x1"] == 3.0
    assert layout["xaxis"]["range"][1] > 3.0


def test_what_is_less_than_nothing_is_not_drawn_but_counted() -> None:
    bar = CategoryBar(label="a", bytes={"parameters": 1000, "unattributed": -10})
    figure = category_bars([bar])
    assert [t["name"] for t in traces(figure, "bar")] == ["weights"]
    assert traces(figure, "scatter", mode="markers+text")[0]["text"] == ["990 B"]


def test_equal_labels_stay_two_bars() -> None:
    bars = [CategoryBar(label="same", bytes={"parameters": n}) for n in (1, 2)]
    layout = category_bars(bars)["layout"]
    assert len(set(layout["yaxis"]["tickvals"])) == 2


@pytest.mark.parametrize(
    "points", [curve(300), curve(9), PREDICTIONS[0].curve, PREDICTIONS[1].curve]
)
def test_a_curve_stacks_to_its_totals_names_its_phases_and_marks_its_peak(
    points: Sequence[CurvePoint],
) -> None:
    figure = memory_curve(points)
    layout = figure["layout"]
    areas = [t for t in figure["data"] if "stackgroup" in t]
    outline = figure["data"][-1]
    stacked = [sum(parts) for parts in zip(*(t["y"] for t in areas), strict=True)]
    assert stacked == pytest.approx(outline["y"])
    totals = [point.total_bytes for point in points]
    assert outline["y"] == pytest.approx([total / GIB for total in totals])
    peak = next(note for note in layout["annotations"] if note["showarrow"])
    assert (peak["x"], peak["y"]) == (totals.index(max(totals)), max(totals) / GIB)
    assert bytes_text(max(totals)) in peak["text"]
    bands = [shape for shape in layout["shapes"] if shape["type"] == "rect"]
    assert [b["x0"] for b in bands[1:]] == [b["x1"] for b in bands[:-1]]
    assert (bands[0]["x0"], bands[-1]["x1"]) == (-0.5, len(points) - 0.5)
    phases = [phase for phase, _ in itertools.groupby(points, key=lambda p: p.phase)]
    for band, phase in zip(bands, phases, strict=True):
        inside = [p.phase for i, p in enumerate(points) if band["x0"] < i < band["x1"]]
        assert set(inside) == {phase}
    named = {note["text"] for note in layout["annotations"] if not note["showarrow"]}
    assert named <= {run_labels.PHASE_CURVE[p.phase] for p in points}
    assert {"backward", "optimizer step"} <= named


@pytest.mark.parametrize(("times", "is_shown"), [(20, True), (21, False)])
def test_a_card_beside_which_nothing_would_be_seen_is_left_out(times: int, is_shown: bool) -> None:
    largest = max(point.total_bytes for point in curve(9))
    layout = memory_curve(curve(9), limit=replace(LIMIT, bytes=times * largest))["layout"]
    assert any(LIMIT.label in note["text"] for note in layout["annotations"]) == is_shown
    top = layout["yaxis"]["range"][1] * byte_unit(times * largest if is_shown else largest)[1]
    assert top == pytest.approx(1.3 * largest * (times if is_shown else 1))


def test_a_step_as_predicted_and_as_read_shares_its_axes() -> None:
    """Every part has a line at the peak that was read in it, across just that part; and the error:
    6 of 5 GiB are 20 % too much, 7 of 8 are 12.5 % too little."""
    figure = measured_curve(curve(9), PREDICTED_PEAKS, READ_PEAKS, word="rehearsed")
    data, layout = figure["data"], figure["layout"]
    lines = next(t for t in data if t.get("mode") == "lines" and t.get("showlegend") is False)
    ends = [(x, y) for x, y in zip(lines["x"], lines["y"], strict=True) if x is not None]
    bands = [(b["x0"], b["x1"]) for b in layout["shapes"]]
    named = [n["text"] for n in layout["annotations"]]
    assert named == ["between steps", "forward and loss", "backward", "optimizer step"]
    heights = [READ_PEAKS[group] / GIB for group in ("setup", "forward", "backward")]
    assert ends == [
        (end, height) for band, height in zip(bands, heights, strict=False) for end in band
    ]
    marks = next(t for t in data if t.get("mode") == "markers+text")
    assert marks["text"] == ["exact", "+20.00 %", "-12.50 %"]
    assert marks["name"] == "rehearsed peak"
    assert marks["hovertext"][1] == "forward and loss<br>rehearsed 5.00 GiB<br>predicted 6.00 GiB"
    outline = next(t for t in data if t.get("name") == "predicted")
    assert outline["y"] == pytest.approx([p.total_bytes / GIB for p in curve(9)[:-1]])
    assert outline["x"] == sorted(outline["x"])
    for (first, after), group in zip(bands, ("setup", "forward", "backward"), strict=False):
        inside = [x for x in outline["x"] if first < x < after]
        phases = {"setup": 1, "forward": 3, "backward": 3}
        assert len(inside) == phases[group]
    assert min(after - first for first, after in bands) >= 0.25 - 1e-9


@given(st.lists(st.tuples(st.integers(1, 2**42), st.integers(1, 2**42)), min_size=1, max_size=20))
def test_every_point_of_the_scatter_is_within_both_axes_and_ticks_are_true(
    sizes: list[tuple[int, int]],
) -> None:
    points = [scatter(*pair, str(i), get_args(Method)[i % 3]) for i, pair in enumerate(sizes)]
    figure = identity_scatter(points)
    layout = figure["layout"]
    assert layout["xaxis"]["range"] == layout["yaxis"]["range"]
    low, high = layout["xaxis"]["range"]
    assert all(low < math.log10(size) < high for pair in sizes for size in pair)
    drawn = {
        i: (x, y)
        for t in traces(figure, "scatter", mode="markers")
        for x, y, i in zip(t["x"], t["y"], t["customdata"], strict=True)
    }
    assert drawn == {str(i): (m, p) for i, (p, m) in enumerate(sizes)}
    (line,) = traces(figure, "scatter", mode="lines")
    assert line["x"] == line["y"]
    ticks = layout["xaxis"]["tickvals"]
    assert 1 <= len(ticks) <= 12
    assert [bytes_text(t).replace(".00 ", " ") for t in ticks] == layout["xaxis"]["ticktext"]
    assert all(t & (t - 1) == 0 for t in ticks)


def test_strips_hold_every_error_and_the_median_of_each_group() -> None:
    figure = LIGHT["strip"]
    dots = [t for t in figure["data"] if t["name"] != "median"]
    assert {t["name"] for t in dots} == {"full", "LoRA", "QLoRA"}
    drawn = {i: x for t in dots for x, i in zip(t["x"], t["customdata"], strict=True)}
    assert drawn == {f"{g}{e}": 100 * e for g, e, _ in DOTS}
    heights = {i: y for t in dots for y, i in zip(t["y"], t["customdata"], strict=True)}
    for place, group in zip(figure["layout"]["yaxis"]["tickvals"], ("llama", "gpt2"), strict=True):
        assert all(abs(y - place) < 0.5 for i, y in heights.items() if i.startswith(group))
    (middle,) = (t for t in figure["data"] if t["name"] == "median")
    assert middle["x"] == [
        100 * median(e for g, e, _ in DOTS if g == group) for group in ("llama", "gpt2")
    ]
    low, high = figure["layout"]["xaxis"]["range"]
    assert low == -high and high > 2.0
    assert figure["layout"]["yaxis"]["ticktext"] == ["llama<br>n = 3", "gpt2<br>n = 2"]


def test_the_median_of_steps_is_told_above_all_of_them() -> None:
    """In two lines on a phone, of 15 px each."""
    layout = LIGHT["steps"]["layout"]
    (note,) = layout["annotations"]
    assert (note["y"], note["yanchor"]) == (1, "top")
    longest = max(y for trace in LIGHT["steps"]["data"] for y in trace["y"])
    assert (1 - longest / layout["yaxis"]["range"][1]) * layout["height"] > 2 * 15


def test_levers_are_cut_from_the_peak() -> None:
    left, gone = traces(LIGHT["levers"], "bar")
    assert [a + b for a, b in zip(left["x"], gone["x"], strict=True)] == pytest.approx([5.0, 5.0])
    assert gone["x"] == [2.0, 7 / GIB]
    assert gone["marker"]["pattern"]["shape"]


def test_the_map_says_in_every_cell_what_its_size_needs() -> None:
    figure = LIGHT["fit"]
    cells = traces(figure, "bar")
    columns, rows = figure["layout"]["xaxis"]["ticktext"], figure["layout"]["yaxis"]["ticktext"]
    assert (columns, rows) == (["32", "64", "128"], ["2", "1"])
    for cell in CELLS:
        row, column = rows.index(str(cell.batch_size)), columns.index(str(cell.seq_len))
        assert cell.verdict is not None
        sign, mib = palette.VERDICT_SIGNS[cell.verdict], cell.batch_size * cell.seq_len
        (of,) = (t for t in cells if t["name"] == f"{sign} {labels.VERDICT_LABELS[cell.verdict]}")
        places = list(zip(of["base"], of["x"], strict=True))
        at = places.index((row - 0.5, column))
        assert (of["y"][at], of["width"]) == (1, 1)
        assert of["text"][at] == f"{sign}{mib:.{0 if mib >= 100 else 1}f}"
        assert f"{mib}.00 MiB" in of["hovertext"][at]
        assert labels.VERDICT_LABELS[cell.verdict] in of["hovertext"][at]
        assert of["marker"]["color"] == palette.VERDICT_COLOURS[cell.verdict].light
    assert sum(len(trace["x"]) for trace in cells) == len(CELLS)
    assert figure["layout"]["xaxis"]["title"]["text"].endswith("; peaks in MiB")
    (asked,) = figure["layout"]["shapes"]
    assert (asked["x0"], asked["y0"]) == (columns.index("64") - 0.5, rows.index("2") - 0.5)
    bottom, top = figure["layout"]["yaxis"]["range"]
    assert bottom > top  # so that the first row is on top


def test_crossings_are_marked_where_they_are_on_a_log_axis() -> None:
    layout = crossover_lines(CROSSING, [3219], LIMIT)["layout"]
    upright, across = layout["shapes"]
    assert (upright["x0"], upright["x1"], across["y0"]) == (3219, 3219, LIMIT.bytes)
    of_card, of_crossing = layout["annotations"]
    assert of_card["y"] == math.log10(LIMIT.bytes)
    assert of_card["text"].startswith(LIMIT.label)
    assert of_crossing["x"] == math.log10(3219) and of_crossing["text"] == "3,219"
    low, high = layout["yaxis"]["range"]
    assert 10**low < 5 * GIB and 10**high > LIMIT.bytes


def test_of_points_that_do_not_count_each_name_stands_once_at_the_furthest() -> None:
    points = [
        replace(scatter(predicted, GIB), name=name, not_counted=why)
        for name, predicted, why in (
            ("a", 2 * GIB, "why"), ("b", 4 * GIB, "why"), ("a", 3 * GIB, "why"), ("c", 9 * GIB, "")
        )
    ]  # fmt: skip
    notes = identity_scatter(points)["layout"]["annotations"]
    shown = [(note["text"], 10 ** note["x"], 10 ** note["y"]) for note in notes]
    assert [text for text, *_ in shown] == ["a", "b"]  # the later one is placed first
    assert [at for _, *at in shown] == [pytest.approx([GIB, n * GIB]) for n in (3, 4)]


def test_runs_of_a_plan_lie_at_their_hours_and_money_and_one_has_a_ring() -> None:
    figure = plan_front(PLANNED, "USD")
    ring, *dots = figure["data"]
    assert {(x, y) for dot in dots for x, y in zip(dot["x"], dot["y"], strict=True)} == {
        (point.hours, point.cost) for point in PLANNED
    }
    assert [(ring["x"], ring["y"])] == [([p.hours], [p.cost]) for p in PLANNED if p.is_recommended]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["QLoRA r8 on t4"]
    for axis, values in (("xaxis", [1.0, 20.0]), ("yaxis", [0.7, 3.0])):
        low, high = figure["layout"][axis]["range"]
        assert all(10**low < value < 10**high for value in values)
        assert len(figure["layout"][axis]["tickvals"]) >= 2


def test_a_size_that_nothing_answers_for_is_an_empty_cell() -> None:
    figure = fit_map([SizeFit(batch_size=1, seq_len=8, peak_bytes=None, verdict=None)])
    assert traces(figure, "bar") == []


def test_raw_times_are_all_there_with_their_median() -> None:
    measured = make_record().measurement
    warm, timed = LIGHT["steps"]["data"]
    assert warm["y"] == [1000 * s for s in measured.warmup_seconds]
    assert timed["y"] == [1000 * s for s in measured.step_seconds]
    assert warm["x"] + timed["x"] == list(range(1, len(warm["x"]) + len(timed["x"]) + 1))
    line = next(s for s in LIGHT["steps"]["layout"]["shapes"] if s["type"] == "line")
    assert line["y0"] == 1000 * median(measured.step_seconds)


def test_counters_that_were_not_read_are_gaps() -> None:
    found = {t["name"]: t["y"] for t in LIGHT["phases"]["data"]}
    read = ("requested_peak_bytes", "requested_bytes", "allocated_peak_bytes")
    assert set(found) == {run_labels.COUNTER_LABELS[name] for name in read}
    first = found[run_labels.COUNTER_LABELS["allocated_peak_bytes"]]
    assert first == [None] * len(PHASES) + [n + 2 for n in range(len(PHASES))]


# --- text from elsewhere --------------------------------------------------------------------------


def hostile(text: str) -> list[Figure]:
    bar = CategoryBar(label=text, bytes={"parameters": 1}, group=text)
    point = CurvePoint(phase="forward", module=text, bytes={"activations": 5})
    rates: dict[str, Any] = {"tokens_per_second": 1.0, "low": 1.0, "high": 1.0, "steps": 1}
    timed = ThroughputBar(label=text, method="lora", group=text, **rates)
    return [
        category_bars([bar], limit=Limit(label=text, bytes=1)),
        memory_curve([point], limit=Limit(label=text, bytes=9)),
        identity_scatter([replace(scatter(1, 2), label=text)]),
        error_strip([ErrorDot(group=text, label=text, error=0.5, method="full")]),
        throughput_bars([timed]),
        lever_bars([Lever(name=text, option=text, price=text, peak_bytes=1, saved_bytes=1)]),
    ]


def shown(part: Any, name: str = "") -> Iterator[str]:
    """Texts of a figure, wherever they are."""
    if isinstance(part, Mapping):
        for key, inner in part.items():
            yield from shown(inner, key)
    elif isinstance(part, list):
        for inner in part:
            yield from shown(inner, name)
    elif isinstance(part, str) and name in ("text", "hovertext", "ticktext", "name"):
        yield part


@pytest.mark.parametrize("text", [HOSTILE, "x" * 10_000, "", "2020-01-01", "<b>&lt;", "\ud800"])
def test_names_from_elsewhere_are_text_and_short(text: str) -> None:
    for figure in hostile(text):
        go.Figure(json.loads(json.dumps(figure)))
        for each in shown(figure):
            plain = each.replace("<br>", "").replace("<b>", "", 1).replace("</b>", "", 1)
            assert "<" not in plain
            assert "&" not in plain.replace("&lt;", "").replace("&amp;", "")
            assert plain.isprintable()
            assert len(plain) < 6 * LONGEST + 120
        assert "hovertemplate" not in json.dumps(figure)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e12))
def test_ticks_are_few_and_round_and_within(low: float, length: float) -> None:
    found = ticks(low, low + length, lambda place: f"{place:g}")
    places = found["tickvals"]
    assert 3 <= len(places) <= 9 and len(places) == len(found["ticktext"])
    assert all(low - 1e-6 * length <= place <= low + length * (1 + 1e-6) for place in places)


def test_axes_write_numbers_as_the_text_does() -> None:
    """No 100k beside 100 K, and no minus but the one of the text."""
    dots = [ErrorDot(group="a", label="a", error=e, method="full") for e in (-0.3, 0.1)]
    errors = error_strip(dots)
    assert errors["layout"]["xaxis"]["ticktext"] == [f"{n} %" for n in range(-30, 40, 10)]
    numbers = claim_chart(counts_chart(LoraLayer(d=4096, k=4096, r=8, alpha=16)))["layout"]["yaxis"]
    assert numbers["ticktext"][:3] == ["10 K", "100 K", "1 M"]
    assert numbers["tickvals"][:3] == [10_000, 100_000, 1_000_000]


@given(st.text(max_size=200), st.integers(3, 60))
def test_a_label_is_the_printable_text_as_plotly_will_show_it(text: str, longest: int) -> None:
    from html import unescape

    from lora_profiler._common.messages import printable
    from lora_profiler.report.charts.plot import label

    found = label(text, longest)
    shown = unescape(found)
    assert "<" not in found
    assert len(shown) <= longest
    whole, cut = printable(text), found.replace("&lt;", "<").replace("&amp;", "&")
    if len(whole) <= longest:
        assert cut == whole
    else:  # the text may hold a sign of what was left out itself
        parts = [(cut[:n], cut[n + 1 :]) for n, sign in enumerate(cut) if sign == "…"]
        assert any(whole.startswith(start) and whole.endswith(end) for start, end in parts)
