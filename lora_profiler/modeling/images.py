"""The inputs of a model that sees: pixels as its processor makes them, and tokens that stand for
them."""

from collections.abc import Mapping

import torch

from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.image_processors import (
    PROCESSORS,
    ProcessedImage,
    canvases,
    has_pixtral_tower,
)
from lora_profiler.support.images import image_token, processed
from lora_profiler.workload import TrainSetup

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
