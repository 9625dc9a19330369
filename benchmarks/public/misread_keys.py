"""Public configuration files as we read them, against the frameworks' own parsers.

    python -m benchmarks.public.misread_keys axolotl=REPOSITORY llamafactory=REPOSITORY
        trl=REPOSITORY

Each REPOSITORY is a git repository on this disk, of the projects that
`benchmarks.public.trainer_files` names; its newest commit is read and nothing of it is kept.
axolotl's schema and LLaMA-Factory's arguments are those of the commit itself, TRL's those that are
installed; Python has what they import (`datasets`, `omegaconf`, `trl`, `addict` beside this
package). What their objects hold after their own defaults and checks is compared with what the file
means to us: an option that differs, and of which nothing says that it is not modelled, is misread.
Writes `results/misread_keys.md`.
"""

import os
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from math import isqrt
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import checkouts, write_page
from benchmarks.public.trainer_files import CORPORA, configurations, git
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import TrainerFile, usual_options

Held = dict[str, Any]
"""Options by name, as a framework's own object has them."""
_OPTIMIZERS = {
    "adamw_torch": ("adamw", "foreach"),
    "adamw_torch_fused": ("adamw", "fused"),
    "adamw_bnb_8bit": ("adamw_8bit", None),
    "adamw_8bit": ("adamw_8bit", None),
    "paged_adamw": ("paged_adamw_32bit", None),
    "lion_32bit": ("lion", None),
}
_KERNELS = {"sdpa": "auto", "flash_attention_2": "flash_attention_2", "eager": "eager"}


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "WANDB_DISABLED": "true"}
    lines = [
        "# Keys read as the frameworks read them",
        "",
        "`python -m benchmarks.public.misread_keys`: what public configuration files mean to us,"
        " beside"
        " what the frameworks' own parsers make of them, defaults and checks included; not kept"
        " here. A value is misread if it differs and is not among what the file's answer names as"
        " not modelled.",
        "",
        "| files of | at | files | not parsed by their own | values compared | named as not"
        " modelled | misread |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for name, repository in checkouts(sys.argv[1:], PARSERS).items():
        with tempfile.TemporaryDirectory() as folder:
            row, wrong, refused = compared(name, repository, Path(folder))
        lines.append(row)
        notes += ["", f"## {CORPORA[name].project}", ""]
        notes += [f"- misread: {text}" for text in wrong]
        notes += [f"- {n} not parsed: {text}" for text, n in refused.most_common(8)]
    write_page("misread_keys", "\n".join([*lines, *notes]).rstrip() + "\n")


def compared(name: str, repository: str, folder: Path) -> tuple[str, list[str], Counter[str]]:
    commit = git(repository, "rev-parse", "--short=7", "HEAD").decode().strip()
    with tarfile.open(fileobj=BytesIO(git(repository, "archive", "HEAD"))) as archive:
        archive.extractall(folder, filter="data")
    sys.path.insert(0, str(folder / "src"))
    parse = PARSERS[name]()
    wrong: list[str] = []
    refused: Counter[str] = Counter()
    files = values = named = 0
    for path in configurations(CORPORA[name], folder):
        try:
            file = read_files([path])
        except LoraProfilerError as e:
            refused[f"by us: {e}"] += 1
            continue
        files += 1
        try:
            with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
                held = parse(yaml.safe_load(path.read_text("utf-8")))
        except Exception as e:  # whatever a framework raises
            refused[" ".join(str(e).split()).partition("[type=")[0][:110]] += 1
            continue
        gaps = {option for key in file.not_modelled for option in _touched(key.key)}
        ours = meant(file)
        for option, value in held.items():
            values += 1
            if same(ours.get(option), value):
                continue
            if option in gaps or any(option in key.options for key in file.not_modelled):
                named += 1
            else:
                place = path.relative_to(folder)
                wrong.append(f"{place}: {option} {ours.get(option)!r}, of its own {value!r}")
    counts = (files, refused.total(), values, named, len(wrong))
    cells = (CORPORA[name].project, commit, *(f"{n:,}" for n in counts))
    return f"| {' | '.join(cells)} |", wrong, refused


def meant(file: TrainerFile) -> Held:
    """The options of the file's question, the stack's defaults beneath."""
    options = {**DEFAULTS, **usual_options(file.stack, file.options), **file.options}
    methods = file.options.get("methods", ())
    return options | {"method": methods[0] if methods else "full"}


def _touched(key: str) -> tuple[str, ...]:
    """What a key that is not modelled says without an option of its own."""
    return {"rl": ("batch_size",), "activation_offloading": ("checkpointing",)}.get(key, ())


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, float | int) and not isinstance(theirs, bool):
        return ours is not None and float(ours) == float(theirs)
    return bool(ours == theirs)


def _optimizer(name: Any) -> Iterator[tuple[str, Any]]:
    text = str(getattr(name, "value", name))
    optimizer, kind = _OPTIMIZERS.get(text, (text, None))
    yield "optimizer", optimizer
    if kind is not None:
        yield "optimizer_impl", kind


def _names(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _axolotl() -> Callable[[Mapping[str, Any]], Held]:
    from axolotl.utils.schemas import config  # type: ignore[import-not-found]

    card = {"bf16": True, "fp8": True, "tf32": True, "n_node": 1, "compute_capability": "sm_90"}

    def parse(raw: Mapping[str, Any]) -> Held:
        cards = 8 if raw.get("fsdp_config") or raw.get("deepspeed") else 1
        own = config.AxolotlConfigWCapabilities(
            **raw,
            capabilities={**card, "n_gpu": cards},
            env_capabilities={"torch_version": "2.9.0"},
        )
        bits = own.load_in_4bit or own.load_in_8bit or own.gptq
        adapter = own.adapter if own.adapter in ("lora", "qlora") else None
        held: Held = {
            "batch_size": own.micro_batch_size * (2 if own.reward_model else 1),
            "accumulation": own.gradient_accumulation_steps,
            "seq_len": own.sequence_len,
            "checkpointing": bool(
                own.gradient_checkpointing
                or (own.fsdp_config and own.fsdp_config.activation_checkpointing)
            ),
            **(dict(_optimizer(own.optimizer)) if own.optimizer else {}),
        }
        if own.adapter is None or adapter:
            method = "full" if adapter is None else "qlora" if bits else "lora"
            held["method"] = method
        if adapter:
            held |= {"rank": own.lora_r, "alpha": own.lora_alpha}
            compares = getattr(own.rl, "value", own.rl) in ("dpo", "ipo")  # by TRL's trainer
            held["dropout"] = 0.0 if compares else own.lora_dropout or 0.0
            if own.lora_modules_to_save:
                held["modules_to_save"] = _names(own.lora_modules_to_save)
            if own.lora_target_linear:
                held["targets"] = "all-linear"
            elif isinstance(own.lora_target_modules, list):
                held["targets"] = _names(own.lora_target_modules)
            held["use_dora"] = bool(own.peft_use_dora)
            on = own.lora_mlp_kernel or own.lora_qkv_kernel or own.lora_o_kernel
            held["lora_kernels"] = "axolotl" if on else "peft"
        is_alone = not (own.fsdp or own.fsdp_config or own.deepspeed)
        is_prepared = own.activation_offloading and adapter and bits and is_alone
        if (own.gradient_checkpointing_kwargs or {}).get("use_reentrant") is not None:
            held["use_reentrant"] = own.gradient_checkpointing_kwargs["use_reentrant"]
            held["use_reentrant"] |= bool(is_prepared)  # by PEFT, and nobody asks again
        kernel = own.attn_implementation
        if kernel in _KERNELS:
            held["attention"] = _KERNELS[kernel]
        if own.val_set_size and str(own.eval_strategy) != "no":
            held["eval_batch_size"] = own.eval_batch_size or own.micro_batch_size
        if own.bf16 is True and not (own.fsdp_config or own.deepspeed):
            held["precision"] = "amp"
        if getattr(own, "cut_cross_entropy", None):
            held["loss"] = "cce"
        held["images"] = 1 if own.processor_type else None
        return held

    return parse


def _llamafactory() -> Callable[[Mapping[str, Any]], Held]:
    from llamafactory.hparams import (  # type: ignore[import-not-found]
        DataArguments,
        FinetuningArguments,
        ModelArguments,
        TrainingArguments,
    )
    from transformers import HfArgumentParser

    parser: Any = HfArgumentParser(
        [ModelArguments, DataArguments, TrainingArguments, FinetuningArguments]
    )

    def parse(raw: Mapping[str, Any]) -> Held:
        own = {k: v for k, v in raw.items() if k not in ("deepspeed", "fsdp_config")}
        model, data, training, tuning, *_ = parser.parse_dict(
            {**own, "use_cpu": True}, allow_extra_keys=True
        )
        pairs = 2 if tuning.stage == "rm" else 1  # a batch of --trainer llamafactory-dpo is pairs
        held: Held = {
            "batch_size": training.per_device_train_batch_size * pairs,
            "accumulation": training.gradient_accumulation_steps,
            "seq_len": data.cutoff_len,
            "checkpointing": not model.disable_gradient_checkpointing,
            "use_reentrant": model.use_reentrant_gc,
            **dict(_optimizer(training.optim)),
        }
        if tuning.use_adam_mini:
            held |= {"optimizer": "adam_mini", "optimizer_impl": "foreach"}
        if "image_max_pixels" in raw:
            held["image_size"] = "x".join([str(isqrt(model.image_max_pixels))] * 2)
        if tuning.finetuning_type in ("lora", "full"):
            bits = model.quantization_bit in (4, 8)
            full = tuning.finetuning_type == "full"
            held["method"] = "full" if full else "qlora" if bits else "lora"
        if tuning.finetuning_type == "lora":
            held |= {"rank": tuning.lora_rank, "alpha": tuning.lora_alpha}
            held["dropout"] = 0.0 if tuning.stage == "dpo" else tuning.lora_dropout
            targets = tuning.lora_target
            held["targets"] = "all-linear" if targets == ["all"] else _names(targets)
            held["use_dora"] = tuning.use_dora
        if data.val_size or data.eval_dataset:
            held["eval_batch_size"] = training.per_device_eval_batch_size
        held["kernels"] = "liger" if model.enable_liger_kernel else "transformers"
        if str(getattr(model.flash_attn, "value", model.flash_attn)) == "fa2":
            held["attention"] = "flash_attention_2"
        return held

    return parse


def _trl() -> Callable[[Mapping[str, Any]], Held]:
    import trl  # type: ignore[import-not-found]

    def parse(raw: Mapping[str, Any]) -> Held:
        config = trl.DPOConfig if "beta" in raw else trl.SFTConfig
        parser = trl.TrlParser((config, trl.ModelConfig))
        own = {k: v for k, v in raw.items() if k != "use_liger_kernel"}
        lengths = {"max_length": own["max_seq_length"]} if "max_seq_length" in own else {}
        training, model, *_ = parser.parse_dict(
            {**own, **lengths, "use_cpu": True, "output_dir": "x"}, allow_extra_keys=True
        )
        held: Held = {
            "batch_size": training.per_device_train_batch_size,
            "accumulation": training.gradient_accumulation_steps,
            "seq_len": training.max_length,
            "checkpointing": training.gradient_checkpointing,
            "precision": "amp" if training.bf16 else "amp-float16" if training.fp16 else "pure",
            **dict(_optimizer(training.optim)),
        }
        bits = model.load_in_4bit or model.load_in_8bit
        held["method"] = "full" if not model.use_peft else "qlora" if bits else "lora"
        if model.use_peft:
            held |= {"rank": model.lora_r, "alpha": model.lora_alpha}
            is_off = getattr(training, "disable_dropout", False)
            held["dropout"] = 0.0 if is_off else model.lora_dropout
            if model.lora_target_modules:
                held["targets"] = _names(model.lora_target_modules)
        if (training.gradient_checkpointing_kwargs or {}).get("use_reentrant") is not None:
            held["use_reentrant"] = training.gradient_checkpointing_kwargs["use_reentrant"]
        if model.attn_implementation in _KERNELS:
            held["attention"] = _KERNELS[model.attn_implementation]
        if str(getattr(training.eval_strategy, "value", training.eval_strategy)) != "no":
            held["eval_batch_size"] = training.per_device_eval_batch_size
        return held

    return parse


PARSERS: Mapping[str, Callable[[], Callable[[Mapping[str, Any]], Held]]] = {
    "axolotl": _axolotl,
    "llamafactory": _llamafactory,
    "trl": _trl,
}

if __name__ == "__main__":
    main()
