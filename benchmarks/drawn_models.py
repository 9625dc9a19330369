"""The bundled models that seeded questions are drawn from: rows asked once stay those of the same
draw when the catalogue grows."""

from collections.abc import Sequence

from lora_profiler.catalog import bundled_models
from lora_profiler.catalog.bundled import CatalogEntry

_SINCE = [
    "Alibaba-NLP/gte-modernbert-base",
    "BAAI/bge-m3",
    "ByteDance-Seed/Seed-OSS-36B-Instruct",
    "CohereForAI/c4ai-command-r7b-12-2024",
    "HKUSTAudio/Llasa-1B",
    "HKUSTAudio/Llasa-3B",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "LiquidAI/LFM2-1.2B",
    "LiquidAI/LFM2-350M",
    "LiquidAI/LFM2-8B-A1B",
    "LiquidAI/LFM2-VL-1.6B",
    "LiquidAI/LFM2-VL-450M",
    "LiquidAI/LFM2.5-VL-1.6B",
    "PaddlePaddle/PaddleOCR-VL",
    "Qwen/Qwen3-Embedding-0.6B",
    "Qwen/Qwen3-Embedding-4B",
    "Qwen/Qwen3.5-0.8B",
    "Qwen/Qwen3.5-122B-A10B",
    "Qwen/Qwen3.5-2B",
    "Qwen/Qwen3.5-397B-A17B",
    "Qwen/Qwen3.5-4B",
    "Qwen/Qwen3.5-9B",
    "ai21labs/AI21-Jamba-1.5-Large",
    "ai21labs/Jamba-v0.1",
    "answerdotai/ModernBERT-large",
    "arcee-ai/AFM-4.5B",
    "baidu/ERNIE-4.5-21B-A3B-PT",
    "baidu/ERNIE-4.5-VL-28B-A3B-PT",
    "canopylabs/orpheus-3b-0.1-ft",
    "deepcogito/cogito-v1-preview-qwen-14B",
    "google/embeddinggemma-300m",
    "google/gemma-4-12B",
    "google/gemma-4-31B",
    "google/gemma-4-E2B",
    "google/gemma-4-E4B",
    "ibm-granite/granite-4.0-350m",
    "ibm-granite/granite-4.0-h-micro",
    "ibm-granite/granite-4.0-h-tiny",
    "ibm-granite/granite-4.0-micro",
    "ibm-granite/granite-4.0-tiny-preview",
    "meta-llama/Llama-3.2-11B-Vision",
    "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "meta-llama/Llama-3.2-90B-Vision",
    "meta-llama/Llama-3.2-90B-Vision-Instruct",
    "meta-models/Muse-Glimmer-30B",
    "mistralai/Ministral-3-14B-Base-2512",
    "mistralai/Ministral-3-3B-Base-2512",
    "mistralai/Ministral-3-8B-Base-2512",
    "mistralai/Ministral-8B-Instruct-2410",
    "mistralai/Mistral-Small-4-119B-2603",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
    "swiss-ai/Apertus-8B-Instruct-2509",
    "teknium/OpenHermes-2.5-Mistral-7B",
    "tencent/Hunyuan-0.5B-Instruct",
    "tiiuae/Falcon-H1-0.5B-Instruct",
    "tiiuae/Falcon-H1-1.5B-Base",
    "tiiuae/Falcon-H1-1.5B-Deep-Base",
    "tiiuae/Falcon-H1-34B-Base",
    "tiiuae/Falcon-H1-3B-Base",
    "tiiuae/Falcon-H1-7B-Base",
    "zai-org/GLM-4-32B-0414",
    "zai-org/GLM-4.6V-Flash",
    "zai-org/GLM-4.7-Flash",
]
"""Models that the catalogue did not have then."""


def drawn_models() -> Sequence[CatalogEntry]:
    return [model for model in bundled_models() if model.id not in _SINCE]
