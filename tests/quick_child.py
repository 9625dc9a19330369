"""A stand-in for the measured process: `python quick_child.py CASE RESULT` leaves a record in a
moment, and a line in $QUICK_LOG.

What it does besides goes by the seed of the case; see the constants.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lora_profiler.measuring.harness.case import case_from_dict
from lora_profiler.measuring.harness.process import die_with_parent
from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.serialize import record_dict
from records import make_record

REAL = (100, 101)
"""Trains for real, as the process that it stands in for."""
LOSES_ITS_WORKER_ONCE, LOSES_EVERY_WORKER = 200, 300
SLOW = range(400, 500)
"""Takes ten minutes, and says that it lives, as a measured process does."""


def main() -> None:
    die_with_parent()
    case = case_from_dict(json.loads(Path(sys.argv[1]).read_text()))
    seed, log = case.conditions.seed, Path(os.environ["QUICK_LOG"])
    with open(log, "a") as lines:
        lines.write(f"{seed}\n")
    if seed in REAL:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "lora_profiler.measuring.harness.entry", *sys.argv[1:]],
        )
    attempt = log.read_text().split().count(str(seed))
    if seed == LOSES_EVERY_WORKER or (seed == LOSES_ITS_WORKER_ONCE and attempt == 1):
        time.sleep(0.3)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    for done in range(3000 if seed in SLOW else 1):
        print(json.dumps({"phase": "timing", "step": None, "done": done}), flush=True)
        time.sleep(0.2)
    record = make_record(case.workload, conditions=case.conditions, repeat=case.repeat)
    write_durably(Path(sys.argv[2]), json.dumps(record_dict(record)))


if __name__ == "__main__":
    main()
