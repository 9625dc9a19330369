"""`tune run [torchrun's options] RECIPE --config FILE [KEY=VALUE ...]`. Source: torchtune 0.6
`_cli/run.py`, `config/_parse.py`."""

from collections.abc import Mapping, Sequence

from lora_profiler.trainer_files.commands import Arguments, Started, Word, assigned
from lora_profiler.trainer_files.document import Entry, TrainerFileError


def _begins(words: Sequence[Word], first: int, name: str) -> int:
    for n in range(first + 1, len(words)):
        if words[n].text.partition("=")[0] == "--config":
            return n
    raise TrainerFileError(f"{name}: `tune run RECIPE` names no file; add --config FILE.")


def _reads(words: Sequence[Word], name: str) -> Arguments:
    _, equals, file = words[0].text.partition("=")
    if not equals and len(words) == 1:
        raise TrainerFileError(f"{name}: --config names no file.")
    return Arguments(file or words[1].text, list(assigned(words[1 if equals else 2 :], name)))


def _assumed(recipe: Word) -> Mapping[str, Entry]:
    """Recipes of several GPUs share the model by FSDP2, unless the file says otherwise."""
    key = "fsdp_reshard_after_forward"
    return {key: Entry(key, True, recipe.line)} if "distributed" in recipe.text else {}


STARTED = Started(
    framework="torchtune", words=(("tune", "run"),), begins=_begins, reads=_reads, assumed=_assumed
)
