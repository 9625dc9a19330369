"""Quantised bases other than those of bitsandbytes, a file each.

`FEATURE` is a `lora_profiler.question.base.Base`. The file also has

- `stored(config)` is how a checkpoint of it is stored, by its `quantization_config`; None for what
  is not known;
- `refusals(workload)` are sentences, and whether each applies; `leaves(part, model)`: whether
  linear layers of a part of the model are not packed as they would have to be;
- `words(setup)` are sentences about how it is loaded.
"""
