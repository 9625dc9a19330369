"""`lora-profile compare` as a user meets it: over records made by hand, over the committed ones,
and over what is no record."""

import csv
import io
import json
import re
import shlex
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import commands
import families
import records
from commands import Done, OnRecords, Run, refused
from golden_files import Golden
from lora_profiler.cli import compare as cli_compare
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.measuring.records.record import Failure, Record
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.memory.analytic import predict
from lora_profiler.question.workload import Workload
from lora_profiler.report.json.bench import bench_schema
from lora_profiler.runs.comparison.errors import GROUPINGS, METRICS
from lora_profiler.runs.comparison.regressions import CHANGE_METRICS

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "records"
LLAMA = model_from_config(dict(families.TINY["llama"]), id="tiny-llama", source="file")
OF_LLAMA = replace(records.WORKLOAD, model=LLAMA)
HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]gpt2[/red]|`x`\u202e<script>"


@pytest.fixture
def compare(run: Run, tmp_path: Path) -> OnRecords:
    return OnRecords(run, tmp_path, "compare")


def off_by(error: float, workload: Workload = records.WORKLOAD, **more: Any) -> Record:
    """A record whose predicted peak is off by `error` of what it measured, to a byte."""
    peak = round(predict(workload).peak.total_bytes / (1 + error))
    return records.make_record(
        workload, peak_requested_bytes=peak, peak_allocated_bytes=peak, **more
    )


def three() -> list[Record]:
    return [off_by(0.25), off_by(-0.1, records.LORA_WORKLOAD), off_by(0.0, OF_LLAMA)]


def lines_of(text: str, beginning: str) -> list[list[str]]:
    """The cells, two blanks apart, of all lines that begin so."""
    lines = (line.strip() for line in text.splitlines())
    return [re.split(r" {2,}", line) for line in lines if line.startswith(beginning)]


# --- predicted against measured -------------------------------------------------------------------


def test_the_names_of_the_options_are_those_of_the_library() -> None:
    assert cli_compare.PREDICTED == METRICS
    assert cli_compare.CHANGING == CHANGE_METRICS
    assert sorted(cli_compare.GROUPINGS) == sorted(GROUPINGS)


def sets() -> dict[str, list[Record]]:
    """Files of records by the name that stands for them in golden/compare.txt. THREE: full +25 % and
    exact, LoRA -10 %. FAILED adds one that nothing predicts and two that ran out of memory, ONLY
    has these alone. AFTER is of BEFORE: full's peak 5 % up, steps as they were; LoRA's steps of
    0.1 s take 0.12 s; llama is lost."""
    idle = replace(records.LORA_WORKLOAD.setup.lora, target_modules=("no_such_module",))  # type: ignore[type-var]
    strange = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, lora=idle))
    failure = Failure(reason="no room", phase="forward", step=1)
    only = [
        records.make_record(strange),
        *(off_by(0.0, repeat=i, status="oom", failure=failure) for i in (1, 2)),
    ]
    before, after = before_and_after()
    return {
        "THREE": three(),
        "FAILED": [*three(), *only],
        "ONLY": only,
        "MANY": [off_by(0.0, environment={"packages": {"torch": f"2.{i}.0"}}) for i in range(9)],
        "NOTHING": [records.make_record(saved_activation_bytes=0)],
        "BOUND": [
            records.make_record(replace(records.WORKLOAD, model=find_model("microsoft/phi-2")))
        ],
        "BEFORE": before,
        "AFTER": after,
        "FIRST": before[:1],
        "SECOND": after[1:2],
        "EMPTY": [],
    }


@pytest.mark.usefixtures("no_estimates")
def test_what_it_says_of_sets_of_records(compare: OnRecords, golden_file: Golden) -> None:
    """Errors and changes are those that `off_by` and `before_and_after` make."""
    newer = json.dumps(record_dict(off_by(0.0, repeat=5)) | {"schema_version": "7.0"})
    files = {name: compare.file(name, made) for name, made in sets().items()}
    files["TORN"] = compare.file("TORN", three(), f'{newer}\n{{"torn')

    def answer(words: str) -> str:
        code, out, err = compare(*(files.get(word, word) for word in shlex.split(words)))
        assert all(len(line) <= 100 for line in out.splitlines()) or "--format" in words
        said = err if "--fail-above" in words else err + out  # a limit changes nothing of the rest
        return f"[{code}] {said}".replace(f"{compare.folder}/", "")

    golden_file.compare_answers("compare", answer)


def test_every_metric_and_part_has_its_row(compare: OnRecords) -> None:
    file = compare.file("r.jsonl", three())
    _, out, _ = compare(file, "--metric", "attribution_bytes", "--by", "category")
    assert lines_of(out, "optimizer states ") and lines_of(out, "gradients ")
    _, out, _ = compare(file, "--metric", "all")
    for label in ("requested peak", "peak allocated", "part of the peak"):
        assert re.search(rf"^{label}$", out, re.MULTILINE), label
    assert "saved for backward\n" in out and "parameters\n" in out
    assert "reserved by the allocator" not in out


def test_json_is_what_the_schema_says_and_its_summaries_follow_from_its_comparisons(
    compare: OnRecords,
) -> None:
    made = three()
    code, out, _ = compare(compare.file("r.jsonl", made), "--format", "json", "--by", "method")
    document = json.loads(out)
    assert code == 0
    jsonschema.validate(document, bench_schema())
    assert [r["id"] for r in document["records"]] == [r.id for r in made]
    methods = {r.id: r.workload.setup.method for r in made}
    found: dict[tuple[str, str, str], list[float]] = {}
    for c in document["comparisons"]:
        if c["relative_error"] is not None and (
            c["predicted"] or c["category"] not in ("communication", "unattributed")
        ):
            found.setdefault((c["metric"], c["category"], methods[c["record_id"]]), []).append(
                c["relative_error"]
            )
    summaries = {(s["metric"], s["category"], s["method"]): s for s in document["summaries"]}
    assert {key for key, s in summaries.items() if s["mean_absolute"] is not None} == set(found)
    for key, errors in found.items():
        assert summaries[key]["mean_absolute"] == pytest.approx(statistics.mean(map(abs, errors)))
        assert summaries[key]["median"] == pytest.approx(statistics.median(errors))
        assert summaries[key]["worst"] == max(errors, key=abs)
    assert document["refusals"] == []


def test_csv_is_a_line_a_number(compare: OnRecords) -> None:
    out = compare(compare.file("r.jsonl", three()), "--format", "csv")[1]
    assert len(list(csv.DictReader(io.StringIO(out)))) > 30


def test_a_new_file_is_written_and_none_written_over(compare: OnRecords, tmp_path: Path) -> None:
    file, target = compare.file("r.jsonl", three()), tmp_path / "errors.md"
    code, out, err = compare(file, "--format", "md", "-o", str(target))
    assert (code, out) == (0, "") and f"Wrote {target}." in err
    assert target.read_text() == compare(file, "--format", "md")[1]
    code, _, err = compare(file, "-o", str(target))
    assert code == 2 and "--force" in err
    assert compare(file, "-o", str(target), "--force")[0] == 0


def test_what_nothing_predicts_is_a_refusal_in_json(compare: OnRecords) -> None:
    made = sets()["FAILED"]
    document = json.loads(compare(compare.file("r.jsonl", made), "--format", "json")[1])
    jsonschema.validate(document, bench_schema())
    assert [r["record_id"] for r in document["refusals"]] == [made[3].id]


# --- the limit ------------------------------------------------------------------------------------


def test_the_limit_judges_what_metric_names(compare: OnRecords, golden_file: Golden) -> None:
    file = compare.file("r.jsonl", three())

    def answer(words: str) -> str:
        code, _, err = compare(file, *shlex.split(words))
        return f"[{code}] {err.strip()}"

    golden_file.compare_answers("limits-of-one-set", answer)


# --- two sets -------------------------------------------------------------------------------------

OTHER = {"packages": {**records.PACKAGES, "torch": "2.14.0"}, "threads": 4}


def before_and_after() -> tuple[list[Record], list[Record]]:
    steps = {"step_seconds": (0.1,) * 10}
    lora_of_llama = replace(OF_LLAMA, setup=records.LORA_WORKLOAD.setup)
    before = [records.make_record(w, **steps) for w in (records.WORKLOAD, records.LORA_WORKLOAD)]
    before += [records.make_record(w) for w in (OF_LLAMA, lora_of_llama)]
    after = [
        records.make_record(environment=OTHER, peak_requested_bytes=2_100_000, **steps),
        records.make_record(records.LORA_WORKLOAD, environment=OTHER, step_seconds=(0.12,) * 10),
        records.make_record(
            OF_LLAMA, environment=OTHER, status="oom", failure=Failure(reason="no room")
        ),
    ]
    return before, after


def test_two_sets_in_json(compare: OnRecords) -> None:
    before, after = before_and_after()
    files = compare.file("a.jsonl", before), "--against", compare.file("b.jsonl", after)
    document = json.loads(compare(*files, "--format", "json")[1])
    jsonschema.validate(document, bench_schema())
    assert [r["id"] for r in document["records"]] == [r.id for r in before]
    assert [r["id"] for r in document["against"]] == [r.id for r in after]
    changes = {(c["case_key"], c["metric"]): c for c in document["changes"]}
    full, lora = before[0].case_key, before[1].case_key
    assert changes[full, "peak_requested_bytes"]["relative_change"] == 0.05
    assert changes[lora, "tokens_per_second"]["relative_change"] == pytest.approx(0.1 / 0.12 - 1)
    assert changes[lora, "step_seconds"]["before"]["record_ids"] == [before[1].id]
    assert {c["field"]: (c["before"], c["after"]) for c in document["setup_changes"]} == {
        "packages.torch": (["2.13.0"], ["2.14.0"]),
        "threads": (["2"], ["4"]),
    }
    of_llama = {"case_key": before[2].case_key, "before": ["ok"], "after": ["oom"]}
    assert document["outcomes"][2] == of_llama
    assert document["comparisons"] == []


def test_the_limit_of_two_sets(compare: OnRecords, golden_file: Golden) -> None:
    """Of those after, the first so many."""
    before, after = before_and_after()
    file = compare.file("a.jsonl", before)

    def answer(words: str) -> str:
        kept, *limit = words.split()
        other = compare.file("b.jsonl", after[: int(kept)])
        said = {
            f"[{code}] {err.strip()}"
            for form in ("table", "json")
            for code, _, err in [
                compare(file, "--against", other, "--fail-above", *limit, "--format", form)
            ]
        }
        assert len(said) == 1
        return said.pop()

    golden_file.compare_answers("limits-of-two-sets", answer)


def test_many_files_are_one_set_on_either_side(compare: OnRecords) -> None:
    before, after = before_and_after()
    one = [compare.file(f"a{i}.jsonl", [record]) for i, record in enumerate(before)]
    two = [
        argument
        for i, record in enumerate(after)
        for argument in ("--against", compare.file(f"b{i}.jsonl", [record]))
    ]
    assert compare(*one, *two)[1].startswith("✗ 1 of 3 cases no longer trains: ")


# --- what cannot be -------------------------------------------------------------------------------


def test_a_wrong_question_is_refused(compare: OnRecords, golden_file: Golden) -> None:
    file = compare.file("r.jsonl", three())

    def answer(words: str) -> str:
        done = Done(*compare(*shlex.split(words.replace("FILE", file))))
        return refused(done).replace(file, "FILE")

    golden_file.compare_answers("refusals-compare", answer)


def hostile() -> list[Record]:
    """Every text that a stranger chooses, and one model of which nothing is known."""
    model = model_from_config(dict(families.TINY["gpt2"]), id=HOSTILE, source="file")
    device = replace(records.CPU, name=HOSTILE)
    environment = {
        "python": HOSTILE,
        "packages": {"torch": HOSTILE, HOSTILE: "1"},
        "variables": {HOSTILE: HOSTILE},
    }
    workload = replace(records.WORKLOAD, model=model)
    failure = Failure(reason=HOSTILE, phase=HOSTILE, log=HOSTILE)
    named = {"device": device, "environment": environment, "peak_requested_bytes": 10**30}
    return [
        records.make_record(workload, **named),
        records.make_record(workload, repeat=1, status="crash", failure=failure),
    ]


def outputs(compare: OnRecords) -> Iterator[str]:
    strange = json.dumps(record_dict(three()[0]) | {HOSTILE: 1})
    file = compare.file("h.jsonl", hostile(), f"{strange}\n")
    other = compare.file("r.jsonl", [*three(), hostile()[0]])
    for arguments in (
        (file,),
        (file, "--by", "device", "--by", "model"),
        (file, "--format", "md"),
        (file, "--format", "csv"),
        (file, "--against", other),
        (other, "--against", file, "--fail-above", "1%"),
        (file, "--fail-above", "1%"),
        (file, "--format", "json"),
    ):
        code, out, err = compare(*arguments)
        assert code in (0, 1)
        yield out
        yield err


def test_hostile_text_neither_moves_nor_colours_anything(compare: OnRecords) -> None:
    for text in outputs(compare):
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}
        text.encode("utf-8")
    assert "\\x1b]0;owned\\x07" in next(outputs(compare))


def test_a_name_as_long_as_a_page_keeps_its_ends_alone(compare: OnRecords) -> None:
    model = model_from_config(
        dict(families.TINY["gpt2"]), id="first" + "x" * 9000 + "last", source="file"
    )
    file = compare.file("r.jsonl", [off_by(0.25, replace(records.WORKLOAD, model=model))])
    for arguments in ((file, "--by", "model"), (file, "--against", file)):
        _, out, _ = compare(*arguments)
        assert max(len(line) for line in out.splitlines()) < 200
    assert re.search(r"^firstx+…x+last +1 ", compare(file, "--by", "model")[1], re.MULTILINE)


def on_a_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """What the real command writes to a terminal."""
    command = [sys.executable, "-m", "lora_profiler", "compare", *arguments]
    return commands.on_a_terminal(command, columns=columns, **environment)


def test_on_a_terminal_hostile_text_is_as_harmless_and_markup_stays_text(
    compare: OnRecords,
) -> None:
    text = on_a_terminal(compare.file("h.jsonl", hostile()), columns=200, TERM="dumb")
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "[red]gpt2[/red]" in text


@pytest.mark.parametrize("columns", [80, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(str(COMMITTED), columns=columns))
    assert max(len(line) for line in text.splitlines()) <= columns
    assert "Largest errors" in text


# --- the committed records ------------------------------------------------------------------------


def test_the_committed_records_have_the_errors_of_the_committed_results(compare: OnRecords) -> None:
    document = json.loads(compare(str(COMMITTED), "--format", "json", "--engine", "analytic")[1])
    found = {(s["metric"], s["category"]): s for s in document["summaries"]}
    (results,) = json.loads((COMMITTED.parent / "results" / "records.json").read_text()).values()
    assert len(document["records"]) == results["records"] > 100
    for row in results["errors"]:
        s = found.pop((row["metric"], row["category"]))
        assert (s["n"], s["worst_record_id"]) == (row["n"], row["worst_record"])
        for name in ("mean_absolute", "worst"):
            assert s[name] == (None if row[name] is None else pytest.approx(row[name]))
    assert found == {}


def test_thousands_of_records(compare: OnRecords) -> None:
    made = [off_by(0.0), off_by(0.25, records.LORA_WORKLOAD)]
    many = [replace(record, repeat=i) for i in range(1500) for record in made]
    code, out, _ = compare(compare.file("r.jsonl", many))
    assert code == 0
    assert "1,500 of 3,000 peaks predicted within 1 %" in out
    assert lines_of(out, "all ")[0][1:3] == ["3,000", "12.50 %"]
    assert len(out.splitlines()) < 25
