import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from protocol import Question, RefusedError, answer, folder


def estimators() -> ModuleType:
    """Its file of estimators alone: the package imports every trainer that it knows."""
    (home,) = find_spec("training_hub").submodule_search_locations
    spec = spec_from_file_location(
        "memory_estimator", Path(home) / "profiling" / "memory_estimator.py"
    )
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def estimate(question: Question) -> float:
    import torch
    from transformers import AutoConfig, AutoModel

    if question["optimizer"] != "adamw":
        raise RefusedError("no option for 8-bit states")
    if question["method"] == "full" and question["weights"] != "fp32":
        raise RefusedError("prices full fine-tuning in float32 alone")

    def empty(path: str, **_more: object) -> torch.nn.Module:
        return AutoModel.from_config(AutoConfig.from_pretrained(path))

    class Loader:
        from_pretrained = staticmethod(empty)

    memory_estimator = estimators()
    memory_estimator.AutoModel = Loader
    kind = {
        "full": memory_estimator.BasicEstimator,
        "lora": memory_estimator.LoRAEstimator,
        "qlora": memory_estimator.QLoRAEstimator,
    }[question["method"]]
    cards = question["cards"] if question["sharding"] == "fsdp" else 1
    estimator = kind(
        num_gpus=cards,
        model_path=folder(question),
        batch_size=question["batch_size"] * cards,
        max_seq_len=question["seq_len"],
        use_liger=question["loss"] == "liger",
        verbose=0,
        **({"lora_r": question["rank"]} if question["rank"] else {}),
    )
    _low, expected, _high = estimator.estimate()
    if question["quantity"] == "allocated":
        return estimator._calc_subtotal()[0]
    return expected


answer(estimate)
