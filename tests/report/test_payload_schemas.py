"""The schemas of printed JSON, which are made of types, against documents: every field is known,
and none takes a value of another kind."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest

import records
from lora_profiler import (
    Amount,
    Space,
    TrainingData,
    find_gpu,
    find_model,
    lengths_of,
    make_plan,
    offers_of,
)
from lora_profiler.facts.catalog.gpus import table_prices
from lora_profiler.measuring.records.record import Record
from lora_profiler.planning.answers import answers
from lora_profiler.planning.placement import find_network
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.json.bench import (
    bench_payload,
    bench_schema,
    change_payload,
    compare_payload,
    summary_records,
)
from lora_profiler.report.json.plan import plan_payload, plan_schema
from lora_profiler.report.json.predict import predict_payload, predict_schema
from lora_profiler.runs.campaign.batch_search import LargestBatch
from lora_profiler.runs.comparison.errors import Grouping, Scored, compare, summary
from lora_profiler.runs.comparison.regressions import changes, paired, setup_changes

Place = tuple[str | int, ...]


def predicted() -> Any:
    """Three methods on a card, and two of several ranks."""
    lora = LoraConfig(r=8)
    setups = [
        TrainSetup(seq_len=512),
        TrainSetup(seq_len=512, lora=lora),
        TrainSetup(seq_len=512, lora=lora, quantization=Quantization()),
    ]
    ranks = [replace(setup, world_size=4, sharding="fsdp") for setup in setups[:2]]
    model, gpu = find_model("meta-llama/Llama-3.1-8B"), find_gpu("h100_sxm_80gb")
    return predict_payload(
        [
            *answers([Workload(model=model, setup=s) for s in setups], gpu, levers="all"),
            *answers(
                [Workload(model=model, setup=s) for s in ranks], network=find_network("nvlink4")
            ),
        ]
    )


def measured() -> list[Record]:
    return [records.make_record(), records.make_record(repeat=1)]


def compared() -> Any:
    made = measured()
    errors = [c for r in made for c in compare(r, records.make_prediction())]
    by: list[Grouping] = ["metric", "category", "method", "model"]
    grouped = summary_records(summary(errors, by, {r.id: r for r in made}), by)
    refused = Scored(record=made[1], prediction=None, refusal="no profile", comparisons=())
    return compare_payload([refused], errors, grouped)


def changed() -> Any:
    before = measured()
    after = [records.make_record(environment={"python": "3.12.0"}, repeat=i) for i in range(2)]
    pairs = paired(before, after)
    return change_payload(pairs, changes(pairs.pairs), setup_changes(before, after))


def searched() -> Any:
    proven = LargestBatch(
        batch_size=2, upper=2, monotone=True, emulated=False, predicted=3, records=tuple(measured())
    )
    return bench_payload(measured(), (), [proven])


def planned() -> Any:
    """Over data with prices, on one card and on several; and where nothing fits."""
    offers = offers_of(
        find_model("Qwen/Qwen2.5-0.5B"), ["t4", "2xl4"], methods=["lora"], prices=table_prices()
    )
    data = TrainingData(lengths=lengths_of([100, 200, 900]))
    return plan_payload(make_plan(offers, Amount(data=data), Space(effective_batch=2, ranks=(8,))))


def unplanned() -> Any:
    offers = offers_of(find_model("meta-llama/Llama-3.1-8B"), ["custom:4GiB"])
    return plan_payload(make_plan(offers, Amount(tokens=1_000_000), Space(ranks=(8,))))


DOCUMENTS = {
    "plan": (planned, plan_schema),
    "plan, nothing fits": (unplanned, plan_schema),
    "predict": (predicted, predict_schema),
    "compare": (compared, bench_schema),
    "compare --against": (changed, bench_schema),
    "bench --largest-batch": (searched, bench_schema),
}


def unknown_keys(data: Any, schema: Any, root: Any, at: Place = ()) -> Iterator[Place]:
    """Places of keys that the schema does not name, in objects whose keys it names."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for option in schema.get("anyOf", ()):
        if "$ref" in option or option.get("type") in ("object", "array"):
            yield from unknown_keys(data, option, root, at)
    if isinstance(data, dict):
        names = schema.get("properties")
        for key, value in data.items():
            if names is not None and key not in names:
                yield (*at, key)
            below = (names or {}).get(key, schema.get("additionalProperties", {}))
            yield from unknown_keys(value, below, root, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from unknown_keys(value, schema.get("items", {}), root, (*at, index))


def places(data: Any, at: Place = ()) -> Iterator[Place]:
    """Of every value but those in a model's config; of a list the first alone."""
    if at:
        yield at
    if isinstance(data, dict) and at[-1:] != ("config",):
        for key, value in data.items():
            yield from places(value, (*at, key))
    elif isinstance(data, list) and data:
        yield from places(data[0], (*at, 0))


def shorten(data: Any) -> None:
    """Leaves of each list what `places` looks at."""
    for value in data.values() if isinstance(data, dict) else data:
        if isinstance(value, list):
            del value[1:]
        if isinstance(value, (dict, list)):
            shorten(value)


@cache
def made(name: str) -> tuple[str, Any]:
    """A document as it is printed, and its schema."""
    make, make_schema = DOCUMENTS[name]
    return json.dumps(make()), make_schema()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_meets_its_schema_which_knows_every_field(name: str) -> None:
    printed, schema = made(name)
    document = json.loads(printed)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert list(unknown_keys(document, schema, schema)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_value_of_another_kind_is_refused(name: str) -> None:
    printed, schema = made(name)
    document = json.loads(printed)
    shorten(document)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(document)
    untyped = []
    for place in places(document):
        spoilt = copy.deepcopy(document)
        into = spoilt
        for step in place[:-1]:
            into = into[step]
        into[place[-1]] = {"x": ["y"]}
        if validator.is_valid(spoilt):
            untyped.append(place)
    free = {"config", "setup"} if "largest_batches" in document else {"config"}
    assert all(free.intersection(place) for place in untyped), untyped
