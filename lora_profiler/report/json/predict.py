"""Answers as the JSON of `lora-profile predict --format json`, and flattened for CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

from lora_profiler.planning.advise import Remedy
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.empirical_interval import likely_peak
from lora_profiler.planning.fit import Fit
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.prediction import DeviceMemory, Moment, Prediction
from lora_profiler.report.answer.communication import communication_dict
from lora_profiler.report.answer.trainer import trainer_dict
from lora_profiler.report.json import picked, plain
from lora_profiler.steptime import PARTS
from lora_profiler.workload import QUANT_TITLES, setup_dict

if TYPE_CHECKING:
    from lora_profiler.report.json import predict_types as types

SCHEMA_VERSION: Literal["1.0"] = "1.0"


def predict_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `predict --format json` prints.

    Examples:
        >>> from lora_profiler import predict_schema
        >>> predict_schema()["type"]
        'object'
    """
    from lora_profiler.report.json.predict_types import PredictJson
    from lora_profiler.report.json.schema import payload_schema

    return payload_schema(PredictJson, title="lora-profile predict --format json")


def predict_payload(answers: Sequence[Answer]) -> "types.PredictJson":
    """The whole document: one prediction per model and method, in the order given."""
    return {
        "schema_version": SCHEMA_VERSION,
        "predictions": [answer_dict(answer) for answer in answers],
    }


def answer_dict(answer: Answer) -> "types.AnswerJson":
    """One prediction with its verdict and levers, in JSON's own types; bytes and FLOPs are
    integers.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, answer_dict, answers, find_model
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> answer_dict(answers([workload])[0])["peak"]["total_bytes"]
        1331468072
    """
    prediction = answer.prediction
    return {
        **prediction_dict(prediction),
        "trainer": cast(
            "types.TrainerJson | None", trainer_dict(answer.trainer, prediction.workload)
        ),
        "fit": _fit_dict(answer.fit) if answer.fit else None,
        "step_time": _step_time_dict(answer),
        "step_time_refusal": answer.timing.refusal if answer.timing else None,
        "communication": communication_dict(answer),
        "evidence": _evidence_dict(prediction),
        "levers": [_lever_dict(lever) for lever in answer.levers],
        "remedies": [_remedy_dict(remedy) for remedy in answer.remedies],
        "smallest_cards": [card.key for card in answer.smallest_cards],
        "layers": [plain(layer) for layer in prediction.layers],
        **_data_part(answer),
    }


def prediction_dict(prediction: Prediction) -> "types.PredictionJson":
    """A prediction alone, without its layers.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict, prediction_dict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> prediction_dict(predict(workload))["peak"]["total_bytes"]
        1331468072
    """
    model, platform = prediction.workload.model, prediction.workload.platform
    stored = QUANT_TITLES[model.stored.quant_type] if model.stored else model.dequantized_from
    return {
        "model": {
            "id": model.id,
            "model_type": model.model_type,
            "source": model.source,
            "num_layers": model.num_layers,
            "checkpoint_quantization": stored,
        },
        "setup": setup_dict(prediction.workload.setup),
        "platform": {
            "compute_capability": platform.compute_capability,
            "torch": platform.torch_text,
        },
        "engine": prediction.engine,
        "exactness": prediction.exactness,
        "error_bound": prediction.error_bound,
        "assumptions": list(prediction.assumptions),
        "attention_kernel": prediction.attention_kernel,
        "parameters": picked(
            prediction.parameters,
            "base adapter total trainable trainable_fraction reduction_vs_full",
        ),
        "persistent_bytes": cast("types.PersistentBytes", dict(prediction.persistent_bytes)),
        "host_bytes": dict(prediction.host_bytes),
        "saved_activation_bytes": prediction.saved_activation_bytes,
        "moments": [_moment_dict(moment) for moment in prediction.moments],
        "peak": _moment_dict(prediction.peak),
        "device_memory": (
            _device_memory_dict(prediction.device_memory) if prediction.device_memory else None
        ),
        "flops": picked(prediction.flops, "forward backward recompute total per_token")
        if prediction.flops
        else None,
        "step_time": None,
    }


def _device_memory_dict(memory: DeviceMemory) -> "types.DeviceMemoryJson":
    """`device_bytes` would add the context, which differs by card: see `fit.reserve`."""
    return {
        "allocated_bytes": memory.allocated_bytes,
        "reserved_bytes": memory.reserved_bytes,
        "expandable_reserved_bytes": memory.expandable_reserved_bytes,
        "device_bytes": None,
    }


def _moment_dict(moment: Moment) -> "types.MomentJson":
    return {
        "moment": moment.moment,
        "step": moment.step,
        "total_bytes": moment.total_bytes,
        "bytes": dict(moment.bytes),
    }


def _fit_dict(fit: Fit) -> "types.FitJson":
    return {
        "gpu": fit.gpu.key,
        "usable_bytes": fit.usable_bytes,
        "usable_is_estimated": fit.gpu.usable_is_estimated,
        "reserve_bytes": fit.reserve_bytes,
        "reserve": plain(fit.reserve),
        "verdict": fit.verdict,
        "headroom_bytes": fit.headroom_bytes,
        "largest_batch_size": fit.largest_batch_size,
        "longest_seq_len": fit.longest_seq_len,
        "highest_rank": fit.highest_rank,
    }


def _step_time_dict(answer: Answer) -> "types.StepTimeJson | None":
    step = answer.timing.step if answer.timing else None
    if step is None:
        return None
    time, gap = step.time, answer.speed_gap
    return {
        "seconds": time.seconds,
        "low_seconds": time.low,
        "high_seconds": time.high,
        "tokens_per_second": time.tokens_per_second,
        "mfu": time.mfu,
        "calibrated": time.calibrated,
        "basis": time.likeness,
        "share_of_host": time.share_of_host,
        "launches": step.kernels.launches,
        "part_seconds": {part: time.parts[part] for part in PARTS if part in time.parts},
        "constants": picked(time.constants, "family eta beta"),
        "evidence": plain(step.evidence) if step.evidence else None,
        "against_full": {
            "flops_ratio": gap.flops_ratio,
            "seconds_ratio": gap.seconds_ratio,
            "gap_seconds": gap.gap_seconds,
            "cause_seconds": dict(gap.causes),
        }
        if gap
        else None,
    }


def _evidence_dict(prediction: Prediction) -> "types.EvidenceJson | None":
    """What public measurements say of the peak; null where they say nothing."""
    likely = likely_peak(prediction)
    if likely is None:
        return None
    return {
        "low_bytes": likely.low_bytes,
        "high_bytes": likely.high_bytes,
        "half_width": likely.half_width,
        "described": likely.described,
        "command": picked(likely.command, "half_width rows inside worst"),
        "interval": picked(likely.interval, "nominal half_width rows inside worst"),
        "nearest": {**asdict(likely.nearest), "error": likely.nearest.error},
    }


def _data_part(answer: Answer) -> "types.DataPart":
    """Of an answer over data; nothing without them."""
    if answer.over_data is None:
        return {}
    from lora_profiler.report.answer.data import data_dict

    return {"data": data_dict(answer, answer.over_data)}


def _lever_dict(lever: Lever) -> dict[str, Any]:
    return {**asdict(lever), "saved_fraction": lever.saved_fraction}


def _remedy_dict(remedy: Remedy) -> "types.RemedyJson":
    return {
        "options": list(remedy.options),
        "prices": list(remedy.prices),
        "learns_the_same": remedy.learns_the_same,
        "peak_bytes": remedy.peak_bytes,
        "seconds": remedy.step.time.seconds if remedy.step else None,
        "tokens_per_second": remedy.tokens_per_second,
    }


def predict_records(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One flat record a prediction: the JSON's paths joined by dots; assumptions, layers and levers
    left out."""
    records = []
    for answer in answers:
        document: dict[str, Any] = {
            **prediction_dict(answer.prediction),
            "fit": _fit_dict(answer.fit) if answer.fit else None,
            "step_time": _step_time_dict(answer),
            "step_time_refusal": answer.timing.refusal if answer.timing else None,
            "communication": communication_dict(answer),
            "evidence": _evidence_dict(answer.prediction),
            **_data_part(answer),
        }
        document["moments"] = {
            f"{moment.moment}.{moment.step if moment.step == 'steady' else 'step1'}": (
                moment.total_bytes
            )
            for moment in answer.prediction.moments
        }
        del document["assumptions"]
        if answer.trainer is not None:
            document["trainer"] = trainer_dict(answer.trainer, answer.prediction.workload)
        records.append(dict(_flat(document)))
    return _aligned(records)


def layer_records(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One flat record a module of each prediction, led by model and method."""
    return [
        {
            "model": answer.prediction.workload.model.id,
            "method": answer.prediction.workload.setup.method,
            **asdict(layer),
        }
        for answer in answers
        for layer in answer.prediction.layers
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            yield f"{prefix}{key}", "; ".join(map(str, item))
        else:
            yield f"{prefix}{key}", item


def _aligned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records with the same keys, in order of first appearance; a null that another record
    fills with parts goes."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    keys = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    return [{key: record.get(key) for key in keys} for record in records]
