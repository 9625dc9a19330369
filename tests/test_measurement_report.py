"""What is shown of records: columns that add up, failures that say what happened, JSON that its
schema takes."""

import csv
import html
import io
import json
from dataclasses import asdict, replace

import jsonschema
import pytest

import records
from golden_files import Golden
from lora_profiler.analytic import predict
from lora_profiler.campaign.results import result
from lora_profiler.catalog import find_model
from lora_profiler.comparison.errors import METRICS, PHASE_GROUPS, compare
from lora_profiler.comparison.mfu import utilisation
from lora_profiler.comparison.paired_runs import full_against_lora
from lora_profiler.comparison.scored import Scored
from lora_profiler.comparison.throughput import throughput
from lora_profiler.prediction import CATEGORIES, PHASES, Details, DeviceMemory, FlopCount
from lora_profiler.records.record import STATUSES, Conditions, Energy, Failure, Flag, Record
from lora_profiler.records.serialize import record_from_dict
from lora_profiler.report import labels, render
from lora_profiler.report.blocks import Row, Table
from lora_profiler.report.json.bench import (
    bench_payload,
    bench_schema,
    comparison_records,
    run_records,
)
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measured_runs import (
    RUN_COLUMNS,
    distinctions,
    error_summary,
    run_row,
    run_text,
    summary_table,
)
from lora_profiler.report.measured.measurements import (
    alone_table,
    environment_line,
    error_table,
    record_blocks,
)
from lora_profiler.report.measured.speed import ratio_line, speed_lines
from lora_profiler.report.page import report_content, write_page
from lora_profiler.units import seconds_text
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

MIB = 2**20


def mebibytes(**sizes: float) -> dict[str, int]:
    return {name: round(size * MIB) for name, size in sizes.items()}


ON_CARD = mebibytes(
    peak_allocated_bytes=2,
    peak_reserved_bytes=6,
    device_used_bytes=500,
    context_bytes=450,
    workspace_bytes=1,
)


def shown(record: Record, **more: object) -> str:
    prediction = records.make_prediction(record.workload)
    found = compare(record, prediction)
    return render.plain(
        record_blocks(record, prediction, found, throughput(record), **more), 10_000
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("lora", [None, LoraConfig(r=8)])
def test_a_timed_run_on_a_known_card_stands_beside_its_predicted_time(
    lora: LoraConfig | None,
) -> None:
    workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=lora, seq_len=256))
    record = records.make_record(workload, device=records.H100)
    found = result(record, predict(workload))
    assert found.timing is not None and found.timing.step is not None and found.speed is not None
    time, median = found.timing.step.time, found.speed.steps.median
    text = shown(record, timing=found.timing)
    assert f"predicted: {seconds_text(time.seconds)} (" in text
    assert f"like a fitted card; error {100 * (time.seconds / median - 1):+,.2f} %" in text
    on_cpu = records.make_record(workload)
    assert result(on_cpu, predict(workload)).timing is None and "predicted: " not in shown(on_cpu)


def sections(table: Table) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in table.rows:
        if row.kind == "section":
            title = row.cells[0].split(",")[0]
            found[title] = {}
        else:
            found[title][row.cells[0]] = row
    return found


def number(text: str) -> float:
    return 0.0 if text in ("<0.01", ">-0.01") else float(text.replace(",", ""))


def test_everything_that_can_be_said_has_words() -> None:
    assert set(run_labels.METRIC_LABELS) >= set(METRICS)
    assert set(run_labels.PHASE_LABELS) == set(PHASES) >= set(PHASE_GROUPS)
    assert set(run_labels.STATUS_LABELS) == set(run_labels.STATUS_DEFINITIONS) == set(STATUSES)
    assert set(run_labels.STATUS_ADVICE) == set(STATUSES) - {"ok", "noisy"}
    assert set(run_labels.FLAG_DEFINITIONS) == set(Flag.__args__)  # type: ignore[attr-defined]


def test_parts_of_the_peak_add_up_to_it_in_both_columns() -> None:
    record = records.make_record()
    rows = sections(error_table(record, compare(record, records.make_prediction())))[
        "what the peak is made of"
    ]
    *parts, peak = rows.values()
    assert peak.cells == ("peak", "1.91", "1.91", "exact")
    for column in (1, 2):
        assert sum(number(row.cells[column]) for row in parts) == pytest.approx(
            number(peak.cells[column]), abs=0.03
        )
    assert rows["temporaries"].cells == ("temporaries", "0.38", "0.38", "+0.47 %")
    assert rows["activations"].cells[3] == "-100.00 %"
    assert rows["inputs and labels"].cells == ("inputs and labels", "<0.01", "0", "-")


@pytest.mark.parametrize(
    ("rest", "text"),
    [(0, "0"), (996, "<0.01"), (20_000, "0.02"), (-996, ">-0.01"), (-20_000, "-0.02")],
)
def test_what_is_not_attributed_is_always_there_and_is_no_error(rest: int, text: str) -> None:
    attribution = {**records.PEAK, "unattributed": rest, "temporaries": 398_996 - rest}
    record = records.make_record(attribution_bytes=attribution)
    rows = sections(error_table(record, compare(record, records.make_prediction())))[
        "what the peak is made of"
    ]
    assert rows["not attributed"].cells == ("not attributed", "0", text, "")


def test_each_section_is_written_in_the_unit_of_its_largest_and_sums() -> None:
    record = records.make_record()
    table = error_table(record, compare(record, records.make_prediction()))
    titles = [row.cells[0] for row in table.rows if row.kind == "section"]
    assert titles == [
        "what the peak is made of, MiB",
        "peak of each phase, MiB",
        "peak of each phase in step 1, MiB",
        "persistent, KiB",
        "saved for backward, KiB",
        "parameters",
    ]
    found = sections(table)
    assert found["persistent"]["sum"].cells == (
        "sum",
        "1,562.50",
        "1,562.50",
        "exact",
    )  # 1,600,000 B
    assert found["parameters"]["model"].cells == ("model", "102,048", "102,048", "exact")
    assert [label for label in found["peak of each phase"]] == [
        run_labels.PHASE_LABELS[group] for group in PHASE_GROUPS if group != "evaluation"
    ]
    assert found["peak of each phase"]["between steps"].cells[1:] == ("1.14", "1.14", "-0.01 %")


def test_sections_without_rows_are_left_out() -> None:
    record = records.make_record(
        attribution_bytes=None, persistent_bytes=None, step1_phase_peak_bytes=None
    )
    found = sections(error_table(record, compare(record, records.make_prediction())))
    assert list(found) == [
        "what the peak is made of",
        "peak of each phase",
        "saved for backward",
        "parameters",
    ]
    assert list(found["what the peak is made of"]) == ["peak"]
    assert error_table(record, ()).rows == ()


def test_a_card_s_memory_stands_beside_with_its_differences() -> None:
    """Requested 2,000,000 B, allocated 2 MiB: 97,152 B of rounding; 6 - 2 MiB fragments; 500 - 6
    MiB outside torch."""
    record = records.make_record(device=records.H100, **ON_CARD)
    rows = {row.cells[0]: row.cells[1] for row in alone_table(record).rows}
    assert alone_table(record).title == "Measured beside, MiB"
    assert rows == {
        run_labels.ALONE_LABELS[name]: text
        for name, text in {
            "rounding": "0.09",
            "workspace_bytes": "1.00",
            "peak_reserved_bytes": "6.00",
            "fragmentation": "4.00",
            "device_used_bytes": "500.00",
            "outside": "494.00",
            "context_bytes": "450.00",
        }.items()
    }
    allocated = sections(error_table(record, compare(record, records.make_prediction())))[
        "what the peak is made of"
    ]
    assert allocated["peak allocated, rounded up"].cells[1:] == ("1.91", "2.00", "-4.63 %")


def test_a_simulated_allocator_stands_beside_what_was_allocated_and_reserved() -> None:
    record = records.make_record(device=records.H100, **ON_CARD)
    memory = DeviceMemory(
        allocated_bytes=2 * MIB, reserved_bytes=9 * MIB, expandable_reserved_bytes=6 * MIB
    )
    prediction = records.make_prediction(record.workload, details=Details(device_memory=memory))
    rows = sections(error_table(record, compare(record, prediction)))["what the peak is made of"]
    assert rows["peak allocated, rounded up"].cells[1:] == ("2.00", "2.00", "exact")
    assert rows["reserved by the allocator"].cells[1:] == ("9.00", "6.00", "+50.00 %")


def test_a_processor_has_nothing_beside() -> None:
    assert alone_table(records.make_record()).rows == ()
    assert "Measured beside" not in shown(records.make_record())


def test_what_was_run_and_where_is_said_first(golden_file: Golden) -> None:
    conditions = Conditions(padding=0.25, budget_bytes=2**30, seed=7)
    record = records.make_record(records.LORA_WORKLOAD, conditions=conditions)
    golden_file.compare("record-of-lora", shown(record))


def test_another_kernel_than_was_predicted_is_named() -> None:
    told = "attention ran by flash, where cpu was predicted"
    assert told in shown(records.make_record(attention_kernel="flash"))
    assert "was predicted" not in shown(records.make_record(attention_kernel="cpu"))


def test_a_card_is_named_with_its_driver_and_its_slice() -> None:
    environment = replace(records.ENVIRONMENT, device=replace(records.H100, mig="on"))
    assert environment_line(environment).startswith(
        "NVIDIA H100 80GB HBM3, 79.65 GiB, driver 580.1, a MIG slice; Python 3.11.7"
    )


def test_flags_are_explained() -> None:
    text = shown(records.make_record(flags=("busy_machine", "unattributed_over_1_percent")))
    assert f"! busy machine: {run_labels.FLAG_DEFINITIONS['busy_machine']}." in text
    assert "! unattributed over 1 percent: over 1 % of the peak belongs to no category." in text
    late = records.make_record(device=records.H100, block_seconds=2.0)
    assert shown(late).count("! host bound") == 1
    assert shown(replace_flags(late, ("host_bound",))).count("! host bound") == 1


def replace_flags(record: Record, flags: tuple[Flag, ...]) -> Record:
    return replace(record, measurement=replace(record.measurement, flags=flags))


def test_speed_in_words(golden_file: Golden) -> None:
    energy = Energy(joules=6_000.0, seconds=20.0, steps=100, idle_joules=250.0, idle_seconds=5.0)
    metered = records.make_record(device=records.H100, energy=energy, nonpad_tokens_per_step=8)
    speeds = [throughput(record) for record in (metered, records.make_record())]
    lines = [line for speed in speeds if speed is not None for line in (*speed_lines(speed), "")]
    golden_file.compare("speed", "\n".join(lines))


def test_utilisation_comes_with_its_peak_and_definitions() -> None:
    setup = replace(records.LORA_WORKLOAD.setup, dtype="bfloat16")
    record = records.make_record(replace(records.LORA_WORKLOAD, setup=setup), device=records.H100)
    lora = FlopCount(forward=10**13, backward=10**13, recompute=10**13, tokens=16)
    found = utilisation(record, lora, replace(lora, backward=2 * 10**13))
    text = shown(record, utilisation=found)
    # 2e13 and 3e13 FLOP in 0.1 s are 200 and 300 TFLOP/s of 989.4
    assert (
        "MFU 20.21 %, HFU 30.32 % of 989.4 TFLOP/s, NVIDIA H100 SXM5 80GB; full equivalent 30.32 %"
        in text
    )
    assert all(line in text for line in run_labels.MFU_DEFINITIONS)
    alone = shown(record, utilisation=utilisation(record, lora))
    assert run_labels.MFU_DEFINITIONS[0] in alone and run_labels.MFU_DEFINITIONS[1] not in alone
    assert "MFU" not in shown(record)


@pytest.mark.parametrize(
    ("dtype", "step", "said", "not_said"),
    [
        ("float16", 2, "To try: --dtype bfloat16, or --dtype float32", "again"),
        ("bfloat16", 2, "To try: --dtype float32, other weights", "bfloat16,"),
        ("float32", None, "To try: one process, without --world-size", "--dtype"),
    ],
)
def test_a_loss_that_is_no_number_is_told_what_helps(
    dtype: str, step: int | None, said: str, not_said: str
) -> None:
    """The same step again has the same loss; float16 without loss scaling has none, losses that
    differ are not about dtypes."""
    workload = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, dtype=dtype))  # type: ignore[arg-type]
    failure = Failure(reason="the loss is nan" if step else "other losses", phase="loss", step=step)
    record = records.make_record(workload, status="invalid", failure=failure, step_seconds=None)
    text = shown(record)
    assert said in text and not_said not in text[text.index("To try") :] and "idle" not in text
    scored = Scored(record=record, prediction=None, refusal=None, comparisons=())
    page = write_page(report_content([scored]))
    assert html.escape(said, quote=False) in page


def test_a_failure_says_what_happened_where_and_what_to_try(golden_file: Golden) -> None:
    failure = Failure(
        reason="CUDA out of memory.",
        phase="backward",
        step=2,
        tried_bytes=2**30,
        free_bytes=2**29,
        allocated_bytes=2**31,
        reserved_bytes=2**32,
        exit_code=1,
    )
    record = records.make_record(status="oom", failure=failure, step_seconds=None)
    golden_file.compare("record-out-of-memory", shown(record))


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_can_be_shown_with_nothing_else_known(status: str) -> None:
    failure = None if status in ("ok", "noisy") else Failure(reason="It was so.")
    bare = records.make_record(
        status=status,
        failure=failure,
        peak_requested_bytes=None,
        peak_allocated_bytes=None,
        peak_phase=None,
        attribution_bytes=None,
        persistent_bytes=None,
        phase_peak_bytes=None,
        step1_phase_peak_bytes=None,
        step_seconds=None,
        saved_activation_bytes=None,
        num_parameters=None,
        num_trainable_parameters=None,
        attention_kernel=None,
    )
    text = shown(bare)
    assert run_labels.STATUS_DEFINITIONS[status] in text
    assert ("It ended: It was so." in text) == (failure is not None)
    assert (
        run_text(bare, records.make_prediction())
        == f"tiny-gpt2, full: {run_labels.STATUS_LABELS[status]}, predicted 1.91 MiB"
    )


def test_a_real_prediction_of_an_unknown_family_is_only_a_lower_bound() -> None:
    from lora_profiler.catalog import find_model

    workload = Workload(
        model=find_model("microsoft/phi-2"), setup=TrainSetup(seq_len=16, device="cpu")
    )
    prediction = predict(workload)
    record = records.make_record(workload)
    row = run_row(record, prediction).cells
    assert row[5].startswith(">= ") and row[6] == ""
    text = render.plain(
        record_blocks(record, prediction, compare(record, prediction), throughput(record))
    )
    assert "The peak is predicted" not in text and "lower bound" in text


# --- many records ---------------------------------------------------------------------------------


def test_a_row_of_one_run() -> None:
    record = records.make_record(peak_requested_bytes=1_600_000)
    row = run_row(record, records.make_prediction(), "batch 2")
    assert dict(zip(RUN_COLUMNS, row.cells, strict=True)) == {
        "model": "tiny-gpt2",
        "method": "full",
        "setup": "batch 2",
        "status": "ok",
        "peak": "1.53 MiB",
        "predicted": "1.91 MiB",
        "error": "+25.00 %",
        "step": "100.00 ms",
        "tokens": "160/s",
    }
    assert (
        run_text(record, records.make_prediction(), "batch 2")
        == "tiny-gpt2, full, batch 2: ok, peak 1.53 MiB, predicted 1.91 MiB, error +25.00 %, 100.00"
        " ms a step, 160 tokens/s"
    )


def test_a_table_of_runs_has_every_one_and_no_empty_column() -> None:
    failed = records.make_record(
        status="timeout", failure=Failure(reason="60 s are over."), repeat=1
    )
    prediction = records.make_prediction()
    table = summary_table([(records.make_record(), prediction), (failed, prediction)])
    assert table.columns == tuple(c for c in RUN_COLUMNS if c != "setup")
    assert table.left == 3
    assert [row.cells[2] for row in table.rows] == ["ok", "timed out"]
    assert table.rows[1].cells[3:6] == (">= 1.91 MiB", "1.91 MiB", "")
    assert render.markdown([table]).count("\n") == 4


def test_what_sets_workloads_apart_in_words(golden_file: Golden) -> None:
    base = TrainSetup(batch_size=2, seq_len=2048, lora=LoraConfig(r=8), dtype="bfloat16")
    others = [
        base,
        replace(base, batch_size=4, checkpointing=True),
        replace(base, seq_len=1024, optimizer_impl="fused"),
        replace(base, lora=replace(base.lora, r=16, adapter_dtype="bfloat16", lora_dropout=0.1)),  # type: ignore[type-var]
        replace(base, lora=replace(base.lora, lora_alpha=1.0, target_modules=("q_proj", "v_proj"))),  # type: ignore[type-var]
        replace(base, lora=None),
    ]
    quantized = [replace(base, quantization=Quantization(double_quant=d)) for d in (True, False)]
    said = [
        line
        for setups in (others, quantized)
        for line in distinctions([Workload(model=records.MODEL, setup=setup) for setup in setups])
    ]
    golden_file.compare("distinctions", "\n".join(said) + "\n")
    assert distinctions([records.WORKLOAD]) == [""]
    assert distinctions([records.WORKLOAD, records.WORKLOAD]) == ["", ""]


def test_errors_of_all_records_by_metric_and_category() -> None:
    prediction = records.make_prediction()
    made = [
        records.make_record(peak_requested_bytes=size, repeat=i)
        for i, size in enumerate((2_000_000, 1_600_000, 2_500_000))
    ]
    table = error_summary([c for r in made for c in compare(r, prediction)])
    peak = table.rows[1]
    # errors 0, +25 % and -20 %
    assert table.rows[0].cells == (run_labels.METRIC_LABELS["peak_requested_bytes"],)
    assert peak.cells == ("all together", "3", "15.00 %", "exact", "+25.00 %", "33 %", made[1].id)
    names = [row.cells[0] for row in table.rows]
    assert labels.CATEGORY_LABELS["unattributed"] not in names
    assert (
        labels.CATEGORY_LABELS["temporaries"] in names
        and run_labels.PHASE_LABELS["forward"] in names
    )
    weights = next(row for row in table.rows if row.cells[0] == "weights")
    assert weights.cells[1:] == ("3", "exact", "exact", "exact", "100 %", "")


def test_one_way_against_another_in_one_line() -> None:
    a, b = (
        records.make_record(step_seconds=(0.2,) * 9),
        records.make_record(records.LORA_WORKLOAD, step_seconds=(0.15,) * 9),
    )
    line = ratio_line("full", "LoRA r4", full_against_lora([a], [b]))
    assert (
        line
        == "LoRA r4 takes 0.750 of the time of full (95 % interval 0.750 to 0.750; 1 and 1 runs)"
    )


# --- JSON and CSV ---------------------------------------------------------------------------------


def made_records() -> list[Record]:
    failure = Failure(reason="CUDA out of memory.", phase="backward", step=1, tried_bytes=2**30)
    return [
        records.make_record(),
        records.make_record(
            records.LORA_WORKLOAD, device=records.H100, flags=("host_bound",), **ON_CARD
        ),
        records.make_record(
            status="oom", failure=failure, repeat=1, step_seconds=None, attribution_bytes=None
        ),
    ]


def test_json_is_what_the_schema_says_and_reads_back() -> None:
    made = made_records()
    found = [c for r in made for c in compare(r, records.make_prediction(r.workload))]
    document = json.loads(json.dumps(bench_payload(made, found)))
    jsonschema.Draft202012Validator.check_schema(bench_schema())
    jsonschema.validate(document, bench_schema())
    assert set(document) == {"schema_version", "records", "comparisons"}
    assert (
        json.loads(
            json.dumps(bench_payload([record_from_dict(d) for d in document["records"]], found))
        )
        == document
    )
    assert document["comparisons"] == [asdict(c) for c in found]
    assert list(document["comparisons"][0]) == [
        "record_id",
        "engine",
        "metric",
        "category",
        "predicted",
        "measured",
        "relative_error",
    ]
    assert {c["record_id"] for c in document["comparisons"]} <= {
        r["id"] for r in document["records"]
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), "0.9"),
        (("records", 0, "measurement", "status"), "fine"),
        (("records", 0, "measurement", "step_seconds"), [0.1, 0]),
        (("records", 0, "measurement", "peak_requested_bytes"), 1.5),
        (("records", 0, "measurement", "attribution_bytes"), {"tensors": 1}),
        (("records", 0, "measurement", "phase_peak_bytes"), {"forward": -1}),
        (("records", 0, "workload", "setup", "method"), "dora"),
        (("comparisons", 0, "metric"), "speed"),
        (("comparisons", 0, "predicted"), None),
        (("comparisons", 0, "relative_error"), "3 %"),
    ],
)
def test_the_schema_refuses_what_the_contract_does_not_allow(
    path: tuple[str | int, ...], value: object
) -> None:
    record = records.make_record()
    document = json.loads(
        json.dumps(bench_payload([record], compare(record, records.make_prediction())))
    )
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, bench_schema())


def test_the_schema_knows_the_same_words_as_the_code() -> None:
    schema = bench_schema()["$defs"]
    measurement = schema["Measurement"]["properties"]
    assert set(measurement["status"]["enum"]) == set(STATUSES)
    assert set(measurement["attribution_bytes"]["propertyNames"]["enum"]) == set(CATEGORIES)
    assert set(measurement["phase_peak_bytes"]["propertyNames"]["enum"]) == set(PHASES)
    assert set(schema["Comparison"]["properties"]["metric"]["enum"]) == set(METRICS)
    assert set(measurement) == set(asdict(records.make_record().measurement))


def test_csv_of_runs_and_of_comparisons() -> None:
    made = made_records()
    rows = list(csv.DictReader(io.StringIO(render.csv_text(run_records(made)))))
    assert [row["record_id"] for row in rows] == [r.id for r in made]
    assert (rows[0]["median_step_seconds"], rows[0]["tokens_per_second"], rows[0]["rank"]) == (
        "0.1",
        "160.0",
        "",
    )
    assert (rows[1]["rank"], rows[1]["flags"], rows[1]["peak_reserved_bytes"]) == (
        "4",
        "host_bound",
        str(6 * MIB),
    )
    assert (rows[2]["status"], rows[2]["reason"], rows[2]["median_step_seconds"]) == (
        "oom",
        "CUDA out of memory.",
        "",
    )
    found = [c for r in made for c in compare(r, records.make_prediction(r.workload))]
    lines = list(csv.DictReader(io.StringIO(render.csv_text(comparison_records(made, found)))))
    assert len(lines) == len(found)
    assert (
        lines[0]["model"] == "tiny-gpt2"
        and lines[0]["method"] == "full"
        and lines[0]["measured"] == "2000000"
    )
    assert {line["method"] for line in lines} == {"full", "lora"}
