"""Optimizers, a file each.

`FEATURE` is a `lora_profiler.question.optimizer.OptimizerFacts`. One that is not of bitsandbytes or
torchao also has

- `state_bytes(tensor, setup)`: bytes of the states of one trained tensor, as a polynomial;
- `temporaries(state, setup)`: what one step allocates and frees, each candidate for the largest;
- `made(model, parameters, setup)`: the optimizer itself, where a trace or measurement can make it.
"""
