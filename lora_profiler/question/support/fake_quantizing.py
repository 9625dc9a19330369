"""Which questions of quantisation-aware training have an answer. No torch."""

from collections.abc import Mapping

from lora_profiler.errors import UsageError
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.workload import Qat, TrainSetup, Workload

RULED: tuple[Qat, ...] = ("8da4w", "int8-int4")
"""Schemes whose scales get no gradient, which the rules know; the others are traced."""
_GROUPS: Mapping[Qat, int] = {"fp8-int4": 128, "fp8-fp8": 1}
"""Where torchao fixes them."""


def is_of_adapted_layers(setup: TrainSetup) -> bool:
    """Whether the layers with adapters alone are fake-quantised, as by torchtune's recipe."""
    return setup.qat == "8da4w" and setup.lora is not None


def rounds_head(workload: Workload) -> bool:
    """Whether the head's weight is rounded where the head is called; torchtune's quantizer leaves
    one that is tied alone, which is no linear layer there (modules/tied_linear.py)."""
    setup = workload.setup
    if setup.qat != "8da4w":
        return setup.qat != "none"
    return setup.lora is None and not workload.model.has_tied_head


def qat_words(workload: Workload) -> tuple[str, ...]:
    """What an answer says of fake-quantised layers."""
    setup = workload.setup
    if setup.qat == "none":
        return ()
    if is_of_adapted_layers(setup):
        which = "Every linear layer with an adapter"
    else:
        is_head = rounds_head(workload) and setup.loss == "plain"
        head = "the head among them" if is_head else "but the head"
        which = f"Every linear layer, {head},"
    what = "its weight" if setup.qat == "int4" else "its weight and its input"
    return (
        f"{which} rounds {what} in each forward pass as torchao 0.18 does, operator by operator,"
        " without torch.compile.",
    )


def check_qat(workload: Workload) -> None:
    """Raises UsageError for fake-quantised layers that torchao refuses, and beside an option that
    no trace of them was held against."""
    setup = workload.setup
    if setup.qat == "none":
        return
    lora = setup.lora
    refused = {
        "--method qlora": setup.quantization is not None,
        f"--loss {setup.loss}": not loss_facts(setup.loss).takes_fake_quantized
        and rounds_head(workload),
        f"--kernels {setup.kernels}": not kernel_set(setup.kernels).takes_fake_quantized,
        f"--sharding {setup.sharding}": setup.sharding not in ("none", "ddp", "fsdp"),
        "--generation-batch-size": setup.completions_at_once > 0,
        "--images": setup.images is not None,
        "--use-dora": lora is not None and lora.use_dora,
        "--peft-type": lora is not None and lora.peft_type != "lora",
        "fused adapters": lora is not None and (lora.fast_lora or lora.lora_kernels != "peft"),
    }
    requested = next((name for name, is_asked in refused.items() if is_asked), None)
    if requested is not None:
        raise UsageError(
            f"fake-quantised layers were not held against {requested}; leave out one of that and"
            " --qat."
        )
    group = _GROUPS.get(setup.qat, setup.qat_group_size)
    for name, module in workload.model.modules():
        if module.kind == "Linear" and (module.in_features or 0) % group:
            raise UsageError(
                f"torchao's groups of {group} do not go into the {module.in_features} inputs of"
                f" {name}; take another --qat-group-size."
            )
