"""A question as a trainer's file that trains it, keys or a short script, with the command that
starts it. What is written is read again: the file is only given out where it is the same
question."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler._common.printable import printable
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.stacks.stack import find_stack
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.option import flag
from lora_profiler.question.support.bases import is_packed_base
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    Method,
    Sharding,
    TrainSetup,
    Workload,
    setup_dict,
)
from lora_profiler.trainer_files.document import Document, Entry, parse
from lora_profiler.trainer_files.reading import read_document
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model, usual_options
from lora_profiler.trainer_files.written_keys import (
    ATTENTION,
    KEYS,
    cannot,
    is_bf16,
    is_int8,
    optim_key,
    short,
)

_FSDP: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
_SHARDINGS: tuple[Sharding, ...] = ("ddp", *_FSDP, *DEEPSPEED_ZERO)
"""Those that the launchers' files name."""


class Launch(NamedTuple):
    """keys: of the trainer's file; beside: the text of another file, by its name; told: what the
    launcher's arguments say, as accelerate's keys; command: what starts it."""

    keys: Mapping[str, Any]
    beside: Mapping[str, str]
    told: Mapping[str, Entry]
    command: str


def shardings_of(name: str) -> tuple[Sharding, ...]:
    """Those that the files of the trainer called `name` say."""
    return _FSDP if name == "torchtune" else _SHARDINGS


def launch(name: str, setup: TrainSetup, file: str) -> Launch:
    """Of the trainer called `name`, whose own file is `file`. Raises UsageError for a sharding that
    no such file says."""
    ranks = setup.world_size
    if not setup.is_shared:
        return Launch({}, {}, {}, _on_one(name, setup, file))
    if setup.sharding not in (known := shardings_of(name)):
        raise UsageError(
            f"no file of {name} is written for --sharding {setup.sharding}; take one of"
            f" {', '.join(known)}."
        )
    if name == "torchtune":
        return _torchtune(setup, file)
    if name == "axolotl":
        keys, beside = _axolotl(setup, file)
        command = f"axolotl train {file} --launcher torchrun -- --nproc_per_node={ranks}"
        return Launch(keys, beside, _told(num_processes=ranks), command)
    other = f"{_stem(file)}.accelerate.yaml"
    starts = f"accelerate launch --config_file {other}"
    commands = {
        "trl": f"trl sft --config {file} --accelerate_config {other}",
        "llamafactory": f"{starts} src/train.py {file}",
        "peft": f"{starts} {file}",
    }
    return Launch({}, {other: _accelerate(setup)}, {}, commands[name])


def _on_one(name: str, setup: TrainSetup, file: str) -> str:
    recipe = f"{'full' if setup.lora is None else 'lora'}_finetune_single_device"
    commands = {
        "axolotl": f"axolotl train {file}",
        "trl": f"trl sft --config {file}",
        "llamafactory": f"llamafactory-cli train {file}",
        "torchtune": f"tune run {recipe} --config {file}",
        "peft": f"python {file}",
    }
    return commands[name]


def _torchtune(setup: TrainSetup, file: str) -> Launch:
    """Its recipes of several GPUs share by FSDP2 alone (torchtune 0.6, recipes/)."""
    recipe = f"{'full' if setup.lora is None else 'lora'}_finetune_distributed"
    return Launch(
        keys={"fsdp_reshard_after_forward": setup.sharding == "fsdp"},
        beside={},
        told=_told(num_processes=setup.world_size),
        command=f"tune run --nproc_per_node {setup.world_size} {recipe} --config {file}",
    )


def _axolotl(setup: TrainSetup, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Its own file says how the model is shared."""
    if setup.sharding in DEEPSPEED_ZERO:
        other = f"{_stem(file)}.deepspeed.json"
        content: dict[str, Any] = {
            "zero_optimization": {"stage": DEEPSPEED_ZERO.index(setup.sharding) + 1},
            "bf16": {"enabled": "auto"},
            "fp16": {"enabled": "auto"},
            "train_micro_batch_size_per_gpu": "auto",
            "train_batch_size": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
        }
        return {"deepspeed": other}, {other: json.dumps(content, indent=2) + "\n"}
    if setup.sharding == "ddp":
        return {}, {}
    config = {
        "reshard_after_forward": setup.sharding == "fsdp",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
        "offload_params": setup.offload_params,
    }
    return {"fsdp_version": 2, "fsdp_config": config}, {}


def _accelerate(setup: TrainSetup) -> str:
    import yaml

    content: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_machines": 1,
        "num_processes": setup.world_size,
    }
    if setup.sharding in DEEPSPEED_ZERO:
        content["distributed_type"] = "DEEPSPEED"
        stage = DEEPSPEED_ZERO.index(setup.sharding) + 1
        content["deepspeed_config"] = {"zero_stage": stage, "zero3_init_flag": stage == 3}
    elif setup.sharding in _FSDP:
        content["distributed_type"] = "FSDP"
        content["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": setup.sharding == "fsdp",
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_offload_params": setup.offload_params,
        }
    return str(yaml.safe_dump(content, sort_keys=False))


def _told(**values: Any) -> dict[str, Entry]:
    return {key: Entry(key, value, 0) for key, value in values.items()}


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file


SCRIPT = "peft"
WRITERS = (*KEYS, SCRIPT)
"""Trainers whose files are written."""


_TRAINERS = {
    "axolotl": "axolotl",
    "trl": "trl-sft",
    "llamafactory": "llamafactory",
    "torchtune": "torchtune",
}


def trainer_of(name: str) -> str | None:
    """The trainer whose file is called `name`, where a question names none; None where a file says
    all that a question does."""
    return _TRAINERS.get(name)


def guide_of(name: str, method: Method) -> Mapping[str, Any]:
    """What guides pass to the trainer of the file called `name` in place of its defaults."""
    trainer = trainer_of(name)
    return find_stack(trainer).guide.get(method, {}) if trainer else {}


def changed_keys(trainer: str, before: Workload, after: Workload) -> dict[str, Any]:
    """What to change in a file of the trainer so that it trains `after` in place of `before`; empty
    where its files cannot say that, or have no keys."""
    name = next((name for name, of in _TRAINERS.items() if of == trainer), "")
    if name not in KEYS:
        return {}
    values, others = setup_dict(before.setup), setup_dict(after.setup)
    differing = [option for option in values if values[option] != others[option]]
    try:
        old, new = KEYS[name](before), KEYS[name](after)
        if not _is_read_back(name, after, differing):
            return {}
    except UsageError:
        return {}
    changed = {key: new.get(key) for key in {**new, **old} if new.get(key) != old.get(key)}
    off = {key: False for key, value in changed.items() if value is None and old[key] is True}
    return {} if None in (changed | off).values() else changed | off


def suffix_of(name: str) -> str:
    """How the name of a file of the trainer called `name` ends."""
    return ".py" if name == SCRIPT else ".yaml"


class Written(NamedTuple):
    """The files of a training run by name, the trainer's own first, the question that they are, and
    the command that starts them."""

    texts: Mapping[str, str]
    workload: Workload
    command: str


def written(name: str, workload: Workload, file_name: str) -> str:
    """The text of the one file that is the question, for the trainer called `name`.

    Raises UsageError for a trainer that is not known, and for a question that its files cannot say,
    with the options that they cannot.
    """
    if workload.setup.is_shared:
        raise UsageError(
            "one file cannot set the number of GPUs; `lora-profile predict ... --write` writes the"
            " launcher's file too."
        )
    return written_files(name, workload, file_name).texts[file_name]


def written_files(
    name: str, workload: Workload, file_name: str, given: Collection[str] | None = None
) -> Written:
    """The files that train the question, for the trainer called `name`. Of the options that are not
    among those `given` (None: all are) the trainer's own make another question, which is then the
    one that is returned: what reading the files gives.

    Raises UsageError for a trainer that is not known, and for a question that its files cannot say,
    with the options that they cannot.
    """
    if name not in WRITERS:
        known = ", ".join(WRITERS)
        raise UsageError(
            f"--write: unknown trainer {name[:40]}.{did_you_mean(name, WRITERS)} Supported: {known}"
        )
    setup = workload.setup
    if is_packed_base(setup):
        raise UsageError(
            "--write does not support checkpoints of GPTQ, AWQ, FP8 or HQQ; each trainer loads"
            " them with its own keys."
        )
    for _ in range(_MOST_READINGS):
        texts, documents, command = _texts(name, workload, file_name)
        file = on_model(read_document(documents[0], name, documents[1:]), workload.model)
        back, wrong = _read_back(file, workload)
        lost = [key.missing for key in file.not_modelled]
        if not wrong and not lost and file.model == workload.model.id:
            return Written(texts, back, command)
        fixed = [option for option in wrong if given is None or option in given]
        if fixed or lost or file.model != workload.model.id:
            break
        workload = back
    values = setup_dict(workload.setup)
    named = [f"{flag(option)} {values[option]}" for option in fixed or wrong]
    if file.model != workload.model.id:
        named.append(f"MODEL {workload.model.id}")
    raise UsageError(
        f"{file.title} configs cannot express {', '.join(named) or '; '.join(lost)}."
        f" {_other_writer(name, workload, given)}"
    )


def _other_writer(name: str, workload: Workload, given: Collection[str] | None) -> str:
    """The first other trainer that expresses the question, as something to type."""
    for other in WRITERS:
        with suppress(UsageError):
            if other != name and _is_read_back(other, workload, given):
                return f"Try: `--write {other} FILE`"
    return "Leave it out."


def _is_read_back(name: str, workload: Workload, given: Collection[str] | None) -> bool:
    _, documents, _ = _texts(name, workload, f"x{suffix_of(name)}")
    file = on_model(read_document(documents[0], name, documents[1:]), workload.model)
    _, wrong = _read_back(file, workload)
    return not file.not_modelled and not [o for o in wrong if given is None or o in given]


_MOST_READINGS = 2
"""As asked, and as the trainer's own make of it."""


def _texts(
    name: str, workload: Workload, file_name: str
) -> tuple[dict[str, str], list[Document], str]:
    """The files' texts by name, the documents that they are read as, and the command."""
    setup = workload.setup
    started = launch(name, setup, file_name)
    # a model's name is a folder's, which may hold line breaks
    head = f"# {setup.method} fine-tuning of {printable(workload.model.id)}\n"
    if started.beside or started.told:
        head += f"# {started.command}\n"
    if setup.packed is not None:
        head += (
            f"# the length of packed sequences is the data's: read with --packed {setup.packed}\n"
        )
    text = head + (script(workload) if name == SCRIPT else _yaml(name, workload, started.keys))
    beside = [
        parse(other, other_name, None, is_json=other_name.endswith(".json"))
        for other_name, other in started.beside.items()
    ]
    if started.told:
        beside.append(Document("the command", started.told, None))
    document = _document(text, name, file_name)
    if "deepspeed" in started.keys:  # which is beside it, not yet on the disk
        entries = {key: e for key, e in document.entries.items() if key != "deepspeed"}
        document = replace(document, entries=entries)
    return {file_name: text, **started.beside}, [document, *beside], started.command


def _yaml(name: str, workload: Workload, more: Mapping[str, Any]) -> str:
    import yaml

    keys = {**KEYS[name](workload), **more}
    own = {key: value for key, value in keys.items() if value is not None}
    text = yaml.safe_dump(own, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return str(text)


def _document(text: str, name: str, file_name: str) -> Document:
    """The file's text as it is read."""
    if name != SCRIPT:
        return parse(text, file_name, Path(), is_json=False)
    from lora_profiler.trainer_files.scripts import parse_calls

    if not file_name.endswith(suffix_of(name)):
        raise UsageError(f"what {name} trains is a script; its name ends in {suffix_of(name)}.")
    return parse_calls(text, file_name, None)


def _read_back(file: TrainerFile, workload: Workload) -> tuple[Workload, list[str]]:
    """The question that the file is, and the options in which it is another than `workload`'s. What
    a loop itself keeps is the trainer's own, whatever was asked.

    Raises UsageError for a file that is no question.
    """
    setup = workload.setup
    given = {} if setup.packed is None else {"packed": setup.packed}
    options = {**file.completing(given), **given}
    try:
        (back,) = workloads(
            workload.model,
            {**DEFAULTS, **options},
            set(options),
            workload.platform,
            find_stack(file.stack),
        )
    except UsageError as e:  # what the trainer takes beside goes with something asked for no more
        read, own = {**usual_options(file.stack, options), **options}, setup_dict(setup)
        taken = [f"{flag(n)} {own[n]}" for n, v in read.items() if n in own and own[n] != v]
        raise UsageError(f"{file.title} configs cannot express {', '.join(taken)}: {e}") from e
    values = setup_dict(replace(setup, loop_state=back.setup.loop_state))
    others = setup_dict(back.setup)
    return back, [name for name in values if values[name] != others[name]]


# --- as a short script: transformers' Trainer, with PEFT's adapters -------------------------------


_STEPS = 100
_WIDTH = 99


class _Code(str):
    """An expression, written as it is."""


def script(workload: Workload) -> str:
    """The script's text. Its data are rows of random tokens, each as long as was asked, in place of
    one's own. Raises UsageError for options that no such script says."""
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    _check(setup)
    peft = [
        *(["LoraConfig", "get_peft_model"] if lora else []),
        *(["prepare_model_for_kbit_training"] if base and base.recipe == "kbit" else []),
    ]
    classes = [
        "AutoModelForCausalLM",
        *(["BitsAndBytesConfig"] if base else []),
        "Trainer",
        "TrainingArguments",
    ]
    lines = [
        "import torch",
        *([f"from peft import {', '.join(peft)}"] if peft else []),
        f"from transformers import {', '.join(classes)}",
        "",
        f"MAX_LENGTH = {setup.seq_len}",
        "",
        *_assigned("model", "AutoModelForCausalLM.from_pretrained", _loading(workload)),
    ]
    if base is not None and base.recipe == "kbit":
        prepared = {
            "": _Code("model"),
            "use_gradient_checkpointing": setup.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        }
        lines += _assigned("model", "prepare_model_for_kbit_training", prepared)
    if lora is not None:
        lines += _assigned("adapter", "LoraConfig", _adapter(setup))
        narrow = ", autocast_adapter_dtype=False" if lora.adapter_dtype != "float32" else ""
        lines.append(f"model = get_peft_model(model, adapter{narrow})")
        if setup.is_reentrant:
            lines.append("model.enable_input_require_grads()")
    rows = setup.batch_size * setup.accumulation
    lines += [
        *_assigned("arguments", "TrainingArguments", _arguments(setup)),
        "",
        "",
        "def rows(count: int) -> list:",
        '    """Random tokens: put your own data in their place."""',
        "    vocabulary = model.get_input_embeddings().num_embeddings",
        "    tokens = torch.randint(0, vocabulary, (count, MAX_LENGTH))",
        '    return [{"input_ids": row, "labels": row} for row in tokens]',
        "",
        "",
        *_assigned("trainer", "Trainer", _trainer(setup, 4 * rows)),
        "trainer.train()",
    ]
    return "\n".join(lines) + "\n"


def _check(setup: TrainSetup) -> None:
    """What reading the script back would not notice."""
    if setup.packed is not None:
        raise cannot("PEFT", "packed", setup.packed)
    if setup.padding:
        raise cannot("PEFT", "padding", setup.padding)


def _loading(workload: Workload) -> dict[str, Any]:
    setup, base = workload.setup, workload.setup.quantization
    arguments: dict[str, Any] = {
        "": workload.model.id,
        "dtype": _Code(f"torch.{setup.dtype}"),
        "attn_implementation": ATTENTION.get(setup.attention),
    }
    if arguments["attn_implementation"] is None:
        raise cannot("PEFT", "attention", setup.attention)
    if base is None:
        return arguments
    quantized: dict[str, Any] = {"load_in_8bit": True}
    if not is_int8(base):
        quantized = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": base.quant_type,
            "bnb_4bit_use_double_quant": base.double_quant,
            "bnb_4bit_compute_dtype": _Code(f"torch.{setup.dtype}"),
        }
    config = _call("BitsAndBytesConfig", quantized, indent=4)
    return arguments | {"quantization_config": _Code(config), "device_map": {"": 0}}


def _adapter(setup: TrainSetup) -> dict[str, Any]:
    lora = setup.lora
    assert lora is not None
    names = lora.target_modules
    return {
        "task_type": "CAUSAL_LM",
        "r": lora.r,
        "lora_alpha": short(lora.alpha),
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(names) if isinstance(names, tuple) else names,
        "target_parameters": list(lora.target_parameters) or None,
        "layers_to_transform": list(lora.layers_to_transform) or None,
        "modules_to_save": list(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora or None,
        "use_dora": lora.use_dora or None,
    }


def _arguments(setup: TrainSetup) -> dict[str, Any]:
    evaluated = setup.eval_batch_size
    return {
        "output_dir": "outputs",
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "bf16": is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "optim": optim_key(setup),
        "use_liger_kernel": setup.kernels == "liger" or None,
        "label_smoothing_factor": setup.label_smoothing_factor or None,
        "eval_strategy": "no" if evaluated is None else "steps",
        "eval_steps": None if evaluated is None else 1,
        "per_device_eval_batch_size": evaluated,
        "learning_rate": 2e-4,
        "max_steps": _STEPS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": setup.device == "cpu" or None,
    }


def _trainer(setup: TrainSetup, rows: int) -> dict[str, Any]:
    arguments = {
        "model": _Code("model"),
        "args": _Code("arguments"),
        "train_dataset": _Code(f"rows({rows})"),
    }
    if setup.eval_batch_size is not None:
        arguments["eval_dataset"] = _Code(f"rows({2 * setup.eval_batch_size})")
    return arguments


def _assigned(name: str, function: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    yield from f"{name} = {_call(function, arguments)}".split("\n")


def _call(function: str, arguments: Mapping[str, Any], indent: int = 0) -> str:
    """A call, in one line where there is room; the argument of no name stands first."""
    words = [
        (f"{key}=" if key else "") + (value if isinstance(value, _Code) else _text(value))
        for key, value in arguments.items()
        if value is not None
    ]
    line = f"{function}({', '.join(words)})"
    if "\n" not in line and len(line) + indent + 16 <= _WIDTH:
        return line
    inner, outer = " " * (indent + 4), " " * indent
    return "\n".join([f"{function}(", *(f"{inner}{word}," for word in words), f"{outer})"])


def _text(value: Any) -> str:
    """A literal, texts in double quotes."""
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(k)}: {_text(v)}' for k, v in value.items())}}}"
    return repr(value)
