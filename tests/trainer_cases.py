"""The cases of `cases/trainer_files.yml`: each read as a trainer's file, and what is said of it."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lora_profiler import find_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.trainer_files.document import parse
from lora_profiler.trainer_files.reading import (
    read_command,
    read_document,
    read_files,
    resolve_images,
)
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model

FOLDER = Path(__file__).parent / "cases"
TEXTS: Mapping[str, str] = yaml.safe_load((FOLDER / "trainer_texts.yml").read_text("utf-8"))
CASES: Mapping[str, Mapping[str, Any]] = yaml.safe_load(
    (FOLDER / "trainer_files.yml").read_text("utf-8")
)
STARTED = ("ax.yml", "lf.yaml", "tt.yaml", "own.py")
"""What lies in the folder in which a command is read."""


def text_of(case: Mapping[str, Any]) -> str:
    text = TEXTS[case["of"]] if "of" in case else f"{case['text']}\n"
    for old, new in case.get("swap", {}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text + (f"{more}\n" if (more := case.get("more")) else "")


def read_case(case: Mapping[str, Any], folder: Path) -> TrainerFile:
    name = case.get("name", "file.yaml")
    if "command" in case:
        for each in STARTED:
            (folder / each).write_text(TEXTS[each])
        return read_command(shlex.split(case["command"]), folder)
    if "by" in case:
        return read_document(parse(text_of(case), name, None, is_json=False), case["by"])
    paths = [folder / name]
    paths[0].write_text(text_of(case))
    for number, beside in enumerate(case.get("beside", ())):
        paths.append(folder / f"beside{number}.yaml")
        paths[-1].write_text(TEXTS.get(beside, f"{beside}\n"))
    for other, content in case.get("json", {}).items():
        (folder / f"{other}.json").write_text(json.dumps(content))
    file = read_files(paths)
    if "model" in case:
        file = on_model(file, find_model(case["model"], offline=True))
    if "sees" in case:
        name = case["sees"]
        file = resolve_images(file, find_model(name, offline=True) if name else None)
    return file


def answers(folder: Path) -> Iterator[str]:
    """What is said of each case: all of the first of a text, of others what differs from it."""
    first: dict[str, list[str]] = {}
    for number, (name, case) in enumerate(CASES.items()):
        own = folder / str(number)
        own.mkdir()
        lines = list(said(case, own))
        before = first.setdefault(case.get("of") or case.get("text") or name, lines)
        same = set(before) if lines is not before else set()
        names = {line.partition("=")[0] for line in lines}
        gone = [line for line in before if "=" in line and line.partition("=")[0] not in names]
        left = [] if lines[0].startswith("error") else [f"without {line}" for line in gone]
        yield "\n  ".join([name, *(line for line in lines if line not in same), *left])


def said(case: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The loop and the model; options, a line each; keys that are no plain option, with what is not
    modelled. Or the error."""
    try:
        file = read_case(case, folder)
        options = file.options if "given" not in case else file.completing(case["given"])
    except LoraProfilerError as error:
        yield f"error: {error}".replace(f"{folder}/", "")
        return
    yield f"{file.stack}, {file.model}"
    yield from (f"asks {name}" for name in file.asks)
    yield from (f"vLLM has {share:g}" for share in (file.vllm_share,) if share)
    yield from (f"{name}={_short(value)}" for name, value in sorted(options.items()))
    for key in file.keys:
        if key.missing or key.note or key.state == "unknown":
            words = "; ".join(filter(None, (key.missing, key.note, key.direction)))
            yield f"{key.key}, line {key.line}: {key.state}: {words}"
        elif key.state == "costs nothing":
            yield f"{key.key} costs nothing"


def _short(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
