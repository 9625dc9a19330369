"""What LoRA trains and what it stands on: the adapter's configuration, and the quantised base."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.option import (
    UNMODELLED_ADAPTERS,
    UNMODELLED_BASES,
    Dtype,
    LoraKernels,
    PeftType,
    QuantType,
    Recipe,
    check_options,
    option,
    options_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """An adapter, LoRA unless `peft_type` says otherwise, spelled as in `peft.LoraConfig`.

    peft_type: which of PEFT's methods it is. `r`, `lora_alpha` and `lora_dropout` are the arguments
    of its config class with such a meaning, as VeRA's `vera_dropout` and OFT's `module_dropout`;
    IA3 and OFT have no rank. `peft_arg` are other arguments of that class, each as "key=value" with
    the value in JSON. `feedforward_modules` are those whose input
    IA3 scales in place of their output, () for PEFT's default of the model type; `oft_block_size`
    is the width of OFT's rotations, which PEFT brings to a divisor of the layer's input.

    target_modules: "all-linear", None (PEFT's default for the model type), a tuple of names matched
    by suffix, or one regular expression matched in full, as PEFT does; () adapts
    `target_parameters` alone. `lora_alpha` None means
    twice the rank. `adapter_dtype` is the dtype of A and B: float32 is what PEFT makes of a 16-bit
    base unless `autocast_adapter_dtype=False`.

    Raises UsageError for values that PEFT refuses, or that its config of this type does not have.

    Examples:
        >>> from lora_profiler import LoraConfig
        >>> LoraConfig(r=8).alpha
        16
    """

    peft_type: PeftType = field(
        default="lora",
        metadata=option(
            "PEFT method: lora, vera, ia3, oft, loha, lokr, miss, hra, ...",
            unmodelled=tuple(UNMODELLED_ADAPTERS.items()),
            added=18,
            group="adapter",
            label="PEFT method",
            words="{} adapters",
        ),
    )

    r: int = field(
        default=16,
        metadata=option(
            "LoRA rank", name="rank", short="-r", common=True, is_open=True, group="adapter"
        ),
    )
    lora_alpha: float | None = field(
        default=None,
        metadata=option(
            "LoRA scale; no effect on memory or time",
            name="alpha",
            default_text="2 x rank",
            above=0,
            is_open=True,
            group="adapter",
            words="alpha {}",
        ),
    )
    lora_dropout: float = field(
        default=0.0,
        metadata=option(
            "dropout on the adapter inputs",
            name="dropout",
            at_least=0,
            below=1,
            group="adapter",
            alternatives=(0.05,),
            unknown="dropout",
            words="dropout {}",
            heading="dropout {}",
        ),
    )
    target_modules: str | tuple[str, ...] | None = field(
        default="all-linear",
        metadata=option(
            "all-linear, default, attention, or names",
            name="targets",
            common=True,
            metavar="all-linear|default|attention|none|NAME,...|re:PATTERN",
            group="adapter",
            alternatives=("all-linear", "attention", "default"),
            unknown="the adapted layers",
            words="targets {}",
        ),
    )
    layers_to_transform: tuple[int, ...] = field(
        default=(),
        metadata=option(
            "adapt only these layers, by number; with names in --targets",
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
            "modules to train in full as well",
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
            "scale by alpha / sqrt(rank); no effect on memory or time",
            is_open=True,
            group="adapter",
            label="rsLoRA",
            words="rsLoRA|no rsLoRA",
            heading="rsLoRA",
        ),
    )
    adapter_dtype: Dtype = field(
        default="float32",
        metadata=option(
            "adapter dtype: float32, bfloat16, float16",
            default_text="float32",
            group="adapter",
            alternatives=("float32", "bfloat16"),
            unknown="the adapters' dtype",
            label="Adapter dtype",
            words="{} adapters",
        ),
    )
    use_dora: bool = field(
        default=False,
        metadata=option(
            "DoRA: a trained magnitude for each output",
            added=10,
            group="adapter",
            label="DoRA",
            words="DoRA|no DoRA",
            heading="DoRA",
        ),
    )
    fast_lora: bool = field(
        default=False,
        metadata=option(
            "fused base and adapter, as in fms-acceleration",
            added=14,
            group="adapter",
            label="Fused adapters",
            words="fused adapters|PEFT's adapters",
            heading="fused adapters",
        ),
    )
    feedforward_modules: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "IA3: targets that scale the input, not the output",
            metavar="NAME,...",
            default_text="PEFT's",
            added=18,
            group="adapter",
            placeholder="PEFT's for the model; or down_proj",
            words="feedforward {}",
            heading="feedforward {}",
        ),
    )
    oft_block_size: int = field(
        default=32,
        metadata=option(
            "OFT: width of each rotation",
            added=18,
            noun="OFT block size",
            group="adapter",
            label="OFT block size",
            words="OFT blocks of {}",
        ),
    )
    lora_kernels: LoraKernels = field(
        default="peft",
        metadata=option(
            "LoRA kernels: peft, axolotl, unsloth; fused q/k/v, output and MLP",
            noun="LoRA kernels",
            added=25,
            group="adapter",
            label="LoRA kernels",
            words="{}'s adapters",
            heading="{}'s LoRA kernels",
        ),
    )
    target_parameters: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "bare parameters to adapt, such as packed experts, by name ending",
            metavar="NAME,...",
            added=44,
            group="adapter",
            placeholder="none; or mlp.experts.gate_up_proj,mlp.experts.down_proj",
            words="parameters {}",
            heading="parameters {}",
        ),
    )

    peft_arg: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "other arguments of PEFT's config class",
            metavar="KEY=VALUE,...",
            noun="PEFT argument",
            added=45,
            group="adapter",
            label="PEFT's other arguments",
            placeholder="none; or decompose_both=true",
            words="{}",
            heading="{}",
        ),
    )

    def __post_init__(self) -> None:
        for one in options_of(LoraConfig):
            if isinstance(value := getattr(self, one.field), list):  # as PEFT takes them
                object.__setattr__(self, one.field, tuple(value))
        check_options(self)
        self._check_peft_type()
        if self.target_modules == "" or not (self.target_modules != () or self.target_parameters):
            raise UsageError(
                "target modules are empty; name at least one, or use all-linear."
                " Only --target-parameters can do without."
            )

    def _check_peft_type(self) -> None:
        for one in options_of(LoraConfig):
            value = getattr(self, one.field)
            is_idle = one.field in adapter_method(self.peft_type).idle
            if is_idle and one.field != "r" and value not in (one.default, ()):
                raise UsageError(
                    f"{one.flag} does not apply to {self.method_name}; leave it out, or take"
                    " another --peft-type."
                )
        method = adapter_method(self.peft_type)
        for key in self.peft_arguments:
            own = next((field for field, name in method.spelled.items() if name == key), None)
            if own is not None:
                named = next(one for one in options_of(LoraConfig) if one.field == own)
                raise UsageError(f"--peft-arg {key}: {named.flag} says that; use it instead.")
            if key not in method.arguments:
                raise UsageError(
                    f"{method.config} has no argument {key!r}."
                    f"{did_you_mean(key, method.arguments)}"
                    f" It has: {', '.join(method.arguments)}"
                )
        targets = self.target_modules
        if self.feedforward_modules and isinstance(targets, tuple):
            outside = [name for name in self.feedforward_modules if name not in targets]
            if outside:
                raise UsageError(
                    f"feedforward module {outside[0]} is not among the targets"
                    f" {', '.join(targets)}, which PEFT refuses; name it in --targets too."
                )

    @property
    def alpha(self) -> float:
        return 2 * self.r if self.lora_alpha is None else self.lora_alpha

    @property
    def has_rank(self) -> bool:
        """Whether `r` changes anything."""
        return "r" not in adapter_method(self.peft_type).idle

    @property
    def peft_arguments(self) -> dict[str, Any]:
        """`peft_arg` by name; a value that is no JSON is text. Raises UsageError for one without a
        value."""
        found = {}
        for argument in self.peft_arg:
            key, equals, text = argument.partition("=")
            if not equals:
                raise UsageError(f"--peft-arg {argument}: write it as KEY=VALUE.")
            try:
                found[key.strip()] = json.loads(text)
            except ValueError:
                found[key.strip()] = text.strip()
        return found

    @property
    def has_rules(self) -> bool:
        """Whether what trains is known without a trace."""
        return adapter_method(self.peft_type).has_rules and not self.peft_arg

    @property
    def method_name(self) -> str:
        """As the method's papers write it."""
        return adapter_method(self.peft_type).title


def _recipes(options: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """PEFT's preparation switches checkpointing on unless told not to (PEFT 0.21
    `utils/other.py`, prepare_model_for_kbit_training)."""
    return ("stock", "kbit-norms", "kbit") if options["checkpointing"] else ("stock",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The frozen base quantised: by bitsandbytes in NF4 (block 64), with or without double
    quantisation, or in int8 (`load_in_8bit`: LLM.int8, a scale for each output); by GPTQModel as
    GPTQ or AWQ; in FP8 by blocks (transformers' FineGrainedFP8Config); or by hqq (HQQLinear).

    quantize_experts: experts packed into one parameter are in NF4 too, each brought back as a whole
    when its layer runs (bitsandbytes 0.50 `nn/parametrize.py`, replace_parameter_4bit).

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
            "QLoRA: quantise the scales too",
            group="base",
            alternatives=(True, False),
            unknown="double quantisation",
            label="Double quantisation",
            words="double quantisation|plain quantisation",
        ),
    )
    recipe: Recipe = field(
        default="stock",
        metadata=option(
            "QLoRA: stock; kbit: PEFT's k-bit preparation; kbit-norms: of norms only; trl: "
            "bfloat16 adapters",
            group="base",
            words="{} recipe",
            alternatives=_recipes,
            unknown="the k-bit recipe",
        ),
    )

    quant_type: QuantType = field(
        default="nf4",
        metadata=option(
            "QLoRA base: nf4, int8, gptq, awq, fp8, hqq; default is the checkpoint's own",
            unmodelled=tuple(UNMODELLED_BASES.items()),
            added=10,
            group="base",
            label="Quantisation",
            words="{} base",
        ),
    )
    quantize_experts: bool = field(
        default=False,
        metadata=option(
            "QLoRA: packed experts in NF4 too, as in axolotl",
            added=41,
            group="base",
            label="Experts in 4 bits",
            words="experts in 4 bit|experts in 16 bit",
            heading="experts in 4 bit",
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def is_nested(self) -> bool:
        """Whether the scales are quantised too."""
        return self.quant_type == "nf4" and self.double_quant
