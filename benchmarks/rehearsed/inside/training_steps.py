"""One workload's training steps as the harness takes them, for a rehearsal: argv[1] is the workload
as JSON. Run by `rehearsed.rules` and `plans` in an environment with a CUDA build of torch.

With `--alone` this process is the first of the workload's ranks and the others are not there: a
pretended NCCL moves nothing, so that nobody is missed.
"""

import json
import os
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist

from lora_profiler.measuring.harness.process_group import Ranks, joined, spread
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import workload_from_dict
from lora_profiler.trace.modeling import build_model, make_optimizer

workload = workload_from_dict(json.loads(sys.argv[1]))
alone = sys.argv[2:] == ["--alone"]
if alone:
    world_size = workload.setup.world_size
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=world_size)
with nullcontext(Ranks()) if alone else joined(workload.setup) as ranks:
    if workload.setup.world_size > 1:
        torch.cuda.set_device(ranks.rank)
    model = build_model(workload)
    if alone:
        del os.environ["LORA_PROFILER_RUN"]  # where ranks wait for each other's small messages
    shared = spread(model, workload.setup)
    optimizer = make_optimizer(model, workload.setup)
    torch.cuda.empty_cache()  # what building left
    vocabulary = model.config.get_text_config().vocab_size
    batches = TrainingBatches(workload.setup, Conditions(), vocabulary, rank=ranks.rank)
    training = Training(model, optimizer, workload.setup, batches, spread=shared)
    while True:
        training.step(lambda step, phase: None)
