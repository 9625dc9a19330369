"""Which trainers the harness runs themselves, and what a setup asks that one of them cannot be
told. Imports nothing heavy."""

from collections.abc import Callable, Mapping

from lora_profiler.errors import UsageError
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.workload import TrainSetup

OWN_LOOPS = ("bare", "loop")
"""Trainers by name that are the harness' own loop."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("greenlet",),
    "trl-sft": ("greenlet", "datasets", "trl"),
    "trl-dpo": ("greenlet", "datasets", "trl"),
}
"""Trainers by name, and what they take beside what measuring takes."""
MODULES = frozenset(module for needed in LIBRARIES.values() for module in needed)


def optim_of(setup: TrainSetup) -> str:
    """What `TrainingArguments.optim` is to be. Of adamw_torch, sgd and rmsprop torch chooses the
    implementation: foreach on a card, its for-loop on a CPU."""
    fused = setup.optimizer == "adamw" and setup.optimizer_impl == "fused"
    return optimizer_facts(setup.optimizer).optim + ("_fused" if fused else "")


def name_of(trainer: str) -> str:
    """'trl-sft' of 'trl-sft@1.16'."""
    return trainer.partition("@")[0]


def missing_for(trainer: str, installed: Callable[[str], object]) -> list[str]:
    """Modules that `trainer` takes and that are not there."""
    return [name for name in LIBRARIES[name_of(trainer)] if installed(name) is None]


def refuse_trainer(setup: TrainSetup, trainer: str) -> None:
    """Raises UsageError for an option of `setup` that `trainer` has no argument for."""
    name = name_of(trainer)
    if name not in LIBRARIES:
        raise UsageError(
            f"{name} itself is not run here, {', '.join(LIBRARIES)} are; add --own-loop to train"
            " with the harness' own loop in its defaults."
        )
    loss = "plain" if name == "transformers" else "trl"
    chosen = "forloop" if setup.device == "cpu" else "foreach"
    implementations = {"adamw": ("fused", chosen), "sgd": (chosen,), "rmsprop": (chosen,)}
    trl_adapters = "bfloat16" if setup.quantization is not None else "float32"
    arguments = {
        "loss": setup.loss == loss,
        "packed": not setup.is_packed,
        "hold_outputs": not setup.hold_outputs,
        "world_size": setup.world_size == 1,
        "kernels": setup.kernels == "transformers",
        "qat": setup.qat == "none",
        "optimizer": optimizer_facts(setup.optimizer).optim != "",
        "optimizer_impl": setup.optimizer_impl
        in implementations.get(setup.optimizer, (setup.optimizer_impl,)),
        "label_smoothing_factor": not setup.label_smoothing_factor or name == "transformers",
        "adapter_dtype": setup.lora is None
        or name == "transformers"
        or setup.lora.adapter_dtype == trl_adapters,
        "recipe": setup.quantization is None
        or name == "transformers"
        or setup.quantization.recipe == "trl",
    }
    for option, can in arguments.items():
        if not can:
            raise UsageError(
                f"{name} has no setting for {flag(option)} {_value(setup, option)}; leave it"
                f" out, or"
                " add --own-loop for its defaults only."
            )


def _value(setup: TrainSetup, option: str) -> object:
    for part in (setup, setup.lora, setup.quantization):
        if hasattr(part, option):
            return getattr(part, option)
    return ""
