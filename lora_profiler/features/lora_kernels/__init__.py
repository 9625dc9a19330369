"""Functions that hold linear layers with their adapters, in place of PEFT's, a folder each.

`__init__.FEATURE` is a `lora_profiler.question.lora_kernel_set.LoraKernelSet`. Optional:

- `unsupported_reason(model, setup)`: the end of a sentence, or None; `buffer_elements(model,
  setup)`: of a buffer of the process, into which weights are unpacked;
- `law.projections(op, x, names)` and `law.mlp(op, x, name)`: the functions, in the terms of the
  rules; `stand_in.patched(model)`: what a trace runs in their place.
"""
