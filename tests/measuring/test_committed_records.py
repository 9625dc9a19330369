"""Every record committed under benchmarks/records is whole, consistent, possible and free of
private text."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.suites import suites
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.record import Record
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.planning.engine import predict
from record_checks import check_folder, impossible
from records import H100, WORKLOAD, make_record

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"


def test_committed_records_are_valid() -> None:
    files, found = check_folder(RECORDS)
    assert found == []
    assert files == len(list(RECORDS.rglob("*.jsonl")))


def test_a_planted_bad_record_would_be_found(tmp_path: Path) -> None:
    """As if it were committed beside the real ones, deep in a folder of its own."""
    if RECORDS.exists():
        shutil.copytree(RECORDS, tmp_path / "records")
    files, _ = check_folder(tmp_path / "records")
    planted = tmp_path / "records" / "a machine" / "suite" / "planted.jsonl"
    bad = make_record(environment={"commit": "0123456789ab"}, flags=("busy_machine",))
    plant(planted, bad)
    assert check_folder(tmp_path / "records") == (
        files + 1,
        [f"{planted}, line 1, {bad.id}: The status is ok in spite of the flag busy_machine."],
    )


def plant(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record_dict(record)) + "\n")


def committed(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.rglob("*.jsonl")):
        yield from read_records(path).records


# --- speed ----------------------------------------------------------------------------------------


def untrue_speeds(folder: Path) -> list[str]:
    """Of records of a card: on a processor no speed is impossible, since nobody knows its peak."""
    timed = (
        r
        for r in committed(folder)
        if r.environment.device.kind != "cpu" and r.measurement.step_seconds
    )
    return [
        sentence
        for record in timed
        for sentence in impossible(record, predict(record.workload).flops)
    ]


def test_no_record_computes_more_than_its_card_can() -> None:
    assert untrue_speeds(RECORDS) == []


@pytest.mark.parametrize(("share", "count"), [(0.98, 0), (1.02, 1)])
def test_a_planted_impossible_speed_would_be_found(
    tmp_path: Path, share: float, count: int
) -> None:
    workload = replace(WORKLOAD, setup=replace(WORKLOAD.setup, device="cuda", dtype="bfloat16"))
    flops = predict(workload).flops
    assert flops is not None
    seconds = flops.total / (989.4e12 * share)  # the dense bfloat16 peak of an H100
    plant(
        tmp_path / "a card" / "rows.jsonl",
        make_record(workload, device=H100, step_seconds=(seconds,) * 10),
    )
    assert len(untrue_speeds(tmp_path)) == count


# --- what the suite of a CPU promised -------------------------------------------------------------


def shortcomings(records: list[Record]) -> list[str]:
    """What records of `cpu_families` lack: eighty cases that went through, each with 99 % of its
    peak explained."""
    keys = {case.key for case in suites()["cpu_families"]("cpu")}
    through = [r for r in records if r.case_key in keys and r.measurement.went_through]
    found = (
        []
        if len({r.case_key for r in through}) >= 80
        else [f"only {len({r.case_key for r in through})} cases went through"]
    )
    for record in through:
        peak, parts = record.measurement.peak_requested_bytes, record.measurement.attribution_bytes
        if not peak or not parts:
            found.append(f"{record.id} does not say what its peak is made of")
        elif abs(parts.get("unattributed", 0)) > 0.01 * peak:
            found.append(f"{record.id} leaves {parts['unattributed']} of {peak} bytes unattributed")
    return found


def test_the_cpu_records_are_as_many_and_as_explained_as_was_promised() -> None:
    assert shortcomings(list(committed(RECORDS))) == []


def of_the_suite(count: int, **measured: object) -> list[Record]:
    cases = suites()["cpu_families"]("cpu")[:count]
    return [make_record(case.workload, conditions=case.conditions, **measured) for case in cases]


def test_too_few_records_would_be_found() -> None:
    assert shortcomings(of_the_suite(80)) == []
    assert shortcomings([*of_the_suite(79), *of_the_suite(79), make_record()]) == [
        "only 79 cases went through"
    ]
    through = of_the_suite(80)
    through[3] = replace(through[3], measurement=replace(through[3].measurement, status="oom"))
    assert shortcomings(through) == ["only 79 cases went through"]


@pytest.mark.parametrize(("rest", "found"), [(10_000, 0), (10_001, 80), (-10_001, 80)])
def test_an_unexplained_peak_would_be_found(rest: int, found: int) -> None:
    parts = {"parameters": 1_000_000 - rest, "unattributed": rest}
    assert (
        len(shortcomings(of_the_suite(80, peak_requested_bytes=1_000_000, attribution_bytes=parts)))
        == found
    )


def test_a_record_without_attribution_would_be_found() -> None:
    assert len(shortcomings(of_the_suite(80, attribution_bytes=None))) == 80
