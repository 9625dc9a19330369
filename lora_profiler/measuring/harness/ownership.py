"""What the model, the optimizer and the gradients own at an instant, by category and storage."""

import gc
from collections.abc import Callable, Iterator

import torch

from lora_profiler.measuring.harness.timeline import AllocationClaims
from lora_profiler.measuring.harness.training import Training
from lora_profiler.memory.prediction import Category
from lora_profiler.trace.modeling import (
    adapter_parameters,
    code_books,
    quantization_tensors,
    state_tensors,
)

Key = Callable[[torch.UntypedStorage], int]


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    """What `tensor` lies in; of one that ranks share, what this rank's shard does."""
    return getattr(tensor, "_local_tensor", tensor).untyped_storage()


def by_address(storage: torch.UntypedStorage) -> int:
    return storage.data_ptr()


def by_storage(storage: torch.UntypedStorage) -> int:
    key: int = storage._cdata
    return key


def model_tensors(model: torch.nn.Module) -> Iterator[tuple[Category, torch.Tensor]]:
    """Parameters, adapters (copies made for `modules_to_save` among them), quantisation constants
    and buffers."""
    of_peft = {id(parameter) for parameter in adapter_parameters(model)}
    for name, parameter in model.named_parameters():
        is_adapter = "lora_" in name or id(parameter) in of_peft
        yield ("adapters" if is_adapter else "parameters"), parameter
    # whose weight is a plain shard once ranks share it; it keeps the constants itself
    for module in model.modules():
        for tensor in quantization_tensors(module):
            yield "quantization_state", tensor
    for _, buffer in model.named_buffers():
        yield "buffers", buffer


def gradient_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    return (p.grad for p in model.parameters() if p.grad is not None)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Tensors that the optimizer keeps for its parameters, and the code books that bitsandbytes
    shares among them."""
    # ZeroRedundancyOptimizer's own part is inside
    for state in getattr(optimizer, "optim", optimizer).state.values():
        yield from state_tensors(state)
    yield from code_books(optimizer)


def owned(training: Training) -> Iterator[tuple[Category, torch.Tensor]]:
    """Everything that lives between two steps, with its owner."""
    yield from model_tensors(training.model)
    if training.reference is not None:
        yield from model_tensors(training.reference)
    yield from (("optimizer_states", t) for t in optimizer_tensors(training.optimizer))
    yield from (("gradients", t) for t in gradient_tensors(training.model))
    if training.ballast is not None:
        yield "temporaries", training.ballast


def stray_tensors(device_type: str, known: set[int]) -> list[torch.Tensor]:
    """Tensors on the device that Python holds and nobody owns."""
    gc.collect()
    strays = []
    for thing in gc.get_objects():
        if (
            type(thing) is torch.Tensor
            and thing.device.type == device_type
            and thing.layout is torch.strided
        ):
            key = by_storage(storage_of(thing))
            if key not in known:
                known.add(key)
                strays.append(thing)
    return strays


def existing(training: Training) -> list[tuple[Category, torch.Tensor]]:
    """Every tensor alive on the device, each storage once, with its owner; nobody's is
    `unattributed`."""
    device_type = training.setup.device
    tensors: list[tuple[Category, torch.Tensor]] = []
    known: set[int] = set()
    for category, tensor in owned(training):
        key = by_storage(storage_of(tensor))
        if tensor.device.type == device_type and key not in known and storage_of(tensor).nbytes():
            known.add(key)
            tensors.append((category, tensor))
    return tensors + [
        ("unattributed", t) for t in stray_tensors(device_type, known) if storage_of(t).nbytes()
    ]


def claims_of(tensors: list[tuple[Category, torch.Tensor]], key: Key) -> AllocationClaims:
    return AllocationClaims(
        before={key(storage_of(tensor)): category for category, tensor in tensors}
    )


def sizes(
    tensors: Iterator[tuple[Category, torch.Tensor]], device_type: str
) -> dict[Category, int]:
    """Bytes by category, each storage once, of the tensors on `device_type`."""
    known: set[int] = set()
    by_category: dict[Category, int] = {}
    for category, tensor in tensors:
        key = by_storage(storage_of(tensor))
        if tensor.device.type == device_type and key not in known:
            known.add(key)
            by_category[category] = by_category.get(category, 0) + storage_of(tensor).nbytes()
    return by_category
