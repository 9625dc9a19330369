"""What one training step runs on the card: every operator of it as torch's dispatcher hands it to a
device, and Triton's kernels by their arguments, as kernels with bytes and products.

A step of its own, after those that memory is told of: who looks on changes no byte of these.
"""

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import kernels
from .dequantised import LISTENERS

if TYPE_CHECKING:
    from lora_profiler.memory.kernels import Kernel

_PACKAGE = Path(__file__).parents[3]
_KNOWN_LIBRARIES = ("aten", "prims", "prim", "bitsandbytes", "torchvision")


def operator_reader() -> "Callable[..., Kernel | None]":
    """`kernel_of` of the package that this file is a part of, which the script's environment need
    not have. Raises ImportError where its Python is too old for it."""
    if "lora_profiler" not in sys.modules:
        place = [str(_PACKAGE)]
        spec = importlib.util.spec_from_file_location(
            "lora_profiler", _PACKAGE / "__init__.py", submodule_search_locations=place
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["lora_profiler"] = module
        spec.loader.exec_module(module)
    from lora_profiler.trace.modeling.operator_kernels import kernel_of

    return kernel_of


class StepWork(TorchDispatchMode):
    """Between `begin` and `end`. `phase` tells what the script is at; `model` is what it calls.

    Raises ImportError."""

    def __init__(self, phase: Callable[[], str], model: torch.nn.Module | None) -> None:
        super().__init__()
        self._kernel_of = operator_reader()
        self._phase, self._model = phase, model
        self._counts: dict[str, Counter[Kernel]] = {"step": Counter(), "update": Counter()}
        self._unread: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._tokens = 0
        self._update_launches = self._seen = self._copies = 0
        self._before = (0, 0)
        self._undo: list[Callable[[], None]] = []

    def begin(self) -> None:
        self._before = _counted()
        if self._model is not None:
            hook = self._model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
            self._undo.append(hook.remove)
        self._watch_triton()
        LISTENERS.append(self._count_unpacked)
        self._undo.append(LISTENERS.clear)
        self.__enter__()

    def end(self) -> dict[str, Any]:
        self.__exit__(None, None, None)
        for undo in self._undo:
            undo()
        launches, calls = _counted()
        return {
            "tokens": self._tokens,
            "launches": launches - self._before[0] + self._copies,
            "library_calls": calls - self._before[1],
            "update_launches": self._update_launches,
            "unread": dict(self._unread),
            "other_libraries": dict(self._others),
            **{
                part: [_row(kernel, count) for kernel, count in counts.items()]
                for part, counts in self._counts.items()
            },
        }

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        update_before = self._update_launches
        phase, before, seen = self._phase(), sum(_counted()), self._seen
        result = self._run(func, args, kwargs)
        launched = sum(_counted()) - before
        if phase == "optimizer":
            # what it is made of has been counted before it: both start from the same place
            self._update_launches = max(self._update_launches, update_before + launched)
        if self._seen > seen:  # it is made of operators, which were seen
            return result
        try:
            kernel = self._kernel_of(func, args, kwargs, result, "forward", "")
        except (KeyError, AttributeError, TypeError, ValueError):  # of a dtype or form not known
            self._unread[str(func._overloadpacket)] += 1
            return result
        if kernel is not None:
            self._count(kernel, phase)
            if not launched:  # a copy of all bytes as they lie, which no kernel makes
                self._copies += 1
                self._update_launches += phase == "optimizer"
            if func.namespace not in _KNOWN_LIBRARIES:
                self._others[str(func._overloadpacket)] += 1
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operator of another library may be Python that calls torch's own, as bitsandbytes'
        product with a 4-bit weight is: these are looked at as well."""
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        on_card = any(isinstance(each, torch.Tensor) and each.is_cuda for each in args)
        if func.namespace == "aten" or not on_card or not has_kernel(func.name(), "CUDA"):
            return func(*args, **kwargs)
        with self:
            return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)

    def _count(self, kernel: "Kernel", phase: str) -> None:
        self._seen += 1
        self._counts["update" if phase == "optimizer" else "step"][kernel] += 1

    def _count_tokens(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = [kwargs.get("input_ids"), *args, *kwargs.values()]
        tensors = [each for each in given if isinstance(each, torch.Tensor) and each.dim() > 0]
        if tensors:
            ids = tensors[0]
            self._tokens += ids.numel() if ids.dim() < 3 else ids.shape[0] * ids.shape[1]

    def _count_unpacked(self, elements: int, block: int, bits: int, size: int) -> None:
        self._count(_unpacked(elements, block, bits, size), self._phase())

    def _watch_triton(self) -> None:
        """Each of its kernels moves its tensors once, as far as their views reach."""
        jit = sys.modules.get("triton.runtime.jit")
        function = getattr(jit, "JITFunction", None)
        if function is None:
            return
        original = function.run

        def run(this: Any, *args: Any, **options: Any) -> Any:
            result = original(this, *args, **options)
            if not options.get("warmup"):
                self._count(_of_triton(this, (*args, *options.values())), self._phase())
            return result

        function.run = run
        self._undo.append(lambda: setattr(function, "run", original))
        # Unsloth repeats a launch without `run`, but not while somebody listens to launches
        runtime = getattr(getattr(sys.modules.get("triton"), "knobs", None), "runtime", None)
        hooks: Any = getattr(runtime, "launch_enter_hook", None)
        if hasattr(hooks, "add"):
            hooks.add(_listening)
            self._undo.append(lambda: hooks.remove(_listening))


def _listening(*_: Any) -> None:
    """A hook that does nothing."""


def _counted() -> tuple[int, int]:
    return kernels.launches(), kernels.library_calls()


def _unpacked(elements: int, block: int, bits: int, size: int) -> "Kernel":
    """Of bitsandbytes: `bits` 4 of a weight, 8 of the scales of one, which are looked up in a code
    book (`backends/cuda/ops.py`)."""
    from lora_profiler.memory.kernels import Kernel

    return Kernel(
        kind="dequantise",
        op="dequantize_4bit" if bits == 4 else "dequantize_blockwise",
        phase="forward",
        module="",
        read_bytes=-(-elements * bits // 8) + 4 * -(-elements // block) + (bits == 8) * 1024,
        written_bytes=elements * size,
        parameters=elements if bits == 4 else 0,
    )


def _of_triton(function: Any, arguments: tuple[Any, ...]) -> "Kernel":
    from lora_profiler.memory.kernels import Kernel

    tensors = {
        (each.data_ptr(), each.numel(), each.dtype): each.numel() * each.element_size()
        for each in arguments
        if isinstance(each, torch.Tensor) and each.is_cuda
    }
    return Kernel(
        kind="memory",
        op=f"triton {getattr(function, '__name__', '')}".strip(),
        phase="forward",
        module="",
        read_bytes=sum(tensors.values()),
        written_bytes=0,
    )


def _row(kernel: "Kernel", count: int) -> dict[str, Any]:
    gemm = kernel.gemm
    return {
        "kind": kernel.kind,
        "op": kernel.op,
        "read_bytes": kernel.read_bytes,
        "written_bytes": kernel.written_bytes,
        "dtype": kernel.dtype,
        "gemm": None if gemm is None else [gemm.batches, gemm.m, gemm.n, gemm.k],
        "flops": kernel.flops,
        "count": count,
    }
