"""Tests see no profiles but those that they make: a user's own, or the package's, would answer in
place of the rules."""

import gc
import os
import signal
import socketserver
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import recording
import slow_tests
from commands import THE_BUNDLE, Done, Run
from golden_files import Golden
from lora_profiler.memory.analytic import plan
from lora_profiler.memory.analytic.families import by_modules
from lora_profiler.memory.compiled import evaluation, library

if TYPE_CHECKING:
    from lora_profiler.mathematics.subject import Subject

sys.path += sorted({str(path.parent) for path in Path(__file__).parent.glob("*/test_*.py")})
"""Tests of one room use what those of another have; pytest adds a folder when it comes to it."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
"""Hundreds of processes import the same modules."""

socketserver.BaseServer.handle_error = lambda self, request, client_address: None  # type: ignore[method-assign]
"""A client that left is no news, least of all in what another test reads of stderr."""

SHARE = 1 / 6
"""Of slow tests and of cells of grids, that a commit runs."""

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine that others use as well is no reason to fail."""
settings.register_profile("quick", patient, max_examples=25, derandomize=True)
"""The same examples for the same test, so that what passed once passes again; `--whole` draws."""
settings.register_profile("whole", patient, max_examples=120)


@pytest.fixture
def own_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For pages of the dashboard: no records but those of the checkout, no hub, no arguments of the
    test runner."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["app.py"])


@pytest.fixture
def no_estimates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is read off a model's modules: a type without rules and laws has a lower bound."""
    monkeypatch.setattr(by_modules, "family_by_modules", lambda _: None)
    plan._PLANS.clear()
    yield
    plan._PLANS.clear()


@pytest.fixture
def the_bundle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's own profiles, which other tests do without."""
    monkeypatch.setattr(library, "BUNDLED", THE_BUNDLE)
    evaluation.forget()
    yield
    evaluation.forget()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of so small models threads cost more than they help; and what a test before has left is
    collected."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> "Subject":
    """A tiny model that claims are checked on, trained once in a process; nobody changes it."""
    from claim_subjects import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("my-llama"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> "Subject":
    from claim_subjects import tiny_gpt2

    return tiny_gpt2(tmp_path_factory.mktemp("my-gpt2"))


@pytest.fixture(scope="module", autouse=True)
def a_settled_heap() -> Iterator[None]:
    """What the modules before have left is nobody's any more: whoever collects garbage or looks for
    tensors passes it by; and what was not found without the package's profiles may be found with
    them."""
    evaluation.forget()
    gc.collect()
    gc.freeze()
    if (bitsandbytes := sys.modules.get("bitsandbytes.optim")) is not None:
        bitsandbytes.GlobalOptimManager.get_instance().initialize()  # wishes of a real Trainer's
    yield


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`lora-profile` in this process."""
    from lora_profiler.cli.main import main

    def run_(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capfd.readouterr()
        return Done(ended.value.code or 0, out, err)  # type: ignore[arg-type]

    return run_


@pytest.fixture
def golden_file(pytestconfig: pytest.Config) -> Golden:
    """Wording that stands in a file."""
    return Golden(updates=pytestconfig.getoption("--update-golden"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is said now into the files of tests/golden",
    )
    parser.addoption(
        "--whole",
        action="store_true",
        help="every cell of the oracle live, every test that is marked slow or is a grid's cell, 120"
        " examples of each property: all that is drawn from by a seed without it",
    )
    parser.addoption(
        "--record-slow",
        action="store_true",
        help="write which tests took a second or more, of those that ran",
    )
    parser.addoption(
        "--oracle",
        choices=("auto", "live", "record"),
        default="auto",
        help="real models: as tests/recording.py decides, or all of them live; `record` is for"
        " `python -m benchmarks.truth.oracle_grid`",
    )


def pytest_report_header(config: pytest.Config) -> str:
    assert recording.THE is not None
    return recording.THE.describe()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist hands its counts, and what it recorded, to whoever started it."""
    assert recording.THE is not None
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["oracle"] = recording.THE.counts
    if folder := os.environ.get(recording.PARTS):
        recording.THE.leave(Path(folder))


@pytest.hookimpl(tryfirst=True)  # `-m slow` is about these marks too
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the slow tests and of each grid's cells a share, or the grid's own, unless they are
    named or, slow ones, stand in a file that the last commit changed. Slow tests of one name, which
    share a dear fixture, are drawn together."""
    slow_tests.mark(items)
    is_recorded = config.getoption("--oracle") == "record"
    whole = config.getoption("--whole") or is_recorded
    if whole or any("::" in argument for argument in config.args):
        return
    left_out = {
        item
        for item in items
        if (slow := item.get_closest_marker("slow"))
        and not recording.drawn(SHARE, "".join(slow.args) or item.nodeid)
        and not recording.is_changed(item.path)
    }
    grids: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("grid"):
            grids.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cells in grids.values():
        mark = cells[0].get_closest_marker("grid")
        share = mark.kwargs.get("share", SHARE) if mark else 1.0
        left_out |= set(cells) - set(recording.cells_to_run(cells, share))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without garbage collection, a quarter of its time: what is imported and collected stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    whole = config.getoption("--whole")
    settings.load_profile("whole" if whole else "quick")
    recording.decide()
    recording.THE = recording.Recording("live" if whole else config.getoption("--oracle"))
    config.pluginmanager.register(recording.Totals(recording.THE), "oracle-totals")
    if config.getoption("--record-slow") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(slow_tests.Recorder(), "slow-tests")
    # as in the background of a shell's script
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="lora-profiler-tests-")
    os.environ["LORA_PROFILER_CACHE"] = folder
    os.environ["XDG_CONFIG_HOME"] = folder  # without defaults of whoever runs the tests
    library.BUNDLED = Path(folder) / "no-bundle"
