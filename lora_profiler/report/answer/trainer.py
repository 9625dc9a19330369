"""Whose loop an answer is about, and what of the question is that trainer's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.report import labels
from lora_profiler.stacks import Trainer
from lora_profiler.units import bytes_text, count_text
from lora_profiler.workload import OPTIONS, Method, Workload

if TYPE_CHECKING:
    from lora_profiler.planning.trainers import TrainerPeak

_NAMED = 8
"""So many of what a trainer sets are named in the short answer."""
BARE_LINE = "for a bare loop, which keeps nothing of the model's output"


def trainer_lines(trainer: Trainer | None, workloads: Sequence[Workload]) -> list[str]:
    """Whose loop it is; what that sets and no option says otherwise, where it is not the command
    line's default; and how rows are laid out, where the model sees others than were asked for."""
    if trainer is None:
        return [BARE_LINE]
    words_of: dict[tuple[Method, ...], list[str]] = {}
    for (name, value), methods in _own(trainer, workloads).items():
        words_of.setdefault(methods, []).append(_words(name, value))
    everywhere = tuple(w.setup.method for w in workloads)
    parts = []
    for methods, words in words_of.items():
        of = " and ".join(labels.METHOD_LABELS[method] for method in methods)
        parts.append(("" if methods == everywhere else f"{of}: ") + ", ".join(words))
    sets = f", which sets {'; '.join(parts)}" if parts else ""
    return [f"{_for(trainer)}{sets}", *_layout(trainer, workloads)]


def short_trainer_lines(trainer: Trainer | None, workloads: Sequence[Workload]) -> list[str]:
    """As `trainer_lines`, in one sentence, with the names alone of what the trainer sets."""
    if trainer is None:
        return [BARE_LINE]
    names = list(dict.fromkeys(_OPTIONS[name].noun for name, _ in _own(trainer, workloads)))
    if len(names) > _NAMED + 1:
        names[_NAMED:] = [f"and {len(names) - _NAMED} more"]
    sets = f", which sets {', '.join(names)}" if names else ""
    return ["; ".join([f"{_for(trainer)}{sets}", *_layout(trainer, workloads)])]


def _for(trainer: Trainer) -> str:
    return f"for {trainer.stack.title} (--trainer {trainer.stack.key})"


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


def _words(name: str, value: Any) -> str:
    words = _WORDS.get(name) or _OPTIONS[name].declared.words
    if isinstance(value, bool):
        return words.split("|")[0 if value else 1]
    text = count_text(value) if isinstance(value, int) else value
    return words.format(f"{value:g}" if isinstance(value, float) else text)


def _layout(trainer: Trainer, workloads: Sequence[Workload]) -> list[str]:
    setup, packing, rows = workloads[0].setup, trainer.stack.packing, trainer.stack.rows
    if rows > 1:
        batch = count_text(setup.batch_size // rows)
        return [f"a batch of {batch} is {count_text(setup.batch_size)} rows of the model"]
    if setup.is_packed and packing is not None and packing.one_row:
        return ["packed rows of a micro-batch are laid end to end, as one row"]
    return []


def peak_lines(peaks: "Sequence[TrainerPeak]") -> list[str]:
    """A heading, and '  trl-sft  8 x 1,024  full 60.65 GiB, LoRA 18.90 GiB' for each trainer."""
    if not peaks:
        return []
    setups = (of_methods[0][0].setup for _, of_methods in peaks)  # of the same size in all methods
    sizes = [f"{count_text(setup.batch_size)} x {count_text(setup.seq_len)}" for setup in setups]
    width, of_sizes = max(len(stack.name) for stack, _ in peaks), max(map(len, sizes))
    lines = []
    for (stack, of_methods), size in zip(peaks, sizes, strict=True):
        words = ", ".join(
            f"{labels.METHOD_LABELS[workload.setup.method]} {bytes_text(peak)}"
            for workload, peak in of_methods
        )
        lines.append(f"  {stack.name:{width}}  {size:>{of_sizes}}  {words}")
    return ["peak under a trainer's own defaults (--trainer NAME):", *lines]


def trainer_dict(trainer: Trainer | None, workload: Workload) -> dict[str, Any] | None:
    """As JSON has it; null where nobody named one."""
    if trainer is None:
        return None
    stack, own = trainer.stack, trainer.from_stack(workload)
    versions = {"library": stack.library or None, "version": stack.version or None}
    return {"name": stack.name, **versions, "from_stack": own}
