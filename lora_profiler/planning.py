"""What to do with predictions: choose the answerer, judge a card, search sizes that fit, find what lowers the peak."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.prediction import LayerCost, Prediction
from lora_profiler.units import GIB
from lora_profiler.workload import MAX_SIZE, LoraConfig, Quantization, TrainSetup, Workload

Verdict = Literal["fits", "tight", "does_not_fit"]

ENGINES = ("auto", "analytic", "compiled", "traced")

CONTEXT_BYTES = round(0.6 * GIB)
CONTEXT_BAND_BYTES = round(0.4 * GIB)
"""What the driver takes for context and kernels, outside the allocator. Public reports lie between 107 MiB (RTX 4060 Ti)
and 612 MiB (B200) with recent torch and up to 843 MB with older; it differs by card and torch, hence the band."""

_MIB_32 = 32 * 2**20
_MIB_128 = 128 * 2**20
_WORKSPACE_BYTES = {
    "hopper": _MIB_32, "blackwell": _MIB_32, "blackwell_dc": _MIB_32,
    "cdna2": _MIB_32, "rdna3": _MIB_32, "cdna3": _MIB_128, "cdna4": _MIB_128,
}  # fmt: skip
_OLDER_WORKSPACE_BYTES = 8_519_680
"""One BLAS workspace, per handle and stream: torch's aten/src/ATen/cuda/CUDABlas.cpp (parseChosenWorkspaceSize)."""
WORKSPACES = 2
"""The forward pass and autograd's own thread each hold one."""

FRAGMENTATION_PERCENT = 6
"""Share of the peak that the caching allocator loses to rounding and holes. In a simulation of torch's allocator over whole
steps, the smallest card that completed two steps was 1.4 % (8B LoRA), 3.6 % (8B full) and 5.9 % (0.5B full) above the peak."""


class Card(Protocol):
    """What a verdict needs to know of a card; `catalog.find_gpu` gives one."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def vendor(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def usable_bytes(self) -> int | None: ...
    @property
    def usable_is_estimated(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Memory that no tensor shows, in bytes: kept free by a verdict of 'fits', and told apart by cause."""

    context_bytes: int
    workspace_bytes: int
    fragmentation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.context_bytes + self.workspace_bytes + self.fragmentation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One workload on one card.

    verdict: 'fits' = peak + reserve within the card's usable bytes; 'tight' = the peak fits but not with the reserve; else
    'does_not_fit'. `largest_batch_size` (at the asked sequence length) and `longest_seq_len` (at the asked batch size) are
    the largest whose own verdict is 'fits'; 0 where not even 1 fits. `longest_seq_len` knows memory only, not how long a
    sequence the model was made for.
    """

    gpu: Card
    usable_bytes: int
    peak_bytes: int
    reserve: Reserve
    verdict: Verdict
    largest_batch_size: int
    longest_seq_len: int

    @property
    def reserve_bytes(self) -> int:
        return self.reserve.total_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left after peak and reserve; negative: what is missing."""
        return self.usable_bytes - self.peak_bytes - self.reserve_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One change that lowers the peak: what it is, the option that makes it, the peak after it, and its price in words."""

    name: str
    option: str
    price: str
    peak_bytes: int
    saved_bytes: int

    @property
    def saved_fraction(self) -> float:
        return self.saved_bytes / (self.peak_bytes + self.saved_bytes)


def predict(workload: Workload, engine: str = "auto") -> Prediction:
    """The prediction of the named answerer; "auto" takes the best one that this version has.

    Raises UsageError for an engine that is unknown or not part of this version, and whatever the answerer raises.
    """
    _check(engine)
    from lora_profiler.analytic import predict as analytic_predict

    return analytic_predict(workload)


def peak_bytes(workload: Workload, engine: str = "auto") -> int:
    """Steady-state peak alone: `predict(workload, engine).peak.total_bytes`, cheap enough to search with."""
    _check(engine)
    from lora_profiler.analytic import peak_bytes as analytic_peak_bytes

    return analytic_peak_bytes(workload)


def _check(engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"engine is {engine!r}; accepted: {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine in ("compiled", "traced"):
        raise UsageError(f"this version has no {engine} engine; leave --engine out, or use --engine analytic.")


def reserve_for(gpu: Card, peak: int) -> Reserve:
    """What to keep free on `gpu` beside a peak of `peak` bytes."""
    if gpu.vendor == "apple":  # one memory for everything: no context of its own, no BLAS workspace
        context = workspace = 0
    else:
        context = CONTEXT_BYTES
        workspace = WORKSPACES * _WORKSPACE_BYTES.get(gpu.architecture, _OLDER_WORKSPACE_BYTES)
    return Reserve(
        context_bytes=context,
        workspace_bytes=workspace,
        fragmentation_bytes=peak * FRAGMENTATION_PERCENT // 100,
    )


def fit(workload: Workload, gpu: Card, engine: str = "auto", prediction: Prediction | None = None) -> Fit | None:
    """Whether `workload` fits on `gpu`, and how far batch and sequence can grow; `prediction` saves asking for it again.

    Sizes are found by bisection over the full predictor, whose peak never falls when batch or sequence grow. Returns None
    where the engine does not know the activations and what it knows alone would fit: then nobody can tell.
    Raises UsageError for a setup that does not run on a card (`device` cpu), and for a card sold with several memory sizes.
    """
    if workload.setup.device == "cpu":
        raise UsageError("a card was named, but the device is cpu; leave out one of --gpu and --device cpu.")
    usable = gpu.usable_bytes
    if usable is None:
        raise UsageError(f"{gpu.key} is sold with several memory sizes; say which, as in --gpu custom:24GiB.")
    if prediction is None:
        prediction = predict(workload, engine)
    peak = prediction.peak.total_bytes
    verdict = judge(peak, usable, gpu)
    batch_size = seq_len = 0
    if prediction.saved_activation_bytes is not None:
        setup = workload.setup

        def fits(changed: TrainSetup) -> bool:
            return judge(peak_bytes(replace(workload, setup=changed), engine), usable, gpu) == "fits"

        batch_size = largest(lambda size: fits(replace(setup, batch_size=size)), guess=setup.batch_size)
        seq_len = largest(lambda size: fits(replace(setup, seq_len=size)), guess=setup.seq_len)
    elif verdict != "does_not_fit":
        return None
    return Fit(
        gpu=gpu,
        usable_bytes=usable,
        peak_bytes=peak,
        reserve=reserve_for(gpu, peak),
        verdict=verdict,
        largest_batch_size=batch_size,
        longest_seq_len=seq_len,
    )


def judge(peak: int, usable: int, gpu: Card) -> Verdict:
    """The verdict on a peak of `peak` bytes on `gpu`, of which a program can have `usable` bytes: see `Fit`."""
    if peak + reserve_for(gpu, peak).total_bytes <= usable:
        return "fits"
    return "tight" if peak <= usable else "does_not_fit"


def largest(accepts: Callable[[int], bool], guess: int = 1, limit: int = MAX_SIZE) -> int:
    """The largest whole number from 1 to `limit` that `accepts` takes, 0 if it takes none.

    `accepts` must be monotone: once it refuses a number it refuses every larger one. Doubles away from `guess`, then
    bisects: about 2 log2(answer / guess) questions.
    """
    low, high = 0, limit + 1  # low is accepted (or 0), high is refused (or out of range)
    probe = min(max(guess, 1), limit)
    if accepts(probe):
        low = probe
        while low < limit:
            probe = min(2 * low, limit)
            if not accepts(probe):
                high = probe
                break
            low = probe
    else:
        high = probe
    while high - low > 1:
        middle = (low + high) // 2
        if accepts(middle):
            low = middle
        else:
            high = middle
    return low


def levers(
    workload: Workload, engine: str = "auto", prediction: Prediction | None = None, *, besides: Collection[str] = ()
) -> tuple[Lever, ...]:
    """Single changes that lower the steady-state peak, the largest saving first; each is predicted anew, none is guessed.

    Changes to a method in `besides` are left out. Empty where the engine does not know the activations: then the peak itself
    is only a lower bound.
    """
    found = (_try(change, workload, engine) for change in _changes(workload, engine, prediction, besides))
    return tuple(sorted((lever for lever in found if lever), key=lambda lever: -lever.saved_bytes))


def best_lever(
    workload: Workload, engine: str = "auto", prediction: Prediction | None = None, *, besides: Collection[str] = ()
) -> Lever | None:
    """The first of `levers`, in less time: a change that cannot save as much as one already tried is not tried."""
    best: Lever | None = None
    for change in sorted(_changes(workload, engine, prediction, besides), key=lambda change: -change.at_most):
        if best is not None and change.at_most <= best.saved_bytes:
            break
        lever = _try(change, workload, engine)
        if lever is not None and (best is None or lever.saved_bytes > best.saved_bytes):
            best = lever
    return best


class _Change(NamedTuple):
    """A change to try. It lowers the present peak moment by at most `at_most` bytes, hence the peak by no more."""

    name: str
    option: str
    price: str
    setup: TrainSetup
    before: int
    at_most: int


def _try(change: _Change, workload: Workload, engine: str) -> Lever | None:
    try:
        after = peak_bytes(replace(workload, setup=change.setup), engine)
    except LoraProfilerError:  # this change does not exist for this model
        return None
    if after >= change.before:
        return None
    return Lever(name=change.name, option=change.option, price=change.price, peak_bytes=after, saved_bytes=change.before - after)


def _changes(workload: Workload, engine: str, prediction: Prediction | None, besides: Collection[str]) -> Iterator[_Change]:
    """Every change worth a try."""
    if prediction is None:
        prediction = predict(workload, engine)
    if prediction.saved_activation_bytes is None:
        return
    setup, lora, peak = workload.setup, workload.setup.lora, prediction.peak
    everything = peak.total_bytes

    def change(name: str, option: str, price: str, changed: TrainSetup, *touched: str) -> _Change:
        at_most = sum(size for category, size in peak.bytes.items() if category in touched) if touched else everything
        return _Change(name, option, price, changed, everything, at_most)

    if lora is None and "lora" not in besides:
        price = "trains an update of low rank"
        yield change("LoRA instead of full fine-tuning", "--method lora", price, replace(setup, lora=LoraConfig()))
    if lora is not None and setup.quantization is None and "qlora" not in besides:
        qlora = replace(setup, quantization=Quantization())
        price = "dequantises every weight again for each use"
        yield change("a 4-bit base (QLoRA)", "--method qlora", price, qlora, "parameters")
    if not setup.checkpointing:
        checkpointed = replace(setup, checkpointing=True)
        price = "runs most of the forward pass twice"
        yield change("gradient checkpointing", "--checkpointing", price, checkpointed, "activations", "temporaries")
    recipe = setup.quantization.recipe if setup.quantization else "stock"
    if lora is not None and lora.adapter_dtype == "float32" and setup.dtype != "float32" and recipe == "stock":
        narrow = replace(setup, lora=replace(lora, adapter_dtype=setup.dtype))
        held = ("activations", "temporaries", "adapters", "gradients", "optimizer_states")
        option = f"--adapter-dtype {setup.dtype}"
        yield change(f"{setup.dtype} adapters", option, "updates the adapters in 16 bit", narrow, *held)
    if setup.optimizer_impl == "foreach" and setup.optimizer in ("adamw", "sgd") and peak.moment == "optimizer_step":
        fused = replace(setup, optimizer_impl="fused")
        yield change("the fused optimizer", "--optimizer-impl fused", "none known", fused, "temporaries")
    if setup.optimizer == "adamw":
        eight = replace(setup, optimizer="adamw_8bit", optimizer_impl="foreach")
        step = ("temporaries",) if peak.moment == "optimizer_step" else ()
        yield change(
            "8-bit AdamW", "--optimizer adamw_8bit", "keeps the optimizer states in 8 bit", eight, "optimizer_states", *step
        )
    if setup.dtype == "float32" and setup.precision == "pure":
        yield change("bfloat16 weights", "--dtype bfloat16", "trains in 16 bit", replace(setup, dtype="bfloat16"))
    if setup.attention in ("eager", "math"):
        fast = replace(setup, attention="auto")
        yield change("SDPA attention", "--attention auto", "none known", fast, "activations", "temporaries")
    if lora is not None and lora.lora_dropout > 0:
        dry = replace(setup, lora=replace(lora, lora_dropout=0.0))
        yield change("no adapter dropout", "--dropout 0", "regularises less", dry, "activations", "temporaries")
    if setup.batch_size > 1:
        half = setup.batch_size // 2
        smaller = replace(setup, batch_size=half)
        sized = ("inputs", "activations", "logits_and_loss", "temporaries")
        yield change(f"batch {half}", f"--batch-size {half}", "more, smaller steps", smaller, *sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationExcess:
    """LoRA keeps more for backward than full fine-tuning does: by how much, why, and what 16-bit adapters would keep."""

    full_bytes: int
    lora_bytes: int
    causes: tuple[Literal["adapter_dtype", "dropout"], ...]
    remedied_bytes: int


def activation_excess(full: Prediction, lora: Prediction, engine: str = "auto") -> ActivationExcess | None:
    """Why `lora` saves more activation bytes than `full`, or None where it does not.

    PEFT casts the input of every adapted layer to the adapter's dtype and keeps that copy; with dropout it keeps the dropped
    input and a mask as well. What is left without both is `remedied_bytes`.
    """
    full_bytes, lora_bytes, setup = full.saved_activation_bytes, lora.saved_activation_bytes, lora.workload.setup
    if full_bytes is None or lora_bytes is None or lora_bytes <= full_bytes or setup.lora is None:
        return None
    causes: list[Literal["adapter_dtype", "dropout"]] = []
    if setup.lora.adapter_dtype != setup.dtype:
        causes.append("adapter_dtype")
    if setup.lora.lora_dropout > 0:
        causes.append("dropout")
    adapter = replace(setup.lora, adapter_dtype=setup.dtype, lora_dropout=0.0)
    try:
        remedied = predict(replace(lora.workload, setup=replace(setup, lora=adapter)), engine).saved_activation_bytes
    except LoraProfilerError:
        remedied = None
    return ActivationExcess(
        full_bytes=full_bytes,
        lora_bytes=lora_bytes,
        causes=tuple(causes),
        remedied_bytes=lora_bytes if remedied is None else remedied,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a face shows about one workload. `gpu` is the card that was asked about, with `fit` None if unknowable."""

    prediction: Prediction
    gpu: Card | None
    fit: Fit | None
    levers: tuple[Lever, ...]


def answers(
    workloads: Sequence[Workload], gpu: Card | None = None, engine: str = "auto", *, all_levers: bool = False
) -> list[Answer]:
    """Predict each way to train one model, judge the card if one is named, and find what lowers each peak most.

    `all_levers` lists every lever, not the best alone. A method that is among the workloads is no lever of another.
    """
    asked = {w.setup.method for w in workloads}
    found = []
    for workload in workloads:
        prediction = predict(workload, engine)
        if all_levers:
            tried = levers(workload, engine, prediction, besides=asked)
        else:
            best = best_lever(workload, engine, prediction, besides=asked)
            tried = (best,) if best else ()
        fitted = fit(workload, gpu, engine, prediction) if gpu else None
        found.append(Answer(prediction=prediction, gpu=gpu, fit=fitted, levers=tried))
    return found


def attention_targets(model: ModelSpec) -> tuple[str, ...]:
    """LoRA targets for the linear layers inside attention, by the shortest names that match nothing outside it.

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
        raise UsageError(f"{model.id} names no attention projections; list them with --targets NAME,NAME.")
    return tuple(dict.fromkeys(path if leaf in outside else leaf for path, leaf in inside.items()))


def outweighed_layers(prediction: Prediction) -> tuple[LayerCost, ...]:
    """Linear layers whose adapter holds more parameters than the layer itself: the rank is too large to save anything."""
    lora = prediction.workload.setup.lora
    if lora is None or not any(_outweighs(module, lora.r) for module in _distinct_modules(prediction.workload.model)):
        return ()
    return tuple(c for c in prediction.layers if c.in_features is not None and c.num_trainable_parameters > c.num_parameters > 0)


def _outweighs(module: Module, rank: int) -> bool:
    return module.is_linear and rank * sum(module.weight("weight").shape) > module.weight("weight").numel


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
    """Names in a list of targets that match nothing; PEFT passes over them in silence as long as another one matches.

    Families whose experts PEFT renames are not judged.
    """
    lora = workload.setup.lora
    if lora is None or not isinstance(lora.target_modules, tuple):
        return ()
    from lora_profiler.adapters.peft_tables import PACKED_EXPERTS

    if workload.model.model_type in PACKED_EXPERTS:
        return ()
    names = [f".{name}" for name, _ in workload.model.modules()]
    return tuple(t for t in lora.target_modules if not any(name.endswith(f".{t}") for name in names))
