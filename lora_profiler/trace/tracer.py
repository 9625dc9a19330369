"""Births and deaths of every storage while real code runs on tensors without data, with the module
and the operator of each.

The order of events is that of a real run, sizes included; only the numbers in the tensors do not
exist. What asks for one (`.item()`, a data-dependent shape) fails, with the line that asked.
"""

import weakref
from bisect import bisect_right
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lora_profiler.memory.attribution import Lifetimes, PhaseMark, spans_of
from lora_profiler.memory.prediction import Category
from lora_profiler.trace.operators import IN_PLACE, SHORTCUTS, held_by_nobody_else, on_one_device

aten = torch.ops.aten


def _linear_flop(first: torch.Tensor, weight: torch.Tensor, *rest: Any, **more: Any) -> int:
    return 2 * first.numel() * weight.shape[0]


def _grouped_flop(first: torch.Tensor, second: torch.Tensor, *rest: Any, **more: Any) -> int:
    """Each row of `first` is multiplied by the matrix of its group; of two matrices, groups of
    columns by groups of rows."""
    return 2 * first.numel() * second.shape[-1]


def _attention_flop(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
) -> int:
    """Scores of each query's head with all keys, and their product with the values; a causal mask
    is not taken off, as torch's counter has it."""
    width = query.shape[-1]
    return 2 * (query.numel() // width) * key.shape[-2] * (width + value.shape[-1])


def _attention_backward_flop(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *rest: Any,
    **more: Any,
) -> int:
    """Scores again, the gradients of query and key, and two products with the values' width."""
    width = query.shape[-1]
    return 2 * (query.numel() // width) * key.shape[-2] * (3 * width + 2 * value.shape[-1])


_FLOPS = ChainMap(
    {
        aten.linear: _linear_flop,
        aten.addmm_: flop_registry[aten.addmm],
        aten._grouped_mm: _grouped_flop,
        **{
            getattr(aten, f"_scaled_dot_product_{kernel}{suffix}"): formula
            for kernel in (
                "flash_attention", "flash_attention_for_cpu", "efficient_attention",
                "cudnn_attention",
            )
            for suffix, formula in (("", _attention_flop), ("_backward", _attention_backward_flop))
        },
    },
    flop_registry,
)  # fmt: skip
"""torch's own formulas, and those of stand-ins that are loaded later; its registry lacks the CPU's
attention, in torch 2.11 attention whose heads share keys, the product as a whole, which a 4-bit
base calls below autograd, the one that adds in place, and that of experts, each with its own
rows."""
Listener = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any, str, str], None]
"""Told of every operator: itself, its arguments, what it returned, the phase and the module."""
_NO_SEQUENCE = 2**63
"""Sequence numbers from here on are not those of a forward pass (gradient accumulation nodes)."""

_SCALING = frozenset({aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor})
"""Operators whose gradient needs the factor, a number or not."""


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard of a tensor that ranks share."""
    return getattr(tensor, "_local_tensor", tensor)


@dataclass(slots=True)
class TracedBirth:
    """One storage: its bytes, the phase it was born in (an index into `Trace.phases`), the module
    and operator that made it."""

    size_bytes: int
    phase: int
    module: str
    op: str
    category: Category | None = None
    saved: bool = False


@dataclass(slots=True)
class Trace:
    """`events`: i for the birth of `births[i]`, ~i for its death. `flops`: by (phase, module) of
    a micro-batch of the last whole step."""

    births: list[TracedBirth] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    marks: list[PhaseMark[str]] = field(default_factory=list)
    flops: dict[tuple[str, str], int] = field(default_factory=dict)

    def attribute(self) -> None:
        """Gives a category to every birth that nobody claimed."""
        lifetimes = Lifetimes(spans_of(self.marks, len(self.events)))
        died = {~event: i for i, event in enumerate(self.events) if event < 0}
        for i, event in enumerate(self.events):
            if event >= 0 and self.births[event].category is None:
                self.births[event].category = lifetimes.category(i, died.get(event))


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a trace of the storages on the meta device, and on the CPU too where host memory
    counts (`counts_host`). With `has_data` what has numbers lies on the CPU and stands for the
    device: tokens and the sizes of images, which models that see look at."""

    def __init__(
        self,
        names: Mapping[torch.nn.Module, str],
        substitutes: Mapping[Any, Callable[..., Any]],
        kernels: Mapping[Any, Callable[..., Any]],
        *,
        counts_host: bool,
        has_data: bool = False,
    ) -> None:
        """`substitutes` are called in place of an operator; `kernels` too, but what they call is
        traced and they are not."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._substitutes, self._kernels = substitutes, kernels
        self.trace = Trace()
        self._names = names
        self._counts_host, self._has_data = counts_host, has_data
        self._alive: dict[int, int] = {}
        self._stack: list[str] = []
        self._sequence: list[int] = []
        self._sequence_modules: list[str] = []
        self._module = ""
        self._phase = "before"
        self._in_backward = False
        self._masks_in_place = False
        self._padded: set[int] = set()
        self._scaled: weakref.ref[torch.Tensor] | None = None
        self.counts_flops = False
        self.listener: Listener | None = None

    # --- what runs --------------------------------------------------------------------------------

    def mark(self, step: int, micro: int, phase: str, note: str = "") -> None:
        position = len(self.trace.events)
        self.trace.marks.append(
            PhaseMark(position=position, step=step, micro=micro, phase=phase, note=note)
        )
        if not note:
            self._phase = phase
            self._in_backward = phase == "backward"
            if phase in ("setup", "optimizer", "zero", "evaluation"):
                self._module = ""
            if phase == "forward":
                self._sequence, self._sequence_modules = [], []

    @contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Inside, the names of modules that run are known, in backward too."""
        handles = []
        for module in model.modules():
            name = self._names.get(module, "")
            handles.append(
                module.register_forward_pre_hook(lambda _m, _a, name=name: self._push(name))
            )
            handles.append(
                module.register_forward_hook(lambda _m, _a, _o: self._pop(), always_call=True)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _push(self, name: str) -> None:
        self._stack.append(name)
        self._note_sequence()

    def _pop(self) -> None:
        self._stack.pop()
        self._note_sequence()

    def _note_sequence(self) -> None:
        self._module = self._stack[-1] if self._stack else ""
        self._sequence.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._sequence_modules.append(self._module)

    def whereabouts(self) -> str:
        """The phase and the module that runs, or whose gradient is made, in words."""
        return f"the {self._phase} of {self._module or 'the model'}"

    def _current_module(self) -> str:
        if self._stack or not self._in_backward:
            return self._module
        node = torch._C._current_autograd_node()
        if node is not None:
            number = node._sequence_nr()
            if number < _NO_SEQUENCE:
                at = bisect_right(self._sequence, number) - 1
                self._module = self._sequence_modules[at] if at >= 0 else ""
        return self._module

    @contextmanager
    def masking_in_place(self) -> Iterator[None]:
        """Inside, the mask is added onto the scores, as the math path does unless a dispatch mode
        is active (attention.cpp)."""
        self._masks_in_place = True
        try:
            yield
        finally:
            self._masks_in_place = False

    # --- what is born -----------------------------------------------------------------------------

    def register(self, tensors: Iterable[tuple[Category, str, torch.Tensor]]) -> None:
        """Notes what is there before the first step, by owner."""
        for category, module, tensor in tensors:
            born = self._add(tensor, module, "")
            if born is not None:
                self.trace.births[born].category = category

    def claim(self, tensor: torch.Tensor, category: Category, module: str | None = None) -> None:
        """Says whose a living storage is."""
        number = self._alive.get(_local(tensor).untyped_storage()._cdata)
        if number is not None:
            birth = self.trace.births[number]
            birth.category = category
            if module is not None:
                birth.module = module

    def claim_rest(self, category: Category) -> None:
        """Says whose every living storage is that is nobody's yet."""
        for number in self._alive.values():
            if self.trace.births[number].category is None:
                self.trace.births[number].category = category

    def see(self, tensor: torch.Tensor) -> None:
        """Notes a storage that no operator returned."""
        self._add(tensor, self._current_module(), None)

    def pad(self, mask: torch.Tensor) -> None:
        """Says that `mask` masks something, and all that is made of it."""
        self._padded.add(mask.untyped_storage()._cdata)

    def masks(self, mask: torch.Tensor) -> bool:
        """Whether `mask` comes from one that masks something; what a model makes for itself masks
        nothing."""
        return mask.untyped_storage()._cdata in self._padded

    def freed(self, tensor: torch.Tensor) -> None:
        """Notes that a storage was emptied while its tensor lives on."""
        storage = _local(tensor).untyped_storage()
        number = self._alive.get(storage._cdata)
        if number is not None:
            self._remove(storage._cdata, number)

    @property
    def phase(self) -> str:
        return self._phase

    def birth_of(self, tensor: torch.Tensor) -> TracedBirth | None:
        number = self._alive.get(_local(tensor).untyped_storage()._cdata)
        return None if number is None else self.trace.births[number]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(hasattr(kind, "_local_tensor") for kind in types):
            return NotImplemented  # DTensor calls the operator again, on the shards
        kernel = self._kernels.get(func)
        if kernel is not None:
            with self:
                return kernel(*args, **kwargs)
        module = self._current_module()
        self._see_factor(module)
        if self._in_backward and not self._stack and held_by_nobody_else(func, args, kwargs):
            func = IN_PLACE[func][0]
        elif self._masks_in_place and func is aten.add.Tensor:
            func, args = aten.alias.default, args[:1]  # the sum written over its first term
        if func is aten.index.Tensor:
            # a list between the brackets becomes an index on the device, by no operator
            for index in args[1]:
                if index is not None:
                    self._add(index, module, func)
        if self._has_data and self._phase != "optimizer":
            func, args, kwargs = on_one_device(func, args, kwargs)
        substitute = self._substitutes.get(func) or SHORTCUTS.get(func)
        result = func(*args, **kwargs) if substitute is None else substitute(func, *args, **kwargs)
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if self._padded and any(
            isinstance(t, torch.Tensor) and self.masks(t) for t in tree_leaves(args[:1])
        ):
            self._padded.update(leaf.untyped_storage()._cdata for leaf in leaves)
        owners = self._owners(args, len(leaves)) if self._phase == "optimizer" else None
        for i, leaf in enumerate(leaves):
            self._add(leaf, owners[i] if owners else module, func)
        if self._counts_host and func in _SCALING and not isinstance(args[1], torch.Tensor):
            self._scaled = weakref.ref(leaves[0])
        if self.listener is not None:
            self.listener(func, args, kwargs, result, self._phase_of_operator(), module)
        if self.counts_flops and func._overloadpacket in _FLOPS:
            phase = self._phase_of_operator()
            key = ("forward" if phase == "loss" else phase, module)
            count = _FLOPS[func._overloadpacket](*args, **kwargs, out_val=result)
            self.trace.flops[key] = self.trace.flops.get(key, 0) + count
        return result

    def _see_factor(self, module: str) -> None:
        """The number that the last operator scaled by: autograd keeps it as a tensor, which no
        operator returns and no hook of saved tensors sees (torch
        `csrc/autograd/saved_variable.cpp`)."""
        scaled = None if self._scaled is None else self._scaled()
        self._scaled = None
        factor = None if scaled is None else getattr(scaled.grad_fn, "_saved_other", None)
        if factor is not None:
            self._add(factor, module, None)

    def _phase_of_operator(self) -> str:
        again = self._in_backward and (
            self._stack or torch.is_grad_enabled()
        )  # autograd functions run without a graph
        return "recompute" if again else self._phase

    def _add(self, tensor: torch.Tensor, module: str, func: Any) -> int | None:
        tensor = _local(tensor)
        if not self._counts(tensor) or isinstance(tensor, FakeTensor):
            return None
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not size or key in self._alive:
            return None
        trace = self.trace
        number = self._alive[key] = len(trace.births)
        op = str(func._overloadpacket).removeprefix("aten.") if func else ""
        trace.births.append(TracedBirth(size, len(trace.marks), module, op))
        if self._phase == "optimizer":
            self._module = module
        trace.events.append(number)
        trace.where.append(module)
        weakref.finalize(storage, self._remove, key, number)
        return number

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is the device's: scalars with data are the host's."""
        if tensor.device.type == "cpu":
            return self._counts_host or (self._has_data and tensor.ndim > 0)
        return tensor.device.type == "meta"

    def _owners(self, args: tuple[Any, ...], count: int) -> list[str] | None:
        """Modules of what an optimizer's operator returns: those of the tensors that it works on,
        one by one in a foreach one."""
        tensors = [leaf for leaf in tree_leaves(args[:1]) if isinstance(leaf, torch.Tensor)]
        if len(tensors) != count:
            return None
        births = [self.birth_of(tensor) for tensor in tensors]
        return ["" if birth is None else birth.module for birth in births]

    def _remove(self, key: int, number: int) -> None:
        if self._alive.get(key) == number:
            del self._alive[key]
            self._padded.discard(key)
            self.trace.events.append(~number)
            birth = self.trace.births[number]
            listed = (
                self._phase == "zero"
                or (self._phase == "optimizer" and birth.op.startswith("_foreach"))
                # what autocast kept of all layers
                or (self._phase in ("forward", "loss") and not self._stack)
            )
            self.trace.where.append(birth.module if listed else self._module)


def two_steps(trace: Trace) -> Trace:
    """The trace up to the third step, with what the hooks saw there moved to the births of the
    second forward pass, one by one.

    A trace of its own: the model dies later, and the old one goes on writing that down.
    """
    starts = [m for m in trace.marks if not m.note]
    end = next(m.position for m in starts if m.step == 3)
    ahead = {m.step: m.position for m in starts if m.phase == "setup" and m.micro == 0}
    behind = {m.step: m.position for m in starts if m.phase in ("backward", "end") and m.micro == 0}
    second, third = (
        [trace.births[e] for e in trace.events[ahead[step] : behind[step]] if e >= 0]
        for step in (2, 3)
    )
    assert [b.op for b in second] == [b.op for b in third], (
        "the third forward pass is not the second one again"
    )
    kept = [birth.saved for birth in third]
    for birth in trace.births:
        birth.saved = False  # what belongs to the model is kept anyhow
    for birth, saved in zip(second, kept, strict=True):
        birth.saved = saved
    events = trace.events[:end]
    return Trace(
        births=trace.births[: max(events) + 1],
        events=events,
        where=trace.where[:end],
        marks=[m for m in trace.marks if m.step < 3],
        flops=trace.flops,
    )
