"""Weights that take memory only while somebody looks at them, so that a model can be built that
does not fit in 16 bit.

A 4-bit base with random weights is made of 16-bit ones, and all of them at once may be more than
the device has: 141 GB for 70B. transformers makes them in two rounds, the constructors of the
layers first and its own initialisation after, so a weight cannot be packed when it is made. What
can be kept of it is how it is made: the operators that fill it, and the state of the random numbers
before each. With them its values come back, the same to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
OVERWRITES = frozenset(
    {aten.normal_.default, aten.uniform_.default, aten.zero_.default, aten.fill_.Scalar}
)
"""Operators after which nothing of the values before is left."""


@dataclass(slots=True)
class _Weight:
    """The storage of one weight, its size when it is filled, and what filled it: random state
    before, operator, arguments."""

    storage: torch.UntypedStorage
    size_bytes: int
    made_by: list[tuple[Tensor, Any, tuple[Any, ...], Mapping[str, Any]]] = field(
        default_factory=list
    )


class DeferredWeights(TorchDispatchMode):
    """Around the making of a model on `kind` of device: of its linear layers' weights only the one
    in use has memory.

    Afterwards they are empty; `fill` gives one its values and its memory for good.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._random: Any = torch.random if kind == "cpu" else torch.get_device_module(kind)
        self._weights: dict[int, _Weight] = {}
        self._filled: _Weight | None = None
        self._hook: Any = None

    def __enter__(self) -> Self:
        self._hook = register_module_parameter_registration_hook(self._registered)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._hook.remove()
        self._empty()

    def fill(self, weight: Tensor) -> None:
        """Does nothing for a weight that was never deferred."""
        found = self._weights.pop(weight.untyped_storage()._cdata, None)
        if found is not None:
            self._replay(found)

    def _registered(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        """Takes the weight that a linear layer gets in its constructor; one that it gets later is
        another layer's, tied to it."""
        if (
            parameter is None
            or name != "weight"
            or name in module._parameters
            or not _is_linear(module)
        ):
            return
        storage = parameter.untyped_storage()
        self._weights[storage._cdata] = _Weight(storage, storage.nbytes())
        storage.resize_(0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touched = {
            t.untyped_storage()._cdata: t
            for t in tensors
            if t.untyped_storage()._cdata in self._weights
        }
        if (
            len(tensors) > 1
        ):  # what such an operator makes of a weight hangs on another tensor, which may change
            for tensor in touched.values():
                self.fill(tensor)
            return func(*args, **kwargs)
        for key, tensor in touched.items():
            weight = self._weights[key]
            overwritten = func in OVERWRITES and tensor.nbytes == weight.size_bytes
            if overwritten:
                weight.made_by.clear()
            self._use(weight)
            if func._schema.is_mutable:
                weight.made_by.append((self._random.get_rng_state(), func, args, kwargs))
        return func(*args, **kwargs)

    def _use(self, weight: _Weight) -> None:
        if self._filled is not weight:
            self._empty()
            self._replay(weight)
            self._filled = weight

    def _empty(self) -> None:
        if self._filled is not None and self._filled.storage._cdata in self._weights:
            self._filled.storage.resize_(0)
        self._filled = None

    def _replay(self, weight: _Weight) -> None:
        if weight.storage.nbytes():
            return
        weight.storage.resize_(weight.size_bytes)
        after = self._random.get_rng_state()
        with torch.no_grad():
            for state, func, args, kwargs in weight.made_by:
                self._random.set_rng_state(state)
                func(*args, **kwargs)
        self._random.set_rng_state(after)


def _is_linear(module: nn.Module) -> bool:
    """Whether transformers quantises modules of this class (`replace_with_bnb_linear`)."""
    from transformers.pytorch_utils import Conv1D

    return type(module) is nn.Linear or isinstance(module, Conv1D)
