"""Which commands of frameworks `rehearsed.frameworks` runs: their own example files, by address,
with as few changes as a small model needs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Framework:
    """`version` of what was run; `at` where its files are: repository on GitHub and commit."""

    version: str
    at: tuple[str, str]


FRAMEWORKS = {
    "torchtune": Framework("0.7.0", ("pytorch/torchtune", "bd2a0fc")),
    "llamafactory": Framework("0.9.6.dev0", ("hiyouga/LLaMA-Factory", "ff6d4d1")),
    "axolotl": Framework("0.19.0", ("axolotl-ai-cloud/axolotl", "067b021")),
    "litgpt": Framework("0.5.13", ("Lightning-AI/litgpt", "2685705")),
    "unsloth": Framework("2026.10.9", ("unslothai/unsloth", "")),
}


@dataclass(frozen=True)
class Cell:
    """A configuration `file` of the framework's, with `changes` by dotted key, which both sides
    read; `length` in tokens of every row. Of LitGPT and Unsloth, which have no file that is read
    here, `changes` are options of LitGPT's command or fill a notebook's cells, and `words` ask for
    the same."""

    framework: str
    file: str
    model: str
    card: str
    length: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    trainer: str = ""
    """As --trainer takes it, the framework's name where it is not said."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainer", self.trainer or self.framework)

    @property
    def key(self) -> str:
        changes = json.dumps(dict(self.changes), sort_keys=True)
        place = " ".join((self.trainer, self.file, self.card))
        return f"{place} {self.length} {changes}"

    @property
    def address(self) -> str:
        """Of the file, on GitHub."""
        repository, commit = FRAMEWORKS[self.framework].at
        return f"{repository}@{commit}:{self.file}" if self.file else ""


_ONE, _EIGHT = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
_HALF, _SMALL, _QWEN = "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen3-0.6B"
A100, H100, L4, T4 = "a100_sxm_80gb", "h100_sxm_80gb", "l4", "t4"
_ONCE: Mapping[str, Any] = {"gradient_accumulation_steps": 1}
_UNPACKED: Mapping[str, Any] = {
    "sample_packing": False,
    "eval_sample_packing": False,
    "val_set_size": 0,
    "attn_implementation": "sdpa",
    **_ONCE,
}
"""Of axolotl's files: no flash-attn is there, and no step evaluates."""
_TUNED = {
    "gemma/2B": ("google/gemma-2b", "lora"),
    "gemma/7B": ("google/gemma-7b", "lora"),
    "gemma2/2B": ("google/gemma-2-2b", "lora"),
    "gemma2/9B": ("google/gemma-2-9b", "lora"),
    "llama2/7B": ("meta-llama/Llama-2-7b-hf", "lora"),
    "llama3/8B": ("meta-llama/Meta-Llama-3-8B", "lora dora full"),
    "llama3_2/3B": ("meta-llama/Llama-3.2-3B", "lora"),
    "mistral/7B": ("mistralai/Mistral-7B-v0.1", "lora"),
    "phi3/mini": ("microsoft/Phi-3-mini-4k-instruct", "lora"),
    "qwen2/0.5B": ("Qwen/Qwen2-0.5B", "lora full"),
    "qwen2/1.5B": ("Qwen/Qwen2-1.5B", "lora"),
    "qwen2_5/1.5B": ("Qwen/Qwen2.5-1.5B", "lora"),
    "qwen2_5/3B": ("Qwen/Qwen2.5-3B", "lora"),
    "qwen3/0.6B": ("Qwen/Qwen3-0.6B", "full"),
    "qwen3/1.7B": ("Qwen/Qwen3-1.7B", "lora"),
    "qwen3/4B": ("Qwen/Qwen3-4B", "lora"),
}
"""torchtune's recipes on one device, of one model each: what else of it is rehearsed."""
_FACTORY = {
    "extras/loraplus/llama3_lora_sft": "meta-llama/Meta-Llama-3-8B",
    "extras/dft/qwen2_full_sft": "Qwen/Qwen2-1.5B",
    "train_lora/qwen3_lora_pretrain": "Qwen/Qwen3-4B-Instruct-2507",
    "train_qlora/qwen3_lora_sft_bnb_npu": "Qwen/Qwen3-4B-Instruct-2507",
}
_AXOLOTL = {
    "archived/tiny-llama/qlora.yml": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "gemma3/gemma-3-1b-qlora.yml": "google/gemma-3-1b-it",
    "llama-3/lora-1b-kernels.yml": "meta-llama/Llama-3.2-1B",
    "llama-3/lora-1b-sample-packing-sequentially.yml": "meta-llama/Llama-3.2-1B",
    "llama-3/opentelemetry-qlora.yml": "meta-llama/Llama-3.2-1B",
}
"""Public files as they are but for their length, and what no pretended card runs."""


def cells() -> Iterator[Cell]:
    yield from _torchtune()
    yield from _llamafactory()
    yield from _axolotl()
    yield from _litgpt()
    yield from _unsloth()
    yield from _files()


def _files() -> Iterator[Cell]:
    """Distinct public files, each with the model that it names."""
    for start, (model, kinds) in _TUNED.items():
        for kind in kinds.split():
            file = f"recipes/configs/{start}_{kind}_single_device.yaml"
            yield Cell("torchtune", file, model, A100, 512, _ONCE if kind != "full" else {})
    for name, model in _FACTORY.items():
        told = {"model_name_or_path": model, "cutoff_len": 512, **_ONCE}
        yield Cell("llamafactory", f"examples/{name}.yaml", model, A100, 512, told)
    for name, model in _AXOLOTL.items():
        told = {"base_model": model, "sequence_len": 512, **_UNPACKED}
        yield Cell("axolotl", f"examples/{name}", model, A100, 512, told)


def _torchtune() -> Iterator[Cell]:
    def cell(name: str, model: str, card: str, length: int, **changes: Any) -> Cell:
        return Cell("torchtune", f"recipes/configs/{name}.yaml", model, card, length, changes)

    lora, full = "llama3_2/1B_lora_single_device", "llama3_2/1B_full_single_device"
    yield cell(lora, _ONE, A100, 512)
    yield cell("qwen2_5/0.5B_lora_single_device", _HALF, A100, 512, **_ONCE)
    yield cell(full, _ONE, A100, 512)
    yield cell(lora, _ONE, H100, 1024, **_ONCE, enable_activation_checkpointing=True)
    yield cell("llama3_1/8B_lora_single_device", _EIGHT, H100, 512, **_ONCE)
    yield cell("llama3_2/1B_qlora_single_device", _ONE, A100, 512, **_ONCE)
    yield cell(lora, _ONE, T4, 512, **_ONCE, dtype="fp32")
    yield cell("qwen2_5/0.5B_full_single_device", _HALF, A100, 512)
    yield cell("qwen3/0.6B_lora_single_device", _QWEN, A100, 512, **_ONCE)
    dora = {**_ONCE, "model.use_dora": True}
    yield cell(lora, _ONE, A100, 512, **dora)
    cut = {"tokenizer.max_seq_len": 512, "batch_size": 1}
    yield cell("llama3_1/8B_lora_dpo_single_device", _EIGHT, H100, 512, **_ONCE, **cut)


def _llamafactory() -> Iterator[Cell]:
    def cell(name: str, model: str, card: str, length: int, **changes: Any) -> Cell:
        changes = {"model_name_or_path": model, "cutoff_len": length, **changes}
        return Cell("llamafactory", f"examples/{name}.yaml", model, card, length, changes)

    lora, full = "train_lora/qwen3_lora_sft", "train_full/qwen3_full_sft"
    yield cell(lora, _QWEN, A100, 512, **_ONCE)
    yield cell(full, _SMALL, A100, 512, deepspeed=None)
    yield cell(lora, _HALF, H100, 1024, **_ONCE, disable_gradient_checkpointing=True)
    yield cell(lora, _EIGHT, H100, 1024, **_ONCE)
    yield cell(lora, _SMALL, T4, 512, **_ONCE, bf16=None, fp16=True)
    yield cell("train_qlora/qwen3_lora_sft_otfq", _QWEN, A100, 512, **_ONCE)
    yield cell("train_lora/qwen3_lora_dpo", _QWEN, A100, 512, **_ONCE)
    yield cell("train_lora/qwen3_lora_dpo", _SMALL, A100, 512, **_ONCE, finetuning_type="full")
    yield cell(lora, _SMALL, A100, 512, **_ONCE, packing=True)
    yield cell("train_lora/qwen3_lora_dpo", _SMALL, A100, 512, **_ONCE, pref_loss="orpo")
    yield cell("train_lora/qwen3_lora_dpo", _ONE, A100, 512, **_ONCE, pref_loss="simpo")
    two = {"per_device_train_batch_size": 2, **_ONCE}
    for model in (_SMALL, _ONE):
        yield cell("train_lora/qwen3_lora_kto", model, A100, 512, **two)
    for name in ("dft/qwen2_full_sft", "eaft/qwen25_05b_eaft_full", "asft/qwen2_full_asft"):
        yield cell(f"extras/{name}", _SMALL, A100, 512, deepspeed=None, **two)
        yield cell(f"extras/{name}", _SMALL, H100, 1024, deepspeed=None, **two)


def _axolotl() -> Iterator[Cell]:
    def cell(name: str, model: str, card: str, length: int, **changes: Any) -> Cell:
        changes = {"base_model": model, "sequence_len": length, **changes}
        return Cell("axolotl", f"examples/{name}", model, card, length, changes)

    lora, qlora = "llama-3/lora-1b.yml", "llama-3/qlora-1b.yml"
    yield cell(lora, _ONE, A100, 1024, **_UNPACKED)
    yield cell(qlora, _ONE, A100, 512, **_UNPACKED)
    yield cell("llama-3/fft-8b.yaml", _SMALL, H100, 512, **_UNPACKED)
    yield cell(lora, _SMALL, H100, 512, **_UNPACKED, gradient_checkpointing=False)
    yield cell(lora, _EIGHT, H100, 512, **_UNPACKED)
    experts = "glm45/glm-45-air-qlora.yaml"  # quantize_moe_experts, on a model with rules
    yield cell(experts, "Qwen/Qwen3-30B-A3B", H100, 512, **_UNPACKED, plugins=[])
    pairs = {key: value for key, value in _UNPACKED.items() if "packing" not in key}
    adapted = {"adapter": "lora", "lora_r": 16, "lora_alpha": 16, "lora_target_linear": True}
    yield cell("qwen2/dpo.yaml", _HALF, A100, 512, **pairs)
    yield cell("qwen2/dpo.yaml", _HALF, A100, 512, **pairs, **adapted, lora_dropout=0.05)
    dpo, in_16_bit = "llama-3/instruct-dpo-lora-8b.yml", {"load_in_8bit": False}
    yield cell(dpo, _EIGHT, A100, 512, **pairs, **in_16_bit)
    in_4_bit = {"load_in_4bit": True, "adapter": "qlora", **in_16_bit}
    yield cell(dpo, _ONE, H100, 512, **pairs, **in_4_bit)


def _litgpt() -> Iterator[Cell]:
    def cell(command: str, model: str, card: str, length: int, words: str, **changes: Any) -> Cell:
        asked = ("--method", "qlora" if "quantize" in changes else command, *words.split())
        return Cell("litgpt", "", model, card, length, {"finetune": command, **changes}, asked)

    true: dict[str, Any] = {"precision": "bf16-true", "train.global_batch_size": 1}
    in_4_bit: dict[str, Any] = {"quantize": "bnb.nf4"}
    pure = "--dtype bfloat16 --precision pure --accumulation 1"
    yield cell("lora", _SMALL, A100, 512, "")
    yield cell("lora", _ONE, A100, 512, f"{pure} --adapter-dtype bfloat16", **true)
    yield cell("full", _SMALL, H100, 512, pure, **true)
    yield cell("lora", _EIGHT, H100, 512, f"{pure} --adapter-dtype bfloat16", **true)
    yield cell("lora", _SMALL, T4, 512, "--dtype float32 --precision pure", precision="32-true")
    yield cell("lora", _SMALL, A100, 512, "--accumulation 1", **true, **in_4_bit)
    yield cell("lora", _ONE, H100, 512, "--accumulation 1", **true, **in_4_bit)


_COMPILED = (
    ("google/gemma-3-1b-it", 512, "lora"),
    ("google/gemma-3-1b-it", 1024, "qlora"),
    ("google/gemma-3-1b-it", 2048, "lora"),
    ("LiquidAI/LFM2-350M", 512, "lora"),
    ("google/gemma-3-4b-it", 512, "qlora"),
    ("ibm-granite/granite-4.0-350m", 512, "lora"),
    ("ibm-granite/granite-4.0-350m", 2048, "qlora"),
    ("ibm-granite/granite-4.0-h-micro", 512, "lora"),
    ("openai/gpt-oss-20b", 512, "qlora"),
    ("Qwen/Qwen3.5-0.8B", 512, "lora"),
    ("google/gemma-4-E2B", 512, "lora"),
    ("LiquidAI/LFM2-1.2B", 1024, "qlora"),
    ("tiiuae/Falcon-H1-0.5B-Instruct", 512, "lora"),
    ("microsoft/Phi-4-mini-instruct", 512, "lora"),
    ("Qwen/Qwen3-30B-A3B", 512, "qlora"),
)


def _unsloth() -> Iterator[Cell]:
    def cell(
        model: str, card: str, length: int, method: str, accumulation: int, dropout: float = 0.0
    ) -> Cell:
        words = f"--method {method} --batch-size 2 --accumulation {accumulation}"
        words += f" --dropout {dropout}" if dropout else ""
        changes = {
            "load_in_4bit": method == "qlora",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": accumulation,
            "lora_dropout": dropout,
        }
        return Cell("unsloth", "", model, card, length, changes, tuple(words.split()))

    yield cell(_SMALL, A100, 512, "lora", 1)
    yield cell(_ONE, H100, 1024, "qlora", 2)
    yield cell(_EIGHT, A100, 2048, "qlora", 1)
    yield cell(_ONE, L4, 1024, "qlora", 4)
    yield cell(_QWEN, A100, 1024, "lora", 1, dropout=0.1)
    yield cell(_EIGHT, H100, 2944, "qlora", 2)
    yield cell(_ONE, T4, 1024, "qlora", 1)
    yield from _unsloth_compiled()
    yield from _unsloth_dpo()
    yield from _unsloth_grpo()


def _compared(model: str, card: str, length: int, method: str, batch: int, steps: int) -> Cell:
    words = f"--method {method} --batch-size {batch} --accumulation {steps}"
    changes = {
        "load_in_4bit": method == "qlora",
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": steps,
        "lora_dropout": 0.0,
        "model_name": model,
    }
    return Cell("unsloth", "", model, card, length, changes, tuple(words.split()), "unsloth-dpo")


def _unsloth_compiled() -> Iterator[Cell]:
    """SFT of types for which Unsloth writes transformers' code anew."""
    for model, length, method in _COMPILED:
        yield replace(_compared(model, A100, length, method, 2, 1), trainer="unsloth")
    large = _compared("google/gemma-3-270m", A100, 2048, "lora", 4, 1)
    yield replace(large, trainer="unsloth")
    pair = _compared("TinyLlama/TinyLlama-1.1B-Chat-v1.0", A100, 1024, "qlora", 2, 1)
    words = (*pair.words, "--modules-to-save", "embed_tokens,lm_head")
    changes = {**pair.changes, "whole": ["embed_tokens", "lm_head"]}
    yield replace(pair, trainer="unsloth", words=words, changes=changes)


def _unsloth_dpo() -> Iterator[Cell]:
    yield _compared(_SMALL, A100, 512, "lora", 2, 1)
    yield _compared(_ONE, A100, 1024, "qlora", 2, 2)
    yield _compared(_EIGHT, H100, 1024, "qlora", 2, 1)


def _unsloth_grpo() -> Iterator[Cell]:
    def cell(
        pair: Cell, completion: int, *, beta: float = 0.0, generates: bool = False, more: str = ""
    ) -> Cell:
        """As a `pair`'s, with completions; without generation vLLM is asked for in words, which is
        where no completions are made by the model."""
        words = [*pair.words, "--max-completion-length", str(completion), *more.split()]
        words += ["--beta", str(beta)] if beta else []
        words += [] if generates else ["--use-vllm"]
        changes = {**pair.changes, "completion": completion, "beta": beta, "generates": generates}
        return replace(pair, trainer="unsloth-grpo", words=tuple(words), changes=changes)

    yield cell(_compared(_SMALL, A100, 512, "lora", 4, 1), 256)
    yield cell(_compared(_ONE, A100, 1024, "qlora", 8, 2), 512)
    yield cell(_compared(_EIGHT, H100, 1024, "qlora", 4, 1), 512)
    yield cell(_compared(_ONE, T4, 1024, "qlora", 4, 1), 768)
    yield cell(_compared(_QWEN, A100, 512, "lora", 4, 4), 256, beta=0.04)
    yield cell(_compared(_SMALL, A100, 256, "lora", 8, 1), 96, generates=True)
