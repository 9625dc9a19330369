"""Tensors that have numbers in a trace: tokens and the sizes of images, at which the code of models
that see looks. They lie on the CPU and stand for tensors of the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from lora_profiler.question.workload import Workload
from lora_profiler.trace.modeling.contents import with_images

aten = torch.ops.aten
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""Take an index with data beside a tensor without any."""
Call = tuple[Any, tuple[Any, ...], Mapping[str, Any]]


def batch_with_images(workload: Workload, rows: int) -> dict[str, torch.Tensor]:
    """`rows` sequences with their images: tokens with data, since models look for those of images,
    and pixels without."""
    setup = workload.setup
    ids = torch.zeros((rows, setup.seq_len), dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    if setup.is_padded:
        batch["attention_mask"] = mask = torch.ones_like(ids)
        mask[:, -setup.padded_tokens :] = 0
    return with_images(workload.model, setup, batch, "meta")


def on_one_device(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call as it is made on one device: beside a tensor without data others have none either,
    what is sent to the device stays where it is, and no pixel of an image is blank."""
    if func is aten._to_copy.default and kwargs.get("device") is not None:
        rest = {name: value for name, value in kwargs.items() if name != "device"}
        if rest.get("dtype") in (None, args[0].dtype):
            return aten.alias.default, args, {}
        return func, args, rest
    if func is aten.eq.Scalar and args[0].device.type == "meta":
        return aten.zeros.default, (args[0].shape,), {"dtype": torch.bool}
    if func in _INDEXED or not _are_mixed((args, kwargs)):
        return func, args, kwargs
    return func, *tree_map(_without_data, (args, kwargs))


def _are_mixed(values: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return {tensor.device.type for tensor in tensors if tensor.ndim} == {"cpu", "meta"}


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.ndim:
        return torch.empty_like(value, device="meta")
    return value
