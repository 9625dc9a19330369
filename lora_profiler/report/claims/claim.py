"""What a claim is made of, and what a check of one finds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, Self, TypeVar

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims.chart import Chart

Verdict = Literal["holds", "holds_partly", "fails"]

Tell = Callable[[str, int, int], None]
"""(what is being done, parts done, parts in all): a check says with it how far it is."""


class Evidence(ABC):
    """What a check measured. Each claim has a frozen dataclass of its own, with the field names of
    the JSON document; a field that is None and has None as its default is left out of the document.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def verdict(self) -> Verdict: ...

    @property
    @abstractmethod
    def sentences(self) -> tuple[str, ...]:
        """The evidence in words."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The numbers that say most, in one line."""

    @abstractmethod
    def tables(self) -> tuple[Table, ...]: ...

    def charts(self) -> tuple[Chart, ...]:
        return ()

    def finding(self) -> "Finding[Self]":
        return Finding(verdict=self.verdict, sentences=self.sentences, evidence=self)


E_co = TypeVar("E_co", bound=Evidence, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Generic[E_co]):
    """What the check of one claim found: as it was judged and said at the time, and in numbers."""

    verdict: Verdict
    sentences: tuple[str, ...]
    evidence: E_co


Caption = Callable[[Chart], tuple[str, ...]]
"""What is to be seen in a chart, in sentences worked out from its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is said of LoRA. One that `must_hold` is an identity: where it fails, the code that runs
    is not LoRA. One that `trains_in_full` needs gradients and optimizer states of the whole model.

    `figures` has for each heading of a page the charts that stand under it, by the beginning of
    their keys, with their captions; the first beginning that fits is taken.
    """

    id: int
    title: str
    statement: str
    evidence: type[Evidence]
    must_hold: bool = False
    trains_in_full: bool = False
    figures: Mapping[str, Mapping[str, Caption]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A claim, what was found, and how long it took."""

    claim: Claim
    finding: Finding[Evidence]
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
