"""TRL's trainers of preferences: DPOTrainer, KTOTrainer, RewardTrainer and ORPOTrainer, with their
configs and PEFT's `LoraConfig` as they are made without arguments."""

from dataclasses import replace

from lora_profiler.stacks.stack import CHECKPOINT_DTYPE, Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES, PEFT_LORA
from lora_profiler.stacks.trl_sft import COMMON, HOLDS, QUANTIZED

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
        {**COMMON, "loop_state": "trl-dpo"}, adapter={**PEFT_LORA, "dropout": 0.0}, base=QUANTIZED
    ),
    packing=None,
    aliases=ALIASES,
    rows=2,
    holds=(
        *HOLDS,
        "the reference is the model with its adapters switched off, in a pass without"
        " gradients; without adapters a second, frozen copy of the model (TRL 1.16,"
        " dpo_trainer.py; measured)",
    ),
    refusals=(Refusal("packed", "pairs are not packed; padding_free has no option here"),),
)

VERSIONS = (
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
        defaults={m: {**own, "loop_state": "trl-kto"} for m, own in _DPO.defaults.items()},
        rows=1,
        holds=(
            *_DPO.holds,
            "answers that belong to other prompts are a second batch, which policy and reference"
            " run over without gradients (TRL 1.16, kto_trainer.py, _compute_kl_logps)",
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
            {**COMMON, "loss": "scores", "loop_state": "trl-reward"},
            adapter={**PEFT_LORA, "dropout": 0.0, "modules_to_save": "score"},
            base=QUANTIZED,
        ),
        holds=(
            *HOLDS[:1],
            "a head of one output in place of the language model's, and no reference; PEFT trains"
            " a copy of it (TRL 1.16, reward_trainer.py)",
            *HOLDS[2:],
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
            {**COMMON, "dtype": CHECKPOINT_DTYPE, "loss": "trl-orpo", "loop_state": "trl-orpo"},
            adapter={**PEFT_LORA, "dropout": 0.0},
            base={"double_quant": False, "recipe": "kbit-norms"},
        ),
        holds=(
            *HOLDS[:1],
            "all logits of both answers in float32, log-probabilities of the chosen one, and in"
            " backward the gradients of both, as large as all logits; no reference (TRL 1.16,"
            " experimental/orpo/orpo_trainer.py, concatenated_forward; kernels/logprob_entropy.py)",
            "a 4-bit base is prepared by PEFT's prepare_model_for_kbit_training, and with bf16 cast"
            " back but for the norms (experimental/utils.py, peft_module_casting_to_bf16)",
        ),
        refusals=(Refusal("packed", "pairs are not packed"),),
    ),
)
