"""What a card holds under FSDP FULL_SHARD over several: shards of what is kept, the root unit
whole, one layer at a time.

Read from torch 2.4 `distributed/fsdp/{_flat_param,_runtime_utils}.py`: each layer is a unit,
embedding, last norm and head are the root's, which stays whole from its first use to the end of
backward. In the loss no layer is gathered; in the last layer's backward that layer is, and the one
before it where it is fetched ahead. FSDP's own default is to fetch ahead, accelerate's is not
(`utils/dataclasses.py`), and fms-acceleration's `accelerate.yaml` asks by a key that accelerate 1.0
no longer knows.
"""

from benchmarks.public.tape import PERSISTENT, WORKSPACE, WORKSPACES, Tape
from lora_profiler.question.workload import Workload


def sharded_peak(
    tape: Tape, workload: Workload, ranks: int, *, wide_shards: bool, prefetched: bool
) -> int:
    """Bytes of a card of `ranks`; `wide_shards`: kept in float32, where the tape computes in 16
    bit."""
    width = 2 if wide_shards else 1
    unit = _bytes_of_layer(tape, workload)
    layers = workload.model.num_layers
    before_last, highest, is_last = f".{layers - 2}.", 0, True
    for phase, module, live in tape.instants():
        kept = sum(live.get(category, 0) for category in PERSISTENT)
        whole = live.get("parameters", 0) - layers * unit
        if phase == "optimizer":
            highest = max(highest, width * sum(live.values()) // ranks)
        elif phase in ("forward", "loss"):
            rest = sum(live.values()) - kept
            highest = max(highest, width * kept // ranks + whole + rest)
        elif phase == "backward":
            is_last = is_last and before_last not in module
            if (
                not is_last
            ):  # whatever a layer needs, the last one needs as well, beside the checkpoints of all
                continue
            rest = sum(live.values()) - kept
            gathered = unit * (1 + prefetched) if f".{layers - 1}." in module else 0
            highest = max(highest, width * kept // ranks + whole + rest + gathered)
    return highest + WORKSPACES * WORKSPACE


def _bytes_of_layer(tape: Tape, workload: Workload) -> int:
    last = f".{workload.model.num_layers - 1}."
    births = [e.birth for e in tape.events if e.birth is not None]
    return sum(
        b.size for b in births if b.category == "parameters" and last in b.module and b.op == ""
    )
