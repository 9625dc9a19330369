"""Scripts with PEFT and a Trainer: read as questions without being run, and written from them. What
they hold when they are run is in `benchmarks/rehearsed/written_scripts.py`."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

from commands import Run
from lora_profiler import find_model
from lora_profiler.errors import UsageError
from lora_profiler.planning.setups import DEFAULTS, setup_for, setups
from lora_profiler.question.adapters import adapters
from lora_profiler.question.workload import Workload
from lora_profiler.rehearsal.inside.rehearsed.changes import change_arguments
from lora_profiler.trainer_files.document import TrainerFileError
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import TrainerFile
from lora_profiler.trainer_files.writing import written


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def run(text: str, name: str = "train.py") -> TrainerFile:
        path = tmp_path / name
        path.write_text(text)
        return read_files([path])

    return run


def test_gpt_oss_as_its_guides_train_it(read: Any) -> None:
    """OpenAI's cookbook and TRL's example: MXFP4 brought back, experts of three layers."""
    experts = [f"{n}.mlp.experts.{one}_proj" for n in (7, 15, 23) for one in ("gate_up", "down")]
    text = f"""config = LoraConfig(r=8, target_modules="all-linear", target_parameters={experts})
base = Mxfp4Config(dequantize=True)
model = AutoModelForCausalLM.from_pretrained("openai/gpt-oss-20b", quantization_config=base)
SFTTrainer(model=get_peft_model(model, config), args=SFTConfig(max_length=64))
"""
    file = read(text)
    assert file.options["target_parameters"] == ",".join(experts)
    assert not any(key.state in ("not modelled", "unknown") for key in file.keys)
    (setup,) = setups(find_model(file.model), {**DEFAULTS, **file.options}, set(file.options))
    found = adapters(find_model(file.model), setup.lora)
    assert [(a.in_features, a.out_features) for a in found if a.num_experts == 32] == [
        (2880, 5760),
        (2880, 2880),
    ] * 3
    fp8 = text.replace("Mxfp4Config", "FineGrainedFP8Config")
    (gap,) = read(fp8).not_modelled
    assert gap.missing.startswith("a base brought back")


def test_every_adapter_of_the_installed_peft_is_known_for_one(read: Any) -> None:
    for config in set(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.values()):
        text = f'SFTTrainer(model="gpt2", peft_config={config.__name__}())\n'
        assert read(text).options["methods"] == ("lora",), config


@pytest.mark.parametrize("given", [(old, new) for old in (True, False) for new in (True, False)])
@pytest.mark.parametrize("is_new_first", [True, False])
def test_the_new_name_of_checkpointing_goes_first(
    read: Any, given: tuple[bool, bool], is_new_first: bool
) -> None:
    names = ("gradient_checkpointing", "activation_checkpointing")
    pairs = list(zip(names, given, strict=True))[:: -1 if is_new_first else 1]
    resolved = transformers.TrainingArguments(output_dir="unused", **dict(pairs))
    arguments = ", ".join(f"{name}={value}" for name, value in pairs)
    file = read(f'SFTTrainer(model="gpt2", args=SFTConfig(max_length=64, {arguments}))\n')
    assert file.options["checkpointing"] is resolved.activation_checkpointing


def test_a_rehearsed_change_switches_checkpointing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = transformers.TrainingArguments
    monkeypatch.setattr(kind, "__post_init__", kind.__post_init__)
    change_arguments(["checkpointing"])
    assert kind(output_dir="unused", activation_checkpointing=False).activation_checkpointing


def notebook(*cells: str) -> str:
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"cells": code})


def test_magics_of_several_lines_are_no_python(read: Any) -> None:
    own = "SFTTrainer(model='gpt2', args=SFTConfig(max_length=64))"
    file = read(notebook(f"!pip install -q \\\n  'trl>=1' \\\n  peft\n{own}"), "train.ipynb")
    (length,) = (key for key in file.keys if key.key == "max_length")
    assert (file.model, file.options["seq_len"], length.line) == ("gpt2", 64, 4)


@pytest.mark.parametrize(
    "cell",
    [
        "!accelerate launch \\\n  --num_processes 2 \\\n  sft.py --model_name_or_path gpt2 \\\n"
        "  --use_peft --max_length 512\n",
        "%%bash\nexport CUDA_VISIBLE_DEVICES=0,1\n\ntrl sft --model_name_or_path gpt2 \\\n"
        "  --use_peft --max_length 512\n",
    ],
)
def test_a_notebook_that_starts_a_trainer_is_its_command(read: Any, cell: str) -> None:
    file = read(notebook("!pip install -q trl\n!python --version", cell), "train.ipynb")
    assert (file.stack, file.model, file.options["methods"]) == ("trl-sft", "gpt2", ("lora",))
    assert (file.options["world_size"], file.options["seq_len"]) == (2, 512)
    (length,) = (key for key in file.keys if key.key == "max_length")
    assert length.line == 2 + cell.count("\n")


def test_a_notebook_without_a_training_is_none(read: Any) -> None:
    with pytest.raises(
        TrainerFileError, match=r"nbconvert --to script train\.ipynb.*python train\.py"
    ):
        read(
            notebook("!tune download meta-llama/Llama-3.2-1B \\\n  --x y", "print(1)"),
            "train.ipynb",
        )


NO_SCRIPTS = {
    (
        "cut.py",
        "def f(:\n",
    ): "cut.py:1: not valid Python: invalid syntax; rehearse any script: `lora-profile"
    " rehearse --gpu t4 -- python cut.py`",
    ("a.ipynb", "{\n"): "a.ipynb:2: not a notebook, not valid JSON: ",
    ("b.ipynb", '{"cells": 3}'): "b.ipynb is no notebook: it has no list of cells.",
    ("c.ipynb", "[]"): "c.ipynb is no notebook: it has no list of cells.",
    ("d.py", b"\xff"): "/d.py is not UTF-8 text (byte 0); save it as UTF-8.",
    ("none.py", None): "none.py; check the path.",
}


@pytest.mark.parametrize(("name", "content"), NO_SCRIPTS)
def test_a_file_that_is_no_script_says_why(
    name: str, content: str | bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainerFileError, match=re.escape(NO_SCRIPTS[name, content])):
        read_files([path])


def test_a_written_script_says_what_it_cannot(tmp_path: Path) -> None:
    model = find_model("Qwen/Qwen2.5-0.5B")

    def asked(**options: Any) -> Workload:
        return Workload(model=model, setup=setup_for(model, "transformers", "lora", **options))

    usual = {"batch_size": 1, "seq_len": 64}
    assert "Qwen/Qwen2.5-0.5B" in written("peft", asked(**usual), "train.py")
    for more in ({"padding": 0.5}, {"packed": 8}, {"attention": "math"}, {"loss": "triton"}):
        with pytest.raises(UsageError, match="cannot express --"):
            written("peft", asked(**usual, **more), "train.py")
    with pytest.raises(UsageError, match=r"ends in \.py"):
        written("peft", asked(**usual), "train.yaml")


@pytest.mark.parametrize(
    ("loading", "dtype"),
    [
        ('"Qwen/Qwen2.5-0.5B"', "float32"),  # by TRL, create_model_from_path
        ('AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")', "bfloat16"),
        ('AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B", dtype="float32")', "float32"),
    ],
)
def test_weights_are_in_the_format_that_who_loads_them_takes(
    run: Run, tmp_path: Path, loading: str, dtype: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"model = {loading}\nSFTTrainer(model=model, args=SFTConfig(max_length=64)).train()\n"
    )
    done = run(str(script), "--full", "--format", "json")
    assert json.loads(done.stdout)["predictions"][0]["setup"]["dtype"] == dtype


def test_the_command_that_a_script_amounts_to_asks_the_same(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        'model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")\n'
        "SFTTrainer(model=model, args=SFTConfig(max_length=64)).train()\n"
    )
    words = json.loads(run("read", str(script), "--format", "json").stdout)["command"]
    asked, said = (
        json.loads(run(*command, "--full", "--format", "json").stdout)["predictions"][0]
        for command in (words[1:], [str(script)])
    )
    for answer in (asked, said):
        del answer["evidence"]  # what a script does not set is the trainer's default
    assert asked == said
