"""--write: a question as the files of a trainer, which read as that question again, on GPUs with and
without bfloat16, on one and on several."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Run, lora_profile, refused
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.facts.stacks import find_stack
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.workload import Workload, setup_dict
from lora_profiler.trainer_files.reading import read_command
from lora_profiler.trainer_files.trainer_file import on_model
from lora_profiler.trainer_files.writing import (
    Written,
    shardings_of,
    suffix_of,
    trainer_of,
    writers,
    written_files,
)

MODEL = "meta-llama/Llama-3.2-1B"
GPUS = ("t4", "rtx_4090", "a100_sxm_80gb")
METHODS = ("full", "lora", "qlora")
FORMATS = {"dtype", "precision", "adapter_dtype", "lora_kernels"}
"""Options that a trainer itself sets otherwise on a GPU without bfloat16."""
NO_FLOAT16 = "torchtune trains in bfloat16 or float32, not in float16"


def asked(trainer: str | None, gpu: str, method: str, **options: Any) -> Workload:
    given = {"methods": (method,), "batch_size": 1, "seq_len": 512, **options}
    (workload,) = workloads(
        find_model(MODEL, offline=True),
        {**DEFAULTS, **given},
        set(given),
        find_gpu(gpu).platform(),
        find_stack(trainer or "bare"),
    )
    return workload


def read_back(files: Written, folder: Path) -> Workload:
    """The question that the command which starts the files is."""
    for name, text in files.texts.items():
        (folder / name).write_text(text)
        if name.endswith(".py"):
            ast.parse(text)
        else:
            assert json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    model, platform = files.workload.model, files.workload.platform
    file = on_model(read_command(shlex.split(files.command), folder), model)
    assert not file.not_modelled and file.model == MODEL
    options = file.completing({})
    (workload,) = workloads(
        model, {**DEFAULTS, **options}, set(options), platform, find_stack(file.stack)
    )
    return workload


def differences(one: Workload, other: Workload) -> set[str]:
    """But for what the loop keeps, which a question without a trainer says otherwise."""
    values, others = setup_dict(one.setup), setup_dict(other.setup)
    return {name for name in values if values[name] != others[name]} - {"loop_state"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", writers())
def test_what_is_written_reads_as_what_was_asked(
    tmp_path: Path, name: str, gpu: str, method: str
) -> None:
    workload = asked(trainer_of(name), gpu, method)
    file = f"run{suffix_of(name)}"
    given = {"methods", "batch_size", "seq_len"}
    if name == "torchtune" and gpu == "t4" and method != "full":
        with pytest.raises(UsageError, match=NO_FLOAT16):
            written_files(name, workload, file, given)
        workload = asked("torchtune", gpu, method, dtype="float32")
        given.add("dtype")
    files = written_files(name, workload, file, given)
    assert not differences(read_back(files, tmp_path), files.workload)
    changed = differences(files.workload, workload)
    assert changed <= FORMATS and (not changed or gpu == "t4")
    setup = files.workload.setup
    assert (setup.batch_size, setup.seq_len, setup.method) == (1, 512, method)
    text = files.texts[file]
    assert ("bf16: true" in text or "bf16=True" in text) <= (gpu != "t4")


@pytest.mark.parametrize("method", ("lora", "qlora"))
@pytest.mark.parametrize("name", ("axolotl", "trl", "llamafactory", "peft", "unsloth"))
def test_float16_is_what_trains_adapters_without_bfloat16(name: str, method: str) -> None:
    workload = asked(trainer_of(name), "t4", method)
    setup = written_files(name, workload, f"run{suffix_of(name)}", set()).workload.setup
    assert setup.precision != "amp"
    assert setup.autocast_dtype == "float16" or setup.dtype == "float16"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ("axolotl", "llamafactory", "trl"))
def test_on_shards_the_question_is_what_its_file_is(name: str, method: str) -> None:
    """accelerate keeps what trains in float32 there, whoever asks."""
    options = {"world_size": 4, "sharding": "fsdp"}
    workload = asked(trainer_of(name), "a100_sxm_80gb", method, **options)
    files = written_files(name, workload, "run.yaml", {"methods", *options})
    formats = FORMATS | {"adapter_dtype"}
    assert not differences(files.workload, workload) & formats
    assert workload.setup.precision == (
        "amp" if method == "qlora" and name == "trl" else "fsdp-mixed"
    )


@pytest.mark.parametrize("name", ("axolotl", "llamafactory", "trl"))
def test_deepspeed_s_offloading_is_written(tmp_path: Path, name: str) -> None:
    options = {
        "world_size": 4, "sharding": "zero3", "offload_optimizer_device": "cpu",
        "offload_param_device": "cpu",
    }  # fmt: skip
    workload = asked(trainer_of(name), "a100_sxm_80gb", "full", **options)
    files = written_files(name, workload, "run.yaml", {"methods", *options})
    setup = read_back(files, tmp_path).setup
    assert (setup.offload_optimizer_device, setup.offload_param_device) == ("cpu", "cpu")


@pytest.mark.parametrize("sharding", ("ddp", "fsdp", "fsdp-no-reshard", "zero2", "zero3"))
@pytest.mark.parametrize("name", writers())
def test_on_several_gpus_the_launcher_s_file_stands_beside(
    tmp_path: Path, name: str, sharding: str
) -> None:
    file = f"run{suffix_of(name)}"
    options: dict[str, Any] = {"world_size": 4, "sharding": sharding}
    if sharding.startswith("zero"):  # whose bf16 is no autocast
        options |= {"dtype": "bfloat16", "precision": "pure"}
    given = {"methods", "batch_size", "seq_len", *options}
    workload = asked(trainer_of(name), "a100_sxm_80gb", "lora", **options)
    if sharding not in (known := shardings_of(name)):
        assert name in ("torchtune", "unsloth")
        with pytest.raises(UsageError, match=f"with --sharding {' or '.join(known)} only"):
            written_files(name, workload, file, given)
        return
    files = written_files(name, workload, file, given)
    back = read_back(files, tmp_path)
    assert not differences(back, files.workload)
    assert (back.setup.world_size, back.setup.sharding) == (4, sharding)
    assert f"# {files.command}\n" in files.texts[file]


PLAIN = ("predict", MODEL, "--method", "lora", "-s", "512")


@pytest.mark.parametrize("name", writers())
def test_the_file_s_trainer_is_meant_where_none_is_named(
    tmp_path: Path, run: Run, name: str
) -> None:
    path = tmp_path / f"run{suffix_of(name)}"
    done = run(
        *PLAIN, "--gpu", "rtx_4090", "--full", "--format", "json", "--write", name, str(path)
    )
    assert done.exit_code == 0 and f"Wrote {path}" in done.stderr
    assert "Start it with: " in done.stderr
    again = run(str(path), "--gpu", "rtx_4090", "--full", "--format", "json")
    one, other = (json.loads(each.stdout)["predictions"][0] for each in (done, again))
    assert one["peak"] == other["peak"]
    setup, other_setup = one["setup"], other["setup"]
    assert setup == other_setup and (setup["batch_size"], setup["seq_len"]) == (1, 512)
    assert (setup["rank"], setup["alpha"], setup["dtype"]) == (16, 32.0, "bfloat16")


def test_a_run_that_does_not_fit_is_not_written(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "run.yaml"
    words = ("predict", MODEL, "--method", "full", "--gpu", "t4", "--write", "trl", str(path))
    done = run(*words)
    assert done.exit_code == 1 and not path.exists()
    assert "run.yaml is not written: the run does not fit\n  --" in done.stderr


def test_what_no_file_says_is_refused_before_any_search(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "run.yaml")
    words = ("--method", "lora", "--gpus", "t4", "--tokens", "1M", "--write", "torchtune", path)
    assert NO_FLOAT16 in refused(run("plan", MODEL, *words))
    several = refused(run("predict", MODEL, "--write", "axolotl", path))
    assert "this asks for 2\n  Add --method full, lora or qlora." in several
    (tmp_path / "run.yaml").touch()
    assert "exists" in refused(run(*PLAIN, "--write", "axolotl", path))


@pytest.mark.parametrize("trainer", ["trl", "axolotl", "llamafactory"])
def test_experts_without_target_modules_are_refused_by_their_option(
    trainer: str, tmp_path: Path, run: Run
) -> None:
    words = ("--targets", "none", "--target-parameters", "mlp.experts.gate_up_proj")
    path = str(tmp_path / "run.yaml")
    done = run("openai/gpt-oss-20b", "--method", "lora", *words, "--write", trainer, path)
    assert "configs cannot express --targets none" in refused(done)
    assert not Path(path).exists()


def test_a_plan_tries_what_the_file_can_say(tmp_path: Path, run: Run) -> None:
    """Left alone it would recommend torch's ZeRO-1, which no trainer's file says."""
    path, model = tmp_path / "run.yaml", "meta-llama/Llama-3.3-70B-Instruct"
    done = run(
        "plan", model, "--gpus", "8xh100", "--tokens", "10M", "--write", "axolotl", str(path)
    )
    assert done.exit_code == 0 and path.exists(), done.stderr
    folder, _, command = done.stderr.partition("Start it with: ")[2].strip().partition(" && ")
    assert folder == f"cd {path.parent}" and f"# {command}" in path.read_text()


def test_a_plan_writes_what_it_recommends(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "run.yaml"
    words = ("--method", "lora", "--ranks", "16", "--gpus", "rtx_4090", "--tokens", "1M")
    done = run("plan", MODEL, *words, "--write", "axolotl", str(path))
    assert done.exit_code == 0, done.stderr
    assert yaml.safe_load(path.read_text())["lora_r"] == 16


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gpu", GPUS)
def test_trl_s_own_parser_reads_it(tmp_path: Path, gpu: str, method: str) -> None:
    trl = pytest.importorskip("trl")
    path = tmp_path / "run.yaml"
    files = written_files("trl", asked("trl-sft", gpu, method), path.name, {"methods"})
    path.write_text(files.texts[path.name])
    kinds = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig)
    words = ["--config", str(path), "--use_cpu"]
    _, arguments, model = trl.TrlParser(kinds).parse_args_and_config(words)
    setup = files.workload.setup
    assert (model.model_name_or_path, model.dtype) == (MODEL, setup.dtype)
    assert (arguments.bf16, arguments.fp16) == (
        setup.autocast_dtype == "bfloat16",
        setup.autocast_dtype == "float16",
    )
    assert (arguments.max_length, arguments.per_device_train_batch_size) == (512, 1)
    assert model.load_in_4bit == (method == "qlora")


@pytest.mark.parametrize(
    ("trainer", "name"), [("axolotl-dpo", "axolotl"), ("trl-grpo", "trl"), ("litgpt", "axolotl")]
)
def test_a_file_of_another_trainer_than_was_named_is_not_written(
    trainer: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    done = lora_profile(
        "gpt2", "--method", "lora", "--trainer", trainer, "--write", name, str(path)
    )
    assert done.exit_code == 2 and f"not of {trainer}" in done.stderr and not path.exists()


def test_a_written_file_asks_for_no_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    lora_profile("gpt2", "--method", "lora", "--gpu", "l4", "--write", "axolotl", str(path))
    assert "sequence_len: 1024" in path.read_text()


_READ_BY_RECIPES = {
    "output_dir", "log_level", "seed", "max_steps_per_epoch", "resume_from_checkpoint", "compile",
    "metric_logger", "shuffle", "tokenizer", "checkpointer", "dataset", "device", "epochs",
}  # fmt: skip
"""torchtune bd2a0fc, recipes/: its command merges no defaults into a file. See
benchmarks/public/written_files.py, which reads them off its recipes."""


@pytest.mark.parametrize(
    ("method", "own"), [("lora", "lr_scheduler"), ("full", "optimizer_in_bwd")]
)
def test_torchtune_s_file_has_all_that_its_recipe_reads(
    method: str, own: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    words = ("--method", method, "--gpu", "h200", "--write", "torchtune", str(path))
    lora_profile("meta-llama/Llama-3.1-8B", *words)
    document = yaml.safe_load(path.read_text())
    assert document.keys() >= {own, *_READ_BY_RECIPES}
    files = {"filename_format": "model-{}-of-{}.safetensors", "max_filename": "00004"}
    assert document["checkpointer"]["checkpoint_files"] == files


def test_several_gpus_are_shared_as_the_trainer_s_files_can_say(run: Run, tmp_path: Path) -> None:
    """--gpu 2xl4 chooses a sharding that nobody typed; one that is typed is refused by name."""
    words = ("Qwen/Qwen2.5-0.5B", "--method", "lora", "--gpu", "2xl4")
    for folder in ("typed", "chosen"):
        (tmp_path / folder).mkdir()
    write = ("--write", "unsloth", str(tmp_path / "chosen" / "a.py"))
    (more,) = re.findall(
        "with (--sharding ddp) only", refused(run(*words, *write, "--sharding", "fsdp"))
    )
    typed = run(*words, "--write", "unsloth", str(tmp_path / "typed" / "a.py"), *more.split())
    chosen = run(*words, *write)
    assert typed.exit_code == chosen.exit_code == 0
    one, other = ((tmp_path / folder / "a.py").read_text() for folder in ("typed", "chosen"))
    assert one == other
    assert "ddp over 2 ranks" in run(*words, "--trainer", "unsloth").stdout
    assert "fsdp over 2 ranks" in run(*words, "--trainer", "trl").stdout
