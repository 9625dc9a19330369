"""The options of a step: its batch, its formats, its optimizer and its checkpoints."""

from dataclasses import dataclass, field
from typing import get_args

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
            "Sequences in one micro-batch.",
            short="-b",
            common=True,
            is_open=True,
            group="batch",
            column="left",
            words="batch {}",
        ),
    )
    seq_len: int = field(
        default=2048,
        metadata=option(
            "Tokens in each sequence.",
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
            "Rows of --seq-len hold sequences of so many tokens; --attention flash is then"
            " FlashAttention 2's kernel for them.",
            metavar="TOKENS",
            noun="packed length",
            added=3,
            group="batch",
            label="Packed from sequences of, tokens",
            tip="Sequences of this length share each row; flash attention is then FlashAttention"
            " 2's for them.",
            placeholder="one sequence a row",
            words="packed from {}",
        ),
    )
    accumulation: int = field(
        default=1,
        metadata=option(
            "Micro-batches per optimizer step.",
            is_open=True,
            group="batch",
            column="right",
            tip="",
            words="accumulation {}",
        ),
    )
    dtype: Dtype = field(
        default="bfloat16",
        metadata=option(
            "Of the base weights.",
            group="optimizer",
            column="left",
            label="Weights",
            alternatives=("float32", "bfloat16"),
            unknown="the weights' dtype",
            tip="Dtype of the base.",
            words="{}",
        ),
    )
    precision: Precision = field(
        default="pure",
        metadata=option(
            "amp: bfloat16 autocast; amp-float16: float16 autocast and a scaled loss, as fp16 of"
            " transformers' Trainer; fsdp-mixed: shards gathered in bfloat16, as accelerate's bf16"
            " under FSDP.",
            group="optimizer",
            column="right",
            words="{}",
            alternatives=("pure", "amp"),
            unknown="mixed precision",
        ),
    )
    quantization: Quantization | None = None
    qat: Qat = field(
        default="none",
        metadata=option(
            "Quantisation-aware training by torchao: linear layers multiply fake-quantised weights,"
            " and inputs where the name has two formats. 8da4w: Int8DynActInt4WeightQATQuantizer,"
            " torchtune's; the others are QATConfig of axolotl and Unsloth.",
            noun="quantisation-aware training",
            added=30,
            group="optimizer",
            label="Quantisation-aware",
            tip="torchao's fake-quantised linear layers: formats of inputs and weights; 8da4w is"
            " torchtune's quantizer.",
            words="{} fake-quantised",
            heading="{} fake-quantised",
        ),
    )
    qat_group_size: int = field(
        default=32,
        metadata=option(
            "Weights that share a scale in int4, 128 in fp8-int4 whatever is asked.",
            metavar="N",
            noun="group size",
            added=30,
            group="optimizer",
            label="Weights a scale",
            tip="Of quantisation-aware training in int4.",
            words="groups of {}",
        ),
    )
    optimizer: Optimizer = field(
        default="adamw",
        metadata=option(
            f"{', '.join(get_args(Optimizer))}.",
            unmodelled=tuple(UNMODELLED_OPTIMIZERS.items()),
            common=True,
            metavar="NAME",
            group="optimizer",
            column="left",
            tip="",
            words="{}",
        ),
    )
    optimizer_rank: int = field(
        default=128,
        metadata=option(
            "Rank that GaLore and APOLLO project gradients to.",
            metavar="N",
            noun="optimizer rank",
            added=23,
            group="optimizer",
            label="Projected to",
            tip="Rank that GaLore and APOLLO project gradients to.",
            words="gradients of rank {}",
        ),
    )
    optimizer_impl: OptimizerImpl = field(
        default="foreach",
        metadata=option(
            "foreach is what torch takes on CUDA.",
            noun="optimizer implementation",
            group="optimizer",
            column="right",
            label="Made of",
            alternatives=("foreach", "fused"),
            unknown="the optimizer's implementation",
            tip="The optimizer's implementation; foreach is what torch takes on CUDA.",
            words="{}",
        ),
    )
    optimizer_in_bwd: bool = field(
        default=False,
        metadata=option(
            "Each tensor is stepped, and its gradient let go, as soon as backward has made it, as"
            " torchtune's optimizer_in_bwd.",
            added=25,
            group="optimizer",
            label="Steps in backward",
            tip="Each tensor is stepped, and its gradient let go, as soon as backward has made it.",
            words="steps in backward|steps after backward",
            heading="steps in backward",
        ),
    )
    checkpointing: bool = field(
        default=False,
        metadata=option(
            "Recompute each layer in backward.",
            common=True,
            group="batch",
            label="Gradient checkpointing",
            words="checkpointing|no checkpointing",
        ),
    )
    use_reentrant: bool = field(
        default=False,
        metadata=option(
            "Checkpointing of the reentrant kind, the Trainer's default until transformers 5: a"
            " layer runs again to its end, whose output and gradient stay through its backward.",
            added=14,
            group="batch",
            label="Reentrant checkpointing",
            alternatives=(True, False),
            unknown="the kind of checkpointing",
            tip="The Trainer's kind until transformers 5: a layer runs again to its end.",
            words="reentrant|non-reentrant",
        ),
    )
    offload_checkpoints: bool = field(
        default=False,
        metadata=option(
            "Inputs of checkpointed layers wait in the host's memory, as of Unsloth's"
            " use_gradient_checkpointing='unsloth': the last layer's stays, and two buffers that"
            " the others come back to.",
            added=25,
            group="batch",
            label="Checkpoints on the host",
            tip="Inputs of checkpointed layers wait in the host's memory, as Unsloth does it.",
            words="offloaded checkpoints|checkpoints on the device",
            heading="checkpoints on the host",
        ),
    )
    offload_activations: bool = field(
        default=False,
        metadata=option(
            "What layers keep for backward waits in the host's memory, as of TRL's and axolotl's"
            " activation_offloading and torchtune's enable_activation_offloading; with"
            " --checkpointing that is the layers' inputs, and with --use-reentrant what a layer"
            " keeps as it runs again.",
            added=32,
            group="batch",
            label="Activations on the host",
            tip="What layers keep for backward waits in the host's memory, as TRL and torchtune do"
            " it.",
            words="offloaded activations|activations on the device",
            heading="activations on the host",
        ),
    )
    offload_embedding: bool = field(
        default=False,
        metadata=option(
            "The embedding's rows are looked up in the host's memory, as of Unsloth's"
            " offload_embedding.",
            added=35,
            group="batch",
            label="Embedding on the host",
            tip="The embedding's rows are looked up in the host's memory, as Unsloth does it.",
            words="embedding on the host|embedding on the device",
            heading="embedding on the host",
        ),
    )
