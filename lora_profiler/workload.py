"""The question: which model, trained how. Frozen, hashable, and refused with a clear message when
it makes no sense."""

from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, field
from typing import Any, Literal, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.model_spec import ModelSpec, Nf4Checkpoint
from lora_profiler.platform import Platform
from lora_profiler.units import is_finite, shown

Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adamw_8bit", "sgd", "adafactor"]
OptimizerImpl = Literal["foreach", "fused", "forloop"]
Attention = Literal["auto", "flash", "efficient", "cudnn", "math", "eager"]
Device = Literal["cuda", "cpu", "mps", "xpu"]
Precision = Literal["pure", "amp"]
Recipe = Literal["stock", "kbit", "trl"]
Method = Literal["full", "lora", "qlora"]
Loss = Literal["plain", "chunked", "fused"]
Kernels = Literal["transformers", "liger"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "fsdp", "fsdp-no-reshard", "tp"]

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FULLY_SHARDED: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
"""Shardings that gather each layer's weights as it runs."""
UPDATES_SHARED: tuple[Sharding, ...] = ("zero1", "zero2", *FULLY_SHARDED)
"""Shardings under which each rank updates its part of the weights."""
LATER_FIELDS: dict[str, object] = {
    "loss": "plain",
    "world_size": 1,
    "sharding": "none",
    "packed": None,
    "kernels": "transformers",
}
"""Fields that came after the first stored records, with what a record without them meant: at that
value they are not in a key."""
MAX_SIZE = 2**31 - 1
"""Largest batch, sequence or rank accepted: beyond it torch's own index arithmetic no longer
holds."""
MAX_WORLD_SIZE = 2**20
"""Largest number of ranks accepted: some shardings deal tensors out to each."""


def _choice(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UsageError(
            f"{name} is {value!r}; accepted:"
            f" {', '.join(accepted)}.{did_you_mean(str(value), accepted)}"
        )


def _positive(name: str, value: object, largest: int = MAX_SIZE) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(
            f"{name} is {shown(value)}; it must be a whole number from 1 to {largest}."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """A LoRA adapter, spelled as in `peft.LoraConfig`.

    target_modules: "all-linear", None (PEFT's default for the model type), a tuple of names matched
    by suffix, or one regular expression matched in full, as PEFT does. `lora_alpha` None means
    twice the rank. `adapter_dtype` is the dtype of A and B: float32 is what PEFT makes of a 16-bit
    base unless `autocast_adapter_dtype=False`. `use_dora` is known only to be refused with the
    reason, and is no field.

    Raises UsageError for values that PEFT refuses.
    """

    r: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] | None = "all-linear"
    layers_to_transform: tuple[int, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    use_rslora: bool = False
    adapter_dtype: Dtype = "float32"
    use_dora: InitVar[bool] = False

    def __post_init__(self, use_dora: bool) -> None:
        if use_dora:
            raise UsageError(
                "DoRA is not modelled: it trains a vector of magnitudes beside every adapter and"
                " takes the norm of each whole weight in every forward pass; leave use_dora out to"
                " ask about plain LoRA."
            )
        _positive("rank", self.r)
        if not is_finite(self.lora_dropout) or not 0.0 <= self.lora_dropout < 1.0:
            raise UsageError(
                f"dropout is {shown(self.lora_dropout)}; it must be at least 0 and below 1."
            )
        if self.lora_alpha is not None and not (is_finite(self.lora_alpha) and self.lora_alpha > 0):
            raise UsageError(
                f"alpha is {shown(self.lora_alpha)}; it must be a finite number above 0."
            )
        _choice("adapter dtype", self.adapter_dtype, get_args(Dtype))
        if self.target_modules == () or self.target_modules == "":
            raise UsageError("target modules are empty; name at least one, or use all-linear.")

    @property
    def alpha(self) -> float:
        return 2 * self.r if self.lora_alpha is None else self.lora_alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The frozen base in NF4 (bitsandbytes, block 64), with or without double quantisation.

    recipe: "stock" injects adapters as PEFT does; "kbit" first runs
    `prepare_model_for_kbit_training` (every parameter left in 16 bit becomes float32); "trl" keeps
    the base as it is and trains bfloat16 adapters.
    """

    double_quant: bool = True
    recipe: Recipe = "stock"

    def __post_init__(self) -> None:
        _choice("recipe", self.recipe, get_args(Recipe))


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
    kernel does. `world_size` is the number of ranks, each with a batch of its own, and `sharding`
    what they share of the model.

    `packed` is the length in tokens of the sequences that are packed into each row of `seq_len`,
    the last one of a row cut where it ends; None, or a row no longer than that, for one sequence a
    row. `kernels` "liger" are Liger-Kernel's RMSNorm, SwiGLU and rotary embedding in place of
    transformers' own; its loss is `loss` "fused".

    Raises UsageError for values out of range and for options that contradict each other.
    """

    lora: LoraConfig | None = None
    quantization: Quantization | None = None
    batch_size: int = 1
    seq_len: int = 2048
    accumulation: int = 1
    dtype: Dtype = "bfloat16"
    precision: Precision = "pure"
    optimizer: Optimizer = "adamw"
    optimizer_impl: OptimizerImpl = "foreach"
    checkpointing: bool = False
    attention: Attention = "auto"
    device: Device = "cuda"
    loss: Loss = "plain"
    world_size: int = 1
    sharding: Sharding = "none"
    packed: int | None = None
    kernels: Kernels = "transformers"
    use_reentrant: InitVar[bool] = False

    def __post_init__(self, use_reentrant: bool) -> None:
        if use_reentrant:
            raise UsageError(
                "reentrant checkpointing is not modelled: it keeps other tensors than the"
                " non-reentrant kind, and where no input of a layer requires a gradient, as under"
                " LoRA on a frozen embedding, it trains nothing; leave use_reentrant out and take"
                " --checkpointing, which is non-reentrant."
            )
        _positive("batch size", self.batch_size)
        _positive("sequence length", self.seq_len)
        _positive("accumulation", self.accumulation)
        _choice("dtype", self.dtype, get_args(Dtype))
        _choice("precision", self.precision, get_args(Precision))
        _choice("optimizer", self.optimizer, get_args(Optimizer))
        _choice("optimizer implementation", self.optimizer_impl, get_args(OptimizerImpl))
        _choice("attention", self.attention, get_args(Attention))
        _choice("device", self.device, get_args(Device))
        _choice("loss", self.loss, get_args(Loss))
        _positive("world size", self.world_size, MAX_WORLD_SIZE)
        _choice("sharding", self.sharding, get_args(Sharding))
        _choice("kernels", self.kernels, get_args(Kernels))
        if self.world_size > 1 and self.sharding == "none":
            raise UsageError(
                f"a world of {self.world_size} ranks needs to know what they share; add --sharding"
                " ddp or fsdp."
            )
        if self.world_size == 1 and self.sharding != "none":
            raise UsageError(
                f"sharding {self.sharding} needs several ranks; add --world-size 2 or more."
            )
        if self.world_size > 1 and self.loss != "plain":
            raise UsageError(
                f"the {self.loss} loss is known of one process only; leave out one of --loss and"
                " --world-size."
            )
        if self.packed is not None:
            _positive("packed length", self.packed)
        if self.quantization is not None and self.lora is None:
            raise UsageError(
                "a 4-bit base cannot be trained in full; add a LoRA adapter (method qlora)."
            )
        if self.optimizer in ("adamw_8bit", "adafactor") and self.optimizer_impl == "fused":
            raise UsageError(
                f"{self.optimizer} has no fused implementation; leave --optimizer-impl out."
            )
        half = self.dtype != "float32" or self.precision == "amp"
        if self.attention in ("flash", "cudnn") and self.device != "cpu" and not half:
            raise UsageError(
                f"{self.attention} attention takes no float32; use a 16-bit dtype, amp, or"
                " attention efficient."
            )

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
    def is_flattened(self) -> bool:
        """Whether packed rows become one, without a mask: FlashAttention 2 is told where sequences
        begin (`cu_seqlens`)."""
        return self.is_packed and self.attention == "flash" and self.device == "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One frozen question: this model, trained with this setup, on this platform.

    Raises UsageError for a setup that a checkpoint in NF4 cannot be trained with.
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

        setup = canonical(setup_dict(self.setup))
        told = {
            name: value for name, value in setup.items() if value != LATER_FIELDS.get(name, ...)
        }
        text = json.dumps([self.model.id, self.model.fingerprint, told], sort_keys=True)
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
    lora, quantization = setup.lora, setup.quantization
    targets = lora.target_modules if lora else None
    rest = {k: v for k, v in asdict(setup).items() if k not in ("lora", "quantization")}
    return {
        "method": setup.method,
        "rank": lora.r if lora else None,
        "alpha": lora.alpha if lora else None,
        "dropout": lora.lora_dropout if lora else None,
        "targets": list(targets) if isinstance(targets, tuple) else targets,
        "layers_to_transform": list(lora.layers_to_transform) if lora else None,
        "modules_to_save": list(lora.modules_to_save) if lora else None,
        "use_rslora": lora.use_rslora if lora else None,
        "adapter_dtype": lora.adapter_dtype if lora else None,
        "double_quant": quantization.double_quant if quantization else None,
        "recipe": quantization.recipe if quantization else None,
        **rest,
    }
