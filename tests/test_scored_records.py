"""`benchmarks.records`: rows of the error table, and speeds that cannot be true."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import records
from benchmarks import own_rows, pages
from benchmarks import records as scored
from lora_profiler.comparison.errors import compare, summary
from lora_profiler.planning.engine import predict
from lora_profiler.records.record import Record
from lora_profiler.records.serialize import record_dict


def test_a_metric_of_which_only_nothing_was_measured_has_a_row() -> None:
    """Predicted 4 bytes, measured 0: no relative error, and no worst record."""
    prediction = records.make_prediction(persistent_bytes={"adapters": 4})
    record = records.make_record(persistent_bytes={"adapters": 0})
    (group,) = [
        g
        for g in summary(compare(record, prediction))
        if g.group == ("persistent_bytes", "adapters")
    ]
    assert group.worst_record_id is None
    assert scored.row(group, {}) == "| persistent_bytes | adapters | 1 |  |  |  |"


def test_the_worst_record_is_named() -> None:
    record = records.make_record(saved_activation_bytes=200_000)
    (group,) = [
        g
        for g in summary(compare(record, records.make_prediction()))
        if g.group[0] == "saved_activation_bytes"
    ]
    assert (
        scored.row(group, {record.id: "a name"})
        == "| saved_activation_bytes | total | 1 | 25.0000% | -25.00 % | a name |"
    )


def h100_record(share_of_peak: float) -> Record:
    """Steps that take so long that the predicted FLOPs are this share of what an H100 can do in
    bfloat16."""
    setup = replace(records.WORKLOAD.setup, device="cuda", dtype="bfloat16")
    flops = predict(replace(records.WORKLOAD, setup=setup)).flops
    assert flops is not None
    seconds = flops.total / (989.4e12 * share_of_peak)
    return records.make_record(
        replace(records.WORKLOAD, setup=setup), device=records.H100, step_seconds=(seconds,) * 10
    )


@pytest.mark.parametrize(("share", "said"), [(0.98, False), (1.02, True)])
def test_a_speed_beyond_the_card_ends_with_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    share: float,
    said: bool,
) -> None:
    found = h100_record(share)
    (tmp_path / "records" / "card").mkdir(parents=True)
    (tmp_path / "records" / "card" / "rows.jsonl").write_text(json.dumps(record_dict(found)) + "\n")
    monkeypatch.setattr(scored, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(own_rows, "DATA", tmp_path)  # not the package's, which other tests read
    monkeypatch.setattr(scored, "REASONS", (("made by hand", lambda c, s: True),))
    assert scored.main() == int(said)
    sentence = f"{found.id} reaches 102 % of the peak of NVIDIA H100"
    assert (sentence in capsys.readouterr().out) == said
    assert (sentence in (tmp_path / "records.md").read_text()) == said
