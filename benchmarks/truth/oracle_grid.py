"""What real models answer in every cell of the tests' grids, for `tests/data/oracle.json.gz`.

    python -m benchmarks.truth.oracle_grid [TEST_FILE ...]

Runs the tests that ask `truth` with every cell live, on two processes, writes the file and names
the cells whose answer is no longer what the file said; of single test files only what is new or
changed in them. Due with another version of torch, transformers, PEFT or bitsandbytes, with a new
cell, and where `lora_profiler/trace/modeling` or `tests/oracle.py` changed what runs. About ten
minutes on two cores; needs the test extra.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import recording

ROOT = recording.ROOT


def main() -> int:
    before, some = recording.Recording("auto"), sys.argv[1:]
    files = some or [file for file in sorted((ROOT / "tests").glob("*/test_*.py")) if _asks(file)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", "--oracle", "record", *files],
            cwd=ROOT,
            env=os.environ | {recording.PARTS: folder},
        )
        parts = [json.loads(part.read_text()) for part in Path(folder).glob("*.json")]
    cells = recording.write(parts, before if some else None)
    for cell, answers in cells.items():
        for name, answer in answers.items():
            if before.cells.get(cell, {}).get(name, answer) != answer:
                print(f"changed: {name} at {cell}")
    print(f"{recording.FILE.name}: {len(before.cells)} cells before, {len(cells)} now")
    return done.returncode


def _asks(file: Path) -> bool:
    """Whether it asks `truth`, itself or by `agreement`."""
    text = file.read_text()
    return "import truth\n" in text or "from agreement import" in text


if __name__ == "__main__":
    sys.exit(main())
