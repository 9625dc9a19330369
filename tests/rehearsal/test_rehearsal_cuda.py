"""Rehearsals over the real CUDA build of torch. It is found through $LORA_PROFILER_CUDA_PYTHON, a Python with such a build."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rehearsed.first_rank import rehearsed_first_rank
from lora_profiler import Workload, predict
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.measuring.records.serialize import record_from_dict, setup_from_dict
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.gpu_platform import Platform, version_of
from lora_profiler.question.workload import LoraConfig, TrainSetup
from lora_profiler.runs.comparison.errors import claims, group_peaks
from lora_profiler.steptime import predict_step_time
from record_checks import problems
from waiting import wait_until

PYTHON = os.environ.get("LORA_PROFILER_CUDA_PYTHON")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "rehearse"
MIB = 1 << 20
pytestmark = [
    pytest.mark.skipif(
        not PYTHON, reason="$LORA_PROFILER_CUDA_PYTHON names no Python with a CUDA build of torch"
    ),
    pytest.mark.slow,
]

LOOP = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024, bias=False) for _ in range(4)]).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(10):
    x = torch.ones(256, 1024, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    print("peak", torch.cuda.max_memory_allocated(), flush=True)
"""


LEAK = f"""
kept = []
{LOOP}
    kept.append(model(x).sum())
"""
"""The graph of that loss has the inputs of four layers; without a backward pass nothing frees it."""

TRIED_FIRST = f"""
import gc, torch
x = torch.ones(8, 8, device="cuda", requires_grad=True)
(x @ x).sum().backward()  # as a library tries a kernel
del x
{LOOP.replace("for step", "gc.freeze()" + chr(10) + "for step")}
"""
"""As Unsloth does: a backward pass as it is imported, and a heap frozen before training."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lora_profiler", "rehearse", "--python", str(PYTHON), *arguments]


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    # without kernels of the Hub, as predictions are, unless a test sets it
    environment = {"USE_HUB_KERNELS": "NO"} | os.environ
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment
    )


def answer(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON of a rehearsal; its first rank's document under "rank"."""
    done = rehearse("--format", "json", *arguments)
    assert done.returncode == code, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document | {"rank": document["ranks"][0]}


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(text)
    return str(path)


def torch_version() -> tuple[int, int]:
    text = subprocess.run(
        [str(PYTHON), "-c", "import importlib.metadata as m; print(m.version('torch'))"],
        capture_output=True,
        text=True,
    ).stdout
    found = version_of(text)
    assert found is not None
    return found


def workspaces() -> int:
    """What cuBLAS holds on cards before Hopper: one for the forward pass, one for autograd's
    thread. Since torch 2.15 a product takes one and gives it back."""
    return 2 * 8_519_680 if torch_version() < (2, 15) else 0


def test_a_leak_is_named_with_the_line_of_the_script(tmp_path: Path) -> None:
    path = script(tmp_path, LEAK)
    line = 1 + LEAK.splitlines().index("    kept.append(model(x).sum())")
    arguments = "--gpu", "a100_sxm_80gb", "--steps", "6", "--no-time", "--", "python", path
    leak = answer(*arguments)["rank"]["leak"]
    # four float32 inputs of 256 rows, the first of them made by the script, and the loss
    assert leak == {"bytes_per_step": 4 * 256 * 1024 * 4 + 4, "where": f"{path}:{line} <module>"}
    freed = LEAK.replace("kept.append(model(x).sum())", "kept.append(model(x).sum().item())")
    assert answer(*arguments[:-1], script(tmp_path, freed))["rank"]["leak"] is None


VARIED = """
import datasets, torch
texts = datasets.load_dataset("some/set", split="train")["text"]
lengths = [len(text.split()) for text in texts]
print("lengths", *lengths, flush=True)
weight = torch.ones(1024, 1024, device="cuda", requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1)
for length in lengths:
    (torch.ones(length, 1024, device="cuda") @ weight).sum().backward()
    optimizer.step()
"""


def test_simulated_texts_vary_in_length_and_the_longest_makes_the_peak(tmp_path: Path) -> None:
    words = "--gpu", "a100_sxm_80gb", "--steps", "8", "--no-time", "--epochs-like"
    words = *words, "--pretend-tokens", "2048", "--pretend-columns", "text"
    runs = [rehearse(*words, "--", "python", script(tmp_path, VARIED)) for _ in range(2)]
    printed = [re.search(r"^lengths (.*)$", run.stderr, re.MULTILINE) for run in runs]
    first, second = ([int(word) for word in each[1].split()] for each in printed if each)
    assert first == second and len(set(first)) > 200
    assert sum(first) / len(first) == pytest.approx(2048, rel=0.06)
    longest = 1 + max(range(8), key=lambda step: first[step])
    assert f"peak in step {longest}, " in runs[0].stdout
    assert "texts of 2,048 tokens on average" in runs[0].stdout


@pytest.mark.parametrize(
    ("model", "gpu", "options", "batch_size", "seq_len"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "a100_sxm_80gb", (), 2, 256),
        ("Qwen/Qwen2.5-0.5B", "rtx_4090", ("--checkpointing",), 1, 512),
        ("HuggingFaceTB/SmolLM2-135M", "a100_sxm_80gb", ("--hold-outputs",), 2, 256),
        ("Qwen/Qwen2.5-0.5B", "rtx_4090", ("--hold-outputs", "--checkpointing"), 1, 512),
    ],
)
def test_a_plain_loop_asks_for_what_is_predicted_to_the_byte(
    model: str, gpu: str, options: tuple[str, ...], batch_size: int, seq_len: int
) -> None:
    pytest.importorskip("torch")
    found = answer(
        "--gpu", gpu, "--", "python", str(EXAMPLES / "plain_loop.py"), "--model", model,
        "--batch-size", str(batch_size), "--seq-len", str(seq_len), *options,
    )  # fmt: skip
    rank = found["rank"]
    workload = Workload(
        model=find_model(model, offline=True),
        setup=TrainSetup(
            lora=LoraConfig(r=16),
            batch_size=batch_size,
            seq_len=seq_len,
            checkpointing="--checkpointing" in options,
            hold_outputs="--hold-outputs" in options,
        ),
        platform=Platform(capability=find_gpu(gpu).capability, torch=torch_version()),
    )
    predicted = predict(workload)
    assert rank["peaks"]["whole"]["requested_bytes"] - workspaces() == predicted.peak.total_bytes
    held = rank["held"]["categories"]
    assert held.get("workspaces of BLAS", 0) == workspaces()
    assert rank["held"]["phase"] == "backward"
    assert held["parameters"] + held["optimizer states"] == sum(
        predicted.peak.bytes[name] for name in ("parameters", "adapters", "optimizer_states")
    )
    assert rank["second_count"]["is_equal"]
    assert rank["attention"] == ["flash"]
    assert rank["weights_of_holes"] == [model]
    assert (found["device"], found["status"], rank["steps"]) == ("rehearsed", "done", 3)
    told = found["step_time"]
    time_ = predict_step_time(counted_kernels(workload), find_gpu(gpu), workload.setup)
    assert time_ is not None and told["seconds"] == pytest.approx(time_.seconds, rel=0.03)
    assert told["basis"] == "predicted" and told["tokens"] == batch_size * seq_len
    # every product that BLAS was asked for was seen as an operator, with its shape
    assert told["products_seen"] == told["library_calls"] == rank["launches"][-1]["library_calls"]
    assert told["priced_by_bytes"] == told["not_priced"] == []


def test_kernels_of_the_hub_are_simulated_and_keep_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frozen norm's input transformers keeps a float32 copy, and the kernel the bfloat16
    original: 2 bytes less an element, in each of a layer's two norms."""
    model, batch_size, seq_len = "HuggingFaceTB/SmolLM2-135M", 2, 512
    arguments = (
        "--gpu", "a100_sxm_80gb", "--no-time", "--", "python", str(EXAMPLES / "plain_loop.py"),
        "--model", model, "--batch-size", str(batch_size), "--seq-len", str(seq_len),
    )  # fmt: skip
    plain = answer(*arguments)["rank"]
    monkeypatch.setenv("USE_HUB_KERNELS", "YES")
    found = answer(*arguments)["rank"]
    assert plain["kernels_stood_in"] == plain["kernels_of_torch"] == found["kernels_of_torch"] == []
    if not found["kernels_stood_in"]:
        pytest.skip("transformers before 5.25 trains without kernels of the Hub")
    assert set(found["kernels_stood_in"]) == {
        "kernels-community/liger-kernels", "kernels-community/rotary"
    }  # fmt: skip
    peak, less = (rank["peaks"]["whole"]["requested_bytes"] for rank in (plain, found))
    layers, hidden_size = 30, 576
    assert peak - less == 2 * 2 * layers * batch_size * seq_len * hidden_size


FLASH = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(
    "HuggingFaceTB/SmolLM2-135M", dtype=torch.bfloat16, attn_implementation=sys.argv[1]
).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(5):
    ids = torch.ones(2, 256, dtype=torch.long, device="cuda")
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def test_flash_attn_that_is_not_installed_asks_for_what_torchs_copy_of_it_does(
    tmp_path: Path,
) -> None:
    path = script(tmp_path, FLASH)
    peaks = {}
    for name in ("sdpa", "flash_attention_2"):
        rank = answer("--gpu", "a100_sxm_80gb", "--no-time", "--", "python", path, name)["rank"]
        peaks[name] = rank["peaks"]["whole"]["requested_bytes"]
        assert rank["kernels_stood_in"] == ([] if name == "sdpa" else [name])
    assert peaks["flash_attention_2"] == pytest.approx(peaks["sdpa"], rel=0.01), peaks


@pytest.mark.parametrize("text", [LOOP, TRIED_FIRST])
def test_phases_and_launches_of_a_loop_whose_sizes_are_known(text: str, tmp_path: Path) -> None:
    """Four layers of 4 MiB, activations of 1 MiB."""
    done = rehearse(
        "--gpu", "a100_sxm_80gb", "--format", "json", "--", "python", script(tmp_path, text)
    )
    rank = json.loads(done.stdout)["ranks"][0]
    phases = {(row["step"], row["phase"]): row["requested_bytes"] for row in rank["phases"]}
    # the first input too: the forward pass begins with the model's call
    assert phases[0, "setup"] == 17 * MIB
    # as it begins: the last step's gradients and input
    assert phases[2, "forward"] == 16 * MIB + 16 * MIB + MIB + workspaces()
    assert (
        phases[2, "backward"] == phases[3, "backward"] == rank["peaks"]["steady"]["requested_bytes"]
    )
    # SGD in place; the loss and its gradient
    assert phases[2, "optimizer"] == 16 * MIB + 16 * MIB + MIB + 8 + workspaces()
    assert rank["second_count"]["is_equal"]
    assert rank["launches"][1] == rank["launches"][2]
    # forward, weights' gradients, inputs' but the first
    assert rank["launches"][1]["library_calls"] == 4 + 4 + 3
    assert rank["facts"]["model"] == "Sequential" and rank["facts"]["accumulation"] == 1
    assert rank["attention"] == []


@pytest.mark.parametrize("batch_size", [2, 5])
def test_an_sft_trainer_asks_for_what_its_stack_predicts(batch_size: int) -> None:
    """Labels and attention mask, which its collator makes, and its scalars among it."""
    pytest.importorskip("torch")
    name = "HuggingFaceTB/SmolLM2-135M"
    arguments = ("--model", name, "--batch-size", str(batch_size), "--max-length", "1024")
    script_ = ("python", str(EXAMPLES / "sft.py"), *arguments)
    rank = answer("--gpu", "a100_sxm_80gb", "--pretend-data", "--", *script_)["rank"]
    model = find_model(name, offline=True)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "seq_len": 1024,
        "rank": 16,
        "targets": "all-linear",
    }
    setup = setup_for(model, "trl-sft", "lora", **options)
    platform = Platform(capability=80, torch=torch_version())
    peak = predict(Workload(model=model, setup=setup, platform=platform)).peak
    rehearsed = rank["peaks"]["steady"]["requested_bytes"] - workspaces()
    assert rehearsed == peak.total_bytes


HEAD = """
import torch, transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

usual = {"output_dir": "output", "report_to": "none", "save_strategy": "no", "logging_steps": 1}
lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def rows(length, *columns):
    row = torch.randint(0, 1000, (length,)).tolist()
    return Dataset.from_list([dict.fromkeys(columns, row)] * 64)


def loop(model, step):
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    for _ in range(9):
        step(torch.randint(0, 1000, (2, 512)).cuda()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""
SCRIPTS = {
    "Trainer, bf16=True, in full": """
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M", dtype=torch.float32)
args = TrainingArguments(per_device_train_batch_size=4, bf16=True, **usual)
Trainer(model, args, train_dataset=rows(1024, "input_ids", "labels")).train()
""",
    "Trainer, LoRA, a collator's attention mask": """
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", dtype=torch.bfloat16)
args = TrainingArguments(per_device_train_batch_size=4, **usual)
data = rows(512, "input_ids", "labels", "attention_mask")
Trainer(get_peft_model(model, lora), args, train_dataset=data).train()
""",
    "Trainer, NF4 after k-bit preparation, fp16=True, several micro-batches": """
base = transformers.BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
)
model = AutoModelForCausalLM.from_pretrained(
    "facebook/opt-350m", quantization_config=base, dtype=torch.float16, device_map={"": 0}
)
model = get_peft_model(prepare_model_for_kbit_training(model), lora)
args = TrainingArguments(
    per_device_train_batch_size=4, gradient_accumulation_steps=4, fp16=True, **usual
)
Trainer(model, args, train_dataset=rows(40, "input_ids", "labels", "attention_mask")).train()
""",
    "SFTTrainer, packed": """
args = SFTConfig(
    per_device_train_batch_size=2, gradient_accumulation_steps=2, packing=True, **usual
)
SFTTrainer(
    "Qwen/Qwen2.5-0.5B", args, train_dataset=rows(300, "input_ids"), peft_config=lora
).train()
""",
    "DPOTrainer": """
pair = {"prompt": "What? ", "chosen": "A brown fox. " * 100, "rejected": "A lazy dog. " * 200}
args = DPOConfig(per_device_train_batch_size=2, max_length=1024, **usual)
DPOTrainer(
    "Qwen/Qwen2.5-0.5B",
    args=args,
    train_dataset=Dataset.from_list([pair] * 64),
    peft_config=lora,
).train()
""",
    "a loop under autocast": """
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M", dtype=torch.float32)


def step(ids):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return model(input_ids=ids, labels=ids, use_cache=False).loss


loop(model.cuda(), step)
""",
    "a loop that keeps the output": """
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M", dtype=torch.bfloat16)
kept = {}


def step(ids):
    kept["out"] = model(input_ids=ids, labels=ids, use_cache=False)
    return kept["out"].loss


loop(model.cuda(), step)
""",
    "a loop over lengths that keeps its losses": """
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M", dtype=torch.bfloat16)
lengths, total = iter((128, 512, 256, 128)), torch.zeros(1, device="cuda")


def step(ids):
    ids = ids[:, : next(lengths)].contiguous()
    loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    total.add_(loss.detach())
    return loss


loop(get_peft_model(model, lora).cuda(), step)
""",
    "a model whose config names no dtype": """
model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2")
loop(model.cuda(), lambda ids: model(input_ids=ids, labels=ids, use_cache=False).loss)
""",
}
"""By what they are, as people write them."""
OF_STEPS = {
    "SFTTrainer, packed": ("rtx_4090", "trl-sft@1.16", "estimate"),
    "DPOTrainer": ("rtx_4090", "trl-dpo@1.16", "estimate"),
    "a loop under autocast": ("h100_sxm_80gb", "bare", "exact"),
    "a loop that keeps the output": ("rtx_4090", "bare", "exact"),
    "a loop over lengths that keeps its losses": ("rtx_4090", "bare", "estimate"),
    "a model whose config names no dtype": ("rtx_4090", "bare", "exact"),
    "Trainer, bf16=True, in full": ("rtx_4090", "transformers@5.24", "exact"),
    "Trainer, LoRA, a collator's attention mask": ("t4", "transformers@5.24", "exact"),
    "Trainer, NF4 after k-bit preparation, fp16=True, several micro-batches": (
        "t4", "transformers@5.24", "exact",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_closest_prediction_is_of_what_the_script_ran(tmp_path: Path, kind: str) -> None:
    """To the byte where it says exact, which is judged with the versions that were rehearsed."""
    gpu, trainer, exactness = OF_STEPS[kind]
    text = HEAD + SCRIPTS[kind]
    found = answer("--gpu", gpu, "--pretend-data", "--", "python", script(tmp_path, text))
    prediction, rank = found["nearest_prediction"], found["rank"]
    assert (prediction["trainer"], prediction["exactness"]) == (trainer, exactness)
    rehearsed = rank["held"]["requested_bytes"] - workspaces()
    if exactness == "exact":
        assert prediction["requested_bytes"] == rehearsed
    assert prediction["requested_bytes"] == pytest.approx(rehearsed, rel=3e-4)
    if kind == "a model whose config names no dtype":
        assert rank["dtypes_of_holes"] == {"openai-community/gpt2": "float32"}
        assert rank["attention"] == ["efficient"]
        assert any("float32 zeros of the same size were used" in limit for limit in found["limits"])


EVALUATES = """
import sys
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
config = LlamaConfig(
    hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, vocab_size=32000,
)
model = LlamaForCausalLM(config)
rows = [{"input_ids": [1] * 256, "labels": [1] * 256} for _ in range(64)]
def train(steps, **more):
    arguments = TrainingArguments(
        sys.argv[1], per_device_train_batch_size=2, per_device_eval_batch_size=16, max_steps=steps,
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:32])
    trainer.train(**more)
    print("steps", trainer.state.global_step, flush=True)
train(2)
train(6, resume_from_checkpoint=True)
"""


def test_a_trainer_evaluates_saves_and_resumes_and_a_peak_of_evaluation_is_told(
    tmp_path: Path,
) -> None:
    """The peak of evaluation has the logits of 16 rows of 256 tokens and what the loss makes of
    them, both in float32."""
    path, saved = script(tmp_path, EVALUATES), tmp_path / "saved"
    words = ("--gpu", "t4", "--no-time", "--steps", "4", "--", "python", path, str(saved))
    done = rehearse(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "peak during evaluation" in done.stdout
    assert "steps 2" in done.stderr
    assert {"checkpoint-2", "checkpoint-4"} <= {each.name for each in saved.iterdir()}
    shutil.rmtree(saved)
    rank = answer(*words)["rank"]
    peaks: dict[str, int] = {}
    for row in rank["phases"]:
        peaks[row["phase"]] = max(peaks.get(row["phase"], 0), row["requested_bytes"])
    whole = rank["peaks"]["whole"]["requested_bytes"]
    assert peaks["evaluation"] == whole > peaks["backward"]
    held = rank["held"]["categories"]
    rest = whole - held["parameters"] - held["optimizer states"]
    assert rest == pytest.approx(2 * 16 * 256 * 32_000 * 4, rel=0.02)
    assert rank["held"]["phase"] != "evaluation"


def test_the_script_sees_its_own_peaks(tmp_path: Path) -> None:
    """It sets peaks back itself, and reads what it would read without the hooks' own reading in between."""
    done = rehearse(
        "--gpu", "a100_sxm_80gb", "--steps", "5", "--", "python", script(tmp_path, LOOP)
    )
    peaks = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("peak ")]
    assert len(peaks) == 5  # the sixth, run for its time, ends the process before it prints
    # weights, four gradients, the input and five more of its size, the workspaces; 4 bytes of the sum take 512
    assert peaks[2] == peaks[3] >= 16 * MIB + 16 * MIB + MIB + workspaces()


def test_out_of_memory_is_torch_s_own_and_ends_with_1(tmp_path: Path) -> None:
    big = LOOP.replace("torch.ones(256, 1024", "torch.ones(1 << 20, 1024")
    found = answer("--gpu", "custom:8GiB", "--", "python", script(tmp_path, big), code=1)
    rank = found["rank"]
    assert found["status"] == "out_of_memory"
    assert (
        rank["error"]["type"] == "OutOfMemoryError"
        and "CUDA out of memory. Tried to allocate 4.00 GiB" in rank["error"]["message"]
    )
    assert "total capacity of 8.00 GiB" in rank["error"]["message"]
    assert rank["out_of_memory"]["wanted_bytes"] == 4 << 30
    assert rank["out_of_memory"]["phase"] == "forward"
    assert any("script.py" in line for line in rank["error"]["where"])
    # the input, and the weights; the first output is what was asked for
    assert rank["held"]["categories"]["parameters"] == 16 * MIB
    assert rank["held"]["requested_bytes"] >= (4 << 30) + 16 * MIB


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import torch\ntorch.ones(3, device='cuda')\nraise ValueError('of its own')",
            "ValueError: of its own",
        ),
        ("import torch\ntorch.ones(3, device='cuda')", "ended too early: after 0 optimizer steps"),
        (
            "import sys, torch\nsys.excepthook = lambda *error: None\n"
            "torch.ones(3, device='cuda')\nraise ValueError('shown by nobody')",
            "ValueError: shown by nobody",
        ),
        ("import sys\nsys.exit(7)", "exit code 7 before it used the GPU"),
        ("import no_such_module", "exit code 1 before it used the GPU"),
        (
            LOOP + "    if step == 1: import os; os.kill(os.getpid(), 9)\n",
            "was ended by signal 9 (SIGKILL) before step 3",
        ),
    ],
)
def test_a_script_that_does_not_get_there_ends_with_4(
    tmp_path: Path, text: str, words: str
) -> None:
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, text))
    assert done.returncode == 4, done.stderr
    assert words in done.stdout + done.stderr


CONVOLUTION = """
import torch
model = torch.nn.Conv2d(3, 64, 16, 16).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(10):
    images = torch.ones(4, 3, 224, 224, device="cuda")
    with torch.autocast("cuda", torch.float16):
        model(images).sum().backward()
    optimizer.step()
"""


def test_a_convolution_is_not_attention(tmp_path: Path) -> None:
    """Of cuDNN both; a T4 has no attention of cuDNN's."""
    found = answer("--gpu", "t4", "--", "python", script(tmp_path, CONVOLUTION))
    assert found["rank"]["attention"] == []
    assert any("cuDNN ran convolutions; its workspace" in limit for limit in found["limits"])


CHANGED = """
import torch, transformers
config = transformers.LlamaConfig(
    vocab_size=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=4, use_cache=False,
)
rows = [{"input_ids": [5] * 512, "labels": [5] * 512}] * 64
arguments = transformers.TrainingArguments("out", per_device_train_batch_size=4, report_to=[])
trainer = transformers.Trainer(transformers.LlamaForCausalLM(config), arguments, train_dataset=rows)
trainer.train()
"""


RECURRENT = """
import torch
shapes = [
    ("LSTM", dict(num_layers=2, bidirectional=True)), ("GRU", dict(num_layers=4, dropout=0.2)),
    ("RNN", dict(num_layers=2)), ("LSTM", dict(proj_size=64, num_layers=2)),
]
for kind, options in shapes:
    model = getattr(torch.nn, kind)(128, 256, **options)
    before = {name: weight.shape for name, weight in model.named_parameters()}
    model.cuda()
    assert {name: weight.shape for name, weight in model.named_parameters()} == before
    weights = [weight.untyped_storage() for weight in model.parameters()]
    numbers = sum(weight.numel() for weight in model.parameters())
    assert {each.nbytes() for each in weights} == {4 * numbers}  # one buffer, whose views do not overlap
    places = sorted((weight.data_ptr(), 4 * weight.numel()) for weight in model.parameters())
    assert all(place + size == after for (place, size), (after, _) in zip(places, places[1:]))
    model(torch.ones(5, 7, 128, device="cuda"))[0].sum().backward()
kept = []
for kind in ("LSTM", "GRU"):  # of pytorch/pytorch#2895
    model, x = getattr(torch.nn, kind)(123, 320, 4).cuda(), torch.ones(500, 50, 123, device="cuda")
    before = torch.cuda.memory_allocated()
    y = model(x)[0]
    kept.append(torch.cuda.memory_allocated() - before - y.nbytes)
    del model, x, y
print("KEPT", [round(each / 1e6) for each in kept], flush=True)
model = torch.nn.LSTM(24, 32).cuda()
optimizer = torch.optim.SGD(model.parameters())
for _ in range(3):
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(7, 2, 24, device="cuda"), [7, 3])
    model(packed)[0].data.sum().backward()
    optimizer.step()
"""


def test_recurrent_layers_have_one_buffer_of_weights_and_keep_what_cudnn_was_seen_to_keep(
    tmp_path: Path,
) -> None:
    done = rehearse("--gpu", "t4", "--no-time", "--", "python", script(tmp_path, RECURRENT))
    assert done.returncode == 0, done.stderr[-2000:]
    kept = re.search(r"KEPT \[(\d+), (\d+)\]", done.stderr)
    assert kept is not None
    assert [int(each) for each in kept.groups()] == pytest.approx([736, 864], abs=3)
    assert "cuDNN ran recurrent layers" in " ".join(done.stdout.split())


def test_a_change_of_the_trainer_s_arguments_is_tried_in_a_second_rehearsal(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options = ("--gpu", "t4", "--no-time", "--try", "checkpointing")
    found = answer(*options, "--", "python", script(tmp_path, CHANGED))
    (tried,) = found["tried"]
    assert (tried["change"], tried["status"]) == ("checkpointing", "done")
    assert tried["reserved_bytes"] < found["rank"]["peaks"]["whole"]["reserved_bytes"]
    found = answer(*options, "--", "python", script(tmp_path, LOOP))
    assert "makes no TrainingArguments" in found["tried"][0]["reason"]


NORMALISED = """
import torch
class Wrapped(torch.nn.Module):
    config = type("Config", (), {"to_dict": lambda self: {}})()  # of no transformers model
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    def forward(self, images):
        return self.inner(images)
model = Wrapped().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    model(torch.ones(4, 3, 64, 64, device="cuda")).sum().backward()
    optimizer.step()
"""


def test_batch_norm_asks_for_no_size_that_nobody_wrote(tmp_path: Path) -> None:
    """cuDNN's reserve of it was what the caller's variable held: 130,272 GiB. And a module with a
    config that is no model of transformers' is described without its embedding."""
    found = answer("--gpu", "t4", "--no-time", "--", "python", script(tmp_path, NORMALISED))
    assert (found["status"], found["step_time"]) == ("done", None)
    assert found["rank"]["peaks"]["whole"]["requested_bytes"] < 64 * MIB


def test_a_card_that_this_torch_has_no_kernels_for_is_refused_in_cuda_s_words(
    tmp_path: Path,
) -> None:
    done = rehearse("--gpu", "p100_pcie_16gb", "--", "python", script(tmp_path, LOOP))
    assert done.returncode == 1
    assert "does not run on a Tesla P100 PCIe 16GB: " in done.stdout
    words = "no kernel image is available for execution on the device"
    assert words in " ".join(done.stdout.split())


@pytest.mark.parametrize("gpu", ["t4", "rtx_4090", "h100_sxm_80gb", "b300_288gb", "rtx_5090"])
def test_the_card_is_what_torch_and_nvml_see(tmp_path: Path, gpu: str) -> None:
    text = (
        "import torch\nx = torch.ones(3, 1000, device='cuda')\n(x != 1).cumsum(-1)\n"  # CUB chooses by the image that runs
        "p = torch.cuda.get_device_properties(1)\nfree, total = torch.cuda.mem_get_info(0)\n"
        "print('SEES', torch.cuda.device_count(), p.major * 10 + p.minor, p.total_memory, total, total - free)\n"
        "print('NVML', torch.cuda.device_memory_used(0))\n"
    )
    done = rehearse("--gpu", gpu, "--gpus", "2", "--", "python", script(tmp_path, text))
    card = find_gpu(gpu)
    lines = {
        line.split()[0]: line.split()[1:]
        for line in done.stderr.splitlines()
        if line[:4] in ("SEES", "NVML")
    }
    count, capability, memory, total, used = map(int, lines["SEES"])
    told = (count, capability, memory, total)
    assert told == (2, card.capability, card.usable_bytes, card.usable_bytes)
    assert used >= 2 * MIB
    if lines.get("NVML"):
        assert int(lines["NVML"][0]) == used


def test_two_ranks_tell_their_peaks() -> None:
    found = answer(
        "--gpu", "a100_sxm_80gb", "--gpus", "2", "--", "torchrun", "--nproc-per-node", "2",
        str(EXAMPLES / "fsdp2.py"), "--model", "HuggingFaceTB/SmolLM2-135M", "--seq-len", "128",
    )  # fmt: skip
    first, second = found["ranks"]
    assert (first["rank"], second["rank"], first["world_size"]) == (0, 1, 2)
    assert first["peaks"] == second["peaks"]
    parameters = 134_515_008
    held = first["held"]["categories"]
    # float32, half of it on each rank, and both of AdamW's moments; FSDP2 pads no parameter of even size
    assert held["optimizer states"] - 2 * 4 * parameters // 2 < 4096
    assert found["card"]["count"] == 2


SAVES_SHARDS = """
import os, torch, torch.distributed as dist, transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
torch.cuda.set_device(int(os.environ["RANK"]))
dist.init_process_group("nccl")
name = "HuggingFaceTB/SmolLM2-135M"
model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
model.cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.ones((1, 64), dtype=torch.int64, device="cuda")
for _ in range(3):
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if _ == 1:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=whole)
        peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
        print("SAVED", peak - before, {t.device.type for t in state.values()}, flush=True)
"""
SAVES_ALONE = """
import tempfile, torch, transformers
name = "HuggingFaceTB/SmolLM2-135M"
model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16).cuda()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.ones((1, 64), dtype=torch.int64, device="cuda")
for _ in range(3):
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if _ == 1:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            torch.save(optimizer.state_dict(), folder + "/optimizer.pt")
        peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
        print("SAVED", peak - before, flush=True)
"""


def test_saving_gathers_what_is_predicted(tmp_path: Path) -> None:
    """transformers and torch save for real: alone nothing comes on top of the model, under FSDP2 one
    parameter at a time."""
    alone = rehearse("--gpu", "a100_sxm_80gb", "--", "python", script(tmp_path, SAVES_ALONE))
    assert "SAVED 0\n" in alone.stderr
    several = ("--gpus", "2", "--", "torchrun", "--nproc-per-node", "2")
    done = rehearse("--gpu", "a100_sxm_80gb", *several, script(tmp_path, SAVES_SHARDS))
    setup = TrainSetup(seq_len=64, world_size=2, sharding="fsdp", optimizer_impl="fused")
    model = find_model("HuggingFaceTB/SmolLM2-135M", offline=True)
    moments = predict(Workload(model=model, setup=setup)).moments
    sizes = {m.moment: m.total_bytes for m in moments if m.step == "steady"}
    assert f"SAVED {sizes['saving'] - sizes['setup']} {{'cpu'}}" in done.stderr


def test_small_collectives_carry_what_they_are_asked_to(tmp_path: Path) -> None:
    text = (
        "import os, torch, torch.distributed as dist\ndist.init_process_group('nccl')\nrank = dist.get_rank()\n"
        "torch.cuda.set_device(rank)\nx = torch.tensor([rank + 5] * 3).cuda()\ny = [torch.zeros(3, dtype=torch.long).cuda() for _ in range(2)]\n"
        "dist.all_gather(y, x)\ndist.broadcast(x, 1)\nos.write(1, f'GOT {rank} {[each.tolist() for each in y]} {x.tolist()}\\n'.encode())\n"
    )
    done = rehearse(
        "--gpu", "t4", "--gpus", "2", "--", "torchrun", "--nproc-per-node", "2",
        script(tmp_path, text),
    )  # fmt: skip
    lines = sorted(line for line in done.stderr.splitlines() if line.startswith("GOT"))
    assert lines == [f"GOT {rank} [[5, 5, 5], [6, 6, 6]] [6, 6, 6]" for rank in (0, 1)]


def test_a_snapshot_is_what_torch_s_own_viewer_reads(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pickle"
    found = answer(
        "--gpu", "a100_sxm_80gb", "--snapshot", str(path), "--", "python", script(tmp_path, LOOP)
    )
    snapshot = pickle.loads(path.read_bytes())
    assert {"segments", "device_traces"} <= snapshot.keys()
    held_bytes = peak = 0
    for entry in snapshot["device_traces"][0]:
        held_bytes += {"alloc": entry["size"], "free_completed": -entry["size"]}.get(
            entry["action"], 0
        )
        peak = max(peak, held_bytes)
    assert peak == found["rank"]["peaks"]["whole"]["requested_bytes"]


def test_expandable_segments_map_memory_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "snapshot.pickle"
    plain = answer("--gpu", "a100_sxm_80gb", "--", "python", script(tmp_path, LOOP))["rank"][
        "peaks"
    ]["whole"]
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    arguments = (
        "--gpu", "a100_sxm_80gb", "--snapshot", str(path), "--", "python", script(tmp_path, LOOP),
    )  # fmt: skip
    expandable = answer(*arguments)["rank"]["peaks"]["whole"]
    assert expandable["requested_bytes"] == plain["requested_bytes"]
    assert all(segment["is_expandable"] for segment in pickle.loads(path.read_bytes())["segments"])
    done = rehearse(
        "--gpu",
        "custom:1GiB",
        "--",
        "python",
        script(tmp_path, LOOP.replace("256, 1024", "1 << 20, 1024")),
    )
    assert done.returncode == 1 and "CUDA out of memory" in done.stdout


def test_sizes_that_depend_on_values_take_their_largest_case(tmp_path: Path) -> None:
    text = LOOP.replace("model(x)", "model(x)[x > 0.5]")
    rank = answer("--gpu", "a100_sxm_80gb", "--", "python", script(tmp_path, text))["rank"]
    assert rank["largest_case"] == ["nonzero"]
    # two indices of each element
    assert any(piece["bytes"] == 2 * 8 * 256 * 1024 for piece in rank["held"]["largest"])


UNIQUE = """
ids = torch.arange(48, device="cuda").view(6, 8) % 5
values, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
known = torch.isin(torch.zeros(6, 8, dtype=torch.int64, device="cuda"), torch.ones(64, dtype=torch.int64, device="cuda"))
print("UNIQUE", *(tuple(each.shape) for each in (values, inverse, counts, known)), flush=True)
"""


def test_values_that_are_unique_are_at_most_all(tmp_path: Path) -> None:
    """What `torch.isin` asks for where it sorts, too."""
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, "import torch" + UNIQUE + LOOP))
    assert "UNIQUE (48,) (6, 8) (48,) (6, 8)" in done.stderr


IMAGES = """
import os, sys, torch
from torchvision import datasets, transforms
ten = datasets.CIFAR10(sys.argv[1], download=True, transform=transforms.ToTensor())
digits = datasets.MNIST(sys.argv[1], False, transforms.ToTensor(), download=True)
image, label = next(iter(torch.utils.data.DataLoader(ten, 4)))
print("IMAGES", len(ten), tuple(image.shape), label.tolist(), len(ten.classes), len(digits), flush=True)
print("DIGIT", tuple(digits[3][0].shape), digits[3][1], os.listdir(sys.argv[1]), flush=True)
"""


def test_images_of_torchvision_are_simulated_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    command = ("python", script(tmp_path, IMAGES + LOOP), str(folder))
    done = rehearse("--gpu", "t4", "--pretend-data", "--", *command)
    assert "IMAGES 50000 (4, 3, 32, 32) [0, 1, 2, 3] 10 10000" in done.stderr
    assert "DIGIT (1, 28, 28) 3 []" in done.stderr
    assert "the data set CIFAR10 (50,000 images)" in " ".join(done.stdout.split())


LATE = """
import torch
class Late(torch.optim.SGD):
    def step(self):
        torch.cuda.init()
        return super().step()
model = torch.nn.Linear(8, 8)
optimizer = Late(model.parameters(), lr=1e-3)
for _ in range(9):
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
"""


def test_an_optimizer_may_be_the_first_to_use_the_gpu(tmp_path: Path) -> None:
    """As Adadelta, which asks it for a stream, also where it trains on the CPU."""
    rank = answer("--gpu", "t4", "--", "python", script(tmp_path, LATE))["rank"]
    assert (rank["status"], rank["steps"]) == ("done", 3)


DECOMPOSED = """
import torch
weight = torch.ones(6, 4, device="cuda")
q, r = torch.linalg.qr(weight)
u, s, v = torch.linalg.svd(weight, full_matrices=False)
values, vectors = torch.linalg.eigh(torch.ones(4, 4, device="cuda"))
inverse = torch.linalg.inv(torch.ones(4, 4, device="cuda"))
print("SIZES", *(tuple(each.shape) for each in (q, r, u, s, v, values, vectors, inverse)), flush=True)
"""


def test_decompositions_give_tensors_of_the_right_sizes(tmp_path: Path) -> None:
    """Which OLoRA, PiSSA and others start with; the answer names them."""
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, DECOMPOSED + LOOP))
    assert "SIZES (6, 4) (4, 4) (6, 4) (4,) (4, 4) (4,) (4, 4) (4, 4)" in done.stderr
    said = " ".join(done.stdout.split())
    assert "linalg_qr, linalg_svd, linalg_eigh, linalg_inv_ex gave empty tensors" in said


def test_an_error_names_the_line_that_read_a_value(tmp_path: Path) -> None:
    text = (
        "import torch\nmask = torch.zeros(3, device='cuda')\n"
        "if mask.sum() == 0:\n    raise ValueError('a check that computed values pass')\n"
        "rows = int(mask.sum())\nassert rows, 'no rows'\n"
    )
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, text))
    said = " ".join(done.stdout.split())
    assert done.returncode == 4 and "AssertionError: no rows" in said
    assert "last read 0, which the simulated GPU did not" in said and "script.py:5 <m" in said


def test_a_script_that_exits_over_its_arguments_is_told_by_its_exit_code(tmp_path: Path) -> None:
    """argparse ends with 2, here after the GPU was opened."""
    text = (
        "import argparse, torch\ntorch.ones(1, device='cuda')\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--data', required=True)\nparser.parse_args()\n"
    )
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, text))
    assert done.returncode == 4 and "exit code 2 before step 1" in done.stderr


MASKED = """
mask = torch.zeros(3, 4, device="cuda") > 1
tokens = torch.zeros(3, 4, dtype=torch.long, device="cuda")
print("READ", [len(t[m].tolist()) for t, m in zip(tokens.cpu(), mask.cpu())], mask.tolist()[0], flush=True)
"""


def test_a_mask_that_the_host_reads_selects_everything(tmp_path: Path) -> None:
    """Of generated tokens, those before the end, which would else be none."""
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, "import torch" + MASKED))
    assert "READ [4, 4, 4] [True, True, True, True]" in done.stderr


def test_a_compiled_model_runs_the_same_step_each_time(tmp_path: Path) -> None:
    text = LOOP.replace("optimizer = ", "model.compile()\noptimizer = ", 1)
    rank = answer("--gpu", "rtx_4090", "--", "python", script(tmp_path, text))["rank"]
    requested = {(r["step"], r["phase"]): r["requested_bytes"] for r in rank["phases"]}
    assert requested[2, "backward"] == requested[3, "backward"]
    assert rank["launches"][1] == rank["launches"][2]
    assert rank["second_count"]["is_equal"]


def test_two_first_rehearsals_at_once_both_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    arguments = command("--gpu", "t4", "--", "python", script(tmp_path, LOOP))
    both = [
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    texts = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert texts[0][0] == texts[1][0]
    assert len(list((tmp_path / "cache" / "stubs").iterdir())) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(tmp_path: Path, number: int, code: int) -> None:
    endless = script(
        tmp_path,
        "import os, time, torch\ntorch.ones(3, device='cuda')\nprint('PID', os.getpid(), flush=True)\ntime.sleep(600)",
    )
    process = subprocess.Popen(
        command("--gpu", "t4", "--", "python", endless),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    pid = next(int(line.split()[1]) for line in process.stderr if line.startswith("PID"))
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    process.send_signal(number)
    assert process.wait(30) == code
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    drain.join()


def test_the_guide_shows_what_happens() -> None:
    if torch_version() != (2, 15):
        pytest.skip("the guide shows torch 2.15")
    block = (ROOT / "docs" / "guide" / "rehearse.md").read_text("utf-8").split("```text\n$ ")[1]
    shown, _, output = block.partition("```")[0].partition("\n")
    assert shown.startswith("lora-profile rehearse ")
    assert rehearse(*shown.split()[2:]).stdout == output


# --- the harness' own case ------------------------------------------------------------------------------------------------


def lora_profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lora_profiler", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("sharing", [(), ("--nproc", "2", "--sharding", "fsdp")])
def test_the_harness_case_asks_for_what_is_predicted_and_leaves_a_rehearsed_record(
    tmp_path: Path, sharing: tuple[str, ...]
) -> None:
    done = lora_profile(
        *("bench", "gpt2", "-s", "256", "--method", "lora", "--rehearse", "--gpu", "a100_sxm_80gb"),
        *("--python", str(PYTHON), "--records", str(tmp_path / "r.jsonl"), "--format", "json"),
        *sharing,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = record_from_dict(json.loads(done.stdout)["records"][0])
    m = record.measurement
    assert record.is_rehearsed and problems(record) == []
    assert m.peak_requested_bytes is not None and m.workspace_bytes is not None
    prediction = predict(record.workload)
    assert m.peak_requested_bytes - m.workspace_bytes == prediction.peak.total_bytes
    numbers = claims(prediction).numbers  # as a measured record would be held against them
    assert numbers["peak_requested_bytes"] == {"total": m.peak_requested_bytes}
    workspaces = [
        each.get("workspace") for each in (numbers["attribution_bytes"], m.attribution_bytes)
    ]
    assert workspaces[0] == workspaces[1]  # torch 2.15 keeps none
    measured = group_peaks(m.phase_peak_bytes)
    for group in ("forward", "backward", "optimizer"):
        assert numbers["phase_peak_bytes"][group] == measured[group], group
    assert m.attention_kernel == "flash" and len(m.ranks) == (2 if sharing else 0)


def test_an_installed_package_rehearses_with_the_torch_of_the_environment(tmp_path: Path) -> None:
    """Beside an installed one lies another torch, which a checkout has not."""
    site = tmp_path / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lora_profiler", site / "lora_profiler", ignore=ignored)
    (site / "torch.py").write_text("raise ImportError('the torch of the package')")
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lora_profiler.__main__ import main; main()"
    asked = ("bench", "gpt2", "-s", "64", "--method", "lora", "--rehearse", "--gpu", "t4")
    kept = ("--records", str(tmp_path / "r.jsonl"), "--format", "json")
    done = subprocess.run(
        [sys.executable, "-c", start, str(site), *asked, "--python", str(PYTHON), *kept],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = record_from_dict(json.loads(done.stdout)["records"][0])
    assert record.measurement.status == "ok", record.measurement.failure
    assert record.environment.packages["torch"].startswith(".".join(map(str, torch_version())))


def test_a_rehearsed_answer_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    question = (
        "gpt2",
        "-s",
        "256",
        "--method",
        "lora",
        "--gpu",
        "rtx_4090",
        "--full",
        "--format",
        "json",
    )
    torch = ".".join(map(str, torch_version()))
    peaks = {}
    for engine in ("rehearsed", "auto"):
        done = lora_profile(*question, "--engine", engine, "--torch", torch)
        assert done.returncode == 0, done.stderr[-3000:]
        (answer_,) = json.loads(done.stdout)["predictions"]
        peaks[engine] = answer_["peak"]["total_bytes"]
    assert peaks["rehearsed"] == peaks["auto"]


TWO_OPTIMIZERS = """
import torch
first, second = (torch.nn.Linear(1024, 1024, bias=False).cuda() for _ in range(2))
optimizers = [torch.optim.AdamW(each.parameters()) for each in (first, second)]
x = torch.ones(8, 1024, device="cuda")
for step in range(9):
    second(first(x)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    print("step", step, flush=True)
"""


SCALED = """
import torch
weight = torch.ones(4, device="cuda", requires_grad=True)
optimizer = torch.optim.SGD([weight])
optimizer.register_step_post_hook(lambda *_: print("step", flush=True))
scaler = torch.amp.GradScaler()
for step in range(9):
    scaler.scale(weight.sum()).backward()
    left = [torch.full((64,), float("inf")).cuda() for _ in range(32)]
    del left  # what the card's memory holds from before
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
"""


def test_a_scaled_loss_skips_no_step(tmp_path: Path) -> None:
    """Whether a gradient is infinite nobody computes: what is read is what the memory held."""
    assert answer("--gpu", "t4", "--", "python", script(tmp_path, SCALED))["rank"]["steps"] == 3


def test_every_optimizer_makes_all_of_its_steps(tmp_path: Path) -> None:
    found = answer("--gpu", "t4", "--", "python", script(tmp_path, TWO_OPTIMIZERS))
    rank = found["rank"]
    assert rank["steps"] == 3 and len(rank["launches"]) == 3
    assert rank["launches"][1] == rank["launches"][2]
    assert rank["facts"]["optimizers"] == ["torch.optim.adamw.AdamW"] * 2
    weights = 4 * 1024**2
    # states of both are there at the end of the first step already
    assert rank["held"]["categories"]["optimizer states"] >= 4 * weights
    first = [row for row in rank["phases"] if (row["step"], row["phase"]) == (1, "optimizer")]
    assert first[0]["requested_bytes"] >= 2 * weights + 4 * weights


@pytest.mark.parametrize("model", ["EleutherAI/pythia-14m", "facebook/opt-6.7b"])
def test_the_first_of_eight_ranks_alone_asks_for_what_it_does_among_them(model):
    """FSDP2, all eight rehearsed together when the grid's rows were recorded."""
    rows = (ROOT / "benchmarks" / "results" / "rehearsed.jsonl").read_text("utf-8").splitlines()
    row = next(
        row
        for row in map(json.loads, rows)
        if row["model"] == model and row["setup"]["world_size"] == 8
    )
    setup = setup_from_dict(row["setup"])
    workload = Workload(
        model=find_model(model),
        setup=setup,
        platform=Platform(capability=find_gpu(row["card"]).capability),
    )
    _, document = rehearsed_first_rank(workload, find_gpu(row["card"]))
    blas = "workspaces of BLAS"  # which torch counts from version to version otherwise
    alone = document["peaks"]["steady"]["requested_bytes"]
    among = row["rehearsed"]["requested_bytes"] - row["categories"][blas]
    assert alone - document["held"]["categories"].get(blas, 0) == among


@pytest.mark.parametrize("lora", [None, LoraConfig()], ids=["full", "lora"])
def test_a_model_smaller_than_the_workspace_of_a_product_is_within_the_bound(
    lora: LoraConfig | None,
) -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "vocab_size": 512, "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    workload = Workload(
        model=model_from_config(config, id="tiny", source="test"),
        setup=TrainSetup(lora=lora, seq_len=128, dtype="float16" if lora else "float32"),
        platform=Platform(capability=75, torch=torch_version()),
    )
    predicted, real = predict(workload), predict(workload, "rehearsed").peak.total_bytes
    assert predicted.exactness == "exact" or predicted.error_bound is not None
    assert predicted.peak.total_bytes <= real
    assert real <= predicted.peak.total_bytes * (1 + (predicted.error_bound or 0))


ORDERED = """
scores = torch.rand(2, 3, 50, device="cuda")
values, first = scores.topk(4, dim=1 - 2)
ranks = scores.argsort(dim=1, descending=True)
print("INDICES", first.tolist()[0][0], ranks.cpu()[0, :, 7].tolist(), tuple(values.shape), flush=True)
left = torch.tensor([1 << 40] * 512, device="cuda")
del left
found = (torch.arange(512, device="cuda") == 3).nonzero()
assert found[1].item() == 0
sparse = torch.ones(3, 4, device="cuda").to_sparse().cpu().coalesce()
print("FOUND", found.item(), sparse.indices().tolist(), flush=True)
"""


def test_what_the_host_reads_of_an_order_names_elements_that_are_there(tmp_path: Path) -> None:
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, "import torch" + ORDERED))
    assert "INDICES [0, 1, 2, 3] [0, 1, 2] (2, 3, 4)" in done.stderr
    assert f"FOUND 0 {[[0] * 12] * 2}" in done.stderr


SHOWN = """
grid = torch.tensor([[1, 4, 6], [1, 2, 8]], device="cuda")
spread = torch.tensor([2], device="cuda").expand(3)
many = torch.rand(4096, 100, device="cuda").topk(90).indices
assert many.tolist() == [list(range(90))] * 4096 and torch.equal(many.cpu()[7], torch.arange(90))
print("SHOWN", spread.tolist(), grid[:, 1:].tolist(), grid.t().cpu().tolist(), flush=True)
"""


def test_what_the_host_reads_of_a_view_is_what_it_wrote(tmp_path: Path) -> None:
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, "import torch" + SHOWN))
    assert "SHOWN [2, 2, 2] [[4, 6], [2, 8]] [[1, 1], [4, 2], [6, 8]]" in done.stderr


SEES = """
import torch
from transformers.vision_utils import (
    get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index,
)

grid = torch.tensor([[1, 8, 12], [2, 4, 6]])
def told(grid):
    lengths = get_vision_cu_seqlens(grid)
    mask = (lengths >= 48)[1:].unsqueeze(-1).expand(-1, 5)
    chosen = torch.ones(len(mask), 5, device=grid.device)[mask]
    window = get_vision_window_index(grid, 2, 112, 14)
    parts = torch.split(torch.ones(144, device=grid.device), (lengths[1:] - lengths[:-1]).tolist())
    tokens = (grid.prod(-1) // 4).tolist()
    return [
        lengths.tolist(), get_vision_position_ids(grid, 2).tolist(), [each.tolist() for each in window],
        chosen.numel(), [len(part) for part in parts], tokens, bool((grid == 3).any()), mask.cpu().tolist(),
    ]
assert told(grid.cuda()) == told(grid)
assert torch.tensor([[3, 3, 5]] * 9000, device="cuda").unique_consecutive().tolist()[:3] == [3, 5, 3]
mask = torch.tensor([[0, 1, 1], [0, 0, 1]], device="cuda")[..., None].bool().expand(2, 3, 4)
images = torch.ones(3, 4, device="cuda", requires_grad=True)
texts = torch.ones(2, 3, 4, device="cuda")
texts.masked_scatter(mask, images).sum().backward()
assert images.grad.shape == (3, 4) and texts.masked_select(mask).shape == (12,)
batched = torch.vmap(lambda row: (row > 1).to(row.device) & row.bool())(grid.cuda())
assert batched.shape == grid.shape
def doubled(x, chosen):
    return x.to(torch.float32).to(x.device) * 2 * chosen.to(x.device)
compiled = torch.compile(doubled, fullgraph=True, dynamic=True, backend="eager")
assert compiled(texts, texts > 0).shape == texts.shape
noise = torch.rand(7, device="cuda")
print("SEEN", len(noise[noise > 0.5]), (noise > 0.5).cpu().tolist(), flush=True)
"""


WRAPPED = """
import copy, torch
base = torch.nn.Linear(256, 256).cuda()
base(torch.ones(2, 256, device="cuda")).sum().backward()  # before it is wrapped

class Wrapper(torch.nn.Module):  # as PEFT's
    def __init__(self):
        super().__init__()
        self.base = base
    def forward(self, x):
        return self.base.forward(x)

model = Wrapper()
optimizer = torch.optim.SGD(model.parameters())
for _ in range(3):
    model(torch.ones(8, 256, device="cuda")).sum().backward()
    optimizer.step()
"""


def test_the_inputs_are_those_of_what_was_put_around_the_model(tmp_path: Path) -> None:
    found = answer("--gpu", "t4", "--no-time", "--", "python", script(tmp_path, WRAPPED))
    assert found["rank"]["facts"]["inputs"] == {"0": [8, 256]}


BY_HAND = """
import copy, io, torch
model = torch.nn.Sequential(torch.nn.Linear(256, 256)).cuda()
for _ in range(4):
    model(torch.ones(8, 256, device="cuda")).sum().backward()
    for weight in model.parameters():
        weight.data.add_(weight.grad, alpha=-0.1)
file = io.BytesIO()
torch.save(model, file)
file.seek(0)
with torch.serialization.safe_globals([torch.nn.Sequential, torch.nn.Linear, set]):
    other = torch.load(file)
assert other(torch.ones(8, 256, device="cuda")).shape == (8, 256)
copy.deepcopy(model)(torch.ones(8, 256, device="cuda"))
assert len(model._forward_hooks) == 1
"""


def test_a_loop_without_an_optimizer_trains_and_saves_its_model_whole(tmp_path: Path) -> None:
    found = answer("--gpu", "t4", "--no-time", "--", "python", script(tmp_path, BY_HAND))
    assert (found["rank"]["status"], found["rank"]["steps"]) == ("done", 3)


ON_THE_HOST = """
import torch
from transformers import AutoModel
def same(*pair):
    return torch.allclose(*pair, rtol=1e-3)
a, b, c = torch.rand(3, 4), torch.rand(4, 5), torch.rand(5)
by_hand = (a[:, :, None] * b).sum(1)
assert same(a @ b, by_hand) and same(torch.addmm(c, a, b, alpha=2, beta=3), 2 * by_hand + 3 * c)
x, y = torch.rand(2, 3, 4, requires_grad=True), torch.rand(2, 4, 5)
torch.baddbmm(torch.rand(2, 3, 5), x, y).sum().backward()
assert same(x.grad, y.sum(-1)[:, None].expand(2, 3, 4)) and same((x @ y)[1], x[1] @ y[1])
big = torch.rand(1024, 1024)
assert same((big @ torch.ones(1024, 2048))[:, 0], big.sum(1))  # no model is simulated yet
model = AutoModel.from_pretrained("google-bert/bert-base-uncased")
assert same((a @ b), by_hand) and not (big @ torch.ones(1024, 2048)).any()
with torch.no_grad():
    assert model(torch.ones(8, 128, dtype=torch.int64))[0].shape == (8, 128, 768)
print("HELD", flush=True)
"""


def test_products_on_the_host_are_computed_but_large_ones_of_a_simulated_model(
    tmp_path: Path,
) -> None:
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, ON_THE_HOST))
    assert "HELD" in done.stderr, done.stderr[-2000:]


TRIMMED = """
import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin

class Loss(CachedLossMixin, torch.nn.Module):
    def __init__(self, size):
        super().__init__()

Loss(size=2)
mask = torch.zeros(400, 1024, dtype=torch.int64)  # larger than the stub copies
mask[:, :90] = 1
mask = mask.cuda()
kept = []
x = torch.ones(3, requires_grad=True, device="cuda")
def trim(*_):
    columns = mask[200:300].bool().any(dim=0)
    kept.append(int(columns.nonzero().max().item()) + 1)
loss = x.sum()
loss.register_hook(trim)
trim()
loss.backward()
print("TRIMMED", kept, flush=True)
"""


def test_padding_that_is_cut_by_its_mask_is_cut_alike_before_and_in_the_backward_pass(
    tmp_path: Path,
) -> None:
    package = tmp_path / "sentence_transformers" / "base" / "losses"
    package.mkdir(parents=True)
    (package / "gradcache.py").write_text("class CachedLossMixin: ...")
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, TRIMMED))
    assert "TRIMMED [90, 90]" in done.stderr, done.stderr[-2000:]


def test_small_integers_of_a_model_that_sees_are_those_of_the_host(tmp_path: Path) -> None:
    """What no kernel computes, as a mask of random numbers, takes its largest case as ever."""
    done = rehearse("--gpu", "t4", "--", "python", script(tmp_path, SEES))
    assert f"SEEN 7 {[True] * 7}" in done.stderr, done.stderr[-2000:]
