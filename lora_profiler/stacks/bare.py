"""The step that the rules are written for, and the loop that most people write themselves."""

from lora_profiler.stacks.stack import METHODS, Options, Packing, Stack
from lora_profiler.stacks.transformers_trainer import ALIASES
from lora_profiler.workload import Method

_NOTHING: dict[Method, Options] = {method: {} for method in METHODS}

VERSIONS = (
    Stack(
        name="bare",
        library="",
        version="",
        call="a bare loop",
        about=(
            "The options' own defaults: loss.backward() and optimizer.step() with nothing of the"
            " model's output kept.",
        ),
        defaults=_NOTHING,
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=("no output: the logits die in backward",),
    ),
    Stack(
        name="loop",
        library="",
        version="",
        call="a loop that holds its output",
        about=("As bare, in a loop that writes out = model(...) and keeps out through the step.",),
        defaults={method: {"hold_outputs": True} for method in METHODS},
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=(
            "the logits, through backward and the optimizer step, until the next forward pass has"
            " returned",
        ),
    ),
)
