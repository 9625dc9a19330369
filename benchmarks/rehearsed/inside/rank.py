"""The first of many ranks, of which the others are not there, inside a rehearsal: what
`rehearsed.deepspeed_rank` and `rehearsed.context_rank` do alike in the script's process."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from benchmarks.pages import versions_of


def begin(ranks: int) -> None:
    """Makes this process the first of `ranks` on one card each."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    dist.distributed_c10d._store_based_barrier = lambda *a, **k: None  # type: ignore[attr-defined]
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=ranks)
    del os.environ["LORA_PROFILER_RUN"]  # where ranks wait for each other's small messages


def held(which: str) -> int:
    """Bytes asked for: `current`, or `peak`."""
    return int(torch.cuda.memory_stats()[f"requested_bytes.all.{which}"])


def tell(
    sizes: Mapping[str, int], workspaces: int, packages: Sequence[str], **more: Any
) -> NoReturn:
    """Says `sizes` without workspaces of BLAS, `more` and versions to what rehearses, and ends."""
    said = {name: size - workspaces for name, size in sizes.items()}
    found = {**said, **more, "versions": versions_of(*packages)}
    print("FOUND " + json.dumps(found), file=sys.stderr, flush=True)
    os._exit(0)
