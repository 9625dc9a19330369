"""Verdicts at the boundary against rehearsals: whether torch runs out of memory where they say.

    python -m benchmarks.rehearsed.boundary --python PYTHON [--seconds N] [--anew | --again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes. For
each seeded question the largest micro-batch that `fits` a pretended card and the first that does
not are trained for STEPS steps of the harness over that build: torch runs out of memory, or does
not. For each question of a second part the smallest of the catalogue's memory sizes that fits, and
the next smaller one. The pretended card gives the allocator what the verdict reckons with: the
card's usable bytes less the driver's context, which no rehearsal has. Appends to
`results/boundary.jsonl` and writes `results/boundary.md`; what is there is not run again, but with
--anew where something else is foretold today. --again writes the page only. Rows hold no times.
"""

import json
import random
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.pages import RESULTS, page_of, table
from benchmarks.questions import drawn_models, drawn_setup, workload_on
from benchmarks.rehearsed.forked import ForkedRehearsals
from benchmarks.rows import Row, read_rows
from benchmarks.runner import Asked, Rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu, bundled_gpus, find_gpu
from lora_profiler.measuring.records.serialize import setup_dict, setup_from_dict
from lora_profiler.planning.engine import on_card, predict
from lora_profiler.planning.fit import Fit, fit
from lora_profiler.planning.reserve import Judged, held_bytes, usable_bytes
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.units import GIB

PATH = RESULTS / "boundary.jsonl"
SEED, PAIRS, CARDS_ASKED = 31, 300, 110
STEPS = 3
BUNDLED_SINCE = (
    *("google/gemma-3-270m", "google/flan-t5-small", "google/mt5-small", "google/mt5-base"),
    *(f"FacebookAI/{name}" for name in ("roberta-large", "xlm-roberta-base", "xlm-roberta-large")),
    *(f"openai/whisper-{size}" for size in ("tiny", "base", "small")),
)
"""Small models that the catalogue did not have when the questions were drawn."""
MOST_PARAMETERS, MOST_CARD_PARAMETERS = 400_000_000, 700_000_000
MOST_BATCH = 300
CARDS = ("a10", "h100_sxm_80gb")
MEMORY_GIB = (3, 4, 6, 8, 10, 12, 16, 24)


@dataclass(frozen=True)
class Question:
    """`kind` "batch": the largest micro-batch on `card` with `memory_bytes`; "card": the smallest
    memory."""

    kind: str
    model: str
    setup: TrainSetup
    card: str
    memory_bytes: int

    def key(self) -> str:
        return json.dumps(
            [self.kind, self.model, setup_dict(self.setup), self.card, self.memory_bytes],
            sort_keys=True,
        )


def questions() -> Iterator[Question]:
    """Of batches and of cards in turn, so that any beginning holds both."""
    draw, other = random.Random(SEED), random.Random(SEED + 1)
    models = [m for m in drawn_models() if m.id not in BUNDLED_SINCE]
    small = [m.id for m in models if m.num_parameters <= MOST_PARAMETERS]
    larger = [m.id for m in models if m.num_parameters <= MOST_CARD_PARAMETERS]
    for number in range(PAIRS):
        memory = draw.choice(MEMORY_GIB) * GIB
        yield Question("batch", draw.choice(small), _setup(draw), draw.choice(CARDS), memory)
        if number < CARDS_ASKED:
            batch = other.choice((2, 3, 4, 6, 8, 12))
            model, setup = other.choice(larger), replace(_setup(other), batch_size=batch)
            yield Question("card", model, setup, "a10", 0)


def _setup(draw: random.Random) -> TrainSetup:
    return drawn_setup(draw, (128, 256, 512, 1024), ("foreach", "foreach", "fused"))


def pretended_card(question: Question) -> Gpu:
    """The card of a question with the memory that it is given."""
    return replace(find_gpu(question.card), memory_bytes_usable=question.memory_bytes)


def workload(question: Question, torch: str) -> Workload:
    return workload_on(question.model, question.setup, question.card, torch)


def foretold(question: Question, torch: str) -> dict[str, Any]:
    """What we say, and what is to be rehearsed of it: `tries` with the bytes that the allocator may
    have and whether it is said to do."""
    try:
        asked = workload(question, torch)
        longest = asked.model.trained_length
        if longest and question.setup.seq_len > longest:
            return {"refused": f"made for {longest} tokens"}
        if question.kind == "card":
            return _smallest(asked)
        return _largest(asked, pretended_card(question))
    except LoraProfilerError as error:
        return {"refused": str(error)[:200]}


def _largest(asked: Workload, card: Gpu) -> dict[str, Any]:
    answer = _fit(asked, card)
    if answer is None or answer.largest_batch_size is None:
        return {"refused": "nobody knows"}
    best = answer.largest_batch_size
    if not 1 <= best <= MOST_BATCH:
        return {"refused": "no batch" if not best else "too many samples to rehearse quickly"}
    judged = {batch: _judged(asked, batch, card) for batch in (best, best + 1)}
    room = usable_bytes(card) - answer.judged.bound.context_bytes
    return {
        "is_simulated": judged[best].has_tape,
        "tries": [
            {"batch_size": batch, "room_bytes": room, "verdict": of.verdict}
            for batch, of in judged.items()
        ],
    }


def _judged(asked: Workload, batch: int, card: Gpu) -> Judged:
    other = on_card(replace(asked, setup=replace(asked.setup, batch_size=batch)), card)
    answer = predict(other, may_trace=False)
    peak, held = answer.peak.total_bytes, held_bytes(answer)
    return Judged(other, peak, usable_bytes(card), card, held=held)


def _fit(asked: Workload, card: Gpu) -> Fit | None:
    """By what is bundled: nothing is traced."""
    on_it = on_card(asked, card)
    return fit(on_it, card, prediction=predict(on_it, may_trace=False))


def _smallest(asked: Workload) -> dict[str, Any]:
    prediction = predict(asked, may_trace=False)
    if prediction.saved_activation_bytes is None:
        return {"refused": "nobody knows"}
    peak = prediction.peak.total_bytes
    tries: list[dict[str, Any]] = []
    simulated = False
    for usable, card in memory_sizes():
        judged = Judged(asked, peak, usable, card, held=held_bytes(prediction))
        room = usable - judged.bound.context_bytes
        tries.append(
            {"batch_size": asked.setup.batch_size, "room_bytes": room, "verdict": judged.verdict}
        )
        simulated = judged.has_tape
        if judged.verdict == "fits":
            break
    return {"is_simulated": simulated, "tries": tries[-2:]}


def memory_sizes() -> list[tuple[int, Gpu]]:
    """Usable bytes of the catalogue's cards of compute capability 8.6, and those that are sold with
    less, the smallest first: one card each."""
    by_size = {
        card.usable_bytes: card
        for card in bundled_gpus()
        if card.vendor == "nvidia" and card.usable_bytes and card.usable_bytes < 50 * GIB
    }
    base = find_gpu("a10")
    sizes = [(size, base) for size in (GIB, 2 * GIB, 3 * GIB, 4 * GIB, 6 * GIB)]
    sizes += [(size, base) for size in by_size]
    return sorted(sizes, key=lambda pair: pair[0])


def rehearsed(
    question: Question, said: Mapping[str, Any], rehearsals: ForkedRehearsals
) -> dict[str, Any]:
    results = []
    for tried in said["tries"]:
        setup = replace(question.setup, batch_size=tried["batch_size"])
        asked = replace(workload(question, rehearsals.torch), setup=setup)
        results.append(rehearsals.run(question.card, asked, tried["room_bytes"], STEPS))
    return {"rehearsed": results}


def latest_rows() -> list[dict[str, Any]]:
    """Of several rows of a question the last."""
    return list({question_of(row).key(): row for row in read_rows(PATH)}.values())


def question_of(row: Mapping[str, Any]) -> Question:
    return Question(
        row["kind"], row["model"], setup_from_dict(row["setup"]), row["card"], row["memory_bytes"]
    )


def said_alike(row: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    return all(row.get(name) == said.get(name) for name in ("refused", "is_simulated", "tries"))


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    known = {question_of(row).key(): row for row in latest_rows()}
    with ForkedRehearsals(options.python) as rehearsals:

        def made(question: Question) -> dict[str, Any]:
            row: dict[str, Any] = {
                "kind": question.kind,
                "model": question.model,
                "setup": setup_dict(question.setup),
                "card": question.card,
                "memory_bytes": question.memory_bytes,
                "torch": rehearsals.torch,
            }
            row |= foretold(question, rehearsals.torch)
            return row if "refused" in row else row | rehearsed(question, row, rehearsals)

        def is_open(question: Question) -> bool:
            row = known.get(question.key())
            return row is None or (
                options.anew and not said_alike(row, foretold(question, row["torch"]))
            )

        yield ((each.key(), each) for each in questions() if is_open(each)), made


# --- the page -------------------------------------------------------------------------------------


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    ran = [row for row in rows if outcomes(row)]
    simulated = [row for row in ran if row["is_simulated"]]
    groups = {
        "by the simulated allocator": simulated,
        "- largest batch and one more": _of(simulated, "batch"),
        "- smallest card and the next smaller": _of(simulated, "card"),
        "by the bound, where no tape is at hand": [row for row in ran if not row["is_simulated"]],
    }
    for method in ("full", "lora", "qlora"):
        of_method = [r for r in simulated if setup_from_dict(r["setup"]).method == method]
        groups[f"simulated: {method}"] = of_method
    smallest = [row for row in _of(simulated, "card") if len(outcomes(row)) == 2]
    right = sum(all(is_right(*outcome) for outcome in outcomes(row)) for row in smallest)
    wrong = [
        _wrong(row, tried, result)
        for row in simulated
        for tried, result in zip(row["tries"], row["rehearsed"], strict=True)
        if not is_right(tried["verdict"], result["status"])
    ]
    of_wrong = table("model | options | card | >batch | >room, GiB | said | rehearsed", wrong)
    return page_of(
        "Verdicts at the boundary, and rehearsals",
        f"`python -m benchmarks.rehearsed.boundary`: {len(rows)} of {PAIRS + CARDS_ASKED} seeded "
        f"questions so far, {sum('refused' in row for row in rows)} of which are refused before "
        "they run: nobody knows the step, no batch fits, or too many. Each try is trained for "
        f"{STEPS} steps of the harness over the real CUDA build of torch, on a pretended card "
        "whose allocator may have the card's bytes less the driver's context. Rehearsed, not "
        "measured. A false `fits` runs out of memory; a false refusal, `tight` or `does_not_fit`, "
        "goes through.",
        table(
            " | >questions | >tries | >`fits` | >false | >refused | >false",
            ((name, len(group), *counts(group)) for name, group in groups.items()),
        ),
        f"The smallest card that fits, found by the simulation, is the smallest that really "
        f"completes in {right} of {len(smallest)}.",
        *(("Where the simulation was wrong:", of_wrong) if wrong else ()),
    )


def outcomes(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(verdict, what the rehearsal came to) of each try; none where one ended otherwise."""
    if "refused" in row or any(result["status"] == "error" for result in row["rehearsed"]):
        return []
    return [
        (tried["verdict"], result["status"])
        for tried, result in zip(row["tries"], row["rehearsed"], strict=True)
    ]


def is_right(verdict: str, status: str) -> bool:
    return (verdict == "fits") == (status == "done")


def counts(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int, int, int, int]:
    """Tries, those that fit, false ones, those refused, false ones."""
    tried = [outcome for row in rows for outcome in outcomes(row)]
    fitting = [o for o in tried if o[0] == "fits"]
    refused = [o for o in tried if o[0] != "fits"]
    wrong = [sum(not is_right(*o) for o in group) for group in (fitting, refused)]
    return len(tried), len(fitting), wrong[0], len(refused), wrong[1]


def _of(rows: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


def _wrong(row: Row, tried: Row, result: Row) -> tuple[object, ...]:
    setup = setup_from_dict(row["setup"])
    options = [setup.method, f"{setup.seq_len} tokens", setup.optimizer_impl]
    options += ["checkpointing"] if setup.checkpointing else []
    room = f"{tried['room_bytes'] / GIB:,.2f}"
    ended = f"{result['status']} in {result['where']}"
    where = (row["card"], tried["batch_size"], room)
    return row["model"], ", ".join(options), *where, tried["verdict"], ended


BENCHMARK = Rows(
    text=__doc__,
    name="boundary",
    page=lambda rows: page(latest_rows()),
    key=lambda row: None,  # `asked` says what is known
)

if __name__ == "__main__":
    BENCHMARK.main(asked, anew={"action": "store_true"})
