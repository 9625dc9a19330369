"""Frameworks' own commands on pretended cards, each steady peak beside what `lora-profile` says of
the same file.

    python -m benchmarks.rehearsed_frameworks --python PYTHON --library NAME=FOLDER:...
        [--clone NAME=REPOSITORY] [--only TEXT] [--again]

`tune run`, `llamafactory-cli train`, `axolotl train`, `litgpt finetune_lora` and Unsloth, over
checkpoints of holes. PYTHON is of an environment with a CUDA build of torch; each `--library` names
what goes on PYTHONPATH for a framework (its package and its pins), each `--clone` a git repository
of it with the commit of `framework_cells`; files are fetched from GitHub where none is named, and
kept nowhere. Writes a row of `results/rehearsed_frameworks.jsonl` as each rehearsal ends, and
`results/rehearsed_frameworks.md`; what is there is not run again. --only takes cells whose key has
the text; --again predicts all rows anew. About forty minutes on two busy cores.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.framework_cells import FRAMEWORKS, Cell, cells
from lora_profiler.catalog import find_gpu
from lora_profiler.support.library_memory import WORKSPACES, workspace_bytes

ROOT = Path(__file__).resolve().parent.parent
INSIDE = Path(__file__).parent / "rehearsed_frameworks_inside"
RESULTS = Path(__file__).parent / "results"
ROWS, PAGE = RESULTS / "rehearsed_frameworks.jsonl", RESULTS / "rehearsed_frameworks.md"
TOLD = "workspaces of BLAS"
"""What a prediction leaves out, and rehearsals tell."""
LOWER_BOUND = "the peak is a lower bound"
LIMIT_SECONDS = 900


# --- what a run is given --------------------------------------------------------------------------


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


def write_data(folder: Path) -> None:
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


# --- a run, and what is said of it ----------------------------------------------------------------


def profiled(*words: str) -> dict[str, Any]:
    """What `lora-profile` answers in JSON; {} where it refuses."""
    command = [sys.executable, "-m", "lora_profiler", *words, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1):
        print(done.stderr, file=sys.stderr)
        return {"refused": done.stderr.strip().splitlines()[-1]}
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def asked(cell: Cell, text: str, folder: Path) -> tuple[list[str], list[str]]:
    """The question, in words, and what of a file is not modelled: as `read` says it."""
    length = ["--seq-len", str(cell.length), "--gpu", cell.card]
    if not cell.file:
        return [cell.model, "--trainer", cell.trainer, *cell.words, *length], []
    (folder / "asked.yaml").write_text(text)
    read = profiled("read", str(folder / "asked.yaml"))
    words = read["command"][1:]
    gaps = sorted({key["not_modelled"] for key in read["keys"] if key["not_modelled"]})
    return [*words, *(length[2:] if "--seq-len" in words else length)], gaps


def predicted(words: Sequence[str]) -> dict[str, Any]:
    document = profiled(*words)
    if "refused" in document:
        return document
    (answer,) = document["predictions"]
    return {
        "predicted_bytes": answer["peak"]["total_bytes"],
        "exactness": answer["exactness"],
        "error_bound": answer["error_bound"],
        "is_lower_bound": any(LOWER_BOUND in words for words in answer["assumptions"]),
    }


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


def rehearsed(
    python: str, cell: Cell, command: Sequence[str], library: str, folder: Path
) -> dict[str, Any]:
    """The steady peak of three steps, in bytes."""
    environment = os.environ | environment_of(cell, command, library)
    words = [sys.executable, "-m", "lora_profiler", "rehearse", "--format", "json"]
    words += ["--gpu", cell.card, "--python", python, "--pretend-data", "--", *command]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"status": "error", "error": f"not done in {LIMIT_SECONDS} s"}
    if not done.stdout:
        return {"status": "error", "error": done.stderr.strip().splitlines()[-1][:300]}
    document = json.loads(done.stdout)
    (rank,) = document["ranks"]
    if document["status"] != "done":
        error = rank["error"] or {"type": document["status"], "message": done.stderr[-300:]}
        told = f"{error['type']}: {error['message']}"[:300]
        print(done.stderr[-3000:], file=sys.stderr)
        return {"status": document["status"], "error": told}
    return {
        "status": "done",
        "requested_bytes": rank["peaks"]["steady"]["requested_bytes"],
        "workspaces_bytes": rank["held"]["categories"].get(TOLD, 0),
        "whole_requested_bytes": rank["peaks"]["whole"]["requested_bytes"],
        "attention": rank["attention"],
    }


def run(
    python: str, cell: Cell, libraries: Mapping[str, str], clones: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    library = libraries[cell.framework]
    text = changed(text_of(cell, clones), cell.changes) if cell.file else ""
    started = time.monotonic()
    words, gaps = asked(cell, text, folder)
    row: dict[str, Any] = {"key": cell.key, "framework": cell.framework, "file": cell.address}
    row |= {"asked": words, "not_modelled": gaps}
    row |= rehearsed(python, cell, command_of(cell, text, folder, library), library, folder)
    return row | {"seconds": round(time.monotonic() - started)} | predicted(words)


def error(row: Mapping[str, Any]) -> float:
    return float(row["predicted_bytes"] / counted_bytes(row) - 1)


def counted_bytes(row: Mapping[str, Any]) -> int:
    """Without workspaces, which are told by their size: Unsloth's buffer of a weight of 2,048 x
    8,192 is as large as one of an H100's two."""
    card = find_gpu(row["asked"][row["asked"].index("--gpu") + 1])
    most = WORKSPACES * workspace_bytes(card.platform())
    return int(row["requested_bytes"] - min(row["workspaces_bytes"], most))


def is_exact(row: Mapping[str, Any]) -> bool:
    """Whether the answer to the file is exact: it names nothing that is not modelled."""
    return row["exactness"] == "exact" and not row["not_modelled"]


def _says(row: Mapping[str, Any]) -> str:
    bound = "lower bound" if row.get("is_lower_bound") else "estimate"
    return "exact" if is_exact(row) else bound


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    done = [row for row in rows if "requested_bytes" in row and "predicted_bytes" in row]
    versions = ", ".join(f"{name} {each.version}" for name, each in FRAMEWORKS.items())
    lines = [
        "# Frameworks, rehearsed",
        "",
        f"`python -m benchmarks.rehearsed_frameworks`: {versions}, their own commands over torch's"
        " CUDA build on pretended cards, models at full size; the requested peak of later steps,"
        " BLAS workspaces left out, beside what `lora-profile FILE` says. Files are the frameworks'"
        " own, by address, and not kept here. Nothing here was measured on a card.",
        "",
        "| framework | the answer says | runs | equal | mean error | worst |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[tuple[str, str], list[float]] = {}
    for row in done:
        groups.setdefault((row["framework"], _says(row)), []).append(error(row))
    for (name, says), errors in sorted(groups.items()):
        worst, mean = max(errors, key=abs), sum(map(abs, errors)) / len(errors)
        lines.append(
            f"| {name} | {says} | {len(errors)} | {errors.count(0.0)} | {100 * mean:.3f} % |"
            f" {100 * worst:+.3f} % |"
        )
    lines += ["", "## Every run, the worst first", ""]
    lines += ["| file | asked | rehearsed | predicted | says | error |"]
    lines += ["| --- | --- | ---: | ---: | --- | ---: |"]
    for row in sorted(done, key=lambda row: -abs(error(row))):
        lines.append(
            f"| {row['file'] or row['framework']} | `{' '.join(row['asked'])}` |"
            f" {counted_bytes(row):,} | {row['predicted_bytes']:,} |"
            f" {_says(row)} | {100 * error(row):+.4f} % |"
        )
    if others := [row for row in rows if row not in done]:
        lines += ["", "## What did not run, or is not predicted", ""]
        lines += [
            f"- {row['file'] or row['framework']}, `{' '.join(row['asked'])}`:"
            f" {' '.join(str(row.get('error') or row.get('refused')).split())}"
            for row in others
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python")
    parser.add_argument("--library", action="append", default=[])
    parser.add_argument("--clone", action="append", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    libraries, clones = (
        dict(each.split("=", 1) for each in words) for words in (options.library, options.clone)
    )
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if options.again:
        rows = [row | predicted(row["asked"]) for row in rows]
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {row["key"] for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        write_data(folder / "data")
        for cell in () if options.again else cells():
            if cell.key in known or options.only not in cell.key:
                continue
            row = run(options.python, cell, libraries, clones, folder)
            print(cell.key, row, file=sys.stderr, flush=True)
            rows.append(row)
            with open(ROWS, "a") as file:
                file.write(json.dumps(row) + "\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
