"""Tiny models that see, by type, and the batches that transformers' own image processors make for
them."""

from importlib import import_module
from typing import Any

import torch
from PIL import Image
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

Config = dict[str, Any]
VOCABULARY, IMAGE_TOKEN = 301, 300
_TEXT: Config = {
    "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 4096,
}  # fmt: skip
_TILE: Config = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "patch_size": 14, "image_size": 56,
}  # fmt: skip
_PATCHES: Config = {"depth": 2, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
_MARKS: Config = {
    "video_token_id": 299,
    "vision_start_token_id": 298,
    "vision_end_token_id": 297,
    "tie_word_embeddings": False,
}


_MIXED = ["linear_attention", "full_attention"]


def _mrope(*sections: int) -> Config:
    return {"rope_scaling": {"rope_type": "default", "mrope_section": list(sections)}}


def _config(model_type: str, kind: str, text: Config, vision: Config, **rest: Any) -> Config:
    return {
        "model_type": model_type,
        "architectures": [f"{kind}ForConditionalGeneration"],
        "text_config": _TEXT | text,
        "vision_config": vision,
        "image_token_id": IMAGE_TOKEN,
        **rest,
    }


_GLM_ROPE: Config = {
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1]}
    | {"partial_rotary_factor": 0.5, "rope_theta": 10_000.0}
}
_GLM_MARKS: Config = {
    "video_token_id": 299,
    "image_start_token_id": 298,
    "image_end_token_id": 297,
    "video_start_token_id": 296,
    "video_end_token_id": 295,
}
_GEMMA4: Config = {
    "model_type": "gemma4_text", "head_dim": 16, "global_head_dim": 32, "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2,
}  # fmt: skip
_GEMMA4_TOWER: Config = {
    "model_type": "gemma4_vision",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "patch_size": 4,
    "pooling_kernel_size": 2,  # of three the CPU kernel's scratch, in no trace, is 0.8 % of a peak
    "position_embedding_size": 64,
}
_GEMMA4_MARKS: Config = {
    "video_token_id": 299, "audio_token_id": 298, "boi_token_id": 297, "eoi_token_id": 296,
    "boa_token_id": 295, "eoa_token_index": 294,
}  # fmt: skip


TINY: dict[str, Config] = {
    "qwen2_vl": _config("qwen2_vl", "Qwen2VL", _mrope(2, 2, 2), _PATCHES | {"embed_dim": 32,
        "hidden_size": 48, "mlp_ratio": 2, "patch_size": 14}, **_MARKS),
    "qwen2_5_vl": _config("qwen2_5_vl", "Qwen2_5_VL", _mrope(2, 2, 2), _PATCHES
        | {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "patch_size": 14}
        | {"window_size": 112, "fullatt_block_indexes": [1]}, **_MARKS),
    "qwen3_vl": _config("qwen3_vl", "Qwen3VL", _mrope(3, 3, 2) | {"head_dim": 16}, _PATCHES
        | {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 48, "patch_size": 16}
        | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}, **_MARKS),
    "qwen3_5": _config("qwen3_5", "Qwen3_5", {"model_type": "qwen3_5_text", "head_dim": 16,
        "layer_types": _MIXED, "hidden_act": "silu"} | {"linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8} | {"linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4} | {"rope_parameters": {"rope_type": "default",
        "mrope_section": [1, 1, 0]}}, _PATCHES | {"hidden_size": 32, "intermediate_size": 64,
        "out_hidden_size": 48, "patch_size": 16} | {"num_position_embeddings": 64,
        "deepstack_visual_indexes": []}, **_MARKS),
    "mistral3": _config("mistral3", "Mistral3", {"model_type": "mistral", "head_dim": 16,
        "hidden_act": "silu"}, _TILE | {"model_type": "pixtral", "image_size": 196, "head_dim": 16},
        spatial_merge_size=2, vision_feature_layer=-1),
    "pixtral": _config("llava", "Llava", {"model_type": "mistral", "head_dim": 16,
        "hidden_act": "silu"}, _TILE | {"model_type": "pixtral", "image_size": 196, "head_dim": 16},
        vision_feature_layer=-1, vision_feature_select_strategy="full"),
    "gemma3": _config("gemma3", "Gemma3", {"model_type": "gemma3_text", "head_dim": 16,
        "sliding_window": 64}, _TILE | {"model_type": "siglip_vision_model"},
        mm_tokens_per_image=4),
    "idefics3": _config("idefics3", "Idefics3", {"model_type": "llama"}, _TILE
        | {"model_type": "idefics3_vision"}, scale_factor=2),
    "smolvlm": _config("smolvlm", "SmolVLM", {"model_type": "llama"}, _TILE
        | {"model_type": "smolvlm_vision"}, scale_factor=2),
    "llava": _config("llava", "Llava", {"model_type": "llama"}, _TILE
        | {"model_type": "clip_vision_model", "projection_dim": 32}, vision_feature_layer=-2,
        vision_feature_select_strategy="default"),
    "glm4v": _config("glm4v", "Glm4v", {"model_type": "glm4v_text", "pad_token_id": 0,
        "hidden_act": "silu"} | _GLM_ROPE, _PATCHES | {"hidden_size": 32, "intermediate_size": 64,
        "out_hidden_size": 48, "patch_size": 14} | {"image_size": 56}, **_GLM_MARKS),
    "glm46v": _config("glm46v", "Glm46V", {"model_type": "glm4v_text", "pad_token_id": 0,
        "hidden_act": "silu"} | _GLM_ROPE, _PATCHES | {"model_type": "glm4v_vision",
        "hidden_size": 32, "intermediate_size": 64} | {"out_hidden_size": 48, "patch_size": 14,
        "image_size": 56}, **_GLM_MARKS),
    "gemma4": _config("gemma4", "Gemma4", _GEMMA4 | {"hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY} | {"num_kv_shared_layers": 2,
        "use_double_wide_mlp": True, "num_hidden_layers": 4} | {"layer_types": ["sliding_attention",
        "full_attention"] * 2}, _GEMMA4_TOWER, audio_config={"hidden_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2} | {"subsampling_conv_channels": [8, 4],
        "output_proj_dims": 24}, **_GEMMA4_MARKS),
    "gemma4 of experts": _config("gemma4", "Gemma4", _GEMMA4 | {"hidden_size_per_layer_input": 0,
        "use_bidirectional_attention": "vision"} | {"attention_k_eq_v": True,
        "num_global_key_value_heads": 1, "enable_moe_block": True} | {"num_experts": 4,
        "top_k_experts": 2, "moe_intermediate_size": 16}, _GEMMA4_TOWER | {"standardize": True},
        audio_config=None, **_GEMMA4_MARKS),
    "gemma4_unified": _config("gemma4_unified", "Gemma4Unified", _GEMMA4
        | {"model_type": "gemma4_unified_text", "use_bidirectional_attention": "vision"},
        {"model_type": "gemma4_unified_vision", "patch_size": 4, "pooling_kernel_size": 3}
        | {"mm_embed_dim": 48, "mm_posemb_size": 64, "output_proj_dims": 48}, audio_config=None,
        **_GEMMA4_MARKS),
    "internvl": _config("internvl", "InternVL", {"model_type": "qwen2"}, _TILE
        | {"model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
        image_seq_length=4),
    "mllama": _config("mllama", "Mllama", {"model_type": "mllama_text_model",
        "num_hidden_layers": 3, "cross_attention_layers": [1]} | {"pad_token_id": 0},
        {"model_type": "mllama_vision_model", "hidden_size": 32, "intermediate_size": 64}
        | {"num_hidden_layers": 3, "num_global_layers": 1, "attention_heads": 2, "patch_size": 14}
        | {"image_size": 56, "intermediate_layers_indices": [0, 2], "vision_output_dim": 96}
        | {"max_num_tiles": 4}, image_token_index=IMAGE_TOKEN),
}  # fmt: skip
TYPES = {"gemma3": "token_type_ids"}
_TYPED = ("qwen", "glm", "gemma4")
_SETTINGS: dict[str, tuple[str, str]] = {
    "qwen2_5_vl": ("qwen2_vl", "Qwen2VL"), "qwen2_vl": ("qwen2_vl", "Qwen2VL"),
    "qwen3_vl": ("qwen2_vl", "Qwen2VL"), "qwen3_5": ("qwen2_vl", "Qwen2VL"),
    "pixtral": ("pixtral", "Pixtral"), "gemma3": ("gemma3", "Gemma3"),
    "idefics3": ("idefics3", "Idefics3"), "smolvlm": ("smolvlm", "SmolVLM"),
    "llava": ("llava", "Llava"), "mllama": ("mllama", "Mllama"), "glm4v": ("glm4v", "Glm4v"),
    "glm46v": ("glm46v", "Glm46V"), "gemma4": ("gemma4", "Gemma4"),
    "gemma4_unified": ("gemma4", "Gemma4"), "internvl": ("got_ocr2", "GotOcr2"),
}  # fmt: skip
"""Folder and class of the image processor of each type."""


def image_processor(config: Config) -> Any:
    """transformers' own, with what the preprocessor_config.json of published models of the type
    says."""
    kind, vision = config["model_type"], config["vision_config"]
    if vision.get("model_type") == "pixtral":
        kind = "pixtral"
    folder, name = _SETTINGS[kind]
    module = import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
    made = getattr(module, f"{name}ImageProcessorPil")
    if kind == "pixtral":
        merged = vision["patch_size"] * config.get("spatial_merge_size", 1)
        return made(size={"longest_edge": vision["image_size"]}, patch_size=merged)
    if kind in ("qwen3_vl", "qwen3_5"):
        pixels = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
        return made(size=pixels, patch_size=vision["patch_size"])
    if folder == "qwen2_vl":
        return made(min_pixels=3136, max_pixels=12_845_056, patch_size=vision["patch_size"])
    if kind.startswith("glm"):
        return made(size={"shortest_edge": 12_544, "longest_edge": 9_633_792})
    if folder == "gemma4":
        pooled = vision["pooling_kernel_size"]
        return made(patch_size=vision["patch_size"], pooling_kernel_size=pooled)
    side = vision["image_size"]
    if kind == "internvl":
        return made(size={"height": side[0], "width": side[1]}, crop_to_patches=True)
    if kind in ("gemma3", "mllama"):
        return made(size={"height": side, "width": side})
    if kind == "llava":
        return made(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return made(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side})


def processor_inputs(
    config: Config, ids: torch.Tensor, images: int, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """What the processor returns for the sequences `ids` of `images` images each, beside them."""
    rows = len(ids)
    picture = Image.new("RGB", size, (90, 120, 200))
    nested = config["model_type"] in ("idefics3", "smolvlm", "mllama")
    asked: Any = [[picture] * images] * rows if nested else [picture] * (images * rows)
    made = image_processor(config)(images=asked, return_tensors="pt")
    if config["model_type"] == "mllama":
        made["cross_attention_mask"] = torch.from_numpy(
            convert_sparse_cross_attention_mask_to_dense(
                [get_cross_attention_token_mask(row, IMAGE_TOKEN) for row in ids.tolist()],
                made["num_tiles"],
                config["vision_config"]["max_num_tiles"],
                ids.shape[1],
            )
        )
    if config["model_type"] == "gemma4_unified":
        _pool(made)
    unused = ("num_crops", "rows", "cols", "num_tiles", "num_patches", "num_soft_tokens_per_image")
    return {name: value for name, value in made.items() if name not in unused}


def _pool(made: Any) -> None:
    """What Gemma4UnifiedImageProcessor, which takes torchvision, does beyond Gemma 4's: the patches
    of a soft token laid side by side."""
    pixels, positions = made["pixel_values"], made["image_position_ids"]
    made["pixel_values"] = pixels.reshape(len(pixels), 280, -1)
    there = [[p for p in image.tolist() if p[0] % 3 == p[1] % 3 == 0] for image in positions]
    pooled = [[[x // 3, y // 3] for x, y in image] for image in there]
    made["image_position_ids"] = torch.tensor([p + [[-1, -1]] * (280 - len(p)) for p in pooled])


def batch(
    config: Config, rows: int, length: int, images: int, tokens: int, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Text around `images` times `tokens` tokens of images, and what the image processor makes."""
    ids = torch.randint(0, 290, (rows, length), generator=torch.Generator().manual_seed(1))
    for first in range(3, 3 + images * (tokens + 2), tokens + 2):
        ids[:, first : first + tokens] = IMAGE_TOKEN
    found = {"input_ids": ids, "labels": ids.masked_fill(ids == IMAGE_TOKEN, -100)}
    kind = config["model_type"]
    types = "mm_token_type_ids" if kind.startswith(_TYPED) else TYPES.get(kind)
    if types is not None:
        found[types] = (ids == IMAGE_TOKEN).to(torch.int64)
    return found | processor_inputs(config, ids, images, size)
