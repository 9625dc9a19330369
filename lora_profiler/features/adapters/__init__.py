"""What adapter methods of PEFT train, a file each, for answers without a trace.

`FEATURE` are facts that PEFT's config class does not say, by the fields of `AdapterMethod` in
`lora_profiler.question.adapter_method`; `without` are fields of a `LoraConfig` that an argument of
the same name is not. The file also has

- `tensors(adapter, dtype, lora)` are what trains of one adapter, `buffer_bytes(adapters, setup)`
  what all of them hold and do not train;
- `check_config(config)` raises UsageError for a config that a rehearsal met and that is not
  predicted;
- `feedforward_names(spec, lora)` are modules whose input is scaled, if it has that;
- `refusals(setup)` are sentences, and whether each applies.
"""
