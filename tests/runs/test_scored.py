"""Many records beside their predictions: one prediction a workload, refusals that spoil nothing, no
trace."""

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

import records
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.records.record import Record
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, Workload
from lora_profiler.runs.comparison import errors
from lora_profiler.runs.comparison.errors import compare, scored
from record_strategies import records as any_record

STRANGE = replace(
    records.WORKLOAD,
    setup=replace(records.WORKLOAD.setup, lora=LoraConfig(target_modules=("nothing_of_the_kind",))),
)


def test_each_record_has_the_prediction_and_comparisons_of_its_workload() -> None:
    made = [
        records.make_record(),
        records.make_record(records.LORA_WORKLOAD),
        records.make_record(repeat=1),
    ]
    found = scored(made)
    assert [s.record for s in found] == made
    for s in found:
        assert s.refusal is None
        assert s.prediction == predict(s.record.workload)
        assert s.comparisons == compare(s.record, predict(s.record.workload)) != ()


def test_one_prediction_for_each_distinct_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Workload] = []

    def counted(workload: Workload, engine: str, *, may_trace: bool) -> Prediction:
        asked.append(workload)
        return predict(workload, engine, may_trace=may_trace)

    monkeypatch.setattr(errors, "predict", counted)
    twice = [records.WORKLOAD, records.LORA_WORKLOAD, STRANGE] * 2
    found = scored(
        records.make_record(replace(workload), repeat=i) for i, workload in enumerate(twice)
    )
    assert asked == [records.WORKLOAD, records.LORA_WORKLOAD, STRANGE]
    assert found[0].prediction is found[3].prediction is not None
    assert found[0].comparisons[0].record_id != found[3].comparisons[0].record_id


def test_what_cannot_be_predicted_is_refused_with_the_reason_and_spoils_nothing() -> None:
    found = scored([records.make_record(STRANGE), records.make_record()])
    assert found[0].prediction is None and found[0].comparisons == ()
    assert found[0].refusal is not None and "nothing_of_the_kind" in found[0].refusal
    assert found[1].prediction is not None and found[1].refusal is None


def test_a_run_that_failed_has_its_prediction_and_no_comparison() -> None:
    (found,) = scored([records.make_record(status="oom")])
    assert found.prediction is not None
    assert (found.refusal, found.comparisons) == (None, ())


@pytest.mark.parametrize("engine", ["traced", "compiled"])
def test_nothing_is_traced(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import lora_profiler.trace

    def never(workload: Workload) -> Prediction:
        raise AssertionError("traced")

    monkeypatch.setattr(lora_profiler.trace, "predict", never)
    (found,) = scored([records.make_record()], engine)
    assert found.prediction is None
    assert found.refusal is not None and "no compiled profile answers tiny-gpt2" in found.refusal


def test_the_engine_that_was_asked_for_answers() -> None:
    known = records.make_record()
    unknown = records.make_record(replace(records.WORKLOAD, model=find_model("microsoft/phi-2")))
    assert [s.prediction.engine for s in scored([known, unknown], "analytic") if s.prediction] == [
        "analytic",
        "analytic",
    ]


@pytest.mark.parametrize("made", [[], [records.make_record()]])
def test_an_unknown_engine_is_refused_whatever_the_records(made: list[Record]) -> None:
    with pytest.raises(UsageError, match="Did you mean analytic"):
        scored(made, "analitic")


def test_the_garbage_collector_is_as_it_was_before() -> None:
    def made() -> Iterator[Record]:
        assert not gc.isenabled()
        yield records.make_record()
        raise KeyError

    assert gc.isenabled()
    with pytest.raises(KeyError):
        scored(made())
    assert gc.isenabled()
    gc.disable()
    try:
        scored([records.make_record()])
        assert not gc.isenabled()
    finally:
        gc.enable()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(any_record())
def test_a_record_of_any_content_is_either_predicted_or_refused(record: Record) -> None:
    (found,) = scored([record])
    assert (found.prediction is None) == bool(found.refusal)
    if found.prediction is not None:
        assert found.comparisons == compare(record, found.prediction)
