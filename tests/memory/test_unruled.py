"""DoRA, VeRA, IA3, OFT and a base in LLM.int8, which no rule describes: their traces against real
steps on the CPU, and how every engine answers."""

from dataclasses import replace

import pytest

import cases
import truth
from commands import Run
from lora_profiler import predict as answer
from lora_profiler.errors import UncountedError, UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic import knows
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.memory.prediction import PHASE_OF
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.steptime.roofline import step_of
from lora_profiler.trace.kernels import step_kernels
from lora_profiler.trace.single_size import predict_once

SMALL = {"batch_size": 2, "seq_len": 16, "device": "cpu"}
DORA = LoraConfig(r=4, use_dora=True)
IN_16_BIT = replace(DORA, adapter_dtype="bfloat16")
PLAIN = LoraConfig(r=4)
VERA = LoraConfig(r=4, peft_type="vera")
IA3 = LoraConfig(peft_type="ia3")
OFT = LoraConfig(peft_type="oft", oft_block_size=16)
INT8 = Quantization(quant_type="int8")
CASES = {
    "DoRA float32": ("llama", {"lora": DORA, "dtype": "float32"}),
    "DoRA bfloat16": ("gpt2", {"lora": IN_16_BIT}),
    "DoRA over NF4": ("llama", {"lora": DORA, "quantization": Quantization()}),
    "int8": ("qwen2", {"lora": PLAIN, "quantization": INT8}),
    "VeRA float32": ("gpt2", {"lora": VERA, "dtype": "float32"}),
    "VeRA over NF4": ("gpt2", {"lora": VERA, "quantization": Quantization()}),
    "VeRA over int8": ("llama", {"lora": replace(VERA, lora_dropout=0.1), "quantization": INT8}),
    "VeRA bfloat16": ("llama", {"lora": replace(VERA, adapter_dtype="bfloat16")}),
    "IA3 float32": ("gpt2", {"lora": IA3, "dtype": "float32"}),
    "IA3 bfloat16": ("llama", {"lora": IA3}),
    "IA3 over NF4": ("llama", {"lora": IA3, "quantization": Quantization(), "precision": "amp"}),
    "IA3 over int8": ("llama", {"lora": IA3, "quantization": replace(INT8, recipe="kbit")}),
    "OFT float32": ("llama", {"lora": OFT, "dtype": "float32"}),
    "OFT dropout": ("gpt_neox", {"lora": replace(OFT, lora_dropout=0.3)}),
    "OFT over NF4": (
        "llama",
        {"lora": replace(OFT, adapter_dtype="bfloat16"), "quantization": Quantization()},
    ),
    "OFT over int8": ("llama", {"lora": OFT, "quantization": INT8}),
    "int8, kbit": ("gpt2", {"lora": PLAIN, "quantization": replace(INT8, recipe="kbit")}),
}
CHECKPOINTED = {
    "DoRA over NF4": {"lora": IN_16_BIT, "quantization": Quantization()},
    "int8": {"lora": PLAIN, "quantization": INT8},
    "VeRA": {"lora": VERA},
    "IA3 over NF4": {"lora": IA3, "quantization": Quantization(recipe="kbit")},
    "OFT over NF4": {"lora": OFT, "quantization": Quantization()},
}


def workload(name: str, **options: object) -> Workload:
    model = model_from_config(dict(cases.CONFIGS[name]), id=f"unruled-{name}", source="test")
    return Workload(model=model, setup=TrainSetup(**(SMALL | options)))  # type: ignore[arg-type]


@pytest.mark.grid
@pytest.mark.parametrize("case", CASES)
def test_a_trace_is_the_real_step(case):
    name, options = CASES[case]
    asked = workload(name, **options)
    config = cases.CONFIGS[name]
    least, most = truth.tensor_peaks(config, asked.setup), truth.peaks(config, asked.setup)
    traced: dict[str, int] = {}
    for moment in predict_once(asked).moments:
        if moment.step == "steady" and moment.moment != "setup":
            phase = {"loss": "forward"}.get(PHASE_OF[moment.moment], PHASE_OF[moment.moment])
            traced[phase] = max(traced.get(phase, 0), moment.total_bytes)
    for phase in ("forward", "backward", "optimizer"):
        assert least[2, phase] <= traced[phase] <= most[2, phase], phase
        # numbers that products scale by, of 8 bytes, come from no operator
        assert (traced[phase] - least[2, phase]) % 8 == 0


@pytest.mark.grid
@pytest.mark.parametrize("case", CHECKPOINTED)
def test_a_trace_lies_between_what_operators_return_and_what_is_allocated(case):
    """Checkpoints' generator states come from no operator; kernels take scratch beside tensors."""
    asked = workload("llama", checkpointing=True, **CHECKPOINTED[case])
    config = cases.CONFIGS["llama"]
    least, most = truth.tensor_peaks(config, asked.setup), truth.peaks(config, asked.setup)
    assert least[2, "step"] <= predict_once(asked).peak.total_bytes <= most[2, "step"]


@pytest.mark.parametrize("case", ["DoRA bfloat16", "int8", "IA3 bfloat16"])
def test_rules_give_a_lower_bound_and_say_of_what(case):
    name, options = CASES[case]
    asked = workload(name, **options)
    assert not knows(asked)
    found = answer(asked, may_trace=False)
    whose = "layers in LLM.int8" if case == "int8" else f"{case.split()[0]}'s layers"
    assert found.saved_activation_bytes is None
    assert any(f"Activations of {whose} are not known" in words for words in found.assumptions)
    with pytest.raises(UncountedError):
        counted_kernels(asked)


def test_outliers_are_the_datas_on_a_card_alone():
    name, options = CASES["int8"]
    on_cpu, on_card = (
        predict_once(workload(name, **(options | {"device": device}))) for device in ("cpu", "cuda")
    )
    assert not any("llm_int8_threshold" in words for words in on_cpu.assumptions)
    assert any("llm_int8_threshold" in words for words in on_card.assumptions)
    assert (on_card.exactness, on_card.error_bound) == ("estimate", None)


def test_a_card_multiplies_as_many_numbers_in_int8():
    """What the forward pass multiplies does not depend on the format of the base."""
    plain = predict_once(workload("llama", lora=PLAIN, device="cuda"))
    int8 = predict_once(workload("llama", lora=PLAIN, quantization=INT8, device="cuda"))
    assert plain.flops is not None and int8.flops is not None
    assert int8.flops.forward == plain.flops.forward


def test_the_time_of_int8_is_refused_and_that_of_dora_traced():
    int8 = workload("llama", lora=PLAIN, quantization=INT8, device="cuda")
    with pytest.raises(UsageError, match=r"products over LLM\.int8"):
        step_of(step_kernels(int8), int8.setup)
    dora = workload("llama", lora=DORA, device="cuda")
    step = step_of(step_kernels(dora), dora.setup)
    sizes = truth.persistent(cases.CONFIGS["llama"], replace(dora.setup, device="cpu"))["sizes"]
    trained = sum(weight for weight, gradient, _ in sizes.values() if gradient)
    assert step.micro.trainable == {4: trained // 4}


def test_naming_an_older_version_gives_no_less(run: Run) -> None:
    """Where a profile of today's layers is at hand: its peak, as an estimate that says why."""
    words = ("google/gemma-3-4b-pt", "--method", "lora", "--seq-len", "1024", "--trainer", "bare")
    newest, older = run(*words), run(*words, "--transformers", "4.45")
    peaks = [line for line in newest.stdout.splitlines() if line.startswith("LoRA r16  ")]
    assert peaks and set(peaks) <= set(older.stdout.splitlines())
    assert "\nEstimate.\n" in older.stdout


@pytest.mark.usefixtures("the_bundle")
def test_an_estimate_says_the_error_of_its_type(run: Run) -> None:
    """Full without a law, estimated; LoRA by the law of its type."""
    answer = run("swiss-ai/Apertus-8B-Instruct-2509", "--gpu", "rtx_4090", "--trainer", "bare")
    assert "\nFull: within 25 %: estimated from" in answer.stdout
