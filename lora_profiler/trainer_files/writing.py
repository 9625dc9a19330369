"""A question as a trainer's file that trains it, keys or a short script, with the command that
starts it. What is written is read again: the file is only given out where it is the same
question."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler._common.messages import printable
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.stacks.stack import find_stack
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.feature import has_file, names, part
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.support.bases import is_packed_base
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    Method,
    Quantization,
    Sharding,
    TrainSetup,
    Workload,
    setup_dict,
)
from lora_profiler.trainer_files.document import Document, Entry, parse
from lora_profiler.trainer_files.reading import read_document
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model, usual_options

# --- what files are written with ------------------------------------------------------------------

# What files of several trainers are written with: keys of the question, the launcher's file, and
# how the run is started. A trainer's own keys are in `features/trainers/*/written.py`.

Keys = dict[str, Any]
ATTENTION = {"auto": "sdpa", "flash_attention_2": "flash_attention_2", "eager": "eager"}
DATASET = "tatsu-lab/alpaca"


def optim_key(setup: TrainSetup) -> str | None:
    """`TrainingArguments.optim`, None where the Trainer has no name for it."""
    facts, is_fused = optimizer_facts(setup.optimizer), setup.optimizer_impl == "fused"
    if not facts.optim or setup.optimizer_impl == "forloop" or (is_fused and not facts.has_fused):
        return None
    if is_fused:
        return f"{facts.optim}_fused" if setup.optimizer == "adamw" else None
    return facts.optim


def is_int8(base: Quantization | None) -> bool:
    return base is not None and base.quant_type == "int8"


def is_bf16(setup: TrainSetup) -> bool:
    """Whether the trainer's switch is on, which DeepSpeed and FSDP make something else of than
    autocast."""
    if setup.sharding in DEEPSPEED_ZERO:
        return setup.dtype == "bfloat16"
    return setup.precision in ("amp", "fsdp-mixed")


def is_pure_bf16(setup: TrainSetup) -> bool:
    is_pure = setup.precision == "pure" and setup.dtype == "bfloat16"
    return is_pure and setup.sharding not in DEEPSPEED_ZERO


def training_arguments(setup: TrainSetup) -> Keys:
    """TrainingArguments."""
    return {
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "optim": optim_key(setup),
        "bf16": is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "label_smoothing_factor": setup.label_smoothing_factor or None,
        "eval_strategy": "no" if setup.eval_batch_size is None else "epoch",
        "per_device_eval_batch_size": setup.eval_batch_size,
        "learning_rate": 0.0002,
        "num_train_epochs": 1,
        "output_dir": "outputs",
    }


def _typed(option: str, value: Any) -> str:
    """The option as the command line has it."""
    if isinstance(value, list):
        value = ",".join(map(str, value)) or "none"
    return f"{flag(option)} {value}"


def cannot(title: str, option: str, value: Any) -> UsageError:
    return UsageError(
        f"{title} configs cannot express {_typed(option, value)}; leave it out, or write"
        " another trainer's."
    )


def listed(value: str | tuple[str, ...] | tuple[int, ...] | None) -> list[Any] | str | None:
    return list(value) or None if isinstance(value, tuple) else value


def short(number: float) -> float:
    """A whole number as one, which is how people write it."""
    return int(number) if number == int(number) else number


# --- launchers ------------------------------------------------------------------------------------


FSDP: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
SHARDINGS: tuple[Sharding, ...] = ("ddp", *FSDP, *DEEPSPEED_ZERO)
"""Those that the launchers' files name."""


class Launch(NamedTuple):
    """keys: of the trainer's file; beside: the text of another file, by its name; told: what the
    launcher's arguments say, as accelerate's keys; command: what starts it."""

    keys: Mapping[str, Any]
    beside: Mapping[str, str]
    told: Mapping[str, Entry]
    command: str


def by_accelerate(setup: TrainSetup, file: str, command: str) -> Launch:
    """accelerate's own file says how the model is shared. `command` has its name in place of {}."""
    other = f"{stem(file)}.accelerate.yaml"
    return Launch({}, {other: _accelerate(setup)}, {}, command.replace("{}", other))


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
        content["deepspeed_config"] = {
            "zero_stage": stage,
            "zero3_init_flag": stage == 3,
            "offload_optimizer_device": setup.offload_optimizer_device,
            "offload_param_device": setup.offload_param_device,
        }
    elif setup.sharding in FSDP:
        content["distributed_type"] = "FSDP"
        content["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": setup.sharding == "fsdp",
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_offload_params": setup.offload_params,
        }
    return str(yaml.safe_dump(content, sort_keys=False))


def told(**values: Any) -> dict[str, Entry]:
    return {key: Entry(key, value, 0) for key, value in values.items()}


def stem(file: str) -> str:
    return file.rpartition(".")[0] or file


# --- a question as a file -------------------------------------------------------------------------


@cache
def writers() -> tuple[str, ...]:
    """Trainers whose files are written."""
    return tuple(name for name in names("trainers") if has_file("trainers", name, "written"))


def _written(name: str, needed: str) -> Any:
    return part("trainers", name, "written", needed)


def shardings_of(name: str) -> tuple[Sharding, ...]:
    """Those that the files of the trainer called `name` say."""
    found: tuple[Sharding, ...] = _written(name, "SHARDINGS") or SHARDINGS
    return found


def launch(name: str, setup: TrainSetup, file: str) -> Launch:
    """Of the trainer called `name`, whose own file is `file`. Raises UsageError for a sharding that
    no such file says."""
    if setup.is_shared and setup.sharding not in (known := shardings_of(name)):
        raise UsageError(
            f"a file of {name} trains on several GPUs with --sharding {' or '.join(known)} only;"
            " add it, or name one GPU."
        )
    started: Launch = _written(name, "launch")(setup, file)
    return started


def trainer_of(name: str) -> str | None:
    """The trainer whose file is called `name`, where a question names none; None where a file says
    all that a question does."""
    trainer: str | None = _written(name, "TRAINER")
    return trainer


def guide_of(name: str, method: Method) -> Mapping[str, Any]:
    """What guides pass to the trainer of the file called `name` in place of its defaults."""
    trainer = trainer_of(name)
    return find_stack(trainer).guide.get(method, {}) if trainer else {}


def changed_keys(trainer: str, before: Workload, after: Workload) -> dict[str, Any]:
    """What to change in a file of the trainer so that it trains `after` in place of `before`; empty
    where its files cannot say that, or have no keys."""
    name = next((name for name in writers() if trainer_of(name) == trainer), None)
    if name is None:
        return {}
    keys = _written(name, "keys")
    if keys is None:
        return {}
    values, others = setup_dict(before.setup), setup_dict(after.setup)
    differing = [option for option in values if values[option] != others[option]]
    try:
        old, new = keys(before), keys(after)
        if not _is_read_back(name, after, differing):
            return {}
    except UsageError:
        return {}
    changed = {key: new.get(key) for key in {**new, **old} if new.get(key) != old.get(key)}
    off = {key: False for key, value in changed.items() if value is None and old[key] is True}
    return {} if None in (changed | off).values() else changed | off


def suffix_of(name: str) -> str:
    """How the name of a file of the trainer called `name` ends."""
    return ".yaml" if _written(name, "keys") else ".py"


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
    if name not in writers():
        raise UsageError(
            f"--write: unknown trainer {name[:40]}.{did_you_mean(name, writers())}"
            f" Supported: {', '.join(writers())}"
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
    named = [_typed(option, values[option]) for option in fixed or wrong]
    if file.model != workload.model.id:
        named.append(f"MODEL {workload.model.id}")
    raise UsageError(
        f"{file.title} configs cannot express {', '.join(named) or '; '.join(lost)}."
        f" {_other_writer(name, workload, given)}"
    )


def _other_writer(name: str, workload: Workload, given: Collection[str] | None) -> str:
    """The first other trainer that expresses the question, as something to type."""
    for other in writers():
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
    script = _written(name, "script")
    text = head + (script(workload) if script else _yaml(name, workload, started.keys))
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

    keys = {**_written(name, "keys")(workload), **more}
    own = {key: value for key, value in keys.items() if value is not None}
    text = yaml.safe_dump(own, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return str(text)


def _document(text: str, name: str, file_name: str) -> Document:
    """The file's text as it is read."""
    if not _written(name, "script"):
        if not file_name.endswith((".yaml", ".yml")):
            raise UsageError(f"what {name} trains is YAML; its name ends in {suffix_of(name)}.")
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
        taken = [_typed(n, own[n]) for n, v in read.items() if n in own and own[n] != v]
        raise UsageError(f"{file.title} configs cannot express {', '.join(taken)}: {e}") from e
    values = setup_dict(replace(setup, loop_state=back.setup.loop_state))
    others = setup_dict(back.setup)
    return back, [name for name in values if values[name] != others[name]]
