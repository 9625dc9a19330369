"""How a model is trained: every option of it, declared once."""

from dataclasses import dataclass, field, replace
from typing import get_args

from lora_profiler.lora_config import LoraConfig, Quantization
from lora_profiler.option import check_options, option
from lora_profiler.option_values import (
    DEEPSPEED_ZERO,
    FLAT,
    MAX_WORLD_SIZE,
    UNMODELLED_OPTIMIZERS,
    Attention,
    Device,
    Dtype,
    Kernels,
    LoopState,
    Loss,
    Method,
    Optimizer,
    OptimizerImpl,
    Precision,
    Sharding,
    Transformers,
    check_together,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """How the model is trained. `lora=None` is full fine-tuning; `quantization` needs LoRA and
    makes it QLoRA.

    `batch_size` is the micro-batch, `seq_len` its padded length in tokens. `dtype` is that of the
    base weights; `precision` "amp" runs the forward pass under bfloat16 autocast. `checkpointing`
    is one segment a layer, non-reentrant without `use_reentrant`.

    `loss` is how the loss comes from the last hidden state: "plain" makes all logits and then
    cross-entropy, as transformers does; "chunked" makes the logits of a few tokens at a time, and
    again in backward; "fused" computes the gradient with the loss, chunk by chunk, as Liger's
    kernel does; "trl" is the tiled head of TRL's trainers, "torchtune" and "torchtune-chunked" are
    torchtune's LinearCrossEntropyLoss and CEWithChunkedOutputLoss, "litgpt" is LitGPT's loss, "cce"
    cut cross-entropy, and "triton" a kernel that writes the gradient over all logits, as Liger's
    `cross_entropy`. With `label_smoothing_factor` above 0 it is transformers' `LabelSmoother` that
    makes it of all logits. `hold_outputs` is of a loop that writes `out = model(...)`: the output,
    all logits among it where there are any, lives until the next one takes its name; without it the
    loop keeps the loss alone. `world_size` is the number of ranks, each with a batch of its own,
    and `sharding` what they share of the model.

    `packed` is the length in tokens of the sequences that are packed into each row of `seq_len`,
    the last one of a row cut where it ends; None, or a row no longer than that, for one sequence a
    row. `padding` is the share of each sequence that is padding: memory only knows whether there is
    any, which brings an attention mask. `eval_batch_size` sequences are evaluated between steps;
    None for no evaluation while training. `kernels` "liger" are Liger-Kernel's RMSNorm, SwiGLU and
    rotary embedding in place of transformers' own; its loss is `loss` "fused". "foak" are the norm
    and rotary embedding of fms-acceleration's plugin of that name, which are Unsloth's. "torchtune"
    is its own attention, which copies grouped heads for all, and "litgpt-2023" LitGPT's own model
    of October 2023 with bitsandbytes 0.41.
    `transformers` is the version whose own code runs: its loss, its attention around the kernel,
    its experts.

    Raises UsageError for values out of range and for options that contradict each other.

    Examples:
        >>> from lora_profiler import TrainSetup
        >>> TrainSetup(seq_len=512).method
        'full'
    """

    lora: LoraConfig | None = None
    batch_size: int = field(
        default=1,
        metadata=option(
            "Sequences in one micro-batch.",
            short="-b",
            common=True,
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
            group="batch",
            label="Sequence length, tokens",
            tip="",
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
            tip="Dtype of the base.",
            words="{}",
        ),
    )
    precision: Precision = field(
        default="pure",
        metadata=option(
            "amp: bfloat16 autocast; fsdp-mixed: shards gathered in bfloat16, as accelerate's bf16"
            " under FSDP.",
            group="optimizer",
            column="right",
            words="{}",
        ),
    )
    quantization: Quantization | None = None
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
    optimizer_impl: OptimizerImpl = field(
        default="foreach",
        metadata=option(
            "foreach is what torch takes on CUDA.",
            noun="optimizer implementation",
            group="optimizer",
            column="right",
            label="Made of",
            tip="The optimizer's implementation; foreach is what torch takes on CUDA.",
            words="{}",
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
            tip="The Trainer's kind until transformers 5: a layer runs again to its end.",
            words="reentrant|non-reentrant",
        ),
    )
    attention: Attention = field(
        default="auto",
        metadata=option(
            "auto is SDPA with the kernel that torch would take; flash_attention_2 is the"
            " package's, which is told of a sliding window and gets no mask of it.",
            group="attention",
            words="{} attention",
        ),
    )
    loss: Loss = field(
        default="plain",
        metadata=option(
            "plain: all logits at once, as transformers; chunked: a few tokens at a time; fused: as"
            " Liger's kernel; trl, torchtune, torchtune-chunked, litgpt: as those trainers; cce:"
            " cut cross-entropy, as axolotl's plugin; triton: gradients written over the logits, as"
            " Liger's cross_entropy.",
            added=1,
            metavar="NAME",
            group="optimizer",
            tip="plain: all logits at once; chunked: a few tokens at a time; fused: as Liger's"
            " kernel; trl, torchtune, torchtune-chunked, litgpt: as those trainers; cce: cut"
            " cross-entropy; triton: gradients over the logits, as Liger's cross_entropy.",
            words="{} loss",
            heading="{} loss",
        ),
    )
    label_smoothing_factor: float = field(
        default=0.0,
        metadata=option(
            "As transformers' Trainer: the loss is made of all logits by its LabelSmoother.",
            added=6,
            at_least=0,
            below=1,
            group="optimizer",
            label="Label smoothing",
            tip="Of transformers' Trainer, which makes the loss of all logits by its"
            " LabelSmoother.",
            words="label smoothing {}",
            heading="label smoothing {}",
        ),
    )
    hold_outputs: bool = field(
        default=False,
        metadata=option(
            "The loop keeps the model's output, logits among it, until the next forward pass has"
            " returned: out = model(...).",
            added=5,
            group="optimizer",
            label="Outputs held",
            tip="The loop keeps the model's output, logits among it, until the next forward pass"
            " has returned.",
            words="outputs held|outputs dropped",
            heading="outputs held",
        ),
    )
    loop_state: LoopState = field(
        default="none",
        metadata=option(
            "What the loop itself keeps on the card: transformers' Trainer keeps labels apart from"
            " the input ids, a running loss and the norm of gradients, and the 8-bit optimizers'"
            " states of embeddings in 32 bit; TRL's trainers an attention mask too.",
            added=15,
            group="optimizer",
            label="Kept by the loop",
            tip="transformers: labels apart from the ids, a running loss, the norm of gradients;"
            " 8-bit optimizers' states of embeddings in 32 bit. trl: an attention mask too.",
            words="{}'s loop",
        ),
    )
    kernels: Kernels = field(
        default="transformers",
        metadata=option(
            "liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; use_liger_kernel=True adds"
            " --loss fused. foak: RMSNorm and rotary embedding of fms-acceleration's plugin."
            " torchtune: its own attention, which copies grouped heads. litgpt-2023: LitGPT's own"
            " model of that year.",
            added=4,
            group="attention",
            tip="liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; foak: RMSNorm and"
            " rotary embedding of fms-acceleration's plugin.",
            words="{} kernels",
            heading="{} kernels",
        ),
    )
    transformers: Transformers = field(
        default="5",
        metadata=option(
            "Version whose code runs. Before 5 an expert is a layer of its own; 4.48 copies the"
            " float32 logits to shift them; 4.45 casts them in the head, and its flash attention"
            " repeats Mistral's grouped heads.",
            added=14,
            group="attention",
            tip="Version whose code runs: what its loss holds, whether an expert is a layer of its"
            " own, what attention copies.",
            words="transformers {}",
            heading="transformers {}",
        ),
    )
    world_size: int = field(
        default=1,
        metadata=option(
            "Ranks that train together, a batch each.",
            added=2,
            largest=MAX_WORLD_SIZE,
            group="ranks",
            label="Ranks",
            tip="",
            words="{} ranks",
        ),
    )
    sharding: Sharding = field(
        default="none",
        metadata=option(
            "What the ranks share of the model; fsdp1 is FSDP as torch had it first, of flat"
            " parameters, whose layers run in bfloat16 under --precision amp.",
            added=2,
            group="ranks",
            tip="What ranks that train together share of the model; each has a batch of its own.",
            words="{}",
            heading="{} over {world_size} ranks",
        ),
    )
    reduce_bucket_size: int = field(
        default=500_000_000,
        metadata=option(
            "Elements of DeepSpeed's bucket of gradients, with zero2 and zero3.",
            metavar="N",
            added=13,
            largest=2**40,
            group="ranks",
            label="Reduce bucket, elements",
            tip="Of DeepSpeed's zero2 and zero3: elements that its buffer of gradients has room"
            " for, its own default unless a file says otherwise.",
            words="reduce bucket {}",
            heading="reduce bucket {}",
        ),
    )
    padding: float = field(
        default=0.0,
        metadata=option(
            "Share of each sequence that is padding: batches padded to their longest have an"
            " attention mask.",
            metavar="SHARE",
            added=7,
            at_least=0,
            below=1,
            group="batch",
            label="Padding, share of a sequence",
            tip="Batches padded to their longest sequence have an attention mask; any share above 0"
            " means that.",
            words="padding {}",
            heading="padded",
        ),
    )
    eval_batch_size: int | None = field(
        default=None,
        metadata=option(
            "Sequences in one batch of evaluation between steps (per_device_eval_batch_size).",
            metavar="N",
            default_text="no evaluation while training",
            noun="evaluation batch size",
            added=8,
            group="batch",
            label="Evaluation batch",
            tip="Sequences of one batch of evaluation between steps, 8 in transformers unless asked"
            " otherwise.",
            placeholder="no evaluation while training",
            words="evaluation batch {}",
            heading="evaluating batches of {}",
        ),
    )
    generation_batch_size: int | None = field(
        default=None,
        metadata=option(
            "Completions that transformers' generate makes at once between steps, as GRPO:"
            " per_device_train_batch_size x steps_per_generation.",
            metavar="N",
            default_text="no generation",
            noun="generation batch size",
            added=21,
            group="batch",
            label="Completions at once",
            placeholder="no generation while training",
            words="generating {} at once",
            heading="generating {} completions at once",
        ),
    )
    max_completion_length: int | None = field(
        default=None,
        metadata=option(
            "Tokens of --seq-len that are generated, the rest being the prompt.",
            metavar="N",
            default_text="prompts may be as long as --seq-len",
            noun="completion length",
            added=22,
            group="batch",
            label="Tokens generated",
            placeholder="prompts may fill the sequence",
            words="completions of {}",
            heading="completions of {}",
        ),
    )
    device: Device = field(
        default="cuda", metadata=option("Whose memory rules hold.", group="attention", words="{}")
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_together(self)

    @property
    def as_held(self) -> "TrainSetup":
        """The setup in the formats that a rank holds weights in: DeepSpeed makes adapters as narrow
        as the base."""
        if self.lora is None or self.sharding not in DEEPSPEED_ZERO:
            return self
        return replace(self, lora=replace(self.lora, adapter_dtype=self.dtype))

    @property
    def of_one_process(self) -> "TrainSetup":
        """The setup of a process alone whose forward and backward pass are a rank's: what FSDP
        gathers in bfloat16 is bfloat16 there."""
        held, lora = self.as_held, self.as_held.lora
        if self.precision == "fsdp-mixed" and lora is not None:
            lora = replace(lora, adapter_dtype="bfloat16")
        is_lowered = self.precision == "fsdp-mixed" or self.has_wide_shards
        return replace(
            held,
            lora=lora,
            world_size=1,
            sharding="none",
            dtype="bfloat16" if is_lowered else self.dtype,
            precision="pure" if is_lowered else self.precision,
        )

    @property
    def method(self) -> Method:
        if self.lora is None:
            return "full"
        return "lora" if self.quantization is None else "qlora"

    @property
    def is_litgpt_2023(self) -> bool:
        """Whether LitGPT's own model runs, with the bitsandbytes of its time."""
        return self.kernels == "litgpt-2023"

    @property
    def has_flat_units(self) -> bool:
        return self.sharding in FLAT

    @property
    def has_wide_shards(self) -> bool:
        """Whether layers run in bfloat16 over shards in float32, as accelerate sets FSDP's mixed
        precision (`utils/dataclasses.py`, set_mixed_precision)."""
        return self.has_flat_units and self.precision == "amp" and self.dtype == "float32"

    @property
    def is_reentrant(self) -> bool:
        """Whether layers are checkpointed, by the reentrant kind."""
        return self.checkpointing and self.use_reentrant

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several sequences."""
        return self.packed is not None and self.packed < self.seq_len

    @property
    def is_padded(self) -> bool:
        """Whether batches have an attention mask that leaves tokens out."""
        return self.padding > 0

    @property
    def padded_tokens(self) -> int:
        """Tokens of each sequence that are padding, at least one where there is any."""
        return max(1, round(self.seq_len * self.padding)) if self.is_padded else 0

    @property
    def is_flattened(self) -> bool:
        """Whether packed rows become one, without a mask: FlashAttention 2 is told where sequences
        begin (`cu_seqlens`)."""
        taken = self.attention == "flash" or self.is_flash_attention_2
        return self.is_packed and taken and self.device == "cuda"

    @property
    def is_flash_attention_2(self) -> bool:
        return self.attention == "flash_attention_2"
