"""Optimizers of bitsandbytes, torchao, GaLore, APOLLO and Adam-mini, and torch's Muon, against the packages themselves: states
on the card and in unified memory, and what a step keeps for a moment."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

import cases
import oracle
import reference
import truth
from agreement import totals
from lora_profiler import predict as answer
from lora_profiler._common.polynomial import ZERO, constant
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.features.optimizers._projected import temporaries
from lora_profiler.memory.analytic import paged_bytes, predict
from lora_profiler.memory.analytic.persistent import (
    Persistent,
    StateKind,
    TrainableTensor,
    state_bytes,
    step_temporary_candidates,
)
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.optimizer import all_optimizers, package_optimizer
from lora_profiler.question.support.optimizers import second_averages
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling import make_optimizer
from lora_profiler.trace.sharded_on_meta import fake_group
from lora_profiler.trace.single_size import predict_once

torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def wide(**options: object) -> Workload:
    """Its embedding and head are paged, its vectors are not."""
    model = model_from_config(dict(reference.WIDE), id="wide", source="test")
    return Workload(model=model, setup=TrainSetup(batch_size=2, seq_len=16, **options))  # type: ignore[arg-type]


def small(**options: object) -> TrainSetup:
    return TrainSetup(**({"batch_size": 2, "seq_len": 8, "device": "cpu"} | options))  # type: ignore[arg-type]


def step(prediction: Prediction) -> int:
    return totals(prediction)["optimizer_step"]


OF_BITSANDBYTES = [
    name
    for name, facts in all_optimizers().items()
    if facts.package is not None and facts.package.package == "bitsandbytes"
]


@pytest.mark.grid
@pytest.mark.parametrize("lora", [None, LoraConfig(r=40)], ids=["full", "r40"])
@pytest.mark.parametrize("optimizer", [*OF_BITSANDBYTES, "muon"])
def test_a_trace_on_cuda_has_the_same_states_and_the_same_step(optimizer, lora):
    if optimizer == "muon" and lora is None:
        with pytest.raises(UsageError, match="matrices only"):
            wide(optimizer=optimizer)
        return
    workload = wide(optimizer=optimizer, lora=lora)
    rules, trace = predict(workload), predict_once(workload)
    assert rules.persistent_bytes == {
        name: trace.persistent_bytes[name] for name in rules.persistent_bytes
    }
    assert step(rules) == step(trace)


def test_paged_states_by_hand():
    """A Llama of 8 B: every matrix is paged, no norm is; scales and small states stay."""
    model = find_model("meta-llama/Llama-3.1-8B")
    setup = TrainSetup(optimizer="paged_adamw_8bit", checkpointing=True)
    norms = 65 * 4096
    matrices = model.num_parameters - norms
    found = predict(Workload(model=model, setup=setup))
    assert paged_bytes(found.workload) == 2 * matrices
    scales = 2 * 4 * matrices // 256
    in_8_bit = 65 * 2 * (4096 + 4 * 16)  # norms are quantised from 4,096 elements on, and not paged
    assert found.persistent_bytes["optimizer_states"] == scales + in_8_bit + 2 * 1024
    whole = Workload(model=model, setup=TrainSetup(optimizer="paged_adamw_32bit"))
    assert paged_bytes(whole) == 8 * matrices
    assert predict(whole).persistent_bytes["optimizer_states"] == 8 * norms


def test_an_answer_says_where_paged_states_lie_and_a_cpu_pages_nothing():
    paged = answer(wide(optimizer="paged_adamw_32bit"), may_trace=False)
    (words,) = [words for words in paged.assumptions if "paged optimizer state" in words]
    assert "outside torch's allocator" in words
    on_cpu = answer(wide(optimizer="paged_adamw_32bit", device="cpu"), may_trace=False)
    assert not any("paged" in words for words in on_cpu.assumptions)
    held, on_card = (p.persistent_bytes["optimizer_states"] for p in (on_cpu, paged))
    assert held == on_card + paged_bytes(paged.workload)


@pytest.mark.parametrize("numel", [4095, 4096, 99_999, 100_000])
@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "paged_lion_32bit"])
def test_bitsandbytes_pages_and_quantises_the_same_tensors(optimizer, numel, monkeypatch):
    """Its own code, which takes a tensor without data for one on a card."""
    from bitsandbytes import functional
    from bitsandbytes.optim import AdamW, Lion

    made = package_optimizer(optimizer)
    paged = []

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        paged.append(torch.empty(shape, dtype=dtype, device=device))
        return paged[-1]

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "fill", lambda *args: None)
    parameter = torch.nn.Parameter(torch.zeros(numel, device="meta"))
    kind = {"AdamW": AdamW, "Lion": Lion}[made.kind]
    real = kind([parameter], optim_bits=made.bits, is_paged=True)
    real.name2qmap = {name: book.to("meta") for name, book in real.name2qmap.items()}
    real.init_state(real.param_groups[0], parameter, 0, 0)
    state = real.state[parameter]
    held = [t for t in state.values() if isinstance(t, torch.Tensor)]
    books = {id(book) for book in real.name2qmap.values()}
    own = sum(t.nbytes for t in held if id(t) not in books and all(t is not p for p in paged))
    one = tensor((numel,), "float32")
    assert state_bytes(one, TrainSetup(optimizer=optimizer)).evaluate(1, 1, 1) == own
    assert made.pages(numel, "cuda") == bool(paged)
    assert made.quantises(numel) == (state["state1"].dtype == torch.uint8)


@pytest.mark.parametrize("rank", [4, 40])
def test_muons_step_to_the_byte(rank):
    """Of tensors alone: a 16-bit product has scratch of oneDNN's on a CPU."""
    setup = small(lora=LoraConfig(r=rank), optimizer="muon")
    real = truth.tensor_peaks(cases.CONFIGS["llama"], setup)
    workload = Workload(model=cases.spec_of("llama"), setup=setup)
    assert step(predict(workload)) == real[2, "optimizer"]


# --- torchao --------------------------------------------------------------------------------------

SHAPES = [(64, 64), (64, 65), (63, 64), (16, 512), (4095,), (100, 256)]


SCALARS = 12
"""Bytes that a compiled step of whole states takes on a CPU."""


def of_torchao(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    import torchao.optim

    kind = {"adamw_torch_8bit": "AdamW8bit", "adamw_torch_4bit": "AdamW4bit"}[name]
    return getattr(torchao.optim, kind)(parameters, lr=1e-3)


def tensor(shape: tuple[int, ...], dtype: str) -> TrainableTensor:
    return TrainableTensor(tuple(constant(size) for size in shape), dtype)


@torchao
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit"])
def test_states_of_torchao(name, shape, dtype):
    """Codes, scales and a code book, or whole states where blocks do not fit."""
    parameter = torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, dtype)))
    optimizer = of_torchao(name, [parameter])
    real = 0
    for signed in (True, False):
        state = optimizer._new_buffer(parameter, signed)
        parts = getattr(state, "tensor_attrs", None)
        tensors = [getattr(state, part) for part in parts] if parts else [state]
        real += sum(t.untyped_storage().nbytes() for t in tensors)
    found = state_bytes(tensor(shape, dtype), TrainSetup(optimizer=name))
    assert found.evaluate(1, 1, 1) == real


def stepped_by_torchao(name: str, module: torch.nn.Module) -> tuple[int, int]:
    """Bytes of the states of its one parameter, and of a third step's allocations, as torch's
    profiler saw them."""
    (parameter,) = module.parameters()
    optimizer = of_torchao(name, [parameter])
    with torch._functorch.config.patch(enable_autograd_cache=False):  # blind to torchao's types
        for number in range(3):
            optimizer.zero_grad()
            module(torch.randn(8, 256)).sum().backward()
            if number < 2:
                optimizer.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            optimizer.step()
    live = peak = states = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    for state in optimizer.state[parameter].values():
        own = state.to_local() if isinstance(state, DTensor) else state
        parts = [getattr(own, part) for part in getattr(own, "tensor_attrs", ())] or [own]
        states += sum(part.untyped_storage().nbytes() for part in parts)
    return states, peak


@pytest.fixture
def four_ranks() -> Iterator[DeviceMesh]:
    with fake_group(4) as mesh:
        yield mesh


@torchao
@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit"])
@pytest.mark.parametrize(
    ("wrapper", "rows"), [("none", 512), ("fsdp", 126), ("fsdp1", 126), ("fsdp1, laid flat", 512)]
)
def test_the_compiled_step_of_torchao(name, wrapper, rows, four_ranks):
    """Whole, and on what FSDP2 and FSDP1 leave the first rank: a chunk of the rows, or of the
    elements, which are no whole blocks of 256 where 126 rows are dealt out."""
    module = torch.nn.Linear(256, rows, bias=False)
    if wrapper == "fsdp":
        fully_shard(module, mesh=four_ranks)
    elif wrapper != "none":
        own = wrapper == "fsdp1"
        module = FullyShardedDataParallel(
            module, use_orig_params=own, device_id=torch.device("cpu")
        )
    shapes = {"none": (rows, 256), "fsdp": (-(-rows // 4), 256)}
    one = tensor(shapes.get(wrapper, (rows * 64,)), "float32")
    nothing = {"adapter_bytes": ZERO, "adapter_parameters": ZERO}
    state = Persistent(parameter_bytes=0, quantization_bytes=0, **nothing, order=(one,))
    setup = TrainSetup(optimizer=name, device="cpu")
    states, peak = stepped_by_torchao(name, module)
    assert state_bytes(one, setup).evaluate(1, 1, 1) == states
    candidates = [c.evaluate(1, 1, 1) for c in step_temporary_candidates(state, setup)]
    assert max(candidates) == peak or (max(candidates) == 0 and peak == SCALARS)


# --- PEFT's LoRA-FA -------------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "pure"), ("float32", "amp")])
@pytest.mark.parametrize("base", [None, Quantization()], ids=["16 bit", "nf4"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2-varied"])
def test_what_layers_keep_where_a_is_frozen(name, base, dtype, precision, dropout, checkpointing):
    lora = LoraConfig(r=4, lora_dropout=dropout)
    numbers = {"quantization": base, "dtype": dtype, "precision": precision}
    more = {"checkpointing": checkpointing, "optimizer": "lorafa", "seq_len": 24}
    setup = small(lora=lora, **numbers, **more)
    model = oracle.build(cases.CONFIGS[name], setup)
    make_optimizer(model, setup)  # which freezes A
    found = predict(Workload(model=cases.spec_of(name), setup=setup))
    assert found.saved_activation_bytes == oracle.saved_activation_bytes(model, setup)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.parameters.trainable == trained < found.parameters.adapter


def test_states_and_step_of_lorafa():
    """Its states are kept by names. A step's own tensors are an estimate."""
    setup = small(lora=LoraConfig(r=8), optimizer="lorafa")
    found = predict(Workload(model=cases.spec_of("llama"), setup=setup))
    model = oracle.build(cases.CONFIGS["llama"], setup)
    real = make_optimizer(model, setup)
    oracle.run_steps(model, setup, real, oracle.make_batch(model, setup), 1)
    states = [t for s in real.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    assert found.persistent_bytes["optimizer_states"] == sum(t.nbytes for t in states)
    peaks = truth.tensor_peaks(cases.CONFIGS["llama"], setup)
    assert step(found) == pytest.approx(peaks[2, "optimizer"], rel=0.01)
    assert sum(row.parameter_bytes for row in found.layers) == sum(
        found.persistent_bytes[name] for name in ("parameters", "adapters")
    )


# --- GaLore, APOLLO, Adam-mini --------------------------------------------------------------------

PROJECTING = json.loads(
    (Path(__file__).parents[1] / "data" / "projected_optimizers.json").read_text("utf-8")
)["rows"]


@pytest.mark.parametrize("row", PROJECTING, ids=lambda r: "-".join(str(r[k]) for k in list(r)[:4]))
def test_states_are_those_that_the_package_made_and_a_step_works_with_as_much(row):
    """A step also makes sums of rows or columns; a CPU's 16-bit products have scratch of oneDNN's
    beside."""
    kind = StateKind(is_projected=True)
    if row["optimizer"] == "adam_mini":
        sizes = replace(cases.spec_of("llama"), config=HEADS)
        kind = StateKind(averages=second_averages(sizes, row["name"], tuple(row["shape"])))
    one = TrainableTensor(tuple(map(constant, row["shape"])), row["dtype"], kind)
    setup = TrainSetup(optimizer=row["optimizer"], optimizer_rank=row.get("rank", 128))
    assert state_bytes(one, setup).evaluate(1, 1, 1) == row["state_bytes"]
    alone = SimpleNamespace(neighbours=[(None, one)])
    found = [each.evaluate(1, 1, 1) for each in temporaries(alone, setup)]
    first = 1 if kind.is_projected else 0  # before it, a new projection, which this step makes none
    has_scratch = row["dtype"] == "bfloat16" and row["optimizer"] != "apollo_adamw"
    if has_scratch:
        assert max(found[first:]) <= row["step_bytes"]
    else:
        assert max(found[first:]) == pytest.approx(row["step_bytes"], rel=0.025)


HEADS = {"hidden_size": 64, "num_attention_heads": 4}


def test_projected_states_by_hand():
    """A Llama of 8 B, whose head is a matrix of its own: 7 linear layers in each of 32, and it."""
    model = find_model("meta-llama/Llama-3.1-8B")
    setup = TrainSetup(optimizer="galore_adamw", optimizer_rank=64)
    held = predict(Workload(model=model, setup=setup)).persistent_bytes["optimizer_states"]
    shapes = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 3
    of_layer = sum(64 * 2 * (2 * max(shape) + min(shape)) for shape in shapes)
    head, rest = 64 * 2 * (2 * 128_256 + 4096), 2 * 2 * (128_256 * 4096 + 65 * 4096)
    assert held == 32 * of_layer + head + rest


@pytest.mark.parametrize("optimizer", ["galore_adamw", "apollo_adamw", "adam_mini"])
def test_an_optimizer_of_whole_weights_alone(optimizer):
    found = answer(wide(optimizer=optimizer), may_trace=False)
    assert found.engine == "analytic" and found.exactness == "estimate"
