"""Training scripts of other projects, as they document them, on a simulated GPU that suits and on
one that is small: how many ran, and why the others did not.

    python -m benchmarks.rehearsed.scripts CHECKOUTS --python PYTHON [--limit N] [--minutes M]

CHECKOUTS has a clone of each project of `PROJECTS`, at the commit to try; PYTHON is of an
environment with a CUDA build of torch and what the scripts import. Every script is rehearsed one
at a time with `--pretend-data --no-time`, in a copy of the clone, and ended after `--minutes`.
Writes `results/scripts.jsonl`, a row as each ends, and `results/scripts.md`; what has a row is not
run again. Those that ran are rehearsed on the small GPU by the next call. --again writes the page
anew and runs nothing.
"""

import json
import os
import re
import shutil
import subprocess
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, NamedTuple

import psutil
from PIL import Image

from benchmarks.pages import page_of, table
from benchmarks.rehearsed.documented_commands import Documented, documented, interleaved
from benchmarks.rehearsing import ROOT, rehearsal_command
from benchmarks.rows import Row, read_rows
from benchmarks.runner import Asked, Rows
from lora_profiler.units import error_text, percent_text

SUITS, SMALL = "h100_sxm_80gb", "t4"
MOST_RANKS = 2
HOST_BYTES = 12 << 30


class Project(NamedTuple):
    """`folders` of its training scripts; `entry`: of those that its own command starts."""

    folders: tuple[str, ...]
    entry: str | None = None


PROJECTS: Mapping[str, Project] = {
    "trl": Project(("examples/scripts", "trl/scripts"), "trl/scripts"),
    "peft": Project(("examples",)),
    "accelerate": Project(("examples",)),
    "sentence-transformers": Project(("examples",)),
    "diffusers": Project(("examples",)),
    "pytorch-image-models": Project(("",)),
    "nanoGPT": Project(("",)),
    "nanochat": Project(("scripts",)),
    "pytorch-examples": Project((".",)),
    "alignment-handbook": Project(("scripts",)),
    "qlora": Project(("",)),
    "alpaca-lora": Project(("",)),
    "minGPT": Project(("projects",)),
    "litgpt": Project(("tutorials",)),
}


class Fault(NamedTuple):
    """`whose`: "product", "script" (its files, arguments or age), "environment" (a package, a
    network, a second machine), or "values" (what a rehearsal does not know by design)."""

    whose: str
    kind: str


_PACKAGE = Fault("environment", "a package is not installed")
_HUB = Fault("product", "no replacement for what the hub would send")
_AGE = Fault("script", "written for other versions of its libraries")
_COMMAND = Fault("script", "its documented command does not run on one GPU")
_NO_TRAINING = Fault("script", "ends before it trains")
_NO_GPU = Fault("script", "ends without using the GPU")
_OWN_ERROR = Fault("script", "an error of its own, with real data on any GPU")
_LOOKED_INTO = {
    # repeats pixel values as if they had four dimensions; SmolVLM's processor stacks five
    ("trl", "examples/scripts/online_dpo_vlm.py"): "repeat dims can not be smaller",
    # concatenates data sets with columns "docs" and "positive", which leaves None in both
    (
        "sentence-transformers",
        "examples/cross_encoder/training/ms_marco/training_ms_marco_lambda_hard_neg.py",
    ): "'NoneType' has no len",
}
"""Scripts whose error was read to its end -> words of that error."""
_FAULTS: tuple[tuple[str, Fault], ...] = (
    (
        "this machine's( own)? memory|SIGKILL",
        Fault("environment", "more memory of this machine than 12 GiB"),
    ),
    ("still running after", Fault("product", "no answer within the limit of time")),
    ("cusolver|svd|geqrf", Fault("values", "QR, SVD or eigenvalues on the GPU")),
    (
        "SHiRA indices|last_mean should not be None",
        Fault("values", "an initialisation that reads values of the GPU"),
    ),
    ("ModuleNotFoundError|No module named", _PACKAGE),
    ("([Rr]equire|need|[Pp]lease|must).{0,60}install|not installed|xformers|flash.attn", _PACKAGE),
    ("seem to be installed|Make sure to install|use a version >=", _PACKAGE),
    ("[Vv]llm|[Dd]eep[Ss]peed|[Mm]egatron", _PACKAGE),
    ("cannot import name|unexpected keyword argument|has no attribute|deprecated", _AGE),
    ("features can't be aligned", _AGE),  # pandas 3 made strings large_string
    ("float != c10::Half", _AGE),  # a column of halves has floats since pyarrow 21
    (r"for \+: 'Column' and 'list'", _AGE),  # a column was a list before datasets 4
    ("expected one argument|[Rr]e-run with --|requires setting mixed_precision", _COMMAND),
    ("unscale FP16 gradients|must be divisible by num_generations|stat: path should", _COMMAND),
    ("invalid device ordinal", _COMMAND),
    ("exit (code|status) 2|[Ee]ither a dataset|RANK expected|not used by the Hf", _COMMAND),
    ("host='(?!huggingface)", Fault("environment", "a download from another site than the hub")),
    ("Connect|Offline|LocalEntryNotFound|cached files|Max retries|URLError|module script", _HUB),
    (
        "FileNotFound|No such file|directory does not exist",
        Fault("script", "reads files that it does not bring"),
    ),
)
"""Of an error's type and words; the first that matches. Others are the product's."""


def fault_of(row: Row) -> Fault | None:
    """None where it reached a verdict, which running out of memory is one."""
    if row["exit_code"] in (0, 1) and row.get("status") != "error":
        return _NO_GPU if row.get("reserved_bytes") == 0 else None
    own = _LOOKED_INTO.get((row.get("project", ""), row.get("script", "")))
    if own is not None and own in row["words"]:
        return _OWN_ERROR
    for pattern, fault in _FAULTS:
        if re.search(pattern, row["words"]):
            return fault
    if row.get("steps") and row.get("status") == "ended":
        return Fault("product", "simulated data for fewer than three steps")
    if "ended with exit code 0 before it used the GPU" in row["words"]:
        return _NO_GPU
    if row.get("status") == "ended" or "ended with exit code 0" in row["words"]:
        return _NO_TRAINING
    return Fault("product", "an error over simulated data or values")


def cases(checkouts: Path) -> list[Documented]:
    found = []
    for name, project in PROJECTS.items():
        checkout = checkouts / name
        if checkout.exists():
            each = documented(checkout, project.folders, project.entry)
            found.append([one for one in each if one.ranks(checkout) <= MOST_RANKS])
    return interleaved(found)


def _copied(checkout: Path, copy: Path) -> None:
    """Also of a clone whose history is not whole."""
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    for words in (("init", "-q"), ("add", "-fA")):
        _git(copy, *words)


def row_of(case: Documented, card: str, copies: Path, options: Any) -> dict[str, Any]:
    """One rehearsal in the copy of its project, which is as before afterwards."""
    copy = copies / case.repository
    count = case.ranks(copy)
    ranks = ("--gpus", str(count)) if count > 1 else ()
    began = time.monotonic()
    row: dict[str, Any] = key_fields(case, card) | {
        "commit": _git(options.checkouts / case.repository, "rev-parse", "HEAD"),
        "source": case.source, "ranks": count,
    }  # fmt: skip
    path = {"PYTHONPATH": f"{ROOT}:{_library(copy)}"}
    _provide(copy, case)
    words = rehearsal_command(
        options.python, card, case.words, "--pretend-data", "--no-time", *ranks,
        "--minutes", str(options.minutes),
    )  # fmt: skip
    environment = os.environ | case.environment | path
    try:
        for _ in range(2):
            done = _within(HOST_BYTES, words, copy / case.folder, environment)
            end = {"exit_code": done.returncode} | _outcome(done)
            if fault_of(end) not in (_NO_TRAINING, _NO_GPU):
                break  # others have prepared their data, and ask to be started again
    finally:
        _git(copy, "clean", "-fdxq", "-e", "__pycache__")
        _git(copy, "checkout", "-q", ".")
    return row | end | {"seconds": round(time.monotonic() - began)}


def _within(
    most_bytes: int, words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Ended where the script's processes hold more of this machine's memory."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        too_much = False
        while process.poll() is None:
            time.sleep(0.5)
            if not too_much and _private_bytes(process.pid) > most_bytes:
                too_much = True
                process.terminate()
        out.seek(0)
        err.seek(0)
        said = "error: more of this machine's memory than the limit" if too_much else err.read()
        return subprocess.CompletedProcess(words, process.returncode, out.read(), said)


def _private_bytes(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        for each in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                memory = each.memory_info()
                total += memory.rss - memory.shared
    return total


def _provide(copy: Path, case: Documented) -> None:
    """What a project has its readers fetch first: pictures of a subject, and `_FETCHED`."""
    command = " ".join(case.words)
    pictures = [copy / case.folder / name for name in re.findall(r"\./(\w+\.png)", command)]
    for folder in re.findall(r"--instance_data_dir[= ](\w+)", command):
        (copy / case.folder / folder).mkdir(exist_ok=True)
        pictures += [copy / case.folder / folder / f"{number}.png" for number in range(5)]
    for picture in pictures:
        Image.new("RGB", (1024, 1024)).save(picture)
    for place, write in _FETCHED.get(case.repository, {}).items():
        path = copy / place
        if path.is_relative_to(copy / case.folder) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)


def _write_tokens(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20_000_000)


def _write_words(path: Path) -> None:
    """As many words as wikitext-2 has, of as many kinds: the embedding has one row for each."""
    beside = [word for other in path.parent.glob("*.txt") for word in other.read_text().split()]
    known = dict.fromkeys(beside)
    kinds = [*known, *(f"word{number}" for number in range(33_278 - len(known)))]
    lines = (" ".join(kinds[at : at + 20]) for at in range(0, len(kinds), 20))
    text = "\n".join(lines) + "\n"
    path.write_text(text * (2_088_628 // len(kinds)), "utf-8")


def _write_papers(path: Path) -> None:
    """Cora's 2,708 papers with 1,433 words each, of 7 kinds."""
    rows = (f"{number} {'0 ' * 1432}1 kind{number % 7}\n" for number in range(2708))
    path.write_text("".join(rows), "utf-8")


def _write_citations(path: Path) -> None:
    rows = (f"{number % 2708} {(7 * number + 1) % 2708}\n" for number in range(5429))
    path.write_text("".join(rows), "utf-8")


def _write_pictures(folder: Path) -> None:
    """Of BSDS300's size: 200 to train on, 100 to test."""
    folder.mkdir()
    for number in range({"train": 200, "test": 100}[folder.name]):
        Image.new("RGB", (481, 321)).save(folder / f"{number}.png")


_FETCHED: Mapping[str, Mapping[str, Callable[[Path], None]]] = {
    "nanoGPT": dict.fromkeys(
        ("data/openwebtext/train.bin", "data/openwebtext/val.bin"), _write_tokens
    ),
    "pytorch-examples": {
        "word_language_model/data/wikitext-2/train.txt": _write_words,
        "gat/cora/cora.content": _write_papers,
        "gat/cora/cora.cites": _write_citations,
        "super_resolution/dataset/BSDS300/images/train": _write_pictures,
        "super_resolution/dataset/BSDS300/images/test": _write_pictures,
    },
}
"""Files that no clone has, or too large for a mirror of it."""


def _library(copy: Path) -> Path:
    """The project's own package, which its scripts are written for."""
    return copy / "src" if (copy / "src").exists() else copy


def _outcome(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    if not done.stdout.startswith("{"):
        lines = done.stderr.strip().splitlines()
        own = [line for line in lines if "Its own error" in line]
        if own and own[0].endswith(":"):  # a traceback of another process follows
            own = lines[lines.index(own[0]) :]
        last = " ".join(own or [line for line in lines if "error:" in line][-2:] or lines[-3:])
        return {"words": _plain(last, slice(-500, None))}  # a command comes before
    document = json.loads(done.stdout)
    ranks = document["ranks"]
    rank = max(ranks, key=lambda each: each["status"] != "done")
    error = rank["error"] or {}
    peak = rank["peaks"]["whole"] or {}
    nearest = document["nearest_prediction"] or {}
    return {
        "status": rank["status"],
        "words": _plain(f"{error['type']}: {error['message']}") if error else "",
        "where": _plain(" < ".join(error.get("where", ())[:2])),
        "steps": rank["steps"],
        "requested_bytes": peak.get("requested_bytes"),
        "reserved_bytes": peak.get("reserved_bytes"),
        "held_bytes": (rank["held"] or {}).get("requested_bytes"),
        "predicted": nearest.get("requested_bytes"),
        "exactness": nearest.get("exactness"),
        "doubt": _plain((nearest.get("doubts") or [nearest.get("reason", "")])[:1][0] or ""),
        "stood_in": [*rank["dtypes_of_holes"], *rank["data_stood_in"]],
    }


def _plain(text: str, part: slice = slice(500)) -> str:
    """Without this machine's folders."""
    text = text.replace(str(Path.home()), "...")
    text = re.sub(r"(/[\w.+-]+)+/(site-packages|lib/python[\d.]+)/", "", " ".join(text.split()))
    return re.sub(r"(/[\w.+-]+){2,}/(?=[\w.-])", ".../", text)[part]


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(("git", *words), cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def key_fields(case: Documented, card: str) -> dict[str, Any]:
    return {"project": case.repository, "command": " ".join(case.words), "card": card,
            "script": case.script}  # fmt: skip


def key_of(row: Row) -> tuple[str, str, str]:
    return row["project"], row["script"], row["card"]


# --- the page -------------------------------------------------------------------------------------


def share_that_ran(rows: Iterable[Row]) -> tuple[int, int, int]:
    """(ran, of how many scripts, of how many without those that are not the product's to run):
    on the GPU that suits."""
    faults = [fault_of(row) for row in rows if row["card"] == SUITS]
    ran = sum(fault is None for fault in faults)
    own = sum(fault is not None and fault.whose == "product" for fault in faults)
    return ran, len(faults), ran + own


def page(rows: Sequence[Row]) -> str:
    ran, total, able = share_that_ran(rows)
    suits = [row for row in rows if row["card"] == SUITS]
    faults = Counter(fault for fault in map(fault_of, suits) if fault)
    small = [row for row in rows if row["card"] == SMALL]
    commits = {row["project"]: row["commit"] for row in rows}
    return page_of(
        "Scripts of other projects, rehearsed",
        "`python -m benchmarks.rehearsed.scripts`: training scripts of other projects, each with "
        "the first command line that its project documents, or without arguments; unchanged, with "
        "`--pretend-data`, without a network or a GPU. Nothing here was measured on a GPU.",
        f"**{ran} of {total}** scripts ran on a simulated {SUITS}; of the {able} that no missing "
        "package, file, argument or value kept from it, "
        f"{ran} ({ran / max(able, 1):.0%}). Of {len(small)} of them on a {SMALL}: "
        f"{sum(row['exit_code'] == 0 for row in small)} fit, "
        f"{sum(row['exit_code'] == 1 for row in small)} do not or are refused.",
        table(
            "project | commit | >scripts | >ran | >product's fault | >others'",
            [_counts(name, commit, suits) for name, commit in commits.items()],
        ),
        "Why the others did not run:",
        table(
            "fault of | kind | >scripts", [(*fault, count) for fault, count in faults.most_common()]
        ),
        _predicted([row for row in rows if row.get("predicted")]),
        "Peaks are reserved bytes of the whole run.",
        table("script | command | GPU | end | >peak | >s", map(_cells, rows)),
    )


def _predicted(rows: Sequence[Row]) -> str:
    """Of rehearsals that the answer compares with a prediction of what ran."""
    if not rows:
        return ""
    off = [row["predicted"] / row["held_bytes"] - 1 for row in rows]
    sure = [error for error, row in zip(off, rows, strict=True) if row["exactness"] == "exact"]
    return (
        f"The answer compares {len(rows)} of these rehearsals with a prediction: {off.count(0)} are"
        f" equal to the byte, the median is {percent_text(median(map(abs, off)))} off, the worst"
        f" {error_text(max(off, key=abs))}. Of {len(sure)} that say exact,"
        f" {sure.count(0)} are equal."
    )


def _counts(name: str, commit: str, rows: Iterable[Row]) -> tuple[object, ...]:
    faults = [fault_of(row) for row in rows if row["project"] == name]
    own = sum(fault is not None and fault.whose == "product" for fault in faults)
    ran = faults.count(None)
    return name, commit[:8], len(faults), ran, own, len(faults) - ran - own


def _cells(row: Row) -> tuple[object, ...]:
    fault, peak = fault_of(row), row.get("reserved_bytes")
    words = row["words"][:160].replace("|", "\\|")
    end = row["status"] if fault is None else f"{fault.whose}: {fault.kind}. {words}"
    command = row["command"][:120].replace("|", "\\|")
    size = "-" if peak is None else f"{peak:,}"
    return (
        f"{row['project']}: {row['script']}",
        f"`{command}`",
        row["card"],
        end,
        size,
        row["seconds"],
    )


RUNNER = Rows(text=__doc__, name="scripts", page=page, key=key_of)


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    options.checkouts = options.checkouts.resolve()
    fitting = {key_of(row)[:2] for row in read_rows(RUNNER.path) if row.get("status") == "done"}
    chosen = cases(options.checkouts)[: options.limit]
    keys = [(case.repository, case.script) for case in chosen]
    questions = [
        ((*key, card), (case, card))
        for card in (SUITS, SMALL)
        for key, case in zip(keys, chosen, strict=True)
        if card == SUITS or key in fitting
    ]
    with copied_projects(options.checkouts, chosen) as copies:
        yield questions, lambda question: row_of(*question, copies, options)


@contextmanager
def copied_projects(checkouts: Path, chosen: Iterable[Documented]) -> Iterator[Path]:
    """A folder of copies, in which scripts may write."""
    with TemporaryDirectory() as name:
        for project in {case.repository for case in chosen}:
            _copied(checkouts / project, Path(name) / project)
        yield Path(name)


if __name__ == "__main__":
    RUNNER.main(
        asked,
        checkouts={"nargs": "?", "type": Path},
        limit={"type": int, "default": 1 << 30},
        minutes={"type": float, "default": 15.0},
    )
