"""The seven claims, and what a check of one of them finds. Needs no torch, so that faces may read
it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Verdict = Literal["holds", "holds_partly", "fails"]
VERDICTS: tuple[Verdict, ...] = Verdict.__args__  # type: ignore[attr-defined]  # typing has no public accessor on an alias

Tell = Callable[[str, int, int], None]
"""(what is being done, parts done, parts in all): a check says with it how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is said of LoRA. One that `must_hold` is an identity: where it fails, the code that runs
    is not LoRA."""

    id: int
    title: str
    statement: str
    must_hold: bool = False


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id=1,
        title="Size of the update",
        statement=(
            "Fine-tuning a dense layer learns an update as large as its weight, d x k numbers; LoRA"
            " learns B (d x r) and A (r x k) instead, r (d + k) numbers, far fewer while r is far"
            " below d and k."
        ),
    ),
    Claim(
        id=2,
        title="Shape and merge",
        statement=(
            "(alpha / r) B A has the shape of W and adds to it element by element: merged and"
            " unmerged, a layer gives the same output up to the rounding of its dtype."
        ),
        must_hold=True,
    ),
    Claim(
        id=3,
        title="Forward path",
        statement=(
            "The input goes through the frozen weight and the adapter at once: h = W x + (alpha /"
            " r) B (A x)."
        ),
        must_hold=True,
    ),
    Claim(
        id=4,
        title="Initialisation",
        statement=(
            "A starts Gaussian and B zero, so that training starts exactly from the base model."
        ),
        must_hold=True,
    ),
    Claim(
        id=5,
        title="Scaling",
        statement=(
            "Scaling by alpha / r lets one change the rank without retuning the learning rate."
        ),
    ),
    Claim(
        id=6,
        title="Intrinsic dimension",
        statement=(
            "The update that fine-tuning learns has a low rank in effect: a product of two thin"
            " matrices holds most of what it gains."
        ),
    ),
    Claim(
        id=7,
        title="Memory and speed",
        statement=(
            "Adam keeps two running averages for every trained number, so that training fewer of"
            " them takes less memory."
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the check of one claim found. `sentences` say it in words, `evidence` in numbers that
    JSON can hold."""

    verdict: Verdict
    sentences: tuple[str, ...]
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A claim, what was found, and how long it took."""

    claim: Claim
    finding: Finding
    seconds: float

    @property
    def is_broken(self) -> bool:
        """Whether what must hold exactly does not."""
        return self.claim.must_hold and self.finding.verdict == "fails"


class Watch(Protocol):
    """Whoever is told how far the checks are."""

    def begin(self, claim: Claim) -> Tell:
        """A claim's check begins; what comes back is told how far it is."""

    def end(self, checked: Checked) -> None:
        """It is done."""
