"""Profiles of several micro-batches a step, made of those of one, against fresh traces."""

from dataclasses import replace

import pytest

import tracing
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.compiled.accumulation import accumulated
from lora_profiler.memory.compiled.evaluation import Evaluation, events_of
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.compiler import compile_profile, largest, moments_with
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import profile_of

SEVERAL = 3
BASE = TrainSetup(batch_size=2, seq_len=40)
LORA = LoraConfig(r=4)
AMP = replace(BASE, dtype="float32", precision="amp")


def workload(name: str, setup: TrainSetup, **changes: object) -> Workload:
    config = tracing.config_of(name, **changes)
    return Workload(model=model_from_config(config, id=name, source="test"), setup=setup)


def traced(asked: Workload) -> Profile:
    return profile_of(asked, trace(asked, lambda w: build_model(w, device="meta")))


def several(asked: Workload, micro_batches: int = SEVERAL) -> Workload:
    return replace(asked, setup=replace(asked.setup, accumulation=micro_batches))


CASES = [
    ("llama", replace(BASE, lora=LORA)),
    ("llama", replace(AMP, lora=LORA, checkpointing=True)),
    ("llama", replace(AMP, batch_size=1)),
    ("qwen2", replace(BASE, lora=LORA, quantization=Quantization(), checkpointing=True)),
    ("qwen2", replace(BASE, lora=LORA, hold_outputs=True)),
    ("gemma2", replace(BASE, attention="eager", hold_outputs=True, checkpointing=True)),
    ("gpt2", AMP),
    ("opt", replace(BASE, dtype="float32")),
    ("mixtral", replace(BASE, lora=LoraConfig(r=4, target_modules=("q_proj", "v_proj")))),
    ("bloom", replace(AMP, lora=LORA)),
    ("olmoe", replace(BASE, checkpointing=True)),
]


@pytest.mark.grid
@pytest.mark.parametrize(("name", "setup"), CASES)
@pytest.mark.parametrize("tied", [False, True])
def test_moments_are_those_of_a_trace(name: str, setup: TrainSetup, tied: bool) -> None:
    once = workload(name, setup, tie_word_embeddings=tied)
    made, asked = accumulated(traced(once)), several(once)
    assert made is not None
    assert made.regime.accumulates
    mine, real = (moments_with(one, asked) for one in (made, traced(asked)))
    assert largest(mine) == largest(real)
    assert mine.persistent_bytes == real.persistent_bytes
    assert mine.saved_activation_bytes == real.saved_activation_bytes


@pytest.mark.parametrize("trainer", ["trl-sft", "unsloth", "transformers", "loop"])
def test_of_a_trainer_s_loop(trainer: str) -> None:
    model = workload("llama", BASE).model
    setup = setup_for(model, trainer, "lora", batch_size=2, seq_len=64, accumulation=1)
    once = Workload(model=model, setup=nearest_traced(setup))
    made, asked = accumulated(traced(once)), several(once)
    assert made is not None
    mine, real = (moments_with(one, asked) for one in (made, traced(asked)))
    assert largest(mine) == largest(real)


@pytest.mark.parametrize("tied", [False, True])
def test_every_storage_is_born_where_a_trace_has_it(tied: bool) -> None:
    """What an allocator is asked for, in order, with all that is alive then."""
    once = workload("llama", replace(AMP, checkpointing=True), tie_word_embeddings=tied)
    made, asked = accumulated(traced(once)), several(once)
    assert made is not None

    def births(profile: Profile) -> list[tuple[int, int]]:
        sizes = [size.evaluate(2, 40, 1) for size in profile.sizes]
        born, alive, found = list[int](), 0, list[tuple[int, int]]()
        for event in events_of(Evaluation(profile, 0, asked.setup)):
            if event.birth is not None:
                born.append(sizes[event.birth.size])
                alive += born[-1]
                found.append((born[-1], alive))
            elif event.mark is None:
                alive -= born[event.dies]
        return [(size, live) for size, live in found if size > 4]

    assert births(made) == births(traced(asked))


@pytest.mark.parametrize("checkpointing", [True, False])
def test_folded_tapes_answer_for_any_depth(checkpointing: bool) -> None:
    """Without checkpoints the backward pass of the first layer asks for less than the others'."""
    setup = replace(BASE, lora=LORA, checkpointing=checkpointing)
    once = workload("llama", setup, num_hidden_layers=6)
    made = accumulated(compile_profile(once))
    assert made is not None
    assert made.layout is not None
    for layers in (6, 9):
        units = made.units(layers)
        assert units is not None
        deaths = [event.dies for event in made.tape.expand(units) if event.dies >= 0]
        assert len(deaths) == len(set(deaths))
        sized = workload("llama", once.setup, num_hidden_layers=layers)
        asked = several(replace(sized, setup=replace(once.setup, batch_size=3, seq_len=50)))
        mine = moments_with(replace(made, num_layers=layers), asked)
        assert largest(mine) == largest(moments_with(traced(asked), asked))


def test_a_tape_with_one_step_makes_none() -> None:
    once = traced(workload("llama", BASE))
    (run,) = once.tape.runs
    events = run.blocks[0]
    cut = next(i for i, event in enumerate(events) if getattr(event, "step", 0) == 2)
    short = once.tape._replace(runs=(run._replace(blocks=(events[:cut],)),))
    assert accumulated(replace(once, tape_source=short)) is None
