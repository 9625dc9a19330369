"""A question as a trainer's file that trains it. What is written is read again: the file is only
given out where it is the same question."""

from dataclasses import replace
from pathlib import Path

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.option import flag
from lora_profiler.planning.setups import DEFAULTS, setups
from lora_profiler.stacks.find import find_stack
from lora_profiler.support.bases import is_packed_base
from lora_profiler.trainer_files.document import Document, parse
from lora_profiler.trainer_files.reading import read_document
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model, usual_options
from lora_profiler.trainer_files.written_keys import KEYS
from lora_profiler.workload import Workload, setup_dict

SCRIPT = "peft"
WRITERS = (*KEYS, SCRIPT)
"""Trainers whose files are written."""


def suffix_of(name: str) -> str:
    """How the name of a file of the trainer called `name` ends."""
    return ".py" if name == SCRIPT else ".yaml"


def written(name: str, workload: Workload, file_name: str) -> str:
    """The file's text, for the trainer called `name`.

    Raises UsageError for a trainer that is not known, and for a question that its files cannot say,
    with the options that they cannot.
    """
    if name not in WRITERS:
        known = ", ".join(WRITERS)
        raise UsageError(
            f"no file of {name[:40]!r} is written; accepted: {known}.{did_you_mean(name, WRITERS)}"
        )
    setup = workload.setup
    if setup.is_shared:
        raise UsageError(
            "a trainer's file does not say how many ranks train: its launcher does; leave out"
            " --world-size and --sharding to write one."
        )
    if is_packed_base(setup):
        raise UsageError(
            "no file is written for a checkpoint of GPTQ, AWQ, FP8 or HQQ: trainers load it by"
            " name, each with keys of its own."
        )
    text, document = (_script if name == SCRIPT else _keys)(name, workload, file_name)
    _check_same(read_document(document, name), workload)
    note = ""
    if setup.packed is not None:
        note = (
            f"# the length of packed sequences is the data's: read with --packed {setup.packed}\n"
        )
    return f"# {setup.method} fine-tuning of {workload.model.id}\n{note}{text}"


def _keys(name: str, workload: Workload, file_name: str) -> tuple[str, Document]:
    import yaml

    own = {key: value for key, value in KEYS[name](workload).items() if value is not None}
    text = yaml.safe_dump(own, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return text, parse(text, file_name, Path(), is_json=False)


def _script(name: str, workload: Workload, file_name: str) -> tuple[str, Document]:
    from lora_profiler.trainer_files.notebook import parse_calls
    from lora_profiler.trainer_files.written_script import script

    if not file_name.endswith(suffix_of(name)):
        raise UsageError(f"what {name} trains is a script; its name ends in {suffix_of(name)}.")
    text = script(workload)
    return text, parse_calls(text, file_name, None)


def _check_same(file: TrainerFile, workload: Workload) -> None:
    """Raises UsageError unless the file is the question of `workload`. What a loop itself keeps is
    the trainer's own, whatever was asked."""
    setup = workload.setup
    given = {} if setup.packed is None else {"packed": setup.packed}
    fitted = on_model(file, workload.model)
    options = {**fitted.beside(given), **given}
    try:
        (back,) = setups(
            workload.model,
            {**DEFAULTS, **options},
            set(options),
            workload.platform,
            find_stack(file.stack),
        )
    except UsageError as e:  # what the trainer takes beside goes with something asked for no more
        read, own = {**usual_options(file.stack, options), **options}, setup_dict(setup)
        taken = [f"{flag(n)} {own[n]}" for n, v in read.items() if n in own and own[n] != v]
        raise UsageError(f"a file of {file.title} cannot say {', '.join(taken)}: {e}") from e
    lost = [key.missing for key in fitted.not_modelled]
    values = setup_dict(replace(setup, loop_state=back.loop_state))
    others = setup_dict(back)
    wrong = [f"{flag(name)} {values[name]}" for name in values if values[name] != others[name]]
    if file.model != workload.model.id:
        wrong.append(f"MODEL {workload.model.id}")
    if not wrong and not lost:
        return
    raise UsageError(
        f"a file of {file.title} cannot say {', '.join(wrong) or '; '.join(lost)}; ask without, or"
        " write another trainer's."
    )
