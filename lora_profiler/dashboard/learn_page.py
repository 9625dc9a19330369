"""Learn: one layer in numbers and pictures, what the claims about LoRA were found to be, and each
of them to be checked here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st

from lora_profiler._common.packages import missing
from lora_profiler.dashboard import following, link, widgets
from lora_profiler.dashboard.following import Followed
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Chart, Verdict, numbers_table
from lora_profiler.report.claims.document import (
    claim_blocks,
    claims_table,
    grouped_charts,
    subject_lines,
)
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.report.learn import (
    LoraLayer,
    committed,
    counts_chart,
    counts_words,
    flow,
    flow_words,
    matrices,
    matrices_words,
)
from lora_profiler.report.page.mathematics import claim_drawing, layer_cards
from lora_profiler.units import clock_text, count_text

T = TypeVar("T")
_KEY = "learn."
_LABELS = {
    "d": "d, numbers out of the layer",
    "k": "k, numbers into it",
    "r": "r, rank of B and A",
    "alpha": "alpha, their scale",
}


def seed(layer: LoraLayer) -> None:
    st.session_state[f"{_KEY}linked"] = layer
    for name in link.LAYER_STEPS:
        st.session_state[_KEY + name] = getattr(layer, name)


def show() -> None:
    widgets.title(
        "Learn what LoRA trains",
        "A dense layer turns x into W x; full fine-tuning updates all d x k numbers of W.",
        "LoRA freezes W and trains two thin matrices: B (d x r) and A (r x k).",
        "The output is h = W x + (alpha / r) B (A x).",
    )
    layer = _layer()
    link.write(link.written("Learn", layer=layer))
    if layer == st.session_state[f"{_KEY}linked"]:
        widgets.passed_over(st.session_state["complaints"], "URL parameters")
    _one_layer(layer)
    document = committed()
    if document is None:
        widgets.section("What was found")
        widgets.note(
            "Check all claims on the command line: lora-profile verify. Or check one below.",
            heading="This installation has no committed results",
        )
    else:
        _found(document)
    show_check()


# --- one layer ------------------------------------------------------------------------------------


def _layer() -> LoraLayer:
    rows = st.columns(2), st.columns(2)
    values = {}
    for place, (name, label) in zip(
        (place for row in rows for place in row), _LABELS.items(), strict=True
    ):
        with place:
            values[name] = st.select_slider(
                label,
                link.LAYER_STEPS[name],
                key=_KEY + name,
                format_func=count_text,
                persist_state="session",
                on_change=link.mark_changed,
            )
    return LoraLayer(**values)


def _one_layer(layer: LoraLayer) -> None:
    widgets.cards(layer_cards(layer))
    widgets.note(*counts_words(layer))
    shade = widgets.theme()
    left, right = st.columns(2)
    with left:
        widgets.section("Full update, and B and A")
        widgets.picture(matrices(layer, shade), matrices_words(layer))
    with right:
        widgets.section("The two paths")
        widgets.picture(flow(layer, shade), flow_words(layer))
    counted = counts_chart(layer)
    widgets.section(counted.title)
    widgets.drawing(claim_drawing(counted), "counts")


# --- what was found -------------------------------------------------------------------------------


def _found(document: Mapping[str, Any]) -> None:
    widgets.section(f"What was found on {document['model']['id']}")
    widgets.small(*subject_lines(document))
    widgets.blocks([claims_table(document)])
    widgets.small("* must hold exactly, up to rounding")
    every = [block for claim in document["claims"] for block in claim_blocks(claim)]
    label = "Every claim, and what was found"
    widgets.fold(label, "learn.findings", lambda: widgets.blocks(every))
    groups = grouped_charts(document)
    for heading, charts in groups.items():
        widgets.section(heading)
        _chart(charts)
    numbers = [numbers_table(chart) for charts in groups.values() for chart in charts]
    label = "The numbers of all these figures"
    widgets.fold(label, "learn.numbers", lambda: widgets.blocks(numbers))


def _chosen(label: str, titles: Mapping[T, str], key: str) -> T:
    look: dict[str, Any] = {"key": key, "persist_state": "session"}
    chosen: T = st.selectbox(label, list(titles), format_func=titles.__getitem__, **look)
    return chosen


def _chart(members: list[Chart]) -> None:
    titles = {chart.key: chart.title for chart in members}
    key = members[0].key
    if len(members) > 1:
        key = _chosen("Figure", titles, f"{_KEY}of.{key}")
    chart = next(chart for chart in members if chart.key == key)
    if len(members) == 1:
        widgets.small(f"{chart.title}.")
    widgets.drawing(claim_drawing(chart), f"claim.{members[0].key}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """Where one claim stands, as `verify --progress json` tells it; claim 0 is what comes before
    the first."""

    claim: int
    phase: str
    done: int
    of: int | None
    left_s: int | None
    verdict: Verdict | None
    doing: str = ""


Checking = Followed[ClaimState]


def read_claim(line: Mapping[str, Any], _: Mapping[int, ClaimState]) -> tuple[int, ClaimState]:
    """Raises TypeError for a line that is none."""
    state = ClaimState(**line)
    return state.claim, state


def start(claim: int) -> Checking:
    """Without a network or a download, and under two minutes for all claims together. Raises
    AlreadyRunningError."""
    arguments = ["verify", "small", "--quick", "--claims", str(claim)]
    return following.start("checking", read_claim, arguments)


# --- what is shown --------------------------------------------------------------------------------


def show_check() -> None:
    widgets.section("Check a claim here")
    titles = {claim.id: f"{claim.id}. {claim.title}" for claim in CLAIMS}
    chosen = _chosen("Claim", titles, "learn.claim")
    widgets.blocks([paragraph(next(claim.statement for claim in CLAIMS if claim.id == chosen))])
    widgets.small(
        "Trains a small model on bundled text, then checks the claim on it.",
        "This takes a minute or two; nothing is downloaded.",
    )
    lacking = missing()
    if lacking:
        widgets.note(
            "pip install 'lora-profiler[measure]' brings them.",
            heading=f"To check a claim, {', '.join(lacking)} must be installed here",
        )
    following.start_button(
        "Check this claim", "learn.start", lambda: start(chosen), disabled=bool(lacking)
    )
    following.show("checking", _going, _after)


def _going(running: Checking) -> None:
    following.under_way(
        running,
        "Checking",
        _progress(running),
        key="learn.cancel",
        ending="It is being ended.",
        tip="Ends the process; nothing is kept.",
    )


def _progress(running: Checking) -> Table:
    rows = [Row(cells=(state.phase, where(state))) for _, state in sorted(running.states.items())]
    return Table(columns=("", "now"), rows=tuple(rows) or (Row(cells=("", "starting")),), left=2)


def where(state: ClaimState) -> str:
    """Where a claim stands: 'training it, 21 of 150', or its verdict."""
    if state.verdict is not None:
        return CLAIM_VERDICT_LABELS[state.verdict]
    if not state.doing:
        return "beginning"
    return state.doing if state.of is None else f"{state.doing}, {state.done} of {state.of}"


def _after(ended: Checking) -> None:
    if ended.cancelled:
        widgets.section("Cancelled")
    refusal = ended.refusal()
    if refusal is not None:
        widgets.problem(*refusal.splitlines(), heading="Nothing was checked")
    elif ended.document is not None:
        note = ended.document["model"]["note"]
        for claim in ended.document["claims"]:
            widgets.blocks(claim_blocks(claim))
        if note:
            widgets.caution(note)
    widgets.small(f"{ended.command}; took {clock_text(ended.seconds)}")
