"""The checker of records finds what is planted, names it, and finds nothing in a good record."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_profiler.records.check_files import check_file, check_folder
from lora_profiler.records.record import Conditions, Device, Failure, Record
from lora_profiler.records.redaction import private_text
from lora_profiler.records.serialize import record_dict, record_from_dict
from lora_profiler.records.validate import problems
from records import LORA_WORKLOAD, PEAK, PHASE_PEAKS, make_record

GOLDEN = Path(__file__).parent / "golden"
COMMIT = {"commit": "0123456789abcdef", "dirty": False}
CUDA = Device(kind="cuda", name="NVIDIA L4")


def good(**measured: Any) -> Record:
    return make_record(environment=COMMIT, **measured)


def on_cuda(**measured: Any) -> Record:
    """The golden record, of a GPU, every field filled in."""
    record = record_from_dict(json.loads((GOLDEN / "record-1.1.json").read_text()))
    return replace(record, measurement=replace(record.measurement, **measured))


def with_sample(**counters: int | None) -> Record:
    record = on_cuda()
    first, *rest = record.measurement.phases
    return on_cuda(phases=(replace(first, **counters), *rest))


def elsewhere(**environment: Any) -> Record:
    record = good()
    return replace(record, environment=replace(record.environment, **environment))


@pytest.mark.parametrize(
    "record",
    [
        good(),
        on_cuda(),
        good(status="noisy", flags=("busy_machine",)),
        on_cuda(status="ok", step_seconds=(0.1,) * 10, flags=("busy_machine", "shared_device")),
        good(status="noisy", step_seconds=(0.1, 0.3, 0.1, 0.4, 0.1, 0.9)),
        good(
            status="oom",
            failure=Failure(reason="out of memory"),
            step_seconds=None,
            attribution_bytes=None,
        ),
        good(
            status="interrupted",
            failure=Failure(reason="interrupted from outside"),
            step_seconds=None,
        ),
        good(step_seconds=None),
        good(phase_peak_bytes=None, peak_phase=None, attribution_bytes=None),
        elsewhere(commit=None, packages={"torch": "2.13.0", "lora-profiler": "0.1.0"}),
        good(attribution_bytes={"parameters": 2_003_000, "unattributed": -3_000}),
        good(
            attribution_bytes={"parameters": 1_900_000, "unattributed": 100_000},
            flags=("unattributed_over_1_percent",),
        ),
        good(tracked_phase_peak_bytes={"optimizer": 1_990_001, "backward": 1_809_000}),
        good(tracked_phase_peak_bytes={"backward": 1_500_000}),  # the rest is taken by kernels
        good(tracked_phase_peak_bytes={"zero": 1_500_000}, workspace_bytes=95_000),
        good(
            tracked_phase_peak_bytes={"optimizer": 1_500_000},
            flags=("instrumentation_perturbed_memory",),
        ),
        replace(good(), started_at="2026-11-01T10:00:00Z", ended_at="2026-11-01T10:00:00"),
        replace(good(), workload=LORA_WORKLOAD),
    ],
)
def test_a_good_record_has_no_problems(record: Record) -> None:
    assert problems(record) == []


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (good(status="oom", step_seconds=None), "The status is oom, but no failure says why"),
        (
            good(status="crash", failure=Failure(reason=" ")),
            "The status is crash, but no failure says why",
        ),
        (good(failure=Failure(reason="x")), "The status is ok, but there is a failure"),
        (
            good(
                step_seconds=None,
                peak_requested_bytes=None,
                peak_allocated_bytes=None,
                attribution_bytes=None,
            ),
            "The status is ok, but neither step times nor a peak were measured",
        ),
        (good(flags=("busy_machine",)), "The status is ok in spite of the flag busy_machine"),
        (
            good(flags=("thermal_throttling",)),
            "The status is ok in spite of the flag thermal_throttling",
        ),
        (good(flags=("memory_pressure",)), "The status is ok in spite of the flag memory_pressure"),
        (
            on_cuda(status="ok", step_seconds=(0.1,) * 10, flags=("busy_machine", "host_bound")),
            "The status is ok in spite of the flag busy_machine",
        ),
        (
            good(step_seconds=(0.1,) * 5 + (0.12,) * 5),
            "the median's interval is 9.1% to either side; at most 5% is not noise",
        ),
        (on_cuda(status="ok"), "at most 1% is not noise"),
        (good(step_seconds=(0.1,) * 9), "The status is ok with 9 timed steps of 10"),
        (on_cuda(peak_reserved_bytes=1), "reserved is 1 bytes, below the 124004096 allocated"),
        (
            on_cuda(peak_allocated_bytes=123_999_999),
            "allocated is 123999999 bytes, below the 124000000 requested",
        ),
        (
            with_sample(reserved_bytes=100_000_000),
            "reserved is 100000000 bytes at step 1, setup, below the 100001024 allocated",
        ),
        (
            with_sample(allocated_bytes=99_999_999),
            "allocated is 99999999 bytes at step 1, setup, below the 100000000 requested",
        ),
        (
            with_sample(allocated_bytes=None, reserved_bytes=7),
            "reserved is 7 bytes at step 1, setup, below the 100000000 requested",
        ),
        (
            with_sample(reserved_peak_bytes=3),
            "reserved is 3 bytes at step 1, setup, peaks, below the 100008192 active",
        ),
        (
            with_sample(active_peak_bytes=3),
            "active is 3 bytes at step 1, setup, peaks, below the 100004096 allocated",
        ),
        (
            with_sample(requested_peak_bytes=3),
            "The peak of requested bytes is 3 at step 1, setup, below the 100000000 in use",
        ),
        (
            with_sample(reserved_peak_bytes=140_000_000),
            "The peak of reserved bytes is 140000000 at step 1, setup, below",
        ),
        (
            good(phase_peak_bytes=PHASE_PEAKS | {"optimizer": 1_999_999}),
            "is 2000000, but the highest phase reaches 1999999",
        ),
        (
            good(peak_phase="backward"),
            "The peak is said to lie in backward, which reaches 1800000, not 2000000",
        ),
        (good(peak_phase="clip"), "The peak is said to lie in clip, which reaches None"),
        (
            good(peak_allocated_bytes=2_000_512),
            "On a CPU requested and allocated peaks are one; they are 2000000 and 2000512",
        ),
        (
            good(attribution_bytes=PEAK | {"inputs": 1}),
            "The attribution adds up to 2000001 bytes, the peak is 2000000",
        ),
        (
            good(attribution_bytes=PEAK | {"unattributed": 20_997, "activations": -19_001}),
            "20997 of 2000000 bytes are unattributed",
        ),
        (
            good(attribution_bytes={"parameters": 2_020_001, "unattributed": -20_001}),
            "20001 of 2000000 bytes are unattributed",
        ),
        (
            good(peak_requested_bytes=None, peak_allocated_bytes=None),
            "The attribution adds up to 2000000 bytes, the peak is None",
        ),
        (
            good(tracked_phase_peak_bytes={"backward": 1_809_001}),
            "In backward the tracker saw 1809001 bytes, the allocator 1800000",
        ),
        (
            good(tracked_phase_peak_bytes={"zero": 1_591_999}),
            "In zero the tracker saw 1591999 bytes, the allocator 1600000",
        ),
        (
            good(timed_peak_bytes=2_010_001),
            "After the timing pass the peak was 2010001, before it 2000000",
        ),
        (good(step_seconds=(0.1,) * 10 + (0.0,)), "step_seconds holds 0.0; a step takes time"),
        (good(warmup_seconds=(-1.0,)), "warmup_seconds holds -1.0; a step takes time"),
        (good(block_seconds=0.0), "block_seconds holds 0.0; a step takes time"),
        (
            good(phase_seconds={"forward": (0.1, -0.1)}),
            "phase_seconds.forward holds -0.1; no time is negative",
        ),
        (good(stage_seconds={"load": -0.1}), "stage_seconds holds -0.1; no time is negative"),
        (
            replace(good(), started_at="yesterday"),
            "started_at is 'yesterday'; it must be UTC in ISO 8601",
        ),
        (
            replace(good(), ended_at="2026-11-01T12:00:00+01:00"),
            "ended_at is '2026-11-01T12:00:00+01:00'; it must be UTC",
        ),
        (
            replace(good(), started_at="2026-11-01T10:02:00+00:00"),
            "The run ended before it started",
        ),
        (good(tokens_per_step=17), "tokens_per_step is 17; batch x sequence x accumulation is 16"),
        (good(tokens_per_step=None), "Steps were timed, but tokens_per_step is missing"),
        (good(nonpad_tokens_per_step=17), "nonpad_tokens_per_step is 17 of 16 tokens"),
        (good(supervised_tokens_per_step=-1), "supervised_tokens_per_step is -1 of 16 tokens"),
        (
            good(num_parameters=10, num_trainable_parameters=11),
            "11 of 10 parameters are said to be trained",
        ),
        (good(loss=(4.0, NAN)), "measurement.loss is nan; every number must be finite"),
        (
            good(stage_seconds={"load": INFINITE}),
            "measurement.stage_seconds.load is inf; every number must be finite",
        ),
        (
            good(resident_bytes={"load": -1}),
            "measurement.resident_bytes.load is -1; no amount of memory is negative",
        ),
        (
            with_sample(requested_bytes=-1),
            "measurement.phases.requested_bytes is -1; no amount of memory is negative",
        ),
        (
            elsewhere(memory_bytes=-1),
            "environment.memory_bytes is -1; no amount of memory is negative",
        ),
        (
            good(attribution_bytes=PEAK | {"inputs": -4, "buffers": 4}),
            "measurement.attribution_bytes.inputs is -4",
        ),
        (replace(good(), conditions=Conditions(budget_bytes=-5)), "conditions.budget_bytes is -5"),
        (elsewhere(python=" "), "The environment lacks Python's version"),
        (elsewhere(packages={"peft": "0.21.2"}), "The environment lacks torch's version"),
        (elsewhere(platform="unknown"), "The environment lacks the platform"),
        (elsewhere(device=Device(kind="cpu", name="")), "The environment lacks the device's name"),
        (
            elsewhere(commit=None),
            "names neither this program's commit nor, among the packages, its installed version",
        ),
        (elsewhere(device=CUDA), "The device is cuda, the setup asks for cpu"),
        (
            elsewhere(command="python /srv/people/bench.py"),
            "environment.command holds an absolute path",
        ),
        (
            good(status="crash", failure=Failure(reason="x", log="in ~/bench/x.py")),
            "measurement.failure.log holds an absolute path",
        ),
        (elsewhere(variables={"HF_TOKEN": "x"}), "environment.variables.HF_TOKEN is a secret"),
        (
            elsewhere(variables={"X": "hf_" + "a1B2" * 8}),
            "environment.variables.X holds what looks like a token",
        ),
        (
            replace(good(), conditions=Conditions(weights="/data/weights/model.gguf")),
            "conditions.weights holds an absolute path",
        ),
    ],
)
def test_what_is_planted_is_found(record: Record, sentence: str) -> None:
    found = problems(record)
    assert any(sentence in problem for problem in found), found


def test_one_fault_makes_one_sentence() -> None:
    assert len(problems(good(flags=("busy_machine",)))) == 1
    assert len(problems(elsewhere(device=CUDA))) == 2  # and its steps are too noisy for a GPU
    assert len(problems(good(loss=(NAN,)))) == 1


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("/home", "path"),
        ("--out=/scratch/me/x", "path"),
        ('File "/usr/lib/python3.11/json.py", line 5', "path"),
        ("failed:/opt/x", "path"),
        (r"C:\Users\me\x", "path"),
        (r"\\server\share", "path"),
        ("file:///x", "path"),
        ("~/weights", "path"),
        ("~me/weights", "path"),
        ("ghp_" + "a1" * 18, "token"),
        ("Authorization: Bearer abcdefgh12345", "token"),
        ("api_key=abc", "token"),
        ("me@node01: no route", "user"),
        ("me.too@example.org", "user"),
        ("on node7.cluster.local", "machine"),
        ("ip-10-1-2-3", "machine"),
        ("connect to 10.1.2.3 failed", "address"),
        ("GPU-3f0a9c1d-2e4b-11ee-be56-0242ac120002", "serial"),
    ],
)
def test_private_text_is_seen(text: str, what: str) -> None:
    (sentence,) = list(private_text({"log": text}))
    assert what in sentence
    assert text not in sentence
    assert list(private_text({text: 1}))  # a name gives away as much
    assert list(private_text({"a": [{"b": (text,)}]}))


@pytest.mark.parametrize(
    "text",
    [
        "meta-llama/Llama-3.1-8B",
        (
            "lora-profile bench gpt2 --method qlora -o reports/out.html --records"
            " benchmarks/records/a.jsonl"
        ),
        "https://huggingface.co/meta-llama/Llama-3.1-8B/tree/main",
        r".*\.(q|k|v)_proj",
        "forward/backward",
        "expandable_segments:True,max_split_size_mb:512",
        "<|endoftext|>",
        "hf_transfer",
        "1 / 2 and/or 3 GiB/s",
        "cuda:0",
        "Linux-5.15.153.1-microsoft-standard-WSL2-x86_64-with-glibc2.35",
        "AMD EPYC 7763 64-Core Processor @ 2.45GHz",
        "127.0.0.1:8080",
        "the size of tensor a (4) must match the size of tensor b (5) at non-singleton dimension 1",
        "2.11.0+cu130",
        "eos_token_id",
        "re:model\\.layers\\.[0-9]+\\..*",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB",
    ],
)
def test_public_text_is_let_through(text: str) -> None:
    where = "environment.platform" if text.startswith("Linux") else "log"
    assert list(private_text(text, where)) == []


def test_versions_of_four_numbers_are_no_addresses() -> None:
    assert problems(elsewhere(packages={"torch": "2.13.0", "nvidia-cudnn-cu13": "9.10.2.21"})) == []


def test_no_bundled_model_is_taken_for_private() -> None:
    from lora_profiler.catalog import find_model
    from lora_profiler.catalog.bundled import bundled_models

    for entry in bundled_models():
        model = find_model(entry.id)
        assert list(private_text([model.id, model.model_type, dict(model.published)])) == []


# --- files ----------------------------------------------------------------------------------------


def write(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return path


def edited(record: Record, edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(record_dict(record)))
    edit(data)
    return data


def test_a_good_file(tmp_path: Path) -> None:
    path = write(tmp_path / "good.jsonl", record_dict(good()), record_dict(on_cuda()))
    assert check_file(path) == []
    assert check_folder(tmp_path) == (1, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema_version": "1.1", ', "line 2: Expecting property name"),
        ("[]", "line 2: a record is []; it must be an object"),
        (
            edited(good(repeat=1), lambda d: d["measurement"].update(loss=[NAN])),
            "line 2: NaN is no number in JSON",
        ),
        (
            edited(good(repeat=1), lambda d: d.update(schema_version="9.0")),
            "line 2: The record's schema is '9.0'",
        ),
        (
            edited(good(repeat=1), lambda d: d["measurement"].update(peak="high")),
            "line 2: measurement has no field peak",
        ),
        (
            edited(good(repeat=1), lambda d: d.update(id="x")),
            f"line 2, {good(repeat=1).id}: id is written as 'x', but",
        ),
        (
            edited(good(repeat=1), lambda d: d.update(case_key="x")),
            "case_key is written as 'x', but",
        ),
        (
            edited(good(repeat=1), lambda d: d.pop("environment_key")),
            "environment_key is written as None, but",
        ),
        (edited(good(repeat=1), lambda d: d["conditions"].update(seed=5)), "id is written as"),
        (
            edited(good(repeat=1), lambda d: d["environment"]["packages"].update(torch="2.12.0")),
            "environment_key is written as",
        ),
        (
            edited(good(repeat=1), lambda d: d["measurement"].update(peak_phase="backward")),
            f"line 2, {good(repeat=1).id}: The peak",
        ),
        (record_dict(good()), "Line 1 has the same id"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", record_dict(good()), line, record_dict(good(repeat=2)))
    found = check_file(path)
    assert found
    assert all(str(path) in problem and "line 2" in problem for problem in found)
    assert any(message in problem for problem in found), found
    assert check_folder(tmp_path) == (1, found)


def test_a_torn_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    path.write_text(
        json.dumps(record_dict(good())) + "\n" + json.dumps(record_dict(good(repeat=1)))[:-1]
    )
    ends, torn = check_file(path)
    assert "the last line has no end" in ends
    assert "line 2" in torn


def test_an_older_schema_keeps_its_own_keys(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "record-1.0.json").read_text())
    assert (
        check_file(
            write(
                tmp_path / "old.jsonl",
                data | {"environment": data["environment"] | {"commit": "abc"}},
            )
        )
        == []
    )
