"""Files and folders of records: what is read, what is passed over with a word, and what is
refused."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from golden_files import Golden
from lora_profiler.measuring.records.load import RecordSet, StoreError, read_content, read_set
from lora_profiler.measuring.records.record import Record
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.report.json.bench import bench_payload
from lora_profiler.runs.comparison.errors import compare
from records import make_prediction, make_record

GOLDEN = Path(__file__).parents[1] / "golden"
MADE = [make_record(repeat=i) for i in range(4)]


def line(record: Record, **changes: Any) -> str:
    return json.dumps(record_dict(record) | changes) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def ids(found: RecordSet) -> list[int]:
    return [r.repeat for r in found.records]


def test_a_file_and_two_levels_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    file = write(tmp_path / "one.txt", line(MADE[0]))
    write(tmp_path / "set" / "b.jsonl", line(MADE[2]))
    write(tmp_path / "set" / "a.jsonl", line(MADE[1]))
    write(tmp_path / "set" / "card" / "c.jsonl", line(MADE[3]))
    write(tmp_path / "set" / "card" / "deep" / "d.jsonl", "not read")
    write(tmp_path / "set" / "notes.json", "not read")
    write(tmp_path / "set" / "records.pending" / "x.json", "not read")
    found = read_set([file, tmp_path / "set"])
    assert ids(found) == [0, 1, 2, 3]
    assert found.records == tuple(MADE)
    assert found.warnings == ()


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", line(MADE[0]), "{torn\n")
    found = read_set([file, tmp_path, file])
    assert ids(found) == [0]
    assert len(found.warnings) == 1


def test_of_one_id_the_record_that_ended_last_counts_and_an_interrupted_one_only_alone(
    tmp_path: Path,
) -> None:
    def ended(minute: int, status: str = "ok") -> Record:
        return replace(make_record(status=status), ended_at=f"2026-11-01T10:{minute:02}:00+00:00")

    a = write(tmp_path / "a.jsonl", line(ended(30)))
    b = write(tmp_path / "b.jsonl", line(ended(20)))
    c = write(tmp_path / "c.jsonl", line(ended(40, "interrupted")))
    for order in ([a, b, c], [c, b, a], [b, a]):
        assert read_set(order).records == (ended(30),)
    assert read_set([c]).records == (ended(40, "interrupted"),)


def test_links_in_folders_are_passed_over_and_named_ones_are_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "elsewhere" / "secret.jsonl", line(MADE[1]))
    folder = tmp_path / "set"
    write(folder / "own.jsonl", line(MADE[0]))
    os.symlink(secret, folder / "linked.jsonl")
    os.symlink(secret.parent, folder / "linked")
    assert ids(read_set([folder])) == [0]
    assert ids(read_set([folder, folder / "linked.jsonl"])) == [0, 1]


def test_good_lines_are_used_and_each_kind_of_bad_one_is_told_of(tmp_path: Path) -> None:
    newer = [line(MADE[1], schema_version="9.0")] * 5
    unknown = line(make_record(repeat=9), workload={"model": {"id": "nobody/nothing"}, "setup": {}})
    file = write(
        tmp_path / "a.jsonl",
        line(MADE[0]),
        *newer,
        '{"torn": \n',
        "null\n",
        unknown,
        "\n",
        line(MADE[2])[:400],
    )
    empty = write(tmp_path / "b.jsonl")
    found = read_set([file, empty])
    assert ids(found) == [0]
    first, second, third, more, torn, nothing = found.warnings
    for number, text in enumerate((first, second, third), 2):
        assert (
            text
            == f"{file}, line {number}: The record's schema is '9.0'; this version reads up to 1.1."
        )
    assert more == f"{file}: 4 more of its lines are no records that can be read."
    assert torn == f"{file}: 2 of its lines are no JSON, as a crash leaves them."
    assert nothing == f"{empty} is empty."


def test_of_one_id_in_one_file_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    older, newer = (replace(MADE[0], ended_at=f"2026-11-0{day}T00:00:00+00:00") for day in (1, 2))
    for order in ((older, newer), (newer, older)):
        file = write(tmp_path / "a.jsonl", *(line(r) for r in order))
        assert read_set([file]).records == read_content("a", file.read_bytes()).records == (newer,)


def test_content_is_read_as_its_file_is(tmp_path: Path) -> None:
    document = json.dumps(bench_payload(MADE[:2], ()))
    for text in (
        line(MADE[0]) + "{torn\n",
        "\ufeff" + line(MADE[1]),
        document,
        "[]\n" * 9 + line(MADE[0]),
    ):
        file = write(tmp_path / "{a}.jsonl", text)
        assert read_content(str(file), file.read_bytes()) == read_set([file])


def test_an_older_file_is_read(tmp_path: Path) -> None:
    old = json.loads((GOLDEN / "record-1.0.json").read_text())
    (record,) = read_set([write(tmp_path / "old.jsonl", json.dumps(old))]).records
    assert record.measurement.status == old["measurement"]["status"]


def test_the_json_that_bench_printed_is_a_set_too(tmp_path: Path) -> None:
    document = bench_payload(MADE, compare(MADE[0], make_prediction()))
    file = write(tmp_path / "bench.json", json.dumps(document, indent=2))
    found = read_set([file])
    assert found.records == tuple(MADE)
    assert found.warnings == ()
    document["records"][1] = {"schema_version": "1.1"}
    found = read_set([write(file, json.dumps(document, indent=2))])
    assert ids(found) == [0, 2, 3]
    assert found.warnings == (
        f"{file}, records[1]: A record needs environment, measurement, workload.",
    )


NO_RECORDS = (
    b"", b"\n \n", b"model,error\ngpt2,3\n", b"\x89PNG\r\n\x1a\n\x00\xff", b"\xff\xfe{\x00}\x00",
    b"[1, 2]\n", b'{"records": []}\n', b'{\n"records": {}\n}\n', b'{\n"records": []\n}\n',
    b"[" * 100_000, b'{"schema_version": "1.1", "measurement": {"step_seconds": [NaN]}}',
)  # fmt: skip


def test_a_file_without_any_record_is_refused_with_what_it_holds(
    tmp_path: Path, golden_file: Golden
) -> None:
    file = tmp_path / "a.jsonl"
    said = []
    for content in NO_RECORDS:
        file.write_bytes(content)
        with pytest.raises(StoreError) as refused:
            read_set([file])
        assert refused.value.exit_code == 2
        said.append(str(refused.value).replace(str(file), "a.jsonl"))
    golden_file.compare("files-without-records", "\n".join(said) + "\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "does not exist; name files of records, or folders of .jsonl files"),
        ("empty", "has no .jsonl files, nor have the folders in it"),
        ("pipe", "is neither a file nor a folder"),
        ("a\0b", "a\0b"),
        ("x" * 5000, "cannot be opened: File name too long"),
    ],
)
def test_a_path_that_is_no_place_of_records_is_refused(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    good = write(tmp_path / "good.jsonl", line(MADE[0]))
    with pytest.raises(StoreError) as refused:
        read_set([good, tmp_path / name])
    assert said in str(refused.value)


def test_numbers_of_a_record_stay_what_they_were(tmp_path: Path) -> None:
    (found,) = read_set([write(tmp_path / "a.jsonl", line(MADE[0]))]).records
    assert asdict(found.measurement) == asdict(MADE[0].measurement)


def test_of_many_files_without_a_record_two_are_named(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text("{}\n{}\n")
    with pytest.raises(StoreError) as refused:
        read_set([tmp_path])
    text = str(refused.value)
    assert text.count(".jsonl, line 1: A record needs a schema_version.") == 2
    assert "3 more files have none." in text and "line 2" not in text
