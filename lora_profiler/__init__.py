"""What full, LoRA and QLoRA fine-tuning of a model cost in memory and compute, from the model's
name alone.

    from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict
    prediction = predict(Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig(r=8))))
    prediction.peak.total_bytes

The names below are imported when first used, so that `import lora_profiler` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lora_profiler._version import __version__ as __version__

if TYPE_CHECKING:
    from lora_profiler.catalog import Gpu, bundled_gpus, bundled_models, find_gpu, find_model
    from lora_profiler.comparison.errors import Comparison, compare
    from lora_profiler.comparison.throughput import Throughput, throughput
    from lora_profiler.errors import (
        LoraProfilerError,
        ModelNotFoundError,
        TargetModulesError,
        UnsupportedModelError,
        UsageError,
    )
    from lora_profiler.harness import MeasurementError, measure
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.planning.answers import answers
    from lora_profiler.planning.engine import peak_bytes, predict
    from lora_profiler.planning.fit import Fit, fit
    from lora_profiler.planning.memory_savings import Lever, best_lever, levers
    from lora_profiler.planning.sweep import sweep
    from lora_profiler.planning.timing import step_time
    from lora_profiler.platform import Platform
    from lora_profiler.prediction import FlopCount, LayerCost, Moment, ParameterCount, Prediction
    from lora_profiler.records.record import Conditions, Environment, Measurement, Record
    from lora_profiler.records.store import Store
    from lora_profiler.report.json.bench import bench_payload, bench_schema
    from lora_profiler.report.json.predict import answer_dict, predict_schema, prediction_dict
    from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload


_HOMES = {
    "catalog": ("Gpu", "bundled_gpus", "bundled_models", "find_gpu", "find_model"),
    "comparison.errors": ("Comparison", "compare"),
    "comparison.throughput": ("Throughput", "throughput"),
    "errors": (
        "LoraProfilerError",
        "ModelNotFoundError",
        "TargetModulesError",
        "UnsupportedModelError",
        "UsageError",
    ),
    "harness": ("MeasurementError", "measure"),
    "model_spec": ("ModelSpec",),
    "planning.answers": ("answers",),
    "planning.engine": ("peak_bytes", "predict"),
    "planning.fit": ("Fit", "fit"),
    "planning.memory_savings": ("Lever", "best_lever", "levers"),
    "planning.sweep": ("sweep",),
    "planning.timing": ("step_time",),
    "platform": ("Platform",),
    "prediction": ("FlopCount", "LayerCost", "Moment", "ParameterCount", "Prediction"),
    "records.record": ("Conditions", "Environment", "Measurement", "Record"),
    "records.store": ("Store",),
    "report.json.bench": ("bench_payload", "bench_schema"),
    "report.json.predict": ("answer_dict", "predict_schema", "prediction_dict"),
    "workload": ("LoraConfig", "Quantization", "TrainSetup", "Workload"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Comparison",
    "Conditions",
    "Environment",
    "Fit",
    "FlopCount",
    "Gpu",
    "LayerCost",
    "Lever",
    "LoraConfig",
    "LoraProfilerError",
    "Measurement",
    "MeasurementError",
    "ModelNotFoundError",
    "ModelSpec",
    "Moment",
    "ParameterCount",
    "Platform",
    "Prediction",
    "Quantization",
    "Record",
    "Store",
    "TargetModulesError",
    "Throughput",
    "TrainSetup",
    "UnsupportedModelError",
    "UsageError",
    "Workload",
    "answer_dict",
    "answers",
    "bench_payload",
    "bench_schema",
    "best_lever",
    "bundled_gpus",
    "bundled_models",
    "compare",
    "find_gpu",
    "find_model",
    "fit",
    "levers",
    "measure",
    "peak_bytes",
    "predict",
    "predict_schema",
    "prediction_dict",
    "step_time",
    "sweep",
    "throughput",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
