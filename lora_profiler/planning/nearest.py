"""What a rehearsed script trained: the question that is nearest to it, with its prediction, and how
long its step would take on the card that was pretended: the kernels that it launched, weighed by
the same roofline as those of a predicted one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar, get_args

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import Gpu, find_model, model_from_config
from lora_profiler.facts.stacks import Stack, versions
from lora_profiler.memory.kernels import Gemm, Kernel, StepKernels
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.adapter_method import adapter_method, all_methods, of_method
from lora_profiler.question.gpu_platform import Platform, version_of
from lora_profiler.question.kernel_set import has_stand_in, kernel_set, switched_on
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import all_optimizers
from lora_profiler.question.option import Attention, Precision, Recipe
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.support.library_memory import (
    batch_columns,
    has_reference,
    micro_batches_held,
)
from lora_profiler.question.workload import (
    Device,
    Dtype,
    LoraConfig,
    Optimizer,
    OptimizerImpl,
    Quantization,
    TrainSetup,
    Workload,
)
from lora_profiler.steptime import StepTime, constants_for, rates_of, time_of
from lora_profiler.steptime.roofline import Step

_STACKS: Mapping[str | None, str] = {
    None: "bare", "Trainer": "transformers", "Seq2SeqTrainer": "transformers",
    "SFTTrainer": "trl-sft", "DPOTrainer": "trl-dpo", "KTOTrainer": "trl-kto",
    "ORPOTrainer": "trl-orpo", "RewardTrainer": "trl-reward",
}  # fmt: skip
"""By the class of the trainer. The stack's own step was held against rehearsals of that trainer
(`benchmarks/rehearsed/trainers.py`), a bare loop's against `examples/rehearse/plain_loop.py` and
the harness' (`benchmarks/rehearsed/rules.py`)."""
_OF_LOOP = ("loss", "loop_state", "kernels")
"""What a stack's defaults say that no fact of the script does."""
_LIBRARIES = {"transformers": "transformers", "trl": "trl-sft"}
"""With a stack whose newest version is the one that was rehearsed."""
_ID_BYTES, _FLOAT_BYTES = 8, 4
_Known = TypeVar("_Known")
_USUAL_ARGUMENTS: Mapping[str, tuple[Any, ...]] = {
    "loss_type": (None, "nll", "chunked_nll", "sigmoid", ["sigmoid"], "kto"),
    "precompute_ref_log_probs": (None, False),
    "sync_ref_model": (None, False),
    "use_liger_loss": (None, False),
}
"""What the stacks were rehearsed with; None where the trainer has no such argument."""
_ATTENTION: Mapping[str | None, Attention] = {
    None: "auto", "sdpa": "auto", "eager": "eager", "flash_attention_2": "flash_attention_2",
}  # fmt: skip
_AUTOCAST: Mapping[str | None, Precision] = {
    None: "pure", "bfloat16": "amp", "float16": "amp-float16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Nearest:
    """`prediction` None, and the `reason`, where nothing near enough can be asked. `stack`: whose
    step it is. `doubts`: in what the script differs from what that stack was rehearsed with; where
    there are any the prediction is an estimate."""

    prediction: Prediction | None
    reason: str = ""
    stack: Stack | None = None
    doubts: tuple[str, ...] = ()


def nearest(
    facts: Mapping[str, Any], world_size: int, capability: int | None, torch: str
) -> Nearest:
    """`facts` as a rehearsal reads them off the script's process, whatever runs there: what cannot
    be read is a reason, so that no rehearsal is lost."""
    try:
        if world_size > 1:
            raise UsageError("how the ranks share the model is not read off")
        _refuse_other_steps(facts)
        platform = Platform(capability=capability, torch=version_of(torch) or Platform().torch)
        name, ran = _STACKS[facts.get("trainer")], facts.get("versions") or {}
        stack = _of_version(name, ran.get("trl" if name.startswith("trl") else "transformers", ""))
        setup = _setup(facts, stack)
        model = as_made(_model(facts, setup), setup)
        prediction = predict(Workload(model=model, setup=setup, platform=platform))
        if prediction.saved_activation_bytes is None:
            raise UsageError(f"what the layers of {model.model_type} keep is not known")
        trained, counted = facts.get("trained_parameters"), prediction.parameters.trainable
        if trained not in (None, counted):
            raise UsageError(
                f"{trained:,} parameters train, of which what is predicted has {counted:,}"
            )
        return Nearest(
            _with_inputs(prediction, facts), stack=stack, doubts=tuple(_doubts(facts, setup, stack))
        )
    except LoraProfilerError as error:
        return Nearest(None, str(error).rstrip("."))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Nearest(None, f"the model was not read off: {type(error).__name__}: {error}")


def _refuse_other_steps(facts: Mapping[str, Any]) -> None:
    """Raises UsageError for a step that no stack has."""
    trainer, changed = facts.get("trainer"), facts.get("changed_in_trainer") or ()
    if "model" not in facts:
        raise UsageError("no model was found when the script ended")
    if trainer not in _STACKS:
        raise UsageError(f"what {trainer} computes in a step is not predicted")
    if changed:
        raise UsageError(f"the script has its own {', '.join(changed)}, which is not predicted")
    if facts.get("is_compiled"):
        raise UsageError("what a compiled model holds is not predicted")
    inputs = facts["inputs"].keys()
    if trainer is None and inputs & {"input_ids", "0"} and "labels" not in inputs:
        raise UsageError("the script computes the loss itself, which is not predicted")
    forward_of = facts.get("forward_of") or "transformers."
    if not forward_of.startswith("transformers.") and switched_on({}, forward_of) is None:
        raise UsageError(f"the forward pass is that of {forward_of}, which is not predicted")
    arguments = facts.get("arguments") or {}
    for name, usual in _USUAL_ARGUMENTS.items():
        if arguments.get(name) not in usual:
            raise UsageError(f"{trainer} with {name}={arguments[name]} is not predicted")
    if arguments.get("label_smoothing_factor") and _STACKS[trainer] != "transformers":
        raise UsageError(f"{trainer} with label smoothing is not predicted")


def _of_version(name: str, version: str) -> Stack:
    """Of the versions of a stack with the same major number the newest that is not newer than
    `version`, else the oldest; the newest of all where none has it."""
    known, ran = {version_of(s.version): s for s in versions(name)}, version_of(version)
    alike = [each for each in known if each and ran and each[0] == ran[0]]
    if ran is None or not alike:
        return versions(name)[0]
    return known[next((each for each in alike if each <= ran), alike[-1])]


def _model(facts: Mapping[str, Any], setup: TrainSetup) -> ModelSpec:
    """The catalogue's where it has as many parameters as the script's model, else one of the
    script's config."""
    if not facts.get("config"):
        raise UsageError("the model has no transformers config")
    counted: int | None = facts.get("base_parameters")
    config = {k: v for k, v in facts["config"].items() if k != "quantization_config"}
    architecture = facts.get("architecture")

    def fits(model: ModelSpec) -> bool:
        scored = loss_facts(setup.loss).one_score
        is_same = scored or architecture in (None, model.architecture)
        return is_same and (scored or counted in (None, model.num_parameters))

    with suppress(LoraProfilerError):
        model = find_model(facts["name"], offline=True, on_disk=False)
        if fits(model):
            return model
    model = model_from_config(config, id=facts["name"] or "the script's model", source="file")
    if not fits(model):
        raise UsageError(f"{architecture or 'the model'} is not predicted as the script has it")
    return model


def _setup(facts: Mapping[str, Any], stack: Stack) -> TrainSetup:
    batch_size, seq_len = _sizes(facts["inputs"])
    device: Device = facts.get("device", "cuda")
    quantised, arguments = facts.get("quantisation"), facts.get("arguments") or {}
    setup = TrainSetup(
        lora=_lora(facts["lora"]) if facts.get("lora") else None,
        quantization=_quantization(facts) if quantised else None,
        batch_size=batch_size,
        seq_len=seq_len,
        accumulation=max(facts["accumulation"], 1),
        dtype=_known(quantised["dtype"] if quantised else _base_dtype(facts)),
        precision=_listed_in(_AUTOCAST, facts["autocast"], "autocast to {} is"),
        optimizer=_optimizer(facts),
        optimizer_impl=_implementation(facts.get("optimizer_options") or {}, device),
        checkpointing=facts["checkpointing"],
        use_reentrant=bool(facts["checkpointing"] and facts.get("use_reentrant")),
        padding=facts.get("padding") or 0.0,
        attention=_listed_in(_ATTENTION, facts["attention_implementation"], "attention by {} is"),
        label_smoothing_factor=arguments.get("label_smoothing_factor") or 0.0,
        offload_activations=bool(arguments.get("activation_offloading")),
        hold_outputs=facts.get("trainer") is None and bool(facts.get("holds_outputs")),
        device=device,
    )
    own = stack.defaults[setup.method]
    ran = (facts.get("versions") or {}).get("transformers", "")
    version = _of_version("transformers", ran).defaults["full"].get("transformers", "5")
    setup = replace(setup, transformers=version)
    setup = replace(setup, **{name: own[name] for name in _OF_LOOP if name in own})
    if setup.loop_state == "transformers" and "attention_mask" not in facts["inputs"]:
        setup = replace(setup, loop_state="transformers-unmasked")
    kernels = switched_on(facts.get("arguments") or {}, str(facts.get("forward_of")))
    if kernels is None:
        return setup
    loss = setup.loss if setup.loss.startswith("trl") else "fused"
    return replace(setup, kernels=kernels, loss=loss)


def _listed_in(known: Mapping[str | None, _Known], value: str | None, words: str) -> _Known:
    if value not in known:
        raise UsageError(f"{words.format(value)} not predicted")
    return known[value]


def _doubts(facts: Mapping[str, Any], setup: TrainSetup, stack: Stack) -> Iterator[str]:
    """What keeps a prediction from being exact: no rehearsal that is committed had it."""
    for library, name in _LIBRARIES.items():
        ran, known = (facts.get("versions") or {}).get(library), versions(name)[0].version
        of_step = library == "transformers" or stack.name.startswith(library)
        if ran is not None and of_step and version_of(ran) != version_of(known):
            yield f"{library} {ran} ran, and {known} was rehearsed"
    reasons = {
        "Seq2SeqTrainer was not rehearsed": facts.get("trainer") == "Seq2SeqTrainer",
        f"{kernel_set(setup.kernels).title} were not rehearsed with a script": (
            has_stand_in(setup.kernels)
        ),
        "float16 autocast runs without a GradScaler": (
            setup.precision == "amp-float16" and not facts.get("scales_loss")
        ),
        "autocast's keys are kept in float32 (use_cache=False drops them)": (
            facts.get("holds_cache") and setup.precision != "pure" and setup.dtype == "float32"
        ),
        "the loop keeps accelerate's float32 copy of the outputs": (
            setup.hold_outputs and facts.get("converts_outputs")
        ),
        "rows are packed, or the script gives positions": "position_ids" in facts["inputs"],
        "another model is on the GPU": facts.get("other_parameters") and not has_reference(setup),
        "a loop that accumulates gradients may keep its losses": (
            facts.get("trainer") is None and setup.accumulation > 1
        ),
        "the 4-bit layers compute in another dtype than the base's": (
            setup.quantization is not None
            and facts["quantisation"].get("compute_dtype", setup.dtype) != setup.dtype
        ),
    }
    yield from (reason for reason, applies in reasons.items() if applies)


def _with_inputs(prediction: Prediction, facts: Mapping[str, Any]) -> Prediction:
    """With the tensors of a batch that the script has beside those of the question, as a collator's
    attention mask: they live through the step as the others do."""
    setup = prediction.workload.setup
    at_once = micro_batches_held(setup)
    counted = batch_columns(setup) * setup.batch_size * setup.seq_len * _ID_BYTES
    if (sound := prediction.workload.model.sound) is not None:
        of_row = setup.seq_len * _ID_BYTES + prod(sound) * _FLOAT_BYTES
        counted = at_once * setup.batch_size * of_row
    more = max(facts.get("input_bytes", 0) * at_once - counted, 0)
    if not more:
        return prediction
    moments = (
        replace(m, bytes={**m.bytes, "inputs": m.bytes.get("inputs", 0) + more})
        for m in prediction.moments
    )
    return replace(prediction, moments=tuple(moments))


def _sizes(inputs: Mapping[str, list[int]]) -> tuple[int, int]:
    shape = inputs.get("input_ids") or inputs.get("0") or []
    if "input_features" in inputs:  # of sound
        shape = inputs.get("labels") or []
    if len(shape) != 2:
        raise UsageError("the model was not called with input_ids of batch x tokens")
    return shape[0], shape[1]


def _base_dtype(facts: Mapping[str, Any]) -> str:
    """Of most weights; adapters are trained and the base is not, where there are adapters."""
    counts: Mapping[str, int] = facts["dtypes"]
    base = {name: count for name, count in counts.items() if not name.startswith("trained ")}
    base = base or {name.removeprefix("trained "): count for name, count in counts.items()}
    if not base:
        raise UsageError("no weights were seen")
    return max(base, key=lambda name: base[name])


def _known(dtype: str) -> Dtype:
    if dtype not in get_args(Dtype):
        raise UsageError(f"weights in {dtype} are not predicted")
    return dtype  # type: ignore[return-value]


def _lora(config: Mapping[str, Any]) -> LoraConfig:
    kinds = (k for k, m in all_methods().items() if m.config == config["type"] and m.has_rules)
    kind = next(kinds, None)
    if kind is None:
        raise UsageError(f"{config['type']} is not predicted")
    if check := of_method(kind, "check_config"):
        check(config)
    targets = config["target_modules"]
    if isinstance(config.get("feedforward_modules"), str):
        raise UsageError("a pattern of feedforward modules is not predicted")
    own: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value
        for field, argument in adapter_method(kind).spelled.items()
        if (value := config.get(argument)) is not None
    }
    return LoraConfig(
        **own,
        peft_type=kind,
        target_modules=tuple(targets) if isinstance(targets, list) else targets,
        modules_to_save=tuple(config["modules_to_save"] or ()),
        adapter_dtype=_known(config["dtype"]),
    )


def _quantization(facts: Mapping[str, Any]) -> Quantization:
    """PEFT's k-bit preparation makes embeddings and norms float32; biases of 4-bit layers are in
    16 bit again as soon as these have run."""
    state = facts["quantisation"]
    if state["type"] != "nf4":
        raise UsageError(f"quantisation to {state['type']} is not predicted")
    ends = facts.get("end_dtypes") or {}
    is_wide = {name: ends.get(name, state["dtype"]) == "float32" for name in ("embedding", "norm")}
    recipe: Recipe = "stock"
    if state["dtype"] != "float32" and is_wide["norm"]:
        recipe = "kbit" if is_wide["embedding"] else "kbit-norms"
    return Quantization(double_quant=state["double"], recipe=recipe)


def _optimizer(facts: Mapping[str, Any]) -> Optimizer:
    names = [name.rpartition(".")[2] for name in facts["optimizers"]]
    options = facts.get("optimizer_options") or {}
    for name in ("amsgrad", "capturable", "momentum"):
        if options.get(name):
            raise UsageError(f"{names[0]} with {name} is not predicted")
    # bitsandbytes' are named with the bits of their states
    known = {kind: name for name, own in all_optimizers().items() for kind in own.classes}
    if len(names) != 1 or names[0] not in known:
        raise UsageError(f"{', '.join(names) or 'no optimizer'} is not predicted")
    return known[names[0]]


def _implementation(options: Mapping[str, Any], device: Device) -> OptimizerImpl:
    """torch takes the foreach one of its own accord, but not on a CPU (torch/optim/optimizer.py,
    _default_to_fused_or_foreach)."""
    if options.get("fused"):
        return "fused"
    foreach = options.get("foreach")
    return "foreach" if (device != "cpu" if foreach is None else foreach) else "forloop"


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
    if not kernels and not update:
        return RehearsedTime(time=None, reason="the step ran no kernels on the GPU")
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
            kernels.append(kernel._replace(op="mul"))
    return kernels
