"""Records to JSON and back: nothing lost, nothing accepted that is none; the published schema says
the same as the decoder."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from golden_files import Golden
from lora_profiler.errors import LoraProfilerError, ModelNotFoundError
from lora_profiler.facts.catalog import find_model
from lora_profiler.facts.catalog.bundled import bundled_models
from lora_profiler.measuring.records.record import (
    SCHEMA_VERSION,
    STATUSES,
    Conditions,
    Failure,
    Record,
    case_key,
)
from lora_profiler.measuring.records.serialize import (
    RecordError,
    record_dict,
    record_from_dict,
    record_schema,
    workload_dict,
    workload_from_dict,
)
from lora_profiler.question.workload import (
    STORED_OPTIONS,
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
)
from record_checks import problems
from record_strategies import MODELS, records, workloads
from records import make_record

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMA = record_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SLOW_START = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def golden(version: str) -> Any:
    return json.loads((GOLDEN / f"record-{version}.json").read_text())


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


# --- workloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [entry.id for entry in bundled_models()])
def test_every_bundled_model_comes_back(name: str) -> None:
    workload = Workload(model=find_model(name), setup=TrainSetup(lora=LoraConfig(r=4)))
    back = workload_from_dict(through_json(workload_dict(workload)))
    assert back.key == workload.key
    assert back.model == workload.model
    assert list(back.model.modules()) == list(workload.model.modules())


@SLOW_START
@given(workloads())
def test_every_setup_comes_back(workload: Workload) -> None:
    written = through_json(workload_dict(workload))
    back = workload_from_dict(written)
    assert back.key == workload.key
    assert workload_dict(back) == workload_dict(workload)
    assert back.setup.method == workload.setup.method
    if workload.setup.lora and back.setup.lora:
        assert back.setup.lora.alpha == workload.setup.lora.alpha
        assert back.setup.lora.target_modules == workload.setup.lora.target_modules
    assert (back.setup.lora is None) == (workload.setup.lora is None)
    assert back.setup.quantization == workload.setup.quantization


def test_a_model_without_its_config_is_looked_up() -> None:
    data = through_json(workload_dict(Workload(model=find_model("gpt2"))))
    del data["model"]["config"], data["model"]["fingerprint"]
    assert workload_from_dict(data) == Workload(model=find_model("gpt2"))


def test_no_record_makes_this_program_read_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(MODELS[0].published)))
    data = through_json(workload_dict(Workload(model=MODELS[0])))
    data["model"] = {"id": str(tmp_path)}
    assert find_model(str(tmp_path)).fingerprint == MODELS[0].fingerprint
    with pytest.raises(ModelNotFoundError, match="is not a hub id"):
        workload_from_dict(data)


def test_a_model_that_is_another_than_its_config_says_is_refused() -> None:
    data = through_json(workload_dict(Workload(model=MODELS[0])))
    data["model"]["config"]["n_layer"] = 13
    with pytest.raises(RecordError, match="not the model that this version makes of its config"):
        workload_from_dict(data)


# --- records --------------------------------------------------------------------------------------


@SLOW_START
@given(records())
def test_every_record_comes_back_and_meets_the_schema(record: Record) -> None:
    written = through_json(record_dict(record))
    VALIDATOR.validate(written)
    back = record_from_dict(written)
    assert (back.id, back.case_key) == (record.id, record.case_key)
    for part in ("conditions", "environment", "measurement", "repeat", "started_at", "ended_at"):
        assert getattr(back, part) == getattr(record, part)
    assert through_json(record_dict(back)) == written


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_comes_back_and_meets_the_schema(status: str) -> None:
    record = make_record(
        status=status,
        failure=None if status in ("ok", "noisy") else Failure(reason="x", phase="load", step=1),
    )
    written = through_json(record_dict(record))
    VALIDATOR.validate(written)
    assert record_from_dict(written).measurement == record.measurement


def test_keys_follow_what_they_stand_for() -> None:
    record = make_record()
    assert make_record(repeat=1).id != record.id
    assert make_record(repeat=1).case_key == record.case_key
    assert make_record(conditions=Conditions(seed=1)).case_key != record.case_key
    assert (
        make_record(environment={"packages": {"torch": "9.9"}}).environment.key
        != record.environment.key
    )
    assert make_record(environment={"commit": "abc"}).environment.key == record.environment.key
    assert record.id == f"{case_key(record.workload, record.conditions)}.{record.environment.key}.0"


# --- what is no record ----------------------------------------------------------------------------


def test_errors_name_the_field_that_is_wrong_or_missing(golden_file: Golden) -> None:
    def answer(change: str) -> str:
        data = golden("1.1")
        place, _, value = change.partition(" = ")
        *path, last = place.removesuffix(" missing").split(".")
        into = data
        for step in path:
            into = into[int(step) if step.isdecimal() else step]
        if value:
            into[int(last) if last.isdecimal() else last] = json.loads(value)
        else:
            del into[last]
        with pytest.raises(RecordError) as e:
            record_from_dict(data)
        assert e.value.exit_code == 2
        return str(e.value)

    golden_file.compare_answers("record-errors", answer)


@pytest.mark.parametrize("data", [None, [], 5, "record"])
def test_what_is_no_object_is_no_record(data: Any) -> None:
    with pytest.raises(RecordError, match=r"a record is .*; it must be an object"):
        record_from_dict(data)


# --- the schema -----------------------------------------------------------------------------------


def test_the_schema_is_one_and_knows_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    assert set(SCHEMA["properties"]) == set(record_dict(make_record()))
    VALIDATOR.validate(golden("1.1"))


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document but the model's config, whose fields are not this
    schema's."""
    if at:
        yield at
    if isinstance(data, dict) and at[-1:] != ("config",):
        for key, value in data.items():
            yield from places(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data[:1]):
            yield from places(value, (*at, index))


JUNK: list[Any] = [
    None, True, False, 0, -1, 2.5, "", "x", "float16", [], ["x"], [1], [None], {}, {"x": 1},
    {"setup": 1.5},
]  # fmt: skip


def spoilt(data: Any, place: tuple[Any, ...], how: Any) -> Any:
    """`data` with a value replaced, a key added beside it ("add") or itself taken away
    ("delete")."""
    changed = copy.deepcopy(data)
    *path, last = place
    into = changed
    for step in path:
        into = into[step]
    if how == "delete":
        del into[last]
    elif how == "add":
        into["surplus"] = 1
    else:
        into[last] = how
    return changed


def test_what_the_schema_refuses_the_decoder_refuses() -> None:
    """Every value of a full record deleted, given a neighbour and replaced by some junk values; and
    nothing stray is raised."""
    good, draw = golden("1.1"), random.Random(0)
    good["measurement"]["phases"] = good["measurement"]["phases"][:1]
    refused_by_schema = tried = 0
    for place in places(good):
        in_object = isinstance(place[-1], str)
        for how in [*draw.sample(JUNK, 3), "delete", *(["add"] if in_object else [])]:
            changed = spoilt(good, place, how)
            tried += 1
            try:
                record_from_dict(changed)
                accepted = True
            except LoraProfilerError:
                accepted = False
            if accepted:
                VALIDATOR.validate(changed)
            else:
                refused_by_schema += not VALIDATOR.is_valid(changed)
    assert tried > 800
    assert refused_by_schema > tried / 3


# --- older schemas --------------------------------------------------------------------------------


def test_schema_1_0_is_read() -> None:
    """The contract's minimum: an environment of any fields, and no conditions, keys or times."""
    record = record_from_dict(golden("1.0"))
    assert record.workload == Workload(
        model=find_model("gpt2"),
        setup=TrainSetup(
            lora=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=("c_attn",)),
            batch_size=2,
            seq_len=128,
            dtype="float32",
            device="cpu",
        ),
    )
    assert record.conditions == Conditions()
    assert record.repeat == 0
    assert (record.started_at, record.ended_at) == (None, None)
    environment = record.environment
    assert (environment.python, environment.platform, environment.threads) == ("3.11.9", "Linux", 2)
    assert environment.packages == {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"}
    assert (environment.device.kind, environment.device.name) == ("cpu", "A processor")
    measured = record.measurement
    assert measured.status == "ok"
    assert measured.step_seconds[:2] == (0.31, 0.30)
    assert measured.peak_requested_bytes == measured.phase_peak_bytes["backward"] == 1_000_000_000
    assert measured.attribution_bytes["unattributed"] == 701_824
    assert measured.peak_reserved_bytes is None
    written = through_json(record_dict(record))
    VALIDATOR.validate(written)
    assert record_from_dict(written) == record


@pytest.mark.parametrize(
    ("environment", "device", "packages"),
    [
        ({}, ("cpu", "unknown"), {}),
        ({"device": None, "gpu": "NVIDIA L4"}, ("cpu", "NVIDIA L4"), {}),
        (
            {"device": {"kind": "cuda", "name": "NVIDIA L4"}, "gpu": "x"},
            ("cuda", "NVIDIA L4"),
            {"gpu": "x"},
        ),
        (
            {"torch": "2.11.0", "packages": {"peft": "0.21"}, "os": None},
            ("cpu", "unknown"),
            {"torch": "2.11.0", "peft": "0.21"},
        ),
    ],
)
def test_schema_1_0_takes_any_environment(
    environment: dict[str, Any], device: tuple[str, str], packages: dict[str, str]
) -> None:
    read = record_from_dict(golden("1.0") | {"environment": environment}).environment
    assert (read.device.kind, read.device.name) == device
    assert read.packages == packages
    assert (read.python, read.platform) == ("unknown", "unknown")


@pytest.mark.parametrize(
    "place", list(places(golden("1.0"))), ids=lambda place: ".".join(map(str, place))
)
def test_spoilt_records_of_schema_1_0_raise_nothing_stray(place: tuple[Any, ...]) -> None:
    for how in [*JUNK, "delete"]:
        try:
            record_from_dict(spoilt(golden("1.0"), place, how))
        except LoraProfilerError:
            continue


LATER_OF_A_MEASUREMENT = {"ranks": [], "reference_loss": []}
"""Fields of 1.1 that came after its first records, with what a record without them means."""


def test_schema_1_1_is_read_whole() -> None:
    """Every field is filled in, so that one that is dropped or renamed shows."""
    data = golden("1.1")
    record = record_from_dict(data)
    written = through_json(record_dict(record))
    padding = data["conditions"]["padding"]  # is of the setup now
    for place, later in (
        (
            written["workload"]["setup"],
            {option.name: option.default for option in STORED_OPTIONS if option.declared.added}
            | {"padding": padding},
        ),
        (written["measurement"], LATER_OF_A_MEASUREMENT),
    ):
        for name, meant in later.items():
            is_list = name in ("feedforward_modules", "freeze", "target_parameters", "peft_arg")
            assert place.pop(name) == ([] if is_list else meant)
    written["conditions"]["padding"] = padding
    for named_by_the_setup in ("case_key", "id"):
        assert written.pop(named_by_the_setup) != data.pop(named_by_the_setup)
    assert written == data
    assert problems(record) == []
    empty = [
        place
        for place in places(data)
        if at(data, place) in (None, [], {}) and place[:2] != ("workload", "model")
    ]
    assert empty == [
        ("measurement", "failure"),
        ("measurement", "device_samples", 0, "process_bytes"),
    ]


def at(data: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        data = data[step]
    return data


def test_setup_defaults_are_those_of_the_program() -> None:
    data = golden("1.1")
    data["workload"]["setup"] = {"method": "qlora"}
    data["conditions"]["padding"] = 0.0
    setup = record_from_dict(data).workload.setup
    assert setup == TrainSetup(lora=LoraConfig(target_modules=None), quantization=Quantization())
