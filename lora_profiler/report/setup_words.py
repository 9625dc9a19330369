"""The question in words: the model, its batch and weights, attention, adapters, and the command
that asks about it; whose loop it is, and what of it is that trainer's; and what was probably not
meant: ranks, targets, lengths, number formats."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_profiler.errors import LoraProfilerError, did_you_mean
from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.stacks import BARE, GUIDE, Trainer, find_stack
from lora_profiler.facts.stacks.stack import as_loaded
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import outweighed_layers, unmatched_targets
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.adapters import adapters
from lora_profiler.question.adapters.targets import attention_targets
from lora_profiler.question.base import base_kind
from lora_profiler.question.model_spec import FRAMES_A_SECOND
from lora_profiler.question.option import Option, flag
from lora_profiler.question.support.bases import check_quantized_experts, packed_expert_bytes
from lora_profiler.question.support.generations import has_packed_experts
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.workload import (
    OPTIONS,
    STORED_OPTIONS,
    LoraConfig,
    Method,
    Precision,
    Quantization,
    TrainSetup,
    Workload,
    setup_dict,
)
from lora_profiler.report import labels
from lora_profiler.units import bytes_text, count_text, short_count_text

if TYPE_CHECKING:
    from lora_profiler.planning.placement import Network


def sending_words(network: "Network | None") -> str:
    """What times of several ranks count of what these send each other."""
    if network is None:
        return "Times are of compute alone; `--interconnect` adds what GPUs send each other."
    over = f"Times include sending over {network.key}, hidden behind compute at best"
    return f"{over} (`--interconnect`)."


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
    """'batch 1 × 2,048 tokens, bfloat16 weights, adamw (foreach)'. `dtypes` are those of several
    methods, where they differ."""
    micro = f" × {setup.accumulation} micro-batches" if setup.accumulation > 1 else ""
    autocast = _PRECISION_WORDS[setup.precision]
    packed = ""
    if setup.packed and setup.is_packed:
        packed = f" packed from sequences of {count_text(setup.packed)}"
    sizes = f"batch {setup.batch_size} × {count_text(setup.seq_len)} tokens{packed}{micro}"
    optimizer = f"{setup.optimizer} ({setup.optimizer_impl})"
    weights = f"{' / '.join(dtypes) or setup.dtype} weights{autocast}"
    return ", ".join((sizes, weights, optimizer, *_heading_words(setup, TrainSetup)))


def asked_words(predictions: Sequence[Prediction], dtypes: Sequence[str] = ()) -> tuple[str, str]:
    """(training line, attention words) of one setup and several methods; `dtypes` as of
    `training_line`, by default those of the predictions."""
    setup = predictions[0].workload.setup
    dtypes = dtypes or list(dict.fromkeys(p.workload.setup.dtype for p in predictions))
    kernels = list(dict.fromkeys(p.attention_kernel for p in predictions))
    words = attention_words(setup, kernels)
    checkpointed = [p for p in predictions if p.workload.setup.checkpointing]
    if 0 < len(checkpointed) < len(predictions):
        methods = " and ".join(labels.method_label(p) for p in checkpointed)
        words = f"checkpointing of {methods}, {words.partition(', ')[2]}"
    if (sound := predictions[0].workload.model.sound) is not None:
        words = f"{sound[1] / FRAMES_A_SECOND:g} s of sound a row, {words}"
    return training_line(setup, dtypes), words


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
    text = targets if isinstance(targets, str) else ", ".join(targets) or "none"
    sizes = f"rank {lora.r}, " if lora.has_rank else ""
    sizes += adapter_method(lora.peft_type).size.format(lora)
    line = f"{labels.adapter_label(setup)}: {sizes}targets {text}, {lora.adapter_dtype} adapters"
    words = [line, *_heading_words(setup, LoraConfig)]
    if quantization:
        nested = " with double quantisation" if quantization.is_nested else ""
        base = f"{base_kind(quantization.quant_type).title} base{nested}"
        words += [base, f"{quantization.recipe} recipe"]
    return ", ".join(words)


def predict_command(workload: Workload, gpu: str, *more: str) -> str:
    """`lora-profile MODEL ...` with every option that is not the default, on the card of that key,
    and `more` arguments at the end."""
    import shlex

    is_guided = workload.setup.loop_state == find_stack(GUIDE).defaults["full"]["loop_state"]
    own = find_stack(GUIDE).defaults[workload.setup.method] if is_guided else {}
    trainer = [] if is_guided else ["--trainer", BARE]
    arguments = [*trainer, *setup_arguments(workload, own), "--gpu", gpu, *more]
    return shlex.join(["lora-profile", workload.model.id, *arguments])


def setup_arguments(workload: Workload, own: Mapping[str, Any] | None = None) -> list[str]:
    """The options of the setup of `workload`, the method first; those of parts that it does not
    have, and those at their default or that of `own`, are left out."""
    defaults = {**DEFAULTS, **(own or {})}
    values = setup_dict(workload.setup)
    arguments = ["--method", workload.setup.method]
    parts = {LoraConfig: workload.setup.lora, Quantization: workload.setup.quantization}
    for option in STORED_OPTIONS:
        if parts.get(option.owner, workload) is not None:
            written = _written(option, values)
            if written is not None and written != defaults[option.name]:
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
        return ",".join(value) or "none"
    if isinstance(value, list):
        return ",".join(map(str, value)) or None
    return value


def option_argument(option: Option, value: Any, name: str) -> Sequence[str]:
    """The words of a command line that give an option, under `name`, that value."""
    if option.kind == "switch":
        return [option.flag if value else flag(f"no_{option.name}")]
    return [name, f"{value:g}" if isinstance(value, float) else str(value)]


# --- whose loop it is -----------------------------------------------------------------------------

NAMED = 8
"""So many of what a trainer sets are named in the short answer."""
LOOP_OF_GUIDES = "transformers' Trainer"
BARE_LINE = "Plain PyTorch loop; the model output is freed before backward"


def task_lines(workloads: Sequence[Workload]) -> list[str]:
    """What trains where the model has no language-model head, and the experts that a quantised base
    leaves in 16 bit."""
    model, lines = workloads[0].model, []
    if model.is_embedding:
        lines.append("Embedding model: mean-pooled hidden states, contrastive loss, no logits")
    elif model.architecture.endswith("ForSequenceClassification"):
        lines.append("Classifier of whole texts (reranker, reward model): scores, no logits")
    for workload in workloads:
        setup, base = workload.setup, workload.setup.quantization
        if base is None or base.quantize_experts or setup.transformers != "5":
            continue
        size = packed_expert_bytes(workload)
        if size:
            lines.append(f"{bytes_text(size)} of experts stay in 16 bit{_in_4_bit(workload)}")
            break
    return lines


def _in_4_bit(workload: Workload) -> str:
    """The options that quantise the experts too, where some do."""
    setup, base, lora = workload.setup, workload.setup.quantization, workload.setup.lora
    assert base is not None and lora is not None  # adapters alone train on a quantised base
    quantised = replace(setup, quantization=replace(base, quantize_experts=True))
    on_attention = replace(lora, target_modules=attention_targets(workload.model))
    for options, changed in (
        ("--quantize-experts", quantised),
        ("--quantize-experts --targets attention", replace(quantised, lora=on_attention)),
    ):
        try:
            check_quantized_experts(replace(workload, setup=changed))
        except LoraProfilerError:
            continue
        return f"; {options} makes them 4-bit"
    return ""


def trainer_lines(trainer: Trainer | None, workloads: Sequence[Workload]) -> list[str]:
    """Whose loop it is; what that sets and no option says otherwise, where it is not the command
    line's default; and how rows are laid out, where the model sees others than were asked for."""
    if trainer is None:
        return [BARE_LINE, *task_lines(workloads)]
    words_of: dict[tuple[Method, ...], list[str]] = {}
    for (name, value), methods in _own(trainer, workloads).items():
        words = _WORDS.get(name) or _OPTIONS[name].declared.words
        words_of.setdefault(methods, []).append(valued(words, value))
    everywhere = tuple(w.setup.method for w in workloads)
    parts = []
    for methods, each in words_of.items():
        of = " and ".join(labels.METHOD_LABELS[method] for method in methods)
        parts.append(("" if methods == everywhere else f"{of}: ") + ", ".join(each))
    sets = f"; its defaults: {'; '.join(parts)}" if parts else ""
    return [
        f"{_for(trainer, workloads)}{sets}",
        *_layout(trainer, workloads),
        *task_lines(workloads),
    ]


def short_trainer_lines(
    trainer: Trainer | None, workloads: Sequence[Workload], most: int = NAMED
) -> list[str]:
    """As `trainer_lines`, in one sentence, with the names alone of what the trainer sets, about
    `most` of them."""
    if trainer is None:
        return [BARE_LINE, *task_lines(workloads)]
    if trainer.stack.name == GUIDE:
        return [_for(trainer, workloads), *task_lines(workloads)]
    names = list(dict.fromkeys(_OPTIONS[name].noun for name, _ in _own(trainer, workloads)))
    if len(names) > most + 1:
        names[most:] = [f"and {len(names) - most} more"] if most else []
    sets = f"; its defaults: {', '.join(names)}" if names else ""
    loop = "; ".join([f"{_for(trainer, workloads)}{sets}", *_layout(trainer, workloads)])
    return [loop, *task_lines(workloads)]


def _for(trainer: Trainer, workloads: Sequence[Workload]) -> str:
    if trainer.stack.name == GUIDE:
        is_causal = workloads[0].model.is_causal
        whose = "PEFT's and TRL's guides" if is_causal else "transformers' guides"
        return f"Trained as in {whose}, by {LOOP_OF_GUIDES}"
    if trainer.stack.name == BARE:
        return BARE_LINE
    return f"Trained by {trainer.stack.title} (--trainer {trainer.stack.key})"


def _own(
    trainer: Trainer, workloads: Sequence[Workload]
) -> dict[tuple[str, Any], tuple[Method, ...]]:
    """Names and values of what the trainer sets to another than the default, and for which
    methods; but for what its loop keeps, which nobody sets."""
    methods_of: dict[tuple[str, Any], tuple[Method, ...]] = {}
    for workload in workloads:
        for option in trainer.from_stack(workload).items():
            if option[1] != DEFAULTS[option[0]] and option[0] != "loop_state":
                methods_of[option] = (*methods_of.get(option, ()), workload.setup.method)
    return methods_of


_OPTIONS = {option.name: option for option in OPTIONS}
_WORDS = {
    "dtype": "{} weights",
    "precision": "{} precision",
    "optimizer_impl": "{} optimizer",
    "rank": "rank {}",
}


def valued(words: str, value: Any) -> str:
    """The words of an option with its value in them, or those of the two of a switch that hold."""
    if isinstance(value, bool):
        return words.split("|")[0 if value else 1]
    if isinstance(value, list):
        value = " ".join(map(str, value))
    elif isinstance(value, int):
        value = count_text(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return words.format(value)


def _layout(trainer: Trainer, workloads: Sequence[Workload]) -> list[str]:
    setup, packing, rows = workloads[0].setup, trainer.stack.packing, trainer.stack.rows
    if rows > 1:
        batch = count_text(setup.batch_size // rows)
        return [f"a batch of {batch} is {count_text(setup.batch_size)} rows of the model"]
    if setup.is_packed and packing is not None and packing.one_row:
        return ["packed rows of a micro-batch are laid end to end, as one row"]
    return []


def trainer_dict(trainer: Trainer | None, workload: Workload) -> dict[str, Any] | None:
    """As JSON has it; null where nobody named one."""
    if trainer is None:
        return None
    stack, own = trainer.stack, trainer.from_stack(workload)
    versions = {"library": stack.library or None, "version": stack.version or None}
    return {"name": stack.name, **versions, "from_stack": own}


# --- what was probably not meant ------------------------------------------------------------------


def caution_lines(
    predictions: Sequence[Prediction], gpu: Gpu | None = None, trainer: Trainer | None = None
) -> list[str]:
    """Everything worth a warning about the ways to train one model on `gpu`, each once; nothing of
    targets that are `trainer`'s own, which it passes whatever the model has."""
    lines = []
    if gpu is not None and gpu.vendor in ("amd", "intel"):
        lines.append(
            f"torch's kernels on {gpu.name} are not known; using those of NVIDIA sm_80 to sm_89."
        )
    workload = predictions[-1].workload
    is_own = trainer is not None and "targets" not in trainer.explicit
    model, targets = workload.model, () if is_own else unmatched_targets(workload)
    for target in targets:
        leaves = {name.rpartition(".")[2] for name, module in model.modules() if module.is_linear}
        near = did_you_mean(target, sorted(leaves))
        lines.append(f"no module of {model.id} matches {target}; PEFT ignores it.{near}")
    lines += _adapted_routers(predictions)
    lines += _large_ranks(predictions)
    model, seq_len = predictions[0].workload.model, predictions[0].workload.setup.seq_len
    if model.trained_length is not None and seq_len > model.trained_length:
        lines.append(
            f"{model.id}'s context length is {model.trained_length:,} tokens; this run's longest"
            f" sequence has {seq_len:,}."
        )
    return [*lines, *_formats(predictions, gpu), *_left_in_16_bit(predictions)]


def _is_float32(predictions: Sequence[Prediction]) -> bool:
    """Whether weights are published in float32 and all is computed in it."""
    setups = [p.workload.setup for p in predictions]
    is_wide = all(s.dtype == "float32" and s.autocast_dtype is None for s in setups)
    return is_wide and as_loaded(predictions[0].workload.model) == "float32"


def _formats(predictions: Sequence[Prediction], gpu: Gpu | None) -> Iterator[str]:
    """Number formats that the GPU does not compute in, or in which training goes wrong."""
    setups = [p.workload.setup for p in predictions]
    platform = predictions[0].workload.platform
    if setups[0].device == "cuda" and not platform.has_bfloat16:
        wide = [
            labels.adapter_label(s)
            for s in setups
            if s.autocast_dtype != "float16" and "bfloat16" in (s.dtype, s.lowered_dtype)
        ]
        kind = platform.capability_text
        name = f"{gpu.name} ({kind})" if gpu is not None and gpu.capability else kind
        if wide:
            of = ", ".join(wide)
            yield (
                f"{name} does not support bfloat16 ({of}); torch emulates it slowly, and"
                " refuses some products. Try: `--dtype float16`"
            )
        elif not _is_float32(predictions):
            methods: dict[str, dict[str, None]] = {}
            for s in setups:
                autocast = f" with {s.autocast_dtype} autocast" if s.autocast_dtype else ""
                kept = " weights" if s.dtype == "bfloat16" else ""  # as the trainer loads them
                used = f"{s.dtype}{kept}{autocast}"
                methods.setdefault(used, {})[labels.adapter_label(s)] = None
            words = ", ".join(f"{format_} ({', '.join(of)})" for format_, of in methods.items())
            yield f"{name} does not support bfloat16; using {words}."
    if any(s.method == "full" and s.dtype == "float16" for s in setups):
        yield (
            "full fine-tuning in float16 without loss scaling ends in NaN; use --dtype float32,"
            " or bfloat16 on a GPU from sm_80."
        )


def _left_in_16_bit(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where versions of transformers differ most: weights that bitsandbytes finds, or does not."""
    for workload in (p.workload for p in predictions):
        model, quantization = workload.model, workload.setup.quantization
        if quantization is None:
            continue
        if type_of(model).own_linears and workload.setup.transformers == "5":
            yield (
                f"bitsandbytes leaves the linear layers of {model.id} in 16 bit: transformers 5"
                " quantises torch's own nn.Linear alone, and this model has a class derived from it"
            )
            return
        if has_packed_experts(model):
            yield (
                f"bitsandbytes leaves the packed experts of {model.id} in 16 bit;"
                " transformers 4 quantised them: `--transformers 4.57`"
            )
            return


def _adapted_routers(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where PEFT attaches adapters and the first step raises; once for all methods."""
    model = predictions[0].workload.model
    router = type_of(model).tuple_router
    loras = filter(None, (prediction.workload.setup.lora for prediction in predictions))
    if router is None:
        return
    if any(each.module.endswith(f".{router}") for lora in loras for each in adapters(model, lora)):
        yield (
            f"adapters on the routers of {model.id} fail in the first step; name --targets"
            f" without {router}."
        )


def _large_ranks(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where an adapter holds more weights than the layer that it adapts; once for all methods."""
    for prediction in predictions:
        layers = outweighed_layers(prediction)
        if layers:
            first, lora = layers[0], prediction.workload.setup.lora
            assert lora is not None
            yield (
                f"rank {lora.r} is larger than {len(layers)} of the adapted layers; {first.name}"
                f" ({first.in_features} x {first.out_features}): adapter"
                f" {first.num_trainable_parameters:,} weights, layer {first.num_parameters:,}."
            )
            return
