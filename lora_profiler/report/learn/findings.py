"""What a run of `verify` found, as the plain data that faces show: verdicts, sentences and charts.

That of the committed run on SmolLM2-135M lies beside this file; `python -m benchmarks.mathematics
--render` writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from lora_profiler.report.claims.claim import Chart, Verdict
from lora_profiler.report.claims.document import document_charts, evidence_of, subject_lines

FILE = "findings.json"
_DIGITS = 7
"""Of a number in a chart: as many as it takes to say it to a hundredth of a percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFound:
    """One claim, its verdict, and what was found in one line of numbers and in sentences."""

    id: int
    title: str
    statement: str
    must_hold: bool
    verdict: Verdict
    headline: str
    finding: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A whole run. `lines` say what was looked at, and with what."""

    model: str
    lines: tuple[str, ...]
    claims: tuple[ClaimFound, ...]
    charts: tuple[Chart, ...]


def findings(document: Mapping[str, Any]) -> Findings:
    """Those of a document of `report.claims`, fresh or read from a file."""
    note, names = document["model"]["note"], ("id", "title", "statement", "must_hold", "verdict")
    return Findings(
        model=document["model"]["id"],
        lines=(*subject_lines(document), *([note] if note else [])),
        claims=tuple(
            ClaimFound(
                **{name: claim[name] for name in names},
                headline=evidence_of(claim).headline,
                finding=tuple(claim["finding"]),
            )
            for claim in document["claims"]
        ),
        charts=document_charts(document),
    )


def committed_findings() -> Findings | None:
    """Those of the committed run; None where this installation has none."""
    file = files("lora_profiler.report.learn").joinpath(FILE)
    return from_json(file.read_text("utf-8")) if file.is_file() else None


def to_json(content: Findings) -> str:
    """The text of the file, one chart a line."""
    document = _short(asdict(content))
    lines = [f'"{name}": {json.dumps(document[name])}' for name in ("model", "lines")]
    for name in ("claims", "charts"):
        items = ",\n".join(map(json.dumps, document[name]))
        lines.append(f'"{name}": [\n{items}\n]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def from_json(text: str) -> Findings:
    """The findings that `to_json` wrote."""
    import msgspec

    return msgspec.json.decode(text, type=Findings)
