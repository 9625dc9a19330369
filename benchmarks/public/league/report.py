"""The league as Markdown: the results with every row, and the page of the docs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.public.league.ours import COMMAND, REPLAY
from benchmarks.public.league.scores import OURS, Pair, Row, Score, error, errors, pair, score, wins

COMMAND_LINE = "python -m benchmarks.public.league --write"
METHODS = ("full", "lora", "qlora")
NAMES = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}
GIB = 2**30
TITLE = "The league"
Document = Mapping[str, Any]
Block = str | list[str]


def report(document: Document) -> str:
    """`results/league.md`."""
    return page_of(TITLE, *_head(document), *_body(document), *_rows(document))


def page(document: Document) -> str:
    """`docs/league.md`: all but the rows, which the results have."""
    return page_of(
        TITLE,
        *_head(document),
        *_body(document),
        "Every row with every answer is in `benchmarks/results/league.md`, and in `league.json`.",
    )


def _head(document: Document) -> Iterator[Block]:
    rows, rivals = document["rows"], document["rivals"]
    yield (
        f"{len(rivals)} other estimators of fine-tuning memory, each run by its own code, and this"
        f" project twice, on the same {len(rows)} peaks that others measured and published. Twice:"
        " the command as a user types it, in the versions and with the kernels that the source"
        " publishes, and the replay of what ran. Errors are (predicted - measured) / measured. No"
        " constant of ours was fitted to any of these rows, but rules of older versions and of"
        " kernels were written with their errors in sight; what is known of the others' is said"
        " below."
    )
    yield (
        f"Written by `{COMMAND_LINE}` in {_minutes(document['asking_seconds'])} on two shared"
        " cores. Before, pip needs a quarter of an hour or more for an environment per estimator."
        " Python"
        f" {document['versions']['python']}, lora-profiler {document['versions']['lora-profiler']};"
        " the versions of everything installed are in `benchmarks/results/league.json`."
    )


def _body(document: Document) -> Iterator[Block]:
    rows: Sequence[Row] = document["rows"]
    plain = [row for row in rows if row["is_plain"] and row["quantity"] == "allocated"]
    other = [row for row in rows if not row["is_plain"] and row["quantity"] == "allocated"]
    reserved = [row for row in rows if row["quantity"] == "reserved"]
    yield from _wins(rows)
    yield from _pairs(document)
    yield "## By method: the libraries' own kernels"
    yield (
        "Allocated peaks of runs that plain options describe: the loss, norms and adapters of"
        " transformers, PEFT, LitGPT or torchtune themselves. An estimator is scored on the rows"
        " that it answers, which differ; the table before compares on the same ones. *Low* is how"
        " many were predicted too low: a run that ends for lack of memory."
    )
    yield from _scores(document, plain)
    yield "## By method: other kernels"
    yield (
        "Allocated peaks with Triton's or Liger's kernels, or compiled layers. Most estimators have"
        " no option for these, our command neither but for the fused loss. All get the question as"
        " if the libraries' own ran, or with Liger where they name it."
    )
    yield from _scores(document, other)
    yield "## Reserved bytes"
    yield (
        "What the allocator took from the driver. The rows of ms-swift are of texts of random"
        " lengths, and rise with the length by several times what the shapes explain; the replay"
        " gives a range, and is not scored."
    )
    yield from _scores(document, reserved)
    yield from _stacks(document)
    yield from _refusals(document)
    yield from _mappings(document)
    yield from _unasked(document)


def _wins(rows: Sequence[Row]) -> Iterator[Block]:
    found = list(wins(rows))
    yield "## Rows where another is nearer"
    yield (
        f"On {len(found)} of {len(rows)} rows at least one of the others is nearer than our command"
        " as typed, or it has no answer. Below: the nearest of them, how many are nearer, and"
        " what replaying the stack gives. The nearest of many is near by chance, too:"
        " the tables below hold each against all of its rows."
    )
    yield table(
        "measured | method, stack | >GiB | nearest other | >nearer | >our command | >our replay",
        (
            (
                _link(win.row),
                _ran(win.row),
                _gib(win.row),
                f"{win.name} {win.error:+.1%}",
                win.count,
                *(_cell(error(win.row, name)) for name in OURS),
            )
            for win in found
        ),
    )


def _pairs(document: Document) -> Iterator[Block]:
    yield "## On the same rows"
    yield (
        "Mean absolute error of each estimator and of our command on the rows that both answer,"
        " allocated and reserved, and on how many of them the estimator is nearer. *Plain* are the"
        " libraries' own kernels."
    )
    plain = [row for row in document["rows"] if row["is_plain"]]
    other = [row for row in document["rows"] if not row["is_plain"]]
    names = [rival["name"] for rival in document["rivals"]]
    yield table(
        "estimator | >plain rows | >its error | >ours | >nearer | >other rows | >its error |"
        " >ours | >nearer",
        ((name, *_pair(pair(plain, name)), *_pair(pair(other, name))) for name in names),
    )


def _pair(found: Pair | None) -> tuple[object, ...]:
    if found is None:
        return 0, "-", "-", "-"
    return found.rows, f"{found.mean:.1%}", f"{found.ours:.1%}", found.nearer


def _scores(document: Document, rows: Sequence[Row]) -> Iterator[Block]:
    lines = []
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        found = [(name, score(own, name)) for name in _names(document)]
        scored = [(name, s) for name, s in found if s is not None]
        for name, s in sorted(scored, key=lambda each: each[1].mean):
            lines.append((NAMES[method], _bold(name), *_score(s)))
    yield table(
        "method | estimator | >answered | >mean | >median | >worst under | >worst over |"
        " >within 10 % | >bias | >low",
        lines,
    )


def _score(s: Score) -> tuple[object, ...]:
    cells = (f"{s.answered} of {s.asked}", f"{s.mean:.1%}", f"{s.median:.1%}")
    return *cells, _or_none(s.under), _or_none(s.over), s.near, f"{s.bias:+.1%}", s.low


def _stacks(document: Document) -> Iterator[Block]:
    yield "## By stack"
    yield (
        "Mean absolute error, with the number of rows answered in brackets; a dash where none is."
    )
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in document["rows"]:
        groups[row["quantity"], row["method"], row["stack"] + _cards(row)].append(row)
    keys = sorted(groups, key=lambda key: (key[0], METHODS.index(key[1]), key[2]))
    names = _names(document)
    lines = []
    for key in keys:
        quantity, method, stack = key
        cells = []
        for name in names:
            found = [abs(e) for e in errors(groups[key], name)]
            cells.append(f"{sum(found) / len(found):.1%} ({len(found)})" if found else "-")
        lines.append((f"{quantity}, {NAMES[method]}, {stack}", len(groups[key]), *cells))
    yield table(f"peak, method, stack | >rows | {_right(names)}", lines)


def _refusals(document: Document) -> Iterator[Block]:
    yield "## What each refuses"
    yield [_refused(document["rows"], name) for name in _names(document)]


def _refused(rows: Sequence[Row], name: str) -> str:
    answers = (row["answers"][name] for row in rows)
    reasons = Counter(_plain(answer["refused"]) for answer in answers if "refused" in answer)
    said = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
    return f"- **{name}**: {said or 'nothing'}."


def _mappings(document: Document) -> Iterator[Block]:
    yield "## The question each got"
    yield (
        "The most favourable reading of its options that is still what ran. All are given the same"
        " config.json. What no option of it says is left out of the question."
    )
    yield [*(line for rival in document["rivals"] for line in _mapping(rival)), *_OF_OURS]


def _mapping(rival: Mapping[str, Any]) -> Iterator[str]:
    yield f"- **[{rival['name']}]({rival['url']})**, `{rival['requirement']}`: {rival['mapping']}."
    yield f"  Read: {rival['total']}. No option for: {', '.join(rival['lacks'])}."
    if rival["calibrated"]:
        yield f"  Calibration: {rival['calibrated']}."


_OF_OURS = (
    f"- **{COMMAND}**: the words of `benchmarks/public/typed.py`, written down before any"
    " error was seen. Added later: `--loss plain` of torchtune's runs without chunks, and the"
    " versions (`--trainer transformers@4.48`, `litgpt@2023.10`), kernels, checkpointing and"
    " FSDP that options have come to name. Each is as the source publishes it. Read: the steady"
    " peak that it prints; reserved: that and the overhead without the context.",
    f"- **{REPLAY}**: `benchmarks/results/public_accuracy.md`. It runs the code"
    " of the versions and kernels that ran, on tensors without data, and counts what the row's"
    " counter counted.",
)


def _unasked(document: Document) -> Iterator[Block]:
    yield "## Rows left out"
    yield [
        f"- {each['reason']}: {each['rows']} peaks, {each['example']} for one."
        for each in document["unasked"]
    ]
    yield "Estimators looked at and left out:"
    yield [f"- {name}: {why}." for name, why in document["looked_at"].items()]


def _rows(document: Document) -> Iterator[Block]:
    names = _names(document)
    yield "## Rows"
    lines = []
    for row in document["rows"]:
        cells = (_cell(error(row, name)) for name in names)
        ours = row["answers"][COMMAND]
        asked = f"{ours['words']} ({ours['described']})"
        lines.append((_link(row), f"{_ran(row)}, {row['quantity']}", _gib(row), *cells, asked))
    heads = f"measured | method, stack | >GiB | {_right(names)} | our command"
    yield table(heads, lines)


def _names(document: Document) -> list[str]:
    """Ours first."""
    return [*OURS, *(rival["name"] for rival in document["rivals"])]


def _right(names: Sequence[str]) -> str:
    """Heads of columns of numbers."""
    return " | ".join(f">{name}" for name in names)


def _gib(row: Row) -> str:
    return f"{row['measured_bytes'] / GIB:.2f}"


def _bold(name: str) -> str:
    return f"**{name}**" if name in OURS else name


def _link(row: Row) -> str:
    return f"[{row['id']}]({row['url']})"


def _ran(row: Row) -> str:
    return f"{NAMES[row['method']]}, {row['stack']}{_cards(row)}"


def _cards(row: Row) -> str:
    return f", {row['cards']} GPUs" if row["sharding"] == "fsdp" else ""


def _cell(e: float | None) -> str:
    return "refused" if e is None else f"{e:+.1%}"


def _or_none(e: float) -> str:
    return f"{e:+.1%}" if e else "-"


def _plain(text: str) -> str:
    """A refusal in its own words, as Markdown that stays one item."""
    return text.rstrip(".").replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _minutes(seconds: int) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds} seconds"
