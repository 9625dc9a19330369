"""The options of a step: its batch, its formats, its optimizer and its checkpoints."""

from dataclasses import dataclass, field

from lora_profiler.option import option
from lora_profiler.option_values import (
    UNMODELLED_OPTIMIZERS,
    Dtype,
    Optimizer,
    OptimizerImpl,
    Precision,
    Qat,
)
from lora_profiler.question.lora_config import LoraConfig, Quantization


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """The first fields of `TrainSetup`, whose docstring says what they mean."""

    lora: LoraConfig | None = None
    batch_size: int = field(
        default=1,
        metadata=option(
            "sequences per micro-batch",
            short="-b",
            common=True,
            is_open=True,
            group="batch",
            words="batch {}",
        ),
    )
    seq_len: int = field(
        default=2048,
        metadata=option(
            "tokens per sequence",
            short="-s",
            common=True,
            noun="sequence length",
            is_open=True,
            group="batch",
            label="Sequence length, tokens",
            tip="",
            alternatives=lambda options: (max(1, options["seq_len"] // 2),),
            unknown="the lengths of samples",
            words="{} tokens",
        ),
    )
    packed: int | None = field(
        default=None,
        metadata=option(
            "mean tokens per packed sequence; rows are --seq-len long",
            metavar="TOKENS",
            noun="packed length",
            added=3,
            group="batch",
            label="Packed sequences, tokens each",
            placeholder="one sequence a row",
            words="packed from {}",
        ),
    )
    accumulation: int = field(
        default=1,
        metadata=option(
            "micro-batches per optimizer step",
            is_open=True,
            group="batch",
            tip="",
            words="accumulation {}",
        ),
    )
    dtype: Dtype = field(
        default="bfloat16",
        metadata=option(
            "base weight dtype: float32, bfloat16, float16",
            group="optimizer",
            label="Base dtype",
            alternatives=("float32", "bfloat16"),
            unknown="the weights' dtype",
            words="{}",
        ),
    )
    precision: Precision = field(
        default="pure",
        metadata=option(
            "pure; amp: bfloat16 autocast; amp-float16: with loss scaling; fsdp-mixed: FSDP "
            "gathers in bfloat16",
            group="optimizer",
            words="{}",
            alternatives=("pure", "amp"),
            unknown="mixed precision",
        ),
    )
    quantization: Quantization | None = None
    qat: Qat = field(
        default="none",
        metadata=option(
            "quantisation-aware training by torchao; names give the formats of inputs and weights",
            noun="quantisation-aware training",
            added=30,
            group="optimizer",
            label="Quantisation-aware training",
            words="{} fake-quantised",
            heading="{} fake-quantised",
        ),
    )
    qat_group_size: int = field(
        default=32,
        metadata=option(
            "weights per int4 scale; always 128 in fp8-int4",
            metavar="N",
            noun="group size",
            added=30,
            group="optimizer",
            label="QAT group size",
            words="groups of {}",
        ),
    )
    optimizer: Optimizer = field(
        default="adamw",
        metadata=option(
            "adamw, adamw_8bit, lion, adafactor, ...",
            unmodelled=tuple(UNMODELLED_OPTIMIZERS.items()),
            common=True,
            metavar="NAME",
            group="optimizer",
            tip="",
            words="{}",
        ),
    )
    optimizer_rank: int = field(
        default=128,
        metadata=option(
            "rank of projected gradients in GaLore and APOLLO",
            metavar="N",
            noun="optimizer rank",
            added=23,
            group="optimizer",
            label="Projection rank",
            words="gradients of rank {}",
        ),
    )
    optimizer_impl: OptimizerImpl = field(
        default="foreach",
        metadata=option(
            "foreach (default on CUDA), fused, forloop",
            noun="optimizer implementation",
            group="optimizer",
            label="Optimizer kernels",
            alternatives=("foreach", "fused"),
            unknown="the optimizer's implementation",
            words="{}",
        ),
    )
    optimizer_in_bwd: bool = field(
        default=False,
        metadata=option(
            "optimizer steps in backward, as in torchtune",
            added=25,
            group="optimizer",
            label="Optimizer step in backward",
            words="steps in backward|steps after backward",
            heading="steps in backward",
        ),
    )
    checkpointing: bool = field(
        default=False,
        metadata=option(
            "recompute activations in backward",
            common=True,
            group="batch",
            label="Gradient checkpointing",
            words="checkpointing|no checkpointing",
        ),
    )
    use_reentrant: bool = field(
        default=False,
        metadata=option(
            "reentrant checkpointing, the Trainer's default before transformers 5",
            added=14,
            group="batch",
            label="Reentrant checkpointing",
            alternatives=(True, False),
            unknown="the kind of checkpointing",
            words="reentrant|non-reentrant",
        ),
    )
    offload_checkpoints: bool = field(
        default=False,
        metadata=option(
            "offload checkpointed inputs to CPU, as in Unsloth",
            added=25,
            group="batch",
            label="Checkpoints on CPU",
            words="offloaded checkpoints|checkpoints on the device",
            heading="checkpoints on the host",
        ),
    )
    offload_activations: bool = field(
        default=False,
        metadata=option(
            "offload saved activations to CPU, as in TRL, axolotl and torchtune",
            added=32,
            group="batch",
            label="Activations on CPU",
            words="offloaded activations|activations on the device",
            heading="activations on the host",
        ),
    )
    offload_embedding: bool = field(
        default=False,
        metadata=option(
            "keep the embedding in CPU memory, as in Unsloth",
            added=35,
            group="batch",
            label="Embedding on CPU",
            words="embedding on the host|embedding on the device",
            heading="embedding on the host",
        ),
    )
