"""A record of a pretended card never passes for a measured one: not in a store, a comparison, a
report, on the dashboard or among the committed ones."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from commands import Run, refused
from golden_files import Golden
from lora_profiler.dashboard.records import uploaded
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.measuring.harness import MeasurementError, make_case, measure_case
from lora_profiler.measuring.harness.preflight import refuse_on_this_machine
from lora_profiler.measuring.harness.pretended import Pretended, marked, without_times
from lora_profiler.measuring.records.load import read_set
from lora_profiler.measuring.records.record import Conditions, Measurement, Record
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.measuring.records.store import Store, StoreError
from lora_profiler.planning import rehearsed
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import engines_for, predict
from lora_profiler.question.workload import Workload
from lora_profiler.report.measured.comparisons import comparison_blocks
from lora_profiler.report.measured.measured_runs import run_texts
from lora_profiler.report.rehearsed import rehearsed_blocks
from lora_profiler.report.terminal import plain
from lora_profiler.runs.comparison.errors import claims, compare, result, scored
from lora_profiler.runs.comparison.throughput import card_of, throughput
from record_checks import problems
from records import H100, PEAK, WORKLOAD, make_prediction, make_record

ROOT = Path(__file__).parents[2]
CUDA = replace(WORKLOAD, setup=replace(WORKLOAD.setup, device="cuda"))


def a_rehearsed_record(**measured: Any) -> Record:
    """What the harness leaves over the stub libraries, made of a record with everything in it."""
    record = make_record(
        device=replace(H100, compute_capability="9.0"), peak_reserved_bytes=3_000_000, **measured
    )
    return replace(
        record,
        environment=marked(record.environment),
        measurement=without_times(record.measurement),
    )


def a_store(folder: Path, *records: Record) -> Path:
    store = Store(folder / "records.jsonl")
    for record in records:
        store.append(record)
    return store.path


# --- the record -----------------------------------------------------------------------------------------------------------


def test_a_rehearsed_record_is_good_says_so_and_holds_no_time() -> None:
    record = a_rehearsed_record()
    assert problems(record) == []
    device = record_dict(record)["environment"]["device"]
    assert device["kind"] == "rehearsed" and device["name"] == "NVIDIA H100 80GB HBM3, rehearsed"
    assert record.environment.packages["torch"] == "2.13.0" and record.environment.limits
    for field in fields(Measurement):
        if any(word in field.name for word in ("second", "loss", "energy", "telemetry")):
            assert getattr(record.measurement, field.name) in (None, (), {}), field.name
    assert record.measurement.peak_requested_bytes == sum(PEAK.values())
    assert record.workload.platform.capability == 90
    assert record_from_dict(json.loads(json.dumps(record_dict(record)))) == record


def test_nobody_s_machine_is_in_it() -> None:
    one = a_rehearsed_record()
    other = replace(one.environment, cpu=None)
    assert one.environment.key == other.key
    elsewhere = make_record(device=H100, environment={"cpu": "Another", "threads": 64})
    assert (
        marked(elsewhere.environment).key
        == replace(
            one.environment, device=replace(one.environment.device, compute_capability=None)
        ).key
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: replace(r, measurement=replace(r.measurement, step_seconds=(1.0,) * 10)), "step_seconds holds what only a real run has"),
        (lambda r: replace(r, measurement=replace(r.measurement, loss=(1.0,))), "loss holds what only a real run has"),
        (lambda r: replace(r, environment=replace(r.environment, limits=())), "do not say so"),
        (lambda r: replace(r, environment=replace(r.environment, device=replace(r.environment.device, name="NVIDIA H100"))), "do not say so"),
        (lambda r: replace(r, environment=replace(r.environment, device=replace(r.environment.device, kind="cuda"))), "described as rehearsed"),
    ],
)  # fmt: skip
def test_what_could_be_mistaken_is_a_problem(change: Any, sentence: str) -> None:
    assert any(sentence in problem for problem in problems(change(a_rehearsed_record())))


def test_a_measured_record_is_written_as_before() -> None:
    assert "limits" not in record_dict(make_record())["environment"]


# --- the faces ------------------------------------------------------------------------------------------------------------


def test_a_set_of_records_leaves_it_out_and_says_so(tmp_path: Path) -> None:
    measured = make_record()
    path = a_store(tmp_path, measured, a_rehearsed_record())
    assert {r.is_rehearsed for r in Store(path).records()} == {False, True}
    read = read_set([path])
    assert [r.id for r in read.records] == [measured.id]
    assert read.warnings == ("1 rehearsed record, on a simulated GPU: nothing in it was measured.",)
    with pytest.raises(StoreError, match=r"^No measured record can be read\. 1 rehearsed"):
        read_set([a_store(tmp_path / "other", a_rehearsed_record())])


def test_nothing_is_compared_timed_or_matched_with_a_card() -> None:
    record = a_rehearsed_record()
    prediction = make_prediction()
    assert compare(record, prediction) == claims(prediction).against(record) == ()
    assert throughput(record) is None
    assert card_of(replace(record.environment.device, kind="cuda", name=H100.name)) is not None
    assert card_of(record.environment.device) is None
    (row,) = scored([record])
    assert row.comparisons == ()
    text = plain(comparison_blocks([row], ("peak_requested_bytes",), ("method",), 5, ()))
    assert "%" not in text.replace("1 %", "")
    assert run_texts(record, prediction)[0] == "rehearsed"
    failed = a_rehearsed_record(status="oom")
    assert run_texts(failed, prediction)[0] == "rehearsed, out of memory"


def test_compare_and_report_count_measured_records_alone(tmp_path: Path, run: Run) -> None:
    alone = a_store(tmp_path / "alone", make_record())
    both = a_store(tmp_path / "both", make_record(), a_rehearsed_record())
    for path in (alone, both):
        answer = run("compare", str(path), "--format", "json")
        assert answer.exit_code == 0
        assert len(json.loads(answer.stdout)["records"]) == 1
    assert "passed over: 1 rehearsed record," in answer.stderr
    page = tmp_path / "page.html"
    assert run("report", str(both), "-o", str(page)).exit_code == 0
    assert "HBM3" not in page.read_text() and "rehearsed" not in page.read_text()


def test_the_dashboard_shows_measured_records_alone() -> None:
    lines = "\n".join(json.dumps(record_dict(r)) for r in (make_record(), a_rehearsed_record()))
    shown = uploaded("a.jsonl", lines.encode(), "auto")
    assert [row.record.environment.device.kind for row in shown.scored] == ["cpu"]
    assert any("rehearsed" in warning for warning in shown.warnings)


def test_no_committed_record_and_no_example_is_rehearsed() -> None:
    files = [
        *(ROOT / "benchmarks" / "records").rglob("*.jsonl"),
        *(ROOT / "reports").rglob("*.html"),
    ]
    assert files
    for path in files:
        assert '"kind": "rehearsed"' not in path.read_text("utf-8"), path
        assert '"kind":"rehearsed"' not in path.read_text("utf-8"), path


def test_its_answer_names_nothing_measured() -> None:
    record = a_rehearsed_record(
        attribution_bytes={**PEAK, "workspace": 100, "unattributed": 896}, workspace_bytes=100
    )
    text = plain(rehearsed_blocks([result(record, make_prediction())]))
    assert "measured" not in text.replace("Rehearsed, not measured", "")
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["requested peak"][2:5] == ["2,000,000", "2,000,000", "equal"]
    assert lines["workspaces"][1:4] == ["100", "0", "-100"]


# --- where it comes from --------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A library with the one function that stub libraries are known by."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler")
    source, library = tmp_path / "stub.c", tmp_path / "libcudart.so"
    source.write_text("unsigned long long pretended_launches(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


ASK = """
from lora_profiler.measuring.harness.environment import environment
for kind in ("cuda", "cpu"):
    print(environment(kind, command=None, import_torch=False).device.kind)
"""


def test_whoever_measures_over_the_stubs_is_rehearsed_however_it_was_started(stub: Path) -> None:
    def kinds(**variables: str) -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        command = [sys.executable, "-c", ASK]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert kinds(LD_PRELOAD=str(stub)) == ["rehearsed", "cpu"]
    assert kinds() == ["cuda", "cpu"]
    # a variable alone pretends nothing
    assert kinds(LORA_PROFILER_CARD="name=A") == ["cuda", "cpu"]


def pretended_by(python: Path, **changes: Any) -> Pretended:
    fields = {"python": python, "torch": "2.13.0+cu130", "capability": 75, "count": 1}
    variables = {"PYTHONPATH": "/nowhere"}
    return Pretended(**{**fields, "variables": variables, **changes})  # type: ignore[arg-type]


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import json, subprocess
from pathlib import Path
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.measuring.harness.runner import child_environment
from lora_profiler.planning import rehearsed
from lora_profiler.rehearsal import build
from lora_profiler.rehearsal.launch import pretended
from lora_profiler.rehearsal.environment import CudaEnvironment

rehearsed.read_environment = lambda python: CudaEnvironment(
    python=python, torch="2.13.0+cu130", cuda="13.0", cudnn=1, nccl=1, libraries=(),
    driver_sources=(), headers=Path(),
)
build._build = lambda *_: None
host = rehearsed.pretended_on(pretended(find_gpu("t4"), 0), 1, sys.executable)
ask = '''
import json, sys
from importlib.util import find_spec
from pathlib import Path
from lora_profiler.measuring.harness import process
print(json.dumps([find_spec("torch").origin, str(Path(process.__file__).resolve()), process.python_path({})]))
'''
print(subprocess.check_output([host.python, "-c", ask], env=child_environment(None, host), text=True))
"""


def test_an_installed_package_brings_nothing_else_to_the_environment_it_rehearses_in(
    tmp_path: Path,
) -> None:
    """Beside an installed one lies another torch, which a checkout has not."""
    site = tmp_path / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__", "*.sqlite")
    shutil.copytree(ROOT / "lora_profiler", site / "lora_profiler", ignore=ignored)
    (site / "torch.py").touch()
    environment = os.environ | {"LORA_PROFILER_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", INSTALLED, str(site)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    torch, package, path_of_a_child = json.loads(done.stdout)
    assert Path(torch).parent.name == "torch"
    assert Path(package).is_relative_to(site)
    assert [each.name for each in Path(path_of_a_child).iterdir()] == ["lora_profiler"]


def test_a_child_that_dies_leaves_a_rehearsed_record(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    record = measure_case(make_case(CUDA), pretended=pretended_by(python))
    assert record.measurement.status == "crash" and record.is_rehearsed
    assert not [p for p in problems(record) if "rehearsed" in p]


def test_what_the_environment_lacks_is_named() -> None:
    host = pretended_by(Path("/env/bin/python"), missing=frozenset({"msgspec", "bitsandbytes"}))
    with pytest.raises(MeasurementError, match=r"pip install --no-deps msgspec$"):
        refuse_on_this_machine(CUDA, Conditions(), host)
    with pytest.raises(UsageError, match="leave out --device cpu"):
        refuse_on_this_machine(WORKLOAD, Conditions(), pretended_by(Path("python")))
    for masked in ({"padding": 0.25}, {"packed": CUDA.setup.seq_len // 2}):
        (name,) = masked
        setup = replace(CUDA.setup, **masked)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=f"cannot be rehearsed.*Leave out --{name}"):
            refuse_on_this_machine(
                replace(CUDA, setup=setup), Conditions(), pretended_by(Path("python"))
            )
    bfloat16 = replace(CUDA, setup=replace(CUDA.setup, dtype="bfloat16"))
    with pytest.raises(MeasurementError, match=r"compute capability 7\.5"):
        refuse_on_this_machine(bfloat16, Conditions(), pretended_by(Path("python")))


def test_bad_input_is_refused(run: Run, golden_file: Golden) -> None:
    golden_file.compare_answers(
        "refusals-bench-rehearse", lambda words: refused(run("bench", *words.split()))
    )


# --- as an engine ---------------------------------------------------------------------------------------------------------


def test_a_rehearsed_answer_is_the_record_without_its_workspaces() -> None:
    record = a_rehearsed_record(
        attribution_bytes={**PEAK, "workspace": 900, "unattributed": 96}, workspace_bytes=900
    )
    base = make_prediction(record.workload)
    answer = rehearsed._answer(record, base)
    assert (answer.engine, answer.exactness) == ("rehearsed", "exact")
    assert answer.peak.total_bytes == sum(PEAK.values()) - 900
    assert answer.peak.moment == "optimizer_step" and "workspace" not in answer.peak.bytes
    assert answer.assumptions[0].startswith("Rehearsed, not measured: torch 2.13.0 on NVIDIA H100")
    steady = {m.moment: m.total_bytes for m in answer.moments if m.step == "steady"}
    assert steady["last_layer_forward"] == record.measurement.phase_peak_bytes["forward"] - 900
    assert answer.parameters == base.parameters and answer.flops == base.flops


def test_rehearsals_answer_predict_alone_and_only_where_they_can(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORA_PROFILER_CUDA_PYTHON", raising=False)
    with pytest.raises(UsageError, match="answers `predict` alone"):
        engines_for([CUDA], "rehearsed", may_trace=False)
    with pytest.raises(UsageError, match="Supported: auto"):
        scored([make_record()], "rehearsed")
    done = run("gpt2", "--engine", "rehearsed", "--method", "lora")
    assert done.exit_code == 4 and done.stdout == ""
    assert "LORA_PROFILER_CUDA_PYTHON" in done.stderr and "rehearse --setup" in done.stderr


def test_what_is_asked_beside_a_rehearsal_is_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsals: list[Workload] = []

    def rehearse_nothing(workload: Workload, _: Any) -> Any:
        rehearsals.append(workload)
        return replace(predict(workload), engine="rehearsed")

    monkeypatch.setattr(rehearsed, "predict", rehearse_nothing)
    (answer,) = answers([CUDA], find_gpu("rtx_4090"), "rehearsed", levers="all")
    assert answer.prediction.engine == "rehearsed"
    assert answer.fit is not None and answer.levers
    assert len(rehearsals) == 1
