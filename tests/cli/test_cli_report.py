"""`lora-profile report`, and `bench --report`, as a user meets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benching import Bench, bench, record_of, statuses
from commands import Done, OnRecords, Run, refused
from lora_profiler.report.page import embedded_data
from lora_profiler.report.page import write as page_write
from records import LORA_WORKLOAD, make_record

__all__ = ["bench"]  # a fixture


class Report(OnRecords):
    @property
    def page(self) -> Path:
        return self.folder / "page.html"

    def __call__(self, *arguments: str, output: str | None = None) -> Done:
        return super().__call__(*arguments, "-o", output or str(self.page))


@pytest.fixture
def report(run: Run, tmp_path: Path) -> Report:
    return Report(run, tmp_path, "report")


TWO = [make_record(), make_record(LORA_WORKLOAD, num_trainable_parameters=9_216)]


def test_records_of_files_and_folders_become_one_page(report: Report) -> None:
    report.file("runs/a.jsonl", TWO[:1])
    code, out, err = report(str(report.folder / "runs"), report.file("b.jsonl", TWO[1:]))
    assert (code, out) == (0, "")
    assert err == f"Wrote {report.page}.\nOpen it in a browser: {report.page.as_uri()}\n"
    text = report.page.read_text("utf-8")
    assert embedded_data(text)["records"]["record_id"] == [record.id for record in TWO]
    assert "<title>tiny-gpt2: predicted and measured</title>" in text


def test_what_the_command_wrote_before_can_be_a_source_and_lines_that_are_none_are_told_of(
    report: Report,
) -> None:
    code, _, err = report(report.file("a.jsonl", TWO, more='{"torn": \nnothing\n'))
    assert code == 0
    assert "passed over" in err
    assert len(embedded_data(report.page.read_text("utf-8"))["records"]["record_id"]) == 2


def test_title_and_engine_are_honoured(report: Report) -> None:
    path = report.file("a.jsonl", TWO)
    assert report(path, "--title", "Mine & <yours>", "--engine", "compiled")[0] == 0
    text = report.page.read_text("utf-8")
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in text
    refusals = embedded_data(text)["refusals"]  # no test has a profile of it
    assert [r["record_id"] for r in refusals] == [record.id for record in TWO]
    assert "no compiled profile" in refusals[0]["reason"] and "no compiled profile" in text


def test_a_file_is_replaced_only_by_force_and_records_never(report: Report) -> None:
    path = report.file("a.jsonl", TWO)
    report.page.write_text("mine")
    code, _, err = report(path)
    assert (code, report.page.read_text()) == (2, "mine")
    assert "exists\n  Name another file, or add --force" in err
    assert report(path, "--force")[0] == 0
    assert report.page.read_text("utf-8").startswith("<!doctype html>")
    before = Path(path).read_text()
    code, _, err = report(path, "--force", output=path)
    assert (code, Path(path).read_text()) == (2, before)
    assert "holds the records" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl does not exist"),
        (["empty.jsonl"], "no record can be read"),
        (["a.jsonl", "--engine", "anlytic"], "Did you mean analytic"),
        ([], "RECORDS is missing"),
    ],
)
def test_a_wrong_question_is_refused_and_nothing_is_written(
    report: Report, arguments: list[str], message: str
) -> None:
    report.file("empty.jsonl", [])
    report.file("a.jsonl", TWO)
    named = (str(report.folder / a) if a.endswith(".jsonl") else a for a in arguments)
    code, _, err = report(*named)
    assert code == 2 and message in err
    assert not report.page.exists()


def test_the_page_needs_a_place(report: Report) -> None:
    nowhere = str(report.folder / "nowhere" / "page.html")
    assert "there is no folder" in report("a.jsonl", output=nowhere).stderr
    assert "is a folder" in report("a.jsonl", output=str(report.folder)).stderr


def test_a_missing_library_is_named_before_anything_is_read(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_jinja2(monkeypatch)
    code, _, err = report("nothing that exists")
    missing = "error: the report needs jinja2: pip install 'lora-profiler[report]'\n"
    assert (code, err) == (2, missing)


def without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_write, "missing", list)


def test_the_page_is_the_same_whatever_the_order_of_hashing(report: Report) -> None:
    path = report.file("a.jsonl", TWO)
    pages = []
    for seed in ("1", "5"):  # which order sets of these names differently
        output = report.folder / f"{seed}.html"
        asked = ("report", path, "-o", str(output), "--engine", "analytic")
        command = [sys.executable, "-m", "lora_profiler", *asked]
        hashed = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, check=True, capture_output=True, env=hashed)
        pages.append(output.read_bytes())
    assert pages[0] == pages[1]


# --- bench --report -------------------------------------------------------------------------------


def test_bench_writes_the_page_of_its_runs_and_says_how_to_go_on(
    bench: Bench, tmp_path: Path
) -> None:
    page = tmp_path / "first page.html"
    bench.tiny("--method", "full", "--seed", "7")  # is stored, and no part of the page
    code, _, err = bench.tiny("--report", str(page))
    assert code == 0
    data = embedded_data(page.read_text("utf-8"))
    assert data["records"]["record_id"] == [record_of(case).id for case in bench.asked]
    assert data["records"]["method"] == ["full", "lora"]
    peaks = next(c for c in data["comparisons"] if c["metric"] == "peak_requested_bytes")
    assert peaks["difference"] == [0, 0]
    assert f"Wrote {page}." in err
    assert f"Open it in a browser: {page.as_uri()}" in err
    assert f"lora-profile app --records {bench.store_path}" in err


def test_a_page_of_runs_that_ended_early_is_written_too(bench: Bench, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    bench.answer = statuses("oom", "crash")
    assert bench.tiny("--report", str(page))[0] == 4
    text = page.read_text("utf-8")
    assert embedded_data(text)["records"]["status"] == ["oom", "crash"]
    assert "as planned" in text


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "--format", "json"]])
def test_what_was_stored_before_is_on_the_page(
    bench: Bench, tmp_path: Path, arguments: list[str]
) -> None:
    bench.tiny()
    page = tmp_path / "page.html"
    code, _, err = bench.tiny(*arguments, "--report", str(page))
    assert (code, bench.asked) == (0, [])
    assert len(embedded_data(page.read_text("utf-8"))["records"]["record_id"]) == 2
    assert "nothing was run" in err


def test_a_page_that_could_not_be_written_is_refused_before_anything_starts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    output = tmp_path / "out.json"
    for arguments, message in (
        (["--report", str(there)], "exists"),
        (["--report", str(tmp_path / "no" / "x.html")], "there is no folder"),
        (["--report", str(bench.store_path)], "also the file of --records"),
        (["--report", str(output), "-o", str(output)], "also the file of --output"),
    ):
        code, _, err = bench.tiny(*arguments)
        assert (code, bench.asked) == (2, [])
        assert message in err
    assert there.read_text() == "mine"
    assert bench.tiny("--report", str(there), "--force")[0] == 0
    assert there.read_text("utf-8").startswith("<!doctype html>")
    without_jinja2(monkeypatch)
    code, _, err = bench.tiny("--report", str(tmp_path / "new.html"))
    assert (code, bench.asked) == (2, [])
    assert "pip install 'lora-profiler[report]'" in err


def test_a_page_without_a_name_is_asked_for_with_its_option(run: Run) -> None:
    said = " ".join(refused(run("report", "records.jsonl")).split())
    assert said == "[2] error: -o FILE is missing Usage: lora-profile report -o FILE RECORDS..."
