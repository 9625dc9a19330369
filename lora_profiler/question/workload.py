"""The question: which model, trained how. Frozen, hashable, and refused with a clear message when
it makes no sense. Its parts have files of their own, and are imported from here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.question.base import base_kind
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.lora_config import LoraConfig, Quantization
from lora_profiler.question.model_spec import ModelSpec, StoredBase
from lora_profiler.question.option import (
    DEEPSPEED_ZERO,
    DTYPE_BYTES,
    FLAT,
    FULLY_SHARDED,
    MAX_WORLD_SIZE,
    UPDATES_SHARED,
    Attention,
    Device,
    Dtype,
    Kernels,
    Loss,
    Method,
    Optimizer,
    OptimizerImpl,
    Option,
    PeftType,
    Precision,
    Qat,
    QuantType,
    Recipe,
    Sharding,
    Transformers,
    options_of,
)
from lora_profiler.question.train_setup import TrainSetup

__all__ = [
    "DEEPSPEED_ZERO",
    "DTYPE_BYTES",
    "FLAT",
    "FULLY_SHARDED",
    "LORA_OPTIONS",
    "MAX_WORLD_SIZE",
    "OPTIONS",
    "QLORA_OPTIONS",
    "STORED_OPTIONS",
    "UPDATES_SHARED",
    "Attention",
    "Device",
    "Dtype",
    "Kernels",
    "LoraConfig",
    "Loss",
    "Method",
    "Optimizer",
    "OptimizerImpl",
    "PeftType",
    "Precision",
    "Qat",
    "QuantType",
    "Quantization",
    "Recipe",
    "Sharding",
    "TrainSetup",
    "Transformers",
    "Workload",
    "canonical",
    "idle_options",
    "key_fields",
    "setup_dict",
]


OPTIONS: tuple[Option, ...] = options_of(TrainSetup)
"""In the order of the command line's help."""
LORA_OPTIONS = frozenset(o.name for o in OPTIONS if o.owner is LoraConfig)
QLORA_OPTIONS = frozenset(o.name for o in OPTIONS if o.owner is Quantization)


def idle_options(methods: Iterable[str]) -> frozenset[str]:
    """Options that none of the methods reads, as an adapter's in full fine-tuning."""
    if "qlora" in (asked := {*methods}):
        return frozenset()
    return QLORA_OPTIONS if "lora" in asked else LORA_OPTIONS | QLORA_OPTIONS


STORED_OPTIONS = sorted(
    OPTIONS, key=lambda option: (option.declared.added, option.owner is TrainSetup)
)
"""In the order of JSON and CSV, which have what came later last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One frozen question: this model, trained with this setup, on this platform. With images a
    text side is the whole model that sees, which takes torch to be known.

    Raises UsageError for a setup that a quantised checkpoint cannot be trained with.

    Examples:
        >>> from lora_profiler import Workload, find_model
        >>> Workload(model=find_model("gpt2")).key
        'openai-community--gpt2-full-9e958c3d4e69'
    """

    model: ModelSpec
    setup: TrainSetup = field(default_factory=TrainSetup)
    platform: Platform = field(default_factory=Platform)

    def __post_init__(self) -> None:
        text_side = self.model.text_side_of
        if self.setup.images is not None and text_side is not None and self.model.stored is None:
            object.__setattr__(self, "model", text_side.whole())
        if self.model.stored is not None:
            _check_stored(self.model.id, self.model.stored, self.setup)

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


def _check_stored(model: str, stored: StoredBase, setup: TrainSetup) -> None:
    """A quantised checkpoint is the base that it is stored as, with its products in the dtype that
    it asks for."""
    title = base_kind(stored.quant_type).title
    packed = f"{model} is stored in {'4 bit (NF4)' if stored.quant_type == 'nf4' else title}"
    made_from = "or name the model that it was made from"
    if setup.lora is None:
        raise UsageError(
            f"{packed}, which cannot be trained in full; take --method qlora, {made_from}."
        )
    if setup.quantization is None:
        raise UsageError(
            f"{packed}, so that LoRA on it is QLoRA; take --method qlora, {made_from}."
        )
    if setup.quantization.quant_type != stored.quant_type:
        raise UsageError(
            f"{packed}, of which no {setup.quantization.quant_type} is made; leave --quant-type"
            f" out, {made_from}."
        )
    if stored.quant_type == "nf4" and setup.quantization.double_quant != stored.double_quant:
        own = "with" if stored.double_quant else "without"
        raise UsageError(
            f"{model} is stored {own} double quantisation; leave the option out, {made_from}."
        )
    if stored.compute_dtype not in (None, setup.dtype):
        raise UsageError(
            f"{model} with --dtype {setup.dtype} is not modelled; its config.json says"
            f" bnb_4bit_compute_dtype {stored.compute_dtype}. Use --dtype {stored.compute_dtype},"
            f" {made_from}."
        )
    if stored.in_16_bit and setup.sharding not in ("none", "ddp"):
        raise UsageError(
            f"{model} keeps some layers in 16 bit, of which shards are not modelled; use --sharding"
            f" ddp, {made_from}."
        )
    if setup.sharding in FULLY_SHARDED and stored.quant_type == "nf4":
        raise UsageError(
            f"FSDP does not shard {model}, packed into bytes (bnb_4bit_quant_storage), with"
            f" {setup.dtype}; use --sharding ddp, {made_from}."
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
    if setup.lora is not None and setup.lora.peft_type == "lora":
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
