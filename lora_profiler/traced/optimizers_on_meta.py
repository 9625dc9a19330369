"""Optimizer steps on tensors without data: torch's fused ones, and 8-bit AdamW with what
bitsandbytes' CPU kernels allocate.

Sources: torch `optim/{adam,sgd}.py`; bitsandbytes `optim/optimizer.py`, `backends/cpu/ops.py`. On a
GPU the 8-bit kernels work in place, as their registered fake ones do on the meta device; on the CPU
they are Python that works in float32 copies, and that very Python is run under the tracer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch

from lora_profiler.traced.patching import replaced
from lora_profiler.workload import TrainSetup


@contextmanager
def fused_on_meta() -> Iterator[None]:
    """torch refuses fused optimizers on the meta device, for which their operators are there all
    the same."""
    with ExitStack() as stack:
        for name in ("adam", "sgd"):  # "adam" makes AdamW step as well
            module = import_module(f"torch.optim.{name}")
            stack.enter_context(replaced(module, "_device_dtype_check_for_fused", _in_place))
        yield


def optimizer_kernels(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    found: dict[Any, Callable[..., Any]] = {torch.ops.aten._fused_sgd_.default: _in_place}
    if setup.optimizer != "adamw_8bit" or setup.device != "cpu":
        return found
    from bitsandbytes.backends.cpu import ops

    return found | {
        torch.ops.bitsandbytes.optimizer_update_32bit.default: ops._optimizer_update_32bit_cpu,
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default: (
            ops._optimizer_update_8bit_blockwise_cpu
        ),
    }


def _in_place(*args: Any, **kwargs: Any) -> None:
    """A step that allocates nothing; torch has no meta kernel for it."""


def code_books(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What 8-bit AdamW shares among its tensors; it comes with the optimizer and moves to where the
    first 8-bit state is."""
    return list(getattr(optimizer, "name2qmap", {}).values())
