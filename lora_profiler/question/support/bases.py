"""What quantised bases do not go with, and how a setup has them. No torch."""

from collections.abc import Mapping

from lora_profiler.errors import UsageError
from lora_profiler.question.adapters import adapters
from lora_profiler.question.base import Base, LayerBytes, base_kind, of_base
from lora_profiler.question.kernel_set import kernel_set, of_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec, Module, StoredBase, Weight
from lora_profiler.question.option import DTYPE_BYTES
from lora_profiler.question.workload import Dtype, Qat, TrainSetup, Workload


def adapter_dtype(setup: TrainSetup) -> Dtype:
    """Of adapters while they train, whatever format PEFT made them in."""
    assert setup.lora is not None
    trl = setup.quantization is not None and setup.quantization.recipe == "trl"
    return "bfloat16" if trl else setup.lora.adapter_dtype


def base_of(setup: TrainSetup) -> Base | None:
    if setup.quantization is None:
        return None
    base = base_kind(setup.quantization.quant_type)
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
        group_size=base_kind(quantization.quant_type).group_size,
    )


def layer_bytes(module: Module, stored: StoredBase) -> LayerBytes:
    """Of one linear layer of the base."""
    assert module.in_features is not None and module.out_features is not None
    return base_kind(stored.quant_type).layer_bytes(module.in_features, module.out_features, stored)


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
    return base is not None and base_kind(base.quant_type).packed


BACK_IN_16_BIT = ("lm_head", "embed_tokens", "wte", "wpe")
"""Modules that the recipe "kbit-norms" turns back to bfloat16 (TRL 0.14 `trainer/utils.py`,
peft_module_casting_to_bf16)."""


_WIDE_ENDS = ("embed_tokens", "lm_head", "embed_in", "embed_out", "word_embeddings")


def is_wide_end(name: str) -> bool:
    """Whether a module, by its name in the model or in its layer, is one that axolotl turns into
    float32 before a full fine-tuning (067b021, `loaders/model.py`,
    _convert_embedding_modules_dtype; `loaders/utils.py`, get_linear_embedding_layers)."""
    return "norm" in name or name.endswith((".gate", *_WIDE_ENDS))


def splits_products(setup: TrainSetup) -> bool:
    """Whether products over the base are made in parts."""
    base = setup.quantization
    tokens = setup.batch_size * setup.seq_len
    return base is not None and tokens <= base_kind(base.quant_type).split_tokens


def base_words(setup: TrainSetup) -> tuple[str, ...]:
    """What an answer takes for granted of a packed base, a sentence each."""
    base, lora = setup.quantization, setup.lora
    own = of_base(base.quant_type, "words") if base else None
    if base is None or lora is None or own is None:
        return ()
    words = own(setup)
    if lora.target_modules == "all-linear":
        words.append(
            "PEFT's all-linear looks for torch's linear layers, of which"
            f" {base_kind(base.quant_type).title} leaves none: name the layers in target_modules."
        )
    return tuple(words)


def check_base(workload: Workload) -> None:
    """Raises UsageError for what a packed base does not go with."""
    setup, base = workload.setup, workload.setup.quantization
    if base is None or not is_packed_base(setup):
        return
    own = of_base(base.quant_type, "refusals")(workload)
    why = next((why for why, applies in (_refusals(workload) | own).items() if applies), None)
    model, leaves = workload.model, of_base(base.quant_type, "leaves")
    if why is None and any(leaves(part, model) for part in model.parts):
        why = f"{model.id} has layers that it does not pack as known here; take --quant-type nf4."
    if why is not None:
        raise UsageError(f"a base in {base_kind(base.quant_type).title}: {why}")


def _refusals(workload: Workload) -> dict[str, object]:
    setup, model, lora = workload.setup, workload.model, workload.setup.lora
    assert setup.quantization is not None and lora is not None
    return {
        "other devices run other kernels, which are not known; ask about --device cuda.": (
            setup.device != "cuda"
        ),
        "its kernels take 16-bit inputs; take --dtype bfloat16 or float16.": (
            setup.dtype == "float32"
        ),
        f"what autocast makes of {setup.dtype} is known for its own dtype alone; take --precision"
        f" {'amp-float16' if setup.dtype == 'float16' else 'amp'}, or pure.": (
            setup.autocast_dtype not in (None, setup.dtype)
        ),
        f"--recipe {setup.quantization.recipe} is about bitsandbytes' bases; take --recipe"
        " stock.": setup.quantization.recipe != "stock",
        "adapters other than PEFT's LoRA are known by traces, which take its package; leave out"
        " --peft-type and --fast-lora.": lora.peft_type != "lora" or lora.fast_lora,
        "it is known as transformers 5 loads it; leave out --kernels and --transformers.": (
            not kernel_set(setup.kernels).takes_other_bases or setup.transformers != "5"
        ),
        "how it stores experts is not known; take --method lora.": any(
            "experts" in name for name, _ in model.modules()
        ),
    }


# --- quantisation-aware training ------------------------------------------------------------------

RULED: tuple[Qat, ...] = ("8da4w", "int8-int4")
"""Schemes whose scales get no gradient, which the rules know; the others are traced."""
_GROUPS: Mapping[Qat, int] = {"fp8-int4": 128, "fp8-fp8": 1}
"""Where torchao fixes them."""


def is_of_adapted_layers(setup: TrainSetup) -> bool:
    """Whether the layers with adapters alone are fake-quantised, as by torchtune's recipe."""
    return setup.qat == "8da4w" and setup.lora is not None


def rounds_head(workload: Workload) -> bool:
    """Whether the head's weight is rounded where the head is called; torchtune's quantizer leaves
    one that is tied alone, which is no linear layer there (modules/tied_linear.py)."""
    setup = workload.setup
    if setup.qat != "8da4w":
        return setup.qat != "none"
    return setup.lora is None and not workload.model.has_tied_head


def qat_words(workload: Workload) -> tuple[str, ...]:
    """What an answer says of fake-quantised layers."""
    setup = workload.setup
    if setup.qat == "none":
        return ()
    if is_of_adapted_layers(setup):
        which = "Every linear layer with an adapter"
    else:
        is_head = rounds_head(workload) and setup.loss == "plain"
        head = "the head among them" if is_head else "but the head"
        which = f"Every linear layer, {head},"
    what = "its weight" if setup.qat == "int4" else "its weight and its input"
    return (
        f"{which} rounds {what} in each forward pass as torchao 0.18 does, operator by operator,"
        " without torch.compile.",
    )


def check_qat(workload: Workload) -> None:
    """Raises UsageError for fake-quantised layers that torchao refuses, and beside an option that
    no trace of them was held against."""
    setup = workload.setup
    if setup.qat == "none":
        return
    lora = setup.lora
    refused = {
        "--method qlora": setup.quantization is not None,
        f"--loss {setup.loss}": not loss_facts(setup.loss).takes_fake_quantized
        and rounds_head(workload),
        f"--kernels {setup.kernels}": not kernel_set(setup.kernels).takes_fake_quantized,
        f"--sharding {setup.sharding}": setup.sharding not in ("none", "ddp", "fsdp"),
        "--generation-batch-size": setup.completions_at_once > 0,
        "--images": setup.images is not None,
        "--use-dora": lora is not None and lora.use_dora,
        "--peft-type": lora is not None and lora.peft_type != "lora",
        "fused adapters": lora is not None and (lora.fast_lora or lora.lora_kernels != "peft"),
    }
    requested = next((name for name, is_asked in refused.items() if is_asked), None)
    if requested is not None:
        raise UsageError(
            f"fake-quantised layers were not held against {requested}; leave out one of that and"
            " --qat."
        )
    group = _GROUPS.get(setup.qat, setup.qat_group_size)
    for name, module in workload.model.modules():
        if module.kind == "Linear" and (module.in_features or 0) % group:
            raise UsageError(
                f"torchao's groups of {group} do not go into the {module.in_features} inputs of"
                f" {name}; take another --qat-group-size."
            )
