"""The command that starts a trainer, typed behind `lora-profile`: answered from its arguments."""

import json
from pathlib import Path

import pytest

from commands import Run, lora_profile, refused
from lora_profiler.errors import UsageError
from lora_profiler.trainer_files.reading import read_command, read_files
from trainer_cases import STARTED, TEXTS

MODEL = "--model_name_or_path Qwen/Qwen2.5-0.5B"
TRL = f"{MODEL} --use_peft"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in STARTED:
        (tmp_path / name).write_text(TEXTS[name])
    (tmp_path / "other.py").write_text("print(1)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "direction"),
    [("data_parallel_replicate_dim=2", "too low"), ("custom_sharded_layers=[output]", "too high")],
)
def test_sharding_that_nothing_models_is_named_with_how_the_answer_errs(
    folder: Path, run: Run, key: str, direction: str
) -> None:
    words = ["tune", "run", "--nproc_per_node", "4", "lora_finetune_distributed"]
    said = " ".join(run(*words, "--config", str(folder / "tt.yaml"), key).stdout.split())
    assert "Estimate: " in said and " is not modelled" in said
    assert f"(the answer is {direction})" in said


def test_recipes_of_several_gpus_are_estimates(folder: Path, run: Run) -> None:
    """Whose sharding nothing was held against."""
    words = ["tune", "run", "--nproc_per_node", "4", "lora_finetune_distributed"]
    several = run(*words, "--config", str(folder / "tt.yaml")).stdout
    one = run(str(folder / "tt.yaml")).stdout
    assert [("Estimate: " in said) for said in (several, one)] == [True, False]


def test_a_script_that_reads_arguments_is_for_the_trainer_that_it_calls(folder: Path) -> None:
    own = "class OwnTrainer(Trainer):\n    pass\nOwnTrainer"
    for called, stack in (
        ("Trainer", "transformers"), (own, "transformers"), ("DPOTrainer", "trl-dpo"),
    ):  # fmt: skip
        (folder / "own_args.py").write_text(f"HfArgumentParser()\n{called}(model)\n")
        words = ["python", "own_args.py", *MODEL.split(), "--dataset_name", "x"]
        assert read_command(words, folder).stack == stack


def test_arguments_that_decide_what_trains_and_are_not_known_are_refused(folder: Path) -> None:
    """As of PEFT's examples/sft."""
    (folder / "own_args.py").write_text("HfArgumentParser()\nSFTTrainer(model)\n")
    words = ["python", "own_args.py", *MODEL.split(), "--use_peft_lora", "True"]
    with pytest.raises(UsageError, match="starts no known trainer"):
        read_command(words, folder)


@pytest.mark.parametrize("name", ["qlora.py", "sft_llama2.py"])
@pytest.mark.parametrize(
    "own",
    [
        "BitsAndBytesConfig(load_in_4bit=args.bits == 4)",
        "get_peft_model(model, config)",
        "LoraConfig(r=args.lora_r)",
    ],
)
def test_scripts_that_make_adapters_of_their_own_arguments_are_refused(
    folder: Path, name: str, own: str
) -> None:
    """As qlora.py, whose `bits` is 4 unless it is said: never full fine-tuning."""
    (folder / name).write_text(f"HfArgumentParser((ModelArguments,))\n{own}\nTrainer(model)\n")
    for arguments in (MODEL, f"{MODEL} --bits 4 --lora_r 64"):
        with pytest.raises(UsageError, match=f"rehearse --gpu t4 -- python {name}"):
            read_command(["python", name, *arguments.split()], folder)


def test_scripts_that_take_trl_s_own_arguments_are_read(folder: Path) -> None:
    """As TRL's examples, which hand ModelConfig on."""
    own = "TrlParser((ModelConfig,))\nBitsAndBytesConfig()\nSFTTrainer(model)\n"
    (folder / "sft_own.py").write_text(own)
    file = read_command(["python", "sft_own.py", *TRL.split()], folder)
    assert file.options["methods"] == ("lora",)


def test_a_refusal_of_a_file_names_its_keys(folder: Path) -> None:
    text = (
        "base_model: openai-community/gpt2\nmicro_batch_size: 1\nsequence_len: 64\n"
        "attn_implementation: flash_attention_2\n"
    )
    (folder / "fa.yml").write_text(text)
    said = lora_profile("fa.yml", "--gpu", "t4").stderr
    assert "Change attn_implementation in fa.yml" in said and "--attention" not in said


def test_several_gpus_take_what_the_trainer_takes(folder: Path, run: Run) -> None:
    """DistributedDataParallel where the file names no sharding, FSDP2 of torchtune's recipes."""
    (folder / "ax.yml").write_text("base_model: openai-community/gpt2\nmicro_batch_size: 1\n")
    for file, sharding in (("ax.yml", "ddp"), ("tt.yaml", "fsdp")):
        said = json.loads(run("--gpu", "2xl4", file, "--full", "--format", "json").stdout)
        setup = said["predictions"][0]["setup"]
        assert (setup["sharding"], setup["world_size"]) == (sharding, 2)


def test_files_named_in_a_file_are_looked_for_where_the_command_runs(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "ds").mkdir()
    (folder / "ds" / "own.json").write_text('{"zero_optimization": {"stage": 2}}')
    text = "base_model: openai-community/gpt2\nmicro_batch_size: 1\ndeepspeed: ds/own.json\n"
    (folder / "configs" / "ax.yml").write_text(text)
    assert read_files([folder / "configs" / "ax.yml"]).options["sharding"] == "zero2"


def test_a_file_without_keys_of_its_trainer_s_has_remedies_too(folder: Path, run: Run) -> None:
    text = (
        "model, tokenizer = FastLanguageModel.from_pretrained('unsloth/Meta-Llama-3.1-8B')\n"
        "model = FastLanguageModel.get_peft_model(model, r=16)\n"
        "SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=64))\n"
    )
    (folder / "nb.py").write_text(text)
    assert lora_profile("nb.py", "--gpu", "t4", "-s", "8192").exit_code == 1


def test_a_key_that_is_left_out_takes_what_is_under_it_along(folder: Path) -> None:
    words = ["tune", "run", "lora_finetune_single_device", "--config", "tt.yaml", "~loss"]
    assert "loss" not in read_command(words, folder).options


def test_typed_behind_the_name_alone_and_behind_the_verb(folder: Path, run: Run) -> None:
    command = f"trl sft {TRL} --max_length 512"
    before, after = ["--gpu", "t4", "--full", "--format", "json"], command.split()
    answers = [
        json.loads(run(*words).stdout)
        for words in ([*before, *after], ["predict", *before, *after], [*before, "--", *after])
    ]
    assert answers[0] == answers[1] == answers[2]
    asked = "Qwen/Qwen2.5-0.5B --trainer trl-sft --method lora --dtype float32 --rank 16 --alpha 32"
    same = run(*asked.split(), *["--dropout", "0.05", "--targets", "default", "-s", "512"], *before)
    peaks = [answer["predictions"][0]["peak"] for answer in (answers[0], json.loads(same.stdout))]
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize(
    ("command", "message"),
    (
        ("swift sft --model X", "starts no known trainer"),
        (f"python run_clm.py {MODEL} --dataset_name x", "starts no known trainer"),
        (f"python nash_md.py {MODEL}", "starts no known trainer"),
        (f"trl sft {MODEL} --load_in_4bit", "use_peft is off"),
        ("python other.py --x", "lora-profile rehearse --gpu t4 -- python other.py"),
        ("HF_HUB_OFFLINE=1 swift sft --model X", "--gpu t4 -- swift sft --model X"),
        ("python nowhere.py --x 1", "rehearse --gpu t4 -- python nowhere.py --x 1"),
        ("axolotl preprocess ax.yml", "axolotl preprocess trains nothing"),
        ("axolotl merge-lora ax.yml", "axolotl merge-lora trains nothing"),
        ("llamafactory-cli export lf.yaml", "llamafactory-cli export trains nothing"),
        ("tune run generate --config tt.yaml", "tune run generate trains nothing"),
        (
            "tune run --nproc_per_node 2 eleuther_eval --config tt.yaml",
            "tune run eleuther_eval trains nothing",
        ),
        (f"trl sft {TRL} --gpu t4", "--gpu would go to TRL"),
        (f"trl sft {TRL} -b 4", "-b would go to TRL"),
        ("axolotl train nowhere.yml", "there is no file nowhere.yml"),
        ("tune run lora_finetune_single_device --config llama3/8B_lora", "tune cp llama3/8B_lora"),
        ("tune run lora_finetune_single_device", "Add --config FILE"),
        ("llamafactory-cli train lf.yaml batch", "'batch' is no KEY=VALUE"),
    ),
)
def test_what_cannot_be_read_is_refused_with_what_to_do(
    folder: Path, run: Run, command: str, message: str
) -> None:
    assert message in refused(run(*command.split()))


def test_a_model_is_no_command(run: Run) -> None:
    assert run("gpt2", "--method", "lora", "-s", "512").exit_code == 0
