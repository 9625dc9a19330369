"""Suites are the same everywhere, cover what they promise and can be predicted; predictions stay as
they were made; a campaign goes on from piece to piece, on machines that have little installed."""

import json
import os
import shutil
import signal
import subprocess
import venv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import records
from benchmarks import campaign, kernel_facts, machine, predictions
from benchmarks.campaign import main
from benchmarks.gpu_time import case_seconds, step_seconds
from benchmarks.machine import usable_environment
from benchmarks.record_checks import problems
from benchmarks.suites import home_device, suites
from commands import in_python
from lora_profiler.catalog import find_gpu
from lora_profiler.catalog.gpus import context_of
from lora_profiler.errors import UsageError
from lora_profiler.harness import Case, MeasurementError, make_case
from lora_profiler.harness.capabilities import CPU_BUILD, torch_version
from lora_profiler.harness.preflight import refuse
from lora_profiler.harness.telemetry import MIN_BLOCK_SECONDS
from lora_profiler.planning.engine import predict
from lora_profiler.records.load import read_records
from lora_profiler.records.record import Device, Environment, Record
from lora_profiler.workload import Workload

ROOT = Path(__file__).resolve().parents[1]
CASES: Mapping[tuple[str, str], tuple[Case, ...]] = {
    (name, device): suite(device) for name, suite in suites().items() for device in ("cpu", "cuda")
}
CONTEXT_BYTES = context_of("h100_sxm_80gb").most_bytes
CAMPAIGN_SECONDS, KERNEL_SECONDS, PIECES = 27 * 60, 120, 3


def cases(suite: str) -> tuple[Case, ...]:
    return CASES[suite, home_device(suite)]


# --- suites ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "device"), CASES)
def test_no_case_is_there_twice(suite: str, device: str) -> None:
    found = Counter((case.key, case.repeat) for case in CASES[suite, device])
    assert [key for key, count in found.items() if count > 1] == []
    assert {case.workload.setup.device for case in CASES[suite, device]} == {device}


def test_another_process_makes_the_same_suites() -> None:
    program = (
        "from benchmarks.suites import suites\nprint(*(c.key for s in suites().values() for d in"
        " ('cpu', 'cuda') for c in s(d)), sep='\\n')"
    )
    made = in_python(program, env={**os.environ, "PYTHONHASHSEED": "4"})
    assert made.split() == [case.key for found in CASES.values() for case in found]


@pytest.mark.grid
@pytest.mark.parametrize("suite", suites())
def test_every_case_can_be_started_and_predicted(suite: str) -> None:
    there: Any = {"installed": lambda name: name, "capability": lambda: (9, 0)}
    for case in cases(suite):
        refuse(case.workload, case.conditions, **there)
        prediction = predict(case.workload)
        assert None not in (prediction.flops, prediction.saved_activation_bytes), case.key


def test_cpu_records_cover_what_is_asked_of_them() -> None:
    found = cases("cpu_families")
    assert len(found) >= 84
    setups = [case.workload.setup for case in found]
    for method in ("full", "lora", "qlora"):
        of_method = [s for s in setups if s.method == method]
        assert {s.checkpointing for s in of_method} == {True, False}
        assert {s.optimizer_impl for s in of_method} == {"foreach", "fused", "forloop"}
        assert len({(s.batch_size, s.seq_len) for s in of_method}) >= 5
        workloads = (case.workload for case in found)
        assert len({w.model.model_type for w in workloads if w.setup.method == method}) == 10
    adapters = [s.lora for s in setups if s.lora is not None]
    assert len({lora.r for lora in adapters}) >= 5
    assert any(lora.lora_dropout for lora in adapters)
    of_lora = [s for s in setups if s.method == "lora" and s.lora is not None]
    formats = {(s.dtype, s.lora.adapter_dtype) for s in of_lora}
    assert formats == {("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")}
    bases = [s.quantization for s in setups if s.quantization is not None]
    recipes = {(base.recipe, base.double_quant) for base in bases}
    assert recipes >= {("stock", True), ("stock", False), ("kbit", True), ("trl", True)}
    assert {s.optimizer for s in setups} == {"adamw", "sgd", "adafactor", "adamw_8bit"}
    assert {s.attention for s in setups} >= {"auto", "eager", "math"}
    assert sum(s.accumulation == 4 for s in setups) >= 2
    assert sum(s.precision == "amp" for s in setups) >= 2
    models = (case.workload.model for case in found)
    whole = Counter(model.num_parameters for model in models if model.source == "bundled")
    assert whole == {124_439_808: 6, 134_515_008: 6}


def test_cpu_records_are_of_a_size_that_one_core_can_train() -> None:
    for case in cases("cpu_families"):
        prediction, whole = predict(case.workload), case.workload.model.source == "bundled"
        assert prediction.flops is not None
        assert 30e6 < prediction.peak.total_bytes < (3e9 if whole else 1e9), case.key
        flops = prediction.flops.total * case.workload.setup.accumulation
        assert flops < (300e9 if whole else 150e9), case.key


# --- the campaign of a GPU ------------------------------------------------------------------------


def test_the_campaign_on_a_cpu_is_the_same_list_in_miniature() -> None:
    def kind(case: Case) -> tuple[Any, ...]:
        asked = asdict(case.workload.setup)
        return (
            {name: value for name, value in asked.items() if name not in ("seq_len", "device")},
            case.workload.model.model_type,
            case.repeat,
            case.conditions.budget_bytes is not None,
            case.conditions.min_timed_steps > 0,
        )

    large, small = CASES["h100_campaign", "cuda"], CASES["h100_campaign", "cpu"]
    assert list(map(kind, large)) == list(map(kind, small))
    assert max(case.workload.model.num_parameters for case in small) < 300_000
    assert all(case.workload.model.source == "bundled" for case in large)


def test_the_campaign_fits_its_time() -> None:
    """Its cases, the kernel facts, and for each piece the look at the environment and the margin at
    the end."""
    beside = KERNEL_SECONDS + PIECES * (20 + 45)
    assert sum(map(case_seconds, cases("h100_campaign"))) + beside <= CAMPAIGN_SECONDS


def test_the_campaign_asks_nothing_that_an_h100_cannot_hold() -> None:
    usable = find_gpu("h100_sxm_80gb").usable_bytes
    assert usable is not None
    for case in cases("h100_campaign"):
        assert predict(case.workload).peak.total_bytes + CONTEXT_BYTES < usable, case.key


def test_edges_lie_where_the_predictions_put_them() -> None:
    written = read_predictions("h100_campaign")["cases"]
    foretold = {case["key"]: case["peak_bytes"] for case in written}
    edges = [case for case in cases("h100_campaign") if case.conditions.budget_bytes is not None]
    assert len(edges) == 6
    for below, above in zip(edges[::2], edges[1::2], strict=True):
        budget = below.conditions.budget_bytes
        assert budget is not None and budget == above.conditions.budget_bytes
        assert foretold[below.key] < budget < foretold[above.key] + CONTEXT_BYTES


def test_energy_is_measured_over_blocks_that_are_long_enough() -> None:
    """One of twice as many steps as the other, and even at twice the speed that is reckoned with;
    both end before the limit."""
    timed = [case for case in cases("h100_campaign") if case.conditions.min_timed_steps]
    limits = [(case, case.conditions.max_timing_seconds) for case in timed]
    short, long = (case for case, seconds in limits if seconds >= MIN_BLOCK_SECONDS)
    assert short.workload == long.workload
    few, many = (case.conditions.min_timed_steps for case in (short, long))
    assert many == 2 * few
    assert few * step_seconds(short) / 2 >= MIN_BLOCK_SECONDS
    assert many * step_seconds(long) < 0.9 * long.conditions.max_timing_seconds


def test_the_campaign_measures_a_thing_in_three_processes() -> None:
    repeats: dict[str, set[int]] = {}
    for case in cases("h100_campaign"):
        repeats.setdefault(case.key, set()).add(case.repeat)
    assert sum(found == {0, 1, 2} for found in repeats.values()) == 2


# --- predictions ----------------------------------------------------------------------------------


def read_predictions(suite: str) -> dict[str, Any]:
    found = predictions.read(suite)
    assert found is not None
    return found


WRITTEN = sorted(
    path.stem
    for path in predictions.PREDICTIONS.glob("*.json")
    if not path.stem.endswith("_rehearsed")  # peaks beside them
)


def test_the_campaign_was_predicted() -> None:
    assert "h100_campaign" in WRITTEN


@pytest.mark.parametrize("suite", WRITTEN)
def test_predictions_are_as_written_and_of_the_suite_as_it_is(suite: str) -> None:
    """A suite that was changed must be predicted anew."""
    assert predictions.file_problems(read_predictions(suite), cases(suite)) == []


@pytest.mark.parametrize("suite", WRITTEN)
def test_predictions_are_those_of_the_version_that_they_name(suite: str) -> None:
    """Of this one, or of an earlier one: a predictor that was changed since may say something else,
    the file may not."""
    found = read_predictions(suite)
    assert found["predicted_by"]["version"] and len(found["predicted_by"]["source_sha256"]) == 64
    if found["predicted_by"]["source_sha256"] == predictions.predictor_hash():
        assert predictions.changed_since(found, cases(suite)) == []


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    return predictions.write("tiny", cases("tiny"), tmp_path)


def test_written_predictions_are_what_is_predicted(tiny_file: Path) -> None:
    found = predictions.read("tiny", tiny_file.parent)
    assert found is not None
    assert predictions.file_problems(found, cases("tiny")) == []
    assert predictions.changed_since(found, cases("tiny")) == []
    for case, said in zip(cases("tiny"), found["cases"], strict=True):
        assert said["peak_bytes"] == predict(case.workload).peak.total_bytes
        assert sum(said["moments"][said["peak_moment"]].values()) == said["peak_bytes"]


def test_predictions_are_not_rewritten_unless_forced(tiny_file: Path) -> None:
    before = tiny_file.read_text()
    with pytest.raises(UsageError, match="--force"):
        predictions.write("tiny", cases("tiny")[:2], tiny_file.parent)
    assert tiny_file.read_text() == before
    predictions.write("tiny", cases("tiny")[:2], tiny_file.parent, force=True)
    assert tiny_file.read_text() != before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda found: found["cases"][0].update(peak_bytes=1), "hash"),
        (lambda found: found["cases"].pop(), "no prediction"),
        (lambda found: found.update(sha256="0" * 64), "hash"),
        (lambda found: found["predicted_by"].update(version="9"), "hash"),
    ],
)
def test_a_change_shows(
    tiny_file: Path, spoil: Callable[[dict[str, Any]], object], said: str
) -> None:
    found = json.loads(tiny_file.read_text())
    spoil(found)
    assert said in " ".join(predictions.file_problems(found, cases("tiny")))


def test_a_case_too_many_shows(tiny_file: Path) -> None:
    found = json.loads(tiny_file.read_text())
    told = " ".join(predictions.file_problems(found, cases("tiny")[1:]))
    assert "1 predictions are of no case" in told


def test_another_predictor_shows(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(tiny_file.read_text())
    real = predictions.predict

    def other(workload: Workload) -> Any:
        is_full = workload.setup.method == "full"
        return replace(real(workload), **{"attention_kernel": "another"} if is_full else {})

    monkeypatch.setattr(predictions, "predict", other)
    assert predictions.changed_since(found, cases("tiny")) == [cases("tiny")[0].key]


def test_the_hash_of_the_predictor_follows_its_source(tmp_path: Path) -> None:
    for part in predictions.PREDICTOR:
        source = predictions.PACKAGE / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part)
        else:
            shutil.copy(source, tmp_path / part)
    assert predictions.predictor_hash(tmp_path) == predictions.predictor_hash()
    rules = tmp_path / "analytic" / "moments.py"
    rules.write_text(rules.read_text() + "\n")
    assert predictions.predictor_hash(tmp_path) != predictions.predictor_hash()


def test_all_that_a_prediction_depends_on_is_hashed() -> None:
    """Whatever part of the package a prediction has loaded, but for errors and text."""
    program = (
        "import sys\nfrom lora_profiler.catalog import find_model\nfrom lora_profiler.analytic"
        " import predict\nfrom lora_profiler.planning.fit import judge\nfrom"
        " lora_profiler.workload import LoraConfig, TrainSetup, Workload\np ="
        " predict(Workload(model=find_model('gpt2', offline=True),"
        " setup=TrainSetup(lora=LoraConfig())))\nprint(p.peak and p.flops and '', *{m.split('.')[1]"
        " for m in sys.modules if m.startswith('lora_profiler.')})"
    )
    loaded = set(in_python(program).split())
    hashed = {part.removesuffix(".py") for part in predictions.PREDICTOR}
    assert {"analytic", "planning"} <= loaded <= hashed | {"errors", "units", "_common"}


def measured(case: Case, started_at: str = "2026-11-01T10:00:00+00:00") -> Record:
    """A record of the case as a campaign would make it."""
    told: Any = {"environment": {"command": campaign_command("tiny")}}
    record = records.make_record(case.workload, conditions=case.conditions, **told)
    return replace(record, repeat=case.repeat, started_at=started_at)


def campaign_command(suite: str) -> str:
    return f"{predictions.command_of(suite)}--device cpu"


def test_records_older_than_their_predictions_are_told_of(tiny_file: Path) -> None:
    found = json.loads(tiny_file.read_text())
    committed = datetime(2026, 11, 1, 12, tzinfo=UTC)
    early = measured(cases("tiny")[0])
    late = measured(cases("tiny")[1], "2026-11-01T12:00:01+00:00")
    (told,) = predictions.record_problems(found, [early, late], committed)
    assert early.id in told
    assert predictions.record_problems(found, [early, late], committed - timedelta(days=1)) == []


def test_a_record_that_was_not_foretold_is_told_of(tiny_file: Path) -> None:
    found = json.loads(tiny_file.read_text())
    stranger = measured(make_case(records.WORKLOAD))
    assert "not predicted" in " ".join(predictions.record_problems(found, [stranger], None))


def test_only_records_of_the_campaign_claim_its_suite(tmp_path: Path) -> None:
    own = measured(cases("tiny")[0])
    other = replace(
        own, environment=replace(own.environment, command="lora-profile bench gpt2"), repeat=1
    )
    unknown = replace(own, environment=replace(own.environment, command=None), repeat=2)
    write_records(tmp_path / "machine" / "records.jsonl", [own, other, unknown])
    assert predictions.records_of("tiny", tmp_path) == [own]
    assert predictions.records_of("tin", tmp_path) == []


def test_a_rehearsal_on_another_device_is_no_record_of_the_suite(tmp_path: Path) -> None:
    suite = "h100_campaign"
    command = {"command": campaign_command(suite)}
    rehearsed, real = (
        records.make_record(CASES[suite, device][0].workload, device=where, environment=command)
        for device, where in (("cpu", records.CPU), ("cuda", records.H100))
    )
    write_records(tmp_path / "machine" / "records.jsonl", [rehearsed, real])
    assert predictions.records_of(suite, tmp_path) == [real]


def write_records(path: Path, found: Sequence[Record]) -> None:
    from lora_profiler.records.serialize import record_dict

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record_dict(record)) + "\n" for record in found))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_predictions_are_there_since_their_commit(tiny_file: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        env = {"GIT_AUTHOR_DATE": "2026-11-01T10:00:00+00:00", "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-C", str(tiny_file.parent), *identity, *arguments]
        subprocess.run(command, check=True, env=os.environ | env, capture_output=True)

    git("init", "-q")
    assert not predictions.under_git(tiny_file.parent)
    assert predictions.committed_at(tiny_file) is None
    git("add", tiny_file.name)
    git("commit", "-q", "-m", "Predictions")
    assert predictions.under_git(tiny_file.parent)
    assert predictions.committed_at(tiny_file) == datetime(2026, 11, 1, 10, tzinfo=UTC)
    tiny_file.write_text(tiny_file.read_text() + " ")
    assert predictions.committed_at(tiny_file) is None


# --- running in pieces ----------------------------------------------------------------------------


PACKAGES = {"torch": "2.11.0+cu130", "transformers": "5.17.0"}
PACKAGES |= {"peft": "0.21.2", "accelerate": "1.15.0"}
HERE = Environment(
    python="3.12.3",
    platform="Linux",
    packages=PACKAGES,
    device=Device(kind="cpu", name="A processor", total_bytes=2**33),
    commit="0123abc",
)


def without(package: str) -> Callable[[str], str | None]:
    return lambda name: None if name == package else name


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Cases that take no time on a machine that is described by `HERE`; yields the keys that were
    started."""
    started: list[str] = []

    def measure(case: Case, **options: Any) -> Record:
        refuse(case.workload, case.conditions, installed=without("bitsandbytes"))
        started.append(f"{case.key}.{case.repeat}")
        made = measured(case)
        return replace(made, environment=replace(HERE, command=case.command))

    monkeypatch.setattr(campaign, "measure_case", measure)
    monkeypatch.setattr(campaign, "usable_environment", lambda device: HERE)
    yield started


def test_a_piece_measures_every_case_and_keeps_the_refused_ones(
    tmp_path: Path, pretended: list[str]
) -> None:
    assert main(["run", "tiny", "--out", str(tmp_path)]) == 0
    kept = read_records(tmp_path / "records.jsonl").records
    assert [r.case_key for r in kept] == [case.key for case in cases("tiny")]
    assert [r.measurement.status for r in kept] == ["ok", "ok", "unsupported", "ok"]
    failure = kept[2].measurement.failure
    assert failure is not None and "bitsandbytes" in failure.reason
    assert problems(kept[2]) == []
    assert {r.environment.command for r in kept} == {campaign_command("tiny")}
    assert json.loads((tmp_path / "environment.json").read_text())["packages"] == PACKAGES
    assert len(pretended) == 3


def test_the_next_piece_goes_on_from_rows_that_were_carried(
    tmp_path: Path, pretended: list[str]
) -> None:
    """As on a machine that is given back after each piece: DIR is gone, its rows are not."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["run", "tiny", "--out", str(first)]) == 0
    lines = (first / "records.jsonl").read_text().splitlines(keepends=True)
    carried = tmp_path / "carried.jsonl"
    # torn by the end of the machine
    carried.write_text("".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
    pretended.clear()
    assert main(["run", "tiny", "--out", str(second), "--seed-rows", str(carried)]) == 0
    assert pretended == [f"{cases('tiny')[3].key}.0"]
    kept = read_records(second / "records.jsonl").records
    assert {r.case_key for r in kept} == {case.key for case in cases("tiny")} and len(kept) == 4


def test_cases_without_time_are_left_for_the_next_piece(
    tmp_path: Path, pretended: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # a case may take a minute, and the margin
    assert main(["run", "tiny", "--out", str(tmp_path), "--deadline-s", "60"]) == 1
    assert pretended == []
    assert "4 left: run again with --seed-rows" in capsys.readouterr().out
    assert main(["run", "tiny", "--out", str(tmp_path), "--deadline-s", "600", "--resume"]) == 0
    assert len(pretended) == 3


def test_without_resume_everything_is_measured_again(tmp_path: Path, pretended: list[str]) -> None:
    for again in ([], ["--resume"], []):
        main(["run", "tiny", "--out", str(tmp_path), *again])
    assert len(pretended) == 6
    assert len(read_records(tmp_path / "records.jsonl").records) == 4


def test_a_campaign_whose_predictions_do_not_hold_is_refused(
    tmp_path: Path,
    pretended: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = predictions.write("tiny", cases("tiny"), tmp_path)
    path.write_text(path.read_text().replace('"peak_bytes":', '"peak_bytes":1', 1))
    words = ["run", "tiny", "--out", str(tmp_path / "out")]
    assert main([*words, "--predictions", str(tmp_path)]) == 2
    assert "do not hold" in capsys.readouterr().err
    monkeypatch.setattr(predictions, "PREDICTIONS", tmp_path)
    assert main(words) == 2
    assert pretended == []


def test_ctrl_c_in_the_moment_in_which_a_case_ends_well_is_heard(
    tmp_path: Path, pretended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `measure_case` does it: the interruption ends the child, which has left its result
    already."""
    whole = campaign.measure_case

    def interrupted(case: Case, **options: Any) -> Record:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return whole(case, **options)

    monkeypatch.setattr(campaign, "measure_case", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(["run", "tiny", "--out", str(tmp_path)]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert len(pretended) == 1
    (kept,) = read_records(tmp_path / "records.jsonl").records
    assert kept.measurement.status == "ok"
    monkeypatch.setattr(campaign, "measure_case", whole)
    assert main(["run", "tiny", "--out", str(tmp_path), "--resume"]) == 0
    assert len(pretended) == 3


def test_a_wheel_can_be_imported_from(
    tmp_path: Path, pretended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "carried-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carried_in_a_wheel.py", "answer = 42\n")
    seen = []

    def look(device: str) -> Environment:
        program = "import carried_in_a_wheel; print(carried_in_a_wheel.answer)"
        seen.append(in_python(program))
        import carried_in_a_wheel  # type: ignore[import-not-found]

        seen.append(carried_in_a_wheel.answer)
        return HERE

    monkeypatch.setattr(campaign, "usable_environment", look)
    before = os.environ.get("PYTHONPATH")
    assert main(["run", "tiny", "--out", str(tmp_path / "out"), "--wheel", str(wheel)]) == 0
    assert seen == ["42\n", 42]
    assert os.environ.get("PYTHONPATH") == before


def test_what_is_no_wheel_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.whl").write_text("no archive")
    wheel = str(tmp_path / "not.whl")
    assert main(["run", "tiny", "--out", str(tmp_path / "out"), "--wheel", wheel]) == 2
    assert "not.whl" in capsys.readouterr().err


def test_an_unknown_suite_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tinny", "--out", str(tmp_path)]) == 2
    assert "Did you mean tiny?" in capsys.readouterr().err


# --- what a machine has ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        (PACKAGES | {"torch": "2.10.1"}, "torch is 2.10.1 here; it must be 2.11 or later"),
        (PACKAGES | {"transformers": "5.9.2"}, "transformers is 5.9.2"),
        ({"torch": "2.11.0"}, "transformers is 0"),
    ],
)
def test_a_machine_with_too_old_a_stack_is_refused(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], said: str
) -> None:
    monkeypatch.setattr(machine, "_try_imports", lambda: None)
    monkeypatch.setattr(machine, "environment_of", lambda device: replace(HERE, packages=packages))
    with pytest.raises(MeasurementError, match=said):
        usable_environment("cpu")


def test_a_machine_without_a_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_try_imports", lambda: None)
    unknown = replace(HERE, device=Device(kind="cuda", name="unknown"))
    monkeypatch.setattr(machine, "environment_of", lambda device: unknown)
    with pytest.raises(MeasurementError, match=r"sees no cuda device on this machine\.$"):
        usable_environment("cuda")
    monkeypatch.setattr(machine, "environment_of", lambda device: HERE)
    assert usable_environment("cpu") == HERE


@pytest.mark.skipif(
    not torch_version().endswith(CPU_BUILD), reason="needs a torch that was built for the CPU alone"
)
def test_a_card_that_torch_cannot_use_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way through a child, to which a driver shows a card and torch none."""
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tests / "fake_driver"), str(tests))))
    monkeypatch.setenv("FAKE_NVML", json.dumps({"name": "NVIDIA Example", "total": 80 * 2**30}))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = "sees no cuda device on this machine, though the driver shows NVIDIA Example"
    with pytest.raises(MeasurementError, match=said):
        usable_environment("cuda")


def test_missing_packages_are_named_before_anything_starts() -> None:
    with pytest.raises(MeasurementError, match="lacks peft, without which"):
        usable_environment("cpu", installed=without("peft"))


def test_packages_that_cannot_be_imported_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcuda is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MeasurementError, match="libcuda is broken"):
        usable_environment("cpu")


ABSENT = (
    "bitsandbytes", "click", "jsonschema", "nvidia_ml_py", "psutil", "pynvml", "rich",
    "lora_profiler", "__editable__",
)  # fmt: skip


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with this one's packages, but for those that a machine of a campaign may lack."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in Path(pytest.__file__).parents[1].iterdir():
        if not package.name.lower().startswith(ABSENT):
            (site / package.name).symlink_to(package)
    return folder / "bin" / "python"


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_bare_machine_measures(bare_python: Path, tmp_path: Path) -> None:
    """No click, rich, psutil, pynvml, jsonschema, bitsandbytes, and no git: the whole way of a
    case, and of a refused one."""
    program = (
        "import sys\nfrom dataclasses import replace\nfrom benchmarks import campaign\nfrom"
        " benchmarks.suites import suites\nassert 'torch' not in sys.modules\nfew = [replace(c,"
        " conditions=replace(c.conditions, min_timed_steps=0)) for c in"
        " suites()['tiny']('cpu')[1:3]]\ncampaign.suites = lambda: {'tiny': lambda device:"
        " few}\nsys.exit(campaign.main(['run', 'tiny', '--out', sys.argv[1]]))\n"
    )
    env = {"PATH": "", "OMP_NUM_THREADS": "1", "LORA_PROFILER_COMMIT": "0123abc"}
    told: Any = {"capture_output": True, "text": True, "check": False}
    command = [str(bare_python), "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, **told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bitsandbytes missing, nvidia-ml-py missing" in done.stdout
    lora, qlora = read_records(tmp_path / "records.jsonl").records
    assert (lora.measurement.status, qlora.measurement.status) == ("ok", "unsupported")
    assert problems(lora) == [] and problems(qlora) == []
    assert lora.environment.commit == "0123abc"
    predicted = predict(lora.workload).peak.total_bytes
    assert lora.measurement.peak_requested_bytes == pytest.approx(predicted, abs=1000)


# --- facts of kernels -------------------------------------------------------------------------


def test_facts_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that take no time; each is a number, or says how it failed."""
    monkeypatch.setattr(kernel_facts, "ATTENTION_SHAPES", ((1, 4, 2, 256, 16),))
    monkeypatch.setattr(kernel_facts, "PRODUCTS", ((256, 256, 256, "float32"),))
    found = kernel_facts.measure("cpu", tmp_path)
    assert json.loads((tmp_path / "kernels.json").read_text()).keys() == found.keys()
    kept = {"dtype": "bfloat16", "shape": [2**20], "bytes": 2**21}
    assert found["dropout_saves"]["saved"] == [kept]
    statistics = [row for row in found["layer_norm_saves"] if row["shape"] == [4, 256, 1]]
    assert [row["dtype"] for row in statistics] == ["bfloat16", "bfloat16"]
    assert found["products"][0]["flops_per_s"] > 1e8
    rows = {(row["kernel"], row["dtype"]): row for row in found["attention"]}
    math, flash = (rows[kernel, "float32"]["saved"] for kernel in ("math", "flash"))
    assert sum(s["bytes"] for s in math) > sum(s["bytes"] for s in flash)
    rest = {name: row for name, row in found.items() if name not in ("environment", "attention")}
    assert "failed" not in json.dumps(rest)


def test_a_fact_that_cannot_be_had_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(kernel_facts, "facts", lambda device: {"broken": broken})
    said = {"failed": "RuntimeError: no such kernel"}
    assert kernel_facts.measure("cpu", tmp_path)["broken"] == said


def test_every_error_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tiny"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
