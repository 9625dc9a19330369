"""How a model is trained: the parts of a `Workload`, imported from `lora_profiler.workload`."""
