"""Quantised bases: how many bytes a linear layer has in each, what its product keeps for backward,
and what each does not go with. No torch.

Sources: bitsandbytes 0.50 `functional.py` (quantize_4bit), `nn/modules.py` (Int8Params),
`autograd/_functions.py`; GPTQModel 7.7 `nn_modules/qlinear/{__init__,torch,tritonv2,gemm_awq}.py`;
transformers 5.24 `integrations/finegrained_fp8.py`, `quantizers/quantizer_awq.py`; PEFT 0.21
`tuners/lora/{bnb,gptq,awq,hqq,layer}.py`; hqq 0.2.8 `core/{quantize,bitpack}.py`. Held against the
layers themselves by `tests/memory/test_bases.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.question.adapters import adapters
from lora_profiler.question.kernel_set import kernel_set, of_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module, StoredBase, Weight
from lora_profiler.question.option_values import DTYPE_BYTES, QUANT_TITLES
from lora_profiler.question.workload import Dtype, QuantType, TrainSetup, Workload

NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
_INT32, _FLOAT32, _16_BIT = 4, 4, 2


def adapter_dtype(setup: TrainSetup) -> Dtype:
    """Of adapters while they train, whatever format PEFT made them in."""
    assert setup.lora is not None
    trl = setup.quantization is not None and setup.quantization.recipe == "trl"
    return "bfloat16" if trl else setup.lora.adapter_dtype


class LayerBytes(NamedTuple):
    """Of one linear layer without its bias: packed weights, and what brings them back."""

    weights: int
    constants: int


class Base(NamedTuple):
    """How layers of one kind of base are stored and run.

    layer_bytes: of (inputs, outputs, how it is stored). keeps: what autograd keeps of a product:
    "nothing" beside what is stored, its "input", or the "weight" brought back to the input's dtype,
    which `scale_dtype` is what it is brought back to first. keeps_past_backward: not by autograd's
    means, so that it lives as long as what the pass returned. sums: how PEFT's layer adds its
    adapter: "bitsandbytes" clones the base's output and casts the adapter's to its dtype, "awq"
    does not clone, and casts before it scales, "linear" is as over 16-bit weights, and "hqq" too
    but that it casts nothing under autocast. in_torch: the weight is brought back by operators of
    torch, one after the other, in each product and for its gradient. group_size: of weights that
    share a scale, where nobody says. defaults: values of options that were not given. stores: what
    `layer_bytes` are, in words of weights and of constants.
    """

    layer_bytes: Callable[[int, int, StoredBase], LayerBytes]
    stores: tuple[str, str]
    keeps: Literal["nothing", "input", "weight"] = "nothing"
    scale_dtype: str = ""
    keeps_past_backward: bool = False
    sums: Literal["bitsandbytes", "awq", "linear", "hqq"] = "bitsandbytes"
    in_torch: bool = False
    group_size: int = 128
    defaults: Mapping[str, Any] = MappingProxyType({})

    def __hash__(self) -> int:  # a mapping has none
        return hash(self[:-1])


def nf4_bytes(numel: int, double_quant: bool) -> LayerBytes:
    """Two 4-bit values a byte; one float32 scale per block of 64, or with double quantisation one
    byte per block, a float32 scale per 256 of those, their 256-entry code book, and an offset; and
    the 16-entry NF4 code book."""
    packed, blocks = -(-numel // 2), -(-numel // NF4_BLOCK)
    if not double_quant:
        return LayerBytes(packed, 4 * blocks + 64)
    return LayerBytes(packed, blocks + 4 * -(-blocks // NF4_NESTED_BLOCK) + 1024 + 64 + 4)


def _nf4(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    return nf4_bytes(inputs * outputs, stored.double_quant)


def _int8(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """CB and SCB."""
    return LayerBytes(inputs * outputs, _FLOAT32 * outputs)


def _groups(size: int, stored: StoredBase) -> int:
    return 1 if stored.group_size == -1 else -(-size // stored.group_size)


def _gptq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """qweight packs each output's inputs into int32, qzeros a group's outputs; scales in 16 bit;
    the group of each input (g_idx, int32), in order or not; and two rows of shifts that unpacking
    makes (wf_unsqueeze_*), int32: one for each value of a word, 36 in 3 bit."""
    groups, bits = _groups(inputs, stored), stored.bits
    shifts = 36 if bits == 3 else 32 // bits
    words = -(-inputs * bits // 32) * outputs
    zeros = groups * -(-outputs * bits // 32)
    return LayerBytes(
        _INT32 * words, _INT32 * (zeros + inputs + 2 * shifts) + _16_BIT * groups * outputs
    )


def _awq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """qweight packs each input's outputs into int32, qzeros a group's; scales in 16 bit."""
    groups, words = _groups(inputs, stored), -(-outputs * stored.bits // 32)
    return LayerBytes(_INT32 * inputs * words, _INT32 * groups * words + _16_BIT * groups * outputs)


def _fp8(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """A byte a weight, and a float32 scale for each block, or for all."""
    return LayerBytes(
        inputs * outputs, _FLOAT32 * _groups(inputs, stored) * _groups(outputs, stored)
    )


def _hqq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """W_q packs two rows of a group each into uint8; a zero and a scale of each group in 16 bit,
    which are no buffers."""
    numel = inputs * outputs
    return LayerBytes(numel // 2, 2 * _16_BIT * (numel // stored.group_size))


_STOCK: Mapping[str, Any] = MappingProxyType({"recipe": "stock", "adapter_dtype": "float32"})
"""TRL narrows adapters over bitsandbytes' bases alone."""
BASES: Mapping[str, Base] = {
    "nf4": Base(
        _nf4, ("two 4-bit weights a byte", "4 B per 64 weights, and 64 B, in each 4-bit layer")
    ),
    "int8": Base(_int8, ("a byte a weight", "4 B an output, in each 8-bit layer")),
    "gptq": Base(
        _gptq,
        (
            "weights packed into int32",
            "zeros and 16-bit scales of each group, and 4 B an input, in each packed layer",
        ),
        keeps="weight",
        scale_dtype="float16",
        sums="linear",
        defaults=_STOCK,
    ),
    "awq": Base(
        _awq,
        (
            "weights packed into int32",
            "zeros and 16-bit scales of each group, in each packed layer",
        ),
        sums="awq",
        defaults=MappingProxyType({**_STOCK, "dtype": "float16"}),
    ),
    "fp8": Base(
        _fp8,
        ("a byte a weight", "4 B a block of weights, in each 8-bit layer"),
        sums="linear",
        defaults=_STOCK,
    ),
    "hqq": Base(
        _hqq,
        ("two 4-bit weights a byte", "4 B per 64 weights, in each 4-bit layer"),
        keeps="input",
        sums="hqq",
        in_torch=True,
        group_size=64,
        defaults=_STOCK,
    ),
}


def base_of(setup: TrainSetup) -> Base | None:
    if setup.quantization is None:
        return None
    base = BASES[setup.quantization.quant_type]
    own = of_set(setup.kernels, "base") if setup.quantization.quant_type == "nf4" else None
    return own(base) if own else base


def stored_base(model: ModelSpec, setup: TrainSetup) -> StoredBase | None:
    """How the base of `setup` is stored: as the checkpoint says, else as the packages do it by
    default (4 bit in groups of 128 inputs, of 64 in HQQ; FP8 in blocks of 128 x 128)."""
    quantization = setup.quantization
    if quantization is None:
        return None
    return model.stored or StoredBase(
        quant_type=quantization.quant_type,
        double_quant=quantization.double_quant,
        group_size=BASES[quantization.quant_type].group_size,
    )


def layer_bytes(module: Module, stored: StoredBase) -> LayerBytes:
    """Of one linear layer of the base."""
    assert module.in_features is not None and module.out_features is not None
    return BASES[stored.quant_type].layer_bytes(module.in_features, module.out_features, stored)


def is_packed_expert(module: Module, weight: Weight) -> bool:
    """Whether a bare parameter has experts, one matrix each, as axolotl 067b021 looks for them
    (`monkeypatch/moe_quant.py`, patch_moe_quantization_on_load)."""
    return len(weight.shape) >= 3 and "expert" in module.name.lower()


def packed_experts(model: ModelSpec) -> frozenset[str]:
    """Names of the model's parameters that have experts."""
    return frozenset(
        f"{name}.{weight.name}"
        for name, module in model.modules()
        for weight in module.weights
        if is_packed_expert(module, weight)
    )


def packed_expert_bytes(workload: Workload) -> int:
    """Bytes of the base's packed experts in the dtype that they are loaded in."""
    elements = sum(
        weight.numel
        for _, module in workload.model.modules()
        for weight in module.weights
        if is_packed_expert(module, weight)
    )
    return elements * DTYPE_BYTES[workload.setup.dtype]


def check_quantized_experts(workload: Workload) -> None:
    """Raises UsageError for experts in 4 bit that there are none of, that are not known where the
    rest of the setup puts them, or that adapters stand on."""
    setup, base = workload.setup, workload.setup.quantization
    if base is None or not base.quantize_experts:
        return
    experts = packed_experts(workload.model)
    if not experts:
        raise UsageError(
            f"{workload.model.id} has no experts that are packed into one parameter; leave"
            " --quantize-experts out."
        )
    refused = {
        f"--quant-type {base.quant_type}": base.quant_type != "nf4",
        f"--sharding {setup.sharding}": setup.sharding not in ("none", "ddp"),
        f"--kernels {setup.kernels}": not kernel_set(setup.kernels).takes_other_bases,
        f"--transformers {setup.transformers}": setup.transformers != "5",
    }
    requested = next((name for name, is_asked in refused.items() if is_asked), None)
    if requested is not None:
        raise UsageError(
            f"experts in 4 bit are not known with {requested}; leave out one of that and"
            " --quantize-experts."
        )
    lora = setup.lora
    adapted = adapters(workload.model, lora) if lora is not None else ()
    on = next((a for a in adapted if f"{a.module}.{a.parameter}" in experts), None)
    if on is not None and not loop_facts(setup.loop_state).own_4_bit:
        raise UsageError(
            f"PEFT 0.21 adapts 4-bit experts ({on.module}.{on.parameter}) for one step only"
            " (ParamWrapper: only Tensors of floating point dtype can require gradients); use"
            " --targets attention, or leave --quantize-experts out."
        )


def is_packed_base(setup: TrainSetup) -> bool:
    """Whether the base is one that no library here builds: known to the rules alone."""
    base = setup.quantization
    return base is not None and base.quant_type not in ("nf4", "int8")


BACK_IN_16_BIT = ("lm_head", "embed_tokens", "wte", "wpe")
"""Modules that the recipe "kbit-norms" turns back to bfloat16 (TRL 0.14 `trainer/utils.py`,
peft_module_casting_to_bf16)."""


_WIDE_ENDS = ("embed_tokens", "lm_head", "embed_in", "embed_out", "word_embeddings")


def is_wide_end(name: str) -> bool:
    """Whether a module, by its name in the model or in its layer, is one that axolotl turns into
    float32 before a full fine-tuning (067b021, `loaders/model.py`,
    _convert_embedding_modules_dtype; `loaders/utils.py`, get_linear_embedding_layers)."""
    return "norm" in name or name.endswith((".gate", *_WIDE_ENDS))


SPLIT_TOKENS = 1024
"""Up to so many, AWQ's product is made in eight parts of float32 that are summed."""


def splits_products(setup: TrainSetup) -> bool:
    """Whether AWQ's products are made in parts (GPTQModel 7.7 `qlinear/gemm_awq.py`, AwqGemmFn)."""
    base = setup.quantization
    is_awq = base is not None and base.quant_type == "awq"
    return is_awq and setup.batch_size * setup.seq_len <= SPLIT_TOKENS


def base_words(setup: TrainSetup) -> tuple[str, ...]:
    """What an answer takes for granted of a packed base, a sentence each."""
    base, lora = setup.quantization, setup.lora
    if base is None or lora is None or base.quant_type not in ("gptq", "awq", "hqq"):
        return ()
    title = QUANT_TITLES[base.quant_type]
    words = [
        "transformers 5 loads no HQQ (get_quantize_ops: not available yet): hqq's own"
        " AutoHQQHFModel.quantize_model makes it, in groups of 64, with its backend PYTORCH."
        if base.quant_type == "hqq"
        else f"{title} trains by GPTQModel's kernels that have a backward: load it with backend"
        " auto_trainable."
    ]
    if base.quant_type == "gptq":
        words.append("Unpacking is compiled, as in the package, and needs no extra memory.")
    if lora.target_modules == "all-linear":
        words.append(
            f"PEFT's all-linear looks for torch's linear layers, of which {title} leaves none: name"
            " the layers in target_modules."
        )
    return tuple(words)


def check_base(workload: Workload) -> None:
    """Raises UsageError for what a base packed by GPTQ or AWQ, or in FP8, does not go with."""
    setup, base = workload.setup, workload.setup.quantization
    if base is None or not is_packed_base(setup):
        return
    title = QUANT_TITLES[base.quant_type]
    why = next((why for fails, why in _refusals(workload, base.quant_type) if fails), None)
    if why is not None:
        raise UsageError(f"a base in {title}: {why}")


def _refusals(workload: Workload, kind: QuantType) -> tuple[tuple[bool, str], ...]:
    """(Whether it applies, why and what to do)."""
    setup, model, lora = workload.setup, workload.model, workload.setup.lora
    assert setup.quantization is not None and lora is not None
    capability = workload.platform.capability
    return (
        (
            setup.device != "cuda",
            "other devices run other kernels, which are not known; ask about --device cuda.",
        ),
        (
            setup.dtype == "float32",
            "its kernels take 16-bit inputs; take --dtype bfloat16 or float16.",
        ),
        (
            kind == "awq" and setup.dtype != "float16",
            "transformers makes the rest of the model float16 (quantizers/quantizer_awq.py,"
            " update_dtype); take --dtype float16.",
        ),
        (
            setup.autocast_dtype not in (None, setup.dtype),
            f"what autocast makes of {setup.dtype} is known for its own dtype alone; take"
            f" --precision {'amp-float16' if setup.dtype == 'float16' else 'amp'}, or pure.",
        ),
        (
            setup.quantization.recipe != "stock",
            f"--recipe {setup.quantization.recipe} is about bitsandbytes' bases; take --recipe"
            " stock.",
        ),
        (
            lora.use_dora,
            "torch multiplies no weights in float8, which PEFT's DoRA scales as they are; leave"
            " --use-dora out."
            if kind == "fp8"
            else "PEFT's layers over it do not support DoRA (tuners/lora/{gptq,awq}.py); leave"
            " --use-dora out."
            if kind != "hqq"
            else "what DoRA's layers keep over it is not known; leave --use-dora out.",
        ),
        (
            lora.peft_type == "ia3" and kind != "fp8",
            "PEFT's IA3 takes torch's linear layers alone (tuners/ia3/model.py); take --peft-type"
            " lora.",
        ),
        (
            lora.peft_type != "lora" or lora.fast_lora,
            "adapters other than PEFT's LoRA are known by traces, which take its package; leave out"
            " --peft-type and --fast-lora.",
        ),
        (
            setup.sharding not in ("none", "ddp", "zero1"),
            "GPTQModel holds it in buffers, which FSDP and DeepSpeed leave whole on each rank;"
            " take --sharding ddp or zero1."
            if kind in ("gptq", "awq")
            else "how other shardings share it is not known; take --sharding ddp or zero1.",
        ),
        (
            not kernel_set(setup.kernels).takes_other_bases or setup.transformers != "5",
            "it is known as transformers 5 loads it; leave out --kernels and --transformers.",
        ),
        (
            any("experts" in name for name, _ in model.modules()),
            "how it stores experts is not known; take --method lora.",
        ),
        (
            kind == "fp8" and capability is not None and capability < 89,
            "below sm_89 transformers brings its weights back to bfloat16"
            " (quantizers/quantizer_finegrained_fp8.py); take --method lora.",
        ),
        (
            any(_is_unpacked_by(kind, part, model) for part in model.parts),
            f"{model.id} has layers that it does not pack as known here; take --quant-type nf4.",
        ),
    )


def _is_unpacked_by(kind: QuantType, part: Module | LayerStack, model: ModelSpec) -> bool:
    """Linear layers beside the blocks, which optimum's GPTQ leaves as they are, heads that hqq does
    not know by their name, and Conv1D, which transformers' AWQ and FP8 and hqq do not look for."""
    if isinstance(part, Module):
        is_head = part.name == model.output_embedding
        return part.is_linear and not (is_head and (kind != "hqq" or part.name == "lm_head"))
    return kind != "gptq" and any(m.kind == "Conv1D" for layer in part.kinds for m in layer)
