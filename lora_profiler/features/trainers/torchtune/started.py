"""`tune run [torchrun's options] RECIPE --config FILE [KEY=VALUE ...]`. Source: torchtune 0.6
`_cli/run.py`, `config/_parse.py`."""

import re
from collections.abc import Mapping, Sequence

from lora_profiler.trainer_files.commands import Arguments, Started, Word, assigned, trains_nothing
from lora_profiler.trainer_files.document import Entry, TrainerFileError

_COMPONENTS = (
    "model", "tokenizer", "checkpointer", "dataset", "optimizer", "lr_scheduler", "loss",
    "metric_logger", "profiler",
)  # fmt: skip


_IDLE = r"(generate|eleuther_eval|quantize)\w*"
"""Recipes that train nothing."""


def _begins(words: Sequence[Word], first: int, name: str) -> int:
    recipe = next((w.text for w in words[first:] if re.fullmatch(_IDLE, w.text)), None)
    if recipe is not None:
        raise trains_nothing(f"tune run {recipe}", name)
    for n in range(first + 1, len(words)):
        if words[n].text.partition("=")[0] == "--config":
            return n
    raise TrainerFileError(f"{name}: `tune run RECIPE` names no file; add --config FILE.")


def _reads(words: Sequence[Word], name: str) -> Arguments:
    _, equals, file = words[0].text.partition("=")
    if not equals and len(words) == 1:
        raise TrainerFileError(f"{name}: --config names no file.")
    entries = assigned(words[1 if equals else 2 :], name)
    return Arguments(file or words[1].text, [_component(entry) for entry in entries])


def _component(entry: Entry) -> Entry:
    """`optimizer=torch.optim.SGD` names the component (config/_utils.py, _merge_yaml_and_cli)."""
    if entry.key in _COMPONENTS and isinstance(entry.value, str) and "." in entry.value:
        return entry._replace(key=f"{entry.key}._component_")
    return entry


def _assumed(recipe: Word) -> Mapping[str, Entry]:
    """Recipes of several GPUs share the model by FSDP2, unless the file says otherwise."""
    key = "fsdp_reshard_after_forward"
    return {key: Entry(key, True, recipe.line)} if "distributed" in recipe.text else {}


STARTED = Started(
    framework="torchtune", words=(("tune", "run"),), begins=_begins, reads=_reads, assumed=_assumed
)
