"""What is shown of records: columns that add up, failures that say what happened, JSON that its
schema takes."""

import csv
import html
import io
import json
from dataclasses import asdict, replace
from typing import Any

import jsonschema
import pytest
from test_report import number, sections

import records
from golden_files import Golden
from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.records.record import STATUSES, Conditions, Energy, Failure, Record
from lora_profiler.measuring.records.serialize import record_from_dict
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.prediction import (
    CATEGORIES,
    PHASES,
    Details,
    DeviceMemory,
    FlopCount,
    Prediction,
)
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report import render, terminal
from lora_profiler.report.blocks import Row
from lora_profiler.report.json.bench import (
    bench_payload,
    bench_schema,
    comparison_records,
    run_records,
)
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measured_runs import peaks_table, run_texts
from lora_profiler.report.measured.measurements import (
    alone_table,
    distinctions,
    environment_line,
    error_table,
    record_blocks,
)
from lora_profiler.report.measured.run_labels import ratio_line, speed_lines
from lora_profiler.report.page import report_content, write_page
from lora_profiler.runs.comparison.errors import METRICS, Scored, compare, result
from lora_profiler.runs.comparison.throughput import full_against_lora, throughput, utilisation
from lora_profiler.units import seconds_text

MIB = 2**20


def mebibytes(**sizes: float) -> dict[str, int]:
    return {name: round(size * MIB) for name, size in sizes.items()}


ON_CARD = mebibytes(
    **{"peak_allocated_bytes": 2, "peak_reserved_bytes": 6, "device_used_bytes": 500},
    **{"context_bytes": 450, "workspace_bytes": 1},
)


def shown(record: Record, **more: object) -> str:
    prediction = records.make_prediction(record.workload)
    plain = {"utilisation": None, "timing": None, **more}
    return terminal.plain(record_blocks(replace(result(record, prediction), **plain)), 10_000)  # type: ignore[arg-type]


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
    assert f"estimated from similar GPUs; error {100 * (time.seconds / median - 1):+,.2f} %" in text
    on_cpu = records.make_record(workload)
    assert result(on_cpu, predict(workload)).timing is None and "predicted: " not in shown(on_cpu)


def of_peak(record: Record) -> dict[str, Row]:
    table = error_table(record, compare(record, records.make_prediction()))
    return {row.cells[0]: row for row in sections(table)["what the peak is made of"]}


@pytest.mark.parametrize("column", [1, 2])
def test_parts_of_the_peak_add_up_to_it_in_both_columns(column: int) -> None:
    *parts, peak = of_peak(records.make_record()).values()
    assert peak.cells[column] == "1.91"
    assert sum(number(row.cells[column]) for row in parts) == pytest.approx(1.91, abs=0.03)


def situations() -> dict[str, str]:
    """One record each, or of it what is of its own, as golden/records.txt has it."""

    def table(record: Record, prediction: Prediction | None = None) -> str:
        found = compare(record, prediction or records.make_prediction(record.workload))
        return terminal.plain([error_table(record, found)])

    on_card = records.make_record(device=records.H100, **ON_CARD)
    memory = DeviceMemory(
        allocated_bytes=2 * MIB, reserved_bytes=9 * MIB, expandable_reserved_bytes=6 * MIB
    )
    simulated = records.make_prediction(on_card.workload, details=Details(device_memory=memory))
    parts = ("attribution_bytes", "persistent_bytes", "step1_phase_peak_bytes")
    setup = replace(records.LORA_WORKLOAD.setup, dtype="bfloat16")
    timed = records.make_record(replace(records.LORA_WORKLOAD, setup=setup), device=records.H100)
    lora = FlopCount(forward=10**13, backward=10**13, recompute=10**13, tokens=16)
    full = replace(lora, backward=2 * 10**13)
    flags = ("busy_machine", "unattributed_over_1_percent")
    against_full = shown(timed, utilisation=utilisation(timed, lora, full))
    alone = shown(timed, utilisation=utilisation(timed, lora))
    return {
        "without parts": table(records.make_record(**dict.fromkeys(parts))),
        "on a card, beside its tensors": terminal.plain([alone_table(on_card)]),
        "with a simulated allocator": table(on_card, simulated).split("\n\n")[0],
        "by another kernel": shown(records.make_record(attention_kernel="flash")).split("\n\n")[1],
        "with flags": shown(records.make_record(flags=flags)).split("\n\n")[2],
        "2e13 and 3e13 FLOP in 0.1 s, which are 200 and 300 TFLOP/s of 989.4": against_full.split(
            "\n\n"
        )[-2],
        "without full's FLOPs": alone.split("\n\n")[-2],
    }


def test_a_record_in_each_situation(golden_file: Golden) -> None:
    """On a card 2,000,000 B are requested and 2 MiB allocated: 97,152 B of rounding; 6 - 2 MiB are
    fragments, 500 - 6 MiB outside torch."""
    golden_file.compare_answers("records", situations().__getitem__)


@pytest.mark.parametrize(
    ("rest", "text"),
    [(0, "0"), (996, "<0.01"), (20_000, "0.02"), (-996, ">-0.01"), (-20_000, "-0.02")],
)
def test_what_is_not_attributed_is_always_there_and_is_no_error(rest: int, text: str) -> None:
    attribution = {**records.PEAK, "unattributed": rest, "temporaries": 398_996 - rest}
    rows = of_peak(records.make_record(attribution_bytes=attribution))
    assert rows["not attributed"].cells == ("not attributed", "0", text, "")


def test_no_comparison_no_table_and_nothing_beside_on_a_processor() -> None:
    assert error_table(records.make_record(), ()).rows == ()
    assert alone_table(records.make_record()).rows == ()


def test_what_was_run_and_where_is_said_first(golden_file: Golden) -> None:
    conditions = Conditions(padding=0.25, budget_bytes=2**30, seed=7)
    record = records.make_record(records.LORA_WORKLOAD, conditions=conditions)
    golden_file.compare("record-of-lora", shown(record))


def test_a_card_is_named_with_its_driver_and_its_slice() -> None:
    environment = replace(records.ENVIRONMENT, device=replace(records.H100, mig="on"))
    said = "NVIDIA H100 80GB HBM3, 79.65 GiB, driver 580.1, a MIG slice; Python 3.11.7"
    assert environment_line(environment).startswith(said)


def test_a_host_that_is_late_is_told_once() -> None:
    late = records.make_record(device=records.H100, block_seconds=2.0)
    flagged = replace(late, measurement=replace(late.measurement, flags=("host_bound",)))
    assert [shown(record).count("! host bound") for record in (late, flagged)] == [1, 1]


def test_speed_in_words(golden_file: Golden) -> None:
    energy = Energy(joules=6_000.0, seconds=20.0, steps=100, idle_joules=250.0, idle_seconds=5.0)
    metered = records.make_record(device=records.H100, energy=energy, nonpad_tokens_per_step=8)
    speeds = [throughput(record) for record in (metered, records.make_record())]
    lines = [line for speed in speeds if speed is not None for line in (*speed_lines(speed), "")]
    golden_file.compare("speed", "\n".join(lines))


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
    held = {"allocated_bytes": 2**31, "reserved_bytes": 2**32, "exit_code": 1}
    rest: dict[str, Any] = {"tried_bytes": 2**30, "free_bytes": 2**29} | held
    failure = Failure(reason="CUDA out of memory.", phase="backward", step=2, **rest)
    record = records.make_record(status="oom", failure=failure, step_seconds=None)
    golden_file.compare("record-out-of-memory", shown(record))


def test_a_run_that_ended_outside_of_a_step_names_its_pass() -> None:
    failure = Failure(reason="out of memory: 5 B alive", phase="memory")
    text = shown(records.make_record(status="oom", failure=failure, step_seconds=None))
    assert "It ended in the memory pass: out of memory: 5 B alive" in text


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_can_be_shown_with_nothing_else_known(status: str) -> None:
    failure = None if status in ("ok", "noisy") else Failure(reason="It was so.")
    unknown = (
        "peak_requested_bytes peak_allocated_bytes peak_phase attribution_bytes persistent_bytes"
        " phase_peak_bytes step1_phase_peak_bytes step_seconds saved_activation_bytes"
        " num_parameters num_trainable_parameters attention_kernel"
    )
    nothing = dict.fromkeys(unknown.split())
    bare = records.make_record(status=status, failure=failure, **nothing)
    text = shown(bare)
    assert run_labels.STATUS_DEFINITIONS[status] in text
    assert ("It ended: It was so." in text) == (failure is not None)
    texts = run_labels.STATUS_LABELS[status], "", "1.91 MiB", "", "", ""
    assert run_texts(bare, records.make_prediction()) == texts


@pytest.mark.usefixtures("no_estimates")
def test_a_real_prediction_of_an_unknown_family_is_only_a_lower_bound() -> None:
    setup = TrainSetup(seq_len=16, device="cpu")
    workload = Workload(model=find_model("microsoft/phi-2"), setup=setup)
    prediction = predict(workload)
    record = records.make_record(workload)
    _, _, predicted, error, *_ = run_texts(record, prediction)
    assert predicted.startswith(">= ") and error == ""
    text = terminal.plain(record_blocks(result(record, prediction)))
    assert "The peak is predicted" not in text and "lower bound" in text


# --- many records ---------------------------------------------------------------------------------


def test_a_table_of_runs_has_every_one_and_no_empty_column() -> None:
    failure, prediction = Failure(reason="60 s are over."), records.make_prediction()
    done = records.make_record(peak_requested_bytes=1_600_000)
    failed = records.make_record(status="timeout", failure=failure, repeat=1)
    shown = peaks_table([result(each, prediction) for each in (done, failed)])
    assert shown.columns[:3] == ("Peak, MiB", "predicted", "measured")
    of_done, of_failed = (row.cells for row in shown.rows)
    assert of_done[:6] == ("Full", "1.91", "1.53", "+25.00 %", "100.00 ms", "160/s")
    assert of_failed[2:4] == ("≥ 1.91", "") and "timed out" in of_failed
    assert render.markdown([shown]).count("\n") == 4


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


def test_one_way_against_another_in_one_line() -> None:
    a = records.make_record(step_seconds=(0.2,) * 9)
    for steps, doubt in ((6, "95 % interval 0.750 to 0.750"), (5, "too few steps for a 95 %")):
        b = records.make_record(records.LORA_WORKLOAD, step_seconds=(0.15,) * steps)
        line = ratio_line("full", "LoRA r4", full_against_lora([a], [b]))
        assert line.startswith(f"LoRA r4 takes 0.750 of the time of full ({doubt}")


# --- JSON and CSV ---------------------------------------------------------------------------------


def made_records() -> list[Record]:
    failure = Failure(reason="CUDA out of memory.", phase="backward", step=1, tried_bytes=2**30)
    on_card: dict[str, Any] = {"device": records.H100, "flags": ("host_bound",), **ON_CARD}
    nothing = dict.fromkeys(("step_seconds", "attribution_bytes"))
    ended: dict[str, Any] = {"status": "oom", "failure": failure, "repeat": 1, **nothing}
    make = records.make_record
    return [make(), make(records.LORA_WORKLOAD, **on_card), make(**ended)]


def test_json_is_what_the_schema_says_and_reads_back() -> None:
    made = made_records()
    found = [c for r in made for c in compare(r, records.make_prediction(r.workload))]
    document = json.loads(json.dumps(bench_payload(made, found)))
    jsonschema.validate(document, bench_schema())
    assert set(document) == {"schema_version", "records", "comparisons"}
    read = [record_from_dict(each) for each in document["records"]]
    assert json.loads(json.dumps(bench_payload(read, found))) == document
    assert document["comparisons"] == [asdict(c) for c in found]


@pytest.mark.grid
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
    found = compare(record, records.make_prediction())
    place = document = json.loads(json.dumps(bench_payload([record], found)))
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
    for row, record, told in zip(
        rows,
        made,
        (
            {"median_step_seconds": "0.1", "tokens_per_second": "160.0", "rank": ""},
            {"rank": "4", "flags": "host_bound", "peak_reserved_bytes": str(6 * MIB)},
            {"status": "oom", "reason": "CUDA out of memory.", "median_step_seconds": ""},
        ),
        strict=True,
    ):
        assert row.items() >= ({"record_id": record.id} | told).items()
    found = [c for r in made for c in compare(r, records.make_prediction(r.workload))]
    lines = list(csv.DictReader(io.StringIO(render.csv_text(comparison_records(made, found)))))
    assert len(lines) == len(found)
    told = {"model": "tiny-gpt2", "method": "full", "measured": "2000000"}
    assert lines[0].items() >= told.items()
    assert {line["method"] for line in lines} == {"full", "lora"}
