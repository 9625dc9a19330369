"""Public rows that no workload and stack of the package say, and why."""

from dataclasses import dataclass

from lora_profiler.evidence.documents import Kind, document


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexpressed:
    """As many `rows` are left out for one `reason`; `example` is the id of the first."""

    reason: str
    rows: int
    example: str


def unexpressed(kind: Kind) -> tuple[Unexpressed, ...]:
    return tuple(Unexpressed(**each) for each in document(kind)["left_out"])
