"""What is odd about a question or its answer: more activations under LoRA, ranks and targets that
are probably not what was meant."""

from dataclasses import replace
from itertools import chain
from typing import Literal, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.memory.prediction import LayerCost, Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.model_spec import Module
from lora_profiler.question.workload import Workload


class ActivationExcess(NamedTuple):
    """LoRA keeps more for backward than full fine-tuning does: by how much, why, and what 16-bit
    adapters would keep."""

    full_bytes: int
    lora_bytes: int
    causes: tuple[Literal["adapter_dtype", "dropout"], ...]
    remedied_bytes: int


def activation_excess(
    full: Prediction, lora: Prediction, engine: str = "auto"
) -> ActivationExcess | None:
    """Why `lora` saves more activation bytes than `full`, or None where it does not.

    PEFT casts the input of every adapted layer to the adapter's dtype and keeps that copy; with
    dropout it keeps the dropped input and a mask as well. What is left without both is
    `remedied_bytes`.
    """
    full_bytes, lora_bytes = full.saved_activation_bytes, lora.saved_activation_bytes
    setup = lora.workload.setup
    if full_bytes is None or lora_bytes is None or lora_bytes <= full_bytes or setup.lora is None:
        return None
    causes: list[Literal["adapter_dtype", "dropout"]] = []
    if setup.lora.adapter_dtype != setup.dtype:
        causes.append("adapter_dtype")
    if setup.lora.lora_dropout > 0:
        causes.append("dropout")
    adapter = replace(setup.lora, adapter_dtype=setup.dtype, lora_dropout=0.0)
    try:
        remedied = predict(
            replace(lora.workload, setup=replace(setup, lora=adapter)), engine, may_trace=False
        ).saved_activation_bytes
    except LoraProfilerError:
        remedied = None
    return ActivationExcess(
        full_bytes=full_bytes,
        lora_bytes=lora_bytes,
        causes=tuple(causes),
        remedied_bytes=lora_bytes if remedied is None else remedied,
    )


def outweighed_layers(prediction: Prediction) -> tuple[LayerCost, ...]:
    """Linear layers whose adapter holds more parameters than the layer itself: the rank is too
    large to save anything."""
    lora, model = prediction.workload.setup.lora, prediction.workload.model
    if lora is None or lora.peft_type != "lora":
        return ()
    kinds = ((part,) if isinstance(part, Module) else chain(*part.kinds) for part in model.parts)
    weights = [m.weight("weight") for m in chain(*kinds) if m.is_linear]
    if not any(lora.r * sum(weight.shape) > weight.numel for weight in weights):
        return ()
    return tuple(
        c
        for c in prediction.layers
        if c.in_features is not None and c.num_trainable_parameters > c.num_parameters > 0
    )


def unmatched_targets(workload: Workload) -> tuple[str, ...]:
    """Names in a list of targets that match nothing; PEFT passes over them in silence as long as
    another one matches.

    Families whose experts PEFT renames are not judged.
    """
    lora = workload.setup.lora
    if lora is None or not isinstance(lora.target_modules, tuple):
        return ()
    from lora_profiler.question.adapters.targets import PACKED_EXPERTS

    if workload.model.model_type in PACKED_EXPERTS:
        return ()
    names = [f".{name}" for name, _ in workload.model.modules()]
    return tuple(
        t for t in lora.target_modules if not any(name.endswith(f".{t}") for name in names)
    )
