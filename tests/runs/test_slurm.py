"""A suite as an array job: what Slurm is asked for; its tasks, run by hand, leave records that
`compare` reads as one set."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.truth import suite_models
from commands import Run, refused
from golden_files import Golden
from lora_profiler.cli.main import main
from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness import Case, make_case
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.runs.campaign.planned import planned_for_cluster
from lora_profiler.runs.campaign.suites import read_case, write_cases
from lora_profiler.runs.cluster import slurm
from lora_profiler.runs.cluster.ray import PROCESS_BYTES, Needs, default_cpus, needs, together

ROOT = Path(__file__).parents[2]
SETUP = TrainSetup(dtype="float32", lora=LoraConfig(r=4), batch_size=2, seq_len=32, device="cpu")
CONDITIONS = Conditions(memory_steps=2, min_timed_steps=0)


def case(seed: int = 0, **changes: object) -> Case:
    setup = replace(SETUP, **changes)  # type: ignore[arg-type]
    return make_case(
        Workload(model=suite_models.tiny(), setup=setup), replace(CONDITIONS, seed=seed)
    )


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return int(ended.value.code or 0)


# --- what is asked for ----------------------------------------------------------------------------


def test_on_the_cpu_a_case_asks_for_its_predicted_peak_and_a_process() -> None:
    planned = planned_for_cluster(case())
    peak = planned.prediction.peak.total_bytes
    assert needs(planned, 3) == Needs(cpus=3, gpus=0, memory_bytes=peak + PROCESS_BYTES)
    in_budget = replace(
        planned, case=replace(planned.case, conditions=replace(CONDITIONS, budget_bytes=1000))
    )
    assert needs(in_budget, 1).memory_bytes == 1000 + PROCESS_BYTES


def test_on_cuda_it_asks_for_a_gpu() -> None:
    assert needs(planned_for_cluster(case(device="cuda")), 2) == Needs(
        cpus=2, gpus=1, memory_bytes=0
    )


def test_an_array_asks_for_the_most_of_each() -> None:
    several = [Needs(cpus=1, gpus=2, memory_bytes=5), Needs(cpus=4, gpus=1, memory_bytes=3)]
    assert together(several) == Needs(cpus=4, gpus=2, memory_bytes=5)


@pytest.mark.parametrize(("given", "found"), [("4", 4), ("0", 1), ("2,1", 1), ("", 1)])
def test_processors_are_as_many_as_threads_were_asked_for(given: str, found: int) -> None:
    assert default_cpus({"OMP_NUM_THREADS": given}) == found


def test_the_script_asks_slurm_for_it() -> None:
    text = slurm.script(
        12,
        Needs(cpus=4, gpus=2, memory_bytes=2**30 + 1),
        Path("/jobs/a"),
        suite="tiny",
        timeout_seconds=90,
        python="/py",
    )
    options = [
        line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")
    ]
    assert options == [
        "--job-name=lora-profile-tiny", "--array=1-12", "--requeue", "--open-mode=append",
        "--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--gpus-per-node=2", "--mem=1025M",
        "--time=7",
    ]  # fmt: skip
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert "OMP_NUM_THREADS=4" in text


def test_without_gpus_and_memory_nothing_is_said_of_them() -> None:
    text = slurm.script(
        1, Needs(cpus=1, gpus=0, memory_bytes=0), Path("/jobs"), suite="tiny", timeout_seconds=60
    )
    assert "--gpus" not in text
    assert "--mem" not in text


# --- the folder -----------------------------------------------------------------------------------


def test_cases_come_back_from_their_files(tmp_path: Path) -> None:
    cases = [case(), case(seed=3), replace(case(), repeat=2, weights="hub")]
    write_cases(cases, tmp_path / "cases")
    found = [read_case(tmp_path / "cases" / f"{number}.json") for number in (1, 2, 3)]
    assert [(c.key, c.repeat, c.weights) for c in found] == [
        (c.key, c.repeat, c.weights) for c in cases
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"workload": {}}', "[" * 100_000])
def test_a_file_without_a_case_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(UsageError, match="holds no case"):
        read_case(tmp_path / "case.json")


def test_the_command_writes_the_folder_and_only_force_writes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a job"
    arguments = (
        "--suite", "tiny", "--device", "cuda", "--cpus-per-case", "2", "--emit", "sbatch", "-o",
        str(folder),
    )  # fmt: skip
    assert bench(*arguments) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"cd '{folder}' && sbatch run.sbatch" in err
    told = sorted(p.name for p in (folder / "cases").iterdir())
    assert told == ["1.json", "2.json", "3.json", "4.json"]
    text = (folder / "run.sbatch").read_text()
    assert "--array=1-4\n" in text
    assert "--gpus-per-node=1\n" in text
    assert "--cpus-per-task=2\n" in text
    assert bench(*arguments) == 2
    assert "add --force" in capsys.readouterr().err
    (folder / "cases" / "9.json").write_text("{}")
    (folder / "results" / "1.jsonl").write_text("kept")
    assert bench(*arguments, "--force") == 0
    assert not (folder / "cases" / "9.json").exists()
    assert (folder / "results" / "1.jsonl").read_text() == "kept"


def test_a_folder_of_something_else_is_never_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert bench("--suite", "tiny", "--emit", "sbatch", "-o", str(tmp_path), "--force") == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_wrong_question_is_refused(
    run: Run, golden_file: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    golden_file.compare_answers(
        "refusals-slurm", lambda words: refused(run("bench", *words.split()))
    )
    assert not (tmp_path / "job").exists()


# --- its tasks ------------------------------------------------------------------------------------


def test_tasks_run_by_hand_leave_records_that_compare_reads_as_one_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cases that really train, in a folder whose name a shell could take apart; then the first
    is given to its task again."""
    folder = tmp_path / 'two of \'em; $HOME "job"'
    cases = [case(), case(seed=1)]
    asked = [needs(planned_for_cluster(each), 1) for each in cases]
    slurm.emit(cases, asked, folder, suite="tiny", timeout_seconds=120.0, force=False)
    script = folder / "run.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    environment = {
        name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"
    } | {"PYTHONPATH": str(ROOT)}

    def task(number: str | None) -> "subprocess.CompletedProcess[str]":
        given = {} if number is None else {"SLURM_ARRAY_TASK_ID": number}
        return subprocess.run(
            ["bash", script],
            env=environment | given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for number in ("1", "2"):
        done = task(number)
        assert done.returncode == 0, done.stderr
    before = (folder / "results" / "1.jsonl").read_bytes()
    assert "nothing was run" in task("1").stderr
    assert (folder / "results" / "1.jsonl").read_bytes() == before
    assert "submit this with sbatch" in task(None).stderr
    assert task("3").returncode == 2

    stores = [read_records(folder / "results" / f"{number}.jsonl").records for number in (1, 2)]
    assert [[r.case_key for r in records] for records in stores] == [[each.key] for each in cases]
    assert {r.environment.variables["OMP_NUM_THREADS"] for records in stores for r in records} == {
        "1"
    }

    # the same case in a store of an earlier attempt: the newest counts, once
    (record,) = stores[0]
    old = replace(record, ended_at="2020-01-01T00:00:00+00:00")
    (folder / "results" / "0.jsonl").write_text(json.dumps(record_dict(old)) + "\n")
    (folder / "results" / "9.jsonl").write_text(json.dumps(record_dict(old)) + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(folder), "--format", "json"])
    assert not ended.value.code
    document = json.loads(capsys.readouterr().out)
    found = {r["id"]: r["ended_at"] for r in document["records"]}
    assert found == {r.id: r.ended_at for records in stores for r in records}
    assert sys.executable in script.read_text()
