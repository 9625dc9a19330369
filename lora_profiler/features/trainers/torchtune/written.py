"""torchtune's YAML that trains what a question asks."""

from pathlib import Path
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.features.trainers.torchtune.keys import MODELS
from lora_profiler.question.loss import spellings
from lora_profiler.question.optimizer import CORE, optimizer_facts
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trainer_files.meaning import read_table
from lora_profiler.trainer_files.writing import FSDP, Keys, Launch, cannot, short, told

TRAINER = "torchtune"
_FAMILIES = Path(__file__).with_name("families.toml")
SHARDINGS = FSDP
"""Its recipes of several GPUs share by FSDP2 alone (torchtune 0.6, recipes/)."""


def keys(workload: Workload) -> Keys:
    """Of the builders that are known; its names are those of its own models."""
    setup, model = workload.setup, workload.model
    lora = setup.lora
    builders = {hub: builder for builder, hub in MODELS.items()}
    if model.id not in builders:
        raise UsageError(
            f"torchtune has no builder of {model.id} that is known; write another trainer's file."
        )
    if setup.dtype == "float16":
        raise UsageError(
            "torchtune trains in bfloat16 or float32, not in float16; add --dtype float32, or write"
            " another trainer's file."
        )
    family, _, builder = builders[model.id].partition(".")
    known = read_table(_FAMILIES).get(family, {})
    count = known.get("files", {}).get(builder.removesuffix("_instruct"))
    if count is None:
        raise UsageError(
            f"what torchtune's recipes read of {model.id} is not known; write another trainer's"
            " file."
        )
    kind = {"full": "", "lora": "lora_", "qlora": "qlora_"}[setup.method]
    parts: Keys = {"_component_": f"torchtune.models.{family}.{kind}{builder}"}
    if lora is not None:
        mlp = ("gate_proj", "up_proj", "down_proj")
        names = lora.target_modules
        if names == "all-linear":
            names = ("q_proj", "k_proj", "v_proj", "o_proj", *mlp)
        if not isinstance(names, tuple):
            raise cannot("torchtune", "targets", names or "default")
        parts |= {
            "lora_attn_modules": [
                "output_proj" if name == "o_proj" else name
                for name in names
                if name not in mlp and name != "lm_head"
            ],
            "apply_lora_to_mlp": set(mlp) <= set(names),
            "apply_lora_to_output": "lm_head" in names,
            "lora_rank": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
        }
    losses = spellings("torchtune")
    folder = f"/tmp/{model.id.rpartition('/')[2]}"
    facts = optimizer_facts(setup.optimizer)
    home = facts.package.package if facts.package else "torch"
    if not (setup.optimizer in CORE or home == "bitsandbytes"):
        raise cannot("torchtune", "optimizer", setup.optimizer)
    optimizer: Keys = {"_component_": f"{home}.optim.{facts.classes[0]}"}
    if setup.optimizer == "adamw":
        optimizer["fused"] = setup.optimizer_impl == "fused"
    return {
        "model": parts,
        "output_dir": "outputs",
        "tokenizer": {
            **{key: f"{folder}/{name}" for key, name in known["tokenizer"].items()},
            "_component_": f"torchtune.models.{known['tokenizer']['_component_']}",
            "max_seq_len": setup.seq_len,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": folder,
            "checkpoint_files": _checkpoint_files(count),
            "output_dir": "outputs",
            "model_type": known["model_type"],
        },
        "resume_from_checkpoint": False,
        "dataset": {"_component_": "torchtune.datasets.alpaca_dataset", "packed": False},
        "batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "optimizer": {**optimizer, "lr": 0.0002},
        "loss": {"_component_": losses.get(setup.loss, losses["plain"]).component},
        "dtype": "fp32" if setup.dtype == "float32" else "bf16",
        "enable_activation_checkpointing": setup.checkpointing,
        "compile": False,
        "epochs": 1,
        "max_steps_per_epoch": 1_000_000,  # recipes want one; more than any epoch has
        "seed": 0,
        "shuffle": True,
        **_of_method(setup),
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "outputs/logs",
        },
        "log_level": "INFO",
        "device": "cuda",
    }


def _checkpoint_files(count: int) -> Any:
    if count == 1:
        return ["model.safetensors"]
    return {"filename_format": "model-{}-of-{}.safetensors", "max_filename": f"{count:05}"}


def _of_method(setup: TrainSetup) -> Keys:
    """What the recipes of either kind alone read."""
    if setup.lora is None:
        return {"optimizer_in_bwd": setup.optimizer_in_bwd}
    schedule = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    return {"lr_scheduler": {"_component_": schedule, "num_warmup_steps": 100}}


def launch(setup: TrainSetup, file: str) -> Launch:
    kind = "full" if setup.lora is None else "lora"
    if not setup.is_shared:
        return Launch({}, {}, {}, f"tune run {kind}_finetune_single_device --config {file}")
    ranks = setup.world_size
    return Launch(
        keys={"fsdp_reshard_after_forward": setup.sharding == "fsdp"},
        beside={},
        told=told(num_processes=ranks),
        command=f"tune run --nproc_per_node {ranks} {kind}_finetune_distributed --config {file}",
    )
