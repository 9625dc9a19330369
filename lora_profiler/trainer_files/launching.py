"""How a trainer's file is started: the command, and on several GPUs the keys, and the file of
accelerate or DeepSpeed beside it, that share the model over them."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.trainer_files.document import Entry
from lora_profiler.workload import DEEPSPEED_ZERO, Sharding, TrainSetup

_FSDP: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard")
_SHARDINGS: tuple[Sharding, ...] = ("ddp", *_FSDP, *DEEPSPEED_ZERO)
"""Those that the launchers' files name."""


class Launch(NamedTuple):
    """keys: of the trainer's file; beside: the text of another file, by its name; told: what the
    launcher's arguments say, as accelerate's keys; command: what starts it."""

    keys: Mapping[str, Any]
    beside: Mapping[str, str]
    told: Mapping[str, Entry]
    command: str


def shardings_of(name: str) -> tuple[Sharding, ...]:
    """Those that the files of the trainer called `name` say."""
    return _FSDP if name == "torchtune" else _SHARDINGS


def launch(name: str, setup: TrainSetup, file: str) -> Launch:
    """Of the trainer called `name`, whose own file is `file`. Raises UsageError for a sharding that
    no such file says."""
    ranks = setup.world_size
    if not setup.is_shared:
        return Launch({}, {}, {}, _on_one(name, setup, file))
    if setup.sharding not in (known := shardings_of(name)):
        raise UsageError(
            f"no file of {name} is written for --sharding {setup.sharding}; take one of"
            f" {', '.join(known)}."
        )
    if name == "torchtune":
        return _torchtune(setup, file)
    if name == "axolotl":
        keys, beside = _axolotl(setup, file)
        command = f"axolotl train {file} --launcher torchrun -- --nproc_per_node={ranks}"
        return Launch(keys, beside, _told(num_processes=ranks), command)
    other = f"{_stem(file)}.accelerate.yaml"
    starts = f"accelerate launch --config_file {other}"
    commands = {
        "trl": f"trl sft --config {file} --accelerate_config {other}",
        "llamafactory": f"{starts} src/train.py {file}",
        "peft": f"{starts} {file}",
    }
    return Launch({}, {other: _accelerate(setup)}, {}, commands[name])


def _on_one(name: str, setup: TrainSetup, file: str) -> str:
    recipe = f"{'full' if setup.lora is None else 'lora'}_finetune_single_device"
    commands = {
        "axolotl": f"axolotl train {file}",
        "trl": f"trl sft --config {file}",
        "llamafactory": f"llamafactory-cli train {file}",
        "torchtune": f"tune run {recipe} --config {file}",
        "peft": f"python {file}",
    }
    return commands[name]


def _torchtune(setup: TrainSetup, file: str) -> Launch:
    """Its recipes of several GPUs share by FSDP2 alone (torchtune 0.6, recipes/)."""
    recipe = f"{'full' if setup.lora is None else 'lora'}_finetune_distributed"
    return Launch(
        keys={"fsdp_reshard_after_forward": setup.sharding == "fsdp"},
        beside={},
        told=_told(num_processes=setup.world_size),
        command=f"tune run --nproc_per_node {setup.world_size} {recipe} --config {file}",
    )


def _axolotl(setup: TrainSetup, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Its own file says how the model is shared."""
    if setup.sharding in DEEPSPEED_ZERO:
        other = f"{_stem(file)}.deepspeed.json"
        content: dict[str, Any] = {
            "zero_optimization": {"stage": DEEPSPEED_ZERO.index(setup.sharding) + 1},
            "bf16": {"enabled": "auto"},
            "fp16": {"enabled": "auto"},
            "train_micro_batch_size_per_gpu": "auto",
            "train_batch_size": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
        }
        return {"deepspeed": other}, {other: json.dumps(content, indent=2) + "\n"}
    if setup.sharding == "ddp":
        return {}, {}
    config = {
        "reshard_after_forward": setup.sharding == "fsdp",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
        "offload_params": setup.offload_params,
    }
    return {"fsdp_version": 2, "fsdp_config": config}, {}


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
    elif setup.sharding in _FSDP:
        content["distributed_type"] = "FSDP"
        content["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": setup.sharding == "fsdp",
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_offload_params": setup.offload_params,
        }
    return str(yaml.safe_dump(content, sort_keys=False))


def _told(**values: Any) -> dict[str, Entry]:
    return {key: Entry(key, value, 0) for key, value in values.items()}


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file
