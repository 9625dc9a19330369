"""The last step of a replay is left out where it can only repeat the one before: with the same
answers as a replay of all of it."""

import random
from dataclasses import dataclass, field

import pytest

from commands import THE_BUNDLE
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
from lora_profiler.memory.compiled import allocator as trials
from lora_profiler.memory.compiled import library
from lora_profiler.memory.compiled.allocator import GRAIN, Allocator, Trials, replay
from lora_profiler.memory.compiled.evaluation import forget
from lora_profiler.memory.compiled.requests import requests_for
from lora_profiler.units import KIB, MIB

SIZES = (0, 700, 64 * KIB, MIB, 3 * MIB, 9 * MIB, 12 * MIB, 25 * MIB)


@dataclass
class Steps:
    """Weights, and then steps of one shape: sizes and events as of `replay`."""

    sizes: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    def take(self, size: int) -> int:
        self.events.append(len(self.sizes))
        self.sizes.append(size)
        return len(self.sizes) - 1

    def give(self, number: int) -> None:
        self.events.append(~number)

    def step(self, seed: int, before: list[int]) -> list[int]:
        """One step, which gives back what the step before it left, and leaves as many storages."""
        chance = random.Random(seed)
        before, live = before.copy(), list[int]()
        for _ in range(chance.randint(5, 40)):
            if live and chance.random() < 0.45:
                self.give(live.pop(chance.randrange(len(live))))
            elif before and chance.random() < 0.2:
                self.give(before.pop())
            else:
                live.append(self.take(chance.choice(SIZES) * chance.randint(1, 3)))
        left = [live.pop(), live.pop()] if len(live) > 1 else [self.take(MIB), self.take(3 * MIB)]
        for number in (*before, *live):
            self.give(number)
        return left


def three_steps(seed: int) -> tuple[list[int], list[int], int]:
    """Sizes, events, and from which event on the last step is there once more."""
    steps = Steps()
    for size in random.Random(seed).choices((MIB, 5 * MIB, 30 * MIB), k=4):
        steps.take(size)
    second = steps.step(seed, [steps.take(MIB), steps.take(3 * MIB)])
    third = steps.step(seed, second)
    again = len(steps.events)
    steps.step(seed, third)
    return steps.sizes, steps.events, again


@pytest.fixture
def served(monkeypatch) -> list[int]:
    """The events that allocators were given, as they come."""
    counted = [0]
    serve = trials._serve

    def counting(allocator, sizes, events, blocks, out_of, at, end):
        stopped = serve(allocator, sizes, events, blocks, out_of, at, end)
        counted[0] += stopped - at
        return stopped

    monkeypatch.setattr(trials, "_serve", counting)
    return counted


def blocks_of(sizes: list[int], events: list[int]) -> list[int]:
    """The block of every storage in a replay of all events."""
    allocator, blocks = Allocator(), [0] * len(sizes)
    for event in events:
        if event >= 0:
            blocks[event] = allocator.allocate(sizes[event]) if sizes[event] else 0
        elif blocks[~event]:
            allocator.free(blocks[~event])
    return blocks


def test_a_step_is_left_out_where_it_takes_the_blocks_of_the_one_before(served):
    left_out = same = 0
    for seed in range(4000):
        sizes, events, again = three_steps(seed)
        served[0] = 0
        of_all = Trials(sizes, events, again)
        assert of_all.completes(1 << 40)
        blocks, begin = blocks_of(sizes, events), 2 * again - len(events)
        taken = [
            [blocks[event] for event in step if event >= 0]
            for step in (events[begin:again], events[again:])
        ]
        same += taken[0] == taken[1]
        if served[0] < len(events):
            left_out += 1
            assert taken[0] == taken[1], seed
        assert of_all.completes(replay(sizes, events).reserved_bytes), seed
    assert 0.9 * same < left_out <= same < 3900, (left_out, same)


def test_a_step_left_out_changes_no_answer():
    for seed in range(300):
        sizes, events, again = three_steps(seed)
        reserved = replay(sizes, events).reserved_bytes
        for capacity in (reserved, *range(reserved - GRAIN, reserved - 30 * GRAIN, -3 * GRAIN)):
            with_all = Trials(sizes, events).completes(capacity)
            assert Trials(sizes, events, again).completes(capacity) == with_all, (seed, capacity)
        least = Trials(sizes, events, again).smallest_capacity()
        assert least == Trials(sizes, events).smallest_capacity(), seed


@pytest.mark.parametrize("lora", [None, LoraConfig()], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M"])
def test_steps_of_models_are_left_out(served, monkeypatch, name, lora):
    monkeypatch.setattr(library, "BUNDLED", THE_BUNDLE)
    forget()
    setup = TrainSetup(lora=lora, seq_len=512)
    asked = requests_for(Workload(model=find_model(name), setup=setup))
    forget()
    assert asked is not None and asked.again is not None
    reserved = replay(asked.sizes, asked.events).reserved_bytes
    assert Trials(*asked).completes(reserved)
    assert served[0] == asked.again
    for capacity in range(reserved - GRAIN, reserved - 60 * GRAIN, -6 * GRAIN):
        whole = Trials(asked.sizes, asked.events)
        assert Trials(*asked).completes(capacity) == whole.completes(capacity)
