"""axolotl's YAML that trains what a question asks."""

import json
from typing import Any

from lora_profiler.features.trainers.axolotl._readers import LORA_KERNELS
from lora_profiler.question.loss import Spelling, spellings
from lora_profiler.question.workload import DEEPSPEED_ZERO, TrainSetup, Workload
from lora_profiler.trainer_files.writing import (
    ATTENTION,
    DATASET,
    Keys,
    Launch,
    is_bf16,
    is_int8,
    is_pure_bf16,
    listed,
    optim_key,
    short,
    stem,
    told,
)

TRAINER = "axolotl"


def keys(workload: Workload) -> Keys:
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
            "lora_target_modules": None if is_linear else listed(names),
            "lora_target_parameters": listed(lora.target_parameters),
            "lora_modules_to_save": listed(lora.modules_to_save),
            "peft_layers_to_transform": listed(lora.layers_to_transform),
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
        "bf16": "full" if is_pure_bf16(setup) else is_bf16(setup),
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
        "datasets": [{"path": DATASET, "type": "alpaca"}],
        "num_epochs": 1,
        "learning_rate": 0.0002,
        "lr_scheduler": "cosine",
        "output_dir": "./outputs",
    }


def launch(setup: TrainSetup, file: str) -> Launch:
    """Its own file says how the model is shared."""
    if not setup.is_shared:
        return Launch({}, {}, {}, f"axolotl train {file}")
    keys, beside = _shared(setup, file)
    ranks = setup.world_size
    command = f"axolotl train {file} --launcher torchrun -- --nproc_per_node={ranks}"
    return Launch(keys, beside, told(num_processes=ranks), command)


def _shared(setup: TrainSetup, file: str) -> tuple[dict[str, Any], dict[str, str]]:
    if setup.sharding in DEEPSPEED_ZERO:
        other = f"{stem(file)}.deepspeed.json"
        places = {
            "offload_optimizer": setup.offload_optimizer_device,
            "offload_param": setup.offload_param_device,
        }
        moved = {part: {"device": place} for part, place in places.items() if place != "none"}
        content: dict[str, Any] = {
            "zero_optimization": {"stage": DEEPSPEED_ZERO.index(setup.sharding) + 1, **moved},
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
