"""Answers as the JSON of `lora-profile predict --format json`, and flattened for CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.question.base import base_kind
from lora_profiler.question.workload import setup_dict
from lora_profiler.report.json import SCHEMA_VERSION, cell, part, payload_schema
from lora_profiler.report.json import predict_types as types
from lora_profiler.report.setup_words import trainer_dict
from lora_profiler.steptime import PARTS

if TYPE_CHECKING:
    from lora_profiler.planning.guided import Guided, Line
    from lora_profiler.planning.over_data import OverData
    from lora_profiler.planning.placement import Communication
    from lora_profiler.planning.timing import TimedStep


def predict_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `predict --format json` prints.

    Examples:
        >>> from lora_profiler.report.json.predict import predict_schema
        >>> predict_schema()["type"]
        'object'
    """
    return payload_schema(types.for_schema(), title="lora-profile predict --format json")


def predict_payload(
    answers: Sequence[Answer], guided: "Sequence[Guided]" = ()
) -> types.PredictJson:
    """The whole document: one prediction per model and method, in the order given; `guided` is
    what stands beside those of questions that name no trainer."""
    document: types.PredictJson = {
        "schema_version": SCHEMA_VERSION,
        "predictions": [answer_dict(answer) for answer in answers],
    }
    if guided:
        document["by_trainer"] = [_by_trainer(line) for each in guided for line in each.lines]
    return document


_SUMMARY: Mapping[str, str] = {
    "model": "id",
    "setup": "method rank batch_size seq_len accumulation dtype precision optimizer checkpointing"
    " world_size sharding",
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
_BY_TRAINER = "trainer model method peak_bytes verdict refusal"


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


def _by_trainer(line: "Line") -> types.ByTrainerJson:
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


def answer_dict(answer: Answer) -> types.AnswerJson:
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
        types.AnswerJson,
        prediction,
        answer,
        **_of_prediction(prediction),
        **_of_answer(answer),
        trainer=trainer_dict(answer.trainer, prediction.workload),
        remedies=[
            part(types.RemedyJson, each, seconds=each.step.time.seconds if each.step else None)
            for each in answer.remedies
        ],
        smallest_cards=[card.key for card in answer.smallest_cards],
    )


def prediction_dict(prediction: Prediction) -> types.PredictionJson:
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
    return part(types.PredictionJson, prediction, **own, step_time=None)


def _of_prediction(prediction: Prediction) -> dict[str, Any]:
    """What is not called as its own attributes are."""
    workload, memory = prediction.workload, prediction.device_memory
    model, platform = workload.model, workload.platform
    stored = base_kind(model.stored.quant_type).title if model.stored else model.dequantized_from
    return {
        "model": part(types.ModelJson, model, checkpoint_quantization=stored),
        "setup": setup_dict(workload.setup),
        "platform": part(types.PlatformJson, platform, torch=platform.torch_text),
        "device_memory": part(types.DeviceMemoryJson, memory, device_bytes=None)
        if memory
        else None,
    }


def _of_answer(answer: Answer) -> dict[str, Any]:
    """What JSON and CSV have beside the prediction."""
    fit, timing, likely = answer.fit, answer.timing, answer.likely
    found = {
        "fit": part(types.FitJson, fit, fit.gpu, gpu=fit.gpu.key) if fit else None,
        "step_time": _step_time(answer, answer.step) if answer.step else None,
        "step_time_refusal": timing.refusal if timing else None,
        "communication": _communication(answer, answer.communication),
        "evidence": part(types.EvidenceJson, likely) if likely else None,
    }
    return found | ({"data": _data(answer, answer.over_data)} if answer.over_data else {})


def _step_time(answer: Answer, step: "TimedStep") -> types.StepTimeJson:
    time, gap = step.time, answer.speed_gap
    return part(
        types.StepTimeJson,
        time,
        step,
        low_seconds=time.low,
        high_seconds=time.high,
        basis=time.likeness,
        launches=step.kernels.launches,
        part_seconds={name: time.parts[name] for name in PARTS if name in time.parts},
        against_full=part(types.AgainstFull, gap, cause_seconds=dict(gap.causes)) if gap else None,
    )


def _communication(answer: Answer, sent: "Communication | None") -> types.CommunicationJson | None:
    """None for a process alone."""
    if sent is None:
        return None
    from lora_profiler.report.answer.timing import step_bounds

    low, high = step_bounds(answer) or (None, None)
    return part(
        types.CommunicationJson,
        sent,
        answer.prediction.workload.setup,
        collectives=[asdict(traffic) for traffic in sent.traffic],
        interconnect=sent.network.key if sent.network else None,
        step_low_seconds=low,
        step_high_seconds=high,
    )


def _data(answer: Answer, epoch: "OverData") -> types.DataJson:
    data, lengths, steps = epoch.data, epoch.data.lengths, epoch.steps_per_epoch
    long = answer.long_samples
    time = answer.step.time if answer.step else None
    return part(
        types.DataJson,
        epoch,
        data,
        epoch.batches,
        lengths=part(
            types.LengthsJson, lengths, median=lengths.quantile(0.5), p95=lengths.quantile(0.95)
        ),
        long_samples=part(types.LongSamplesJson, long) if long else None,
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
