"""Images: which questions about them have an answer, and what a model's own processor makes of
them. No torch."""

from collections.abc import Callable, Mapping
from math import ceil, floor, inf, prod, sqrt
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import TrainSetup, Workload

Size = tuple[int, int]
CHANNELS = 3
MOST_UNLIKE_SIDES = 200
"""How many times the shorter side the longer one may be (`smart_resize`)."""


class ProcessedImage(NamedTuple):
    """`tokens` that stand for one image in the text, each of which an embedding of the tower takes
    the place of; the shape of its `pixel_values`; `grid` are its patches in time, height and width,
    of Mllama its tiles."""

    tokens: int
    pixels: tuple[int, ...]
    grid: tuple[int, int, int] = (0, 0, 0)


class Processor(NamedTuple):
    """How images of one model type are made ready: `process` one of a size by config.json, whose
    `image_token_id` is `token` where it names none. Images follow one another in `pixel_values`,
    `by_row` each sequence has its own. `beside` is the input that tells of their pixels, "" for
    none, `types` the one that marks their tokens. transformers runs it with `flash_attention_2`, or
    refuses that."""

    process: Callable[[Mapping[str, Any], Size], ProcessedImage]
    token: int
    beside: str = ""
    types: str = ""
    by_row: bool = False
    flash_attention_2: bool = True


def _qwen(least: int, most: int) -> Callable[[Mapping[str, Any], Size], ProcessedImage]:
    """Qwen2VLImageProcessor (`smart_resize`): both sides multiples of a merged patch, between
    `least` and `most` pixels in all."""

    def process(config: Mapping[str, Any], size: Size) -> ProcessedImage:
        vision = config["vision_config"]
        patch, merge = vision.get("patch_size", 14), vision.get("spatial_merge_size", 2)
        frames = vision.get("temporal_patch_size", 2)
        width, height = _between(size, patch * merge, least, most)
        rows, columns = height // patch, width // patch
        return ProcessedImage(
            tokens=rows * columns // merge**2,
            pixels=(rows * columns, CHANNELS * frames * patch**2),
            grid=(1, rows, columns),
        )

    return process


def _glm(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """Glm4vImageProcessor, Glm46VImageProcessor too: as Qwen's, of the frames that one image stands
    for, a side that is shorter than a merged patch made one first."""
    vision = config["vision_config"]
    merged = vision.get("patch_size", 14) * vision.get("spatial_merge_size", 2)
    frames = vision.get("temporal_patch_size", 2)
    if min(size) < merged:
        scale = max(merged / size[1], merged / size[0])
        size = int(size[0] * scale), int(size[1] * scale)
    return _qwen(112**2 // frames, 12288 * 28**2 // frames)(config, size)


def _between(size: Size, factor: int, least: int, most: int) -> Size:
    width, height = (round(side / factor) * factor for side in size)
    if width * height > most:
        scale = sqrt(size[0] * size[1] / most)
        width, height = (max(factor, floor(s / scale / factor) * factor) for s in size)
    elif width * height < least:
        scale = sqrt(least / (size[0] * size[1]))
        width, height = (ceil(s * scale / factor) * factor for s in size)
    return width, height


def _gemma3(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """Gemma3ImageProcessor: one square whatever the size (pan and scan is off unless asked for)."""
    side = config["vision_config"]["image_size"]
    return ProcessedImage(config.get("mm_tokens_per_image", 256), (1, CHANNELS, side, side))


_TILES_A_SIDE, _MOST_PIXELS_A_SIDE = 4, 4096


def _tiles(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """Idefics3ImageProcessor, SmolVLM's too: the longest side becomes four tiles, what more there
    is fills whole tiles, and the whole image is one tile more."""
    vision = config["vision_config"]
    side, patch = vision["image_size"], vision["patch_size"]
    width, height = _longest_side(size, _TILES_A_SIDE * side)
    ratio = width / height
    if width >= height:
        columns = ceil(width / side)
        rows = ceil(int(columns * side / ratio) / side)
    else:
        rows = ceil(height / side)
        columns = ceil(int(rows * side * ratio) / side)
    tiles = rows * columns + 1 if max(rows, columns) > 1 else 1
    of_one = (side // patch) ** 2 // config.get("scale_factor", 2) ** 2
    return ProcessedImage(tiles * of_one, (tiles, CHANNELS, side, side))


def _longest_side(size: Size, longest: int) -> Size:
    """Scaled to `longest`, the other side even, then to `_MOST_PIXELS_A_SIDE` at most."""
    width, height = size
    ratio = width / height
    if width >= height:
        width, height = longest, _even(int(longest / ratio))
    else:
        width, height = _even(int(longest * ratio)), longest
    width, height = max(width, 1), max(height, 1)
    ratio, end = width / height, _MOST_PIXELS_A_SIDE
    if max(width, height) > end:
        width, height = (end, int(end / ratio)) if width >= height else (int(end * ratio), end)
    return max(width, 1), max(height, 1)


def _even(side: int) -> int:
    return side + side % 2


def _llava(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """CLIPImageProcessor: the middle square; a token for each patch, the class token dropped unless
    the strategy is "full". Pixtral's processor where the tower is Pixtral's."""
    if has_pixtral_tower(config):
        return _pixtral(config, size)
    vision = config["vision_config"]
    side = vision["image_size"]
    kept = config.get("vision_feature_select_strategy", "default") == "full"
    return ProcessedImage((side // vision["patch_size"]) ** 2 + kept, (1, CHANNELS, side, side))


def has_pixtral_tower(config: Mapping[str, Any]) -> bool:
    """Whether the tower is Pixtral's, which is told each image's height and width."""
    usual = "pixtral" if config["model_type"] == "mistral3" else ""
    return bool(config["vision_config"].get("model_type", usual) == "pixtral")


def _pixtral(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """PixtralImageProcessor as Pixtral's processor calls it: no side longer than the tower's own,
    both whole patches, merged in Mistral 3."""
    vision = config["vision_config"]
    merge = config.get("spatial_merge_size", 2) if config["model_type"] == "mistral3" else 1
    merged = vision["patch_size"] * merge
    ratio = max(1.0, max(size) / vision["image_size"])
    columns, rows = ((floor(side / ratio) - 1) // merged + 1 for side in size)
    return ProcessedImage(columns * rows, (1, CHANNELS, rows * merged, columns * merged))


def canvases(tiles: int) -> list[tuple[int, int]]:
    """Rows and columns of tiles, of which there are `tiles` at most, in the order of Mllama's
    `aspect_ratio_ids`, whose first is 1 (`get_all_supported_aspect_ratios`)."""
    return [(rows, n) for rows in range(1, tiles + 1) for n in range(1, tiles // rows + 1)]


def _mllama(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """MllamaImageProcessor: tiles that the image fills best, enlarged where it can be; all that
    there may be are in `pixel_values`. One token, since text sees them by cross-attention."""
    vision = config["vision_config"]
    side, tiles = vision["image_size"], vision.get("max_num_tiles", 4)
    width, height = size

    def rank(canvas: tuple[int, int]) -> tuple[bool, float, int]:
        rows, columns = canvas
        scale = min(rows * side / height, columns * side / width)
        return scale < 1, scale if scale >= 1 else -scale, rows * columns

    rows, columns = min(canvases(tiles), key=rank)
    return ProcessedImage(1, (tiles, CHANNELS, side, side), (1, rows, columns))


_SOFT_TOKENS = 280


def _gemma4(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """Gemma4ImageProcessor: as large as it may be in whole pooled patches, and room for the most of
    them in `pixel_values`; already pooled where there is no tower (Gemma4UnifiedImageProcessor)."""
    vision = config["vision_config"]
    patch, pooled = vision.get("patch_size", 16), vision.get("pooling_kernel_size", 3)
    side = patch * pooled
    scale = sqrt(_SOFT_TOKENS * side**2 / (size[0] * size[1]))
    columns, rows = (floor(scale * length / side) for length in size)
    if config["model_type"] == "gemma4_unified":
        patch, pooled = side, 1
    patches, grid = _SOFT_TOKENS * pooled**2, (1, rows * pooled, columns * pooled)
    return ProcessedImage(rows * columns, (1, patches, CHANNELS * patch**2), grid)


_MOST_TILES = 12


def _internvl(config: Mapping[str, Any], size: Size) -> ProcessedImage:
    """GotOcr2ImageProcessor as InternVL's processor calls it: tiles in the shape that is nearest to
    the image's, of equal shapes the most that it fills by half, and the whole image once more."""
    vision = config["vision_config"]
    side, patch = (
        length if isinstance(length, int) else length[0]
        for length in (vision.get("image_size", 448), vision.get("patch_size", 14))
    )
    width, height = size
    best, nearest = (1, 1), inf
    for columns, rows in sorted(canvases(_MOST_TILES), key=prod):
        distance = abs(width / height - columns / rows)
        half_filled = width * height > side**2 * columns * rows / 2
        if distance < nearest or (distance == nearest and half_filled):
            best, nearest = (columns, rows), distance
    tiles = prod(best) + 1 if prod(best) > 1 else 1
    of_one = int((side // patch) ** 2 * config.get("downsample_ratio", 0.5) ** 2)
    return ProcessedImage(tiles * of_one, (tiles, CHANNELS, side, side))


_GRID, _TYPES = "image_grid_thw", "mm_token_type_ids"
_QWEN2 = Processor(_qwen(56**2, 16384 * 28**2), 151_655, _GRID, _TYPES)
_QWEN3 = Processor(_qwen(256**2, 4096**2), 151_655, _GRID, _TYPES)
_GLM = Processor(_glm, 151_343, _GRID, _TYPES)
_IDEFICS3 = Processor(_tiles, 128_257, "pixel_attention_mask", by_row=True)
_GEMMA4 = Processor(_gemma4, 258_880, "image_position_ids", _TYPES, flash_attention_2=False)
PROCESSORS: Mapping[str, Processor] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM,
    "mistral3": Processor(_pixtral, 10),
    "gemma3": Processor(_gemma3, 262_144, types="token_type_ids"),
    "gemma4": _GEMMA4,
    "gemma4_unified": _GEMMA4,
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
    "internvl": Processor(_internvl, 151_667),
    "llava": Processor(_llava, 32_000),
    "mllama": Processor(_mllama, 128_256, "aspect_ratio_ids", flash_attention_2=False),
}
"""By model type."""


NO_IMAGES = (
    "images need a trace of the vision-language model; use --engine traced, or leave --images out."
)


def processed(model: ModelSpec, setup: TrainSetup) -> ProcessedImage:
    """One image of `setup` as the processor of `model`, one of `PROCESSORS`, makes it."""
    width, height = map(int, setup.image_size.split("x"))
    return PROCESSORS[model.model_type].process(model.published, (width, height))


def image_token(model: ModelSpec) -> int:
    """The id of the token whose embedding one of the tower takes the place of."""
    names = ("image_token_id", "image_token_index")
    ids = (model.published.get(name) for name in names)
    return next((i for i in ids if isinstance(i, int)), PROCESSORS[model.model_type].token)


_PROJECTORS = {"multi_modal_projector", "connector", "merger", "embed_vision", "embed_audio"}
_TOWERS = {"vision_tower", "vision_model", "audio_tower"}
_IN_VISUAL = {"patch_embed", "blocks", "pos_embed", "deepstack_merger_list"}


def part_of(module: str) -> str:
    """The one of `FROZEN_PARTS` that a module is in, by its full name in a model of `PROCESSORS`,
    as LLaMA-Factory tells them apart (model/model_utils/visual.py): Qwen3-VL's deepstack mergers
    are of its tower, a tower for sound with the one for images, and GLM's norms, positions and
    convolution around its blocks are in none, ""."""
    names = {*module.split(".")}
    if names & _PROJECTORS:
        return "multi_modal_projector"
    if names & _TOWERS or ("visual" in names and names & _IN_VISUAL):
        return "vision_tower"
    return "" if "visual" in names else "language_model"


def check_images(workload: Workload) -> None:
    """Raises UsageError for images that the model does not see, that its sequences have no room
    for, or beside an option that no trace with images was held against."""
    setup, model = workload.setup, workload.model
    if setup.images is None:
        return
    if model.stored is not None:
        raise UsageError(
            f"how {model.id} stores its vision tower is not known; name the model that it was made"
            " from, with --method qlora."
        )
    if model.model_type not in PROCESSORS:
        raise UsageError(
            f"no images of {model.id} ({model.model_type}) are known; they are of"
            f" {', '.join(PROCESSORS)}. Leave --images out for text alone."
        )
    width, height = map(int, setup.image_size.split("x"))
    if max(width, height) > MOST_UNLIKE_SIDES * min(width, height):
        raise UsageError(
            f"image size is {setup.image_size}; processors refuse a side more than"
            f" {MOST_UNLIKE_SIDES} times the other."
        )
    _check_options(setup)
    if setup.is_flash_attention_2 and not PROCESSORS[model.model_type].flash_attention_2:
        raise UsageError(
            f"transformers refuses FlashAttention 2 of {model.id} ({model.model_type}); leave out"
            " --attention flash_attention_2."
        )
    taken = setup.images * (processed(model, setup).tokens + 1)  # with one of text before each
    if taken > (room := setup.seq_len - setup.padded_tokens):
        raise UsageError(
            f"{_counted(setup)} need {taken:,} tokens of {model.id}, and a sequence has room for"
            f" {room:,}; cut, no model takes them: give a longer --seq-len or a smaller"
            " --image-size."
        )


def _check_options(setup: TrainSetup) -> None:
    refused = {
        "--packed": setup.is_packed,
        "--generation-batch-size": setup.completions_at_once > 0,
        "--sharding": setup.sharding not in ("none", "ddp"),
        "--transformers": setup.transformers != "5",
        "--kernels": setup.kernels != "transformers",
    }
    requested = next((name for name, is_asked in refused.items() if is_asked), None)
    if requested is not None:
        raise UsageError(
            f"no trace with images was held against what {requested} asks for; leave out one of"
            f" {requested} and --images."
        )


def _counted(setup: TrainSetup) -> str:
    return f"{setup.images} image{'s' * (setup.images != 1)} of {setup.image_size}"


def is_unchecked(setup: TrainSetup) -> bool:
    """Whether nothing real was held against a trace with images: a rehearsal computes no values,
    and the code of models that see looks at tokens and at the sizes of images."""
    return setup.images is not None and setup.device != "cpu"


def _trained(setup: TrainSetup) -> str:
    if setup.freeze:
        return f"{', '.join(setup.freeze)}: neither trains nor has adapters."
    return (
        "Of the vision tower trains what the method says: all in full, adapters where names of"
        " --targets are found in it."
    )


def image_words(workload: Workload) -> tuple[str, ...]:
    """What an answer says of its images."""
    if workload.setup.images is None:
        return ()
    image = processed(workload.model, workload.setup)
    pixels = " x ".join(map(str, image.pixels))
    words = (
        f"{_counted(workload.setup)} in each sequence: {image.tokens:,}"
        f" token{'s' * (image.tokens != 1)} and {pixels} float32 pixel values each."
        f" {_trained(workload.setup)}",
    )
    if not is_unchecked(workload.setup):
        return words
    return (
        *words,
        "Real steps with images on a CPU agree with these traces; not checked on a GPU.",
    )
