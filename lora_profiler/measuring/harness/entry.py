"""The first thing a measured process does, before torch takes seconds to import: it ties its life
to that of its parent.

`python -m lora_profiler.measuring.harness.entry ...` goes on as `harness.worker` with the same
arguments; with `--ranks N CHILD... CASE RESULT` as `harness.torchrun`, which starts N of them.
"""

import os
import sys

from lora_profiler.measuring.harness.process import die_with_parent


def take_one_device() -> None:
    """A rank sees one accelerator, its own, so that everything beyond reads as in a run of one
    process."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = visible.split(",") if visible is not None else []
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = rank
    elif int(rank) < len(entries):
        os.environ["CUDA_VISIBLE_DEVICES"] = entries[int(rank)].strip()


if __name__ == "__main__":
    die_with_parent()
    if sys.argv[1:2] == ["--ranks"]:
        from lora_profiler.measuring.harness.process_group import main
    else:
        take_one_device()
        from lora_profiler.measuring.harness.worker import main

    sys.exit(main(sys.argv[1:]))
