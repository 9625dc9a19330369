"""Images of models that see: tokens and tensors against transformers' own processors, traced steps
against steps really taken on the CPU, counts against PEFT's and against published ones."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from test_traced import close
from transformers import BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

import oracle
import seeing
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.facts.catalog.bundled import vision_rows
from lora_profiler.facts.catalog.lookup import seeing_model
from lora_profiler.measuring.harness.training import TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.planning.engine import predict
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.timing import step_time
from lora_profiler.question.adapters import adapters
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import FROZEN_PARTS
from lora_profiler.question.support.check import check
from lora_profiler.question.support.images import PROCESSORS, processed
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.attention import _aligned
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.modeling.build import base_model
from lora_profiler.trace.modeling.contents import with_images
from lora_profiler.trace.run import trace
from tracing import peaks_of

FULL = TrainSetup(
    device="cpu", dtype="float32", batch_size=2, seq_len=256, images=1, image_size="196x150"
)
LORA = replace(FULL, lora=LoraConfig(adapter_dtype="float32"))
TEXT_ALONE = r".*language_model.*(o_proj|down_proj)|.*text_model.*(o_proj|down_proj)"


def workload_of(name: str, setup: TrainSetup) -> Workload:
    model = model_from_config(seeing.TINY[name], id=f"tiny-{name}", source="test")
    if name.startswith("gemma4"):  # which makes an image as large as it may be
        setup = replace(setup, seq_len=640)
    return Workload(model=model, setup=setup)


# --- processors -----------------------------------------------------------------------------------

SIZES = ((1024, 768), (640, 480), (333, 1001), (30, 20), (57, 56), (2000, 300), (448, 448))


def test_every_processor_has_a_tiny_model() -> None:
    types = {config["model_type"] for config in seeing.TINY.values()}
    assert types | {"qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe"} == {*PROCESSORS}


@pytest.mark.grid
@pytest.mark.parametrize("name", seeing.TINY)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_are_as_the_processor_makes_them(name: str, size: tuple[int, int]) -> None:
    config = seeing.TINY[name]
    workload = workload_of(name, replace(FULL, images=2, image_size="{}x{}".format(*size)))
    ids = torch.zeros((3, 8), dtype=torch.int64)
    mine = with_images(workload.model, workload.setup, {"input_ids": ids, "labels": ids})
    made = seeing.processor_inputs(config, mine["input_ids"], 2, size)
    for key, tensor in made.items():
        assert (mine[key].shape, mine[key].dtype) == (tensor.shape, tensor.dtype), key
        if not tensor.is_floating_point():
            assert torch.equal(mine[key], tensor), key
    assert {*made} == {*mine} - {"input_ids", "labels", "mm_token_type_ids", "token_type_ids"}


# --- steps ----------------------------------------------------------------------------------------

SETUPS = {
    "full": FULL,
    "lora": LORA,
    "lora on text alone": replace(
        FULL, lora=LoraConfig(target_modules=TEXT_ALONE, adapter_dtype="float32")
    ),
    "lora checkpointed": replace(LORA, checkpointing=True),
    "two images": replace(LORA, images=2),
    "padded": replace(LORA, padding=0.25),
    "amp": replace(FULL, precision="amp"),
    "half": replace(
        FULL, dtype="bfloat16", lora=LoraConfig(target_modules=TEXT_ALONE, adapter_dtype="bfloat16")
    ),
    "qlora": replace(LORA, quantization=Quantization()),
    "accumulated": replace(FULL, accumulation=2),
    "8-bit Adam": replace(FULL, optimizer="adamw_8bit"),
    "fused loss": replace(LORA, loss="fused"),
    "tiled loss": replace(FULL, loss="trl"),
    "tower frozen": replace(FULL, freeze=("vision_tower",)),
    "tower frozen under lora": replace(LORA, freeze=("vision_tower", "multi_modal_projector")),
    "language model frozen": replace(FULL, freeze=("language_model",)),
    "tower frozen, checkpointed": replace(
        FULL, freeze=("vision_tower", "multi_modal_projector"), checkpointing=True
    ),
    "DoRA": replace(LORA, lora=LoraConfig(adapter_dtype="float32", use_dora=True)),
}
CELLS = [
    *((name, kind) for name in seeing.TINY for kind in ("full", "lora", "lora on text alone")),
    *((name, "tower frozen") for name in seeing.TINY),
    *(("qwen2_5_vl", kind) for kind in ("lora checkpointed", "amp", "qlora", "accumulated")),
    *(("gemma3", kind) for kind in ("language model frozen", "tower frozen under lora")),
    *(("qwen3_vl", kind) for kind in ("language model frozen", "tower frozen, checkpointed")),
    *(("qwen3_vl", kind) for kind in ("lora checkpointed", "two images", "padded", "tiled loss")),
    *(("gemma3", kind) for kind in ("half", "padded", "two images")),
    *(("smolvlm", kind) for kind in ("two images", "qlora", "fused loss")),
    *(("llava", kind) for kind in ("amp", "half", "lora checkpointed", "DoRA")),
    *((name, "8-bit Adam") for name in ("gemma3", "mllama")),
    *(("mllama", kind) for kind in ("lora checkpointed", "half", "qlora", "two images", "padded")),
    *(("mllama", kind) for kind in ("amp", "language model frozen", "tower frozen, checkpointed")),
]


@pytest.mark.grid
@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_real_steps(name: str, kind: str) -> None:
    """The batch of the real step is the processor's own; the model itself refuses another number of
    tokens than its tower makes."""
    workload = workload_of(name, SETUPS[kind])
    setup = workload.setup
    found = peaks_of(trace(workload, lambda w: build_model(w, device="meta")).trace)
    tokens, size = processed(workload.model, setup).tokens, (196, 150)
    batch = seeing.batch(
        seeing.TINY[name], setup.batch_size, setup.seq_len, setup.images or 0, tokens, size
    )
    if setup.is_padded:
        mask = torch.ones_like(batch["input_ids"])
        mask[:, -setup.padded_tokens :] = 0
        batch["attention_mask"] = mask
    close(found, oracle.step_peaks(build_model(workload), setup, batch=batch))


ON_CARD = replace(
    LORA,
    device="cuda",
    dtype="bfloat16",
    attention="flash_attention_2",
    lora=LoraConfig(target_modules=r".*language_model.*_proj|.*text_model.*_proj"),
)


FLASHED = [
    name for name, tiny in seeing.TINY.items() if PROCESSORS[tiny["model_type"]].flash_attention_2
]


@pytest.mark.grid
@pytest.mark.parametrize("name", FLASHED)
def test_flash_attention_2_beside_sdpa_s_flash_kernel(name: str) -> None:
    """By hand: of Qwen's towers the kernel takes all images in one call, where SDPA takes one after
    the other and lays their outputs end to end; Gemma 3's language model needs no mask, nor does
    Pixtral's tower, whose patches of all images SDPA keeps apart by one. Elsewhere both keep the
    same."""
    setup = replace(FULL, device="cuda", dtype="bfloat16", precision="pure")
    fa2, sdpa = (
        predict(workload_of(name, replace(setup, attention=kernel))).saved_activation_bytes
        for kernel in ("flash_attention_2", "flash")
    )
    assert fa2 is not None and sdpa is not None
    outputs = 0
    if name.startswith(("qwen", "glm")):
        patches = setup.batch_size * processed(workload_of(name, setup).model, setup).pixels[0]
        outputs = 2 * patches * 32 * 2  # two layers of 32 features in 16 bit
    if name in ("mistral3", "pixtral"):
        pixels = processed(workload_of(name, setup).model, setup).pixels
        side = seeing.TINY[name]["vision_config"]["patch_size"]
        patches = setup.batch_size * (pixels[-2] // side) * (pixels[-1] // side)
        outputs = 2 * patches**2  # the mask, in 16 bit
        if patches % 8:  # which each of two layers has in a copy whose rows begin at multiples of 8
            outputs = 2 * 2 * patches * (patches + 8 - patches % 8)
    masked = name == "gemma3"  # and then SDPA takes a kernel with other statistics
    assert sdpa - fa2 == pytest.approx(outputs, abs=200) or (masked and sdpa > fa2)


@pytest.mark.parametrize("name", sorted({*seeing.TINY} - {*FLASHED}))
def test_flash_attention_2_is_refused_where_transformers_refuses_it(name: str) -> None:
    workload = workload_of(name, replace(ON_CARD, images=1))
    assert not type(base_model(workload.model, FULL, device="meta"))._supports_flash_attn
    with pytest.raises(UsageError, match="transformers refuses FlashAttention 2"):
        check(workload, "auto")


def test_rows_of_a_mask_are_padded_for_the_efficient_kernel() -> None:
    """By hand: four tiles of 17 patches are 68 columns, of which a copy has 72; rows that begin at
    multiples of 8 need none."""
    mask = torch.empty((2, 1, 5, 68), dtype=torch.bfloat16, device="meta")
    padded = _aligned(mask)
    assert padded.shape == mask.shape and padded.untyped_storage().nbytes() == 2 * 5 * 72 * 2
    assert _aligned(mask[..., :64].contiguous()).stride() == (320, 320, 64, 1)


def test_axolotl_s_kernels_save_below_images_what_rules_say_of_the_text_alone() -> None:
    text = {**seeing.TINY["gemma3"]["text_config"], "architectures": ["Gemma3ForCausalLM"]}
    alone = model_from_config(text, id="tiny-text", source="test")
    setup = replace(ON_CARD, precision="amp")

    def saved(model: ModelSpec, images: int | None, targets: str | None) -> int:
        kept = []
        for kernels in ("peft", "axolotl"):
            lora = LoraConfig(target_modules=targets, lora_kernels=kernels)  # type: ignore[arg-type]
            answer = predict(Workload(model=model, setup=replace(setup, images=images, lora=lora)))
            assert answer.saved_activation_bytes is not None
            kept.append(answer.saved_activation_bytes)
        return kept[0] - kept[1]

    seen = saved(workload_of("gemma3", setup).model, 1, r".*language_model.*_proj")
    assert seen == saved(alone, None, "all-linear") > 0


def test_a_base_in_4_bit_is_that_of_transformers(tmp_path: Path) -> None:
    """Which layers of tower and projector are packed, loaded from a checkpoint by transformers."""
    workload = workload_of("qwen2_5_vl", SETUPS["qlora"])
    base_model(workload.model, workload.setup).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=nf4, device_map="cpu"
    )
    made = build_model(workload, bare=True)
    assert packed_layers(made) == packed_layers(loaded)
    assert any("visual" in name for name in packed_layers(made))


def packed_layers(model: torch.nn.Module) -> set[str]:
    return {n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("name", seeing.TINY)
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("qkv", "fc1"), None])
def test_adapters_are_those_of_peft(name: str, targets: str | tuple[str, ...] | None) -> None:
    """Of tower and language model alike: on the real class, by PEFT itself, where it adapts any."""
    workload = workload_of(name, replace(FULL, lora=LoraConfig(r=4, target_modules=targets)))
    with torch.device("meta"):
        real = base_model(workload.model, FULL, device="meta")
        config = peft.LoraConfig(r=4, target_modules=list(targets) if targets else None)
        if isinstance(targets, str):
            config = peft.LoraConfig(r=4, target_modules=targets)
        try:
            trained, _ = peft.get_peft_model(real, config).get_nb_trainable_parameters()
        except ValueError:
            with pytest.raises(UsageError):
                adapters(workload.model, workload.setup.lora)
            return
    found = adapters(workload.model, workload.setup.lora)
    assert sum(adapter.num_parameters(4) for adapter in found) == trained
    assert predict(workload).parameters.trainable == trained


GEMMA4 = r"(vision|audio)_tower", r"embed_(vision|audio)"
GLM = r"visual\.(patch_embed|blocks)", r"visual\.merger"
TOWERS = {
    "gemma4": GEMMA4, "gemma4 of experts": GEMMA4, "gemma4_unified": GEMMA4, "glm4v": GLM,
    "glm46v": GLM, "internvl": ("vision_tower", "multi_modal_projector"),
    "mistral3": ("vision_tower", "multi_modal_projector"),
    "pixtral": ("vision_tower", "multi_modal_projector"),
    "gemma3": ("vision_tower", "multi_modal_projector"), "idefics3": ("vision_model", "connector"),
    "smolvlm": ("vision_model", "connector"), "llava": ("vision_tower", "multi_modal_projector"),
    "mllama": ("vision_model", "multi_modal_projector"),
}  # fmt: skip
"""Where the real classes have tower and projector, as LLaMA-Factory's table has it; Qwen's
projector is in its tower."""


@pytest.mark.parametrize("name", seeing.TINY)
def test_what_is_frozen_neither_trains_nor_has_adapters(name: str) -> None:
    workload = workload_of(name, FULL)
    real: Any = base_model(workload.model, FULL, device="meta")
    paths = TOWERS.get(name, ("visual", r"visual\.merger"))
    tower, projector = (
        {n for n, p in real.named_parameters() if re.match(rf"model\.({path})\.", n)}
        for path in paths
    )
    adapters_on_all = trained(workload_of(name, LORA))
    for part, inside in (("vision_tower", tower - projector), ("multi_modal_projector", projector)):
        frozen = replace(workload, setup=replace(FULL, freeze=(part,)))
        assert trained(frozen) == {n for n, _ in real.named_parameters()} - inside
        on_all = replace(workload, setup=replace(LORA, freeze=(part,)))
        layers = {n.removesuffix("weight") for n in inside if n.endswith("weight")}
        assert trained(on_all) == {n for n in adapters_on_all if not within(n, layers)}


def trained(workload: Workload) -> set[str]:
    built = build_model(workload, device="meta")
    return {n for n, p in built.named_parameters() if p.requires_grad}


def within(name: str, layers: set[str]) -> bool:
    return any(name.startswith(f"base_model.model.{layer}") for layer in layers)


@pytest.mark.grid
@pytest.mark.parametrize("row", vision_rows().values(), ids=lambda row: row["id"])
def test_whole_models_have_the_parameters_that_are_published(row: dict[str, Any]) -> None:
    model = seeing_model(row["id"])
    assert model.num_parameters == row["num_parameters"]
    assert model.model_type in PROCESSORS


# --- questions ------------------------------------------------------------------------------------


def test_with_images_a_text_side_is_the_whole_model() -> None:
    """And without them the answer goes on saying that it is of the text alone."""
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    text = Workload(model=find_model(name))
    assert text.model.id == "Qwen/Qwen2.5-3B"
    assert any("vision tower of" in words for words in predict(text).assumptions)
    whole = replace(text, setup=replace(text.setup, images=1))
    assert (whole.model.id, whole.model.num_parameters) == (name, 3_754_622_976)
    assert processed(whole.model, whole.setup).tokens == 999  # 37 x 27 pairs of patches of 14


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": 20}, "need 340 tokens of tiny-llava, and a sequence has room for 256"),
        ({"images": 15, "padding": 0.25}, "room for 192"),
        ({"image_size": "3000x10"}, "more than 200 times"),
        ({"packed": 64}, "what --packed asks for"),
        ({"world_size": 2, "sharding": "fsdp"}, "what --sharding asks for"),
        ({"freeze": ("vision_towel",)}, "Did you mean vision_tower"),
        ({"freeze": ("vision_tower",), "images": None}, "add --images N"),
        ({"freeze": FROZEN_PARTS}, "nothing is left to train"),
        ({"freeze": ("language_model",), "lora": LoraConfig()}, "leave out the vision tower"),
    ],
)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(workload_of("llava", replace(FULL, **changes)), "auto")


@pytest.mark.parametrize("engine", ["analytic", "compiled", "rehearsed"])
def test_images_are_traced_alone(engine: str) -> None:
    with pytest.raises(UsageError, match="--engine traced"):
        predict(workload_of("llava", FULL), engine)
    with pytest.raises(UsageError, match="--engine traced"):
        predict(workload_of("llava", FULL), may_trace=False)


def test_a_model_without_a_tower_sees_nothing() -> None:
    with pytest.raises(UsageError, match="no images of openai-community/gpt2"):
        check(Workload(model=find_model("gpt2"), setup=FULL), "auto")


@pytest.mark.parametrize("size", ["", "1024", "1024x", "0x5", "1024 x 768", "1e3x4", "10x123456"])
def test_a_size_is_two_numbers(size: str) -> None:
    with pytest.raises(UsageError, match="as in 1024x768"):
        TrainSetup(images=1, image_size=size)


def test_what_a_card_does_with_images_is_an_estimate() -> None:
    """No rehearsal runs a model that looks at its tokens, and no step with images was timed."""
    on_card = workload_of("llava", replace(FULL, device="cuda"))
    answer = predict(on_card)
    assert answer.exactness == "estimate"
    assert any("not checked on a GPU" in words for words in answer.assumptions)
    assert predict(workload_of("llava", FULL)).exactness == "exact"
    timing = step_time(on_card, find_gpu("rtx_4090"))
    assert timing.step is None and "vision tower" in (timing.refusal or "")
    assert smallest_cards(answer, "traced")


def test_measured_batches_have_images() -> None:
    workload = workload_of("smolvlm", FULL)
    batches = TrainingBatches(FULL, Conditions(), seeing.VOCABULARY, model=workload.model)
    one, other = batches.next(), batches.next()
    assert one["pixel_values"].shape == (2, 17, 3, 56, 56)
    assert not torch.equal(one["pixel_values"], other["pixel_values"])
    tokens = processed(workload.model, FULL).tokens
    assert (one["input_ids"] == seeing.IMAGE_TOKEN).sum() == 2 * tokens
