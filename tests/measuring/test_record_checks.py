"""The checker of records finds what is planted, names it, and finds nothing in a good record."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from golden_files import Golden
from lora_profiler.measuring.records.record import Conditions, Device, Failure, Record
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from private_text import private_text
from record_checks import check_file, check_folder, problems
from records import LORA_WORKLOAD, PEAK, PHASE_PEAKS, make_record

GOLDEN = Path(__file__).parents[1] / "golden"
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


NO_ROOM = Failure(reason="out of memory")
FROM_OUTSIDE = Failure(reason="interrupted from outside")
A_TWENTIETH = {"parameters": 1_900_000, "unattributed": 100_000}
PERTURBED = ("instrumentation_perturbed_memory",)


@pytest.mark.parametrize(
    "record",
    [
        good(),
        on_cuda(),
        good(status="noisy", flags=("busy_machine",)),
        on_cuda(status="ok", step_seconds=(0.1,) * 10, flags=("busy_machine", "shared_device")),
        good(status="noisy", step_seconds=(0.1, 0.3, 0.1, 0.4, 0.1, 0.9)),
        good(status="oom", failure=NO_ROOM, step_seconds=None, attribution_bytes=None),
        good(status="interrupted", failure=FROM_OUTSIDE, step_seconds=None),
        good(step_seconds=None),
        good(phase_peak_bytes=None, peak_phase=None, attribution_bytes=None),
        elsewhere(commit=None, packages={"torch": "2.13.0", "lora-profiler": "0.1.0"}),
        good(attribution_bytes={"parameters": 2_003_000, "unattributed": -3_000}),
        good(attribution_bytes=A_TWENTIETH, flags=("unattributed_over_1_percent",)),
        good(tracked_phase_peak_bytes={"optimizer": 1_990_001, "backward": 1_809_000}),
        good(tracked_phase_peak_bytes={"backward": 1_500_000}),  # the rest is taken by kernels
        good(tracked_phase_peak_bytes={"zero": 1_500_000}, workspace_bytes=95_000),
        good(tracked_phase_peak_bytes={"optimizer": 1_500_000}, flags=PERTURBED),
        replace(good(), started_at="2026-11-01T10:00:00Z", ended_at="2026-11-01T10:00:00"),
        replace(good(), workload=LORA_WORKLOAD),
    ],
)
def test_a_good_record_has_no_problems(record: Record) -> None:
    assert problems(record) == []


NAN, INFINITE = float("nan"), float("inf")
UNREAD = {"peak_requested_bytes": None, "peak_allocated_bytes": None}


PLANTED: tuple[Record, ...] = (
    good(status="oom", step_seconds=None),
    good(status="crash", failure=Failure(reason=" ")),
    good(failure=Failure(reason="x")),
    good(step_seconds=None, attribution_bytes=None, **UNREAD),
    good(flags=("busy_machine",)),
    good(flags=("thermal_throttling",)),
    good(flags=("memory_pressure",)),
    on_cuda(status="ok", step_seconds=(0.1,) * 10, flags=("busy_machine", "host_bound")),
    good(step_seconds=(0.1,) * 5 + (0.12,) * 5),
    on_cuda(status="ok"),
    good(step_seconds=(0.1,) * 9),
    on_cuda(peak_reserved_bytes=1),
    on_cuda(peak_allocated_bytes=123_999_999),
    with_sample(reserved_bytes=100_000_000),
    with_sample(allocated_bytes=99_999_999),
    with_sample(allocated_bytes=None, reserved_bytes=7),
    with_sample(reserved_peak_bytes=3),
    with_sample(active_peak_bytes=3),
    with_sample(requested_peak_bytes=3),
    with_sample(reserved_peak_bytes=140_000_000),
    good(phase_peak_bytes=PHASE_PEAKS | {"optimizer": 1_999_999}),
    good(peak_phase="backward"),
    good(peak_phase="clip"),
    good(peak_allocated_bytes=2_000_512),
    good(attribution_bytes=PEAK | {"inputs": 1}),
    good(attribution_bytes=PEAK | {"unattributed": 20_997, "activations": -19_001}),
    good(attribution_bytes={"parameters": 2_020_001, "unattributed": -20_001}),
    good(**UNREAD),
    good(tracked_phase_peak_bytes={"backward": 1_809_001}),
    good(tracked_phase_peak_bytes={"zero": 1_591_999}),
    good(timed_peak_bytes=2_010_001),
    good(step_seconds=(0.1,) * 10 + (0.0,)),
    good(warmup_seconds=(-1.0,)),
    good(block_seconds=0.0),
    good(phase_seconds={"forward": (0.1, -0.1)}),
    good(stage_seconds={"load": -0.1}),
    replace(good(), started_at="yesterday"),
    replace(good(), ended_at="2026-11-01T12:00:00+01:00"),
    replace(good(), started_at="2026-11-01T10:02:00+00:00"),
    good(tokens_per_step=17),
    good(tokens_per_step=None),
    good(nonpad_tokens_per_step=17),
    good(supervised_tokens_per_step=-1),
    good(num_parameters=10, num_trainable_parameters=11),
    good(loss=(4.0, NAN)),
    good(stage_seconds={"load": INFINITE}),
    good(resident_bytes={"load": -1}),
    with_sample(requested_bytes=-1),
    elsewhere(memory_bytes=-1),
    good(attribution_bytes=PEAK | {"inputs": -4, "buffers": 4}),
    replace(good(), conditions=Conditions(budget_bytes=-5)),
    elsewhere(python=" "),
    elsewhere(packages={"peft": "0.21.2"}),
    elsewhere(platform="unknown"),
    elsewhere(device=Device(kind="cpu", name="")),
    elsewhere(commit=None),
    elsewhere(device=CUDA),
    elsewhere(command="python /srv/people/bench.py"),
    good(status="crash", failure=Failure(reason="x", log="in ~/bench/x.py")),
    elsewhere(variables={"HF_TOKEN": "x"}),
    elsewhere(variables={"X": "hf_" + "a1B2" * 8}),
    replace(good(), conditions=Conditions(weights="/data/weights/model.gguf")),
)


def test_what_is_planted_is_found(golden_file: Golden) -> None:
    found = [problems(record) for record in PLANTED]
    assert all(found)
    golden_file.compare("planted-in-records", "".join("; ".join(said) + "\n" for said in found))


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
    from lora_profiler.facts.catalog import find_model
    from lora_profiler.facts.catalog.bundled import bundled_models

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


BAD_LINES: tuple[Any, ...] = (
    '{"schema_version": "1.1", ',
    "[]",
    edited(good(repeat=1), lambda d: d["measurement"].update(loss=[NAN])),
    edited(good(repeat=1), lambda d: d.update(schema_version="9.0")),
    edited(good(repeat=1), lambda d: d["measurement"].update(peak="high")),
    edited(good(repeat=1), lambda d: d.update(id="x")),
    edited(good(repeat=1), lambda d: d.update(case_key="x")),
    edited(good(repeat=1), lambda d: d.pop("environment_key")),
    edited(good(repeat=1), lambda d: d["conditions"].update(seed=5)),
    edited(good(repeat=1), lambda d: d["environment"]["packages"].update(torch="2.12.0")),
    edited(good(repeat=1), lambda d: d["measurement"].update(peak_phase="backward")),
    record_dict(good()),
)


def test_a_bad_line_is_named(tmp_path: Path, golden_file: Golden) -> None:
    path = tmp_path / "bad.jsonl"
    said = []
    for bad in BAD_LINES:
        write(path, record_dict(good()), bad, record_dict(good(repeat=2)))
        found = check_file(path)
        assert found
        assert all(str(path) in problem and "line 2" in problem for problem in found)
        assert check_folder(tmp_path) == (1, found)
        text = "; ".join(found).replace(str(tmp_path), "FOLDER")
        said.append(re.sub(r"tiny-gpt2-full-[\w.-]+\w|\b[0-9a-f]{12}\b", "KEY", text))
    golden_file.compare("bad-lines-of-records", "\n".join(said) + "\n")


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
