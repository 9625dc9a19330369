"""A stand-in for a benchmark: `python resuming_run.py STORE CASES [DIE_AT]` finishes what is not in
the store yet.

Each case takes 5 ms and goes the way of a real one: the result is left in the pending folder, then
appended, then taken out of the folder. A line is written in two halves, with a pause, so that a
kill can tear it. With DIE_AT, the process kills itself at that point of its first case. Prints
`ready`, then how many records it recovered and measured.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.measuring.records.store import Store, finished
from records import make_record

POINTS = ("half a result", "result", "half a line", "line", "line on disk")
real_write, real_fsync = os.write, os.fsync


def die(point: str) -> None:
    if sys.argv[3:] == [point]:
        os.kill(os.getpid(), signal.SIGKILL)


def write_in_halves(descriptor: int, data: bytes) -> int:
    middle = len(data) // 2
    real_write(descriptor, data[:middle])
    die("half a line")
    time.sleep(0.001)
    real_write(descriptor, data[middle:])
    die("line")
    return len(data)


def main() -> None:
    os.write = write_in_halves
    store = Store(Path(sys.argv[1]))
    print("ready", flush=True)
    recovered = store.recover()
    done = finished(store.records())
    measured = 0
    for repeat in range(int(sys.argv[2])):
        record = make_record(repeat=repeat)
        if record.id in done:
            continue
        time.sleep(0.004)
        pending = store.pending_path(record.id)
        text = json.dumps(record_dict(record))
        if sys.argv[3:] == ["half a result"]:
            pending.with_name(pending.name + ".tmp").write_text(text[: len(text) // 2])
            die("half a result")
        write_durably(pending, text)
        die("result")
        store.append(record)
        die("line on disk")
        pending.unlink()
        measured += 1
    print(len(recovered), measured, flush=True)


if __name__ == "__main__":
    main()
