"""The scripts of examples/rehearse on pretended cards: what each asked of its card, and whether two
counters agree.

    python -m benchmarks.rehearsed_scripts --python PYTHON [--again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT, TRL and bitsandbytes; no
card is needed. Writes `results/rehearsed_scripts.json`, a row as each rehearsal ends, and
`results/rehearsed_scripts.md`. What is in the JSON is not run again; --again writes the page anew
from it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "rehearsed_scripts.json"
CARDS = ("t4", "a100_sxm_80gb", "h100_sxm_80gb")
EIGHT_B = ("plain_loop.py", "--model", "meta-llama/Llama-3.1-8B", "--checkpointing")
SCRIPTS: tuple[tuple[str, ...], ...] = (
    ("plain_loop.py",),
    ("trainer.py",),
    ("sft.py",),
    ("qlora.py",),
    ("qlora.py", "--dtype", "float16"),
    ("fsdp2.py",),
)
CASES = [(script, card) for script in SCRIPTS for card in CARDS] + [
    (EIGHT_B, "rtx_4090"),
    (EIGHT_B, "rtx_4060_ti_16gb"),
]


def rehearse(python: str, script: tuple[str, ...], card: str) -> dict[str, Any]:
    name, *options = script
    cards = 2 if name == "fsdp2.py" else 1
    launcher = ["torchrun", "--nproc-per-node", "2"] if cards == 2 else ["python"]
    command = [*launcher, str(ROOT / "examples" / "rehearse" / name), *options]
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lora_profiler", "rehearse", "--format", "json"),
            *("--gpu", card, "--gpus", str(cards), "--python", python, "--pretend-data"),
            *("--", *command),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
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
    lines = [
        "# Scripts, rehearsed",
        "",
        f"`python -m benchmarks.rehearsed_scripts`: the scripts of `examples/rehearse`, unchanged, "
        f"over torch {versions} on pretended cards. Nothing here was measured on a card.",
        "",
        f"The requested peak is equal to a second count, of the allocator's own log, in {equal} of "
        f"{len(counted)}. Bytes of the whole run; `launches`: kernels of a step, and calls of BLAS "
        "and its like; seconds are those of the rehearsal, on two busy cores.",
        "",
        "| script | card | exit | requested | allocated | reserved | attention | launches | s |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    refusals = []
    for row in rows:
        peak = (row.get("peaks") or {}).get("whole") or {}
        sizes = (peak.get(f"{name}_bytes") for name in ("requested", "allocated", "reserved"))
        launches = row.get("launches")
        cells = [
            f"`{row['script']}`",
            row["card"] if row["cards"] == 1 else f"{row['cards']} x {row['card']}",
            str(row["exit_code"]),
            *("-" if size is None else f"{size:,}" for size in sizes),
            ", ".join(row.get("attention", ())) or "-",
            f"{launches['kernels']:,} + {launches['library_calls']:,}" if launches else "-",
            str(row["seconds"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if row["exit_code"]:
            where = f", step {row['step']}, {row['phase']}" if row.get("step") else ""
            words = " ".join(row["words"].split())
            refusals.append(f"- `{row['script']}` on {row['card']}{where}: {words[:400]}")
    return "\n".join(
        [
            *lines,
            "",
            "What did not run, in the words of the script's own libraries:",
            "",
            *refusals,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    keys = {(row["script"], row["card"]) for row in rows}
    for script, card in CASES if not options.again else ():
        if (" ".join(script), card) in keys:
            continue
        row = rehearse(options.python, script, card)
        rows.append(row)
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
        print(row["script"], card, row["exit_code"], row.get("words", "")[:100], flush=True)
    (RESULTS / "rehearsed_scripts.md").write_text(page(rows))


if __name__ == "__main__":
    main()
