"""A claim checked live: `lora-profile verify` on the small model that it trains on the spot, in a
process of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lora_profiler.dashboard import following
from lora_profiler.dashboard.following import Followed
from lora_profiler.report.claims.claim import Verdict

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


def read_claim(line: Mapping[str, Any]) -> tuple[int, ClaimState]:
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
