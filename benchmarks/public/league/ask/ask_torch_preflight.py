from dataclasses import replace

from protocol import Question, RefusedError, answer


def estimate(question: Question) -> float:
    from torch_preflight.vram.costmodel import estimate as priced
    from torch_preflight.vram.providers.hub import shape_from_config
    from torch_preflight.vram.providers.static import from_shape
    from torch_preflight.vram.types import OptimizerKind, PrecisionMode, RunConfig, Sharding

    if question["method"] == "qlora":
        raise RefusedError("no option for 4-bit weights")
    profile = replace(
        from_shape(shape_from_config(question["config"])),
        param_count=question["parameters"],
        trainable_params=question["trainable"],
    )
    adam = OptimizerKind.ADAMW if question["optimizer"] == "adamw" else OptimizerKind.ADAM_8BIT
    sharded = question["sharding"] == "fsdp"
    report = priced(
        profile,
        RunConfig(
            batch_size=question["batch_size"],
            seq_len=question["seq_len"],
            precision=(
                PrecisionMode.PURE_BF16 if question["weights"] == "bf16" else PrecisionMode.AMP
            ),
            optimizer=adam,
            gradient_checkpointing=question["checkpointing"],
            flash_attention=question["attention"] != "eager",
            world_size=question["cards"] if sharded else 1,
            sharding=Sharding.ZERO3 if sharded else Sharding.NONE,
        ),
    )
    found = report.breakdown
    total = found.total - found.cuda_context
    return total - found.fragmentation if question["quantity"] == "allocated" else total


answer(estimate)
