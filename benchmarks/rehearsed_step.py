"""One workload's training steps as the harness takes them, for a rehearsal: argv[1] is the workload
as JSON. Run by `rehearsed_rules` in an environment with a CUDA build of torch."""

import json
import sys

import torch

from lora_profiler.harness.process_group import joined, spread
from lora_profiler.harness.training import Batches, Training
from lora_profiler.modeling import build_model, make_optimizer
from lora_profiler.records.record import Conditions
from lora_profiler.records.serialize import workload_from_dict

workload = workload_from_dict(json.loads(sys.argv[1]))
with joined(workload.setup) as ranks:
    if workload.setup.world_size > 1:
        torch.cuda.set_device(ranks.rank)
    model = build_model(workload)
    shared = spread(model, workload.setup)
    optimizer = make_optimizer(model, workload.setup)
    torch.cuda.empty_cache()  # what building left
    vocabulary = model.config.get_text_config().vocab_size
    batches = Batches(workload.setup, Conditions(), vocabulary, rank=ranks.rank)
    training = Training(model, optimizer, workload.setup, batches, spread=shared)
    while True:
        training.step(lambda step, phase: None)
