"""`lora-profile bench` as a user meets it, with a stand-in for the measured process; at the end it
trains for real."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import commands
import families
from benching import SIZES, Answer, Bench, bench, record_of, statuses
from commands import Done, Run, refused
from golden_files import Golden
from lora_profiler.measuring.harness import Case, MeasurementInterrupted
from lora_profiler.measuring.records.record import Conditions, Record
from lora_profiler.measuring.records.store import Store
from lora_profiler.question.workload import Workload
from lora_profiler.report.json.bench import bench_schema
from waiting import wait_until

__all__ = ["bench"]  # a fixture


# --- what is asked --------------------------------------------------------------------------------


def test_a_model_is_two_cases_with_the_setup_that_was_asked_for(bench: Bench) -> None:
    code, _, err = bench.tiny("--rank", "4", "--optimizer", "sgd")
    assert code == 0
    assert [case.workload.setup.method for case in bench.asked] == ["full", "lora"]
    full, lora = (case.workload.setup for case in bench.asked)
    assert (full.batch_size, full.seq_len, full.dtype) == (2, 24, "float32")
    assert (full.device, full.optimizer) == ("cpu", "sgd")
    assert lora.lora is not None and lora.lora.r == 4
    assert err.startswith(f"Training on cpu; records go to {bench.store_path}.\n")
    assert [r.id for r in bench.stored()] == [record_of(case).id for case in bench.asked]


def test_a_cpu_is_given_little_unless_more_is_asked_for(bench: Bench) -> None:
    def of(*arguments: str) -> tuple[int, str, str]:
        _, _, err = bench(str(bench.model), "--device", "cpu", "--method", "full", *arguments)
        (case,) = bench.asked
        return case.workload.setup.seq_len, case.workload.setup.dtype, err

    seq_len, dtype, err = of()
    assert (seq_len, dtype) == (128, "float32")
    assert "--seq-len is 128" in err and "--dtype is float32" in err
    seq_len, dtype, err = of("-s", "2048", "--dtype", "bfloat16")
    assert (seq_len, dtype) == (2048, "bfloat16")
    assert "since this is a CPU" not in err


def test_every_option_of_its_own_reaches_the_case(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    options = "--seed 5 --padding 0.25 --budget 3MiB --steps 7 --timing-seconds 2.5 --timeout 9.5"
    named = ("--weights", str(bench.model.parent), "--text", str(text))
    code, _, _ = bench.tiny("--method", "full", *named, *options.split())
    assert code == 0
    (case,), (given,) = bench.asked, bench.options
    held = case.conditions
    assert (held.weights, held.text) == ("tiny", "text.txt")
    assert (case.weights, case.text) == (str(bench.model.parent), str(text))
    assert (held.seed, held.padding, held.budget_bytes) == (5, 0.0, 3 * 2**20)
    assert case.workload.setup.padding == 0.25
    assert (held.min_timed_steps, held.max_timing_seconds, held.memory_steps) == (7, 2.5, 3)
    assert given["timeout_seconds"] == 9.5
    assert case.command is not None


def test_no_timing_leaves_the_timing_pass_out(bench: Bench) -> None:
    bench.tiny("--method", "full", "--no-timing")
    assert bench.asked[0].conditions.min_timed_steps == 0


def test_weights_are_random_unless_the_hub_is_named(bench: Bench) -> None:
    bench.tiny("--method", "full")
    assert (bench.asked[0].weights, bench.asked[0].conditions.weights) == (None, "random")
    bench("gpt2", *SIZES, "--method", "full", "--weights", "hub")
    assert (bench.asked[0].weights, bench.asked[0].conditions.weights) == ("hub", "hub")


def test_repeats_run_forth_and_back(bench: Bench) -> None:
    bench.tiny("--repeats", "3")
    order = [(case.workload.setup.method, case.repeat) for case in bench.asked]
    assert order == [("full", 0), ("lora", 0), ("lora", 1), ("full", 1), ("full", 2), ("lora", 2)]
    assert len({r.id for r in bench.stored()}) == 6


def test_without_device_it_is_the_accelerator_that_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.measuring.harness import capabilities as device_choice

    monkeypatch.setattr(device_choice, "torch_version", lambda: "2.11.0+cpu")
    code, _, err = bench(str(bench.model), "-s", "24", "--method", "full")
    assert code == 0
    assert "Training on cpu" in err
    assert bench.asked[0].workload.setup.device == "cpu"


# --- the store ------------------------------------------------------------------------------------


def test_resume_runs_what_is_not_stored_and_says_so(bench: Bench) -> None:
    bench.tiny("--method", "full")
    code, out, err = bench.tiny("--resume")
    assert code == 0
    assert [case.workload.setup.method for case in bench.asked] == ["lora"]
    assert ("full", "stored", "ok") in {(e["method"], e["state"], e["status"]) for e in events(err)}
    assert "\nFull " in out
    code, out, err = bench.tiny("--resume")
    assert (code, bench.asked) == (0, [])
    assert err.endswith("All cases are stored for this environment already: nothing was run.\n")
    assert "\nLoRA r16 " in out
    bench.tiny("--resume", "--seed", "1")
    assert len(bench.asked) == 2


def test_without_resume_a_case_is_measured_again_and_replaces_its_record(bench: Bench) -> None:
    bench.tiny("--method", "full")
    bench.answer = lambda case: record_of(case, step_seconds=(9.0,) * 10, warmup_seconds=(9.0,))
    bench.tiny("--method", "full")
    assert len(bench.asked) == 1
    assert [r.measurement.step_seconds[0] for r in bench.stored()] == [9.0]


def test_resume_repeats_what_was_interrupted_and_what_rerun_names(bench: Bench) -> None:
    bench.answer = statuses("oom", "crash", "interrupted", "ok")
    bench.tiny("--repeats", "2")
    bench.answer = record_of
    bench.tiny("--repeats", "2", "--resume", "--rerun", "oom")
    asked = [(case.workload.setup.method, case.repeat) for case in bench.asked]
    assert asked == [("full", 0), ("lora", 1)]
    assert sorted(r.measurement.status for r in bench.stored()) == ["crash", "ok", "ok", "ok"]


def test_the_deadline_leaves_cases_for_the_next_run(bench: Bench) -> None:
    # a first case is taken to last 60 s, and 45 s are kept free
    code, _, err = bench.tiny("--deadline", "100")
    assert (code, bench.asked) == (0, [])
    assert "Left for want of time: 2 of the cases. Run again with --resume." in err


def test_lines_of_the_store_that_cannot_be_read_are_told_of(bench: Bench) -> None:
    bench.store_path.write_text('{"schema_version": "9.0"}\n{"torn": \n')
    code, _, err = bench.tiny("--method", "full")
    assert code == 0
    assert "warning: a record was passed over" in err
    assert "left half written" in err
    assert len(bench.stored()) == 1


# --- what is shown --------------------------------------------------------------------------------


def test_the_verdict_comes_first_then_a_row_for_each_run(bench: Bench) -> None:
    code, out, _ = bench.tiny()
    assert code == 0
    assert out.startswith("✓ Predicted peaks are right: equal to the byte.\n")
    assert re.search(r"^Full +1\.51 +1\.51 +exact ", out, re.MULTILINE)
    assert re.search(r"^LoRA r16 +1\.30 +1\.30 +exact ", out, re.MULTILINE)
    assert "\ntiny: LoRA r16 takes 1.000 of the time of full (95 % interval " in out
    assert all(len(line) <= 80 for line in out.splitlines()) and len(out.splitlines()) <= 25


def test_every_part_is_behind_detail(bench: Bench) -> None:
    code, out, _ = bench.tiny("--detail")
    assert code == 0
    assert re.search(r"^  peak +1\.51 +1\.51 +exact$", out, re.MULTILINE)
    assert "tiny, full: ok" in out and "tiny, LoRA r16: ok" in out
    assert "\nErrors\n" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    assert "\x1b" not in out


def test_runs_that_did_not_finish_are_named_with_what_to_try(bench: Bench) -> None:
    bench.answer = statuses("ok", "oom", "ok")
    code, out, _ = bench.tiny("--repeats", "2", "--detail")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "! 1 of 4 runs did not finish: out of memory."
    assert lines[1].startswith("→ Try a smaller batch or sequence, --checkpointing")
    assert "✗ LoRA r16, out of memory in forward and loss: as planned" in lines
    assert re.search(r"^whole +3 +exact +exact +100 %$", out, re.MULTILINE)


def test_json_has_records_and_comparisons(bench: Bench) -> None:
    code, out, _ = bench.tiny("--format", "json")
    document = json.loads(out)
    assert code == 0
    jsonschema.validate(document, bench_schema())
    assert [r["workload"]["setup"]["method"] for r in document["records"]] == ["full", "lora"]
    totals = [c for c in document["comparisons"] if c["metric"] == "peak_requested_bytes"]
    exact = [(r["id"], 0) for r in document["records"]]
    assert [(c["record_id"], c["relative_error"]) for c in totals] == exact
    assert "largest_batches" not in document


def test_csv_and_md(bench: Bench) -> None:
    rows = list(csv.DictReader(io.StringIO(bench.tiny("--format", "csv")[1])))
    assert [(row["method"], row["status"]) for row in rows] == [("full", "ok"), ("lora", "ok")]
    assert bench.tiny("--format", "md")[1].startswith("**✓ Predicted peaks are right:** equal")


def test_output_goes_to_a_new_file(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    code, out, err = bench.tiny("--method", "full", "--format", "json", "-o", str(path))
    assert (code, out) == (0, "")
    assert f"Wrote {path}." in err
    assert len(json.loads(path.read_text())["records"]) == 1
    code, _, err = bench.tiny("--method", "full", "--format", "json", "-o", str(path))
    assert (code, bench.asked) == (2, [])
    assert "exists" in err


def events(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


def test_progress_off_a_terminal_is_an_event_when_a_case_starts_and_ends(bench: Bench) -> None:
    bench.answer = statuses("ok", "oom")
    found = events(bench.tiny()[2])
    assert [(e["case"], e["of"], e["method"], e["state"], e["status"]) for e in found] == [
        (1, 2, "full", "running", None),
        (1, 2, "full", "done", "ok"),
        (2, 2, "lora", "running", None),
        (2, 2, "lora", "done", "oom"),
    ]
    assert [e["left_s"] for e in found[:2]] == [None, 0]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, 0) for status in ("ok", "noisy", "oom", "host_oom")),
        *((status, 4) for status in ("timeout", "crash", "unsupported", "invalid")),
    ],
)
def test_exit_code_tells_whether_something_was_measured(
    bench: Bench, status: str, code: int
) -> None:
    bench.answer = statuses("ok", status)
    found, out, _ = bench.tiny()
    assert found == code
    assert [r.measurement.status for r in bench.stored()] == ["ok", status]
    assert "\nFull " in out


# --- Ctrl-C ---------------------------------------------------------------------------------------


def interrupted_at(number: int, then: Callable[[Case], Record]) -> Answer:
    count = iter(range(1, 100))
    return lambda case: then(case) if next(count) == number else record_of(case)


def stop(case: Case) -> Record:
    raise MeasurementInterrupted(record_of(case, "interrupted"))


def test_ctrl_c_keeps_what_is_done_and_stores_the_interrupted_one(bench: Bench) -> None:
    bench.answer = interrupted_at(2, stop)
    code, out, err = bench.tiny("--repeats", "2")
    assert code == 130
    assert len(bench.asked) == 2
    assert [r.measurement.status for r in bench.stored()] == ["ok", "interrupted"]
    assert "\nFull " in out
    assert re.search(r"^LoRA r16 .* interrupted( |$)", out, re.MULTILINE)
    assert err.endswith("Interrupted. What is done is stored: run again with --resume.\n")
    bench.answer = record_of
    code, _, _ = bench.tiny("--repeats", "2", "--resume")
    assert (code, len(bench.asked)) == (0, 3)
    assert [r.measurement.status for r in bench.stored()] == ["ok"] * 4


def test_ctrl_c_in_json_still_gives_what_is_done(bench: Bench) -> None:
    bench.answer = interrupted_at(2, stop)
    code, out, _ = bench.tiny("--format", "json")
    assert code == 130
    assert [r["measurement"]["status"] for r in json.loads(out)["records"]] == ["ok", "interrupted"]


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)


def test_ctrl_c_between_two_processes_ends_the_run(bench: Bench) -> None:
    def pressed(case: Case) -> Record:
        press_ctrl_c()
        raise AssertionError("Ctrl-C did nothing")

    bench.answer = interrupted_at(2, pressed)
    code, out, err = bench.tiny("--repeats", "2")
    assert code == 130
    assert len(bench.asked) == 2
    assert "\nFull " in out
    assert (2, 4, "lora", "interrupted") in {
        (e["case"], e["of"], e["method"], e["state"]) for e in events(err)
    }


def test_a_case_that_ends_well_in_the_moment_of_ctrl_c_is_kept_and_the_last(bench: Bench) -> None:
    def ended_well(case: Case) -> Record:
        try:
            press_ctrl_c()
        except KeyboardInterrupt:
            press_ctrl_c()  # a second one is passed over
        return record_of(case)

    bench.answer = interrupted_at(1, ended_well)
    code, out, _ = bench.tiny()
    assert code == 130
    assert len(bench.asked) == 1
    assert [r.measurement.status for r in bench.stored()] == ["ok"]
    assert "\nFull " in out


def test_ctrl_c_means_what_it_meant_before_when_the_run_is_over(bench: Bench) -> None:
    before = signal.getsignal(signal.SIGINT)
    bench.tiny("--method", "full")
    assert signal.getsignal(signal.SIGINT) is before


# --- refused --------------------------------------------------------------------------------------


def test_a_wrong_question_is_refused_before_anything_starts(
    bench: Bench, golden_file: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    golden_file.compare_answers(
        "refusals-bench", lambda words: refused(Done(*bench(*shlex.split(words))))
    )
    for more in ([], ["--budget", "1GiB"]):
        code, _, err = bench("meta-llama/Llama-3.1-405B", "-s", "24", "--device", "cpu", *more)
        assert code == 4 and "this machine has" in err
        assert more or "--budget" in err
    assert bench.asked == []
    assert [path.name for path in bench.store_path.parent.iterdir()] == ["tiny"]


def test_one_wrong_case_among_many_is_refused_before_the_first_starts(bench: Bench) -> None:
    code, _, err = bench(str(bench.model), "gpt2", "--device", "cpu", "-s", "1100")
    assert (code, bench.asked) == (2, [])
    assert "1,024 positions" in err


def test_a_store_that_cannot_be_written_is_refused_before_anything_starts(
    bench: Bench, tmp_path: Path
) -> None:
    code, _, err = bench(str(bench.model), *SIZES, records=tmp_path)
    assert (code, bench.asked) == (2, [])
    assert "is a folder" in err


def test_a_text_needs_a_tokenizer(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words")
    code, _, err = bench.tiny("--text", str(tmp_path / "text.txt"))
    assert (code, bench.asked) == (2, [])
    assert "--weights PATH" in err


def test_predict_refuses_what_contradicts_itself_too(run: Run) -> None:
    assert "[2] error: --sharding" in refused(run("gpt2", "-s", "64", "--sharding", "fsdp"))


def test_a_strange_target_is_warned_of_once_for_all_repeats(bench: Bench) -> None:
    _, _, err = bench.tiny("--method", "lora", "--targets", "q_prj,v_proj", "--repeats", "2")
    assert err.count("warning: no module of tiny matches q_prj") == 1


# --- suites ---------------------------------------------------------------------------------------


def test_a_suite_of_the_source_tree_brings_its_own_cases(bench: Bench) -> None:
    code, out, _ = bench("--suite", "tiny", "--device", "cpu")
    assert code == 0
    assert [case.workload.setup.method for case in bench.asked] == ["full", "lora", "qlora", "lora"]
    assert len(re.findall(r"^(?:Full|Q?LoRA r\d+) ", out, re.MULTILINE)) == 4
    assert {case.workload.setup.device for case in bench.asked} == {"cpu"}


def test_cases_of_a_suite_that_cannot_run_here_are_left_out_and_told_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.measuring.harness.preflight import refuse
    from lora_profiler.runs.campaign import planned

    without = {"bitsandbytes"}

    def check(workload: Workload, conditions: Conditions, pretended: None) -> None:
        refuse(workload, conditions, lambda name: None if name in without else name)

    monkeypatch.setattr(planned, "refuse_on_this_machine", check)
    code, _, err = bench("--suite", "tiny", "--device", "cpu")
    assert code == 4
    assert [case.workload.setup.method for case in bench.asked] == ["full", "lora", "lora"]
    assert re.search(
        r"warning: left out tiny-llama-qlora-\w+-\w+: a 4-bit base needs bitsandbytes", err
    )
    without.add("torch")
    code, _, err = bench("--suite", "tiny", "--device", "cpu")
    assert (code, bench.asked) == (4, [])
    assert "none of the 4 cases of tiny can run here" in err


# --- the largest batch ----------------------------------------------------------------------------


SEARCH = ("--method", "lora", "--largest-batch", "--budget", "4MiB")


def holds(count: int) -> Answer:
    def answer(case: Case) -> Record:
        status = "ok" if case.workload.setup.batch_size <= count else "oom"
        return record_of(case, status, step_seconds=None)

    return answer


def test_the_search_begins_at_the_prediction_and_shows_its_probes(bench: Bench) -> None:
    bench.answer = holds(11)
    code, out, err = bench.tiny(*SEARCH)
    assert code == 0
    assert [case.workload.setup.batch_size for case in bench.asked] == [11, 12, 11]
    held = [case.conditions for case in bench.asked]
    assert {(each.memory_steps, each.min_timed_steps) for each in held} == {(2, 0)}
    proof = (
        "✓ tiny, LoRA r16: 11 is the largest batch within 4.00 MiB of A processor; it trained in"
        " two processes, and 12 did not fit."
    )
    assert " ".join(out.split()).startswith(proof)
    assert "Predicted: 11." in out
    assert [e["status"] for e in events(err)][-4:] == [None, "oom", None, "ok"]
    assert len(bench.stored()) == 3


def test_the_search_in_json(bench: Bench) -> None:
    bench.answer = holds(9)
    code, out, _ = bench.tiny(*SEARCH, "--format", "json")
    document = json.loads(out)
    jsonschema.validate(document, bench_schema())
    (found,) = document["largest_batches"]
    assert code == 0
    proven = {"batch_size": 9, "upper": 9, "monotone": True, "emulated": True, "predicted": 11}
    assert found.items() >= proven.items()
    assert sorted(found["record_ids"]) == sorted(r["id"] for r in document["records"])


def test_a_search_resumes_from_its_stored_probes(bench: Bench) -> None:
    bench.answer = holds(11)
    arguments = (*SEARCH, "--resume")
    bench.tiny(*arguments)
    code, out, _ = bench.tiny(*arguments)
    assert (code, bench.asked) == (0, [])
    assert "11 is the largest batch" in out


def test_nothing_fits(bench: Bench) -> None:
    bench.answer = holds(0)
    code, out, _ = bench.tiny(*SEARCH)
    assert code == 0
    assert "Not even one sequence trains within 4.00 MiB" in out


def test_a_search_that_fails_is_told_of_and_its_probes_are_shown(bench: Bench) -> None:
    bench.answer = statuses("ok", "crash")
    code, out, err = bench.tiny(*SEARCH)
    assert code == 4
    assert "the search for tiny-lora-" in err
    assert "a probe ended as crash: as planned" in err
    assert re.search(r"^LoRA r16 .* crashed( |$)", out, re.MULTILINE)


def test_ctrl_c_in_a_search_keeps_its_probes(bench: Bench) -> None:
    bench.answer = interrupted_at(2, stop)
    code, out, err = bench.tiny(*SEARCH)
    assert code == 130
    assert [r.measurement.status for r in bench.stored()] == ["ok", "interrupted"]
    assert "\nLoRA r16 " in out
    assert "run again with --resume" in err


def test_the_deadline_ends_a_search(bench: Bench) -> None:
    code, _, err = bench.tiny("--largest-batch", "--budget", "4MiB", "--deadline", "50")
    assert (code, bench.asked) == (0, [])
    assert "Left for want of time: 2 of the cases." in err


# --- help, terminals ------------------------------------------------------------------------------


def lora_profile(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    options: Any = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    options["env"] = here | {"HF_HUB_OFFLINE": "1"} | environment
    command = [sys.executable, "-m", "lora_profiler", *arguments]
    return subprocess.run(command, timeout=240, **options)


def test_help() -> None:
    text = commands.lora_profile("bench", "-h").stdout
    assert text.startswith("lora-profile bench [MODEL...] [OPTIONS]")
    assert "Examples:" not in text
    assert "Exit: 0 done" in text
    assert "--engine" not in text
    assert "Examples:\n  lora-profile bench " in commands.lora_profile("bench", "--help-all").stdout


ON_A_TERMINAL = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from benching import record_of
from lora_profiler.runs.campaign import session
from lora_profiler.cli.main import main
from lora_profiler.measuring.harness import Heartbeat

def measure(case, *, progress, **options):
    import time
    progress(Heartbeat(phase="backward", step=2))
    time.sleep(1.3)
    return record_of(case)

session.measure_case = measure
main(sys.argv[2:])
"""


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the command, with a stand-in for the measured process, writes to a terminal of 100
    columns."""
    path = f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"
    command = [sys.executable, "-c", ON_A_TERMINAL, path, "bench", *arguments]
    return commands.on_a_terminal(command, columns=100, **environment)


def test_a_terminal_shows_rows_as_they_go_and_then_the_table_instead(
    bench: Bench, tmp_path: Path
) -> None:
    store = str(tmp_path / "r.jsonl")
    arguments = (str(bench.model), *SIZES, "--method", "full", "--records", store)
    text = on_a_terminal(*arguments)
    assert "step 2: backward" in text
    assert "0 of 1 done" in text
    assert "Ctrl-C keeps what is done." in text
    assert "[1/1]" not in text
    assert text.index("step 2: backward") < text.index("The predicted peak is right")
    plain = on_a_terminal(*arguments, TERM="dumb")
    assert "\x1b" not in plain
    assert '"case": 1, "of": 1' in plain


# --- for real -------------------------------------------------------------------------------------

ONE_CORE = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(families.TINY["llama"]))
    return folder


def real(place: Path, *arguments: str) -> tuple[str, ...]:
    where = ("--timing-seconds", "2", "--records", str(place / "r.jsonl"))
    return ("bench", str(place / "tiny"), *SIZES, *where, *arguments)


def processes_of(place: Path) -> Iterator[Path]:
    """Folders in /proc of living measured processes that leave their result in the folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(place) in line and "lora_profiler.measuring.harness.entry" in line:
            yield path.parent


def has_loaded_torch(process: Path) -> bool:
    """Long after whoever started it knows that it is there."""
    try:
        return "libtorch" in (process / "maps").read_text()
    except OSError:
        return False


def test_a_real_run_agrees_with_its_prediction_and_is_not_repeated(place: Path) -> None:
    done = lora_profile(*real(place, "--method", "full", "--format", "json"), **ONE_CORE)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, bench_schema())
    (record,) = document["records"]
    assert record["measurement"]["status"] in ("ok", "noisy")
    assert record["environment"]["command"].startswith("lora-profile bench tiny --device cpu")
    assert str(place) not in done.stdout
    totals = [c for c in document["comparisons"] if c["category"] == "total"]
    errors = {c["metric"]: c["relative_error"] for c in totals}
    assert abs(errors["peak_requested_bytes"]) < 0.01
    assert errors["num_parameters"] == 0
    asked = real(place, "--method", "full", "--format", "json", "--resume")
    again = lora_profile(*asked, **ONE_CORE)
    assert again.returncode == 0
    assert "nothing was run" in again.stderr
    assert json.loads(again.stdout)["records"] == document["records"]


def test_ctrl_c_of_a_real_run_leaves_the_finished_rows_and_no_process(place: Path) -> None:
    arguments = real(place, "--method", "full", "--method", "lora", "--seed", "3")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "lora_profiler", *arguments]
    process = subprocess.Popen(command, env=os.environ | ONE_CORE, start_new_session=True, **pipes)
    try:
        assert process.stderr is not None
        assert any('"lora", "state": "running"' in line for line in process.stderr)
        wait_until(lambda: any(map(has_loaded_torch, processes_of(place))))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted. What is done is stored: run again with --resume." in err
    assert re.search(r"^Full +\d", out, re.MULTILINE)
    assert re.search(r"^LoRA r16 .* interrupted$", out, re.MULTILINE)
    own = [r for r in Store(place / "r.jsonl").records() if r.conditions.seed == 3]
    kept = {r.workload.setup.method: r.measurement for r in own}
    assert kept["full"].went_through and kept["lora"].status == "interrupted"
    assert kept["lora"].failure is not None and kept["lora"].failure.phase
    wait_until(lambda: not list(processes_of(place)))
