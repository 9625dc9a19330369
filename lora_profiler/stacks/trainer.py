"""A stack as a question names it: what it fills in, how it lays out rows, what it refuses."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import Option, flag
from lora_profiler.stacks.stack import CHECKPOINT_DTYPE, Options, Stack
from lora_profiler.workload import DTYPE_BYTES, OPTIONS, Method, TrainSetup, Workload, setup_dict

_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
_LAID_OUT = ("batch_size", "seq_len")
"""Options that `laid_out` changes after they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """`stack`, and `given`, the names of the options that were written down beside it and overrule
    its own."""

    stack: Stack
    given: frozenset[str] = frozenset()

    def defaults(self, method: Method, options: Options, model: ModelSpec) -> dict[str, Any]:
        """What the stack says of a method, the options left out that are given in `options`."""
        every = self.stack.defaults[method]
        own = {name: value for name, value in every.items() if name not in self.given}
        if own.get("dtype") == CHECKPOINT_DTYPE:
            own["dtype"] = as_loaded(model)
        if options["optimizer"] != every.get("optimizer") and "optimizer" in self.given:
            own.pop("optimizer_impl", None)  # it is that of the stack's own optimizer
        if own.get("max_completion_length", 0) >= own.get("seq_len", options["seq_len"]):
            own["max_completion_length"] = None  # all of it may be the completion's
        kernel = self.stack.packing.attention if self.stack.packing else None
        if kernel and "packed" in self.given and "attention" not in self.given:
            own["attention"] = kernel
        return own

    def laid_out(self, setup: TrainSetup) -> TrainSetup:
        """The rows as the model sees them: two for each pair, one of all that is packed."""
        batch_size = setup.batch_size * self.stack.rows
        if setup.is_packed and self.stack.packing and self.stack.packing.one_row:
            return replace(setup, batch_size=1, seq_len=batch_size * setup.seq_len)
        return replace(setup, batch_size=batch_size)

    def from_stack(self, workload: Workload) -> dict[str, Any]:
        """The options of `workload` that are the stack's, by name, with its values."""
        setup = workload.setup
        options = setup_dict(setup)
        own = self.defaults(setup.method, options, workload.model)
        return {
            name: value
            for name, value in own.items()
            if name in _LAID_OUT or _is_value(value, options[name], name)
        }

    def gaps(self, method: Method) -> tuple[str, ...]:
        """What it holds beside what is priced."""
        return tuple(gap.text for gap in self.stack.gaps if method in gap.methods)


def as_loaded(model: ModelSpec) -> str:
    """The dtype that `from_pretrained(dtype="auto")` gives its weights. A checkpoint whose
    config.json names none is older than the entry, and in float32; one that is stored in 8 or 4 bit
    is dequantised to bfloat16."""
    if model.dtype in DTYPE_BYTES:
        return model.dtype
    return "float32" if model.dtype is None and model.dequantized_from is None else "bfloat16"


def _is_value(written: Any, stored: Any, name: str) -> bool:
    """Whether a setup has what was written; lists are not compared, since nothing changes them."""
    return _BY_NAME[name].kind == "text" or bool(written == stored)


def spelled(
    stack: Stack, options: Options, given: Collection[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """`options` and the names of those given, with the trainer's own spelling of values in the
    words of options."""
    values, names = dict(options), set(given)
    for name in given:
        meant = stack.aliases.get(name, {}).get(options[name])
        if meant is not None:
            names = (names - {name}) | set(meant)
            values |= {n: v for n, v in meant.items() if n == name or n not in given}
    return values, frozenset(names)


def check_able(stack: Stack, options: Options, given: Collection[str]) -> None:
    """Raises UsageError for an option given that the trainer cannot do."""
    for refusal in stack.refusals:
        if refusal.option not in given:
            continue
        value, default = options[refusal.option], _BY_NAME[refusal.option].default
        if value in refusal.values if refusal.values else value != default:
            raise UsageError(
                f"{stack.title} cannot do {flag(refusal.option)} {value}: {refusal.why}; leave it"
                " out, or name another --trainer."
            )
