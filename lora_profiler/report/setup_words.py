"""How a model is trained: in a line each, the model, its batch and weights, attention, adapters;
and as the command that asks about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.option import Option, flag
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.units import count_text, short_count_text
from lora_profiler.workload import (
    QUANT_TITLES,
    STORED_OPTIONS,
    LoraConfig,
    Precision,
    Quantization,
    TrainSetup,
    Workload,
    setup_dict,
)


def title_words(prediction: Prediction) -> str:
    model = prediction.workload.model
    return (
        f"{model.id}: {model.model_type}, {model.num_layers} layers,"
        f" {short_count_text(model.num_parameters)} parameters"
    )


def platform_words(workload: Workload) -> str:
    """' (sm_90, torch 2.13)': whose kernels they are, on CUDA."""
    if workload.setup.device != "cuda":
        return ""
    platform = workload.platform
    return f" ({platform.capability_text or 'sm_80 to sm_89'}, torch {platform.torch_text})"


_PRECISION_WORDS: Mapping[Precision, str] = {
    "pure": "",
    "amp": " under bfloat16 autocast",
    "amp-float16": " under float16 autocast",
    "fsdp-mixed": " under FSDP's mixed precision",
}


def training_line(setup: TrainSetup, dtypes: Sequence[str] = ()) -> str:
    """'batch 1 x 2,048 tokens, bfloat16 weights, adamw (foreach)'. `dtypes` are those of several
    methods, where they differ."""
    micro = f" x {setup.accumulation} micro-batches" if setup.accumulation > 1 else ""
    autocast = _PRECISION_WORDS[setup.precision]
    packed = ""
    if setup.packed and setup.is_packed:
        packed = f" packed from sequences of {count_text(setup.packed)}"
    sizes = f"batch {setup.batch_size} x {count_text(setup.seq_len)} tokens{packed}{micro}"
    optimizer = f"{setup.optimizer} ({setup.optimizer_impl})"
    weights = f"{' / '.join(dtypes) or setup.dtype} weights{autocast}"
    return ", ".join((sizes, weights, optimizer, *_heading_words(setup, TrainSetup)))


def asked_words(predictions: Sequence[Prediction]) -> tuple[str, str]:
    """(training line, attention words) of one setup and several methods."""
    setup = predictions[0].workload.setup
    dtypes = list(dict.fromkeys(p.workload.setup.dtype for p in predictions))
    kernels = list(dict.fromkeys(p.attention_kernel for p in predictions))
    return training_line(setup, dtypes), attention_words(setup, kernels)


def _heading_words(setup: TrainSetup, part: type) -> list[str]:
    """What the options of `part` say where they are not the default."""
    values = setup_dict(setup)
    ranks = "one rank" if setup.world_size == 1 else f"{setup.world_size} ranks"
    words = []
    for option in STORED_OPTIONS:
        value = values[option.name]
        if option.owner is part and option.declared.heading and value not in (option.default, []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            shown = f"{value:g}" if isinstance(value, float) else shown
            words.append(option.declared.heading.format(shown, ranks=ranks, **values))
    return words


def attention_words(setup: TrainSetup, kernels: Sequence[str]) -> str:
    """'no checkpointing, flash attention'."""
    checkpointing = "with checkpointing" if setup.checkpointing else "no checkpointing"
    return f"{checkpointing}, {' / '.join(kernels)} attention"


def adapter_line(setup: TrainSetup) -> str:
    """'LoRA: rank 16, alpha 32, targets all-linear, float32 adapters', and what else is not the
    default."""
    lora, quantization = setup.lora, setup.quantization
    assert lora is not None
    targets = "PEFT's default" if lora.target_modules is None else lora.target_modules
    text = targets if isinstance(targets, str) else ", ".join(targets)
    sizes = f"rank {lora.r}, " if lora.has_rank else ""
    if lora.peft_type == "lora":
        sizes += f"alpha {lora.alpha:g}, "
    elif lora.peft_type == "oft":
        sizes += f"blocks of {lora.oft_block_size}, "
    line = f"{labels.adapter_label(setup)}: {sizes}targets {text}, {lora.adapter_dtype} adapters"
    words = [line, *_heading_words(setup, LoraConfig)]
    if quantization:
        nested = " with double quantisation" if quantization.is_nested else ""
        base = f"{QUANT_TITLES[quantization.quant_type]} base{nested}"
        words += [base, f"{quantization.recipe} recipe"]
    return ", ".join(words)


def predict_command(workload: Workload, gpu: str, *more: str) -> str:
    """`lora-profile MODEL ...` with every option that is not the default, on the card of that key,
    and `more` arguments at the end."""
    import shlex

    arguments = [*setup_arguments(workload), "--gpu", gpu, *more]
    return shlex.join(["lora-profile", workload.model.id, *arguments])


def setup_arguments(workload: Workload) -> list[str]:
    """The options of the setup of `workload`, the method first; those of parts that it does not
    have, and those at their default, are left out."""
    values = setup_dict(workload.setup)
    arguments = ["--method", workload.setup.method]
    parts = {LoraConfig: workload.setup.lora, Quantization: workload.setup.quantization}
    for option in STORED_OPTIONS:
        if parts.get(option.owner, workload) is not None:
            written = _written(option, values)
            if written is not None and written != DEFAULTS[option.name]:
                name = option.declared.short or option.flag
                arguments += option_argument(option, written, name)
    return arguments


def _written(option: Option, values: Mapping[str, Any]) -> Any:
    """The value as people write it; None for nothing."""
    value = values[option.name]
    if option.name == "alpha":
        return None if value == 2 * values["rank"] else value
    if option.name == "targets":
        if value is None:
            return "default"
        if isinstance(value, str):
            return value if value == "all-linear" else f"re:{value}"
    if isinstance(value, list):
        return ",".join(map(str, value)) or None
    return value


def option_argument(option: Option, value: Any, name: str) -> Sequence[str]:
    """The words of a command line that give an option, under `name`, that value."""
    if option.kind == "switch":
        return [option.flag if value else flag(f"no_{option.name}")]
    return [name, f"{value:g}" if isinstance(value, float) else str(value)]
