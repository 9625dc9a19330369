"""Nothing is traced in silence: about how long it takes, a line now and then, what is quicker, and
a clean end by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands import Run
from families import TINY_BLOOM
from lora_profiler.memory.compiled.evaluation import forget
from lora_profiler.report import progress
from lora_profiler.trace.watch import (
    ADAPTED_LAYER_SECONDS,
    LAYER_SECONDS,
    EndedTrace,
    Size,
    TracingEffort,
)
from lora_profiler.units import about_text


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bloom") / "bloom.json"
    path.write_text(json.dumps(TINY_BLOOM))
    return str(path)


@pytest.fixture
def config(bloom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its traces are made once for all tests."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tracing import share_traces

    share_traces(monkeypatch)
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lora_profiler.trace._refused", set())
    monkeypatch.setattr("lora_profiler.trace.watch._ENDED", {})
    forget()
    return bloom


# --- how long -------------------------------------------------------------------------------------


def test_before_the_first_trace_layers_are_counted() -> None:
    sizes = [Size(4), Size(30)]
    assert TracingEffort([], sizes, adapted=False).seconds_left() == pytest.approx(
        34 * LAYER_SECONDS
    )
    assert TracingEffort([], sizes, adapted=True).seconds_left() == pytest.approx(
        34 * ADAPTED_LAYER_SECONDS
    )


def test_then_traces_that_ended_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(
        "lora_profiler.trace.watch.time", SimpleNamespace(monotonic=lambda: clock[0])
    )
    effort = TracingEffort([], [Size(4), Size(4), Size(40)], adapted=False)
    for tokens, seconds in ((64, 9.0), (96, 2.0)):  # the first one loads libraries
        effort.begin()
        clock[0] += seconds
        effort.end(Size(4, tokens), 1000)
    assert effort.seconds_left() == pytest.approx(20.0)
    effort.begin()
    clock[0] += 15.0
    assert effort.seconds_left() == pytest.approx(5.0)
    clock[0] += 15.0
    assert effort.seconds_left() == 0.0
    effort.end(Size(40, 64), 10_000)
    assert effort.seconds_left() == 0.0


def test_code_that_goes_over_tokens_in_a_loop_takes_longer_with_more_of_them() -> None:
    ended = [
        EndedTrace(Size(4, tokens), 4 * (100 + 2 * tokens), 0.4 + 0.008 * tokens)
        for tokens in (40, 60, 90, 130)
    ]
    assert TracingEffort(ended, [Size(64, 2048)], adapted=False).seconds_left() == pytest.approx(
        64 * 0.1 + 64 * 0.002 * 2048
    )
    assert TracingEffort(ended, [Size(4)], adapted=False).seconds_left() == pytest.approx(
        0.4 + 0.008 * 80
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "some seconds"),
        (7, "some seconds"),
        (8, "about 10 s"),
        (24, "about 20 s"),
        (54, "about 50 s"),
        (55, "about a minute"),
        (89, "about a minute"),
        (91, "about 2 min"),
        (250, "about 4 min"),
        (580, "about 10 min"),
        (941, "about 15 min"),
        (3600, "about an hour"),
        (7100, "about 2 hours"),
    ],
)
def test_what_is_roughly_known_is_said_roughly(seconds: float, words: str) -> None:
    assert about_text(seconds) == words


# --- on the command line --------------------------------------------------------------------------


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trace takes a quarter of a second more, and a line is due ten times a second."""
    from lora_profiler.trace import compiler, single_size

    def slow(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.25)
        return real(*arguments, **more)

    real = compiler.trace
    monkeypatch.setattr(compiler, "trace", slow)
    monkeypatch.setattr(single_size, "trace", slow)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0.1)


@pytest.mark.usefixtures("no_estimates")
@pytest.mark.parametrize("engine", ["auto", "traced"])
def test_auto_and_traced_say_how_long_before_and_while_they_trace(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    slowly(monkeypatch)
    options = f"--method full -s 64 --engine {engine} --format json"
    done = run("predict", config, *options.split())
    assert done.exit_code == 0
    assert json.loads(done.stdout)["predictions"]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(events) > 3 and {e["phase"] for e in events} == {"tracing bloom, full, one sample"}
    assert all(e["of"] == 1 and e["left_s"] >= 0 for e in events)
    assert not [thread for thread in threading.enumerate() if thread.name == progress.THREAD]


def test_compile_counts_its_profiles(run: Run, config: str) -> None:
    done = run("compile", config, "--method", "full", "--format", "json")
    assert json.loads(done.stdout)["profiles"]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    begun = dict.fromkeys((e["phase"], e["done"], e["of"]) for e in events)
    assert list(begun) == [
        ("tracing bloom, full, one sample", 0, 1),
        ("tracing bloom, full, several samples", 1, 2),
    ]


@pytest.mark.usefixtures("no_estimates")
def test_a_long_wait_names_what_is_quicker_once(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_profiler.trace.watch.LAYER_SECONDS", 4.0)
    done = run("predict", config, "--method", "full", "--gpu", "rtx_4090", "-s", "64")
    words = "Tracing takes about 2 min (--engine analytic answers at once"
    assert done.stderr.count(words) == 1 and done.stderr.index(words) < done.stderr.index("{")


def test_ctrl_c_while_it_traces_ends_with_130_and_one_word(config: str) -> None:
    code = (
        "import lora_profiler.trace.compiler as c, time; real = c.trace\n"
        "def slow(*a, **m):\n    print('now', flush=True); time.sleep(2); return real(*a, **m)\n"
        "c.trace = slow\nfrom lora_profiler.cli.main import main; import sys; main(sys.argv[1:])"
    )
    options = "-s 64 --engine traced --format json"
    command = [sys.executable, "-c", code, config, *options.split()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.endswith("Interrupted.\n")
    assert not out.replace("now\n", "")
