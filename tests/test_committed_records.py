"""Every record committed under benchmarks/records is whole, consistent and free of private text."""

import json
import shutil
from pathlib import Path

from lora_profiler.record_checks import check_folder
from lora_profiler.record_json import record_dict
from records import make_record

RECORDS = Path(__file__).parents[1] / "benchmarks" / "records"


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
    planted.parent.mkdir(parents=True)
    bad = make_record(environment={"commit": "0123456789ab"}, flags=("busy_machine",))
    planted.write_text(json.dumps(record_dict(bad)) + "\n")
    assert check_folder(tmp_path / "records") == (
        files + 1,
        [f"{planted}, line 1, {bad.id}: The status is ok in spite of the flag busy_machine."],
    )
