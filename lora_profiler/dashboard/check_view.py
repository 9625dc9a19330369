"""One claim checked live: `lora-profile verify` on the small model that it trains on the spot, in a
process of its own, followed while it goes, and its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import streamlit as st

from lora_profiler.dashboard import followed_view, following, widgets
from lora_profiler.dashboard.following import Followed
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Verdict
from lora_profiler.report.claims.document import claim_blocks
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.units import clock_text

NEEDED = ("torch", "transformers", "peft")
INSTALL = "pip install 'lora-profiler[measure]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """Where one claim stands, as `verify --progress json` tells it; claim 0 is what comes before
    the first."""

    claim: int
    title: str
    doing: str
    done: int
    total: int | None
    verdict: Verdict | None


Checking = Followed[ClaimState]


def missing() -> list[str]:
    """What a check needs and is not installed. Nothing is imported to find out."""
    return [name for name in NEEDED if find_spec(name) is None]


def check_arguments(claim: int) -> list[str]:
    """What to give `lora-profile`: no network, no download, and under two minutes for all claims
    together."""
    return ["verify", "small", "--quick", "--claims", str(claim)]


def read_claim(line: Mapping[str, Any], _: Mapping[int, ClaimState]) -> tuple[int, ClaimState]:
    """Raises TypeError for a line that is none."""
    state = ClaimState(**line)
    return state.claim, state


def present() -> Checking | None:
    """The check that goes on, or the last one that did; None where there was none."""
    return following.present("checking")


def start(claim: int) -> Checking:
    """Raises AlreadyRunningError."""
    arguments = check_arguments(claim)
    return following.start(
        "checking", read_claim, [*arguments, "--progress", "json", "--format", "json"], arguments
    )


# --- what is shown --------------------------------------------------------------------------------


def show() -> None:
    widgets.section("Check a claim here")
    titles = {claim.id: f"{claim.id}. {claim.title}" for claim in CLAIMS}
    chosen = st.selectbox(
        "Claim",
        list(titles),
        key="learn.claim",
        format_func=titles.__getitem__,
        persist_state="session",
    )
    widgets.blocks([paragraph(next(claim.statement for claim in CLAIMS if claim.id == chosen))])
    widgets.small(
        "Trains a small model on the spot on bundled text in a process of its own, then checks the"
        " claim on it. A minute or two; nothing is downloaded."
    )
    lacking = missing()
    if lacking:
        widgets.note(
            f"{INSTALL} brings them.",
            heading=f"To check a claim, {', '.join(lacking)} must be installed here",
        )
    followed_view.start_button(
        "Check this claim", "learn.start", lambda: start(chosen), disabled=bool(lacking)
    )
    followed_view.show("checking", _going, _after)


def _going(running: Checking) -> None:
    followed_view.under_way(
        running,
        "Checking",
        _progress(running),
        key="learn.cancel",
        ending="It is being ended.",
        tip="Ends the process; nothing is kept.",
    )


def _progress(running: Checking) -> Table:
    rows = [Row(cells=(state.title, where(state))) for _, state in sorted(running.states.items())]
    return Table(columns=("", "now"), rows=tuple(rows) or (Row(cells=("", "starting")),), left=2)


def where(state: ClaimState) -> str:
    """Where a claim stands: 'training it, 21 of 150', or its verdict."""
    if state.verdict is not None:
        return CLAIM_VERDICT_LABELS[state.verdict]
    if not state.doing:
        return "beginning"
    return state.doing if state.total is None else f"{state.doing}, {state.done} of {state.total}"


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
