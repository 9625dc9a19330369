"""Hypothesis strategies for records of every shape that the types allow, sense or not."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

import families
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.measuring.records.record import Conditions, Environment, Measurement, Record
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.workload import LoraConfig, PeftType, Quantization, TrainSetup, Workload

MODELS = [
    find_model("gpt2"),
    find_model("meta-llama/Llama-3.1-8B"),
    *(
        model_from_config(dict(config), id=f"tiny/{name}", source="file")
        for name, config in families.TINY.items()
    ),
]


def hints_of(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields; what only its constructor takes is left out."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation: every field of a dataclass drawn, every literal, None where it may
    be."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if o is type(None) else of(o) for o in get_args(kind)))
    if origin is Literal:
        return st.sampled_from(get_args(kind))
    if origin is tuple:
        return st.lists(of(get_args(kind)[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(of(get_args(kind)[0]), of(get_args(kind)[1]), max_size=3)
    if is_dataclass(kind):
        return st.builds(kind, **{name: of(hint) for name, hint in hints_of(kind).items()})
    plain = {
        int: st.integers(-(2**40), 2**63),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=8),
        bool: st.booleans(),
    }
    return plain[kind]


ALPHAS = st.one_of(st.none(), st.integers(1, 64), st.floats(0.5, 64))
TARGETS = st.one_of(
    st.sampled_from(["all-linear", None, r".*\.(c_attn|q_proj)"]),
    st.lists(
        st.sampled_from(["q_proj", "v_proj", "c_attn", "0.mlp.c_fc"]), min_size=1, max_size=3
    ).map(tuple),
)


@st.composite
def setups(draw: st.DrawFn) -> TrainSetup:
    """Every field of a setup and of LoRA drawn from all that is accepted."""
    sizes: dict[str, st.SearchStrategy[Any]]
    sizes = {name: st.integers(1, 4096) for name in ("batch_size", "seq_len", "accumulation", "r")}
    sizes["packed"] = st.none() | st.integers(1, 4096)
    sizes["eval_batch_size"] = st.none() | st.integers(1, 4096)
    sizes["generation_batch_size"] = st.none() | st.integers(1, 4096)
    sizes["max_completion_length"] = st.none() | st.integers(1, 4096)
    sizes["beta"] = st.sampled_from([0.0, 0.0, 0.0, 0.04])
    sizes["use_vllm"] = st.sampled_from([False, False, False, True])
    sizes["images"] = st.none() | st.integers(1, 64)
    sizes["image_size"] = st.sampled_from(["1024x768", "64x64"])
    sizes["freeze"] = st.just(())
    sizes["padding"] = st.sampled_from([0.0, 0.0, 0.25])
    sizes["label_smoothing_factor"] = st.sampled_from([0.0, 0.0, 0.1])
    lora = draw(
        st.none()
        | st.builds(
            adapter,
            **{name: of(kind) for name, kind in hints_of(LoraConfig).items()}
            | {
                "r": sizes["r"],
                "lora_alpha": ALPHAS,
                "lora_dropout": st.sampled_from([0, 0.0, 0.05, 0.5]),
                "feedforward_modules": st.sampled_from([(), ("mlp.c_proj", "down_proj")]),
                "oft_block_size": sizes["r"],
                "peft_arg": st.just(()),
            }
            | {
                "target_modules": TARGETS,
                "layers_to_transform": st.lists(st.integers(0, 80), max_size=3).map(tuple),
            },
        )
    )
    quantization = draw(st.none() | of(Quantization)) if lora else None
    rest = {
        name: draw(sizes.get(name, of(kind)))
        for name, kind in hints_of(TrainSetup).items()
        if name not in ("lora", "quantization")
    }
    try:
        return TrainSetup(lora=lora, quantization=quantization, **rest)
    except UsageError:  # options that contradict each other
        return TrainSetup(lora=lora, quantization=quantization)


def adapter(peft_type: PeftType, **drawn: Any) -> LoraConfig:
    """Without what the method has no place for; names of feedforward modules beside no others."""
    kept = {
        name: value for name, value in drawn.items() if name not in adapter_method(peft_type).idle
    }
    if kept.get("feedforward_modules"):
        kept["target_modules"] = "all-linear"
    return LoraConfig(peft_type=peft_type, **kept)


def workloads() -> st.SearchStrategy[Workload]:
    return st.builds(Workload, model=st.sampled_from(MODELS), setup=setups())


def records() -> st.SearchStrategy[Record]:
    return st.builds(
        Record,
        workload=workloads(),
        conditions=of(Conditions).map(lambda drawn: replace(drawn, padding=0.0)),  # the setup's
        environment=of(Environment),
        measurement=of(Measurement),
        repeat=st.integers(0, 5),
        started_at=of(str | None),
        ended_at=of(str | None),
    )
