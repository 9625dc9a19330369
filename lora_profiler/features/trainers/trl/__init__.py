"""TRL's trainers (SFTTrainer; DPOTrainer, KTOTrainer, RewardTrainer and ORPOTrainer; GRPOTrainer):
their configs and PEFT's `LoraConfig` as they are made without arguments."""

from dataclasses import replace

from lora_profiler.facts.stacks.stack import (
    CHECKPOINT_DTYPE,
    SHARED_LEAVES,
    Options,
    Packing,
    Refusal,
    Stack,
    by_method,
    overruled,
)
from lora_profiler.facts.stacks.transformers_loops import (
    ADAMW_FOREACH,
    ADAMW_FUSED,
    ALIASES,
    LIGER,
    OF_ADAPTERS,
    PEFT_LORA,
    WIDE_SHARDS,
)

_COMMON: Options = {
    "batch_size": 8,
    "seq_len": 1024,
    "accumulation": 1,
    "dtype": "float32",
    "precision": "amp",
    **ADAMW_FUSED,
    "checkpointing": True,
    "loss": "trl",
    "kernels": "transformers",
    "loop_state": "trl",
}
"""What SFTConfig and DPOConfig agree in. Of a model's name weights are loaded in float32 (TRL 1.16,
`trainer/utils.py`, create_model_from_path)."""
_QUANTIZED: Options = {"double_quant": False, "recipe": "trl", "adapter_dtype": "bfloat16"}
"""bitsandbytes' own default of double quantisation, and bfloat16 adapters (sft_trainer.py)."""
_HOLDS = (
    "what transformers' Trainer keeps, and an attention mask (rehearsed:"
    " benchmarks/results/rehearsed_trainers.md)",
    "no full logits: one pass over tiles of min(tokens, 4,096) x 32,768; gradients of hidden"
    " states and of a trained head are float32 (TRL 1.16; --loss trl)",
    "on a 4-bit base adapters are made bfloat16 (TRL 1.16, sft_trainer.py)",
)

_LEAVES = (*SHARED_LEAVES, *OF_ADAPTERS, "dtype", "double_quant")
"""A script loads the model itself, or names it; its LoraConfig is its own."""

_SFT = (
    Stack(
        name="trl-sft",
        library="TRL",
        version="1.16",
        call="SFTTrainer",
        about=(
            "SFTConfig() and peft.LoraConfig() as they are, on a model's name: bfloat16 autocast"
            " over float32 weights, checkpointing, max_length 1,024. A model that the script loads"
            " itself has its own format: --dtype bfloat16.",
            "`trl sft` takes other ones: --rank 16 --alpha 32 --dropout 0.05.",
        ),
        defaults=by_method(_COMMON, adapter=PEFT_LORA, base=_QUANTIZED),
        packing=Packing(one_row=True),
        aliases=ALIASES,
        holds=_HOLDS,
        leaves=_LEAVES,
        variants=(WIDE_SHARDS,),
        guide=by_method({"dtype": "bfloat16"}, base={"double_quant": True}),
    ),
    Stack(
        name="trl-sft",
        library="TRL",
        version="0.14",
        call="SFTTrainer",
        about=(
            "SFTConfig() and peft.LoraConfig() as they are, on a model's name, with transformers"
            " 4.48: float32 weights, max_seq_length 1,024, no checkpointing, all logits.",
            "bf16=True is --precision amp; on a 4-bit base it casts embeddings and head to bfloat16"
            " (--recipe kbit-norms).",
        ),
        defaults=by_method(
            {
                "batch_size": 8,
                "seq_len": 1024,
                "accumulation": 1,
                "dtype": "float32",
                "precision": "pure",
                **ADAMW_FOREACH,
                "checkpointing": False,
                "use_reentrant": True,
                "loss": "plain",
                "kernels": "transformers",
                "transformers": "4.48",
            },
            adapter=PEFT_LORA,
            base={"double_quant": False, "recipe": "kbit"},
        ),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=(
            "a 4-bit base gets PEFT's prepare_model_for_kbit_training; bf16 casts all but the norms"
            " back (TRL 0.14, sft_trainer.py; utils.py, peft_module_casting_to_bf16)",
        ),
        leaves=_LEAVES,
        variants=(LIGER, WIDE_SHARDS),
    ),
)
_DPO = Stack(
    name="trl-dpo",
    library="TRL",
    version="1.16",
    call="DPOTrainer",
    about=(
        "DPOConfig() and peft.LoraConfig() as they are, on a model's name: bfloat16 autocast"
        " over float32 weights, checkpointing, max_length 1,024. A batch counts"
        " pairs: the model sees twice as many rows.",
    ),
    defaults=by_method(
        {**_COMMON, "loop_state": "trl-dpo"}, adapter={**PEFT_LORA, "dropout": 0.0}, base=_QUANTIZED
    ),
    packing=None,
    aliases=ALIASES,
    rows=2,
    holds=(
        *_HOLDS,
        "the reference is the model with its adapters switched off, in a pass without"
        " gradients; without adapters a second, frozen copy of the model (TRL 1.16,"
        " dpo_trainer.py; measured)",
    ),
    refusals=(Refusal("packed", "pairs are not packed; padding_free has no option here"),),
    leaves=_LEAVES,
)

_PREFERENCES = (
    _DPO,
    replace(
        _DPO,
        name="trl-kto",
        call="KTOTrainer",
        about=(
            "KTOConfig() and peft.LoraConfig() as they are, and the rest as DPOTrainer has it. A"
            " batch counts answers, each of which is desirable or not: the model sees a row of"
            " each.",
        ),
        defaults=overruled(_DPO, {"loop_state": "trl-kto"}),
        rows=1,
        holds=(
            *_DPO.holds,
            "policy and reference also run over other prompts' answers, without gradients (TRL"
            " 1.16,"
            " kto_trainer.py, _compute_kl_logps)",
        ),
        refusals=(Refusal("packed", "answers are not packed"),),
    ),
    replace(
        _DPO,
        name="trl-reward",
        call="RewardTrainer",
        about=(
            'RewardConfig() and peft.LoraConfig(task_type="SEQ_CLS") as they are, and the rest as'
            " DPOTrainer has it. A batch counts pairs: the model sees twice as many rows, of which"
            " each has a score.",
        ),
        defaults=by_method(
            {**_COMMON, "loss": "scores", "loop_state": "trl-reward"},
            adapter={**PEFT_LORA, "dropout": 0.0, "modules_to_save": "score"},
            base=_QUANTIZED,
        ),
        holds=(
            *_HOLDS[:1],
            "a head of one output in place of the language model's, and no reference; PEFT trains"
            " a copy of it (TRL 1.16, reward_trainer.py)",
            *_HOLDS[2:],
        ),
    ),
    replace(
        _DPO,
        name="trl-orpo",
        call="ORPOTrainer",
        about=(
            "Of trl.experimental: ORPOConfig() and peft.LoraConfig() as they are, on a model's"
            " name: weights in the checkpoint's dtype, bfloat16 autocast, checkpointing,"
            " max_length 1,024. A batch counts pairs: the model sees twice as many rows.",
        ),
        defaults=by_method(
            {**_COMMON, "dtype": CHECKPOINT_DTYPE, "loss": "trl-orpo", "loop_state": "trl-orpo"},
            adapter={**PEFT_LORA, "dropout": 0.0},
            base={"double_quant": False, "recipe": "kbit-norms"},
        ),
        holds=(
            *_HOLDS[:1],
            "all float32 logits of both answers, and log-probabilities of the chosen one; two"
            " gradients"
            " of that size in backward; no reference (TRL 1.16, experimental/orpo/orpo_trainer.py,"
            " concatenated_forward; kernels/logprob_entropy.py)",
            "a 4-bit base gets PEFT's prepare_model_for_kbit_training; bf16 casts all but the norms"
            " back (experimental/utils.py, peft_module_casting_to_bf16)",
        ),
        refusals=(Refusal("packed", "pairs are not packed"),),
    ),
)
_COMPLETING: Options = {
    **{name: value for name, value in _COMMON.items() if name != "seq_len"},
    "max_completion_length": 512,
    "loop_state": "trl-grpo",
}

_GRPO = Stack(
    name="trl-grpo",
    library="TRL",
    version="1.16",
    call="GRPOTrainer",
    about=(
        "Defaults of GRPOConfig() and peft.LoraConfig(): 8 generations of up to 512 tokens per"
        " prompt. bfloat16 autocast over float32 weights, checkpointing, beta 0, no reference"
        " model. --seq-len is prompt and completion together; a batch counts completions.",
        "--beta 0.04 adds the reference; use_vllm=True is --use-vllm, with --vllm-share for its"
        " GPU memory.",
    ),
    defaults=by_method(_COMPLETING, adapter=PEFT_LORA, base=_QUANTIZED),
    packing=None,
    aliases=ALIASES,
    holds=(
        *_HOLDS,
        "transformers generates all completions of an optimizer step at once; their ids and masks"
        " stay until the next ones (TRL 1.16, grpo_config.py; grpo_trainer.py, _prepare_inputs)",
        "the loss is made of the completions' tokens alone (TRL 1.16, grpo_trainer.py,"
        " _get_per_token_logps_and_entropies)",
        "old and reference log-probabilities need passes without gradients, per micro-batch; the"
        " reference is the model without adapters, or a frozen copy (TRL 1.16, grpo_trainer.py)",
    ),
    refusals=(Refusal("packed", "completions are padded, not packed"),),
    leaves=_LEAVES,
)
GUIDED = "trl-sft"
VERSIONS = (*_SFT, *_PREFERENCES, _GRPO)
