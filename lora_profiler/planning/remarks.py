"""What a user should be told beside the numbers: more activations under LoRA, odd ranks and
targets, long sequences."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.planning.engine import predict
from lora_profiler.prediction import LayerCost, Prediction
from lora_profiler.workload import Workload


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
    full_bytes, lora_bytes, setup = (
        full.saved_activation_bytes,
        lora.saved_activation_bytes,
        lora.workload.setup,
    )
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
            replace(lora.workload, setup=replace(setup, lora=adapter)), engine
        ).saved_activation_bytes
    except LoraProfilerError:
        remedied = None
    return ActivationExcess(
        full_bytes=full_bytes,
        lora_bytes=lora_bytes,
        causes=tuple(causes),
        remedied_bytes=lora_bytes if remedied is None else remedied,
    )


def attention_targets(model: ModelSpec) -> tuple[str, ...]:
    """LoRA targets for the linear layers inside attention, by the shortest names that match nothing
    outside it.

    Raises UsageError where no module's path says that it is attention.
    """
    inside: dict[str, str] = {}
    outside: set[str] = set()
    for name, module in model.modules():
        if not module.is_linear:
            continue
        parent, _, leaf = name.rpartition(".")
        owner = parent.rpartition(".")[2]
        if "attn" in owner or "attention" in owner:
            inside[f"{owner}.{leaf}"] = leaf
        else:
            outside.add(leaf)
    if not inside:
        raise UsageError(
            f"{model.id} names no attention projections; list them with --targets NAME,NAME."
        )
    return tuple(dict.fromkeys(path if leaf in outside else leaf for path, leaf in inside.items()))


def outweighed_layers(prediction: Prediction) -> tuple[LayerCost, ...]:
    """Linear layers whose adapter holds more parameters than the layer itself: the rank is too
    large to save anything."""
    lora = prediction.workload.setup.lora
    if lora is None or not any(
        _outweighs(module, lora.r) for module in _distinct_modules(prediction.workload.model)
    ):
        return ()
    return tuple(
        c
        for c in prediction.layers
        if c.in_features is not None and c.num_trainable_parameters > c.num_parameters > 0
    )


def _outweighs(module: Module, rank: int) -> bool:
    return (
        module.is_linear
        and rank * sum(module.weight("weight").shape) > module.weight("weight").numel
    )


def _distinct_modules(model: ModelSpec) -> Iterator[Module]:
    for part in model.parts:
        if isinstance(part, Module):
            yield part
        else:
            for kind in part.kinds:
                yield from kind


def trained_length(model: ModelSpec) -> int | None:
    """The longest sequence that the model was made for, None where its config does not say."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        length = model.config.get(key)
        if isinstance(length, int) and not isinstance(length, bool):
            return length
    return None


def unmatched_targets(workload: Workload) -> tuple[str, ...]:
    """Names in a list of targets that match nothing; PEFT passes over them in silence as long as
    another one matches.

    Families whose experts PEFT renames are not judged.
    """
    lora = workload.setup.lora
    if lora is None or not isinstance(lora.target_modules, tuple):
        return ()
    from lora_profiler.adapters.peft_tables import PACKED_EXPERTS

    if workload.model.model_type in PACKED_EXPERTS:
        return ()
    names = [f".{name}" for name, _ in workload.model.modules()]
    return tuple(
        t for t in lora.target_modules if not any(name.endswith(f".{t}") for name in names)
    )
