"""What a framework's command is given by `rehearsed.frameworks`: its file with the places of data
and of a checkpoint of holes in it, and variables."""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.rehearsed.framework_cells import FRAMEWORKS, Cell

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside" / "frameworks"


PLACES: dict[str, dict[str, Any]] = {
    name: {"action": "append", "default": []} for name in ("library", "clone")
}
"""Options: folders and repositories by framework, NAME=PLACE."""


def places(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """The folders of --library and the repositories of --clone, by framework."""
    libraries, clones = (
        dict(each.split("=", 1) for each in words) for words in (options.library, options.clone)
    )
    return libraries, clones


class _Loader(yaml.SafeLoader):
    """Reads 3e-4 as a number, as OmegaConf does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def changed(text: str, changes: Mapping[str, Any]) -> str:
    """A YAML file with values of dotted keys in place of its own."""
    document = yaml.load(text, _Loader)
    for name, value in changes.items():
        *path, last = name.split(".")
        part = document
        for each in path:
            part = part.setdefault(each, {})
        part[last] = value
    return yaml.safe_dump(document, sort_keys=False)


def text_of(cell: Cell, clones: Mapping[str, str]) -> str:
    repository, commit = FRAMEWORKS[cell.framework].at
    if clone := clones.get(cell.framework):
        show = ["git", "-C", clone, "show", f"{commit}:{cell.file}"]
        return subprocess.run(show, capture_output=True, check=True, text=True).stdout
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{cell.file}"
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


@contextmanager
def data_folder() -> Iterator[Path]:
    """One for what commands write, with data in it."""
    with TemporaryDirectory() as name:
        (Path(name) / "data").mkdir()
        _write_data(Path(name) / "data")
        yield Path(name)


def _write_data(folder: Path) -> None:
    """Rows longer than any length asked, for the columns that the files of a framework read."""
    long = " a" * 3000
    rows = {"instruction": "Say a.", "input": "", "output": long}
    pairs = {"instruction": "Say a.", "chosen": long, "rejected": long}
    tagged = [{**rows, "kto_tag": True}, {**rows, "kto_tag": False}]
    for name, each in (
        ("rows", [rows]),
        ("pairs", [pairs]),
        ("texts", [{"text": long}]),
        ("tagged", tagged),
    ):
        (folder / f"{name}.json").write_text(json.dumps(each * 256))
    asked = {"prompt": "instruction", "query": "input", "response": "output"}
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {
        "rows": {"file_name": "rows.json"},
        "pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns},
        "texts": {"file_name": "texts.json", "columns": {"prompt": "text"}},
        "tagged": {"file_name": "tagged.json", "columns": {**asked, "kto_tag": "kto_tag"}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def write_checkpoint(folder: Path, model: str) -> Path:
    """Of holes, with a tokenizer of bytes in each of the forms that torchtune and LitGPT read."""
    from lora_profiler.rehearsal import __file__ as rehearsal

    sys.path.insert(0, str(Path(rehearsal).parent / "inside"))
    from rehearsed.settings import Settings  # type: ignore[import-not-found]
    from rehearsed.tokens import write_tokenizer  # type: ignore[import-not-found]
    from rehearsed.weights import _known_config, write_holes  # type: ignore[import-not-found]

    place = folder / model
    if place.exists():
        return place
    (place / "original").mkdir(parents=True)
    catalogue = Path(rehearsal).parents[1] / "catalog" / "data" / "models.json"
    settings = Settings(folder, steps=0, models=catalogue, snapshot=None, pretends_data=True)
    (place / "config.json").write_text(json.dumps(_known_config(settings, model)))
    write_holes(place)
    write_tokenizer(place)
    (place / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1}')
    vocabulary = json.loads((place / "tokenizer.json").read_text())["model"]["vocab"]
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    ranks = (f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (place / "original" / "tokenizer.model").write_text("".join(ranks))
    return place


def command_of(cell: Cell, text: str, folder: Path, library: str) -> list[str]:
    """What is typed, with the places of model and data in a file beside that which is asked."""
    data = folder / "data"
    if cell.framework == "litgpt":
        place = write_checkpoint(folder, cell.model)
        if not (place / "lit_model.pth").exists():
            make = [sys.executable, str(INSIDE / "litgpt_checkpoint.py"), place.name, str(place)]
            subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": library})
        words = [f"--{name}={value}" for name, value in cell.changes.items() if name != "finetune"]
        command = ["-m", "litgpt", f"finetune_{cell.changes['finetune']}", str(place), *words]
        more = ["--data=JSON", f"--data.json_path={data / 'rows.json'}", f"--out_dir={folder}/out"]
        return ["python", *command, *more, f"--train.max_seq_length={cell.length}"]
    if cell.framework == "unsloth":
        told = {"model": cell.model, "length": cell.length, "folder": str(folder)}
        told |= {"trainer": cell.trainer, **cell.changes}
        return ["python", str(INSIDE / "unsloth_notebook.py"), json.dumps(told)]
    placed = folder / "placed.yaml"
    if cell.framework == "torchtune":
        place = write_checkpoint(folder, cell.model)
        if re.search(r"models\.(gemma|llama2|mistral|phi3)\.\w*tokenizer", text):
            make = [sys.executable, str(INSIDE / "pieces.py"), str(place / "original")]
            subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": library})
        places: dict[str, Any] = {
            "checkpointer._component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpointer.checkpoint_dir": str(place),
            "checkpointer.checkpoint_files": sorted(p.name for p in place.glob("*.safetensors")),
            "tokenizer.path": str(
                place / ("vocab.json" if "merges_file" in text else "original/tokenizer.model")
            ),
            "tokenizer.max_seq_len": cell.length,
            "dataset.source": "json",
            "dataset.data_files": str(data / "rows.json"),
            "output_dir": str(folder / "out"),
        }
        if "merges_file" in text:
            places["tokenizer.merges_file"] = str(place / "merges.txt")
        recipe = "full_finetune" if "full" in cell.file else "lora_finetune"
        if "dpo" in cell.file:
            recipe = "lora_dpo"
            pairs = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
            places |= {"dataset.column_map": pairs, "dataset.data_files": str(data / "pairs.json")}
        command = ["-m", "torchtune._cli.tune", "run", f"{recipe}_single_device", "--config"]
    elif cell.framework == "llamafactory":
        kinds = {"dpo": "pairs", "pretrain": "texts", "kto": "tagged"}
        places = {
            "dataset": next((kinds[kind] for kind in kinds if kind in cell.file), "rows"),
            "dataset_dir": str(data),
            "output_dir": str(folder / "out"),
            "preprocessing_num_workers": 1,
            "dataloader_num_workers": 0,
        }
        command = ["-m", "llamafactory.cli", "train"]
    else:
        rows = {"path": str(data / "rows.json"), "ds_type": "json", "type": "alpaca"}
        if yaml.load(text, _Loader).get("rl"):
            pairs = {"field_prompt": "instruction", "type": "user_defined.default"}
            rows |= {"path": str(data / "pairs.json"), "type": pairs, "split": "train"}
        places = {
            "datasets": [rows],
            "dataset_prepared_path": str(folder / "prepared" / str(abs(hash(cell.key)))),
            "output_dir": str(folder / "out"),
            "excess_length_strategy": "truncate",
            "special_tokens": None,
            "tokenizer_type": "AutoTokenizer",  # Llama's class adds tokens to that of bytes
        }
        command = ["-m", "axolotl.cli.train"]
    placed.write_text(changed(text, places))
    return ["python", *command, str(placed)]


def environment_of(cell: Cell, command: Sequence[str], library: str) -> dict[str, str]:
    batch = cell.changes.get("per_device_train_batch_size", 1)
    if "--config" in command:
        batch = yaml.load(Path(command[-1]).read_text(), _Loader)["batch_size"]
    return {
        "PYTHONPATH": f"{INSIDE}:{ROOT}:{library}",
        "REHEARSED_LABELS": labels_of(cell, batch),
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DISABLE_VERSION_CHECK": "1",
    }


def labels_of(cell: Cell, batch: int) -> str:
    """Of a micro-batch, how many tokens there are and how many have a label, or are completed: all
    but the last of each row; of DPO's pairs what comes after a prompt of five; of GRPO's the
    completions, of a micro-batch and of a step. And of KTO's rows half are desirable."""
    if cell.trainer == "unsloth-grpo":
        made, steps = cell.changes["completion"], cell.changes["gradient_accumulation_steps"]
        return ":".join(f"{n * cell.length - 1},{n * made}" for n in (batch, batch * steps))
    if cell.trainer == "unsloth-dpo":
        return f"{2 * batch * (cell.length - 1)},{2 * batch * (cell.length - 5)}"
    return f"{batch * cell.length},{batch * (cell.length - 1)}:{batch},{batch // 2}"
