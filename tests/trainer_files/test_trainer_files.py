"""Trainers' own files as questions: each framework's keys, what is refused, and what is said of the
rest. Most of them are cases of `cases/trainer_files.yml`."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from commands import lora_profile
from golden_files import Golden
from loading import modules_after
from lora_profiler import find_model, predict, setup_for
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog.bundled import vision_rows
from lora_profiler.facts.stacks import find_stack
from lora_profiler.features.trainers import _trl_keys
from lora_profiler.planning.setups import DEFAULTS, setups
from lora_profiler.question.adapters import adapters
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.trainer_files.document import parse
from lora_profiler.trainer_files.reading import (
    read_command,
    read_document,
    read_files,
    recognised,
    resolve_images,
)
from lora_profiler.trainer_files.scripts import parse_calls
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model, with_images
from lora_profiler.trainer_files.writing import suffix_of, written
from trainer_cases import TEXTS, answers

AXOLOTL, LLAMAFACTORY, TORCHTUNE, TRL, ACCELERATE, NOTEBOOK, GRPO = (
    TEXTS[name]
    for name in ("AXOLOTL", "LLAMAFACTORY", "TORCHTUNE", "TRL", "ACCELERATE", "NOTEBOOK", "GRPO")
)


def test_what_files_mean(golden_file: Golden, tmp_path: Path) -> None:
    golden_file.compare("trainer-files", "\n\n".join(answers(tmp_path)) + "\n")


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A file's reading: `read(text, name)`."""

    def run(text: str, name: str = "file.yaml") -> TrainerFile:
        path = tmp_path / name
        path.write_text(text)
        return read_files([path])

    return run


def keys(file: TrainerFile) -> dict[str, Any]:
    return {key.key: key for key in file.keys}


@pytest.mark.parametrize(
    ("size", "told", "num_trained"),
    [
        ("11b", ("True", "frozen", "lora", "lora", "q_proj, v_proj, output_proj"), 11_468_800),
        ("90b", ("True", "frozen", "lora", "lora", "q_proj, v_proj, output_proj"), 30_965_760),
        ("11b", ("False", "lora", "frozen", "lora", "q_proj, v_proj"), 4_587_520),
        ("90b", ("False", "lora", "frozen", "lora", "q_proj, v_proj"), 20_807_680),
    ],
)
def test_torchtune_adapts_the_parts_of_llama_3_2_vision_that_it_names(
    read: Any, size: str, told: tuple[str, ...], num_trained: int
) -> None:
    """As many elements as the adapters of torchtune 0.7's own builders have."""
    mlp, decoder, encoder, fusion, names = told
    begin, _, rest = TORCHTUNE.partition("  lora_attn_modules:")
    model = f"""\
  lora_attn_modules: [{names}]
  apply_lora_to_mlp: {mlp}
  lora_rank: 8
  decoder_trainable: {decoder}
  encoder_trainable: {encoder}
  fusion_trainable: {fusion}"""
    after = rest[rest.index("tokenizer:") :]
    builder = f"llama3_2_vision.lora_llama3_2_vision_{size}"
    file = read(f"{begin.replace('llama3_2.lora_llama3_2_1b', builder)}{model}\n{after}")
    spec = find_model(str(file.model), offline=True)
    pattern = file.options["targets"].removeprefix("re:")
    found = adapters(spec, LoraConfig(r=8, target_modules=pattern))
    assert sum(adapter.num_parameters(8) for adapter in found) == num_trained
    assert resolve_images(file, spec).options["images"] == 1


def test_arguments_as_json(read: Any, tmp_path: Path) -> None:
    content = {"per_device_train_batch_size": 2, "max_length": 256, "optim": "adamw_torch_fused"}
    file = read(json.dumps(content, indent=1), "sft_config.json")
    assert (file.stack, file.asks) == ("trl-sft", ("model",))
    assert file.options["batch_size"] == 2
    assert keys(file)["optim"].line == 4
    plain = read(json.dumps({"per_device_train_batch_size": 2, "bf16": True}), "arguments.json")
    assert plain.stack == "transformers"
    path = str(tmp_path / "arguments.json")
    assert "names no model of the hub\n  Add --model ID" in lora_profile(path, "-s", "64").stderr
    done = lora_profile(path, "-s", "64", "--model", "gpt2", "--full", "--format", "json")
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["setup"]["batch_size"] == 2


def test_a_notebook_is_its_cells(read: Any) -> None:
    cells = [{"cell_type": "code", "source": NOTEBOOK.splitlines(keepends=True)}]
    file = read(json.dumps({"cells": cells}), "train.ipynb")
    assert file.options == read(NOTEBOOK.replace("%%capture\n", ""), "train.py").options
    assert (file.framework, file.options["seq_len"]) == ("unsloth", 1024)


def test_a_command_line(read: Any, tmp_path: Path) -> None:
    text = """\
# how it was trained
CUDA_VISIBLE_DEVICES=0,1 accelerate launch --num_processes 2 --multi_gpu \\
    trl/scripts/dpo.py --model_name_or_path Qwen/Qwen2-0.5B \\
    --use_peft --lora_target_modules q_proj v_proj --max_length=256
"""
    file = read(text, "train.sh")
    assert (file.stack, file.model) == ("trl-dpo", "Qwen/Qwen2-0.5B")
    assert file.options["targets"] == "q_proj,v_proj"
    assert (file.options["world_size"], file.options["sharding"]) == (2, "ddp")
    assert keys(file)["max_length"].line == 4
    (tmp_path / "sft.yaml").write_text(TRL)
    words = shlex.split("trl sft --config sft.yaml --lora_r 64")
    given = read_command(words, tmp_path)
    assert given.options["rank"] == 64
    assert given.options["seq_len"] == 512


BAD_FILES = (
    "",
    "- a\n- b\n",
    "a: b\nc: d\n",
    "base_model: gpt2\n  x: 1\n",
    AXOLOTL.replace("512", "0"),
    AXOLOTL.replace("0.05", "1.5", 1),
    AXOLOTL + "load_in_8bit: true\n",
    AXOLOTL.replace("adapter: qlora\n", ""),
    AXOLOTL + "lora_r: 8\n",
    AXOLOTL + "optimizer_: x\noptim: !!python/object:os.system x\n",
    AXOLOTL + "x: !include other.yaml\n",
    AXOLOTL.replace("adamw_bnb_8bit", "adam_what"),
    LLAMAFACTORY + "quantization_bit: 4\n",
    TORCHTUNE.replace("torchtune.models.", "mine."),
    ACCELERATE,
    "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
    "e: [*d, *d, *d, *d, *d, *d, *d, *d]\n",
    "a: &a\n  b: *a\n",
    "[" * 1000,
    "x: " + "y" * 300_000,
)


@pytest.mark.parametrize("beside", ["eval_strategy: steps", "use_vllm: true\nnum_generations: 8"])
def test_a_word_in_place_of_a_number_is_told_by_its_key(read: Any, beside: str) -> None:
    """Also where a reader of another key takes it, or one of what the file does not say."""
    before = "model_name_or_path: gpt2\nmax_length: 64\nuse_peft: true\n" + beside
    for key in _trl_keys.TRL.keys.keys() - set(before.replace(":", "").split()):
        try:
            read(f"{before}\n{key}: word\n")
        except LoraProfilerError as e:
            assert key in str(e), key


def test_a_bad_file_gets_one_clear_line(read: Any, golden_file: Golden, tmp_path: Path) -> None:
    said = []
    for text in BAD_FILES:
        with pytest.raises(LoraProfilerError) as error:
            read(text)
        assert error.value.exit_code == 2
        said.append(str(error.value).replace(f"{tmp_path}/", ""))
    assert not any("\n" in line for line in said)
    golden_file.compare("bad-trainer-files", "\n".join(said) + "\n")


def test_a_key_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL + "lora_what: 3\n")
    done = lora_profile(str(path), "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    notes = "\n".join(prediction["assumptions"])
    assert prediction["exactness"] == "estimate"
    assert "qlora.yml:22: lora_what: unknown key" in notes
    told = "activations offloaded to CPU (legacy), predicted on the GPU (the answer is too high)"
    assert f"yml:17: activation_offloading: {told}" in notes
    assert "1 unknown" in done.stderr


@pytest.mark.parametrize(
    ("text", "more"),
    [(AXOLOTL, ()), (LLAMAFACTORY, ()), (TORCHTUNE, ("-s", "512")), (TRL, ())],
    ids=["axolotl", "llamafactory", "torchtune", "trl"],
)
def test_a_file_is_answered_as_the_command_it_is_read_as(
    tmp_path: Path, text: str, more: tuple[str, ...]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    document = json.loads(lora_profile("read", str(path), "--format", "json").stdout)
    words = document["command"][1:]
    answers = [
        json.loads(lora_profile(*asked, *more, "--full", "--format", "json").stdout)["predictions"]
        for asked in ([str(path)], words)
    ]
    by_file, by_command = ([(p["setup"], p["peak"]) for p in answer] for answer in answers)
    assert by_file == by_command
    assert {key["state"] for key in document["keys"]} >= {"option", "costs nothing"}


def test_options_of_the_command_line_overrule_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL)
    done = lora_profile(
        str(path), "--method", "full", "-b", "1", "-s", "128", "--full", "--format", "json"
    )
    (prediction,) = json.loads(done.stdout)["predictions"]
    setup = prediction["setup"]
    assert (setup["method"], setup["seq_len"], setup["rank"]) == ("full", 128, None)


def test_read_shows_every_key(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL)
    shown = lora_profile("read", str(path)).stdout
    for line in AXOLOTL.splitlines():
        key = line.partition(":")[0]
        if line[0] not in " -":
            assert re.search(rf"\b{key}\b", shown), key
    assert shown.startswith("! 1 of 19 settings is not modelled: activation_offloading (line 17).")
    assert "not modelled: activations offloaded to CPU (legacy)" in shown
    assert "axolotl, NousResearch/Llama-3.2-1B; the same as a command: --format json." in shown
    example = lora_profile("read", str(Path(__file__).parents[2] / "examples" / "qlora.yml")).stdout
    assert example.count("\n") <= 25


def test_what_a_file_says_moves_no_cursor(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL + 'chat_template: "\\e[2Jgone"\n"\\e[31mkey": 1\n')
    for done in (lora_profile("read", str(path)), lora_profile(str(path))):
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout + done.stderr


def test_a_model_that_only_remote_code_builds_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import is most of what this would cost
    folder = tmp_path / "own"
    folder.mkdir()
    config = {"model_type": "my_own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL.replace("NousResearch/Llama-3.2-1B", str(folder)))
    done = lora_profile(str(path))
    assert done.exit_code == 3
    assert "file.yaml:1 (base_model): " in done.stderr


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"),
        ("unsloth/llama-3-8b-Instruct", "meta-llama/Meta-Llama-3-8B"),
        ("NousResearch/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("Qwen/Qwen2-1.5B-Instruct", "Qwen/Qwen2-1.5B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen3-14B", "Qwen/Qwen3-14B"),
        ("unsloth/gemma-2-2b-it", "google/gemma-2-2b"),
        ("mistral-community/Mixtral-8x22B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
        ("unsloth/gpt-oss-20b-BF16", "openai/gpt-oss-20b"),
        ("unsloth/functiongemma-270m-it", "google/gemma-3-270m"),
        ("unsloth/codegemma-7b-bnb-4bit", "google/gemma-7b"),
        ("unsloth/Mistral-Nemo-Base-2407", "mistralai/Mistral-Nemo-Base-2407"),
        ("TinyLlama/TinyLlama_v1.1", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("01-ai/Yi-34B-Chat", "01-ai/Yi-34B"),
        ("allenai/OLMoE-1B-7B-0924-Instruct", "allenai/OLMoE-1B-7B-0924"),
        ("unsloth/gemma-4-E4B-it", "google/gemma-4-E4B"),
        ("unsloth/Qwen3.5-4B", "Qwen/Qwen3.5-4B"),
        ("unsloth/Ministral-3-3B-Instruct-2512", "mistralai/Ministral-3-3B-Base-2512"),
        ("unsloth/Muse-Glimmer-30B-unsloth-bnb-4bit", "meta-models/Muse-Glimmer-30B"),
        ("unsloth/bge-m3", "BAAI/bge-m3"),
    ],
)
def test_mirrors_and_tuned_versions_are_known_offline(name: str, original: str) -> None:
    assert find_model(name, offline=True).id == original


def test_a_copy_in_4_bit_is_a_question_of_qlora() -> None:
    model = find_model("unsloth/llama-3-8b-bnb-4bit", offline=True)
    assert model.id == "meta-llama/Meta-Llama-3-8B"
    assert model.stored is not None and model.stored.double_quant
    with pytest.raises(LoraProfilerError):  # nobody's mirror
        find_model("somebody/Llama-3.2-1B", offline=True)


def test_of_a_copy_that_keeps_some_layers_in_16_bit_the_answer_is_an_estimate() -> None:
    names = ("unsloth/Qwen3-14B-bnb-4bit", "unsloth/Qwen3-14B-unsloth-bnb-4bit")
    models = [find_model(name, offline=True) for name in names]
    whole, partly = (predict(Workload(model=m, setup=setup_for(m, method="qlora"))) for m in models)
    assert whole.exactness == "exact" and partly.exactness == "estimate"
    assert whole.peak == partly.peak
    (said,) = set(partly.assumptions) - set(whole.assumptions)
    assert "keeps in 16 bit are counted in 4 bit" in said and "too low" in said


def test_without_names_unsloth_adapts_the_language_layers_where_the_vision_side_is_off() -> None:
    """Every linear layer of attention and MLP there, and none beside: PEFT refuses the tower's
    wrapped ones by name."""
    model = find_model("unsloth/gemma-4-E2B-it", offline=True)

    def targets(arguments: str) -> Any:
        text = f"""
model = FastModel.from_pretrained("unsloth/gemma-4-E2B-it")
model = FastModel.get_peft_model(model, r=8, {arguments})
"""
        file = read_document(parse_calls(text, "notebook.py", None), "unsloth")
        return on_model(file, model).options.get("targets")

    def adapted(arguments: str) -> set[str]:
        lora = LoraConfig(target_modules=targets(arguments).removeprefix("re:"))
        return {adapter.module for adapter in adapters(model, lora)}

    assert targets("finetune_vision_layers=True") is None
    layers = {name for name, module in model.modules() if module.is_linear and ".layers." in name}
    found = adapted("finetune_vision_layers=False")
    assert found == {n for n in layers if re.search(r"language_model.*\.(self_attn|mlp)\.", n)}
    assert len(found) == 35 * 5 + 15 * 2  # 20 layers take another's keys and values
    named = "finetune_vision_layers=False, target_modules="
    assert adapted(f"{named}['q_proj', 'post']") == {n for n in found if n.endswith("q_proj")}
    assert targets(f"{named}'all-linear'") == "all-linear"


def test_only_a_file_loads_yaml(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL)

    def loaded(name: str) -> set[str]:
        return modules_after(
            f"from lora_profiler.cli.main import root; root.main([{name!r}, '--method', 'qlora',"
            " '-s', '64'], 'x', standalone_mode=False)"
        )

    with_name = loaded("meta-llama/Llama-3.2-1B")
    assert "yaml" not in with_name
    assert not {name for name in with_name if name.startswith("lora_profiler.trainer_files")}
    assert "yaml" in loaded(str(path))


VALUES: dict[str, list[Any]] = {
    "rank": [4, 16, 64],
    "alpha": [8.0, 16.0, 32.5],
    "dropout": [0.0, 0.05],
    "targets": ["all-linear", "default", "q_proj,v_proj", r"re:.*\.(q|v)_proj"],
    "modules_to_save": [None, "lm_head"],
    "use_rslora": [False, True],
    "adapter_dtype": ["float32", "bfloat16"],
    "batch_size": [1, 2, 8],
    "seq_len": [64, 1000],
    "packed": [None, 50],
    "accumulation": [1, 4],
    "dtype": ["bfloat16", "float32"],
    "precision": ["pure", "amp"],
    "double_quant": [True, False],
    "recipe": ["stock", "trl", "kbit"],
    "quant_type": ["nf4", "int8"],
    "use_dora": [False, True],
    "optimizer": ["adamw", "adamw_8bit", "sgd", "paged_adamw_8bit", "lion", "adamw_torch_4bit"],
    "optimizer_impl": ["foreach", "fused"],
    "checkpointing": [False, True],
    "eval_batch_size": [None, None, 4],
    "label_smoothing_factor": [0.0, 0.0, 0.1],
    "attention": ["auto", "flash_attention_2", "eager"],
    "use_reentrant": [False, True],
    "loss": ["plain", "chunked", "fused", "cce", "triton", "torchtune"],
    "kernels": ["transformers", "liger"],
    "lora_kernels": ["peft", "peft", "axolotl"],
}
LIKELY = {
    "peft": {"loss": "plain", "kernels": "transformers", "recipe": "stock",
        "adapter_dtype": "float32", "packed": None},
    "axolotl": {"precision": "amp", "dtype": "bfloat16", "recipe": "stock"},
    "trl": {"precision": "amp", "loss": find_stack("trl-sft").defaults["full"]["loss"],
        "recipe": "trl", "targets": "all-linear", "packed": None},
    "llamafactory": {"precision": "amp", "dtype": "bfloat16", "adapter_dtype": "float32",
        "loss": "plain", "kernels": "transformers", "recipe": "stock", "targets": "all-linear",
        "packed": None},
    "torchtune": {"precision": "pure", "dtype": "bfloat16", "adapter_dtype": "bfloat16",
        "kernels": "torchtune", "label_smoothing_factor": 0.0, "use_reentrant": False,
        "targets": "q_proj,v_proj,o_proj", "attention": "auto", "loss": "torchtune",
        "modules_to_save": None, "use_rslora": False, "use_dora": False, "double_quant": True,
        "quant_type": "nf4", "recipe": "stock", "packed": None},
}  # fmt: skip
"""What a framework's files can say at all is drawn most of the time."""


@pytest.mark.grid
@pytest.mark.parametrize("trainer", LIKELY)
def test_what_is_written_reads_as_the_same_question(trainer: str) -> None:
    """Over drawn questions; those that a file cannot say are refused with the options at fault."""
    random = Random(trainer)
    model = find_model("meta-llama/Llama-3.2-1B")
    kept = refused = 0
    for _ in range(120):
        options = {name: random.choice(values) for name, values in VALUES.items()}
        if random.random() < 0.8:
            options |= LIKELY[trainer]
        method = random.choice(["full", "lora", "qlora"])
        if method == "qlora" and options["recipe"] == "trl":
            options["adapter_dtype"] = "bfloat16"
        try:
            (setup,) = setups(model, {**DEFAULTS, **options, "methods": (method,)}, {"methods"})
        except LoraProfilerError:
            continue  # no question at all
        workload = Workload(model=model, setup=setup)
        name = f"file{suffix_of(trainer)}"
        try:
            text = written(trainer, workload, name)
        except LoraProfilerError as error:
            assert "cannot express --" in str(error), error
            refused += 1
            continue
        kept += 1
        if trainer == "peft":
            compile(text, name, "exec")
            document = parse_calls(text, name, None)
        else:
            document = parse(text, name, Path(), is_json=False)
        file = read_document(document, trainer)
        assert file.model == model.id
        given = {} if setup.packed is None else {"packed": setup.packed}
        own = {**file.completing(given), **given}
        (back,) = setups(model, {**DEFAULTS, **own}, set(own), None, find_stack(file.stack))
        assert back == replace(setup, loop_state=back.loop_state)  # which is the trainer's own
        assert recognised(document) is not None
        assert recognised(document).name == trainer  # type: ignore[union-attr]
        assert not file.not_modelled
    assert kept >= 15
    assert refused >= 5


def test_a_question_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    asked = ["Qwen/Qwen2-0.5B", "--trainer", "trl-sft", "--method", "lora", "-s", "300"]
    first = lora_profile(*asked, "--write", "trl", str(path), "--full", "--format", "json")
    assert first.exit_code == 0, first.stderr
    second = lora_profile(str(path), "--full", "--format", "json")
    one, other = (json.loads(done.stdout)["predictions"][0] for done in (first, second))
    assert one["setup"] == other["setup"]
    assert one["peak"] == other["peak"]
    again = lora_profile(*asked, "--write", "trl", str(path))
    assert again.exit_code == 2 and "exists" in again.stderr
    both = lora_profile("Qwen/Qwen2-0.5B", "--write", "trl", str(tmp_path / "both.yaml"))
    assert both.exit_code == 2 and "one run" in both.stderr
    unknown = lora_profile(*asked, "--write", "axolot", str(tmp_path / "x.yaml"))
    assert "Did you mean axolotl?" in unknown.stderr


def test_the_text_side_of_a_model_that_sees_is_a_bundled_one() -> None:
    """What is published of the whole, less the text side, is a vision side; of one generation they
    differ in the linear layers alone that lead to the width of the text."""
    sides = {}
    for name, row in vision_rows().items():
        if "text_side" not in row:
            continue
        model, whole = find_model(name, offline=True), row["num_parameters"]
        assert model.id == row["text_side"]
        assert model.text_side_of is not None and model.text_side_of.num_parameters == whole
        sides[name.removeprefix("qwen/")] = (
            whole - model.num_parameters,
            int(model.config["hidden_size"]),
        )
    pairs = {  # a smaller one, a larger one, and parameters for each that the text is wider
        ("qwen2-vl-2b", "qwen2-vl-7b"): 5120 + 1,
        ("qwen2.5-vl-3b", "qwen2.5-vl-7b"): 5120 + 1,
        ("qwen2.5-vl-32b", "qwen2.5-vl-72b"): 5120 + 1,
        ("qwen3-vl-2b", "qwen3-vl-4b"): 4 * (4 * 1024 + 1),
        ("qwen3-vl-30b-a3b", "qwen3-vl-8b"): 4 * (4 * 1152 + 1),
    }
    for names, each in pairs.items():
        (less, narrow), (more, wide) = (sides[f"{name}-instruct"] for name in names)
        assert more - less == each * (wide - narrow), names


def test_a_file_with_images_told_is_about_the_whole_model(tmp_path: Path) -> None:
    """Its targets are found by the names that the whole has; LLaMA-Factory's tower is frozen."""
    pattern = r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|q)_proj"
    path = tmp_path / "vl.yml"
    path.write_text(
        "base_model: Qwen/Qwen2-VL-2B-Instruct\nprocessor_type: AutoProcessor\n"
        "adapter: lora\nlora_r: 8\n"
        f"lora_target_modules: '{pattern}'\nsequence_len: 128\n"
    )
    told = ("--images", "1", "--image-size", "64x64")
    done = lora_profile(str(path), *told, "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "vision side" not in done.stderr
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["model"]["id"] == "Qwen/Qwen2-VL-2B-Instruct"
    layer = 8 * (1536 + 8960) + 8 * (1536 + 1536)  # up_proj and q_proj
    assert found["parameters"]["trainable"] == 28 * layer
    asked = {"model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "image_max_pixels": 4096}
    path.write_text(json.dumps(asked | {"stage": "sft", "finetuning_type": "lora"}))
    file = with_images(read_files([path]))
    assert file.options["freeze"] == "vision_tower,multi_modal_projector"
    path.write_text(json.dumps(asked | {"stage": "sft", "finetuning_type": "full", "bf16": True}))
    (narrow,) = [row for row in with_images(read_files([path])).keys if row.key == "freeze"]
    assert narrow.direction == "too high"  # frozen parts stay in bfloat16
    path.write_text(json.dumps(asked | {"stage": "sft", "freeze_vision_tower": False}))
    assert with_images(read_files([path])).options["freeze"] == "multi_modal_projector"
    path.write_text("base_model: Qwen/Qwen2-VL-2B-Instruct\nfreeze_mm_modules: true\n")
    assert with_images(read_files([path])).options["freeze"] == file.options["freeze"]


def test_an_answer_for_a_text_side_is_an_estimate_that_says_so() -> None:
    done = lora_profile("unsloth/Qwen2-VL-7B-Instruct", "--full", "--format", "json", "-s", "64")
    for prediction in json.loads(done.stdout)["predictions"]:
        assert prediction["exactness"] == "estimate"
        said = "\n".join(prediction["assumptions"])
        assert "the language model of unsloth/Qwen2-VL-7B-Instruct, sized as" in said


def test_what_vllm_takes_is_no_room_for_the_training(tmp_path: Path) -> None:
    path = tmp_path / "grpo.yaml"
    path.write_text(GRPO + "use_vllm: true\nvllm_gpu_memory_utilization: 0.25\n")

    def left(*words: str) -> int:
        told = ("--gpu", "custom:24GiB", "--world-size", "1", "--full", "--format", "json")
        done = lora_profile(str(path), *words, *told)
        (found,) = json.loads(done.stdout)["predictions"]
        return int(found["fit"]["usable_bytes"])

    assert left() == 18 * 2**30
    assert left("--vllm-share", "0.5") == 12 * 2**30
    assert "--vllm-share 0.25" in " ".join(lora_profile("read", str(path)).stdout.split())


def test_what_frameworks_take_by_themselves() -> None:
    for name, usual in (("axolotl", True), ("llamafactory", True), ("trl-sft", None)):
        assert find_stack(name).defaults["lora"].get("use_reentrant") is usual
    assert find_stack("unsloth").defaults["lora"]["offload_checkpoints"] is True


def test_a_loss_that_needs_a_head_in_16_bit_goes_with_shards_gathered_in_it() -> None:
    """The head is gathered in bfloat16, whatever its shards are kept in."""
    model = find_model("Qwen/Qwen3-0.6B")
    common = {"batch_size": 1, "seq_len": 256, "loss": "cce"}
    mixed = {"precision": "fsdp-mixed", "dtype": "float32", "sharding": "fsdp", "world_size": 4}
    kept = {
        predict(Workload(model=model, setup=TrainSetup(**common, **more))).saved_activation_bytes
        for more in ({}, mixed)  # type: ignore[dict-item]
    }
    assert len(kept) == 1
    with pytest.raises(UsageError, match="16-bit head"):
        predict(Workload(model=model, setup=TrainSetup(**common, dtype="float32")))
