"""Which questions about images have an answer, and how many tokens their images take. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.image_processors import MOST_UNLIKE_SIDES, PROCESSORS, ProcessedImage
from lora_profiler.workload import TrainSetup, Workload

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
