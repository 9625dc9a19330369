"""What files of several trainers are written with: keys of the question, the launcher's file, and
how the run is started. A trainer's own keys are in `features/trainers/*/written.py`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.workload import DEEPSPEED_ZERO, Quantization, Sharding, TrainSetup
from lora_profiler.trainer_files.document import Entry

Keys = dict[str, Any]
ATTENTION = {"auto": "sdpa", "flash_attention_2": "flash_attention_2", "eager": "eager"}
DATASET = "tatsu-lab/alpaca"


def optim_key(setup: TrainSetup) -> str | None:
    """`TrainingArguments.optim`, None where the Trainer has no name for it."""
    facts, is_fused = optimizer_facts(setup.optimizer), setup.optimizer_impl == "fused"
    if not facts.optim or setup.optimizer_impl == "forloop" or (is_fused and not facts.has_fused):
        return None
    if is_fused:
        return f"{facts.optim}_fused" if setup.optimizer == "adamw" else None
    return facts.optim


def is_int8(base: Quantization | None) -> bool:
    return base is not None and base.quant_type == "int8"


def is_bf16(setup: TrainSetup) -> bool:
    """Whether the trainer's switch is on, which DeepSpeed and FSDP make something else of than
    autocast."""
    if setup.sharding in DEEPSPEED_ZERO:
        return setup.dtype == "bfloat16"
    return setup.precision in ("amp", "fsdp-mixed")


def is_pure_bf16(setup: TrainSetup) -> bool:
    is_pure = setup.precision == "pure" and setup.dtype == "bfloat16"
    return is_pure and setup.sharding not in DEEPSPEED_ZERO


def training_arguments(setup: TrainSetup) -> Keys:
    """TrainingArguments."""
    return {
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "optim": optim_key(setup),
        "bf16": is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "label_smoothing_factor": setup.label_smoothing_factor or None,
        "eval_strategy": "no" if setup.eval_batch_size is None else "epoch",
        "per_device_eval_batch_size": setup.eval_batch_size,
        "learning_rate": 0.0002,
        "num_train_epochs": 1,
        "output_dir": "outputs",
    }


def cannot(title: str, option: str, value: Any) -> UsageError:
    return UsageError(
        f"{title} configs cannot express {flag(option)} {value}; leave it out, or write"
        " another trainer's."
    )


def listed(value: str | tuple[str, ...] | tuple[int, ...] | None) -> list[Any] | str | None:
    return list(value) or None if isinstance(value, tuple) else value


def short(number: float) -> float:
    """A whole number as one, which is how people write it."""
    return int(number) if number == int(number) else number


# --- launchers ------------------------------------------------------------------------------------


FSDP: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
SHARDINGS: tuple[Sharding, ...] = ("ddp", *FSDP, *DEEPSPEED_ZERO)
"""Those that the launchers' files name."""


class Launch(NamedTuple):
    """keys: of the trainer's file; beside: the text of another file, by its name; told: what the
    launcher's arguments say, as accelerate's keys; command: what starts it."""

    keys: Mapping[str, Any]
    beside: Mapping[str, str]
    told: Mapping[str, Entry]
    command: str


def by_accelerate(setup: TrainSetup, file: str, command: str) -> Launch:
    """accelerate's own file says how the model is shared. `command` has its name in place of {}."""
    other = f"{stem(file)}.accelerate.yaml"
    return Launch({}, {other: _accelerate(setup)}, {}, command.replace("{}", other))


def _accelerate(setup: TrainSetup) -> str:
    import yaml

    content: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_machines": 1,
        "num_processes": setup.world_size,
    }
    if setup.sharding in DEEPSPEED_ZERO:
        content["distributed_type"] = "DEEPSPEED"
        stage = DEEPSPEED_ZERO.index(setup.sharding) + 1
        content["deepspeed_config"] = {"zero_stage": stage, "zero3_init_flag": stage == 3}
    elif setup.sharding in FSDP:
        content["distributed_type"] = "FSDP"
        content["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": setup.sharding == "fsdp",
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_offload_params": setup.offload_params,
        }
    return str(yaml.safe_dump(content, sort_keys=False))


def told(**values: Any) -> dict[str, Entry]:
    return {key: Entry(key, value, 0) for key, value in values.items()}


def stem(file: str) -> str:
    return file.rpartition(".")[0] or file
