"""What a built model holds (base and adapter parameters, the tensors beside a 4-bit weight, the
output head), and what a batch brings: text, packed rows, images."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList

from lora_profiler._common.paths import read_regular
from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.images import (
    PROCESSORS,
    ProcessedImage,
    canvases,
    has_pixtral_tower,
    image_token,
    processed,
)
from lora_profiler.question.support.packing import blind
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.third_party import quiet, refusals, require


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that PEFT added: of its method, and the copies of `modules_to_save`. None
    without PEFT."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name in getattr(module, "adapter_layer_names", ()):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Module):
                found |= {id(p): p for p in layer.parameters()}
            elif isinstance(layer, nn.Parameter):
                found[id(layer)] = layer
    return list(found.values())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(the base model's parameters, parameters that receive a gradient), each once; a 4-bit weight
    counts what it stands for.

    Adapters are in the second number only. Ties count once, buffers not.
    """
    adapters = {id(p) for p in adapter_parameters(model)}
    parameters = list(model.parameters())
    base = sum(_numel(p) for p in parameters if id(p) not in adapters)
    for module in model.modules():
        if isinstance(module, ParametrizationList):  # packed experts in 4 bit
            state = getattr(module[0], "quant_state", None)
            base += 0 if state is None else int(state.shape.numel()) - module.original.numel()
    return base, sum(_numel(p) for p in parameters if p.requires_grad)


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def quantization_tensors(holder: torch.Tensor | nn.Module) -> list[torch.Tensor]:
    """The tensors beside the packed weight of a 4-bit parameter, or its module's: scales, code
    book, offset, the nested ones; those of an 8-bit one: its scales, which the module takes over in
    its first forward pass; else none."""
    owners = (holder, getattr(holder, "weight", None), getattr(holder, "state", None))
    scales = [s for owner in owners if isinstance(s := getattr(owner, "SCB", None), torch.Tensor)]
    if scales:
        return scales[:1]
    found, states = [], [getattr(holder, "quant_state", None)]
    while states:
        state = states.pop()
        if state is not None:
            found += [t for t in vars(state).values() if isinstance(t, torch.Tensor)]
            states.append(getattr(state, "state2", None))
    return found


def state_tensors(state: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an optimizer keeps for one parameter; of torchao's quantised ones, codes,
    scales and code book."""
    found: list[torch.Tensor] = []
    for value in state.values():
        if isinstance(value, torch.Tensor):
            parts = getattr(
                value, "tensor_attrs", ()
            )  # torchao's name for what a tensor is made of
            found += [getattr(value, part) for part in parts] or [value]
    return found


def code_books(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What bitsandbytes' 8-bit optimizers share among their tensors; it comes with the optimizer,
    and moves to where the first 8-bit state is."""
    return list(getattr(optimizer, "name2qmap", {}).values())


def within(model: Any) -> tuple[Any, str]:
    """The transformers model without what DDP and PEFT wrap around it, and what to call it."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    config = getattr(base, "config", None)  # which a module of one's own has not
    return base, getattr(config, "name_or_path", "") or type(base).__name__


def output_head(model: Any) -> nn.Module | None:
    """The module whose output is the logits, in PEFT's wrapping where it has one; None if the class
    names none."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return head if isinstance(head, nn.Module) else None


# --- packing --------------------------------------------------------------------------------------


@contextmanager
def told_apart(model: nn.Module) -> Iterator[None]:
    """A forward pass of `model` on packed rows. Raises UsageError where its code never looks for
    sequences in the rows."""
    from transformers import masking_utils

    base, name = within(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        raise blind(name)
    find, looked = masking_utils.find_packed_sequence_indices, []

    def noted(position_ids: torch.Tensor) -> torch.Tensor | None:
        looked.append(True)
        return find(position_ids)

    masking_utils.find_packed_sequence_indices = noted
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = find
    if not looked:
        raise blind(name)


# --- text -----------------------------------------------------------------------------------------


MOST_BYTES = 64_000_000
"""Of a text; what follows is not read."""


def text_tokens(path: str, weights: str) -> torch.Tensor:
    """The token ids of a text file, 1-D int64, without special tokens.

    weights: a folder with a tokenizer, a GGUF file, which holds its own, or a hub id. Raises
    UsageError for a text that cannot be read, UnbuildableError for a tokenizer that cannot be had.
    """
    try:
        text = read_regular(Path(path).expanduser(), MOST_BYTES).decode("utf-8", errors="replace")
    except OSError as e:
        raise UsageError(f"the text {path} cannot be read: {e.strerror}.") from None
    require("transformers", '"lora-profiler[measure]"', "A tokenizer")
    from transformers import AutoTokenizer

    folder = Path(weights).expanduser()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["token"]
    if not any(part in name for name in names for part in ("token", "vocab", ".model")):
        raise UnbuildableError(
            f"{weights} has no tokenizer. Save one there: tokenizer.save_pretrained({weights!r})."
        )
    source, options = weights, {}
    if weights.endswith(".gguf"):
        require("gguf", "gguf", "Reading a GGUF file")
        source, options = str(Path(weights).expanduser().parent), {"gguf_file": Path(weights).name}
    with quiet(), refusals(f"no tokenizer could be loaded from {weights}"):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return torch.tensor(
            tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64
        )


# --- images ---------------------------------------------------------------------------------------


IGNORED_LABEL = -100


def with_images(
    model: ModelSpec,
    setup: TrainSetup,
    batch: Mapping[str, torch.Tensor],
    pixels: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """`batch` of token ids on the CPU with the images of each of its sequences.

    Those of each image follow one of text and have no label; all others are text. Pixels are
    float32, as processors make them, and random, on the device `pixels`.
    """
    ids = batch["input_ids"]
    rows, length = ids.shape
    count, image = setup.images or 0, processed(model, setup)
    processor = PROCESSORS[model.model_type]
    is_image = torch.zeros(length, dtype=torch.bool)
    for first in range(1, 1 + count * (image.tokens + 1), image.tokens + 1):
        is_image[first : first + image.tokens] = True
    is_image = is_image.expand(rows, length)
    token = image_token(model)
    text = torch.where(ids == token, 0, ids)
    found = dict(batch) | {
        "input_ids": torch.where(is_image, token, text),
        "labels": batch["labels"].masked_fill(is_image, IGNORED_LABEL),
    }
    if processor.types:
        found[processor.types] = is_image.to(torch.int64)
    several, (first, *rest) = rows * count, image.pixels
    shape: tuple[int, ...] = (several * first,)
    if processor.by_row:
        shape = (rows, count * first)
    if processor.beside == "aspect_ratio_ids":
        shape = (rows, count, first)
        found |= _tiled(image, rows, length, count, pixels)
    found["pixel_values"] = torch.empty((*shape, *rest), device=pixels).normal_()
    if processor.beside == "pixel_attention_mask":
        found["pixel_attention_mask"] = torch.ones((*shape, *rest[1:]), dtype=torch.int64)
    if has_pixtral_tower(model.published):
        found["image_sizes"] = torch.tensor([rest[1:]] * several)
    if processor.beside == "image_grid_thw":
        found["image_grid_thw"] = torch.tensor([image.grid] * several)
    if processor.beside == "image_position_ids":
        found["image_position_ids"] = _positions(image).repeat(several, 1, 1)
    return found


def _positions(image: ProcessedImage) -> torch.Tensor:
    """Column and row of each patch of one image, (patches, 2), -1 where `pixel_values` has room for
    more than there are."""
    _, high, wide = image.grid
    there = torch.cartesian_prod(torch.arange(high), torch.arange(wide)).flip(-1)
    empty = torch.full((image.pixels[1] - len(there), 2), -1)
    return torch.cat((there, empty))


def _tiled(
    image: ProcessedImage, rows: int, length: int, count: int, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """What MllamaProcessor says of tiles, whose numbers no code looks at: how they lie, which of
    them are there, and which of them a token sees: those of the last image before it."""
    tiles, (_, high, wide) = image.pixels[0], image.grid
    there = torch.zeros((rows, count, tiles), dtype=torch.int64, device=device)
    there[..., : high * wide] = 1
    seen = torch.zeros((rows, length, count, tiles), dtype=torch.int64, device=device)
    for i in range(count):
        until = 1 + (i + 1) * (image.tokens + 1) if i + 1 < count else length
        seen[:, 1 + i * (image.tokens + 1) : until, i, : high * wide] = 1
    number = canvases(tiles).index((high, wide)) + 1
    return {
        "aspect_ratio_ids": torch.full((rows, count), number, device=device),
        "aspect_ratio_mask": there,
        "cross_attention_mask": seen,
    }
