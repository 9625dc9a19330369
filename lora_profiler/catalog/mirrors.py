"""Other names of bundled models: mirrors, tuned versions of the same sizes, NF4 copies, and models
that see, whose text side is one of them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from lora_profiler.catalog.bundled import bare_names, facts, seeing_tails, vision_rows
from lora_profiler.model_spec import StoredBase

_MIRRORS = frozenset(
    {"unsloth", "nousresearch", "alpindale", "casperhansen", "mistral-community", "axolotl-ai-co"}
    | {"mhenrichsen"}
)
"""Who publish copies of others' models under their own names, config.json unchanged."""
_NF4 = StoredBase(quant_type="nf4", double_quant=True, compute_dtype="bfloat16")
"""As `bnb_4bit_*` stand in the config.json of Unsloth's copies."""
_COPIES = {"-unsloth-bnb-4bit": replace(_NF4, partly=True), "-bnb-4bit": _NF4}
"""Endings of Unsloth's copies, the longer one first: it leaves some layers in 16 bit."""
_AS_LLAMA: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "phi-3-mini-4k-instruct": ("mistral", "MistralForCausalLM", {"sliding_window": 2048}),
    "phi-3-medium-4k-instruct": ("mistral", "MistralForCausalLM", {"sliding_window": 2048}),
    "phi-3.5-mini-instruct": ("llama", "LlamaForCausalLM", {"rope_scaling": None}),
    "phi-4": ("llama", "LlamaForCausalLM", {}),
}
"""Copies of Unsloth's whose q, k and v, gate and up are layers of their own, as in Llama: the type,
class and other fields of their config.json (unsloth/Phi-3-medium-4k-instruct-bnb-4bit@325d62d;
those of tuned versions name the others), and what its notebooks print of them."""
_OF_PHI3 = ("embd_pdrop", "resid_pdrop", "sliding_window")
_SAME_SIZES = {
    "qwen": ("-instruct", "-chat", "-base"), "meta-llama": ("-instruct",), "google": ("-it", "-pt"),
    "mistralai": (), "huggingfacetb": ("-instruct", "-base"), "tiiuae": ("-instruct", "-base"),
    "ibm-granite": ("-instruct", "-base"), "allenai": ("-instruct", "-sft", "-dpo"),
    "01-ai": ("-chat",), "codellama": ("-instruct",), "deepseek-ai": ("-base", "-chat"),
    "microsoft": (),
}  # fmt: skip
"""Endings by which owners tell tuned versions apart; sizes, vocabulary and tying are those of the
model without, or with another ending."""
_RENAMED = {
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "llama-3-70b-instruct": "meta-llama/Meta-Llama-3-70B",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-hf",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-hf",
    "codellama-7b": "codellama/CodeLlama-7b-hf",
    "codellama-34b": "codellama/CodeLlama-34b-hf",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "zephyr-sft": "mistralai/Mistral-7B-v0.1",
    "zephyr-7b-sft-full": "mistralai/Mistral-7B-v0.1",
    "zephyr-7b-sft-qlora": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-sft-constitutional-ai": "mistralai/Mistral-7B-v0.1",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "tinyllama-chat": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "tinyllama_v1.1": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "gpt-oss-20b-bf16": "openai/gpt-oss-20b",
    "gpt-oss-120b-bf16": "openai/gpt-oss-120b",
    "gpt-oss-120b-dequantized": "openai/gpt-oss-120b",
    "gpt-oss-safeguard-20b": "openai/gpt-oss-20b",
    "llama-3-70b-fp16": "meta-llama/Meta-Llama-3-70B",
    "deepcoder-14b-preview": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "smollm2-1.7b-sft": "HuggingFaceTB/SmolLM2-1.7B",
    "smollm2-360m-sft": "HuggingFaceTB/SmolLM2-360M",
    "smollm3-3b-checkpoints": "HuggingFaceTB/SmolLM3-3B",
    "stablelm-2-1_6b": "stabilityai/stablelm-2-zephyr-1_6b",
    "open_llama_3b_v2": "openlm-research/open_llama_3b",
    "phi-4": "microsoft/phi-4",
    "qwen3-4b-thinking-2507": "Qwen/Qwen3-4B-Instruct-2507",
    "qwen3-30b-a3b-instruct-2507": "Qwen/Qwen3-30B-A3B",
    "qwen3-30b-a3b-thinking-2507": "Qwen/Qwen3-30B-A3B",
    "qwen3-235b-a22b-instruct-2507": "Qwen/Qwen3-235B-A22B",
    "qwen3-235b-a22b-thinking-2507": "Qwen/Qwen3-235B-A22B",
    "deepseek-r1-0528-qwen3-8b": "Qwen/Qwen3-8B",
    "qwen2.5-coder-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-coder-0.5b-instruct": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-coder-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-coder-1.5b-instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-coder-3b": "Qwen/Qwen2.5-3B",
    "qwen2.5-coder-3b-instruct": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5-coder-7b": "Qwen/Qwen2.5-7B",
    "qwen2.5-coder-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-coder-14b": "Qwen/Qwen2.5-14B",
    "qwen2.5-coder-14b-instruct": "Qwen/Qwen2.5-14B-Instruct",
    "qwen2.5-coder-32b": "Qwen/Qwen2.5-32B",
    "qwen2.5-coder-32b-instruct": "Qwen/Qwen2.5-32B-Instruct",
}
"""Names, without their owner, of models with the sizes of a bundled one that is called something
else."""
_RENAMED_BY = (
    _MIRRORS
    | {"qwen", "deepseek-ai", "mistralai", "alignment-handbook", "tinyllama"}
    | {"openlm-research", "openai", "agentica-org", "loubnabnl", "huggingfacetb", "stabilityai"}
)


class Mirrored(NamedTuple):
    """A bundled model's line in the data file, and how the copy is stored where that differs.
    `sees` is the line of the model that sees whose text side it is, where it is one."""

    row: dict[str, Any]
    stored: StoredBase | None
    sees: Mapping[str, Any] | None = None


def mirrored(name: str) -> Mirrored | None:
    """The bundled model that `name`, owner and all, is a copy or a tuned version of; None for any
    other name.

    Examples:
        >>> mirrored("unsloth/llama-3-8b-bnb-4bit").row["id"]
        'meta-llama/Meta-Llama-3-8B'
    """
    owner, slash, tail = name.lower().rpartition("/")
    if not slash:
        return None
    ending = next((end for end in _COPIES if owner == "unsloth" and tail.endswith(end)), "")
    tail, nf4 = tail.removesuffix(ending), _COPIES.get(ending)
    own = vision_rows().get(f"{owner}/{tail}")
    sees = own or (seeing_tails().get(tail) if owner in _MIRRORS else None)
    if sees is not None and "text_side" in sees:
        return Mirrored(facts()[sees["text_side"].lower()], nf4, sees)
    row = _original(owner, tail)
    if row is None or (nf4 and "checkpoint_quantization" in row):
        return None
    if owner == "unsloth" and tail in _AS_LLAMA:
        model_type, architecture, fields = _AS_LLAMA[tail]
        config = {k: v for k, v in row["config"].items() if k not in _OF_PHI3} | fields
        row = {**row, "id": f"unsloth/{tail}", "model_type": model_type, "config": config}
        row["architecture"] = architecture
    return Mirrored(row, nf4)


def _original(owner: str, tail: str) -> dict[str, Any] | None:
    if owner in _RENAMED_BY and tail in _RENAMED:
        return facts()[_RENAMED[tail].lower()]
    if owner in _MIRRORS:
        name = _tails().get(tail) or _tails().get(f"meta-{tail}")
        return facts()[name] if name else None
    for ending in _SAME_SIZES.get(owner, ()):
        if tail.endswith(ending):
            stem = f"{owner}/{tail.removesuffix(ending)}"
            beside = [stem, *(f"{stem}{other}" for other in _SAME_SIZES[owner])]
            return next((facts()[each] for each in beside if each in facts()), None)
    return None


@cache
def _tails() -> dict[str, str]:
    """Names without owner, of tuned versions too -> the whole name, where they mean one model
    alone."""
    tails = dict(bare_names())
    several: set[str] = set()
    for name in facts():
        owner, _, tail = name.rpartition("/")
        if not facts().is_one(tails.setdefault(tail, name), name):
            several.add(tail)
        for ending in _SAME_SIZES.get(owner, ()):
            stem = tail.removesuffix(ending) if tail.endswith(ending) else tail
            for other in ("", *_SAME_SIZES[owner]):
                if f"{owner}/{stem}{other}" not in facts():
                    tails.setdefault(f"{stem}{other}", name)
    return {tail: name for tail, name in tails.items() if tail not in several}
