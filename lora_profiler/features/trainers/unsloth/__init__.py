"""Unsloth: its arguments' defaults and its notebooks, as near as options come."""

from collections.abc import Mapping
from dataclasses import replace

from lora_profiler.facts.stacks.stack import (
    Gap,
    Options,
    Packing,
    Refusal,
    Stack,
    Variant,
    by_method,
    overruled,
)
from lora_profiler.facts.stacks.transformers_loops import ALIASES, OF_ADAPTERS
from lora_profiler.question.workload import Method

_COMMON: Options = {
    "batch_size": 2,
    "seq_len": 2048,
    "accumulation": 4,
    "dtype": "bfloat16",
    "precision": "amp",
    "optimizer": "adamw_8bit",
    "checkpointing": True,
    "use_reentrant": True,
    "offload_checkpoints": True,
    "loss": "unsloth",
    "loop_state": "unsloth",
}
_ADAPTER: Options = {
    "kernels": "unsloth",
    "lora_kernels": "unsloth",
    "rank": 16,
    "alpha": 16.0,
    "dropout": 0.0,
    "targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    "adapter_dtype": "float32",
}
_ON_ATTENTION: Options = {"targets": "q_proj,k_proj,v_proj,o_proj"}
_OF_EXPERTS: Mapping[Method, Options] = {
    "qlora": {
        **_ON_ATTENTION,
        "quantize_experts": True,
        "target_parameters": "mlp.experts.gate_up_proj,mlp.experts.down_proj",
    }
}
_OF_TYPES: Mapping[str, Mapping[Method, Options]] = {
    # each 4-bit expert is a layer, with a name that no target matches (unsloth-zoo 2026.10.9,
    # temporary_patches/gpt_oss.py); priced as packed ones: 6 % under a rehearsal
    "gpt_oss": {"lora": _ON_ATTENTION, "qlora": {"target_parameters": None}}
}
_ALL_LOGITS: Mapping[Method, Options] = {
    method: {"loss": "plain"} for method in ("full", "lora", "qlora")
}
_HOLDS = (
    "checkpointing is reentrant; layer inputs but the last are offloaded to CPU; two buffers"
    " bring them back (unsloth-zoo 2026.10.9, gradient_checkpointing.py)",
    "q/k/v, o and the MLP are fused with their adapters; 4-bit weights are unpacked into a"
    " permanent buffer (Unsloth 2026.10.9, kernels/fast_lora.py, kernels/utils.py)",
    "packed experts are in 4 bit too, with adapters where rules know the model"
    " (unsloth-zoo 2026.10.9, temporary_patches/moe_utils_bnb4bit.py; Unsloth 2026.10.9,"
    " models/_utils.py, get_moe_target_parameters)",
    "cosines and sines of all positions of the model stay (Unsloth 2026.10.9,"
    " models/llama.py, LlamaRotaryEmbedding)",
)


def _stack(
    *,
    name: str,
    call: str,
    about: tuple[str, ...],
    options: Options,
    packing: Packing | None,
    holds: tuple[str, ...],
    rows: int = 1,
    refusals: tuple[Refusal, ...] = (),
) -> Stack:
    """What its trainers have in common, and `options` beside it."""
    return Stack(
        name=name,
        library="Unsloth",
        version="2026.10",
        peft_types=("lora",),
        call=call,
        about=about,
        defaults=by_method(
            {**_COMMON, **options},
            full={"kernels": "transformers"},
            adapter=_ADAPTER,
            base={"double_quant": True, "recipe": "stock"},
        ),
        packing=packing,
        aliases=ALIASES,
        rows=rows,
        holds=(*_HOLDS, *holds),
        gaps=(
            Gap(
                "full fine-tuning runs code that it writes after transformers' and compiles: priced"
                " as transformers' own",
                ("full",),
            ),
        ),
        refusals=(
            Refusal("recipe", "it prepares the 4-bit base itself", ("kbit", "trl")),
            *refusals,
        ),
        of_types=_OF_TYPES,
        of_experts=_OF_EXPERTS,
        leaves=("seq_len", *OF_ADAPTERS),
        variants=(Variant("use_gradient_checkpointing", {"offload_checkpoints": False}),),
    )


_NEWEST = _stack(
    name="unsloth",
    call="notebooks",
    about=(
        "get_peft_model's defaults (rank 16, alpha 16, the seven projections), and what most of"
        " its 420 notebooks set: batch 2, accumulation 4, 2,048 tokens, adamw_8bit,"
        ' use_gradient_checkpointing="unsloth".',
    ),
    options={},
    packing=Packing(one_row=True),
    holds=(
        "rows are concatenated, with positions and lengths (Unsloth 2026.10.9, trainer.py,"
        " padding_free)",
        "float32 logits of some labelled tokens at a time (unsloth-zoo 2026.10.9,"
        " fused_losses/fused_linear.py)",
    ),
)

GUIDED = "unsloth"
VERSIONS = (
    _NEWEST,
    replace(
        _NEWEST,
        version="2026.4",
        about=(
            "From July 2025 to April 2026 it ran transformers' own forward of Granite 4.0 and"
            " Falcon-H1. Their float32 logits are of all tokens (unsloth-zoo 2026.4.9, compiler.py,"
            " cross_entropy_find_1 to 3).",
            *_NEWEST.about,
        ),
        of_types={**_OF_TYPES, "granitemoehybrid": _ALL_LOGITS, "falcon_h1": _ALL_LOGITS},
    ),
    replace(
        _NEWEST,
        version="2024.10",
        about=(
            "Until November 2024 its loss needed 16-bit logits of all tokens; gradients are written"
            " over them (Unsloth before 549c5be, models/llama.py, kernels/cross_entropy_loss.py).",
            *_NEWEST.about,
        ),
        defaults=overruled(_NEWEST, {"loss": "triton"}),
        holds=_HOLDS,
    ),
    _stack(
        name="unsloth-dpo",
        call="DPOTrainer",
        about=(
            "As unsloth, with its patched DPOTrainer of TRL 1.9, batch 4 and accumulation 2. A"
            " batch"
            " counts pairs: the model runs twice as many rows.",
        ),
        options={"batch_size": 4, "accumulation": 2, "loop_state": "unsloth-dpo"},
        packing=None,
        rows=2,
        holds=(
            "float32 logits in chunks, for the policy and then the reference; the reference is the"
            " model without adapters (unsloth-zoo 2026.10.9, fused_losses/fused_linear.py; Unsloth"
            " 2026.10.9, models/rl_replacements.py, dpo_trainer_compute_loss_chunked)",
            "accelerate's float32 copies of both passes' last hidden states",
        ),
        refusals=(Refusal("packed", "pairs are not packed; padding_free has no option here"),),
    ),
    _stack(
        name="unsloth-grpo",
        call="GRPOTrainer",
        about=(
            "As unsloth, with TRL's GRPOTrainer as it is patched over TRL 1.9: batch 4,"
            " accumulation 2, completions of up to 256 tokens, beta 0 without a reference."
            " --seq-len is prompt and completion together; a batch counts completions, and is"
            " num_generations where that does not divide it.",
            "fast_inference=True is --use-vllm, with --vllm-share for vLLM's GPU memory; in"
            " standby it"
            " frees its cache while the model trains.",
        ),
        options={
            "batch_size": 4,
            "accumulation": 2,
            "max_completion_length": 256,
            "loop_state": "unsloth-grpo",
        },
        packing=None,
        holds=(
            "what is no padding of a micro-batch is laid end to end (unsloth-zoo 2026.10.9,"
            " rl_replacements.py, grpo_accumulated_loss)",
            "float32 logits in chunks of completion tokens; one gradient per log-probability"
            " (fused_losses/fused_linear.py, _logprobs_impl)",
            "after generation by the model layer inputs stay on the GPU; TRL switches to"
            " transformers'"
            " checkpointing (TRL 1.9, models/utils.py; rehearsed)",
            "all completions of an optimizer step are made at once; caches grow by 512 tokens"
            " (Unsloth"
            " 2026.10.9, models/_decode_graphs.py)",
            "with beta above 0 the model without adapters scores all completions at once"
            " (models/rl_replacements.py, _get_per_token_logps_and_entropies)",
        ),
        refusals=(Refusal("packed", "completions are laid end to end whatever is packed"),),
    ),
)
