"""The store under what goes wrong: torn lines, full disks, kills at any instant, two writers,
places that cannot be written."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import resuming_run
from commands import in_python
from lora_profiler.errors import UsageError
from lora_profiler.measuring.records import store as store_module
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.record import Failure, Record
from lora_profiler.measuring.records.serialize import record_dict, workload_dict, workload_from_dict
from lora_profiler.measuring.records.store import Store, StoreError, default_records_path, finished
from records import WORKLOAD
from records import make_record as make_any_record

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
"""Of other processes, so that they find the package and these tests."""
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals, limits or locks")

AS_READ = workload_from_dict(workload_dict(WORKLOAD))
"""What is read knows its model from a file, not from a test."""


def make_record(**changes: Any) -> Record:
    return make_any_record(AS_READ, **changes)


def line_of(record: Record) -> str:
    return json.dumps(record_dict(record))


def failed(status: str, repeat: int = 0, **changes: Any) -> Record:
    found = make_record(
        repeat=repeat, status=status, failure=Failure(reason="for a test"), step_seconds=None
    )
    return replace(found, **changes)


def lines_on_disk(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "records.jsonl"


# --- appending ------------------------------------------------------------------------------------


def test_a_record_comes_back_whole(path: Path) -> None:
    records = [make_record(repeat=i) for i in range(3)]
    store = Store(path)
    assert all(store.append(record) for record in records)
    for fresh in (store, Store(path)):
        assert fresh.records() == records
        assert fresh.ids() == {r.id for r in records}
        assert (fresh.torn, fresh.unreadable) == (0, [])
    assert read_records(path).records == records
    assert [line["id"] for line in lines_on_disk(path)] == [r.id for r in records]


def test_an_id_is_written_once_unless_it_is_replaced(path: Path) -> None:
    first, second = make_record(loss=(4.0,)), make_record(loss=(5.0,))
    store = Store(path)
    assert store.append(first)
    assert not store.append(second)
    assert not Store(path).append(second)
    assert store.records() == [first]
    assert store.append(make_record(repeat=1))
    assert store.append(second, replace=True)
    assert not store.append(second, replace=True)  # the very same: nothing doubled
    assert len(lines_on_disk(path)) == 3
    assert store.records() == Store(path).records() == [make_record(repeat=1), second]


def test_an_interrupted_record_gives_way_and_never_takes_a_place(path: Path) -> None:
    interrupted, whole = failed("interrupted"), make_record()
    store = Store(path)
    assert store.append(interrupted)
    assert not store.append(failed("interrupted", started_at=None))
    assert store.append(whole)
    assert not store.append(interrupted, replace=True)
    assert store.records() == [whole]


def test_finished_leaves_out_what_is_to_run_again() -> None:
    statuses = (
        "ok", "noisy", "oom", "host_oom", "timeout", "crash", "unsupported", "invalid",
        "interrupted",
    )  # fmt: skip
    records = [failed(status, repeat) for repeat, status in enumerate(statuses)]
    by_status = {r.measurement.status: r.id for r in records}
    assert finished(records) == set(by_status.values()) - {by_status["interrupted"]}
    again = {by_status["oom"], by_status["noisy"]}
    assert finished(records, rerun=("oom", "noisy")) == finished(records) - again
    said = r"'nosy' is no status to run again; accepted: ok, .* Did you mean noisy"
    with pytest.raises(UsageError, match=said):
        finished(records, rerun=["nosy"])


# --- what a crash leaves --------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 700, -1])
@pytest.mark.parametrize("tail", ["end", "middle"])
def test_a_torn_line_costs_itself_only(path: Path, cut: int, tail: str) -> None:
    before, torn, after = (make_record(repeat=i) for i in range(3))
    store = Store(path)
    store.append(before)
    with path.open("a") as file:
        file.write(line_of(torn)[:cut])
    if tail == "middle":
        assert Store(path).append(after)
    for reader in (store, Store(path)):
        assert reader.records() == ([before, after] if tail == "middle" else [before])
        assert reader.torn == 1
        assert reader.unreadable == []
    assert store.append(torn)
    assert [r.repeat for r in Store(path).records()] == ([0, 2, 1] if tail == "middle" else [0, 1])
    assert store.torn == Store(path).torn == 1


def test_a_line_that_lost_only_its_end_counts(path: Path) -> None:
    first, second = make_record(repeat=0), make_record(repeat=1)
    store = Store(path)
    path.write_text(line_of(first))
    assert store.records() == [first]
    assert store.torn == 0
    assert not store.append(first)
    assert store.append(second)
    assert store.records() == Store(path).records() == [first, second]
    assert path.read_text() == f"{line_of(first)}\n{line_of(second)}\n"


@pytest.mark.parametrize(
    "rubbish", [b"\0" * 40, b'{"id": "\xff\xfe"}', b"[" * 100_000, b"NaN}", b'{"a": 1']
)
def test_rubbish_is_passed_over(path: Path, rubbish: bytes) -> None:
    store = Store(path)
    store.append(make_record(repeat=0))
    with path.open("ab") as file:
        file.write(rubbish)
    assert store.append(make_record(repeat=1))
    assert Store(path).torn == store.torn == 1
    assert [r.repeat for r in store.records()] == [0, 1]
    assert rubbish in path.read_bytes()  # nothing is ever taken away


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(schema_version="9.0"), "schema is '9.0'"),
        (lambda data: data.update(colour="red"), "no field colour"),
        (lambda data: data["measurement"].update(status="fine"), "measurement.status is 'fine'"),
        (
            lambda data: data["workload"]["model"].update(id="nobody/knows", config=None),
            "nobody/knows",
        ),
        (lambda data: data["workload"]["setup"].update(rank=[]), "rank"),
    ],
)
def test_a_line_that_is_no_record_is_told_of_and_kept(path: Path, spoil: Any, message: str) -> None:
    odd = json.loads(line_of(make_record(repeat=1)))
    spoil(odd)
    store = Store(path)
    path.write_text(f"{line_of(make_record(repeat=0))}\n\n{json.dumps(odd)}\n5\n")
    before = path.read_text()
    assert store.append(make_record(repeat=2))
    assert [r.repeat for r in store.records()] == [0, 2]
    assert store.torn == 0
    assert len(store.unreadable) == 2
    assert store.unreadable[0].startswith(f"{path}, line 3: ")
    assert message in store.unreadable[0]
    assert store.unreadable[1].startswith(f"{path}, line 4: ")
    assert path.read_text().startswith(before)


def test_an_older_schema_is_read_and_left_as_it_is(path: Path) -> None:
    old = (TESTS / "golden" / "record-1.0.json").read_text()
    store = Store(path)
    path.write_text(json.dumps(json.loads(old)) + "\n")
    before = path.read_bytes()
    (record,) = store.records()
    assert not store.append(record)
    assert store.append(make_record())
    assert path.read_bytes().startswith(before)
    assert Store(path).records() == [record, make_record()]


def test_what_others_append_or_put_in_its_place_is_seen(path: Path) -> None:
    store, other = Store(path), Store(path)
    store.append(make_record(repeat=0))
    other.append(make_record(repeat=1))
    assert [r.repeat for r in store.records()] == [0, 1]
    write_durably(path, line_of(make_record(repeat=7)) + "\n")  # another file under the same name
    assert [r.repeat for r in store.records()] == [7]
    os.truncate(path, 0)
    assert store.records() == []
    path.unlink()
    assert store.records() == []
    assert store.append(make_record(repeat=2))
    assert other.ids() == {make_record(repeat=2).id}


# --- several processes ----------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from lora_profiler.measuring.records.store import Store
from records import make_record
store, first = Store(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
pairs = [(first + i, 1000 + i) for i in range(25)]
print(sum(store.append(make_record(repeat=repeat)) for pair in pairs for repeat in pair))
"""


def started(command: Sequence[str], *, ready: bool = True) -> "subprocess.Popen[str]":
    """A process of Python that, if asked to, has said that it is ready."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    run = subprocess.Popen([sys.executable, *command], env=ENVIRONMENT, **pipes)
    assert run.stdout is not None and (not ready or run.stdout.readline() == "ready\n")
    return run


def test_four_writers_lose_and_double_nothing(path: Path) -> None:
    """50 records each, every second of which all four write at about the same time."""
    writers = [started(("-c", WRITER, str(path), str(25 * i))) for i in range(4)]
    outputs: list[str] = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        outputs.append(writer.communicate()[0])
        assert writer.returncode == 0
    expected = {make_record(repeat=repeat).id for repeat in [*range(100), *range(1000, 1025)]}
    on_disk = [line["id"] for line in lines_on_disk(path)]
    assert sorted(on_disk) == sorted(expected)
    assert sum(map(int, outputs)) == 125
    assert Store(path).torn == 0


RESUMING = str(TESTS / "resuming_run.py")


def finish_run(path: Path, cases: int) -> tuple[int, int]:
    """How many a run that nobody kills recovered and measured."""
    run = started((RESUMING, str(path), str(cases)), ready=False)
    words = run.communicate(timeout=60)[0].split()
    assert run.returncode == 0
    return int(words[1]), int(words[2])


@POSIX
def test_killed_at_20_random_instants_then_resumed(path: Path) -> None:
    """Every row there once, and a further run does nothing. The kills fall into the work, not into
    Python's start."""
    cases, draw, killed = 200, random.Random(3), 0
    for _ in range(20):
        run = started((RESUMING, str(path), str(cases)))
        time.sleep(draw.uniform(0, 0.08))
        run.kill()
        run.communicate()
        killed += run.returncode == -signal.SIGKILL
    assert killed >= 15
    assert len(Store(path).ids()) < cases
    finish_run(path, cases)
    wanted = {make_record(repeat=repeat).id for repeat in range(cases)}
    store = Store(path)
    assert store.ids() == wanted
    on_disk = path.read_text().splitlines()
    assert len(on_disk) - store.torn == cases  # none of them twice
    assert store.unreadable == []
    before = path.read_bytes()
    assert finish_run(path, cases) == (0, 0)
    assert path.read_bytes() == before


@POSIX
@pytest.mark.parametrize("point", resuming_run.POINTS)
def test_killed_at_each_point_of_a_case(path: Path, point: str) -> None:
    run = started((RESUMING, str(path), "3", point), ready=False)
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    recovered, measured = finish_run(path, 3)
    expected = {"half a result": (0, 3), "line": (0, 2), "line on disk": (0, 2)}
    # what was measured is never measured again
    assert (recovered, measured) == expected.get(point, (1, 2))
    store = Store(path)
    assert [r.repeat for r in store.records()] == [0, 1, 2]
    assert store.torn == (point == "half a line")
    assert len(path.read_text().splitlines()) == 3 + store.torn
    assert list(store.pending_folder.glob("*.json")) == []


# --- results on their way -------------------------------------------------------------------------


def test_recover_takes_in_finished_results_and_reports_the_rest(path: Path) -> None:
    store = Store(path)
    known, new = make_record(repeat=0), make_record(repeat=1)
    store.append(known)
    for record in (known, new):
        write_durably(store.pending_path(record.id), line_of(record))
    odd = store.pending_path("odd one")
    odd.write_text('{"schema_version": "9.0"}')
    torn = store.pending_path("torn")
    torn.write_text(line_of(new)[:100])
    unfinished = store.pending_folder / "unfinished.json.tmp"
    unfinished.write_text(line_of(new)[:100])
    assert store.recover() == [new]
    assert store.recover() == []
    assert store.records() == [known, new]
    assert {p.name for p in store.pending_folder.iterdir()} == {odd.name, torn.name, "in_use"}
    assert len(store.unreadable) == 2
    assert any(str(odd) in message and "9.0" in message for message in store.unreadable)
    assert any(str(torn) in message for message in store.unreadable)


def test_recover_keeps_the_later_of_two(path: Path) -> None:
    """A run that measured an id again and was killed before it could replace the old record; and
    the other way round."""
    store = Store(path)
    noisy = make_record(status="noisy")
    later = replace(make_record(), ended_at="2026-11-01T11:00:00+00:00")
    earlier = replace(make_record(), ended_at="2026-11-01T09:00:00+00:00")
    store.append(noisy)
    write_durably(store.pending_path(later.id), line_of(later))
    assert store.recover() == [later]
    write_durably(store.pending_path(later.id), line_of(earlier))
    assert store.recover() == []
    assert store.records() == [later]
    assert list(store.pending_folder.glob("*.json")) == []


HOLDER = """
import sys
from pathlib import Path
from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.store import Store
from test_store import line_of, make_record
write_durably(Store(Path(sys.argv[1])).pending_path("mine"), line_of(make_record()))
print("ready", flush=True)
sys.stdin.readline()
"""


@POSIX
def test_recover_takes_nothing_from_a_run_that_lives(path: Path) -> None:
    store = Store(path)
    store.pending_path("marks this process too")
    run = started(("-c", HOLDER, str(path)))
    assert store.recover() == Store(path).recover() == []
    run.kill()
    run.communicate()
    assert store.recover() == [make_record()]


@pytest.mark.parametrize("name", ["org/model:x", "a" * 300, "..", "é" * 120, "a b", ""])
def test_any_name_makes_a_file_of_its_own_in_the_folder(path: Path, name: str) -> None:
    store = Store(path)
    made = store.pending_path(name)
    assert made.parent == store.pending_folder
    write_durably(made, "{}")
    others = (name + "x", "org-model-x", "a-b", make_record().id)
    assert made not in map(store.pending_path, others)
    assert store.pending_path(name) == made
    assert Store(path).pending_path(name) != made  # another run's result is not taken for one's own


def test_merge_takes_in_what_is_new_or_later(path: Path, tmp_path: Path) -> None:
    here, pieces = Store(path), [tmp_path / f"piece{i}.jsonl" for i in range(2)]
    old = replace(make_record(repeat=0), ended_at="2026-11-01T10:00:00+00:00")
    new = replace(make_record(repeat=0, status="noisy"), ended_at="2026-11-01T11:00:00+00:00")
    here.append(old)
    pieces[0].write_text(f"{line_of(make_record(repeat=1))}\n{line_of(new)}\n")
    pieces[1].write_text(
        f"{line_of(old)}\n{line_of(make_record(repeat=2))}\nnull\n{line_of(failed('interrupted', 1))}\n{{"
    )
    assert here.merge(pieces) == 3
    assert here.records() == [make_record(repeat=1), new, make_record(repeat=2)]
    assert here.merge([*pieces, path]) == 0
    assert len(here.unreadable) == 1 and here.unreadable[0].startswith(f"{pieces[1]}, line 3")
    with pytest.raises(StoreError, match="does not exist"):
        here.merge([tmp_path / "nothing.jsonl"])


def test_a_result_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "result.json", []
    write_durably(path, "old")
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append(("fsync", path.read_text(), path.with_name("result.json.tmp").exists()))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        events.append(("rename", path.read_text(), source.read_text()))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    write_durably(path, "new é")
    assert events == [("fsync", "old", True), ("rename", "old", "new é"), ("fsync", "new é", False)]
    assert path.read_bytes() == "new é".encode()


# --- disks and places -----------------------------------------------------------------------------

FILLING = """
import resource, signal, sys
from pathlib import Path
from lora_profiler.measuring.records.store import Store, StoreError
from test_store import line_of, make_record, write_durably
path = Path(sys.argv[1])
store = Store(path)
store.append(make_record(repeat=0))
whole = path.read_bytes()
write_durably(store.pending_path("kept"), line_of(make_record(repeat=1)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, resource.RLIM_INFINITY))
try:
    store.append(make_record(repeat=1))
except StoreError as e:
    print(e)
assert path.read_bytes() == whole
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert [r.repeat for r in store.recover()] == [1]
assert [r.repeat for r in store.records()] == [0, 1] and store.torn == 0
"""


@POSIX
def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(path: Path) -> None:
    """The kernel really writes the first 100 bytes only."""
    assert in_python(FILLING, str(path), env=ENVIRONMENT).startswith(
        f"{path} could not be added to: No space left on device. The result is still in"
        f" {path.parent}"
    )


@pytest.mark.parametrize("ends_open", [False, True])
def test_a_disk_that_fails_to_keep_a_line_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, ends_open: bool
) -> None:
    store = Store(path)
    store.append(make_record(repeat=0))
    if ends_open:
        os.truncate(path, path.stat().st_size - 30)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        said = r"No space left on device. Nothing of this record was kept"
        with pytest.raises(StoreError, match=said) as e:
            store.append(make_record(repeat=1))
    assert e.value.exit_code == 2
    assert path.read_bytes() == before
    assert store.append(make_record(repeat=1))
    assert [r.repeat for r in Store(path).records()] == ([1] if ends_open else [0, 1])


def test_one_write_a_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, writes = Store(path), []
    real = os.write

    def counted(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(store_module.os, "write", counted)
    store.append(make_record())
    assert writes == [path.read_bytes()]
    assert writes[0].count(b"\n") == 1


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = r"Records cannot be written to .*file/records.jsonl: Not a directory\. Name"
    refusals = [
        (Store, "file/records.jsonl", nowhere),
        (Store, ".", r"is a folder; records need a file, such as .*/records.jsonl"),
        (read_records, ".", "is a folder; a file of records is needed"),
    ]
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        refusals.append((Store, "pipe", "is no regular file"))
    for open_, name, said in refusals:
        with pytest.raises(StoreError, match=said):
            open_(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_permissions_are_tried_before_anything_is_measured(tmp_path: Path, what: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("")
    Store(path)
    (tmp_path if what == "folder" else path).chmod(0o500 if what == "folder" else 0o400)
    (tmp_path / "records.pending").chmod(0o500 if what == "folder" else 0o700)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            Store(path)
        assert read_records(path).records == []
    finally:
        tmp_path.chmod(0o700)


def test_permission_errors_become_store_errors(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is refused for its permissions; the system's answer is made up here."""
    Store(path).append(make_record())
    real = os.open

    def read_only(name: Any, flags: int, *more: Any) -> int:
        if Path(name) == path and flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return real(name, flags, *more)

    monkeypatch.setattr(store_module.os, "open", read_only)
    with pytest.raises(StoreError, match=r"Records cannot be written to .*: Permission denied"):
        Store(path)
    assert len(read_records(path).records) == 1


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/x/.local/share"),
        ("linux", {}, "/home/x/.local/share"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "/home/x/Library/Application Support"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/x/AppData/Local"),
    ],
)
def test_default_place(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert default_records_path() == Path(expected, "lora_profiler", "records.jsonl")


def test_two_threads_take_turns(path: Path) -> None:
    stores = [Store(path), Store(path)]
    threads = [
        threading.Thread(target=lambda s=s: [s.append(make_record(repeat=i)) for i in range(20)])  # type: ignore[misc]
        for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines_on_disk(path)) == 20
