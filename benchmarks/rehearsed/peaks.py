"""Peaks of others' training code, rehearsed, beside predicted ones: what `rehearsed.trainers`,
`rehearsed.files` and `rehearsed.frameworks` do alike. A row of theirs has `requested_bytes` and
`workspaces_bytes` where the rehearsal went through, `predicted_bytes` and `exactness` where there
is an answer, else `error` and `refused`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.pages import RESULTS, table
from benchmarks.rows import Row
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import Workload

SAID = ("predicted_bytes", "exactness", "error_bound", "is_lower_bound", "refused")
"""What a row has of the prediction."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """`heads` and `cells` are of the columns that name a run, `named` names it in a list; `says` is
    what the answer claims. `group` is by what runs are summed up."""

    name: str
    heads: str
    cells: Callable[[Row], Sequence[str]]
    named: Callable[[Row], str]
    says: Callable[[Row], str] = lambda row: str(row["exactness"])
    counted: Callable[[Row], int] = lambda row: row["requested_bytes"] - row["workspaces_bytes"]
    group: tuple[str, Callable[[Row], str]] = ("", lambda row: "")

    @property
    def rows(self) -> Path:
        return RESULTS / f"{self.name}.jsonl"

    def error(self, row: Row) -> float:
        return float(row["predicted_bytes"] / self.counted(row) - 1)

    def worst_first(self, rows: Iterable[Row]) -> list[Row]:
        """Those that are to be compared."""
        return sorted(compared(rows), key=lambda row: -abs(self.error(row)))

    def summary(self, rows: Iterable[Row], *, with_case: bool = False) -> list[str]:
        """A table by group and by what the answer says."""
        head, group = self.group
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in compared(rows):
            groups.setdefault((group(row), self.says(row)), []).append(row)
        lines = []
        for (name, says), found in sorted(groups.items()):
            errors = [self.error(row) for row in found]
            worst = max(found, key=lambda row: abs(self.error(row)))
            sizes = f"{100 * mean(map(abs, errors)):.3f} %", f"{100 * self.error(worst):+.3f} %"
            case = (self.named(worst),) if with_case else ()
            lines.append((name, says, len(found), errors.count(0), *sizes, *case))
        heads = f"{head} | the answer says | >runs | >equal | >mean error | >worst"
        return table(f"{heads} | worst case" if with_case else heads, lines)

    def every_run(self, rows: Iterable[Row]) -> list[str]:
        heads = f"{self.heads} | >rehearsed | >predicted | says | >error"
        return table(heads, map(self._cells, self.worst_first(rows)))

    def _cells(self, row: Row) -> tuple[str, ...]:
        sizes = f"{self.counted(row):,}", f"{row['predicted_bytes']:,}"
        return (*self.cells(row), *sizes, self.says(row), f"{100 * self.error(row):+.4f} %")

    def others(self, rows: Iterable[Row]) -> list[str]:
        """A section of those that are not compared, nothing where there are none."""
        left = [row for row in rows if not _is_compared(row)]
        lines = "\n".join(f"- {self.named(row)}: {_why(row)}" for row in left)
        return ["## What did not run, or is not predicted", lines] if left else []


def compared(rows: Iterable[Row]) -> list[Row]:
    """Those that ran through and are predicted."""
    return [row for row in rows if _is_compared(row)]


def _is_compared(row: Row) -> bool:
    return row["status"] == "done" and "predicted_bytes" in row


def _why(row: Row) -> str:
    return " ".join(str(row.get("error") or row.get("refused")).split())


def predicted(question: Callable[[], Workload]) -> dict[str, Any]:
    """By what is bundled: nothing is traced. To ask may be refused as well."""
    try:
        answer = predict(question(), may_trace=False)
    except LoraProfilerError as error:
        return {"refused": str(error)}
    return {
        "predicted_bytes": answer.peak.total_bytes,
        "exactness": answer.exactness,
        "error_bound": answer.error_bound,
    }


def predicted_anew(row: Row, said: Mapping[str, Any]) -> dict[str, Any]:
    """The row with `said` in place of what it has of the prediction."""
    return {**{name: value for name, value in row.items() if name not in SAID}, **said}
