"""What ranks share and keep on the host, as FSDP's and DeepSpeed's keys say it."""

from collections.abc import Callable
from typing import Any

from lora_profiler.question.workload import DEEPSPEED_ZERO
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    HIDDEN_SQUARED,
    NO_EFFECT,
    Direction,
    Meaning,
    Reader,
    is_off,
    is_on,
    not_modelled,
    number,
    size,
    when_on,
)

_VERSIONS = ("fsdp_version", "fsdp_config.fsdp_version", "fsdp_config.version")
_PREFETCHES = ("fsdp_config.fsdp_backward_prefetch", "fsdp_config.backward_prefetch")
_KEPT = ("FALSE", "SHARD_GRAD_OP", "2", "HYBRID_SHARD_ZERO2", "_HYBRID_SHARD_ZERO2", "5")
_STAGES = ("zero_optimization.stage", "deepspeed_config.zero_stage")
_WITHIN_A_NODE = ("HYBRID_SHARD", "4", "HYBRID_SHARD_ZERO2", "_HYBRID_SHARD_ZERO2", "5")


def parallel(option: str, what: str) -> Reader:
    """A degree of a parallelism that is not modelled, unless it is 1."""

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value) or number(value) <= 1:
            return NO_EFFECT
        return not_modelled(f"{what} of {size(value)}, which shares {option}", "too high")

    return read


def sequence_parts(value: Any, document: Document) -> Meaning:
    """cp_size of accelerate's ParallelismConfig, which is torch's own context parallelism."""
    if is_off(value) or number(value) <= 1:
        return NO_EFFECT
    return Meaning({"context_parallel_size": size(value)}, asks=("world_size",))


def rotated(value: Any, document: Document) -> Meaning:
    """cp_comm_strategy: how keys and values come, gathered unless it is said."""
    if str(value).lower() != "alltoall":
        return NO_EFFECT
    return not_modelled("keys and values that go round, answered as gathered", "too high")


def fsdp_switch(usual_version: int) -> Reader:
    """transformers' list or text: full_shard auto_wrap offload; on by itself where only its
    settings stand there. `usual_version`: which FSDP runs where the file names none."""

    def read(value: Any, document: Document) -> Meaning:
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list) or not words:
            strategy = _strategy(document)
            on = is_on(value)
            return _sharing(strategy, usual_version, document, asks=True) if on else NO_EFFECT
        words = [w.lower() for part in words for w in str(part).replace(",", " ").split()]
        known = ("no_shard", "shard_grad_op", "hybrid_shard_zero2", "hybrid_shard")
        strategy = next((word for word in known if word in words), _strategy(document))
        meaning = _sharing(strategy, usual_version, document, asks=True)
        if "offload" not in words or meaning.options.get("sharding") == "ddp":
            return meaning
        return meaning._replace(options={**meaning.options, "offload_params": True})

    return read


def fsdp_strategy(usual_version: int) -> Reader:
    """reshard_after_forward (FSDP2), or FSDP1's sharding_strategy."""

    def read(value: Any, document: Document) -> Meaning:
        return _sharing(str(value), usual_version, document, asks=False)

    return read


def fsdp_settings(usual_version: int) -> Reader:
    """The mapping fsdp_config without anything in it, or a file; keys are read by themselves."""

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value) or document.named_file(value):
            return NO_EFFECT
        if isinstance(value, str):
            return not_modelled("FSDP's settings in a file that is not at hand", "either way")
        return _sharing("full_shard", usual_version, document, asks=True)

    return read


def fsdp_keys(usual_version: int) -> dict[str, Reader]:
    """What stands under fsdp_config, in axolotl's, transformers' and accelerate's spelling."""
    strategy = fsdp_strategy(usual_version)
    kinds = {
        "sharding_strategy": strategy,
        "reshard_after_forward": strategy,
        "offload_params": params_on_host,
        "cpu_offload": params_on_host,
        "activation_checkpointing": _fsdp_checkpointing,
        "use_orig_params": _own_parameters,
        # the next unit is gathered beside the one whose forward pass begins (torch 2.13
        # `distributed/fsdp/_runtime_utils.py`, _pre_forward_unshard)
        "forward_prefetch": _of_fsdp1(
            is_on, "the next layer, gathered ahead in forward", usual_version
        ),
        # without its limit of two no unit is waited for to be let go before the next is gathered
        # (`distributed/fsdp/_limiter_utils.py`): how many there are is the host's pace
        "limit_all_gathers": _of_fsdp1(is_off, "all-gathers without a limit", usual_version),
    }
    return {f"fsdp_config.{p}{name}": r for name, r in kinds.items() for p in ("", "fsdp_")}


def _of_fsdp1(asks_for: Callable[[Any], bool], what: str, usual_version: int) -> Reader:
    def read(value: Any, document: Document) -> Meaning:
        if not asks_for(value) or _version(document, usual_version) != 1:
            return NO_EFFECT
        return not_modelled(what, "too low")

    return read


def _version(document: Document, usual: int) -> int:
    return size(next((document.get(key) for key in _VERSIONS if document.get(key)), usual))


def _own_parameters(value: Any, document: Document) -> Meaning:
    return NO_EFFECT if is_on(value) else Meaning({"use_orig_params": False})


params_on_host = when_on(offload_params=True)
"""With their gradients and the optimizer's states."""
_fsdp_checkpointing = when_on(checkpointing=True, use_reentrant=False)
"""accelerate's own, which is never reentrant (accelerator.py); off, it leaves the trainer's as it
is."""


def _strategy(document: Document) -> str:
    """The strategy that settings beside the switch name."""
    names = ("sharding_strategy", "reshard_after_forward")
    keys = (f"fsdp_config.{prefix}{name}" for name in names for prefix in ("", "fsdp_"))
    strategy = next((document.get(key) for key in keys if document.get(key) is not None), True)
    return str(strategy)


def _sharing(strategy: str, usual_version: int, document: Document, *, asks: bool) -> Meaning:
    """FSDP1 lays layers flat, and under accelerate gathers none ahead unless BACKWARD_PRE says
    so."""
    requested = ("world_size",) if asks else ()
    name = strategy.upper()
    if name in ("NO_SHARD", "3"):
        return Meaning({"sharding": "ddp"}, asks=requested)
    keeps = name in _KEPT
    sharding = "fsdp-no-reshard" if keeps else "fsdp"
    gaps = []
    if name in _WITHIN_A_NODE:
        gaps.append("FSDP within each node, answered as over all ranks")
    if _version(document, usual_version) == 1:
        if keeps:
            gaps.append("FSDP1 that keeps layers whole, answered as FSDP2")
        else:
            prefetch = next((document.get(key) for key in _PREFETCHES if document.get(key)), "")
            is_ahead = str(prefetch).upper() in ("BACKWARD_PRE", "1")
            sharding = "fsdp1" if is_ahead else "fsdp1-no-prefetch"
    meaning = Meaning({"sharding": sharding}, asks=requested)
    if not gaps:
        return meaning
    direction: Direction = "too low" if name in _WITHIN_A_NODE else "either way"
    return meaning._replace(missing="; ".join(gaps), direction=direction)


def zero_stage(value: Any, document: Document) -> Meaning:
    """DeepSpeed's; --sharding zero1 is torch's."""
    shardings = dict(enumerate(("ddp", *DEEPSPEED_ZERO)))
    stage = int(number(value))
    if stage not in shardings:
        raise ValueError("DeepSpeed's stages are 0, 1, 2 and 3.")
    return Meaning({"sharding": shardings[stage]}, asks=("world_size",))


def reduce_bucket(value: Any, document: Document) -> Meaning:
    """Elements; "auto" is filled in by transformers with the square of the hidden size
    (integrations/deepspeed.py, trainer_config_finalize)."""
    if value == "auto":
        note = "the hidden size squared, from the model"
        return Meaning({HIDDEN_SQUARED: True}, note=note)
    return Meaning({"reduce_bucket_size": size(value)})


def second_bucket(value: Any, document: Document) -> Meaning:
    """overlap_comm, off in stage 1 and 2 unless it is asked for; stage 3 has it on by itself."""
    if is_off(value) or document.get("zero_optimization.stage") == 3:
        return NO_EFFECT
    return not_modelled("a second reduce bucket (overlap_comm)", "too low")


def usual_number(usual: float, what: str) -> Reader:
    """A number that is known as it is by default alone; `what` may have it in braces."""

    def read(value: Any, document: Document) -> Meaning:
        if value in (None, "auto") or number(value) == usual:
            return NO_EFFECT
        return not_modelled(what.format(value), "either way")

    return read


def deepspeed(value: Any, document: Document) -> Meaning:
    """The name of DeepSpeed's file where it is not at hand: most say their stage."""
    if is_off(value):
        return NO_EFFECT
    name = str(value).rsplit("/", 1)[-1].lower()
    if document.named_file(value):
        return Meaning(note="read as the next file")
    stage = next((n for n in "3210" if f"z{n}" in name or f"zero{n}" in name), None)
    if stage is None:
        raise ValueError("there is no such file, and its name has no stage.")
    meaning = zero_stage(stage, document)
    note = "the file is not at hand; its stage is taken from its name"
    return meaning._replace(note=note, options={**meaning.options, **_moved_by_name(name, stage)})


def deepspeed_device(option: str) -> Reader:
    """offload_optimizer and offload_param. Parameters are moved in stage 3 alone (DeepSpeed
    `runtime/engine.py`, _configure_zero_optimizer)."""

    def read(value: Any, document: Document) -> Meaning:
        device = "cpu" if value is True else str(value).lower()
        if is_off(value) or device == "none":
            return NO_EFFECT
        stage = str(next((document.get(key) for key in _STAGES if document.get(key)), ""))
        if option == "offload_param_device" and stage in ("1", "2"):
            return NO_EFFECT
        return Meaning({option: device})

    return read


def _moved_by_name(name: str, stage: str) -> dict[str, Any]:
    """What a DeepSpeed file that is not at hand moves, as those of LLaMA-Factory and axolotl are
    named: ds_z3_offload_config.json, zero3_bf16_cpuoffload_params.json."""
    if "offload" not in name or stage == "0":
        return {}
    states = {"offload_optimizer_device": "cpu"} if "params" not in name else {}
    return {**states, "offload_param_device": "cpu"} if stage == "3" else states
