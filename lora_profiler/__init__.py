"""What full, LoRA and QLoRA fine-tuning of a model cost in memory and compute, from the model's name alone.

    from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict
    prediction = predict(Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig(r=8))))
    prediction.peak.total_bytes

The names below are imported when first used, so that `import lora_profiler` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_profiler.analytic import sweep
    from lora_profiler.catalog import Gpu, bundled_gpus, bundled_models, find_gpu, find_model
    from lora_profiler.errors import LoraProfilerError, ModelNotFoundError, TargetModulesError, UnsupportedModelError, UsageError
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.planning.answers import answers
    from lora_profiler.planning.engine import peak_bytes, predict
    from lora_profiler.planning.fit import Fit, fit
    from lora_profiler.planning.levers import Lever, best_lever, levers
    from lora_profiler.prediction import FlopCount, LayerCost, Moment, ParameterCount, Prediction
    from lora_profiler.report.payload import answer_dict, predict_schema, prediction_dict
    from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

__version__ = "0.2.0"

_HOMES = {
    "analytic": ("sweep",),
    "catalog": ("Gpu", "bundled_gpus", "bundled_models", "find_gpu", "find_model"),
    "errors": ("LoraProfilerError", "ModelNotFoundError", "TargetModulesError", "UnsupportedModelError", "UsageError"),
    "model_spec": ("ModelSpec",),
    "planning.answers": ("answers",),
    "planning.engine": ("peak_bytes", "predict"),
    "planning.fit": ("Fit", "fit"),
    "planning.levers": ("Lever", "best_lever", "levers"),
    "prediction": ("FlopCount", "LayerCost", "Moment", "ParameterCount", "Prediction"),
    "report.payload": ("answer_dict", "predict_schema", "prediction_dict"),
    "workload": ("LoraConfig", "Quantization", "TrainSetup", "Workload"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Fit",
    "FlopCount",
    "Gpu",
    "LayerCost",
    "Lever",
    "LoraConfig",
    "LoraProfilerError",
    "ModelNotFoundError",
    "ModelSpec",
    "Moment",
    "ParameterCount",
    "Prediction",
    "Quantization",
    "TargetModulesError",
    "TrainSetup",
    "UnsupportedModelError",
    "UsageError",
    "Workload",
    "answer_dict",
    "answers",
    "best_lever",
    "bundled_gpus",
    "bundled_models",
    "find_gpu",
    "find_model",
    "fit",
    "levers",
    "peak_bytes",
    "predict",
    "predict_schema",
    "prediction_dict",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
