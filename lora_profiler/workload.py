"""The question: which model, trained how. Frozen, hashable, and refused with a clear message when
it makes no sense."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, get_args

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec, Nf4Checkpoint
from lora_profiler.option import Option, check_options, option, options_of
from lora_profiler.platform import Platform

Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal[
    "adamw",
    "adamw_8bit",
    "sgd",
    "adafactor",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adamw_torch_8bit",
    "adamw_torch_4bit",
    "lion",
    "lion_8bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "muon",
]
OptimizerImpl = Literal["foreach", "fused", "forloop"]
Attention = Literal["auto", "flash", "efficient", "cudnn", "math", "eager"]
Device = Literal["cuda", "cpu", "mps", "xpu"]
Precision = Literal["pure", "amp", "fsdp-mixed"]
Recipe = Literal["stock", "kbit", "trl"]
QuantType = Literal["nf4", "int8"]
Method = Literal["full", "lora", "qlora"]
Loss = Literal[
    "plain", "chunked", "fused", "trl", "torchtune", "torchtune-chunked", "cce", "litgpt", "triton"
]
Kernels = Literal["transformers", "liger"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp", "fsdp-no-reshard", "tp"]

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FULLY_SHARDED: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
"""Shardings that gather each layer's weights as it runs."""
DEEPSPEED_ZERO: tuple[Sharding, ...] = ("zero2", "zero3")
"""Shardings of DeepSpeed, which makes every weight as narrow as the model's and keeps float32
copies of what trains."""
UPDATES_SHARED: tuple[Sharding, ...] = ("zero1", *DEEPSPEED_ZERO, *FULLY_SHARDED)
"""Shardings under which each rank updates its part of the weights."""
MAX_WORLD_SIZE = 2**20
"""Largest number of ranks accepted: some shardings deal tensors out to each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """A LoRA adapter, spelled as in `peft.LoraConfig`.

    target_modules: "all-linear", None (PEFT's default for the model type), a tuple of names matched
    by suffix, or one regular expression matched in full, as PEFT does. `lora_alpha` None means
    twice the rank. `adapter_dtype` is the dtype of A and B: float32 is what PEFT makes of a 16-bit
    base unless `autocast_adapter_dtype=False`.

    Raises UsageError for values that PEFT refuses.

    Examples:
        >>> from lora_profiler import LoraConfig
        >>> LoraConfig(r=8).alpha
        16
    """

    r: int = field(
        default=16,
        metadata=option(
            "Rank of the LoRA matrices.",
            name="rank",
            short="-r",
            common=True,
            group="adapter",
            column="left",
            tip="Of the LoRA matrices.",
        ),
    )
    lora_alpha: float | None = field(
        default=None,
        metadata=option(
            "LoRA's scale; costs nothing.",
            name="alpha",
            default_text="2 x rank",
            above=0,
            group="adapter",
            column="right",
            words="alpha {}",
        ),
    )
    lora_dropout: float = field(
        default=0.0,
        metadata=option(
            "Dropout on the adapters' inputs.",
            name="dropout",
            at_least=0,
            below=1,
            group="adapter",
            column="left",
            tip="On the adapters' inputs.",
            words="dropout {}",
            heading="dropout {}",
        ),
    )
    target_modules: str | tuple[str, ...] | None = field(
        default="all-linear",
        metadata=option(
            "Layers to adapt: every linear layer, PEFT's default for the model, the attention"
            " projections, names matched by suffix, or a pattern matched in full.",
            name="targets",
            common=True,
            metavar="all-linear|default|attention|NAME,...|re:PATTERN",
            group="adapter",
            tip="Every linear layer, PEFT's default for the model, the attention projections; or"
            " type names with commas, or re:PATTERN.",
            words="targets {}",
        ),
    )
    layers_to_transform: tuple[int, ...] = field(
        default=(),
        metadata=option(
            "Adapt only these layers, by number; with a list of names.",
            metavar="N,N-N",
            group="adapter",
            tip="",
            placeholder="all of them; or 0,2,8-15",
            words="layers {}",
            heading="layers {}",
        ),
    )
    modules_to_save: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Modules trained in full beside the adapters.",
            metavar="NAME,...",
            group="adapter",
            tip="",
            placeholder="none; or lm_head,embed_tokens",
            words="also trains {}",
            heading="also trained: {}",
        ),
    )
    use_rslora: bool = field(
        default=False,
        metadata=option(
            "Scale by alpha / sqrt(rank) instead of alpha / rank; costs nothing.",
            group="adapter",
            label="rsLoRA",
            words="rsLoRA|no rsLoRA",
            heading="rsLoRA",
        ),
    )
    adapter_dtype: Dtype = field(
        default="float32",
        metadata=option(
            default_text="float32, as PEFT does",
            group="adapter",
            column="right",
            label="Its dtype",
            tip="Of the adapter: PEFT takes float32 on a 16-bit base.",
            words="{} adapters",
        ),
    )
    use_dora: bool = field(
        default=False,
        metadata=option(
            "DoRA: a trained magnitude for each output beside A and B, and the norms of W + BA in"
            " every forward pass.",
            added=10,
            group="adapter",
            label="DoRA",
            tip="A trained magnitude for each output beside A and B.",
            words="DoRA|no DoRA",
            heading="DoRA",
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.target_modules == () or self.target_modules == "":
            raise UsageError("target modules are empty; name at least one, or use all-linear.")

    @property
    def alpha(self) -> float:
        return 2 * self.r if self.lora_alpha is None else self.lora_alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The frozen base quantised by bitsandbytes: in NF4 (block 64), with or without double
    quantisation, or in int8 (`load_in_8bit`: LLM.int8, a scale for each output).

    recipe: "stock" injects adapters as PEFT does; "kbit" first runs
    `prepare_model_for_kbit_training` (every parameter left in 16 bit becomes float32); "trl" keeps
    the base as it is and trains bfloat16 adapters.

    Examples:
        >>> from lora_profiler import LoraConfig, Quantization, TrainSetup
        >>> TrainSetup(lora=LoraConfig(), quantization=Quantization(recipe="trl")).method
        'qlora'
    """

    double_quant: bool = field(
        default=True,
        metadata=option(
            "QLoRA: quantise the scales too.",
            group="base",
            label="Double quantisation",
            tip="Quantise the scales too.",
            words="double quantisation|plain quantisation",
        ),
    )
    recipe: Recipe = field(
        default="stock",
        metadata=option(
            "QLoRA: stock, PEFT's k-bit preparation (norms, embeddings and head to float32), or"
            " TRL's (bfloat16 adapters).",
            group="base",
            tip="stock; kbit: PEFT's preparation, which brings norms, embeddings and head to"
            " float32; trl: bfloat16 adapters.",
            words="{} recipe",
        ),
    )

    quant_type: QuantType = field(
        default="nf4",
        metadata=option(
            "QLoRA: nf4 (load_in_4bit), or int8, which is LLM.int8 (load_in_8bit).",
            added=10,
            group="base",
            label="Quantised to",
            tip="nf4: load_in_4bit; int8: LLM.int8 (load_in_8bit).",
            words="{} base",
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def is_nested(self) -> bool:
        """Whether the scales are quantised too."""
        return self.quant_type == "nf4" and self.double_quant


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """How the model is trained. `lora=None` is full fine-tuning; `quantization` needs LoRA and
    makes it QLoRA.

    `batch_size` is the micro-batch, `seq_len` its padded length in tokens. `dtype` is that of the
    base weights; `precision` "amp" runs the forward pass under bfloat16 autocast. `checkpointing`
    is non-reentrant, one segment a layer; `use_reentrant` is known only to be refused with the
    reason, and is no field.

    `loss` is how the loss comes from the last hidden state: "plain" makes all logits and then
    cross-entropy, as transformers does; "chunked" makes the logits of a few tokens at a time, and
    again in backward; "fused" computes the gradient with the loss, chunk by chunk, as Liger's
    kernel does; "trl" is the tiled head of TRL's trainers, "torchtune" and "torchtune-chunked" are
    torchtune's LinearCrossEntropyLoss and CEWithChunkedOutputLoss, "litgpt" is LitGPT's loss, "cce"
    cut cross-entropy, and "triton" a kernel that writes the gradient over all logits, as Liger's
    `cross_entropy`. With `label_smoothing_factor` above 0 it
    is transformers' `LabelSmoother` that makes it of all logits. `hold_outputs` is of a loop that
    writes `out = model(...)`: the output, all logits among it where there are any, lives until the
    next one takes its name; without it the loop keeps the loss alone. `world_size` is the number of
    ranks, each with a batch of its own, and `sharding` what they share of the model.

    `packed` is the length in tokens of the sequences that are packed into each row of `seq_len`,
    the last one of a row cut where it ends; None, or a row no longer than that, for one sequence a
    row. `padding` is the share of each sequence that is padding: memory only knows whether there is
    any, which brings an attention mask. `eval_batch_size` sequences are evaluated between steps;
    None for no evaluation while training. `kernels` "liger" are Liger-Kernel's RMSNorm, SwiGLU and
    rotary embedding in place of transformers' own; its loss is `loss` "fused".

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
    use_reentrant: InitVar[bool] = field(default=False, metadata=option(hidden=True))
    attention: Attention = field(
        default="auto",
        metadata=option(
            "auto is SDPA with the kernel that torch would take.",
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
    kernels: Kernels = field(
        default="transformers",
        metadata=option(
            "liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; use_liger_kernel=True adds"
            " --loss fused.",
            added=4,
            group="attention",
            tip="liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding.",
            words="{} kernels",
            heading="Liger's kernels",
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
            "What the ranks share of the model.",
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
    device: Device = field(
        default="cuda", metadata=option("Whose memory rules hold.", group="attention", words="{}")
    )

    def __post_init__(self, use_reentrant: bool) -> None:
        if use_reentrant:
            raise UsageError(
                "reentrant checkpointing is not modelled: it keeps other tensors than the"
                " non-reentrant kind, and where no input of a layer requires a gradient, as under"
                " LoRA on a frozen embedding, it trains nothing; leave use_reentrant out and take"
                " --checkpointing, which is non-reentrant."
            )
        check_options(self)
        if self.world_size > 1 and self.sharding == "none":
            raise UsageError(
                f"a world of {self.world_size} ranks needs to know what they share; add --sharding"
                " ddp or fsdp."
            )
        if self.world_size == 1 and self.sharding != "none":
            raise UsageError(
                f"sharding {self.sharding} needs several ranks; add --world-size 2 or more."
            )
        if self.label_smoothing_factor and self.loss != "plain":
            raise UsageError(
                f"label smoothing needs all logits, which the {self.loss} loss never hands on;"
                " leave out one of --loss and --label-smoothing-factor."
            )
        if self.quantization is not None and self.lora is None:
            raise UsageError(
                "a quantised base cannot be trained in full; add a LoRA adapter (method qlora)."
            )
        if self.optimizer not in ("adamw", "sgd") and self.optimizer_impl == "fused":
            raise UsageError(
                f"{self.optimizer} has no fused implementation; leave --optimizer-impl out."
            )
        lora = self.lora
        if self.optimizer == "muon" and (lora is None or lora.modules_to_save or lora.use_dora):
            raise UsageError(
                "torch's Muon updates matrices alone, and refuses the vectors of norms, biases and"
                " magnitudes; take it with --method lora or qlora and neither --modules-to-save nor"
                " --use-dora, or another --optimizer."
            )
        if self.precision == "amp" and self.sharding in DEEPSPEED_ZERO:
            raise UsageError(
                "DeepSpeed's bf16 is no autocast: it makes the weights bfloat16; take --dtype"
                " bfloat16 --precision pure."
            )
        if self.sharding == "zero3" and self.quantization is not None:
            raise UsageError(
                "how ZeRO-3 partitions a 4-bit base is not known; take --method full or lora, or"
                " --sharding ddp, zero2 or fsdp."
            )
        if self.optimizer == "muon" and self.sharding in DEEPSPEED_ZERO:
            raise UsageError(
                "DeepSpeed lays gradients end to end, and torch's Muon updates matrices alone; take"
                " another --sharding or --optimizer."
            )
        if self.precision == "fsdp-mixed":
            self._check_gathered_in_bfloat16()
        half = self.dtype != "float32" or self.precision != "pure"
        if self.attention in ("flash", "cudnn") and self.device != "cpu" and not half:
            raise UsageError(
                f"{self.attention} attention takes no float32; use a 16-bit dtype, amp, or"
                " attention efficient."
            )

    def _check_gathered_in_bfloat16(self) -> None:
        if self.sharding not in FULLY_SHARDED:
            raise UsageError(
                "precision fsdp-mixed is FSDP's MixedPrecisionPolicy; add --sharding fsdp, or take"
                " --precision amp."
            )
        if self.quantization is not None:
            raise UsageError(
                "what FSDP's mixed precision makes of a 4-bit base is not known; take --precision"
                " pure or amp, or --method lora."
            )
        lora = self.lora
        if lora is None or lora.modules_to_save:
            is_wide = self.dtype == "float32"
        else:
            is_wide = self.dtype != "float16"
        if not is_wide or (lora is not None and lora.adapter_dtype != "float32"):
            raise UsageError(
                "under FSDP's mixed precision what trains is kept in float32; take --dtype float32"
                " (bfloat16 where adapters alone train) and --adapter-dtype float32."
            )

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
        alone = replace(self.as_held, world_size=1, sharding="none", precision="pure")
        if self.precision != "fsdp-mixed":
            return replace(alone, precision=self.precision)
        lora = None if self.lora is None else replace(self.lora, adapter_dtype="bfloat16")
        return replace(alone, dtype="bfloat16", lora=lora)

    @property
    def method(self) -> Method:
        if self.lora is None:
            return "full"
        return "lora" if self.quantization is None else "qlora"

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
        return self.is_packed and self.attention == "flash" and self.device == "cuda"


OPTIONS: tuple[Option, ...] = options_of(TrainSetup)
"""In the order of the command line's help."""
STORED_OPTIONS = sorted(
    (option for option in OPTIONS if not option.declared.hidden),
    key=lambda option: (option.declared.added, option.owner is TrainSetup),
)
"""Those that are not refused, in the order of JSON and CSV, which have what came later last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One frozen question: this model, trained with this setup, on this platform.

    Raises UsageError for a setup that a checkpoint in NF4 cannot be trained with.

    Examples:
        >>> from lora_profiler import Workload, find_model
        >>> Workload(model=find_model("gpt2")).key
        'openai-community--gpt2-full-9e958c3d4e69'
    """

    model: ModelSpec
    setup: TrainSetup = field(default_factory=TrainSetup)
    platform: Platform = field(default_factory=Platform)

    def __post_init__(self) -> None:
        if self.model.nf4 is not None:
            _check_nf4(self.model.id, self.model.nf4, self.setup)

    @property
    def key(self) -> str:
        """A short name of this case that is the same on every machine: model id, method and a hash
        of model and setup."""
        import hashlib
        import json

        fields = canonical(key_fields(self.setup))
        text = json.dumps([self.model.id, self.model.fingerprint, fields], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.model.id.replace('/', '--')}-{self.setup.method}-{digest}"


def _check_nf4(model: str, stored: Nf4Checkpoint, setup: TrainSetup) -> None:
    """A base in 4 bit is that of QLoRA, quantised as it is stored, with its products in the dtype
    that its config.json names."""
    made_from = "or ask for the model that it was made from"
    if setup.lora is None:
        raise UsageError(
            f"{model} is stored in 4 bit (NF4), which cannot be trained in full; take --method"
            f" qlora, {made_from}."
        )
    if setup.quantization is None:
        raise UsageError(
            f"{model} is stored in 4 bit (NF4), so that LoRA on it is QLoRA; take --method qlora,"
            f" {made_from}."
        )
    if setup.quantization.quant_type != "nf4":
        raise UsageError(
            f"{model} is stored in 4 bit (NF4), of which no"
            f" {setup.quantization.quant_type} is made; leave --quant-type out, {made_from}."
        )
    if setup.quantization.double_quant != stored.double_quant:
        own = "with" if stored.double_quant else "without"
        raise UsageError(
            f"{model} is stored {own} double quantisation; leave the option out, {made_from}."
        )
    if setup.dtype != stored.compute_dtype:
        raise UsageError(
            f"{model} has its products in {stored.compute_dtype} (bnb_4bit_compute_dtype), and the"
            f" rest was asked for in {setup.dtype}, which is not modelled; take --dtype"
            f" {stored.compute_dtype}, {made_from}."
        )
    if setup.sharding in FULLY_SHARDED:
        raise UsageError(
            f"{model} is packed into bytes (bnb_4bit_quant_storage), which FSDP does not shard"
            f" beside {setup.dtype}; take --sharding ddp, {made_from}."
        )


def canonical(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with whole floats as ints, so that 32 and 32.0 make one key."""
    return {
        name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in fields.items()
    }


def setup_dict(setup: TrainSetup) -> dict[str, Any]:
    """The setup as JSON spells it: `method` and LoRA's fields beside the rest, absent ones null."""
    parts = _parts(setup)
    values: dict[str, Any] = {"method": setup.method}
    for stored in STORED_OPTIONS:
        part = parts.get(stored.owner)
        value = None if part is None else getattr(part, stored.field)
        values[stored.name] = list(value) if isinstance(value, tuple) else value
    if setup.lora is not None:
        values["alpha"] = setup.lora.alpha  # None means one that follows from the rank
    return values


def key_fields(setup: TrainSetup) -> dict[str, Any]:
    """`setup_dict` without what came later than the first stored records and says nothing: what is
    at its default, or of a part that is not there."""
    values, parts = setup_dict(setup), _parts(setup)
    for stored in STORED_OPTIONS:
        is_default = stored.owner not in parts or values[stored.name] in (stored.default, [])
        if stored.declared.added and is_default:
            del values[stored.name]
    return values


def _parts(setup: TrainSetup) -> dict[type, object]:
    return {type(part): part for part in (setup, setup.lora, setup.quantization)}
