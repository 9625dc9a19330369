"""Programs that are read off the names and shapes of a model's modules, against programs, laws and
traces of the same types."""

from collections import defaultdict
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from agreement import a_sweep_as_single_answers
from benchmarks.pages import read_document
from benchmarks.truth.bundle import workload_of
from benchmarks.truth.estimates import estimated, rehearsed, within
from benchmarks.truth.estimates import worse_types as measured_worse
from lora_profiler import LoraConfig, Quantization, TrainSetup, Workload, find_model, predict
from lora_profiler._common import packages
from lora_profiler.facts.catalog import bundled_models, find_gpu
from lora_profiler.memory.analytic import peak_bytes
from lora_profiler.memory.analytic.families.by_modules import (
    ERRORS,
    error_of,
    family_by_modules,
    group_of,
    worse_types,
)
from lora_profiler.planning.fit import judged_on
from lora_profiler.trace.single_size import predict_once

FULL, LORA = TrainSetup(), TrainSetup(lora=LoraConfig())
LIGER = replace(LORA, kernels="liger", loss="fused")
QLORA = replace(LORA, quantization=Quantization(), checkpointing=True)
ROWS = read_document("estimates")["rows"]


def test_errors_are_those_of_the_results() -> None:
    errors = defaultdict(list)
    for row in ROWS:
        errors[row["group"]].append(row["error"])
    assert errors.keys() == ERRORS.keys()
    for group, of in errors.items():
        share = 1.0 if group in ("packed experts", "states") else 0.95
        assert ERRORS[group] / 8 < within(of, share) < ERRORS[group], group


def test_of_worse_types_every_estimate_is_within_what_is_stated() -> None:
    assert worse_types() == measured_worse(ROWS)
    for row in (row for row in ROWS if row["against"] == "laws"):
        of_type = worse_types().get(row["type"], {}).get(row["layers"], 0.0)
        assert abs(row["error"]) <= max(ERRORS[row["group"]], of_type), row


def test_rehearsals_over_torch_s_cuda_build_say_the_same() -> None:
    found = list(rehearsed())
    assert all(abs(error) < (said.error_bound or 0) for said, error in found)
    assert len(found) > 30 and within([error for _, error in found], 0.75) < 0.001


@pytest.mark.parametrize(
    "setup", [FULL, LORA, QLORA, LIGER], ids=["full", "lora", "qlora", "liger"]
)
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("meta-llama/Llama-3.1-8B", 0),
        ("Qwen/Qwen2.5-7B", 0),
        ("Qwen/Qwen3-8B", 0),
        ("Qwen/Qwen3-30B-A3B", 0),
        ("microsoft/Phi-4-mini-instruct", 0),
        ("google/gemma-3-1b-it", 0.01),
        ("allenai/OLMo-2-1124-7B", 0.05),
        ("openai-community/gpt2", 0.02),
    ],
)
def test_it_says_nearly_what_the_program_of_the_type_says(
    name: str, most: float, setup: TrainSetup
) -> None:
    workload = Workload(model=find_model(name), setup=replace(setup, seq_len=512))
    assert abs(estimated(workload) / peak_bytes(workload) - 1) <= most


@pytest.mark.slow
@pytest.mark.parametrize("setup", [FULL, QLORA], ids=["full", "qlora"])
@pytest.mark.parametrize(
    "name",
    [
        "bigcode/starcoder2-3b",
        "zai-org/GLM-4-9B-0414",
        "allenai/OLMoE-1B-7B-0924",
        "google/gemma-4-31B",
        "HuggingFaceTB/SmolLM3-3B",
        "Qwen/Qwen1.5-MoE-A2.7B",
    ],
)
def test_it_is_near_a_fresh_trace_of_a_type_that_has_no_program(
    name: str, setup: TrainSetup
) -> None:
    workload = Workload(model=find_model(name), setup=replace(setup, seq_len=256))
    said = predict(workload, "analytic")
    assert (said.exactness, said.error_bound) == ("estimate", error_of(workload))
    assert said.error_bound is not None
    truth = predict_once(workload)
    assert abs(said.peak.total_bytes / truth.peak.total_bytes - 1) < said.error_bound
    assert said.saved_activation_bytes == pytest.approx(truth.saved_activation_bytes, rel=0.07)


def test_what_is_no_decoder_of_one_stack_has_none() -> None:
    for name in (
        "google-t5/t5-small",
        "facebook/bart-base",
        "google-bert/bert-base-uncased",
        "google/vit-base-patch16-224",
        "tiiuae/falcon-7b",  # whose linear layers are a class of its own
        "facebook/opt-350m",  # whose embedding is narrower than its layers
    ):
        model = find_model(name)
        assert family_by_modules(model) is None, name


def test_every_other_bundled_model_of_one_stack_has_one() -> None:
    without = set()
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        if model.architecture.endswith("ForCausalLM") and family_by_modules(model) is None:
            without.add(model.model_type)
        elif family_by_modules(model) is not None:
            group_of(Workload(model=model))
    assert without <= {"falcon", "opt"}


@pytest.mark.usefixtures("no_estimates")
def test_a_torch_that_cannot_be_loaded_leaves_a_lower_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path))

    def broken(name: str) -> ModuleType:
        if name in packages.TRACING:
            raise OSError("libcudart.so.12: cannot open shared object file\nand more")
        return import_module(name)

    monkeypatch.setattr(packages, "import_module", broken)
    with pytest.warns(
        UserWarning, match=r"torch is installed and cannot be loaded: libcudart\S+ c"
    ):
        said = predict(Workload(model=find_model("EleutherAI/gpt-j-6b"), setup=LORA))
    assert not said.is_whole


def test_a_verdict_within_the_error_is_none() -> None:
    """Gemma 4 31B in 4 bit, on GPUs around its peak."""
    workload = Workload(model=find_model("google/gemma-4-31B"), setup=QLORA)
    said = predict(workload, "analytic")
    peak = said.peak.total_bytes / 2**30
    verdicts = []
    for share in (0.9, 1.0, 1.5):
        judged = judged_on(said, find_gpu(f"{peak * share:.1f}GiB"), "analytic")
        verdicts.append(judged and judged.verdict)
    assert verdicts == ["does_not_fit", "tight", "fits"]


def test_a_sweep_of_estimates_is_of_estimates_alone() -> None:
    workload = Workload(model=find_model("google/gemma-4-31B"), setup=QLORA)
    a_sweep_as_single_answers(workload, [1, 2, 5], [QLORA.seq_len], "auto")


@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize("question", ["plain axolotl lora", "plain transformers full"])
@pytest.mark.parametrize("name", ["google/gemma-3-4b-it", "HuggingFaceTB/SmolVLM2-2.2B-Instruct"])
def test_a_tower_that_no_text_runs_has_no_gradients(name: str, question: str) -> None:
    """As in the law, which was traced: its weights train, and are counted, but get none."""
    workload = workload_of(find_model(name), question)
    said, traced = predict(workload, "analytic"), predict(workload, "compiled")
    for kind in ("gradients", "optimizer_states", "adapters"):
        assert said.persistent_bytes[kind] == traced.persistent_bytes[kind], kind
    assert said.parameters.trainable == traced.parameters.trainable
    rows = said.layers
    assert sum(row.gradient_bytes for row in rows) == said.persistent_bytes["gradients"]
