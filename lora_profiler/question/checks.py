"""Which options of a setup do not go together."""

import re
from typing import TYPE_CHECKING

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.option_values import (
    DEEPSPEED_ZERO,
    FLAT,
    FROZEN_PARTS,
    FULLY_SHARDED,
    GRPO,
    PROJECTED,
    RULED_ALONE,
    WHOLE_WEIGHTS,
)

if TYPE_CHECKING:
    from lora_profiler import TrainSetup  # by its public name: its module imports this one

_WORKING_OPTIMIZERS = (
    *("adafactor", "muon", "rmsprop", "adamw_torch_8bit", "adamw_torch_4bit"),
    *RULED_ALONE,
)
_IMAGE_SIZE = r"[1-9]\d{0,4}x[1-9]\d{0,4}"


def check_together(setup: "TrainSetup") -> None:
    """Raises UsageError for options that contradict each other."""
    if setup.world_size > 1 and setup.sharding == "none":
        raise UsageError(
            f"a world of {setup.world_size} ranks needs to know what they share; add --sharding"
            " ddp or fsdp."
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
            f"sharding {setup.sharding} needs several ranks; add --world-size 2 or more."
        )
    if setup.has_flat_units and setup.loss not in ("plain", "fused", "triton"):
        raise UsageError(
            f"the {setup.loss} loss is not known under FSDP of flat parameters; take --loss plain,"
            " fused or triton, or --sharding fsdp."
        )
    if setup.label_smoothing_factor and setup.loss != "plain":
        raise UsageError(
            f"label smoothing needs all logits, which the {setup.loss} loss never hands on;"
            " leave out one of --loss and --label-smoothing-factor."
        )
    if setup.label_smoothing_factor and setup.transformers != "5":
        raise UsageError(
            "label smoothing is known of transformers 5 alone; leave out one of --transformers"
            " and --label-smoothing-factor."
        )
    if setup.completions_at_once and setup.sharding not in WHOLE_WEIGHTS:
        raise UsageError(
            "generation is known where each rank has all weights; take --sharding ddp, or"
            " --use-vllm where vLLM makes completions."
        )
    for flag, is_given in (("--beta", setup.beta > 0), ("--use-vllm", setup.use_vllm)):
        if is_given and setup.loop_state not in GRPO:
            raise UsageError(
                f"{flag} is about GRPO; take --trainer trl-grpo or unsloth-grpo, or leave {flag}"
                " out."
            )
    if setup.use_vllm and setup.generation_batch_size is not None:
        raise UsageError(
            "completions come from vLLM or from transformers' generate; leave out one of"
            " --use-vllm and --generation-batch-size."
        )
    if setup.optimizer_in_bwd:
        _check_in_backward(setup)
    if setup.quantization is not None and setup.lora is None:
        raise UsageError(
            "a quantised base cannot be trained in full; add a LoRA adapter (method qlora)."
        )
    if setup.optimizer not in ("adamw", "sgd") and setup.optimizer_impl == "fused":
        raise UsageError(
            f"{setup.optimizer} has no fused implementation; leave --optimizer-impl out."
        )
    lora = setup.lora
    if setup.optimizer == "muon" and (
        lora is None or lora.modules_to_save or lora.use_dora or lora.peft_type == "vera"
    ):
        raise UsageError(
            "torch's Muon updates matrices alone, and refuses the vectors of norms, biases,"
            " magnitudes and VeRA; take it with --method lora or qlora and neither"
            " --modules-to-save nor --use-dora nor --peft-type vera, or another --optimizer."
        )
    if setup.optimizer in PROJECTED and (lora is not None or setup.sharding not in ("none", "ddp")):
        raise UsageError(
            f"{setup.optimizer} is known of whole weights alone; take it with --method full, on one"
            " rank or on ranks that each hold all."
        )
    if setup.optimizer == "lorafa" and (
        lora is None
        or lora.use_dora
        or lora.fast_lora
        or lora.peft_type != "lora"
        or setup.sharding not in ("none", "ddp")
    ):
        raise UsageError(
            "PEFT's LoRA-FA trains B of plain LoRA; take it with --method lora or qlora, on one"
            " rank or on ranks that each hold all."
        )
    if setup.precision == "amp" and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "DeepSpeed's bf16 is no autocast: it makes the weights bfloat16; take --dtype"
            " bfloat16 --precision pure."
        )
    if setup.precision == "amp-float16":
        _check_scaled(setup)
    if setup.precision == "fsdp-mixed":
        _check_gathered_in_bfloat16(setup)
    if setup.optimizer == "muon" and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "DeepSpeed lays gradients end to end, and torch's Muon updates matrices alone; take"
            " another --sharding or --optimizer."
        )
    half = setup.dtype != "float32" or setup.precision != "pure"
    if setup.is_flash_attention_2 and setup.device != "cuda":
        raise UsageError(
            "FlashAttention 2 runs on CUDA alone; take another --attention or --device."
        )
    if (
        setup.attention in ("flash", "cudnn", "flash_attention_2")
        and setup.device != "cpu"
        and not half
    ):
        raise UsageError(
            f"{setup.attention} attention takes no float32; use a 16-bit dtype, amp, or"
            " attention efficient."
        )


def _check_frozen(setup: "TrainSetup") -> None:
    unknown = next((part for part in setup.freeze if part not in FROZEN_PARTS), None)
    if unknown is not None:
        raise UsageError(
            f"{unknown[:40]!r} is no part that can be frozen; accepted: {', '.join(FROZEN_PARTS)}."
            f"{did_you_mean(unknown, FROZEN_PARTS)}"
        )
    if setup.images is None:
        raise UsageError(
            "--freeze names parts of a model that sees, which a question about text alone leaves"
            " out; add --images N, or leave it out."
        )
    if {*setup.freeze} == {*FROZEN_PARTS}:
        raise UsageError("nothing is left to train; leave a part out of --freeze.")
    lora = setup.lora
    if lora is not None and (lora.peft_type == "vera" or "language_model" in setup.freeze):
        raise UsageError(
            "adapters are kept out of the tower and the projector alone, and by methods that have"
            " PEFT's exclude_modules, which VeRA has not; name what is adapted with --targets."
        )


def _check_scaled(setup: "TrainSetup") -> None:
    """torch's GradScaler, without which gradients vanish in float16, scales those in float32 alone
    (torch `amp/grad_scaler.py`, _unscale_grads_)."""
    lora, base = setup.lora, setup.quantization
    is_trl = base is not None and base.recipe == "trl"
    saved = lora is not None and lora.modules_to_save and setup.dtype != "float32"
    if lora is None and setup.dtype != "float32":
        raise UsageError(
            "under float16 autocast the loss is scaled, and torch unscales no gradients in 16 bit;"
            " take --dtype float32, or --method lora."
        )
    if lora is not None and (lora.adapter_dtype != "float32" or is_trl or saved):
        raise UsageError(
            "under float16 autocast the loss is scaled, and torch unscales no gradients in 16 bit;"
            " train in float32: --adapter-dtype float32, no --recipe trl, and --modules-to-save"
            " with --dtype float32 alone."
        )
    if setup.sharding not in ("none", "ddp"):
        raise UsageError(
            "float16 autocast is known of one process and of DDP; take --precision amp, or another"
            " --sharding."
        )


def _check_in_backward(setup: "TrainSetup") -> None:
    if setup.world_size > 1:
        raise UsageError(
            "an optimizer that steps in backward is known of one device; leave out"
            " --optimizer-in-bwd, or --world-size and --sharding."
        )
    if setup.accumulation > 1:
        raise UsageError(
            "an optimizer that steps in backward lets no gradient wait for another micro-batch;"
            " take --accumulation 1, or leave out --optimizer-in-bwd."
        )
    if setup.precision == "amp-float16":
        raise UsageError(
            "a scaled loss keeps gradients until they are unscaled, and steps in backward let them"
            " go; leave out one of --precision amp-float16 and --optimizer-in-bwd."
        )
    is_foreach = setup.optimizer == "adamw" and setup.optimizer_impl != "fused"
    if is_foreach or setup.optimizer in _WORKING_OPTIMIZERS:
        raise UsageError(
            "what each step in backward makes for itself is known of fused AdamW, of SGD and of"
            " bitsandbytes' optimizers, which make nothing; take one of them, or leave out"
            " --optimizer-in-bwd."
        )


def _check_gathered_in_bfloat16(setup: "TrainSetup") -> None:
    if setup.sharding not in FULLY_SHARDED or setup.sharding in FLAT:
        raise UsageError(
            "precision fsdp-mixed is FSDP's MixedPrecisionPolicy; add --sharding fsdp, or take"
            " --precision amp."
        )
    lora = setup.lora
    if setup.quantization is not None:
        if setup.dtype != "bfloat16":
            raise UsageError(
                "under FSDP's mixed precision weights packed in another format than bfloat16 would"
                " be converted as numbers; take --dtype bfloat16, or --precision pure or amp."
            )
        return  # accelerate widens nothing beside a 4-bit base (fsdp_utils.py)
    if lora is None or lora.modules_to_save:
        is_wide = setup.dtype == "float32"
    else:
        is_wide = setup.dtype != "float16"
    if not is_wide or (lora is not None and lora.adapter_dtype != "float32"):
        raise UsageError(
            "under FSDP's mixed precision what trains is kept in float32; take --dtype float32"
            " (bfloat16 where adapters alone train) and --adapter-dtype float32."
        )
