"""Kernels and models that run in place of transformers' own, a folder each.

`__init__.FEATURE` is a `lora_profiler.question.kernel_set.KernelSet`. Optional:

- `refusals(workload)`: sentences, and whether each applies; `doubts(workload)` likewise: what the
  rules do not follow to the byte; `unsupported_reason(setup)`: the end of a sentence, or None;
- `as_made(model)`: the model as the library makes it; `base(nf4)`: how its 4-bit layers run;
- `rotary_tables(model)`: where cosines and sines lie; `positions(workload)`: how many it keeps;
- `pass_scalar_bytes(setup)`: single numbers that its loop holds through a pass;
- `law.REPLACED`: pieces of a forward pass; `law.program(workload)`: a whole one;
  `law.buffer_bytes(workload, widths)`; `law.decoding(...)`: what generation holds;
- `stand_in.patched(model)` and `stand_in.during()`: what a trace runs in their place.
"""
