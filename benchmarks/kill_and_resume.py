"""kill -9 of a measuring run at 20 random instants, then one run to the end: every record is there,
once, and nobody is left.

    python -m benchmarks.kill_and_resume [--kills N] [--seed N]        about five minutes; needs the
    test extra

Drives `lora-profile bench --suite tiny --resume` on the CPU, as a user would. Writes
`results/kill_and_resume.md`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
LONGEST_SECONDS = 14.0
"""Kills fall anywhere in a start, a case and the change to the next one."""


def command(records: Path) -> list[str]:
    options = [
        "--suite",
        "tiny",
        "--device",
        "cpu",
        "--resume",
        "--records",
        str(records),
        "--format",
        "csv",
    ]
    return [sys.executable, "-m", "lora_profiler", "bench", *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def ids(records: Path) -> list[str]:
    """Ids of all whole lines, doubled ones included."""
    found = []
    for line in records.read_text("utf-8").splitlines() if records.exists() else ():
        try:
            found.append(json.loads(line)["id"])
        except ValueError:  # torn by a kill
            continue
    return found


def orphans() -> list[int]:
    """Processes of the measuring child's module that descend from nobody of ours."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [
        int(pid)
        for pid, parent, args in rows
        if "lora_profiler.harness.entry" in args and parent == "1"
    ]


def killed_run(records: Path, seconds: float) -> tuple[bool, int]:
    """(whether the run was still going when it was killed, records stored by then)."""
    process = subprocess.Popen(
        command(records),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=ROOT,
        start_new_session=True,
    )
    time.sleep(seconds)
    going = process.poll() is None
    process.kill()
    process.wait()
    time.sleep(0.5)
    return going, len(set(ids(records)))


def finished_run(records: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(records), capture_output=True, text=True, env=environment(), cwd=ROOT, check=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, began = random.Random(options.seed), time.perf_counter()
    lines, wanted, left = [], 4, 0
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        for number in range(1, options.kills + 1):
            if len(set(ids(records))) == wanted:  # begin anew, so that every kill meets work
                records.unlink()
            seconds = draw.uniform(0.3, LONGEST_SECONDS)
            going, stored = killed_run(records, seconds)
            left += len(orphans())
            print(
                f"{number}: killed after {seconds:.1f} s, {'running' if going else 'ended'},"
                f" {stored} stored",
                flush=True,
            )
            lines.append(f"| {number} | {seconds:.1f} | {'yes' if going else 'no'} | {stored} |")
        whole = finished_run(records)
        found = Counter(ids(records))
        before = records.read_bytes()
        again = finished_run(records)
        unchanged = records.read_bytes() == before
    once = len(found) == wanted and set(found.values()) == {1}
    verdict = [
        (
            f"- the run after them ended with exit code {whole.returncode}, and a second one with"
            f" {again.returncode}"
        ),
        (
            f"- {len(found)} of {wanted} cases stored, each"
            f" {'exactly once' if once else str(dict(found))}"
        ),
        (
            "- the second run"
            f" {'measured nothing and wrote nothing' if unchanged else 'changed the file'}"
        ),
        f"- measuring processes left alive after the kills: {left}",
    ]
    text = [
        "# kill -9, then resume",
        "",
        (
            f"{options.kills} kills at random instants of `lora-profile bench --suite tiny --device"
            " cpu --resume`, seed"
        ),
        (
            f"{options.seed}; `python -m benchmarks.kill_and_resume`,"
            f" {time.perf_counter() - began:.0f} s. Whenever all four cases"
        ),
        "were stored, the file was removed, so that every kill met work.",
        "",
        *verdict,
        "",
        "| kill | after s | still running | stored by then |",
        "|---:|---:|---|---:|",
        *lines,
    ]
    print("\n".join(verdict))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kill_and_resume.md").write_text("\n".join(text) + "\n", "utf-8")
    return 0 if once and unchanged and not left and whole.returncode == again.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
