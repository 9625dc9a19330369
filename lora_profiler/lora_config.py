"""What LoRA trains and what it stands on: the adapter's configuration, and the quantised base."""

from dataclasses import dataclass, field

from lora_profiler.errors import UsageError
from lora_profiler.option import check_options, option
from lora_profiler.option_values import Dtype, QuantType, Recipe


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
    fast_lora: bool = field(
        default=False,
        metadata=option(
            "Base and adapter in one function, as fms-acceleration's fast_lora, which is Unsloth's:"
            " keeps the input before and after dropout.",
            added=14,
            group="adapter",
            label="Fused adapters",
            tip="Base and adapter in one function, as fms-acceleration's fast_lora.",
            words="fused adapters|PEFT's adapters",
            heading="fused adapters",
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
    `prepare_model_for_kbit_training` (every parameter left in 16 bit becomes float32); "kbit-norms"
    turns all but the norms back to bfloat16 after that, as TRL's `peft_module_casting_to_bf16` did;
    "trl" keeps the base as it is and trains bfloat16 adapters.

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
            "QLoRA: stock, PEFT's k-bit preparation (norms, embeddings and head to float32), of"
            " that the norms alone (kbit-norms, as TRL 0.14), or TRL's (bfloat16 adapters).",
            group="base",
            tip="stock; kbit: PEFT's preparation, which brings norms, embeddings and head to"
            " float32; kbit-norms: of that the norms alone, as TRL 0.14; trl: bfloat16 adapters.",
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
