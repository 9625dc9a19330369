"""Two documents of `lora-profile predict --format json`, before and after: what each prediction
became, for people and for a limit in CI."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lora_profiler.errors import UsageError
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Table, VerdictLine, dim, filled, table
from lora_profiler.report.json import SCHEMA_VERSION, picked
from lora_profiler.units import bytes_texts, change_text, count_text, percent_text, seconds_text

MOST_BYTES: Final = 64 << 20
"""Of a document; one prediction of a large model with all its layers is 0.4 MB."""
JUDGED: Final = ("peak_requested_bytes", "step_seconds")
"""What --fail-above looks at, as with two sets of records."""
_NUMBERS: Final[Mapping[str, tuple[str, tuple[str, ...], int]]] = {
    "peak_requested_bytes": ("peak", ("peak", "total_bytes"), 1),
    "overhead_bytes": ("overhead", ("fit", "reserve_bytes"), 0),
    "free_bytes": ("free on the GPU", ("fit", "headroom_bytes"), 0),
    "step_seconds": ("one step", ("step_time", "seconds"), 1),
    "tokens_per_second": ("tokens/s", ("step_time", "tokens_per_second"), -1),
    "largest_batch_size": ("largest batch that fits", ("fit", "largest_batch_size"), 0),
}
"""By metric: its name, where it is, and whether more of it is worse (1) or better (-1); 0 where it
follows from others."""
METRICS: Final = tuple(name for name, (*_, direction) in _NUMBERS.items() if direction)
"""Those that a limit can be set on."""
_ORDER: Final = ("fits", "tight", "does_not_fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value that differs. `prediction` names the method and model, `name` the metric, 'verdict'
    or an option of the setup; `worse` is the relative change for the worse, None where none can be
    said."""

    prediction: str
    name: str
    before: Any
    after: Any
    worse: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """`compared` predictions are in both documents, the others in one alone."""

    compared: int
    found: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def predictions_in(path: Path) -> list[dict[str, Any]] | None:
    """The predictions of a document, None where the file is none. Raises UsageError for one that
    has no prediction."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        found = json.loads(content) if len(content) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "predictions" not in found:
        return None
    rows = found["predictions"]
    if not isinstance(rows, list) or not rows or not all(_is_prediction(row) for row in rows):
        raise UsageError(
            f"{path} has no predictions; write it by `lora-profile MODEL --format json -o {path}`"
        )
    return rows


def _is_prediction(row: Any) -> bool:
    wanted = (("model", "id", str), ("setup", "method", str), ("peak", "total_bytes", int))
    return all(isinstance(_at(row, (part, name)), kind) for part, name, kind in wanted)


def differences(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Differences:
    """Predictions of one model by one method are the same prediction, the first the first."""
    first, second = _named(before), _named(after)
    both = [name for name in first if name in second]
    return Differences(
        compared=len(both),
        found=tuple(d for name in both for d in between(first[name], second[name], name)),
        only_before=tuple(name for name in first if name not in second),
        only_after=tuple(name for name in second if name not in first),
    )


def _named(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    named: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = f"{labels.METHOD_LABELS.get(row['setup']['method'], '')} {row['model']['id']}"
        same = sum(other == name or other.startswith(f"{name} (") for other in named)
        named[f"{name} ({same + 1})" if same else name] = row
    return named


def between(
    before: Mapping[str, Any], after: Mapping[str, Any], name: str = ""
) -> Iterator[Difference]:
    """What differs between two predictions; `name` is what both are called."""
    one, other = (_at(row, ("fit", "verdict")) for row in (before, after))
    if one != other:
        is_lost = one in _ORDER and other not in _ORDER
        is_worse = is_lost or (one in _ORDER and _ORDER.index(other) > _ORDER.index(one))
        worse = float("inf") if is_worse else None
        yield Difference(prediction=name, name="verdict", before=one, after=other, worse=worse)
    for metric, (_, place, direction) in _NUMBERS.items():
        a, b = _number(before, place), _number(after, place)
        if a != b:
            change = direction * (b / a - 1) if direction and a and b is not None else None
            if direction and a and b is None:
                change = float("inf")
            yield Difference(prediction=name, name=metric, before=a, after=b, worse=change)
    a, b = (_at(row, ("fit", "gpu")) for row in (before, after))
    if a != b:
        yield Difference(prediction=name, name="GPU", before=a, after=b)
    for part in ("setup", "trainer", "platform"):
        a, b = before.get(part) or {}, after.get(part) or {}
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for key in (key for key in a if key in b):
                if a[key] != b[key] and key != "from_stack":
                    label = key.replace("_", " ") if part == "setup" else f"{part} {key}"
                    yield Difference(prediction=name, name=label, before=a[key], after=b[key])


def _at(row: Any, place: Sequence[str]) -> Any:
    for key in place:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _number(row: Mapping[str, Any], place: Sequence[str]) -> Any:
    value = _at(row, place)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def too_much(found: Differences, metrics: Sequence[str], limit: float) -> list[str]:
    """A sentence for each prediction that got worse by more than `limit`, that fits no longer, or
    that is gone."""
    sentences = [f"{name} is no longer predicted." for name in found.only_before]
    for each in found.found:
        if each.worse is None or each.worse <= limit:
            continue
        if each.name == "verdict":
            before, after = (
                labels.VERDICT_LABELS.get(v, "no verdict") for v in (each.before, each.after)
            )
            sentences.append(f"{each.prediction}: {after}; before: {before}.")
        elif each.name in metrics:
            label, more = _NUMBERS[each.name][0], "lower" if _NUMBERS[each.name][2] < 0 else "more"
            change = f"{percent_text(each.worse)} {more}"
            if each.after is None:
                change = "is no longer predicted"
            sentences.append(f"{each.prediction}: {label} {change}.")
    return sentences


# --- for people, and for programs -----------------------------------------------------------------


def difference_blocks(found: Differences, metrics: Sequence[str]) -> list[Block]:
    """The verdict by `metrics`, then a row for each value that differs."""
    count = f"{count_text(found.compared)} prediction{'s' if found.compared != 1 else ''}"
    judged = {*metrics, "verdict"}
    worse = [each for each in found.found if each.name in judged and (each.worse or 0) > 0]
    changed = len({each.prediction for each in found.found})
    if not found.compared:
        head = VerdictLine(sign="tight", words="No prediction is in both files.")
    elif not found.found:
        head = VerdictLine(sign="fits", words="Nothing changed", rest=f" in {count}.")
    else:
        number = count_text(len({each.prediction for each in worse})) if worse else "none"
        words = f"{count_text(changed)} of {count} changed;"
        rest = f" {number} got worse."
        head = VerdictLine(sign="tight" if worse else "fits", words=words, rest=rest)
    blocks: list[Block] = [head]
    if found.found:
        blocks.append(difference_table(found.found))
    for word, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            blocks.append(dim(f"Only {word}: {', '.join(names)}."))
    return blocks


def difference_table(
    found: Iterable[Difference], before: str = "before", after: str = "after"
) -> Table:
    columns = (
        ("prediction", lambda each: each.prediction),
        ("", lambda each: _NUMBERS[each.name][0] if each.name in _NUMBERS else each.name),
        (before, lambda each: _texts(each)[0]),
        (after, lambda each: _texts(each)[1]),
        ("change", lambda each: _texts(each)[2]),
    )
    return filled(table(found, columns, left=2))


def _texts(each: Difference) -> tuple[str, str, str]:
    a, b = each.before, each.after
    if each.name == "verdict":
        words = [labels.VERDICT_LABELS.get(value, "not known") for value in (a, b)]
        return words[0], words[1], ""
    if each.name not in _NUMBERS:
        return _word(a), _word(b), ""
    change = change_text(b / a - 1) if (a or 0) > 0 and (b or 0) > 0 else ""
    if each.name.endswith("_bytes"):
        first, second = bytes_texts([a, b])
        return first, second, change
    text = seconds_text if each.name == "step_seconds" else "{:,.0f}".format
    first, second = ("not known" if value is None else text(value) for value in (a, b))
    return first, second, change


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def difference_payload(found: Differences) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "compared": found.compared,
        "changes": difference_records(found),
        "only_before": list(found.only_before),
        "only_after": list(found.only_after),
    }


def difference_records(found: Differences) -> list[dict[str, Any]]:
    return [
        picked(each, "prediction name before after") | {"is_worse": (each.worse or 0) > 0}
        for each in found.found
    ]
