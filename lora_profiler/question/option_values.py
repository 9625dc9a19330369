"""The values that options of a setup can have."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from lora_profiler.question.feature import names

OptimizerImpl = Literal["foreach", "fused", "forloop"]
Attention = Literal["auto", "flash", "efficient", "cudnn", "math", "eager", "flash_attention_2"]
Device = Literal["cuda", "cpu", "mps", "xpu"]
Precision = Literal["pure", "amp", "amp-float16", "fsdp-mixed"]
Method = Literal["full", "lora", "qlora"]
if TYPE_CHECKING:  # the values are names of features, which the option's own check knows
    PeftType: TypeAlias = str
    QuantType: TypeAlias = str
    Kernels: TypeAlias = str
    LoopState: TypeAlias = str
    LoraKernels: TypeAlias = str
    Loss: TypeAlias = str
    Optimizer: TypeAlias = str
else:
    Optimizer = Literal[("adamw", "sgd", *names("optimizers"))]
    Loss = Literal[("plain", "chunked", "fused", *names("losses"))]
    QuantType = Literal[("nf4", "int8", *names("bases"))]
    PeftType = Literal[("lora", *names("adapters"))]
    Kernels = Literal[("transformers", *names("kernels"))]
    LoopState = Literal[("none", "transformers", "transformers-unmasked", *names("loops"))]
    LoraKernels = Literal[("peft", *names("lora_kernels"))]
Transformers = Literal["5", "4.57", "4.48", "4.45"]
Sharding = Literal[
    "none",
    "ddp",
    "zero1",
    "zero1-deepspeed",
    "zero2",
    "zero3",
    "fsdp",
    "fsdp-no-reshard",
    "fsdp1",
    "fsdp1-no-prefetch",
    "tp",
]
OffloadDevice = Literal["none", "cpu", "nvme"]
Dtype = Literal["float32", "bfloat16", "float16"]
Recipe = Literal["stock", "kbit", "kbit-norms", "trl"]
Qat = Literal["none", "8da4w", "int8-int4", "int4", "fp8-int4", "fp8-fp8"]

UNMODELLED_OPTIMIZERS: Mapping[str, str] = {
    "galore_adafactor": "its averages are sums of rows and columns of what it projects.",
    "galore_adamw_8bit": (
        "galore-torch 1.0 hands bitsandbytes 0.50 its clipping as another argument; take"
        " galore_adamw."
    ),
    "galore_adamw_layerwise": "it updates inside backward, where no gradient outlives its layer.",
    "q_galore": ("its weights and projections are quantised by kernels of its own."),
    "apollo_adamw_layerwise": "it updates inside backward, where no gradient outlives its layer.",
    "ademamix": "it keeps a third average; adamw keeps two.",
    "adalomo": "it updates inside backward, where no gradient outlives its layer.",
    "lomo": "it updates inside backward, where no gradient outlives its layer.",
    "lora_fa": "it is lorafa.",
    "loraplus": "LoRA+ is AdamW with another learning rate for B, and as many states; take adamw.",
    "lora_plus": "LoRA+ is AdamW with another learning rate for B, and as many states; take adamw.",
    "schedule_free": "it keeps a second copy of the weights in place of an average.",
}
"""Optimizers that people name, by what their names begin with; transformers' names among them."""
UNMODELLED_BASES: Mapping[str, str] = {
    "fp4": "bitsandbytes' FP4 has as many bytes as its NF4; take nf4.",
    "mxfp4": "transformers trains nothing on it; bring its weights back to 16 bit (dequantize).",
    "nvfp4": "transformers trains nothing on it.",
    "int4": "neither transformers nor PEFT trains on torchao's int4; nf4 is the nearest.",
    "torchao": "transformers trains on its formats of 8 bit alone, and none of those was traced.",
    "eetq": "its package's kernels were not traced; codes of int8 have as many bytes.",
    "aqlm": "its package's kernels were not traced.",
}
"""Quantised bases that people name and that are no answer."""
UNMODELLED_ADAPTERS: Mapping[str, str] = {
    "adalora": "its ranks change as it trains; LoRA of its first rank (init_r) is the nearest.",
    "boft": "its butterfly factors are multiplied by a kernel of its own; oft is the nearest.",
    "dora": "it is LoRA with --use-dora.",
    "rslora": "it is LoRA with --use-rslora.",
    "pissa": "it is LoRA that begins from other values; take lora.",
    "qlora": "it is --method qlora.",
    **dict.fromkeys(
        ("loha", "lokr", "fourierft", "randlora", "vblora", "hra", "c3a", "shira", "ln_tuning"),
        "what it trains was held against no count of PEFT's; lora, vera, ia3 and oft were.",
    ),
    **dict.fromkeys(
        ("prompt", "prefix", "p_tuning", "adaption"),
        "it trains extra prompt tokens, not layers; every sequence gets longer.",
    ),
}
"""PEFT's other methods."""
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FLAT: tuple[Sharding, ...] = ("fsdp1", "fsdp1-no-prefetch")
"""FSDP of flat parameters, as torch had it first; accelerate fetches no layer ahead."""
FULLY_SHARDED: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard", *FLAT)
"""Shardings that gather each layer's weights as it runs."""
DEEPSPEED_ZERO: tuple[Sharding, ...] = ("zero1-deepspeed", "zero2", "zero3")
"""Shardings of DeepSpeed, which makes every weight as narrow as the model's and keeps float32
copies of what trains."""
UPDATES_SHARED: tuple[Sharding, ...] = ("zero1", *DEEPSPEED_ZERO, *FULLY_SHARDED)
"""Shardings under which each rank updates its part of the weights."""
WHOLE_WEIGHTS: tuple[Sharding, ...] = ("none", "ddp", "zero1", "zero1-deepspeed", "zero2")
"""Shardings under which each rank has all weights."""
MAX_WORLD_SIZE = 2**20
"""Largest number of ranks accepted: some shardings deal tensors out to each."""
FROZEN_PARTS = ("vision_tower", "multi_modal_projector", "language_model")
"""Of a model that sees, by the names of LLaMA-Factory's `freeze_...`."""
