"""The scripts of examples/rehearse on simulated GPUs, and some of accelerate's and PEFT's own: what
each requested, and whether two counters agree.

    python -m benchmarks.rehearsed.examples --python PYTHON [--clones FOLDER] [--again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT, TRL and bitsandbytes; no
card is needed. Writes `results/rehearsed_scripts.json`, a row as each rehearsal ends, and
`results/rehearsed_scripts.md`. What is in the JSON is not run again; --again writes the page anew
from it. Scripts of others are fetched by version from GitHub, or out of git clones in FOLDER
(FOLDER/accelerate, FOLDER/peft), and kept nowhere.
"""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, page_of, table, write_json, write_page
from benchmarks.rehearsing import rehearsed
from benchmarks.rows import Row, parser_of_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = RESULTS / "rehearsed_scripts.json"
CARDS = ("t4", "a100_sxm_80gb", "h100_sxm_80gb")
EIGHT_B = ("plain_loop.py", "--model", "meta-llama/Llama-3.1-8B", "--checkpointing")
SCRIPTS: tuple[tuple[str, ...], ...] = (
    ("plain_loop.py",),
    ("trainer.py",),
    ("sft.py",),
    ("dpo.py",),
    ("qlora.py",),
    ("qlora.py", "--dtype", "float16"),
    ("fsdp2.py",),
)
STARTED_BY: tuple[tuple[str, ...], ...] = (
    ("accelerate", "launch", "plain_loop.py", "--model", "HuggingFaceTB/SmolLM2-135M"),
    ("accelerate", "launch", "--num_processes", "2", "--multi_gpu", "trainer.py"),
    (
        *("trl", "sft", "--model_name_or_path", "Qwen/Qwen2.5-0.5B", "--use_peft"),
        *("--dataset_name", "stanfordnlp/imdb", "--output_dir", "out", "--report_to", "none"),
    ),
    (
        *("trl", "dpo", "--model_name_or_path", "Qwen/Qwen2.5-0.5B", "--use_peft"),
        *("--dataset_name", "trl-lib/ultrafeedback_binarized"),
        *("--output_dir", "out", "--report_to", "none"),
    ),
)
FETCHED: tuple[tuple[str, ...], ...] = (
    ("accelerate@v1.14.0:examples/by_feature/gradient_accumulation_for_autoregressive_models.py",),
    (
        "peft@v0.20.0:examples/olora_finetuning/olora_finetuning.py",
        *("--base_model", "meta-llama/Llama-3.2-1B", "--dtype", "bfloat16"),
    ),
    (
        "peft@v0.20.0:examples/miss_finetuning/miss_finetuning.py",
        *("--base_model_name_or_path", "meta-llama/Llama-3.2-1B", "--output_dir", "out"),
        *("--dataset_field", "text", "text"),
    ),
)
"""Of those that ask for nothing but a model and a data set."""
CASES = [(script, card) for script in SCRIPTS for card in CARDS] + [
    (EIGHT_B, "rtx_4090"),
    (EIGHT_B, "rtx_4060_ti_16gb"),
    *((command, "a100_sxm_80gb") for command in STARTED_BY),
    *((script, card) for script in FETCHED for card in CARDS),
]


def command_of(script: tuple[str, ...], clones: Path | None, folder: Path) -> list[str]:
    """What is typed for it; a script of others is put into `folder`."""
    name, *options = script
    if name in ("accelerate", "trl"):
        place = f"{ROOT / 'examples' / 'rehearse'}/"
        return [place + word if word.endswith(".py") else word for word in script]
    if "@" in name:
        return ["python", str(fetched(name, clones, folder)), *options]
    launcher = ["torchrun", "--nproc-per-node", "2"] if name == "fsdp2.py" else ["python"]
    return [*launcher, str(ROOT / "examples" / "rehearse" / name), *options]


def fetched(name: str, clones: Path | None, folder: Path) -> Path:
    """`name` is repository@version:path."""
    repository, _, rest = name.partition("@")
    version, _, path = rest.partition(":")
    target = folder / Path(path).name
    if clones is None:
        url = f"https://raw.githubusercontent.com/huggingface/{repository}/{version}/{path}"
        with urllib.request.urlopen(url) as answer:
            target.write_bytes(answer.read())
    else:
        show = ["git", "-C", str(clones / repository), "show", f"{version}:{path}"]
        target.write_bytes(subprocess.run(show, capture_output=True, check=True).stdout)
    return target


def rehearse(
    python: str, script: tuple[str, ...], card: str, clones: Path | None
) -> dict[str, Any]:
    cards = 2 if "fsdp2.py" in script or "--multi_gpu" in script else 1
    options = ("--gpus", str(cards), "--pretend-data")
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:  # where it writes what it saves
        command = command_of(script, clones, Path(folder))
        started = time.monotonic()
        done = rehearsed(python, card, command, *options, cwd=folder, env=variables)
    row: dict[str, Any] = {
        "script": " ".join(script),
        "card": card,
        "cards": cards,
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started),
    }
    if not done.stdout:
        return row | {"words": done.stderr.strip().splitlines()[-1]}
    document = json.loads(done.stdout)
    rank = next(each for each in document["ranks"] if each["rank"] == document["told_rank"])
    error = rank["error"]
    return row | {
        "status": document["status"],
        "torch": rank["torch"],
        "peaks": rank["peaks"],
        "second_count": rank["second_count"],
        "attention": rank["attention"],
        "launches": rank["launches"][-1] if rank["launches"] else None,
        "held": rank["held"] and rank["held"]["categories"],
        "words": f"{error['type']}: {error['message']}" if error else "",
        "step": error and error.get("step"),
        "phase": error and error.get("phase"),
    }


def page(rows: list[dict[str, Any]]) -> str:
    counted = [row for row in rows if "second_count" in row]
    equal = sum(row["second_count"]["is_equal"] for row in counted)
    versions = ", ".join(sorted({row["torch"] for row in counted}))
    return page_of(
        "Scripts, rehearsed",
        f"`python -m benchmarks.rehearsed.examples`: the scripts of `examples/rehearse`, and some "
        f"of accelerate's and PEFT's own by version, unchanged, over torch {versions} on pretended "
        "cards. Nothing here was measured on a card.",
        f"The requested peak is equal to a second count, of the allocator's own log, in {equal} of "
        f"{len(counted)}. Bytes of the whole run; `launches`: kernels of a step, and calls of BLAS "
        "and its like; seconds are those of the rehearsal, on two busy cores.",
        table(
            "script | card | >exit | >requested | >allocated | >reserved | attention | >launches"
            " | >s",
            map(_cells, rows),
        ),
        "What did not run, in the words of the script's own libraries:",
        (_refusal(row) for row in rows if row["exit_code"]),
    )


def _cells(row: Row) -> tuple[object, ...]:
    peak = (row.get("peaks") or {}).get("whole") or {}
    sizes = (peak.get(f"{name}_bytes") for name in ("requested", "allocated", "reserved"))
    launches = row.get("launches")
    return (
        f"`{row['script']}`",
        row["card"] if row["cards"] == 1 else f"{row['cards']} x {row['card']}",
        row["exit_code"],
        *("-" if size is None else f"{size:,}" for size in sizes),
        ", ".join(row.get("attention", ())) or "-",
        f"{launches['kernels']:,} + {launches['library_calls']:,}" if launches else "-",
        row["seconds"],
    )


def _refusal(row: Row) -> str:
    where = f", step {row['step']}, {row['phase']}" if row.get("step") else ""
    words = " ".join(row["words"].split())
    return f"- `{row['script']}` on {row['card']}{where}: {words[:400]}"


def main() -> None:
    parser = parser_of_rows(__doc__)
    parser.add_argument("--clones", type=Path)
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    keys = {(row["script"], row["card"]) for row in rows}
    for script, card in CASES if not options.again else ():
        if (" ".join(script), card) in keys:
            continue
        row = rehearse(options.python, script, card, options.clones)
        rows.append(row)
        write_json(ROWS, rows)
        print(row["script"], card, row["exit_code"], row.get("words", "")[:100], flush=True)
    write_page("rehearsed_scripts", page(rows))


if __name__ == "__main__":
    main()
