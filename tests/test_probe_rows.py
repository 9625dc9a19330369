"""Rows of the stand-alone probe as records. The first three of `golden/probe-rows.jsonl` it made on a CPU; the others are made by
hand as an H100 would report them: a case that went well, one out of memory, one that never ended, one that never began."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.convert_probe import convert, main, read_rows, record_from_probe
from lora_profiler.planning.engine import predict
from lora_profiler.records.serialize import record_dict, record_from_dict
from lora_profiler.records.validate import check_file, problems

GOLDEN = Path(__file__).parent / "golden" / "probe-rows.jsonl"
ROWS = read_rows(GOLDEN.read_text("utf-8"))
QLORA, HELD, FULL, H100, OOM, TIMEOUT, CRASH = ROWS


@pytest.mark.parametrize("row", [QLORA, FULL, H100, OOM])
def test_a_converted_row_is_a_record_without_fault(row: Mapping[str, Any]) -> None:
    record = record_from_probe(row)
    assert problems(record) == []
    assert record_from_dict(json.loads(json.dumps(record_dict(record)))) == record


@pytest.mark.parametrize("row", [QLORA, FULL])
def test_what_the_probe_saw_on_a_cpu_is_what_the_predictor_says(row: Mapping[str, Any]) -> None:
    """Two witnesses of the same question: it was read rightly if the bytes that persist and the parameters agree."""
    record = record_from_probe(row)
    foretold = predict(record.workload)
    assert record.measurement.num_parameters == foretold.parameters.total
    assert record.measurement.num_trainable_parameters == foretold.parameters.trainable
    persistent = dict(record.measurement.persistent_bytes)
    persistent.pop("buffers")
    assert persistent == {name: size for name, size in foretold.persistent_bytes.items() if size}


def test_times_and_losses_are_taken_over() -> None:
    m = record_from_probe(FULL).measurement
    assert m.step_seconds == tuple(FULL["step_seconds"])
    assert m.block_seconds == FULL["wall_seconds"]
    assert m.loss == tuple(FULL["loss"])
    assert m.tokens_per_step == 2 * 64
    assert m.status == "noisy"  # its median is known to 15 % only
    assert m.phases == () and m.peak_requested_bytes is None  # a CPU has no counters


def test_counters_of_a_gpu() -> None:
    """Steps count from 1 in a record, from 0 in the probe; the first is no part of the steady state."""
    record = record_from_probe(H100)
    m = record.measurement
    assert [(s.step, s.phase) for s in m.phases] == [(n, p) for n in (1, 2, 3) for p in ("forward", "backward", "optimizer")]
    rows = {(p["step"], p["phase"]): p for p in H100["phases"]}
    assert m.peak_requested_bytes == rows[2, "backward"]["requested_bytes_peak"]
    assert m.peak_allocated_bytes == rows[2, "backward"]["allocated_bytes_peak"]
    assert m.peak_reserved_bytes == 124 * 2**20
    assert m.peak_phase == "backward"
    assert m.phase_peak_bytes["forward"] == rows[1, "forward"]["requested_bytes_peak"]
    assert m.step1_phase_peak_bytes["forward"] == rows[0, "forward"]["requested_bytes_peak"]
    assert m.phases[0].reserved_bytes == rows[0, "forward"]["reserved_bytes_current"]
    assert (m.context_bytes, m.device_used_bytes) == (518 * 2**20, 620 * 2**20)
    assert [s.when for s in m.device_samples] == ["idle", "context", "end"]
    assert m.attention_kernel == "flash"
    assert m.health == {"num_alloc_retries": 0, "num_ooms": 0, "num_device_alloc": 7, "inactive_split_bytes.all.peak": 9_000_000}
    assert m.status == "ok"


def test_environment_of_a_gpu() -> None:
    environment = record_from_probe(H100).environment
    assert environment.device.name == "NVIDIA H100 80GB HBM3"
    assert environment.device.total_bytes == 84_929_347_584
    assert (environment.device.driver, environment.device.cuda, environment.device.cudnn) == ("580.159.04", "13.0", "91900")
    assert environment.packages["torch"] == "2.11.0+cu130"
    assert environment.variables == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def test_setup_of_a_case() -> None:
    setup = record_from_probe(H100).workload.setup
    assert setup.device == "cuda" and setup.attention == "auto" and setup.method == "lora"
    assert setup.lora is not None and setup.lora.target_modules == ("q_proj", "v_proj") and setup.lora.alpha == 32
    quantization = record_from_probe(QLORA).workload.setup.quantization
    assert quantization is not None and quantization.double_quant and quantization.recipe == "stock"
    assert record_from_probe(FULL).workload.setup.optimizer_impl == "fused"


def test_gpt2_ran_without_its_dropouts() -> None:
    row = {**H100, "config": {"model_type": "gpt2"}, "case": {**H100["case"], "model": "gpt2", "targets": "c_attn"}}
    config = record_from_probe(row).workload.model.config
    assert (config["attention_dropout"], config["resid_pdrop"], config["embd_pdrop"]) == (0.0, 0.0, 0.0)


def test_pressure_on_the_allocator_spoils_the_times() -> None:
    m = record_from_probe({**H100, "health": {"num_alloc_retries": 2}}).measurement
    assert m.status == "noisy" and m.flags == ("memory_pressure",)


def test_out_of_memory_says_where_and_for_how_much() -> None:
    m = record_from_probe(OOM).measurement
    assert m.status == "oom" and m.failure is not None
    assert (m.failure.phase, m.failure.step) == ("backward", 1)
    assert m.failure.tried_bytes == round(3.91 * 2**30)
    assert len(m.phases) == 1 and m.peak_requested_bytes is None  # no steady state was reached
    assert m.step1_phase_peak_bytes == {"forward": OOM["phases"][0]["requested_bytes_peak"]}


def test_nothing_but_held_logits_is_left_out() -> None:
    assert HELD["case"]["keep_outputs"]
    assert len(convert(ROWS)) == len(ROWS) - 1


def test_rows_of_a_child_that_told_nothing_borrow_from_the_others() -> None:
    records = convert(ROWS[3:])
    assert [r.measurement.status for r in records] == ["ok", "oom", "timeout", "crash"]
    timeout, crash = records[2:]
    assert timeout.environment == records[0].environment
    assert timeout.workload.model == records[0].workload.model
    assert (timeout.repeat, crash.repeat) == (0, 1)  # one case, tried twice
    assert crash.measurement.failure is not None and crash.measurement.failure.exit_code == 1
    assert "/" not in crash.measurement.failure.reason
    assert [problems(record) for record in records] == [[], [], [], []]


def test_a_row_without_its_model_is_refused() -> None:
    with pytest.raises(KeyError):
        record_from_probe({name: value for name, value in H100.items() if name != "config"})


def test_the_command_writes_a_file_that_passes_the_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "grid.jsonl"
    lines = GOLDEN.read_text("utf-8").splitlines()[3:]
    torn.write_text("\n".join(lines) + '\n{"kind": "case", "ca')
    output = tmp_path / "card" / "records.jsonl"
    assert main([str(torn), "-o", str(output)]) == 0
    assert "4 of 4 rows" in capsys.readouterr().out
    assert check_file(output) == []


def test_a_record_that_would_not_pass_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phases = [{**H100["phases"][0], "reserved_bytes_peak": 1}, *H100["phases"][1:]]
    path = tmp_path / "grid.jsonl"
    path.write_text(json.dumps({**H100, "phases": phases}) + "\n")
    assert main([str(path), "-o", str(tmp_path / "records.jsonl")]) == 1
    assert "reserved" in capsys.readouterr().out


def test_repeats_and_cases_have_ids_of_their_own() -> None:
    records = convert([*ROWS[3:], *ROWS[3:5]])
    assert len({record.id for record in records}) == len(records)
    assert [r.repeat for r in records[-2:]] == [1, 1]
    assert replace(records[-2], repeat=0) == records[0]
