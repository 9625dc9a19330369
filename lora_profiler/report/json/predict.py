"""Answers as the JSON of `lora-profile predict --format json`, and flattened for CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, get_type_hints

from lora_profiler.facts.evidence.documents import MeasuredStep
from lora_profiler.facts.evidence.memory import Description, MeasuredMemory
from lora_profiler.memory.prediction import (
    Category,
    Engine,
    Exactness,
    LayerCost,
    MomentName,
    Prediction,
    Traffic,
)
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.planning.reserve import Reserve, Verdict
from lora_profiler.question.base import base_kind
from lora_profiler.question.workload import setup_dict
from lora_profiler.report.json import SCHEMA_VERSION, cell, part, payload_schema
from lora_profiler.report.setup_words import trainer_dict
from lora_profiler.steptime import PARTS
from lora_profiler.steptime.predict import Basis
from lora_profiler.steptime.roofline import Part

if TYPE_CHECKING:
    from lora_profiler.planning.guided import Guided, Line
    from lora_profiler.planning.over_data import BatchPeak, LongSamples, OverData
    from lora_profiler.planning.placement import Communication
    from lora_profiler.planning.timing import TimedStep


# --- types ----------------------------------------------------------------------------------------

# What `lora-profile predict --format json` prints, as types: their keys say what is taken from an
# answer, and the schema is made of them.

if TYPE_CHECKING:
    from lora_profiler.measuring.records.serialize import SetupFields
    from lora_profiler.planning.timing import Cause
    from lora_profiler.question.batching.batches import Batching

    LeverJson = Any
    NearestPeak = Any
else:  # a dataclass as JSON has it, beside what follows from its fields
    LeverJson = TypedDict("LeverJson", get_type_hints(Lever) | {"saved_fraction": float})
    LeverJson.__doc__ = "A single change that lowers the peak."
    NearestPeak = TypedDict("NearestPeak", get_type_hints(MeasuredMemory) | {"error": float})
    NearestPeak.__doc__ = MeasuredMemory.__doc__


class ModelJson(TypedDict):
    """`checkpoint_quantization` is how the checkpoint stores its weights where that is not 16 or 32
    bit; null where it is."""

    id: str
    model_type: str
    source: str
    num_layers: int
    checkpoint_quantization: NotRequired[str | None]


class PlatformJson(TypedDict):
    compute_capability: str | None
    torch: str


class ParametersJson(TypedDict):
    base: int
    adapter: int
    total: int
    trainable: int
    trainable_fraction: float
    reduction_vs_full: float


class PersistentBytes(TypedDict):
    parameters: int
    quantization_state: int
    adapters: int
    gradients: int
    optimizer_states: int


class MomentJson(TypedDict):
    """Live bytes of one instant by category."""

    moment: MomentName
    step: Literal[1] | Literal["steady"]  # as one Literal msgspec before 0.22 would sort them
    total_bytes: int
    bytes: dict[Category, int]


class DeviceMemoryJson(TypedDict):
    """Peaks of CUDA's caching allocator, BLAS workspaces included. `device_bytes` would add the
    context, which differs by card."""

    allocated_bytes: int | None
    reserved_bytes: int | None
    expandable_reserved_bytes: NotRequired[int]
    device_bytes: int | None


class FlopsJson(TypedDict):
    """FLOPs of one micro-batch as the hardware runs them."""

    forward: int
    backward: int
    recompute: int
    total: int
    per_token: int


class FitJson(TypedDict):
    """`largest_batch_size` and `longest_seq_len` are null where the step was traced at exactly the
    size asked, which says nothing of others; so is `highest_rank`, and for full fine-tuning."""

    gpu: str
    usable_bytes: int
    usable_is_estimated: bool
    reserve_bytes: int
    reserve: Reserve
    verdict: Verdict
    headroom_bytes: int
    largest_batch_size: int | None
    longest_seq_len: int | None
    highest_rank: int | None


class ConstantsJson(TypedDict):
    family: str
    eta: float
    beta: float


class AgainstFull(TypedDict):
    """A step beside one of full fine-tuning. `gap_seconds` are those beyond flops_ratio times those
    of full; the causes add up to it."""

    flops_ratio: float
    seconds_ratio: float
    gap_seconds: float
    cause_seconds: "dict[Cause, float]"


class StepTimeJson(TypedDict):
    """Of one optimizer step on the card that was named, or on this machine's processor.

    calibrated: the constants were measured on this machine, or fitted to this very card.
    share_of_host: of a micro-batch's time, what launching its kernels alone would take. launches:
    kernels of one micro-batch. part_seconds: where the time goes; the parts add up to seconds.
    evidence: the nearest public measurement; null where the constants are this machine's own.
    against_full: null where full fine-tuning is not among the answers, and for full itself.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    tokens_per_second: float
    mfu: float | None
    calibrated: bool
    basis: Basis
    share_of_host: float
    launches: int
    part_seconds: dict[Part, float]
    constants: ConstantsJson
    evidence: MeasuredStep | None
    against_full: AgainstFull | None


class CommunicationJson(TypedDict):
    """What one of several ranks takes part in during an optimizer step. `seconds` is the least that
    the interconnect takes for `sent_bytes`."""

    world_size: int
    collectives: list[Traffic]
    sent_bytes: int
    interconnect: str | None
    seconds: float | None
    step_low_seconds: NotRequired[float | None]
    step_high_seconds: NotRequired[float | None]


class IntervalJson(TypedDict):
    """How far off predictions of public peaks were, with their own libraries and kernels replayed.

    nominal: the probability that half_width is made for. rows: measured peaks behind it; inside: of
    them within what the errors of all sources but their own give. worst: the largest error, signed.
    """

    nominal: float
    half_width: float
    rows: int
    inside: int
    worst: float


class CommandJson(TypedDict):
    """How far off the command's own answers were for public peaks, asked by options alone.

    half_width: within which nine in ten were. rows: the peaks; inside: of them within what the
    errors of all sources but their own give. worst: the largest error, signed.
    """

    half_width: float
    rows: int
    inside: int
    worst: float


class UnknownJson(TypedDict):
    """What the question does not give: the lowest and the highest peak over what it may have been,
    with all else as answered. `is_priced`: all of that is known; of the rest only a trace tells."""

    what: str
    low_bytes: int
    high_bytes: int
    is_priced: bool


class EvidenceJson(TypedDict):
    """Where a measured peak lies, nine times in ten: over all that `unknowns` may have been, and at
    either end `half_width` beyond, a share of the measured peak: command.half_width and, for an
    estimate, error_bound. `described` is how well options describe the public runs that `command`
    is of: nearly, all but the versions of libraries. No ends where an unknown is not priced."""

    low_bytes: int | None
    high_bytes: int | None
    half_width: float
    described: Description
    command: CommandJson
    interval: IntervalJson
    nearest: NearestPeak
    unknowns: list[UnknownJson]


class TrainerJson(TypedDict):
    """Whose loop it is. `from_stack` are the options that are its own, as people write them: no
    option said otherwise."""

    name: str
    library: str | None
    version: str | None
    from_stack: dict[str, bool | int | float | str]


class PredictionJson(TypedDict):
    """`error_bound` is the largest relative error seen of an estimated peak.
    `saved_activation_bytes`: everything autograd keeps at the end of forward, without parameters.
    `host_bytes`: by category, tensors that a rank keeps in the host's memory instead of the card's.
    """

    model: ModelJson
    setup: "SetupFields"
    platform: PlatformJson
    engine: Engine
    exactness: Exactness
    error_bound: float | None
    assumptions: list[str]
    attention_kernel: str
    parameters: ParametersJson
    persistent_bytes: PersistentBytes
    host_bytes: dict[Category, int]
    saved_activation_bytes: int | None
    moments: list[MomentJson]
    peak: MomentJson
    device_memory: DeviceMemoryJson | None
    flops: FlopsJson | None
    step_time: StepTimeJson | None


class RemedyJson(TypedDict):
    """A set of changes that makes the workload fit the card; `seconds` is that of a step then."""

    options: list[str]
    prices: list[str]
    learns_the_same: bool
    peak_bytes: int
    seconds: float | None
    tokens_per_second: float | None


class LengthsJson(TypedDict):
    """Lengths of the samples in tokens, before any is cut."""

    source: str
    num_samples: int
    num_tokens: int
    mean: float
    median: int
    p95: int
    longest: int
    notes: list[str]


class DataJson(TypedDict):
    """The epoch of which `setup`, `peak`, `fit` and `levers` are the worst batch, and `step_time`
    the average. `long_samples` is null unless a few of them alone keep it from fitting.
    `num_tokens` are trained on in an epoch; `cut_samples` lost their end, or were left out;
    `padding_factor`: tokens that the model sees for each. Seconds of an epoch are null where those
    of a step are, `total_seconds` too without --epochs."""

    lengths: LengthsJson
    batching: "Batching"
    max_length: int | None
    pad_to_multiple_of: int | None
    num_tokens: int
    cut_samples: int
    num_batches: int
    steps_per_epoch: int
    processed_tokens: float
    padding_factor: float
    worst: "BatchPeak"
    median: "BatchPeak"
    long_samples: "LongSamples | None"
    epoch_seconds: float | None
    epoch_low_seconds: float | None
    epoch_high_seconds: float | None
    epochs: float | None
    total_seconds: float | None


class AnswerJson(PredictionJson):
    """A prediction with what follows from it. `step_time_refusal` is why there is no step_time,
    where a device was named. `evidence` is null for a lower bound, and for devices that none is of.
    `remedies` are of a card that it does not fit, the first to try first; `smallest_cards` the keys
    of those that it fits.
    `trainer` is null where none was named: a bare loop.
    `data` is there where lengths of samples were given."""

    trainer: TrainerJson | None
    fit: FitJson | None
    step_time_refusal: str | None
    communication: NotRequired[CommunicationJson | None]
    evidence: EvidenceJson | None
    levers: list[LeverJson]
    remedies: NotRequired[list[RemedyJson]]
    smallest_cards: NotRequired[list[str]]
    layers: list[LayerCost]
    data: NotRequired[DataJson]


class ByTrainerJson(TypedDict):
    """The question of a prediction under one trainer, as its guides pass it; only `refusal` where
    that trainer cannot run it."""

    trainer: str
    library: str | None
    version: str | None
    model: str
    method: str
    peak_bytes: int | None
    is_whole: bool | None
    reserve_bytes: int | None
    verdict: Verdict | None
    tokens_per_second: float | None
    accumulation: int | None
    refusal: str | None


class PredictJson(TypedDict):
    """Bytes and FLOPs are integers; what is not known is null, never 0. New keys may be added under
    the same schema_version. `by_trainer` is of a question that names no trainer, whose predictions
    are the loop of guides."""

    schema_version: Literal["1.0"]
    predictions: list[AnswerJson]
    by_trainer: NotRequired[list[ByTrainerJson]]


def for_schema() -> type:
    """PredictJson with those of its types whose modules no answer needs, and which take long to
    load."""
    from lora_profiler.measuring.records.serialize import SetupFields
    from lora_profiler.planning.over_data import BatchPeak, LongSamples
    from lora_profiler.planning.timing import Cause
    from lora_profiler.question.batching.batches import Batching

    globals().update(Batching=Batching, Cause=Cause, SetupFields=SetupFields)
    globals().update(BatchPeak=BatchPeak, LongSamples=LongSamples)
    return PredictJson


# --- documents ------------------------------------------------------------------------------------


def predict_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `predict --format json` prints.

    Examples:
        >>> from lora_profiler.report.json.predict import predict_schema
        >>> predict_schema()["type"]
        'object'
    """
    return payload_schema(for_schema(), title="lora-profile predict --format json")


def predict_payload(answers: Sequence[Answer], guided: "Sequence[Guided]" = ()) -> PredictJson:
    """The whole document: one prediction per model and method, in the order given; `guided` is
    what stands beside those of questions that name no trainer."""
    document: PredictJson = {
        "schema_version": SCHEMA_VERSION,
        "predictions": [answer_dict(answer) for answer in answers],
    }
    if guided:
        document["by_trainer"] = [_by_trainer(line) for each in guided for line in each.lines]
    return document


_SUMMARY: Mapping[str, str] = {
    "model": "id",
    "setup": " ".join(
        (
            "method rank batch_size seq_len accumulation dtype precision optimizer checkpointing",
            "world_size sharding targets alpha dropout loss attention kernels",
        )
    ),
    "platform": "compute_capability torch",
    "exactness": "",
    "error_bound": "",
    "peak": "moment total_bytes bytes",
    "host_bytes": "",
    "trainer": "name version",
    "fit": "gpu verdict usable_bytes reserve_bytes headroom_bytes largest_batch_size"
    " longest_seq_len",
    "step_time": "seconds low_seconds high_seconds tokens_per_second",
    "evidence": "low_bytes high_bytes",
    "remedies": "options peak_bytes",
    "data": "epoch_seconds total_seconds",
}
"""What a summary has of a prediction, and of each of these what keys; all where none are named."""
_BY_TRAINER = "trainer model method peak_bytes is_whole verdict refusal"


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `predict_payload` with fewer keys, some 2 KB a question: what is left is
    where it was."""
    short = {**document, "predictions": [_short(row) for row in document["predictions"]]}
    if "by_trainer" in document:
        short["by_trainer"] = [_kept(row, _BY_TRAINER) for row in document["by_trainer"]]
    return short


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _kept(row[name], keys) for name, keys in _SUMMARY.items() if name in row}
    return found | ({"remedies": found["remedies"][:1]} if "remedies" in found else {})


def _kept(value: Any, keys: str) -> Any:
    if isinstance(value, list):
        return [_kept(each, keys) for each in value]
    if not keys or not isinstance(value, Mapping):
        return value
    return {key: value[key] for key in keys.split() if key in value}


def _by_trainer(line: "Line") -> ByTrainerJson:
    stack, foreseen = line.stack, line.foreseen
    prediction = foreseen.prediction if foreseen else None
    judged, step = (foreseen.judged, foreseen.step) if foreseen else (None, None)
    return {
        "trainer": stack.name,
        "library": stack.library or None,
        "version": stack.version or None,
        "model": line.model,
        "method": line.method,
        "peak_bytes": prediction.peak.total_bytes if prediction else None,
        "is_whole": prediction.is_whole if prediction else None,
        "reserve_bytes": judged.reserve.total_bytes if judged else None,
        "verdict": judged.verdict if judged else None,
        "tokens_per_second": step.time.tokens_per_second if step else None,
        "accumulation": prediction.workload.setup.accumulation if prediction else None,
        "refusal": line.refusal,
    }


def answer_dict(answer: Answer) -> AnswerJson:
    """One prediction with its verdict and levers, in JSON's own types; bytes and FLOPs are
    integers.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.answers import answers
        >>> from lora_profiler.report.json.predict import answer_dict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> answer_dict(answers([workload])[0])["peak"]["total_bytes"]
        1331468072
    """
    prediction = answer.prediction
    return part(
        AnswerJson,
        prediction,
        answer,
        **_of_prediction(prediction),
        **_of_answer(answer),
        trainer=trainer_dict(answer.trainer, prediction.workload),
        remedies=[
            part(RemedyJson, each, seconds=each.step.time.seconds if each.step else None)
            for each in answer.remedies
        ],
        smallest_cards=[card.key for card in answer.smallest_cards],
    )


def prediction_dict(prediction: Prediction) -> PredictionJson:
    """A prediction alone, without its layers.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> from lora_profiler.report.json.predict import prediction_dict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> prediction_dict(predict(workload))["peak"]["total_bytes"]
        1331468072
    """
    own = _of_prediction(prediction)
    return part(PredictionJson, prediction, **own, step_time=None)


def _of_prediction(prediction: Prediction) -> dict[str, Any]:
    """What is not called as its own attributes are."""
    workload, memory = prediction.workload, prediction.device_memory
    model, platform = workload.model, workload.platform
    stored = base_kind(model.stored.quant_type).title if model.stored else model.dequantized_from
    return {
        "model": part(ModelJson, model, checkpoint_quantization=stored),
        "setup": setup_dict(workload.setup),
        "platform": part(PlatformJson, platform, torch=platform.torch_text),
        "device_memory": part(DeviceMemoryJson, memory, device_bytes=None) if memory else None,
    }


def _of_answer(answer: Answer) -> dict[str, Any]:
    """What JSON and CSV have beside the prediction."""
    fit, timing, likely = answer.fit, answer.timing, answer.likely
    found = {
        "fit": part(FitJson, fit, fit.gpu, gpu=fit.gpu.key) if fit else None,
        "step_time": _step_time(answer, answer.step) if answer.step else None,
        "step_time_refusal": timing.refusal if timing else None,
        "communication": _communication(answer, answer.communication),
        "evidence": part(EvidenceJson, likely) if likely else None,
    }
    return found | ({"data": _data(answer, answer.over_data)} if answer.over_data else {})


def _step_time(answer: Answer, step: "TimedStep") -> StepTimeJson:
    time, gap = step.time, answer.speed_gap
    return part(
        StepTimeJson,
        time,
        step,
        low_seconds=time.low,
        high_seconds=time.high,
        basis=time.likeness,
        launches=step.kernels.launches,
        part_seconds={name: time.parts[name] for name in PARTS if name in time.parts},
        against_full=part(AgainstFull, gap, cause_seconds=dict(gap.causes)) if gap else None,
    )


def _communication(answer: Answer, sent: "Communication | None") -> CommunicationJson | None:
    """None for a process alone."""
    if sent is None:
        return None
    from lora_profiler.report.answer.timing import step_bounds

    low, high = step_bounds(answer) or (None, None)
    return part(
        CommunicationJson,
        sent,
        answer.prediction.workload.setup,
        collectives=[asdict(traffic) for traffic in sent.traffic],
        interconnect=sent.network.key if sent.network else None,
        step_low_seconds=low,
        step_high_seconds=high,
    )


def _data(answer: Answer, epoch: "OverData") -> DataJson:
    data, lengths, steps = epoch.data, epoch.data.lengths, epoch.steps_per_epoch
    long = answer.long_samples
    time = answer.step.time if answer.step else None
    return part(
        DataJson,
        epoch,
        data,
        epoch.batches,
        lengths=part(
            LengthsJson, lengths, median=lengths.quantile(0.5), p95=lengths.quantile(0.95)
        ),
        long_samples=asdict(long) if long else None,
        epoch_seconds=steps * time.seconds if time else None,
        epoch_low_seconds=steps * time.low if time else None,
        epoch_high_seconds=steps * time.high if time else None,
        total_seconds=data.epochs * steps * time.seconds if time and data.epochs else None,
    )


def predict_records(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One flat record a prediction: the JSON's paths joined by dots; assumptions, layers and levers
    left out."""
    records: list[dict[str, Any]] = []
    for answer in answers:
        document: dict[str, Any] = {**prediction_dict(answer.prediction), **_of_answer(answer)}
        document["moments"] = {
            f"{m.moment}.{m.step if m.step == 'steady' else 'step1'}": m.total_bytes
            for m in answer.prediction.moments
        }
        del document["assumptions"]
        if answer.trainer is not None:
            document["trainer"] = trainer_dict(answer.trainer, answer.prediction.workload)
        records.append(dict(_flat(document)))
    keys = list(dict.fromkeys(key for record in records for key in record))
    # all have the same keys; a null that another record fills with parts goes
    keys = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    return [{key: record.get(key) for key in keys} for record in records]


def layer_records(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One flat record a module of each prediction, led by model and method."""
    return [
        {"model": p.workload.model.id, "method": p.workload.setup.method, **asdict(layer)}
        for p in (answer.prediction for answer in answers)
        for layer in p.layers
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", cell(item)
