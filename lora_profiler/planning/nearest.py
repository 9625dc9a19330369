"""What a rehearsed script trained: the question that is nearest to it, with its prediction, and how
long its step would take on the card that was pretended: the kernels that it launched, weighed by
the same roofline as those of a predicted one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from lora_profiler.catalog import Gpu, find_model, model_from_config
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.kernels import Gemm, Kernel, StepKernels
from lora_profiler.planning.engine import predict
from lora_profiler.platform import Platform, version_of
from lora_profiler.prediction import Prediction
from lora_profiler.steptime import StepTime, constants_for, rates_of, time_of
from lora_profiler.steptime.roofline import Step
from lora_profiler.workload import (
    Dtype,
    LoraConfig,
    Optimizer,
    OptimizerImpl,
    PeftType,
    Quantization,
    TrainSetup,
    Workload,
)

_OPTIMIZERS: Mapping[str, Optimizer] = {
    "AdamW": "adamw", "Adam": "adamw", "SGD": "sgd", "AdamW8bit": "adamw_8bit",
    "PagedAdamW32bit": "paged_adamw_32bit", "PagedAdamW8bit": "paged_adamw_8bit",
    "Lion32bit": "lion", "Lion8bit": "lion_8bit", "PagedLion32bit": "paged_lion_32bit",
    "PagedLion8bit": "paged_lion_8bit", "Muon": "muon", "Adafactor": "adafactor",
    "RMSprop": "rmsprop",
}  # fmt: skip
"""By the class; a rehearsal names bitsandbytes' with the bits of their states."""

_PEFT_TYPES: Mapping[str, PeftType] = {
    "LoraConfig": "lora",
    "VeraConfig": "vera",
    "IA3Config": "ia3",
    "OFTConfig": "oft",
}


@dataclass(frozen=True, slots=True)
class Nearest:
    """`prediction` None, and the `reason`, where nothing near enough can be asked."""

    prediction: Prediction | None
    reason: str = ""


_TRAINERS = (None, "Trainer", "Seq2SeqTrainer", "SFTTrainer")
"""Whose step is one forward and one backward pass of the model's own loss."""


def nearest(facts: Mapping[str, Any], world_size: int, capability: int, torch: str) -> Nearest:
    """`facts` as a rehearsal reads them off the script's process."""
    try:
        if world_size > 1:
            raise UsageError("how the ranks share the model is not read off")
        if facts.get("trainer") not in _TRAINERS:
            raise UsageError(f"what {facts['trainer']} computes in a step is not predicted")
        platform = Platform(capability=capability, torch=version_of(torch) or Platform().torch)
        model = _model(facts)
        return Nearest(predict(Workload(model=model, setup=_setup(facts), platform=platform)))
    except LoraProfilerError as error:
        return Nearest(None, str(error).rstrip("."))


def _model(facts: Mapping[str, Any]) -> Any:
    if not facts.get("config"):
        raise UsageError("the model has no transformers config")
    config = {k: v for k, v in facts["config"].items() if k != "quantization_config"}
    try:
        return find_model(facts["name"], offline=True, on_disk=False)
    except LoraProfilerError:
        return model_from_config(config, id=facts["name"] or "the script's model", source="file")


def _setup(facts: Mapping[str, Any]) -> TrainSetup:
    batch_size, seq_len = _sizes(facts["inputs"])
    quantised = facts.get("quantisation")
    return TrainSetup(
        lora=_lora(facts["lora"]) if facts.get("lora") else None,
        quantization=_quantization(facts) if quantised else None,
        batch_size=batch_size,
        seq_len=seq_len,
        accumulation=max(facts["accumulation"], 1),
        dtype=_known(quantised["dtype"] if quantised else _base_dtype(facts)),
        precision="amp" if facts["autocast"] and _base_dtype(facts) == "float32" else "pure",
        optimizer=_optimizer(facts),
        optimizer_impl=_implementation(facts.get("optimizer_options") or {}),
        checkpointing=facts["checkpointing"],
        attention="eager" if facts.get("attention_implementation") == "eager" else "auto",
    )


def _sizes(inputs: Mapping[str, list[int]]) -> tuple[int, int]:
    shape = inputs.get("input_ids") or inputs.get("0") or []
    if len(shape) != 2:
        raise UsageError("the model was not called with input_ids of batch x tokens")
    return shape[0], shape[1]


def _base_dtype(facts: Mapping[str, Any]) -> str:
    """Of most weights; adapters are trained and the base is not, where there are adapters."""
    counts: Mapping[str, int] = facts["dtypes"]
    base = {name: count for name, count in counts.items() if not name.startswith("trained ")}
    base = base or {name.removeprefix("trained "): count for name, count in counts.items()}
    return max(base, key=lambda name: base[name])


def _known(dtype: str) -> Dtype:
    if dtype not in get_args(Dtype):
        raise UsageError(f"weights in {dtype} are not predicted")
    return dtype  # type: ignore[return-value]


def _lora(config: Mapping[str, Any]) -> LoraConfig:
    kind = _PEFT_TYPES.get(config["type"])
    if kind is None:
        raise UsageError(f"{config['type']} is not predicted")
    targets = config["target_modules"]
    named: dict[str, Any] = {
        "peft_type": kind,
        "target_modules": tuple(targets) if isinstance(targets, list) else targets,
        "modules_to_save": tuple(config["modules_to_save"] or ()),
        "adapter_dtype": _known(config["dtype"]),
    }
    if kind == "ia3":
        return LoraConfig(**named, feedforward_modules=_listed(config["feedforward_modules"]))
    if kind == "vera":
        return LoraConfig(**named, r=config["r"], lora_dropout=config["vera_dropout"])
    if kind == "oft":
        if config["r"]:
            raise UsageError("OFT by its number of blocks is not predicted")
        width, dropout = config["oft_block_size"], config["module_dropout"]
        return LoraConfig(**named, oft_block_size=width, lora_dropout=dropout)
    return LoraConfig(
        **named,
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config["lora_dropout"],
        use_rslora=config["use_rslora"],
        use_dora=config.get("use_dora", False),
        target_parameters=_listed(config.get("target_parameters")),
    )


def _listed(names: Any) -> tuple[str, ...]:
    if isinstance(names, str):
        raise UsageError("a pattern of feedforward modules is not predicted")
    return tuple(names or ())


def _quantization(facts: Mapping[str, Any]) -> Quantization:
    """PEFT's k-bit preparation leaves every other weight in float32."""
    state, dtypes = facts["quantisation"], facts["dtypes"]
    if state["type"] != "nf4":
        raise UsageError(f"quantisation to {state['type']} is not predicted")
    is_prepared = "float32" in dtypes and state["dtype"] not in dtypes
    return Quantization(double_quant=state["double"], recipe="kbit" if is_prepared else "stock")


def _optimizer(facts: Mapping[str, Any]) -> Optimizer:
    names = [name.rpartition(".")[2] for name in facts["optimizers"]]
    if len(names) != 1 or names[0] not in _OPTIMIZERS:
        raise UsageError(f"{', '.join(names) or 'no optimizer'} is not predicted")
    return _OPTIMIZERS[names[0]]


def _implementation(options: Mapping[str, Any]) -> OptimizerImpl:
    if options.get("fused"):
        return "fused"
    return "forloop" if options.get("foreach") is False else "foreach"


_NO_STEP = "the script ended before one more step could be looked at"
_INT8 = ("int8_linear_matmul", "int8_scaled_mm", "int8_mixed_scaled_mm", "_int_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedTime:
    """`time` None, and the `reason`, where it is not told. It is predicted: nothing was timed.

    `tokens` of one step's inputs, `launches` of kernels and of BLAS as the stub libraries counted
    them. `products` are those that torch's dispatcher saw, of `library_calls` that BLAS and its
    like were asked for: where there are more of these, what they compute is not in the time.
    `by_bytes`: operators of other libraries, and Triton's kernels, which are priced by the bytes of
    their tensors alone; `left_out`: operators that are not priced at all.
    """

    time: StepTime | None
    reason: str = ""
    tokens: int = 0
    launches: int = 0
    products: int = 0
    library_calls: int = 0
    by_bytes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def rehearsed_time(work: Mapping[str, Any] | None, gpu: Gpu) -> RehearsedTime:
    """`work`: of a rehearsal's document, None where it has none."""
    rates = rates_of(gpu)
    if rates is None:
        return RehearsedTime(time=None, reason=f"no source gives the peaks of {gpu.name}")
    if work is None:
        return RehearsedTime(time=None, reason=_NO_STEP)
    if "reason" in work:
        return RehearsedTime(time=None, reason=work["reason"])
    kernels, update = kernels_of(work["step"]), kernels_of(work["update"])
    if any(kernel.op in _INT8 for kernel in kernels):
        return RehearsedTime(time=None, reason="the time of products in int8 is not known")
    by_bytes = {*work["other_libraries"], *(k.op for k in kernels if k.op.startswith("triton"))}
    constants, likeness = constants_for(gpu)
    return RehearsedTime(
        time=time_of(
            rehearsed_step(work, kernels, update),
            rates,
            constants,
            likeness,
            stated_kernels=not by_bytes and not work["unread"],
        ),
        tokens=work["tokens"],
        launches=work["launches"] + work["library_calls"],
        products=sum(k.count for k in (*kernels, *update) if k.kind == "gemm"),
        library_calls=work["library_calls"],
        by_bytes=tuple(sorted(by_bytes)),
        left_out=tuple(sorted(work["unread"])),
    )


def rehearsed_step(
    work: Mapping[str, Any], kernels: Sequence[Kernel], update: Sequence[Kernel]
) -> Step:
    """All micro-batches as one: an operator's launches are counted, so that accumulation is in
    them."""
    micro = StepKernels(kernels=tuple(kernels), tokens=work["tokens"], trainable={})
    launches = work["launches"] + work["library_calls"] - work["update_launches"]
    return Step(
        micro=micro,
        accumulation=1,
        update_bytes=sum(kernel.count * kernel.moved_bytes for kernel in update),
        update_launches=work["update_launches"],
        more_launches=launches - micro.launches,
    )


def kernels_of(rows: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    """Of "step" or "update" of a rehearsal's work."""
    kernels = []
    for row in rows:
        gemm = row["gemm"]
        sizes = None if gemm is None else Gemm(batches=gemm[0], m=gemm[1], n=gemm[2], k=gemm[3])
        kernel = Kernel(**{**row, "gemm": sizes}, phase="forward", module="")
        kernels.append(kernel)
        if kernel.op == "_softmax_backward_data":
            # CUDA's multiplies gradient and output first, below what a dispatcher sees (torch
            # `native/cuda/SoftMax.cu`, softmax_backward_cuda_out)
            kernels.append(replace(kernel, op="mul"))
    return kernels
