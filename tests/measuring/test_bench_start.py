"""Before anything is measured: which device, which suite, what is refused, and where a search
begins."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import families
from fake_nvml import FakeDevice, FakeNvml
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.measuring.harness import Case, MeasurementError, make_case, measure
from lora_profiler.measuring.harness import capabilities as device_choice
from lora_profiler.measuring.harness.capabilities import check_device, present_device
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.planning.engine import predict
from lora_profiler.planning.fit import predicted_largest_batch
from lora_profiler.planning.reserve import Judged, held_bytes
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.runs.campaign import suites
from lora_profiler.runs.campaign.batch_search import predicted_start
from lora_profiler.runs.campaign.planned import planned, refuse_beyond, sorted_out

LLAMA = model_from_config(dict(families.TINY["llama"]), id="tiny-llama", source="file")


def case(device: Any = "cpu", **conditions: Any) -> Case:
    setup = TrainSetup(
        batch_size=2, seq_len=24, dtype="float32", device=device, lora=LoraConfig(r=4)
    )
    return make_case(Workload(model=LLAMA, setup=setup), Conditions(**conditions))


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice(uuid="GPU-1", name="NVIDIA H100 80GB HBM3", total=81_559 * 2**20)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(device))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return device


# --- the device -----------------------------------------------------------------------------------


def built(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(device_choice, "torch_version", lambda: version)


def never() -> str:
    raise AssertionError("torch was asked")


def test_a_torch_without_accelerators_trains_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, card: FakeDevice
) -> None:
    built(monkeypatch, "2.13.0+cpu")
    assert present_device("linux", lambda path: True, never) == "cpu"


def test_a_card_that_nvml_shows_is_taken_without_asking_torch(
    monkeypatch: pytest.MonkeyPatch, card: FakeDevice
) -> None:
    built(monkeypatch, "2.11.0+cu130")
    assert present_device("linux", lambda path: True, never) == "cuda"


def test_linux_without_device_files_has_no_accelerator(
    monkeypatch: pytest.MonkeyPatch, no_card: None
) -> None:
    built(monkeypatch, "2.11.0+cu130")
    assert present_device("linux", lambda path: False, never) == "cpu"


@pytest.mark.parametrize(
    ("answer", "device"),
    [
        ("cuda", "cuda"),
        ("xpu", "xpu"),
        ("mps", "mps"),
        ("hpu", "cpu"),
        (None, "cpu"),
        ("None", "cpu"),
    ],
)
def test_elsewhere_torch_is_asked(
    answer: str | None, device: str, monkeypatch: pytest.MonkeyPatch, no_card: None
) -> None:
    built(monkeypatch, "2.11.0")
    assert present_device("linux", lambda path: path == "/dev/kfd", lambda: answer) == device
    assert present_device("darwin", lambda path: False, lambda: answer) == device


def test_the_question_is_one_that_torch_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", device_choice._QUESTION], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("None", "cuda", "xpu", "mps")


def test_a_torch_that_cannot_be_asked_means_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_choice, "_QUESTION", "raise SystemExit(3)")
    assert device_choice._torch_accelerator() is None


def test_a_device_that_torch_was_not_built_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built(monkeypatch, "2.13.0+cpu")
    check_device("cpu")
    with pytest.raises(
        MeasurementError, match=r"built for the CPU alone and has no cuda; take --device cpu"
    ):
        check_device("cuda")
    built(monkeypatch, "2.11.0+cu130")
    check_device("cuda")


# --- suites ---------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one suite, of a package that this process has not imported yet."""
    monkeypatch.setattr(suites, "MODULE", "other_benchmarks.suites")
    monkeypatch.setattr(suites, "FILE", Path("other_benchmarks", "suites.py"))
    (tmp_path / "other_benchmarks").mkdir()
    (tmp_path / "other_benchmarks" / "suites.py").write_text(
        "from other_benchmarks.one import one\n\ndef suites():\n    return {'one': one, 'other':"
        " one}\n"
    )
    (tmp_path / "other_benchmarks" / "one.py").write_text(
        "def one(device):\n    return (device,)\n"
    )
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("other_benchmarks")]:
        del sys.modules[name]


def test_a_suite_is_found_by_name_and_told_the_device(root: Path) -> None:
    before = list(sys.path)
    assert suites.suite_cases("one", "xpu", [root / "nowhere", root]) == ("xpu",)
    assert sys.path == before


def test_an_unknown_suite_gets_all_there_are(root: Path) -> None:
    with pytest.raises(
        UsageError, match=r"there is no suite 'oen'; there are one, other\. Did you mean one"
    ):
        suites.suite_cases("oen", "cpu", [root])


def test_without_a_source_tree_there_are_no_suites(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there are no suites in .*run from a checkout"):
        suites.suites([tmp_path])


def test_the_source_tree_comes_before_the_working_directory() -> None:
    tree, here = suites.places()
    assert (tree / "lora_profiler").is_dir()
    assert here == Path.cwd()


@pytest.mark.grid
@pytest.mark.parametrize("name", sorted(suites.suites()))
def test_every_suite_of_the_source_tree_is_made_of_predictable_cases(name: str) -> None:
    cases = suites.suite_cases(name, "cpu")
    assert len({(c.key, c.repeat) for c in cases}) == len(cases) > 0
    able, unable = sorted_out(cases, None)
    assert len(able) + len(unable) == len(cases)
    assert all(each.prediction.workload == each.case.workload for each in able)


# --- refused --------------------------------------------------------------------------------------


def test_what_the_machine_cannot_hold_is_refused_on_the_cpu_only() -> None:
    each = planned(case())
    peak = each.prediction.peak.total_bytes
    refuse_beyond(peak, [each])
    refuse_beyond(None, [each])
    with pytest.raises(
        MeasurementError,
        match=r"tiny-llama \(lora\) needs .* by its prediction, and this machine has 500\.00 KiB",
    ):
        refuse_beyond(512_000, [each])
    on_card = replace(each, case=case("cuda"))
    refuse_beyond(2**20, [on_card])


def test_a_budget_ends_a_run_in_time_but_the_weights_need_their_room() -> None:
    each = planned(case(budget_bytes=600_000))
    refuse_beyond(600_000, [each])
    with pytest.raises(MeasurementError):
        refuse_beyond(599_999, [each])
    persistent = each.prediction.persistent_bytes
    weights = persistent["parameters"] + persistent["adapters"]
    tight = planned(case(budget_bytes=1000))
    refuse_beyond(weights, [tight])
    with pytest.raises(MeasurementError):
        refuse_beyond(weights - 1, [tight])


# --- where a search begins ------------------------------------------------------------------------


def test_the_predicted_batch_is_the_largest_whose_peak_is_within() -> None:
    workload = case().workload

    def peak(size: int) -> int:
        return predict(
            replace(workload, setup=replace(workload.setup, batch_size=size))
        ).peak.total_bytes

    for usable in (peak(1) - 1, peak(1), 3_000_000, 17_000_000):
        sizes = [size for size in range(1, 80) if peak(size) <= usable]
        assert predicted_largest_batch(workload, usable) == max(sizes, default=0)


def test_on_the_cpu_the_budget_counts_and_without_one_nothing_is_known() -> None:
    assert predicted_start(case(budget_bytes=4 * 2**20)) == predicted_largest_batch(
        case().workload, 4 * 2**20
    )
    assert predicted_start(case()) is None


def test_on_a_card_its_memory_less_the_reserve_counts(card: FakeDevice) -> None:
    start = predicted_start(case("cuda"))
    assert start is not None
    from lora_profiler.facts.catalog import find_gpu

    setup, gpu = case("cuda").workload.setup, find_gpu("h100_sxm_80gb")

    def fits(size: int, total: int) -> bool:
        asked = Workload(model=LLAMA, setup=replace(setup, batch_size=size))
        answer = predict(asked)
        judged = Judged(asked, answer.peak.total_bytes, total, gpu, held=held_bytes(answer))
        return judged.verdict == "fits"

    assert fits(start, card.total)
    assert not fits(start + 1, card.total)
    half = predicted_start(case("cuda", budget_bytes=card.total // 2))
    assert half is not None
    assert fits(half, card.total // 2)
    assert not fits(half + 1, card.total // 2)


def test_an_unknown_card_is_judged_by_its_memory_and_no_card_not_at_all(
    card: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = predicted_start(case("cuda"))
    card.name = "NVIDIA Example"
    unknown = predicted_start(case("cuda"))
    assert known and unknown
    assert abs(unknown / known - 1) < 0.01
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    assert predicted_start(case("cuda")) is None
    assert predicted_start(case("cuda", budget_bytes=2**33)) is not None


@pytest.mark.usefixtures("no_estimates")
def test_a_model_whose_activations_are_not_known_has_no_predicted_start() -> None:
    from lora_profiler.facts.catalog import find_model

    setup = replace(case().workload.setup, seq_len=8)
    asked = make_case(
        Workload(model=find_model("microsoft/phi-2"), setup=setup), Conditions(budget_bytes=2**34)
    )
    assert predicted_start(asked) is None


@pytest.mark.parametrize("name", ["weights", "text"])
def test_conditions_that_only_name_their_inputs_are_refused(name: str) -> None:
    workload = Workload(model=find_model("gpt2"), setup=TrainSetup(device="cpu"))
    words: dict[str, Any] = {name: "foo"}
    conditions = Conditions(**words)
    with pytest.raises(UsageError, match=re.escape(f"add {name}='foo' to measure()")):
        measure(workload, conditions)
