"""Categories by lifetime, worked out by hand: the one definition of traces and measurements."""

import pytest

from lora_profiler.memory.attribution import LOGITS, LOGITS_GRADIENT, Lifetimes, PhaseMark, spans_of
from lora_profiler.memory.prediction import Category

END = 80
MARKS = [
    PhaseMark(position=0, step=1, phase="setup"),
    PhaseMark(position=10, step=1, phase="forward"),
    PhaseMark(position=18, step=1, phase="forward", note=LOGITS),
    PhaseMark(position=20, step=1, phase="loss"),
    PhaseMark(position=30, step=1, phase="backward"),
    PhaseMark(position=35, step=1, phase="backward", note=LOGITS_GRADIENT),
    PhaseMark(position=40, step=1, phase="optimizer"),
    PhaseMark(position=50, step=1, phase="zero"),
    PhaseMark(position=60, step=2, phase="forward"),
]


@pytest.mark.parametrize(
    ("born", "died", "category"),
    [
        (-1, None, "unattributed"),  # there before the first mark, and nobody's
        (5, 70, "inputs"),
        (12, 30, "temporaries"),  # gone when backward begins
        (12, 31, "activations"),
        (19, None, "activations"),  # a note begins no phase
        (20, 21, "logits_and_loss"),
        (34, 36, "logits_and_loss"),
        (35, 36, "temporaries"),
        (35, 40, "temporaries"),
        (35, 41, "activations"),  # outlives backward, and is no parameter's gradient
        (45, None, "temporaries"),
        (55, 58, "temporaries"),
        (61, 79, "temporaries"),  # no backward follows that it could live into
        (61, None, "activations"),
    ],
)
def test_a_lifetime_has_one_category(born: int, died: int | None, category: Category) -> None:
    assert Lifetimes(spans_of(MARKS, END)).category(born, died) == category


@pytest.mark.parametrize(
    ("died", "category"),
    [(None, "communication"), (61, "communication"), (60, "activations"), (30, "temporaries")],
)
def test_what_forward_leaves_to_the_next_step_is_ddps(died: int | None, category: Category) -> None:
    assert Lifetimes(spans_of(MARKS, END), has_buckets=True).category(12, died) == category


def test_spans_follow_each_other_and_end_with_the_tape() -> None:
    spans = spans_of(MARKS, END)
    assert [(s.start, s.stop) for s in spans] == [
        (0, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 60), (60, END),
    ]  # fmt: skip
    assert [s.loss_end for s in spans if s.phase == "backward"] == [35]
