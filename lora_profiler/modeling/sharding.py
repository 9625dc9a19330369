"""A model shared by ranks: FSDP2 as accelerate wraps it, every decoder layer a unit, what is left
(embedding, norm, head) the root's; or tensor parallelism, each linear layer of attention and MLP
cut by itself."""

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from lora_profiler.errors import UnbuildableError
from lora_profiler.workload import TrainSetup

_BY_COLUMNS, _BY_ROWS = (
    ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
    ("o_proj", "down_proj"),
)


def units(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that transformers says must not be split over devices, in the order in which they
    run.

    The source of the rule is accelerate's `fsdp2_prepare_auto_wrap_policy`. Raises UnbuildableError
    where a model names none.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]  # PEFT's
    names = set(base._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise UnbuildableError(
            f"{type(base).__name__} does not say which modules stay whole, so FSDP has no units;"
            " take ddp."
        )
    return found


def fully_sharded(model: torch.nn.Module, mesh: DeviceMesh, setup: TrainSetup) -> torch.nn.Module:
    """`model` with its parameters sharded over `mesh`, in place.

    Under "fsdp", torch's default, layers give their weights up after forward; the root's unit keeps
    them until backward is over, as backward begins with it. Raises UnbuildableError as `units`
    does.
    """
    reshard = None if setup.sharding == "fsdp" else False
    is_mixed = setup.precision == "fsdp-mixed"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if is_mixed else None)
    offload = CPUOffloadPolicy() if setup.offload_params else OffloadPolicy()
    for module in (*units(model), model):
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=reshard,
            mp_policy=policy,
            offload_policy=offload,
        )
    return model


def tensor_parallel(model: torch.nn.Module, mesh: DeviceMesh) -> torch.nn.Module:
    """`model` with q, k, v, gate and up cut by columns and o and down by rows over `mesh`, in
    place; adapters are not."""
    plan: dict[str, ParallelStyle] = {}
    for name, _ in model.named_modules():
        last = name.rpartition(".")[2]
        if last in _BY_COLUMNS:
            plan[name] = ColwiseParallel()
        elif last in _BY_ROWS:
            plan[name] = RowwiseParallel()
    parallelized: torch.nn.Module = parallelize_module(model, mesh, plan)
    return parallelized
