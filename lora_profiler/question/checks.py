"""Which options of a setup do not go together."""

import re
from typing import TYPE_CHECKING

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.loss import loss_facts
from lora_profiler.optimizer import optimizer_facts
from lora_profiler.option_values import (
    DEEPSPEED_ZERO,
    FLAT,
    FROZEN_PARTS,
    FULLY_SHARDED,
    GRPO,
    WHOLE_WEIGHTS,
)

if TYPE_CHECKING:
    from lora_profiler import TrainSetup  # by its public name: its module imports this one

_IMAGE_SIZE = r"[1-9]\d{0,4}x[1-9]\d{0,4}"


def check_together(setup: "TrainSetup") -> None:
    """Raises UsageError for options that contradict each other."""
    if setup.world_size > 1 and setup.sharding == "none":
        raise UsageError(
            f"{setup.world_size} GPUs need a sharding; add `--sharding ddp` or `fsdp`."
        )
    if not re.fullmatch(_IMAGE_SIZE, setup.image_size):
        raise UsageError(
            f"image size is {setup.image_size[:40]!r}; write width and height in pixels, as in"
            " 1024x768."
        )
    if setup.freeze:
        _check_frozen(setup)
    if setup.world_size == 1 and setup.sharding not in ("none", *DEEPSPEED_ZERO):
        raise UsageError(
            f"--sharding {setup.sharding} needs several GPUs; add `--world-size 2` or more."
        )
    if setup.has_flat_units and not loss_facts(setup.loss).takes_flat_units:
        raise UsageError(
            f"--loss {setup.loss} is not modelled under FSDP1; use --loss plain, fused or triton,"
            " or --sharding fsdp."
        )
    if setup.label_smoothing_factor and setup.loss != "plain":
        raise UsageError(
            f"--loss {setup.loss} and --label-smoothing-factor exclude each other; label smoothing"
            " needs all logits. Leave out one of them."
        )
    if setup.label_smoothing_factor and setup.transformers != "5":
        raise UsageError(
            "label smoothing is modelled for transformers 5 only; leave out one of --transformers"
            " and --label-smoothing-factor."
        )
    if setup.completions_at_once and setup.sharding not in WHOLE_WEIGHTS:
        raise UsageError(
            "generation is modelled with whole weights on each GPU; use --sharding ddp, or"
            " --use-vllm."
        )
    for flag, is_given in (("--beta", setup.beta > 0), ("--use-vllm", setup.use_vllm)):
        if is_given and setup.loop_state not in GRPO:
            raise UsageError(
                f"{flag} needs GRPO; use --trainer trl-grpo or unsloth-grpo, or leave {flag} out."
            )
    if setup.use_vllm and setup.generation_batch_size is not None:
        raise UsageError(
            "--use-vllm and --generation-batch-size exclude each other; leave out one of them."
        )
    if setup.optimizer_in_bwd:
        _check_in_backward(setup)
    if setup.quantization is not None and setup.lora is None:
        raise UsageError("a quantised base cannot be trained in full; use --method qlora.")
    facts = optimizer_facts(setup.optimizer)
    if setup.optimizer_impl == "fused" and not facts.has_fused:
        raise UsageError(
            f"{setup.optimizer} has no fused implementation; leave --optimizer-impl out."
        )
    lora = setup.lora
    if facts.matrices_alone and (
        lora is None or lora.modules_to_save or lora.use_dora or lora.peft_type == "vera"
    ):
        raise UsageError(
            "torch's Muon updates matrices only, not norms, biases, DoRA or VeRA vectors; use"
            " --method lora without --modules-to-save, --use-dora and VeRA, or another"
            " --optimizer."
        )
    if facts.whole_weights_alone and (lora is not None or setup.sharding not in ("none", "ddp")):
        raise UsageError(
            f"{setup.optimizer} is modelled with whole weights only; use --method full, with"
            " --sharding none or ddp."
        )
    if facts.b_alone and (
        lora is None
        or lora.use_dora
        or lora.fast_lora
        or lora.peft_type != "lora"
        or setup.sharding not in ("none", "ddp")
    ):
        raise UsageError(
            "PEFT's LoRA-FA trains B of plain LoRA; use --method lora or qlora, with --sharding"
            " none or ddp."
        )
    if setup.precision == "amp" and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "DeepSpeed's bf16 casts the weights and uses no autocast. Try: `--dtype bfloat16"
            " --precision pure`"
        )
    if setup.precision == "amp-float16":
        _check_scaled(setup)
    if setup.precision == "fsdp-mixed":
        _check_gathered_in_bfloat16(setup)
    if facts.matrices_alone and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "torch's Muon cannot update DeepSpeed's flat gradients; use another --sharding or"
            " --optimizer."
        )
    half = setup.dtype != "float32" or setup.precision != "pure"
    if setup.is_flash_attention_2 and setup.device != "cuda":
        raise UsageError("FlashAttention 2 runs on CUDA only; use another --attention or --device.")
    if (
        setup.attention in ("flash", "cudnn", "flash_attention_2")
        and setup.device != "cpu"
        and not half
    ):
        raise UsageError(
            f"--attention {setup.attention} does not support float32; use a 16-bit --dtype,"
            " --precision amp, or --attention efficient."
        )


def _check_frozen(setup: "TrainSetup") -> None:
    unknown = next((part for part in setup.freeze if part not in FROZEN_PARTS), None)
    if unknown is not None:
        raise UsageError(
            f"--freeze: unknown part {unknown[:40]!r}.{did_you_mean(unknown, FROZEN_PARTS)}"
            f" Supported: {', '.join(FROZEN_PARTS)}"
        )
    if setup.images is None:
        raise UsageError(
            "--freeze needs a vision-language model with images; add --images N, or leave it out."
        )
    if {*setup.freeze} == {*FROZEN_PARTS}:
        raise UsageError("nothing is left to train; leave a part out of --freeze.")
    lora = setup.lora
    if lora is not None and (lora.peft_type == "vera" or "language_model" in setup.freeze):
        raise UsageError(
            "adapters can leave out the vision tower and the projector only, and not with VeRA;"
            " name the adapted layers with --targets."
        )


def _check_scaled(setup: "TrainSetup") -> None:
    """torch's GradScaler, without which gradients vanish in float16, scales those in float32 alone
    (torch `amp/grad_scaler.py`, _unscale_grads_)."""
    lora, base = setup.lora, setup.quantization
    is_trl = base is not None and base.recipe == "trl"
    saved = lora is not None and lora.modules_to_save and setup.dtype != "float32"
    if lora is None and setup.dtype != "float32":
        raise UsageError(
            "torch cannot unscale 16-bit gradients under float16 autocast; use --dtype float32, or"
            " --method lora."
        )
    if lora is not None and (lora.adapter_dtype != "float32" or is_trl or saved):
        raise UsageError(
            "torch cannot unscale 16-bit gradients under float16 autocast; use --adapter-dtype"
            " float32, no --recipe trl, and --modules-to-save with --dtype float32 only."
        )
    if setup.sharding not in ("none", "ddp"):
        raise UsageError(
            "float16 autocast is modelled for one process and DDP; use --precision amp, or another"
            " --sharding."
        )


def _check_in_backward(setup: "TrainSetup") -> None:
    if setup.world_size > 1:
        raise UsageError(
            "--optimizer-in-bwd is modelled for one GPU; leave it out, or --world-size and"
            " --sharding."
        )
    if setup.accumulation > 1:
        raise UsageError(
            "--optimizer-in-bwd frees each gradient at once, so accumulation must be 1. Try:"
            " `--accumulation 1`"
        )
    if setup.precision == "amp-float16":
        raise UsageError(
            "--precision amp-float16 and --optimizer-in-bwd exclude each other; a scaled loss keeps"
            " its gradients. Leave out one of them."
        )
    is_foreach = setup.optimizer == "adamw" and setup.optimizer_impl != "fused"
    steps = optimizer_facts(setup.optimizer).steps_in_backward
    if is_foreach or not (steps or setup.optimizer == "adamw"):
        raise UsageError(
            "--optimizer-in-bwd is modelled with fused AdamW, SGD and bitsandbytes' optimizers; use"
            " one of them, or leave it out."
        )


def _check_gathered_in_bfloat16(setup: "TrainSetup") -> None:
    if setup.sharding not in FULLY_SHARDED or setup.sharding in FLAT:
        raise UsageError(
            "--precision fsdp-mixed needs FSDP; add --sharding fsdp, or use --precision amp."
        )
    lora = setup.lora
    if setup.quantization is not None:
        if setup.dtype != "bfloat16":
            raise UsageError(
                "FSDP's mixed precision would convert packed weights that are not bfloat16; use"
                " --dtype bfloat16, or --precision pure or amp."
            )
        return  # accelerate widens nothing beside a 4-bit base (fsdp_utils.py)
    if lora is None or lora.modules_to_save:
        is_wide = setup.dtype == "float32"
    else:
        is_wide = setup.dtype != "float16"
    if not is_wide or (lora is not None and lora.adapter_dtype != "float32"):
        raise UsageError(
            "FSDP's mixed precision keeps trained weights in float32; use --dtype float32 (bfloat16"
            " for adapters only) and --adapter-dtype float32."
        )
