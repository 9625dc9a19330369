"""A prediction is plain data: pickled, compared, made by hand."""

import pickle
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

import families
import records
from lora_profiler.errors import NoProfileError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.memory.compiled import library
from lora_profiler.memory.compiled.evaluation import forget
from lora_profiler.memory.prediction import (
    CATEGORIES,
    CurvePoint,
    Details,
    DeviceMemory,
    LayerCost,
    Prediction,
)
from lora_profiler.planning.engine import predict
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.units import MIB

LORA = TrainSetup(lora=LoraConfig(r=4), seq_len=64)
BUNDLED = Workload(model=find_model("EleutherAI/pythia-14m"), setup=LORA)
TINY = Workload(
    model=model_from_config(dict(families.TINY["llama"]), id="tiny-llama", source="test"),
    setup=replace(LORA, packed=24),
)
"""Packed rows, which no profile can hold: the trace of one size is kept nowhere."""

ELSEWHERE = """
import pickle, sys
prediction = pickle.load(sys.stdin.buffer)
more = prediction.layers, prediction.curve, prediction.device_memory
least = prediction.device_memory.smallest_bytes if prediction.device_memory else None
assert "torch" not in sys.modules
sys.stdout.buffer.write(pickle.dumps((prediction, more, least)))
"""


pytestmark = pytest.mark.usefixtures("the_bundle")


@pytest.fixture(params=["analytic", "compiled", "traced", "auto"])
def prediction(request: pytest.FixtureRequest) -> Prediction:
    """The three engines' own, and rules with the tape of a profile that stands in."""
    if request.param == "traced":
        pytest.importorskip("torch")
        pytest.importorskip("peft")
        return predict(TINY, "traced")
    hopper = replace(BUNDLED, platform=Platform(capability=90))
    return predict(hopper if request.param == "auto" else BUNDLED, request.param)


def test_a_prediction_means_the_same_in_another_process(prediction: Prediction) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps(prediction),
        capture_output=True,
        check=True,
    )
    back, (layers, curve, memory), least = pickle.loads(done.stdout)
    assert back == prediction
    assert {f.name: getattr(back, f.name) for f in fields(Prediction)} == {
        f.name: getattr(prediction, f.name) for f in fields(Prediction)
    }
    assert layers == prediction.layers
    assert curve == prediction.curve
    assert memory == prediction.device_memory
    assert sum(layer.saved_activation_bytes for layer in layers) == back.saved_activation_bytes
    assert sum(layer.num_trainable_parameters for layer in layers) == back.parameters.trainable
    if not (back.has_tape or back.details):
        assert memory is None
    else:
        assert back.peak.total_bytes <= memory.allocated_bytes <= least <= memory.reserved_bytes


def test_nothing_in_a_prediction_is_a_function(prediction: Prediction) -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for one in value.values() for leaf in leaves(one)]
        if isinstance(value, list | tuple):
            return [leaf for one in value for leaf in leaves(one)]
        return [value]

    assert prediction.layers and prediction.curve
    assert not [leaf for leaf in leaves(asdict(prediction)) if callable(leaf)]


def test_predictions_differ_where_their_answers_do() -> None:
    rules = predict(BUNDLED, "analytic")
    assert rules == predict(BUNDLED, "analytic")
    assert rules != predict(BUNDLED, "compiled")
    longer = replace(BUNDLED, setup=replace(LORA, seq_len=65))
    assert rules != predict(longer, "analytic")


def test_a_prediction_is_made_by_hand() -> None:
    layer = LayerCost(
        name="head", kind="Linear", in_features=2, out_features=3, num_parameters=6,
        num_trainable_parameters=6, parameter_bytes=24, gradient_bytes=24, optimizer_state_bytes=48,
        saved_activation_bytes=8, flops=12,
    )  # fmt: skip
    point = CurvePoint(phase="forward", module="head", bytes={"activations": 8})
    memory = DeviceMemory(
        allocated_bytes=MIB,
        reserved_bytes=2 * MIB,
        expandable_reserved_bytes=2 * MIB,
        sizes=(10 * MIB, 12 * MIB),
        events=(0, ~0, 1),
    )
    made = records.make_prediction(
        details=Details(layers=(layer,), curve=(point,), device_memory=memory)
    )
    assert (made.layers, made.curve, made.device_memory) == ((layer,), (point,), memory)
    assert memory.smallest_bytes == 12 * MIB  # the first block is given back before the second
    assert made == pickle.loads(pickle.dumps(made))


def test_without_a_tape_the_curve_has_a_point_at_each_moment() -> None:
    made = records.make_prediction()
    assert [point.total_bytes for point in made.curve] == [
        sum(parts.values()) for parts in records.STEADY.values()
    ]
    assert {name for point in made.curve for name in point.bytes} <= set(CATEGORIES)


def test_a_profile_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = predict(BUNDLED, "compiled")
    monkeypatch.setattr(library, "BUNDLED", tmp_path / "none")
    forget()
    with pytest.raises(NoProfileError, match="lora-profile compile"):
        _ = prediction.layers
