"""The card and torch's version reach every answer: rules equal traces on each platform, and what
people see says so."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import cases
import records
from agreement import same_step
from commands import Run
from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.facts.catalog import bundled_gpus, find_gpu, find_model, model_from_config
from lora_profiler.measuring.harness import capabilities as device_choice
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.compiled import has_profile
from lora_profiler.memory.compiled.evaluation import has_stand_in
from lora_profiler.memory.compiled.predict import STAND_IN_ERROR
from lora_profiler.memory.compiled.regime import key_of
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.planning.fit import fit
from lora_profiler.planning.timing import step_time
from lora_profiler.question.gpu_platform import Platform, parse_torch, version_of
from lora_profiler.question.workload import Dtype, LoraConfig, TrainSetup, Workload
from lora_profiler.trace.single_size import predict_once

INSTALLED = version_of(torch.__version__) or (0, 0)
CARDS = {70: (2, 13), 75: (2, 14), 86: (2, 13), 90: (2, 13), 120: (2, 15)}
PLATFORMS = [Platform(capability=card, torch=version) for card, version in CARDS.items()]


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: f"{p.capability_text}-{p.torch_text}")
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma3_text-varied", "gpt2-varied"])
def test_rules_take_the_kernels_of_the_trace(name: str, platform: Platform, dtype: Dtype) -> None:
    """Grouped heads and others, filled windows, dropout in attention."""
    setup = TrainSetup(
        lora=LoraConfig(r=4), batch_size=2, seq_len=40, dtype=dtype, checkpointing=name == "llama"
    )
    workload = Workload(model=cases.spec_of(name), setup=setup, platform=platform)
    mine = predict(workload)
    if "efficient" in mine.attention_kernel and name == "llama" and platform.torch > INSTALLED:
        with pytest.raises(UnbuildableError, match="does not support grouped heads"):
            predict_once(workload)
        return
    real = predict_once(workload)
    assert mine.attention_kernel == real.attention_kernel
    # masks in the math kernel: said to be an estimate
    if "math" in mine.attention_kernel and name == "gemma3_text-varied":
        assert (mine.exactness, mine.error_bound) == ("estimate", None)
        return
    same_step(mine, real)


def llama(**setup: object) -> Workload:
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    return Workload(model=model, setup=TrainSetup(lora=LoraConfig(), **setup))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpu", "kernel"),
    [
        ("h100_sxm_80gb", "cudnn"),
        ("b200_180gb", "cudnn"),
        ("a100_sxm_80gb", "flash"),
        ("rtx_4090", "flash"),
        ("t4", "math"),
        ("rtx_5090", "flash"),
        ("mi300x_192gb", "flash"),
        ("custom:24GiB", "flash"),
    ],
)
def test_each_answerer_takes_the_kernel_of_the_card(gpu: str, kernel: str) -> None:
    card = find_gpu(gpu)
    answer = answers([llama()], card)[0]
    assert answer.prediction.attention_kernel == kernel
    assert answer.fit is not None and answer.fit.peak_bytes == answer.prediction.peak.total_bytes
    alone = fit(llama(), card)
    assert alone is not None and alone.peak_bytes == answer.fit.peak_bytes
    step = step_time(llama(), card).step
    if step is not None:
        fused = {k.op for k in step.kernels.kernels if k.kind == "attention_forward"}
        assert all(kernel in op for op in fused) and bool(fused) == (kernel != "math")


def test_grouped_heads_are_not_copied_for_cudnn() -> None:
    """A rehearsal on the CUDA build: cuDNN's call keeps 8 bytes a layer less than flash, and no
    repeated keys and values."""
    flash, cudnn = (
        predict_by(llama(attention=kernel), "analytic") for kernel in ("flash", "cudnn")
    )
    assert flash.saved_activation_bytes is not None and cudnn.saved_activation_bytes is not None
    assert flash.saved_activation_bytes - cudnn.saved_activation_bytes == 8 * 32


def test_a_kernel_that_the_card_lacks_is_refused_in_words() -> None:
    for setup in ({"attention": "flash"}, {"attention": "cudnn"}, {"attention": "efficient"}):
        with pytest.raises(UsageError, match="needs a GPU from sm_80, and this one is sm_75"):
            predict_by(replace(llama(**setup), platform=Platform(capability=75)))
    predict_by(
        replace(llama(attention="efficient", dtype="float16"), platform=Platform(capability=75))
    )


@pytest.mark.usefixtures("the_bundle")
def test_profiles_of_the_usual_platform_answer_for_others_only_where_kernels_are_the_same() -> None:
    bundled = llama(batch_size=2)
    assert has_profile(bundled)
    for platform in (Platform(capability=80), Platform(capability=89), Platform(capability=120)):
        assert key_of(replace(bundled, platform=platform)) == key_of(bundled)
    newer = replace(bundled, platform=Platform(torch=(2, 15)))  # a mask's kernel keeps more there
    assert has_stand_in(newer) and not has_profile(newer)
    assert not has_profile(replace(bundled, platform=Platform(capability=75)))
    assert has_profile(replace(bundled, platform=Platform(capability=90)))  # made of flash's


@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize(
    ("model", "kernel", "exactness"),
    [
        ("allenai/OLMo-7B-hf", "cudnn", "exact"),  # flash elsewhere, of which it is made
        # efficient elsewhere: heads of 192 and 128
        ("deepseek-ai/DeepSeek-V3", "cudnn", "estimate"),
        ("bigscience/bloom-560m", "eager", "exact"),
        ("tiiuae/falcon-7b", "math", "exact"),  # one head of k and v
    ],
)
def test_a_profile_speaks_for_hopper_where_no_rule_does(
    model: str, kernel: str, exactness: str
) -> None:
    usual = Workload(
        model=find_model(model, offline=True), setup=TrainSetup(lora=LoraConfig(), batch_size=2)
    )
    hopper, turing = (replace(usual, platform=Platform(capability=c)) for c in (90, 75))
    is_made = (kernel, exactness) == ("cudnn", "exact")
    assert has_stand_in(hopper) and has_profile(hopper) == is_made
    there, here = predict_by(usual), predict_by(hopper)
    assert (here.attention_kernel, here.exactness) == (kernel, exactness)
    less = 8 * usual.model.num_layers if is_made else 0
    assert here.peak.total_bytes == there.peak.total_bytes - less
    assert has_stand_in(turing) == (kernel in ("eager", "math"))


@pytest.mark.usefixtures("the_bundle")
def test_hopper_has_the_allocator_and_the_curve_of_a_profile() -> None:
    """Both kernels' states are rounded up to 512 bytes, so that the allocator's figures are the
    same."""
    usual = llama(batch_size=2)
    hopper = replace(usual, platform=Platform(capability=90))
    there, here = predict_by(usual), predict_by(hopper)
    assert (there.engine, here.engine, here.exactness) == ("compiled", "compiled", "exact")
    assert here.peak.total_bytes == predict_by(hopper, "analytic").peak.total_bytes
    assert here.device_memory is not None
    assert there.device_memory is not None
    wider = 2 * (32 * 2**20 - 8_519_680)  # BLAS workspaces
    assert here.device_memory.allocated_bytes == there.device_memory.allocated_bytes + wider
    assert max(point.total_bytes for point in here.curve) == here.peak.total_bytes
    assert predict_by(hopper, "analytic").device_memory is None


@pytest.mark.usefixtures("the_bundle")
def test_a_step_on_hopper_is_the_one_that_torchs_cuda_build_counted() -> None:
    """torch 2.13.0+cu130 over libraries that compute nothing, a plain loop, a pretended H100:
    39,149,659,144 bytes requested and 39,149,692,928 allocated at the peak, two BLAS workspaces of
    32 MiB among them. A rehearsal, no measurement.
    """
    found = predict_by(replace(llama(), platform=Platform(capability=90)))
    workspaces = 2 * 32 * 2**20
    assert found.peak.total_bytes == 39_149_659_144 - workspaces
    assert found.device_memory is not None
    assert found.device_memory.allocated_bytes == 39_149_692_928


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_what_stands_in_for_cudnn_is_as_near_as_it_says(name: str) -> None:
    """Both kernels traced, at a length that the efficient one pads; heads of 16 features."""
    config = {**cases.CONFIGS[name], "hidden_size": 64, "head_dim": 16}
    setup = TrainSetup(lora=LoraConfig(r=4), batch_size=2, seq_len=129)
    model = model_from_config(config, id=name, source="test")
    cudnn = Workload(model=model, setup=setup, platform=Platform(capability=90))
    mine = predict_once(cudnn)
    assert mine.attention_kernel == "cudnn"
    for attention in ("flash", *(["efficient"] if name == "gpt_neox" else [])):
        other = predict_once(replace(cudnn, setup=replace(setup, attention=attention)))  # type: ignore[arg-type]
        assert 0 <= other.peak.total_bytes / mine.peak.total_bytes - 1 < STAND_IN_ERROR


def test_a_record_is_predicted_on_what_ran_it() -> None:
    """Whatever it was asked on; read back too. A processor has a version of torch and no
    capability."""
    device = replace(records.H100, compute_capability="9.0")
    environment = replace(
        records.ENVIRONMENT,
        device=device,
        packages={**records.ENVIRONMENT.packages, "torch": "2.14.1+cu130"},
    )
    record = replace(records.make_record(), workload=llama())
    on_hopper = replace(record, environment=environment)
    assert on_hopper.workload.platform == Platform(capability=90, torch=(2, 14))
    assert record_from_dict(record_dict(on_hopper)).workload.platform == on_hopper.workload.platform
    assert predict(on_hopper.workload).attention_kernel == "cudnn"
    assert on_hopper.case_key == record.case_key  # the same case on every machine
    assert record.workload.platform.capability is None


def test_a_bench_asks_about_the_card_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(compute_capability=lambda: (7, 5))
    monkeypatch.setattr(device_choice, "open_device", lambda: nullcontext(card))
    monkeypatch.setattr(device_choice, "installed_version", lambda name: "2.15.0+cu132")
    assert device_choice.present_platform("cuda") == Platform(capability=75, torch=(2, 15))
    assert device_choice.present_platform("cpu") == Platform(torch=(2, 15))


def test_cards_of_the_catalogue_have_a_capability_if_and_only_if_they_are_nvidias() -> None:
    for gpu in bundled_gpus():
        assert (gpu.capability is not None) == (gpu.vendor == "nvidia"), gpu.key
    assert [
        find_gpu(key).capability
        for key in ("t4", "a100_sxm_40gb", "rtx_3090", "l4", "h200_sxm_141gb", "b300_288gb")
    ] == [75, 80, 86, 89, 90, 103]


def test_the_format_is_one_that_the_card_trains_in(run: Run) -> None:
    asked = [
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "--method", "full", "--method", "lora", "--method",
        "qlora", "--gpu",
    ]  # fmt: skip
    old = run(*asked, "v100_sxm2_16gb", "--full", "--format", "json")
    told = [p["setup"]["dtype"] for p in json.loads(old.stdout)["predictions"]]
    assert told == ["float32", "float16", "float16"]
    assert "(sm_70) does not support bfloat16\n  Using " in old.stderr
    given = run(*asked, "t4", "--dtype", "bfloat16", "--full", "--format", "json")
    assert {p["setup"]["dtype"] for p in json.loads(given.stdout)["predictions"]} == {"bfloat16"}
    assert "(sm_75) does not support bfloat16 (full, LoRA, QLoRA)\n" in given.stderr
    new = run(*asked, "a100_sxm_40gb", "--full", "--format", "json")
    assert "bfloat16" not in new.stderr


def test_a_card_whose_kernels_nobody_knows_here_is_warned_of(run: Run) -> None:
    assert (
        "kernels on AMD Instinct MI300X are not known"
        in run("gpt2", "--method", "lora", "--gpu", "mi300x_192gb").stderr
    )
    assert "are not known" not in run("gpt2", "--method", "lora", "--gpu", "custom:24GiB").stderr


def test_a_plan_warns_and_heads_as_an_answer_does(run: Run) -> None:
    asked = ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "--cluster", "4xv100_sxm2_16gb")
    done = run("plan", *asked, "--trainer", "bare")
    assert "float32 / float16 weights" in done.stdout and "math attention" in done.stdout
    assert "Using float32 (full), float16 (LoRA)" in done.stderr


@pytest.mark.usefixtures("the_bundle")
def test_dropout_in_attention_keeps_cudnn_away() -> None:
    """0.1 is no multiple of a sixteenth; T5's bias, which trains, is no mask for it either."""
    for name, kernel in (
        ("google-t5/t5-base", "efficient"),
        ("google-bert/bert-base-uncased", "flash"),
    ):
        setup = TrainSetup(lora=LoraConfig(), batch_size=2, seq_len=128)
        workload = Workload(
            model=find_model(name, offline=True), setup=setup, platform=Platform(capability=90)
        )
        assert predict_by(workload).attention_kernel == kernel


def test_full_float16_without_loss_scaling_is_warned_of(run: Run) -> None:
    assert "NaN" in run("gpt2", "--method", "full", "--dtype", "float16").stderr
    assert "NaN" not in run("gpt2", "--method", "lora", "--dtype", "float16").stderr


def test_tinyllama_on_a_v100_runs_math_and_does_not_fit(run: Run) -> None:
    asked = ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "--method", "lora", "--gpu", "v100_sxm2_16gb")
    done = run(*asked, "--trainer", "bare")
    assert done.exit_code == 1
    assert "math attention" in " ".join(done.stdout.split()) and "does not fit" in done.stdout


def test_without_a_card_the_answer_says_for_which_cards_it_holds(run: Run) -> None:
    assert "(sm_80 to sm_89, torch 2.13)" in run("gpt2", "--method", "lora").stdout
    whole = " ".join(run("gpt2", "--method", "lora", "--detail").stdout.split())
    assert "sm_80 to sm_89" in whole


def test_what_is_timed_as_another_kernel_says_so(run: Run) -> None:
    words = "timed at the share of the peak that flash attention reaches"
    for gpu, is_said in (("h100_sxm_80gb", True), ("a100_sxm_80gb", False)):
        shown = run("meta-llama/Llama-3.1-8B", "--detail", "--gpu", gpu).stdout
        assert (words in " ".join(shown.split())) == is_said


def test_torch_is_asked_by_version(run: Run) -> None:
    """From 2.14 on the efficient kernel takes grouped heads."""
    asked = [
        "meta-llama/Llama-3.2-1B", "--method", "lora", "--dtype", "float32", "--gpu",
        "a100_sxm_40gb", "--trainer", "bare",
    ]  # fmt: skip
    assert "math attention" in " ".join(run(*asked, "--torch", "2.13").stdout.split())
    assert "efficient attention" in " ".join(run(*asked, "--torch", "2.14.1").stdout.split())
    for wrong in ("2.9", "3.0", "new"):
        done = run(*asked, "--torch", wrong)
        assert done.exit_code == 2 and "torch" in done.stderr
    assert parse_torch("2.15.0+cu132") == (2, 15)
