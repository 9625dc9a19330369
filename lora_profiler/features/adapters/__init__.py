"""Adapter methods of PEFT other than LoRA, a file each.

`FEATURE` is a `lora_profiler.question.adapter_method.AdapterMethod`. The file also has

- `peft_config(common, lora)` is PEFT's config, which imports it, and `read(config)` the fields of a
  `LoraConfig` that such a config stands for, as a rehearsal has it;
- `tensors(adapter, dtype, lora)` are what trains of one adapter, `buffer_bytes(adapters, setup)`
  what all of them hold and do not train;
- `feedforward_names(spec, lora)` are modules whose input is scaled, if it has that;
- `refusals(setup)` are sentences, and whether each applies.
"""
