"""Suites are the same everywhere, cover what they promise and can be predicted, and are measured on
machines that have little installed."""

import json
import os
import subprocess
import venv
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suites import home_device, suites
from commands import in_python
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.facts.catalog.gpus import context_of
from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.harness.telemetry import MIN_BLOCK_SECONDS
from lora_profiler.measuring.records.serialize import record_from_dict
from lora_profiler.planning.engine import predict
from record_checks import problems

ROOT = Path(__file__).parents[2]
CASES: Mapping[tuple[str, str], tuple[Case, ...]] = {
    (name, device): suite(device) for name, suite in suites().items() for device in ("cpu", "cuda")
}
CONTEXT_BYTES = context_of("h100_sxm_80gb").most_bytes


def cases(suite: str) -> tuple[Case, ...]:
    return CASES[suite, home_device(suite)]


# --- suites ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "device"), CASES)
def test_no_case_is_there_twice(suite: str, device: str) -> None:
    found = Counter((case.key, case.repeat) for case in CASES[suite, device])
    assert [key for key, count in found.items() if count > 1] == []
    assert {case.workload.setup.device for case in CASES[suite, device]} == {device}


def test_another_process_makes_the_same_suites() -> None:
    program = (
        "from benchmarks.suites import suites\nprint(*(c.key for s in suites().values() for d in"
        " ('cpu', 'cuda') for c in s(d)), sep='\\n')"
    )
    made = in_python(program, env={**os.environ, "PYTHONHASHSEED": "4"})
    assert made.split() == [case.key for found in CASES.values() for case in found]


@pytest.mark.grid
@pytest.mark.parametrize("suite", suites())
def test_every_case_can_be_started_and_predicted(suite: str) -> None:
    there: Any = {"installed": lambda name: name, "capability": lambda: (9, 0)}
    for case in cases(suite):
        refuse(case.workload, case.conditions, **there)
        prediction = predict(case.workload)
        assert None not in (prediction.flops, prediction.saved_activation_bytes), case.key


def test_cpu_records_cover_what_is_asked_of_them() -> None:
    found = cases("cpu_families")
    assert len(found) >= 84
    setups = [case.workload.setup for case in found]
    for method in ("full", "lora", "qlora"):
        of_method = [s for s in setups if s.method == method]
        assert {s.checkpointing for s in of_method} == {True, False}
        assert {s.optimizer_impl for s in of_method} == {"foreach", "fused", "forloop"}
        assert len({(s.batch_size, s.seq_len) for s in of_method}) >= 5
        workloads = (case.workload for case in found)
        assert len({w.model.model_type for w in workloads if w.setup.method == method}) == 10
    adapters = [s.lora for s in setups if s.lora is not None]
    assert len({lora.r for lora in adapters}) >= 5
    assert any(lora.lora_dropout for lora in adapters)
    of_lora = [s for s in setups if s.method == "lora" and s.lora is not None]
    formats = {(s.dtype, s.lora.adapter_dtype) for s in of_lora}
    assert formats == {("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")}
    bases = [s.quantization for s in setups if s.quantization is not None]
    recipes = {(base.recipe, base.double_quant) for base in bases}
    assert recipes >= {("stock", True), ("stock", False), ("kbit", True), ("trl", True)}
    assert {s.optimizer for s in setups} == {"adamw", "sgd", "adafactor", "adamw_8bit"}
    assert {s.attention for s in setups} >= {"auto", "eager", "math"}
    assert sum(s.accumulation == 4 for s in setups) >= 2
    assert sum(s.precision == "amp" for s in setups) >= 2
    models = (case.workload.model for case in found)
    whole = Counter(model.num_parameters for model in models if model.source == "bundled")
    assert whole == {124_439_808: 6, 134_515_008: 6}


def test_cpu_records_are_of_a_size_that_one_core_can_train() -> None:
    for case in cases("cpu_families"):
        prediction, whole = predict(case.workload), case.workload.model.source == "bundled"
        assert prediction.flops is not None
        assert 30e6 < prediction.peak.total_bytes < (3e9 if whole else 1e9), case.key
        flops = prediction.flops.total * case.workload.setup.accumulation
        assert flops < (300e9 if whole else 150e9), case.key


# --- the campaign of a GPU ------------------------------------------------------------------------


def test_the_campaign_on_a_cpu_is_the_same_list_in_miniature() -> None:
    def kind(case: Case) -> tuple[Any, ...]:
        asked = asdict(case.workload.setup)
        return (
            {name: value for name, value in asked.items() if name not in ("seq_len", "device")},
            case.workload.model.model_type,
            case.repeat,
            case.conditions.budget_bytes is not None,
            case.conditions.min_timed_steps > 0,
        )

    large, small = CASES["h100_campaign", "cuda"], CASES["h100_campaign", "cpu"]
    assert list(map(kind, large)) == list(map(kind, small))
    assert max(case.workload.model.num_parameters for case in small) < 300_000
    assert all(case.workload.model.source == "bundled" for case in large)


def test_the_campaign_asks_nothing_that_an_h100_cannot_hold() -> None:
    usable = find_gpu("h100_sxm_80gb").usable_bytes
    assert usable is not None
    for case in cases("h100_campaign"):
        assert predict(case.workload).peak.total_bytes + CONTEXT_BYTES < usable, case.key


def test_edges_lie_where_the_predictions_put_them() -> None:
    edges = [case for case in cases("h100_campaign") if case.conditions.budget_bytes is not None]
    assert len(edges) == 6
    for below, above in zip(edges[::2], edges[1::2], strict=True):
        budget = below.conditions.budget_bytes
        assert budget is not None and budget == above.conditions.budget_bytes
        peaks = [predict(case.workload).peak.total_bytes for case in (below, above)]
        assert peaks[0] < budget < peaks[1] + CONTEXT_BYTES


def test_energy_is_measured_over_blocks_that_are_long_enough() -> None:
    """One of twice as many steps as the other."""
    timed = [case for case in cases("h100_campaign") if case.conditions.min_timed_steps]
    limits = [(case, case.conditions.max_timing_seconds) for case in timed]
    short, long = (case for case, seconds in limits if seconds >= MIN_BLOCK_SECONDS)
    assert short.workload == long.workload
    assert long.conditions.min_timed_steps == 2 * short.conditions.min_timed_steps


def test_the_campaign_measures_a_thing_in_three_processes() -> None:
    repeats: dict[str, set[int]] = {}
    for case in cases("h100_campaign"):
        repeats.setdefault(case.key, set()).add(case.repeat)
    assert sum(found == {0, 1, 2} for found in repeats.values()) == 2


# --- a machine that has little --------------------------------------------------------------------


ABSENT = (
    "bitsandbytes", "click", "jsonschema", "nvidia_ml_py", "psutil", "pynvml", "rich",
    "lora_profiler", "__editable__",
)  # fmt: skip


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with this one's packages, but for those that measuring can do without."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in Path(pytest.__file__).parents[1].iterdir():
        if not package.name.lower().startswith(ABSENT):
            (site / package.name).symlink_to(package)
    return folder / "bin" / "python"


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_bare_machine_measures(bare_python: Path) -> None:
    """No click, rich, psutil, pynvml, jsonschema, bitsandbytes, and no git."""
    program = (
        "import json\nfrom dataclasses import replace\nfrom benchmarks.suites import suites\n"
        "from lora_profiler.measuring.harness import measure_case\n"
        "from lora_profiler.measuring.records.serialize import record_dict\n"
        "case = suites()['tiny']('cpu')[1]\n"
        "case = replace(case, conditions=replace(case.conditions, min_timed_steps=0))\n"
        "print(json.dumps(record_dict(measure_case(case))))"
    )
    env = {"PATH": "", "OMP_NUM_THREADS": "1", "LORA_PROFILER_COMMIT": "0123abc"}
    told: Any = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([str(bare_python), "-c", program], cwd=ROOT, env=env, **told)
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_from_dict(json.loads(done.stdout))
    assert record.measurement.status == "ok" and problems(record) == []
    assert record.environment.commit == "0123abc"
    predicted = predict(record.workload).peak.total_bytes
    assert record.measurement.peak_requested_bytes == pytest.approx(predicted, abs=1000)
