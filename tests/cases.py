"""The grid of small training runs on which the predictor is compared with the oracle, byte by byte.

Every config of `families` x what trains x dtype x attention x checkpointing x size. Left out:
bfloat16 adapters on a float32 base, which PEFT does not make, and LoRA dropout on packed experts,
which PEFT refuses.

Importing this module gives torch one thread: these models are so small that more only wait for each
other.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch

import families
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

torch.set_num_threads(1)

CONFIGS: Mapping[str, families.Config] = {
    **families.TINY,
    **{f"{name}-varied": c for name, c in families.VARIED.items()},
}
TINY_NAMES = tuple(families.TINY)
MIXTURES = ("mixtral", "qwen3_moe")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEW = {"gpt2": ("c_attn",), "gpt_neox": ("query_key_value",), "phi3": ("qkv_proj",)}
SIZES = ((1, 17), (2, 24), (3, 33), (4, 9))


@dataclass(frozen=True, slots=True)
class Case:
    """One run: the name of its config, what trains ("full", "few", "all", "dropout", "bf16",
    "experts"), and the setup."""

    config: str
    method: str
    setup: TrainSetup

    def __str__(self) -> str:
        s = self.setup
        checkpointing = ["checkpointing"] if s.checkpointing else []
        return "-".join(
            [
                self.config,
                self.method,
                s.dtype,
                s.attention,
                *checkpointing,
                f"b{s.batch_size}",
                f"s{s.seq_len}",
            ]
        )


def family(name: str) -> str:
    """The model type of a config of `CONFIGS`."""
    return str(CONFIGS[name]["model_type"])


def methods(model_type: str, rank: int = 4) -> dict[str, LoraConfig | None]:
    """What may train, by name: everything, or adapters on few or all of the family's linears, plain
    and in two variants."""
    mixture = model_type in MIXTURES
    every = LoraConfig(r=rank, target_modules=ATTENTION if mixture else "all-linear")
    found: dict[str, LoraConfig | None] = {
        "full": None,
        "few": replace(every, target_modules=FEW.get(model_type, ("q_proj", "v_proj"))),
        "all": every,
        "dropout": replace(every, lora_dropout=0.1),
        "bf16": replace(every, adapter_dtype="bfloat16"),
    }
    return found | ({"experts": replace(every, target_modules="all-linear")} if mixture else {})


@cache
def grid() -> tuple[Case, ...]:
    """Every case; those that differ only in size follow each other."""
    cases = []
    for name, dtype, attention, checkpointing in product(
        CONFIGS, ("float32", "bfloat16"), ("auto", "eager"), (False, True)
    ):
        for method, lora in methods(family(name)).items():
            if method == "bf16" and dtype == "float32":
                continue
            setup = TrainSetup(
                lora=lora,
                dtype=dtype,
                attention=attention,
                checkpointing=checkpointing,
                device="cpu",
            )  # type: ignore[arg-type]
            cases += [Case(name, method, replace(setup, batch_size=b, seq_len=s)) for b, s in SIZES]
    return tuple(cases)


def sample(count: int, seed: int = 0) -> list[Case]:
    """`count` different cases of the grid, the same for the same seed."""
    return random.Random(seed).sample(grid(), count)


@cache
def spec_of(name: str) -> ModelSpec:
    return model_from_config(dict(CONFIGS[name]), id=name, source="test")


def spec(case: Case) -> ModelSpec:
    return spec_of(case.config)


def workload(case: Case) -> Workload:
    return Workload(model=spec(case), setup=case.setup)
