"""Our own columns: the command as a user types it, and the replay of the libraries that ran."""

from collections.abc import Sequence
from typing import Any

from benchmarks.pages import read_document
from benchmarks.public.command import predicted
from benchmarks.public.conditions import CARDS
from benchmarks.public.league.questions import QUANTITIES, Question, peak_rows
from benchmarks.public.typed import as_typed

COMMAND, REPLAY = "lora-profile, as typed", "lora-profiler, replay"


def command_answers(asked: Sequence[Question]) -> list[dict[str, Any]]:
    """The steady peak that tensors ask for; reserved: that and the card's reserve without the
    context. Each with the words behind `lora-profile`, and how well these describe the run."""
    rows = {(row["id"], QUANTITIES[row["quantity"]]): row for row in peak_rows()}
    return [_command_answer(question, rows[question.id, question.quantity]) for question in asked]


def _command_answer(question: Question, row: dict[str, str]) -> dict[str, Any]:
    typed = as_typed(row)
    words = typed.words
    if question.quantity == "reserved":
        words += ("--gpu", CARDS[question.card])
    said = {"words": " ".join(words), "described": typed.description}
    answer = predicted(words)
    if isinstance(answer, str):
        return {"refused": answer, **said}
    if answer["saved_activation_bytes"] is None:
        return {"refused": "a lower bound, which says so: activations not known", **said}
    peak = answer["peak"]["total_bytes"]
    if question.quantity == "reserved":
        reserve = answer["fit"]["reserve"]
        peak += reserve["workspace_bytes"] + reserve["fragmentation_bytes"]
    return {"bytes": peak, **said}


def replay_answers(asked: Sequence[Question]) -> list[dict[str, Any]]:
    """From the results that are committed; refused where they are no test, or have no answer."""
    document = read_document("public_accuracy")
    readings = {"allocated": "peak", "reserved": "reserved"}
    rows = {(row["id"], row["reading"]): row for row in document["rows"]}
    left_out = {name.partition(" ")[0]: why for name, why in document["left_out"].items()}
    found = []
    for question in asked:
        row = rows.get((question.id, readings[question.quantity]))
        if row is None:
            found.append({"refused": left_out[question.id]})
        elif question.apart:
            found.append({"refused": question.apart})
        else:
            found.append({"bytes": row["predicted_bytes"]})
    return found
