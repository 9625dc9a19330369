"""A model shared by ranks: FSDP2 as accelerate wraps it, every decoder layer a unit, what is left
(embedding, norm, head) the root's; or tensor parallelism, each linear layer of attention and MLP
cut by itself."""

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.workload import TrainSetup


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


def tensor_parallel(model: torch.nn.Module, ranks: int, device: str) -> None:
    """Cuts `model` over `ranks`, each on a `device`, in place, by the plan that transformers has of
    it, as `from_pretrained` does; PEFT reads from it how its adapters are cut."""
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.utils import TransformersDeviceMesh

    dense, expert = (
        init_device_mesh(device, (1, 1, 1, ranks), mesh_dim_names=("pp", "dp_replicate", *last))
        for last in (("fsdp", "tp"), ("efsdp", "ep"))
    )
    base: Any = model
    for name in base.all_tied_weights_keys:  # tied again below, as after loading
        owner, _, local = name.rpartition(".")
        weight = getattr(model.get_submodule(owner), local)
        copy = torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
        setattr(model.get_submodule(owner), local, copy)
    base.maybe_distribute_model(
        model, DistributedConfig(tp_size=ranks), TransformersDeviceMesh(dense, expert)
    )
    base.tie_weights()


def widths_named(model: torch.nn.Module) -> None:
    """Tells every cut linear layer its whole width, in place: PEFT 0.21 makes adapters as wide as a
    rank's part, and transformers 5.24 asks a row-wise layer for the whole input."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and isinstance(module.weight, DTensor):
            module.out_features, module.in_features = module.weight.shape
