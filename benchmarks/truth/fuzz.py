"""Random questions to `lora-profile predict`, hostile ones among them: every answer adds up, every
refusal is one.

    python -m benchmarks.truth.fuzz [--calls N] [--processes N] [--seed N]

About ten minutes; needs no torch. Calls are made without a process of their own, by the same
function that the command calls; where one is answered, a second varies one thing: a size that
rises, or the engine. Most leave out what takes the time of an answer in JSON: the allocator's
replay, the layers and the levers. Then whole processes are started, which leave out nothing. torch
is hidden, so that nothing is traced. Prints what was asked and every bad answer, and ends with 1
where one was bad.

Of each: no traceback; an exit code of the contract, 1 only where a card was named; a refusal says
why and prints nothing; an answer is strict JSON, categories add up, the peak is the largest steady
moment. Of second calls: no peak falls where a size rises, and engines agree where both are exact.
"""

import io
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from benchmarks.pages import parser_of
from benchmarks.truth.fuzz_questions import question, raised, with_engine

ROOT = Path(__file__).parents[2]
EXIT_CODES = (0, 1, 2, 3)
"""Of the contract; 4 would be a measurement."""
LONGEST_SECONDS = 20.0
"""A process that takes longer is a bad answer."""
CHUNK = 100
"""Calls of one die; chunks are dealt out to processes, and their questions are the same whichever
takes them."""
WHOLE_EVERY = 20
"""One call of so many is answered in full."""
AS_A_USER = """
import sys
sys.modules["torch"] = None
from lora_profiler.__main__ import main
main()
"""


@dataclass(slots=True)
class Answer:
    """What a call ended with. `document` is what it printed, None where it was refused; `bad` says
    what is wrong with it."""

    arguments: list[str]
    code: int
    seconds: float
    document: dict[str, Any] | None = None
    bad: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, list[str]]] = field(default_factory=list)
    longest: dict[str, float] = field(default_factory=dict)

    def take(self, kind: str, answer: Answer) -> None:
        self.counts[f"{kind}, exit code {answer.code}"] += 1
        self.longest[kind] = max(self.longest.get(kind, 0.0), answer.seconds)
        for what in answer.bad:
            self.bad.append((what, answer.arguments))

    def add(self, other: "Tally") -> None:
        self.counts += other.counts
        self.bad += other.bad
        self.longest |= {
            kind: max(took, self.longest.get(kind, 0.0)) for kind, took in other.longest.items()
        }


# --- answers --------------------------------------------------------------------------------------


@contextmanager
def brief(is_brief: bool) -> Iterator[None]:
    """Inside, an answer leaves out what is worked out for JSON alone."""
    from lora_profiler.memory.prediction import Prediction
    from lora_profiler.planning import answers

    if not is_brief:
        yield
        return
    with ExitStack() as patches:
        for name, nothing in (("device_memory", None), ("layers", ())):
            patches.enter_context(patch.object(Prediction, name, nothing))
        patches.enter_context(patch.object(answers, "every_lever", lambda *asked, **options: ()))
        yield


def called(arguments: list[str]) -> Answer:
    """The command in this process, with JSON."""
    from lora_profiler.cli.click_support import run
    from lora_profiler.cli.main import root

    out, err = io.StringIO(), io.StringIO()
    words = [arguments[0], "--full", "--format", "json", *arguments[1:]]
    began, code, bad = time.monotonic(), -1, []
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run(root, words, "lora-profile")
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else -1
    except Exception as e:
        bad.append(f"traceback: {type(e).__name__}: {str(e)[:120]}")
    answer = Answer(arguments, code, time.monotonic() - began, bad=bad)
    if not bad:
        read(answer, out.getvalue(), err.getvalue())
    return answer


def started(arguments: list[str]) -> Answer:
    """The command as a process of its own."""
    command = [
        sys.executable,
        "-c",
        AS_A_USER,
        arguments[0],
        "--full",
        "--format",
        "json",
        *arguments[1:],
    ]
    if any("\x00" in word for word in command):  # which no system passes on
        return called(arguments)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, env=env, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        return Answer(
            arguments, -1, LONGEST_SECONDS, bad=[f"not over after {LONGEST_SECONDS:.0f} s"]
        )
    answer = Answer(arguments, done.returncode, time.monotonic() - began)
    read(answer, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
    return answer


def read(answer: Answer, out: str, err: str) -> None:
    """Notes what is wrong with the exit code, the streams and the document."""
    if answer.code not in EXIT_CODES:
        answer.bad.append(f"exit code {answer.code}")
    if "Traceback" in err:
        answer.bad.append(f"traceback: {err.strip().splitlines()[-1][:120]}")
    if answer.code == 1 and "--gpu" not in answer.arguments:
        answer.bad.append("exit code 1 without a card")
    if answer.code > 1:
        answer.bad += ["a refusal with output"] if out else []
        answer.bad += [] if "error: " in err else ["a refusal without a reason"]
        return
    try:
        answer.document = json.loads(out, parse_constant=_no_number)
    except ValueError as e:
        answer.bad.append(f"not JSON: {e}")
        return
    for prediction in answer.document["predictions"]:
        answer.bad += wrong(prediction)


def wrong(prediction: dict[str, Any]) -> Iterator[str]:
    for moment in prediction["moments"]:
        if (
            sum(moment["bytes"].values()) != moment["total_bytes"]
            or min(moment["bytes"].values()) < 0
        ):
            yield f"categories of {moment['moment']} do not add up"
    steady = [m["total_bytes"] for m in prediction["moments"] if m["step"] == "steady"]
    if max(steady) != prediction["peak"]["total_bytes"]:
        yield "the peak is not the largest steady moment"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def peaks(answer: Answer) -> list[int]:
    assert answer.document is not None
    return [prediction["peak"]["total_bytes"] for prediction in answer.document["predictions"]]


def compare_sizes(first: Answer, size: str, second: Answer) -> int:
    """How many peaks could be compared; a fall is a bad answer of the second."""
    methods = [prediction["setup"]["method"] for prediction in first.document["predictions"]]  # type: ignore[index]
    engines = [
        [prediction["engine"] for prediction in each.document["predictions"]]
        for each in (first, second)
    ]  # type: ignore[index]
    compared = 0
    for method, before, after, was, now in zip(
        methods, peaks(first), peaks(second), *engines, strict=True
    ):
        if was == now:
            compared += 1
            if after < before:
                second.bad.append(
                    f"the {method} peak falls from {before:,} to {after:,} as {size} rises"
                )
    return compared


def compare_engines(analytic: Answer, compiled: Answer) -> int:
    """How many predictions both call exact; a difference is a bad answer of the second."""
    pairs = zip(analytic.document["predictions"], compiled.document["predictions"], strict=True)  # type: ignore[index]
    both = [pair for pair in pairs if {prediction["exactness"] for prediction in pair} == {"exact"}]
    for one, other in both:
        if one["peak"]["total_bytes"] != other["peak"]["total_bytes"]:
            compiled.bad.append(
                f"exact peaks: analytic {one['peak']['total_bytes']:,}, compiled"
                f" {other['peak']['total_bytes']:,}"
            )
    return len(both)


# --- the run --------------------------------------------------------------------------------------


def chunk(seed: str, calls: int, whole: bool) -> Tally:
    """`calls` questions of one die, each with a second one."""
    from lora_profiler.facts.catalog import bundled_models

    models = [model.id for model in bundled_models()]
    dice, tally = random.Random(seed), Tally()
    for number in range(calls):
        if whole:
            tally.take("processes", started(question(dice, models)))
            continue
        with brief(number % WHOLE_EVERY != 0):
            arguments = question(dice, models)
            first = called(arguments)
            tally.take("calls", first)
            if first.document is not None:
                tally.counts["moments whose categories were added"] += sum(
                    len(p["moments"]) for p in first.document["predictions"]
                )
                vary(first, dice, tally)
    return tally


def vary(first: Answer, dice: random.Random, tally: Tally) -> None:
    """A second call, with a larger size; or two, with each engine."""
    varied = raised(first.arguments, dice)
    if dice.random() < 0.3:
        seconds = [
            called(with_engine(first.arguments, engine)) for engine in ("analytic", "compiled")
        ]
        if seconds[0].document and seconds[1].document:
            tally.counts["predictions that both engines call exact"] += compare_engines(*seconds)
    else:
        seconds = [called(varied[0])] if varied else []
        if varied and seconds[0].document:
            tally.counts["peaks at a larger size"] += compare_sizes(first, varied[1], seconds[0])
    for second in seconds:
        tally.take("second calls", second)


def run(calls: int, processes: int, seed: int) -> Tally:
    """All of it, dealt out to as many processes as there are processors."""
    tally = Tally()
    chunks = [
        (f"{seed}:{start}", min(CHUNK, calls - start), False) for start in range(0, calls, CHUNK)
    ]
    chunks += [
        (f"{seed}:processes:{start}", min(CHUNK, processes - start), True)
        for start in range(0, processes, CHUNK)
    ]
    with ProcessPoolExecutor(os.cpu_count(), initializer=hide_torch) as pool:
        for number, found in enumerate(pool.map(chunk, *zip(*chunks, strict=True)), 1):
            tally.add(found)
            print(
                f"{number} of {len(chunks)} chunks, {len(tally.bad)} bad answers",
                file=sys.stderr,
                flush=True,
            )
    return tally


def hide_torch() -> None:
    """Whatever asks for it finds none, so that nothing is traced."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def main() -> None:
    options = parser_of(__doc__, calls=4000, processes=200, seed=0).parse_args()
    tally = run(options.calls, options.processes, options.seed)
    lines = [f"{count:,} {name}" for name, count in sorted(tally.counts.items())]
    lines += [f"longest of the {kind}: {took:.1f} s" for kind, took in tally.longest.items()]
    lines += [f"bad: {what}: {shlex.join(asked)[:300]!a}" for what, asked in tally.bad]
    print("\n".join(lines))
    sys.exit(1 if tally.bad else 0)


if __name__ == "__main__":
    main()
