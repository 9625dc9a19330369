"""The one place that makes a real, trainable model of a `Workload`: transformers + PEFT, 4-bit
where asked, ready to step.

May import torch; transformers, PEFT and bitsandbytes load when a model is built.
"""

from lora_profiler.trace.modeling.adapters import adapter_config, inject_adapters
from lora_profiler.trace.modeling.build import build_model
from lora_profiler.trace.modeling.contents import (
    adapter_parameters,
    code_books,
    count_parameters,
    output_head,
    quantization_tensors,
    state_tensors,
    text_tokens,
)
from lora_profiler.trace.modeling.stepping import (
    attention_context,
    evaluating,
    forward,
    forward_loss,
    make_optimizer,
)

__all__ = [
    "adapter_config",
    "adapter_parameters",
    "attention_context",
    "build_model",
    "code_books",
    "count_parameters",
    "evaluating",
    "forward",
    "forward_loss",
    "inject_adapters",
    "make_optimizer",
    "output_head",
    "quantization_tensors",
    "state_tensors",
    "text_tokens",
]
