"""Public configuration files read as questions: how many of the keys that matter are understood.

    python -m benchmarks.public.trainer_files axolotl=REPOSITORY llamafactory=... torchtune=...
        trl=...
    unsloth=...

Each REPOSITORY is a git repository on this disk, as `git clone` of the projects below makes it; its
newest commit is read and nothing of it is kept. A key matters if in some file of its framework it
is an option, is not modelled, or is not known; each time that it occurs counts. torch is hidden, so
that nothing is traced. Writes `results/trainer_files.md`.
"""

import json
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pages import checkouts, page_of, table, write_page
from lora_profiler.errors import LoraProfilerError, ModelNotFoundError

LENGTH = 2048
RANKS = 8
PAIRS = 15
_COLUMNS = (
    "files of | at | >files | >refused | >keys that matter | >option | >off | >not modelled"
    " | >not known | >understood, or named | >files with nothing missing"
)
QUESTION = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
micro_batch_size: 1
sequence_len: 2048
lora_r: 16
lora_target_linear: true
optimizer: adamw_torch_fused
bf16: true
gradient_checkpointing: true
lora_mlp_kernel: false
"""


class Corpus(NamedTuple):
    """Where a project keeps its configurations, and what tells one from other files."""

    project: str
    folder: str
    suffixes: tuple[str, ...]
    marks: tuple[str, ...]


CORPORA = {
    "axolotl": Corpus("axolotl-ai-cloud/axolotl", "examples", (".yml", ".yaml"), ("base_model:",)),
    "llamafactory": Corpus(
        "hiyouga/LLaMA-Factory", "examples", (".yaml", ".yml", ".json"), ("do_train: true",)
    ),
    "torchtune": Corpus("pytorch/torchtune", "recipes/configs", (".yaml",), ("\noptimizer:",)),
    "trl": Corpus(
        "huggingface/alignment-handbook", "recipes", (".yaml",), ("model_name_or_path:",)
    ),
    "unsloth": Corpus(
        "unslothai/notebooks",
        "nb",
        (".ipynb",),
        ("from_pretrained", "per_device_train_batch_size", "Fast"),
    ),
}


@dataclass
class Tally:
    """What was read of one framework's files."""

    commit: str = ""
    files: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    complete: int = 0
    only: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    model_unknown: int = 0
    not_answered: Counter[str] = field(default_factory=Counter)

    @property
    def relevant(self) -> dict[str, int]:
        """Occurrences of the keys that matter, by what was made of them."""
        keys = {key for key, state in self.states if state != "costs nothing"}
        by_state: Counter[str] = Counter()
        for (key, state), count in self.states.items():
            if key in keys:
                by_state[state] += count
        return by_state


def main() -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]
    tallies = {}
    for name, repository in checkouts(sys.argv[1:], CORPORA).items():
        with tempfile.TemporaryDirectory() as folder:
            tallies[name] = tally(name, repository, Path(folder))
    write_page("trainer_files", document(tallies, *seconds()))


def tally(name: str, repository: str, folder: Path) -> Tally:
    from lora_profiler.trainer_files.reading import read_files

    result = Tally(commit=git(repository, "rev-parse", "--short=7", "HEAD").decode().strip())
    with tarfile.open(fileobj=BytesIO(git(repository, "archive", "HEAD"))) as archive:
        archive.extractall(folder, filter="data")
    for path in configurations(CORPORA[name], folder):
        result.files += 1
        try:
            file = with_model(read_files([path]))
        except LoraProfilerError as e:
            result.refused[str(e).partition(": ")[2][:70]] += 1
            continue
        result.states.update((key.key, key.state) for key in file.keys if key.line)
        result.missing.update({key.missing for key in file.keys if key.missing})
        result.unknown.update(key.key for key in file.keys if key.state == "unknown")
        gaps = {key.missing or key.key for key in file.not_modelled}
        result.complete += not gaps
        if len(gaps) == 1:
            result.only.update(gaps)
        try:
            ask(file)
            result.answered += 1
        except ModelNotFoundError:
            result.model_unknown += 1
        except LoraProfilerError as e:
            result.not_answered[str(e)[:90]] += 1
    return result


def configurations(corpus: Corpus, folder: Path) -> Iterator[Path]:
    for path in sorted((folder / corpus.folder).rglob("*")):
        if path.suffix in corpus.suffixes and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if all(mark in text for mark in corpus.marks):
                yield path


def with_model(file: Any) -> Any:
    """With what depends on the model, where that is bundled: its images, and what of the file goes
    with it."""
    from lora_profiler.facts.catalog import find_model
    from lora_profiler.facts.catalog.bundled import vision_rows
    from lora_profiler.trainer_files.reading import images_of_type, resolve_images
    from lora_profiler.trainer_files.trainer_file import on_model

    row = vision_rows().get((file.model or "").lower())
    try:
        model = find_model(file.model or "no model named", offline=True)
    except LoraProfilerError:
        model = None
    if row is not None:  # by its type: weights of some take torch to be known
        file = images_of_type(file, row["config"]["model_type"])
    else:
        file = resolve_images(file, model)
    return file if model is None else on_model(file, model)


def ask(file: Any) -> None:
    """Answers the file offline, of a model that sees its text side, with a length and ranks where
    it asks for them."""
    from lora_profiler.facts.catalog import find_model
    from lora_profiler.facts.stacks import find_stack
    from lora_profiler.planning.engine import predict
    from lora_profiler.planning.setups import DEFAULTS, workloads
    from lora_profiler.trainer_files.reading import resolve_images
    from lora_profiler.trainer_files.trainer_file import on_model

    given = {
        name: value
        for name, value in (("seq_len", LENGTH), ("world_size", RANKS))
        if name in file.asks
    }
    model = find_model(file.model or "no model named", offline=True)
    file = on_model(resolve_images(file, None), model)
    own = {**file.completing(given), **given}
    for workload in workloads(model, {**DEFAULTS, **own}, own, None, find_stack(file.stack)):
        predict(workload)


def git(repository: str, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", repository, *arguments], capture_output=True, check=True
    ).stdout


def seconds() -> tuple[float, float]:
    """Processor seconds, the least of several, of processes that answer a name, and the same
    question as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.yml"
        path.write_text(QUESTION)
        read = [sys.executable, "-m", "lora_profiler", "read", str(path), "--format", "json"]
        command = json.loads(subprocess.run(read, capture_output=True, check=True).stdout)
        by_name = [sys.executable, "-m", "lora_profiler", *command["command"][1:]]
        by_file = [sys.executable, "-m", "lora_profiler", str(path)]
        samples = [(_processor_seconds(by_name), _processor_seconds(by_file)) for _ in range(PAIRS)]
    names, files = zip(*samples, strict=True)
    return min(names), min(files)


def _processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def document(tallies: dict[str, Tally], name_seconds: float, file_seconds: float) -> str:
    rows = []
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        counts = Counter(tally.relevant)
        counts += Counter(files=tally.files, refused=tally.refused.total(), complete=tally.complete)
        total += counts
        rows.append(_row(CORPORA[name].project, tally.commit, counts))
    answered = (
        (CORPORA[name].project, t.answered, t.model_unknown, t.not_answered.total())
        for name, t in tallies.items()
    )
    lines: list[str] = []
    for name, tally in tallies.items():
        lines += ["", f"## {CORPORA[name].project}", ""]
        lines += _counts("files in which it is not modelled", tally.missing)
        lines += _counts("the sole thing missing, files", tally.only)
        lines += _counts("keys not known", tally.unknown)
        lines += _counts("files refused", tally.refused)
        lines += _counts("questions refused", tally.not_answered)
    return page_of(
        "Trainers' files",
        "`python -m benchmarks.public.trainer_files`: public configuration files, read as"
        " questions and not kept here. A key matters if in some file of its framework it is an"
        " option, is not modelled or is not known; each occurrence counts. «Off» is a key that"
        " could matter and says no. Understood are options and what is off; the second share adds"
        " what is named as not modelled, with the direction of the error. Nothing is dropped in"
        " silence.",
        table(_COLUMNS, [*rows, _row("all", "", total)]),
        "Answered offline, from the bundled models, with 2,048 tokens and 8 ranks where the file"
        " asks for them:",
        table("files of | >answered | >model not bundled | >refused as a question", answered),
        f"A process answers a name in {name_seconds:.3f} s of the processor, and the same question"
        f" as a YAML file in {file_seconds:.3f} s: {file_seconds - name_seconds:+.3f} s (the least"
        f" of {PAIRS} in turn).",
        "\n".join(lines).strip(),
    )


def _row(name: str, commit: str, counts: Counter[str]) -> tuple[str, ...]:
    kinds = ("option", "asks", "costs nothing", "not modelled", "unknown")
    option, asks, off, missing, unknown = (counts[kind] for kind in kinds)
    every = option + asks + off + missing + unknown
    understood = (option + asks + off) / every if every else 0.0
    known = (every - unknown) / every if every else 0.0
    files, complete = counts["files"], counts["complete"]
    numbers = (files, counts["refused"], every, option + asks, off, missing, unknown)
    shares = f"{understood:.1%}, {known:.1%}", f"{complete} ({complete / max(files, 1):.0%})"
    return (name, commit, *(f"{n:,}" for n in numbers), *shares)


def _counts(title: str, counts: Counter[str], most: int = 12) -> Iterator[str]:
    if counts:
        yield f"{title}:"
        yield ""
        yield from (f"- {count}: {text}" for text, count in counts.most_common(most))
        yield ""


if __name__ == "__main__":
    main()
