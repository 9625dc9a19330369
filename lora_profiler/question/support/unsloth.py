"""Unsloth's loops: what they hold, and what a trace makes in their place. No torch."""

from dataclasses import replace

from lora_profiler.question.workload import TrainSetup


def scores_at_once(setup: TrainSetup) -> bool:
    """Whether GRPO's reference scores all completions of a step in one pass, as it does while they
    leave a fifth of the card free (2026.10.9 `models/rl_replacements.py`,
    _get_per_token_logps_and_entropies)."""
    return setup.loop_state == "unsloth-grpo" and setup.beta > 0


def returns_all_hidden_states(setup: TrainSetup) -> bool:
    """Whether the model tells all layers' outputs until its pass is over: GRPO asks for them and
    takes the last (2026.10.9 `models/rl.py`, _install_grpo_hidden_states_forward_wrapper)."""
    return setup.loop_state == "unsloth-grpo" and setup.kernels == "unsloth"


NEAREST_TRACED = (
    "Unsloth is not known for this type of model: priced as TRL's SFTTrainer, checkpoints on the"
    " GPU. Rehearsed, Unsloth's own code mostly took more."
)
"""What is said of a question that `nearest_traced` changes."""


def nearest_traced(setup: TrainSetup) -> TrainSetup:
    """`setup` with what a trace makes in place of Unsloth's own loss, checkpoints and LoRA
    functions, where its SFT loop is asked about; as it is otherwise."""
    lora = setup.lora
    if setup.loop_state != "unsloth":
        return setup
    if lora is not None and lora.lora_kernels == "unsloth":
        lora = replace(lora, lora_kernels="peft")
    loss = "trl" if setup.loss == "unsloth" else setup.loss
    return replace(setup, loss=loss, lora=lora, kernels="transformers", offload_checkpoints=False)
