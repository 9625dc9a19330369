"""What keys and files say together: how many ranks there are, what they can share, and what becomes
of number formats and checkpointing there; and what goes with the images of a model that sees."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lora_profiler.question.lora_kernel_set import SHARDED_APART, lora_kernel_set
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option_values import WHOLE_WEIGHTS
from lora_profiler.question.support.images import PROCESSORS
from lora_profiler.question.support.optimizers import steps_on_shards
from lora_profiler.question.workload import DEEPSPEED_ZERO, FLAT, FULLY_SHARDED
from lora_profiler.trainer_files.meaning import IMAGES, Framework
from lora_profiler.trainer_files.trainer_file import (
    KeyReading,
    TrainerFile,
    instead,
    settled_by,
    usual_options,
)

_ENDS = ("embed_tokens", "lm_head")
"""Names of the modules that FSDP1 is known to gather each for itself, trained whole."""


def resolved(
    options: dict[str, Any], rows: Sequence[KeyReading], known: Framework, stack: str
) -> Iterator[KeyReading]:
    """Readings of what no key says alone. `options` are changed: one rank shares nothing, unless it
    is DeepSpeed's, several share at least the work."""
    if options.get("world_size") == 1 and options.get("sharding") not in DEEPSPEED_ZERO:
        options.pop("sharding", None)
        options.pop("use_orig_params", None)
        options.pop("context_parallel_size", None)
        del options["world_size"]
        yield from _kept_on_card(options, rows[0].file)
    has_ranks = "world_size" in options or any("world_size" in row.asks for row in rows)
    if not has_ranks:
        options.pop("sharding", None)
        options.pop("use_orig_params", None)
        options.pop("context_parallel_size", None)
        yield from _kept_on_card(options, rows[0].file)
        return
    if options.setdefault("sharding", "ddp") not in FLAT:
        options.pop("use_orig_params", None)
    file = rows[0].file
    usual = {**usual_options(stack, options), **options}
    for key, meaning in known.together(stack, usual, {row.key for row in rows}):
        options |= meaning.options
        yield _key_reading(file, key, meaning.options, meaning.note)
    yield from _able(options, usual, file)
    usual |= options
    if usual.get("precision") == "amp":
        yield from _without_autocast(options, usual, file)


def _able(options: dict[str, Any], usual: dict[str, Any], file: str) -> Iterator[KeyReading]:
    """Where what is asked for has no rules on such ranks, the nearest that has."""
    optimizer, methods = usual.get("optimizer", "adamw"), options.get("methods", ())
    if usual.get("precision") == "amp-float16" and options["sharding"] != "ddp":
        options["precision"] = "amp"
        what = "mixed precision in float16 on shards, answered as bfloat16's"
        yield instead(file, "precision", "amp-float16", "amp", what, "either way")
    if "generation_batch_size" in options and options["sharding"] not in WHOLE_WEIGHTS:
        at_once = str(options.pop("generation_batch_size"))
        options["use_vllm"] = True
        what = f"generation under {options['sharding']}, which gathers weights, answered as vLLM's"
        yield instead(file, "generation_batch_size", at_once, None, what, "too low")
    parts = options.get("context_parallel_size", 1)
    if parts > 1 and (beside := _context_parallel_gap({**usual, **options})):
        del options["context_parallel_size"]
        what = f"context parallelism with {beside}, answered without"
        yield instead(file, "context_parallel_size", parts, None, what, "too high")
    on_host = bool(usual.get("offload_params"))
    if options["sharding"] in FULLY_SHARDED and not steps_on_shards(
        optimizer, options["sharding"], on_host
    ):
        options["optimizer"] = "adamw"
        what = f"{optimizer} on the shards of FSDP, answered as adamw"
        yield instead(file, "optimizer", optimizer, "adamw", what)
    moved = options.get("offload_optimizer_device", "none")
    if moved != "none" and not optimizer_facts(optimizer).on_host:
        options["optimizer"] = "adamw"
        what = f"{optimizer} on the host, answered as DeepSpeed's CPUAdam"
        yield instead(file, "optimizer", optimizer, "adamw", what, "either way")
    if usual.get("optimizer_in_bwd"):
        options["optimizer_in_bwd"] = False
        what = "an optimizer that steps in the backward pass of several ranks"
        yield instead(file, "optimizer_in_bwd", True, False, what)
    kernels = usual.get("lora_kernels", "peft")
    if "full" not in methods and kernels != "peft" and options["sharding"] in SHARDED_APART:
        options["lora_kernels"] = "peft"
        what = f"LoRA kernels under {options['sharding']}, answered as PEFT's adapters"
        yield instead(file, "lora_kernels", kernels, "peft", what)
    if options.get("quantize_experts") and options["sharding"] != "ddp":
        options["quantize_experts"] = False
        what = f"experts in 4 bit under {options['sharding']}, answered in 16"
        yield instead(file, "quantize_experts", True, False, what)
    if options["sharding"] in FLAT:
        loss, saved = usual.get("loss", "plain"), options.get("modules_to_save")
        is_known = saved and all(name.endswith(_ENDS) for name in saved.split(","))
        of = "" if loss_facts(loss).takes_flat_units else f"the {loss} loss"
        if saved and (not is_known or loss != "plain"):
            of = "modules_to_save"
        if of:
            named, options["sharding"] = options["sharding"], "fsdp"
            what = f"FSDP1 of {of}, answered as FSDP2"
            yield instead(file, "sharding", named, "fsdp", what, "either way")


def _context_parallel_gap(usual: dict[str, Any]) -> str:
    """What context parallelism is not known with, "" where it is."""
    loss, kernels = usual.get("loss", "plain"), usual.get("kernels", "transformers")
    gaps = {
        f"sharding {usual['sharding']}": usual["sharding"] != "fsdp",
        f"the {loss} loss": loss != "plain",
        f"{kernels}'s kernels": kernels != "transformers",
        "packed rows": usual.get("packed") is not None,
    }
    return next((what for what, applies in gaps.items() if applies), "")


def _kept_on_card(options: dict[str, Any], file: str) -> Iterator[KeyReading]:
    """What is asked to move where nothing says that DeepSpeed deals it out."""
    for name in ("offload_optimizer_device", "offload_param_device"):
        if (device := options.pop(name, "none")) != "none":
            yield instead(file, name, device, None, "DeepSpeed's offloading without ZeRO")


def _without_autocast(
    options: dict[str, Any], usual: dict[str, Any], file: str
) -> Iterator[KeyReading]:
    """bf16 as accelerate makes it of DeepSpeed, which makes all weights bfloat16, and of FSDP,
    which gathers what trains, kept in float32, in bfloat16; beside a 4-bit base FSDP's shards stay
    as the trainer made them (accelerate 1.15 `utils/fsdp_utils.py`, fsdp2_prepare_model)."""
    is_4_bit = "qlora" in options.get("methods", ())
    if options["sharding"] in DEEPSPEED_ZERO:
        made = {"precision": "pure", "dtype": "bfloat16"}
        note = "under DeepSpeed bf16 is no autocast: all weights are bfloat16"
    elif is_4_bit:
        if options["sharding"] in FLAT or options["sharding"] not in FULLY_SHARDED:
            return
        if usual.get("dtype", "bfloat16") != "bfloat16":
            return
        made = {"precision": "fsdp-mixed"}
        note = "under FSDP bf16 is its own mixed precision: what trains is gathered in bfloat16"
    elif options["sharding"] in FLAT:
        made = {"precision": "amp", "adapter_dtype": "float32"}
        if not {"lora", "qlora"} & set(options.get("methods", ())):
            made["dtype"] = "float32"
        note = "under FSDP1 bf16 is its own mixed precision: what trains is kept in float32"
    elif options["sharding"] in FULLY_SHARDED:
        made = {"precision": "fsdp-mixed", "adapter_dtype": "float32"}
        if "lora" not in options.get("methods", ()) or options.get("modules_to_save"):
            made["dtype"] = "float32"
        note = "under FSDP bf16 is its own mixed precision: what trains is kept in float32"
    else:
        return
    options |= made
    yield _key_reading(file, "bf16", made, note, value="amp")


def _key_reading(
    file: str, key: str, options: Any, note: str, *, value: str | None = None
) -> KeyReading:
    return KeyReading(
        file=file, line=0, key=key, value=value, state="option", options=options, note=note
    )


# --- images: what the model sees, and what goes with them -----------------------------------------


_ABOUT = ("images", "image_size")


def resolve_images(file: TrainerFile, model: ModelSpec | None) -> TrainerFile:
    """The file's images where those of `model` are priced and go with the rest, and the nearest
    options that do; else, and of a model that is not known, they are among what is missing."""
    return images_of_type(file, None if model is None else _type_that_sees(model))


def images_of_type(file: TrainerFile, kind: str | None) -> TrainerFile:
    """The same of a model by its type, None for one that sees nothing or is not known."""
    if "images" not in file.options:
        return file
    usual = file.effective_options
    if kind is None or kind not in PROCESSORS or file.has_one_row or _is_shared(usual):
        keys = tuple(_unseen(row) if "images" in row.options else row for row in file.keys)
        options = {name: v for name, v in file.options.items() if name not in _ABOUT}
        return replace(file, options=options, keys=keys)
    changed = tuple(_nearest(file, usual, kind))
    own = {name: value for row in changed for name, value in row.options.items()}
    return replace(file, options={**file.options, **own}, keys=(*file.keys, *changed))


def _type_that_sees(model: ModelSpec) -> str | None:
    """Of the model whose text side it is, or its own; of one that is stored in 4 bit nothing tells
    how its tower is."""
    if model.stored is not None:
        return None
    return model.model_type if model.text_side_of is None else model.text_side_of.model_type


def _is_shared(options: dict[str, object]) -> bool:
    return options.get("sharding", "none") not in ("none", "ddp") or "packed" in options


def _unseen(row: KeyReading) -> KeyReading:
    options = {name: v for name, v in row.options.items() if name not in _ABOUT}
    return replace(
        row, options=options, state="not modelled", missing=IMAGES, direction="too low", note=""
    )


def _nearest(file: TrainerFile, options: dict[str, object], kind: str) -> Iterator[KeyReading]:
    flash = options.get("attention") == "flash_attention_2"
    if flash and not PROCESSORS[kind].flash_attention_2:
        note = "transformers refuses FlashAttention 2 of this type: it runs with SDPA"
        yield settled_by(file.name, "attention", "flash_attention_2", "auto", note)
    for option, usual in (("kernels", "transformers"), ("lora_kernels", "peft")):
        value = str(options.get(option, usual))
        if value == usual:
            continue
        joined = lora_kernel_set(value) if option == "lora_kernels" else None
        if joined and not joined.rules_alone and kind in joined.types:
            continue
        if joined and kind in joined.stops_at:
            yield settled_by(file.name, "lora_kernels", value, "peft", joined.stopped)
            continue
        what = f"{value}'s kernels of a vision-language model, predicted without them"
        yield instead(file.name, option, value, usual, what)
