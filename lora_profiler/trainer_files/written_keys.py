"""The keys of a trainer's file that trains what a question asks, trainer by trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.question.loss import Spelling, spellings
from lora_profiler.question.optimizer import CORE, optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.workload import DEEPSPEED_ZERO, Quantization, TrainSetup, Workload
from lora_profiler.trainer_files.frameworks import torchtune
from lora_profiler.trainer_files.frameworks.axolotl_keys import LORA_KERNELS

Keys = dict[str, Any]
ATTENTION = {"auto": "sdpa", "flash_attention_2": "flash_attention_2", "eager": "eager"}
_DATASET = "tatsu-lab/alpaca"


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


def _axolotl(workload: Workload) -> Keys:
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    keys: Keys = {
        "base_model": workload.model.id,
        "load_in_4bit": base is not None and not is_int8(base),
        "load_in_8bit": is_int8(base),
        "adapter": None if lora is None else "lora" if is_int8(base) else setup.method,
    }
    if lora is not None:
        names = lora.target_modules
        is_linear = names == "all-linear"
        keys |= {
            "lora_r": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
            "lora_target_linear": True if is_linear else None,
            "lora_target_modules": None if is_linear else _names(names),
            "lora_target_parameters": _names(lora.target_parameters),
            "lora_modules_to_save": _names(lora.modules_to_save),
            "peft_layers_to_transform": _names(lora.layers_to_transform),
            "peft_use_rslora": lora.use_rslora or None,
            "peft_use_dora": lora.use_dora or None,
            "peft_autocast_adapter_dtype": None if lora.adapter_dtype == "float32" else False,
        }
        has_kernels = lora.lora_kernels == "axolotl" and setup.precision != "amp-float16"
        keys |= dict.fromkeys(LORA_KERNELS, has_kernels)
    if base is not None and not base.double_quant:
        keys["bnb_config_kwargs"] = {"bnb_4bit_use_double_quant": False}
    keys |= {
        "sequence_len": setup.seq_len,
        "sample_packing": setup.packed is not None,
        "pad_to_sequence_len": True,
        "micro_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "optimizer": optim_key(setup),
        "bf16": "full" if _is_pure_bf16(setup) else is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "attn_implementation": ATTENTION.get(setup.attention),
    }
    of_loss = spellings("axolotl").get(setup.loss, Spelling()).written
    liger = setup.kernels == "liger"
    if liger or setup.loss == "fused":
        keys["plugins"] = ["axolotl.integrations.liger.LigerPlugin"]
        on = ("liger_rope", "liger_rms_norm", "liger_glu_activation") if liger else ()
        keys |= dict.fromkeys(on, True)
        keys["liger_fused_linear_cross_entropy"] = setup.loss == "fused"
    plugins = dict.fromkeys((*keys.get("plugins", ()), *of_loss.get("plugins", ())))
    keys |= {**of_loss, "plugins": list(plugins) or None}
    return keys | {
        "val_set_size": 0.0 if setup.eval_batch_size is None else 0.05,
        "eval_batch_size": setup.eval_batch_size,
        "datasets": [{"path": _DATASET, "type": "alpaca"}],
        "num_epochs": 1,
        "learning_rate": 0.0002,
        "lr_scheduler": "cosine",
        "output_dir": "./outputs",
    }


def is_bf16(setup: TrainSetup) -> bool:
    """Whether the trainer's switch is on, which DeepSpeed and FSDP make something else of than
    autocast."""
    if setup.sharding in DEEPSPEED_ZERO:
        return setup.dtype == "bfloat16"
    return setup.precision in ("amp", "fsdp-mixed")


def _is_pure_bf16(setup: TrainSetup) -> bool:
    is_pure = setup.precision == "pure" and setup.dtype == "bfloat16"
    return is_pure and setup.sharding not in DEEPSPEED_ZERO


def _arguments(setup: TrainSetup) -> Keys:
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


def _trl(workload: Workload) -> Keys:
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    keys: Keys = {
        "model_name_or_path": workload.model.id,
        "dtype": setup.dtype,
        "attn_implementation": ATTENTION.get(setup.attention),
        "use_peft": lora is not None,
    }
    if lora is not None:
        names = lora.target_modules
        keys |= {
            "load_in_4bit": base is not None and not is_int8(base),
            "load_in_8bit": is_int8(base) or None,
            "use_bnb_nested_quant": None if base is None else base.double_quant,
            "lora_r": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
            "lora_target_modules": [names] if isinstance(names, str) else _names(names),
            "lora_target_parameters": _names(lora.target_parameters),
            "lora_modules_to_save": _names(lora.modules_to_save),
            "use_rslora": lora.use_rslora or None,
            "use_dora": lora.use_dora or None,
        }
    return keys | {
        "dataset_name": _DATASET,
        "max_length": setup.seq_len,
        "packing": setup.packed is not None,
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "use_liger_kernel": setup.kernels == "liger",
        **_arguments(setup),
    }


def _llamafactory(workload: Workload) -> Keys:
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    keys: Keys = {
        "model_name_or_path": workload.model.id,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if lora is None else "lora",
    }
    if lora is not None:
        names = lora.target_modules
        keys |= {
            "quantization_bit": None if base is None else 8 if is_int8(base) else 4,
            "quantization_method": None if base is None else "bnb",
            "double_quantization": None if base is None else base.double_quant,
            "lora_rank": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
            "lora_target": ",".join(names) if isinstance(names, tuple) else "all",
            "additional_target": ",".join(lora.modules_to_save) or None,
            "use_rslora": lora.use_rslora or None,
            "use_dora": lora.use_dora or None,
        }
    flash = {"auto": "sdpa", "flash_attention_2": "fa2", "eager": "disabled"}
    return keys | {
        "dataset": "alpaca_en_demo",
        "template": "default",
        "cutoff_len": setup.seq_len,
        "packing": False,
        "flash_attn": flash.get(setup.attention),
        "disable_gradient_checkpointing": not setup.checkpointing,
        "use_reentrant_gc": setup.use_reentrant,
        "enable_liger_kernel": setup.kernels == "liger",
        **_arguments(setup),
        "pure_bf16": _is_pure_bf16(setup) or None,
        "val_size": None if setup.eval_batch_size is None else 0.05,
    }


def _torchtune(workload: Workload) -> Keys:
    """Of the builders that are known; its names are those of its own models."""
    setup, model = workload.setup, workload.model
    lora = setup.lora
    builders = {hub: builder for builder, hub in torchtune.MODELS.items()}
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
        "tokenizer": {"path": f"{folder}/tokenizer.model", "max_seq_len": setup.seq_len},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": folder,
            "output_dir": "outputs",
        },
        "dataset": {"_component_": "torchtune.datasets.alpaca_dataset", "packed": False},
        "batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "optimizer": {**optimizer, "lr": 0.0002},
        "loss": {"_component_": losses.get(setup.loss, losses["plain"]).component},
        "dtype": "fp32" if setup.dtype == "float32" else "bf16",
        "enable_activation_checkpointing": setup.checkpointing,
        "epochs": 1,
        "device": "cuda",
    }


KEYS: Mapping[str, Callable[[Workload], Keys]] = {
    "axolotl": _axolotl,
    "trl": _trl,
    "llamafactory": _llamafactory,
    "torchtune": _torchtune,
}


def cannot(title: str, option: str, value: Any) -> UsageError:
    return UsageError(
        f"{title} configs cannot express {flag(option)} {value}; leave it out, or write"
        " another trainer's."
    )


def _names(value: str | tuple[str, ...] | tuple[int, ...] | None) -> list[Any] | str | None:
    return list(value) or None if isinstance(value, tuple) else value


def short(number: float) -> float:
    """A whole number as one, which is how people write it."""
    return int(number) if number == int(number) else number
