"""Files that `--write` makes, read back and by the frameworks' own parsers.

    python -m benchmarks.public.written_files axolotl=FOLDER llamafactory=FOLDER torchtune=FOLDER

Five writers on five questions. Each file is written for what guides pass to its trainer and read
back as the same question; then the framework reads it: axolotl's schema, LLaMA-Factory's and TRL's
arguments, whose objects must hold what the file means here; for torchtune OmegaConf, and each
component must be in its package; Python for the script. FOLDER is what `import` finds the framework
in, TRL is the one that is installed. Writes `results/written_files.md`. Two minutes.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.pages import checkouts, page_of, table, write_page
from benchmarks.public.misread_keys import PARSERS, meant, same
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.writing import suffix_of, writers

QUESTIONS = (
    "meta-llama/Llama-3.2-1B --method qlora --gpu {small}",
    "meta-llama/Llama-3.2-1B --method lora --gpu {small}",
    "meta-llama/Llama-3.2-3B --method qlora --gpu rtx_4090",
    "meta-llama/Llama-3.1-8B --method lora --gpu a100_sxm_80gb",
    "meta-llama/Llama-3.2-1B --method full --gpu 2xh100 --sharding fsdp",
)
FRAMEWORKS = ("axolotl", "llamafactory", "torchtune")
"""Those of which a folder is needed."""
NO_FLOAT16 = ("torchtune",)
Parse = Callable[[Path], str]
"""What is wrong with a written file; '' for nothing."""


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "WANDB_DISABLED": "true"}
    folders = checkouts(sys.argv[1:], FRAMEWORKS, needs_all=True)
    sys.path[:0] = folders.values()
    parsers: dict[str, Parse] = {
        "peft": lambda path: ast.parse(path.read_text("utf-8")) and "",
        "torchtune": partial(_components, Path(folders["torchtune"])),
        **{name: partial(_held, make()) for name, make in PARSERS.items()},
    }
    rows = list(written(parsers))
    parsed = sum(row[-1] == "yes" for row in rows)
    write_page(
        "written_files",
        page_of(
            "Files that --write makes",
            f"`python -m benchmarks.public.written_files`: {parsed} of {len(rows)} are read back"
            " as the"
            " question that was asked, and read by the framework itself with the same values.",
            table("writer | question | start | parsed", rows),
        ),
    )


def written(parsers: Mapping[str, Parse]) -> Iterator[tuple[str, ...]]:
    for writer, question in product(writers(), QUESTIONS):
        words = question.format(small="rtx_3060_12gb" if writer in NO_FLOAT16 else "t4")
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"run{suffix_of(writer)}"
            command = [sys.executable, "-m", "lora_profiler", *shlex.split(words)]
            done = subprocess.run(
                [*command, "--write", writer, str(path)], capture_output=True, text=True
            )
            start = done.stderr.partition(" && ")[2].partition("\n")[0]
            wrong = parsers[writer](path) if path.exists() else done.stderr.strip()
        yield writer, f"`{words}`", f"`{start}`", wrong[:120].replace("\n", " ") or "yes"


def _held(parse: Callable[[Mapping[str, Any]], Mapping[str, Any]], path: Path) -> str:
    """By a framework's own objects, against what the file means here."""
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            held = parse(yaml.safe_load(path.read_text("utf-8")))
    except Exception as e:  # whatever a framework raises
        return f"{type(e).__name__}: {e}"
    ours = meant(read_files([path]))
    wrong = {name: (ours.get(name), v) for name, v in held.items() if not same(ours.get(name), v)}
    return ", ".join(f"{name} {a!r}, its own {b!r}" for name, (a, b) in wrong.items())


_READ_WHERE_GIVEN = {"get", "profiler", "dataset_val"}


def _components(root: Path, path: Path) -> str:
    """Those of its own that torchtune's package does not have, and keys that its recipe reads and
    the file lacks."""
    from omegaconf import OmegaConf  # type: ignore[import-not-found]

    document = OmegaConf.to_container(OmegaConf.load(path))
    names = [name for name in _named(document) if name.startswith("torchtune.")]
    kind = "lora" if "lora_" in document["model"]["_component_"] else "full"
    recipe = (root / "recipes" / f"{kind}_finetune_single_device.py").read_text("utf-8")
    read = set(re.findall(r"\bcfg\.(\w+)", recipe)) - _READ_WHERE_GIVEN
    missing = [name for name in names if not _is_there(root, name)]
    return ", ".join([*missing, *sorted(read - document.keys())])


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "_component_" in value:
            yield value["_component_"]
        for inner in value.values():
            yield from _named(inner)


def _is_there(root: Path, name: str) -> bool:
    module, _, own = name.rpartition(".")
    place = root / module.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return file.exists() and own in file.read_text("utf-8")


if __name__ == "__main__":
    main()
