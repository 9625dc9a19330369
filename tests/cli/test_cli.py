"""The command line as a user meets it: answers, exit codes, bad input, output files, terminals,
completion."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import commands
import families
from commands import OFFLINE, lora_profile
from golden_files import Golden
from lora_profiler import setup_for
from lora_profiler.report.json.predict import predict_schema
from lora_profiler.units import GIB, short_in_unit


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lora_profiler", *arguments],
        capture_output=True,
        text=True,
        env=OFFLINE | environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def answer(*arguments: str, code: int = 0) -> str:
    done = lora_profile(*arguments)
    assert done.exit_code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def refusal(*arguments: str, code: int) -> str:
    done = lora_profile(*arguments)
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    return done.stderr


def predictions(*arguments: str) -> list[dict[str, Any]]:
    document = json.loads(answer(*arguments, "--full", "--format", "json"))
    jsonschema.validate(document, predict_schema())
    found: list[dict[str, Any]] = document["predictions"]
    return found


def test_the_main_job() -> None:
    text = answer("meta-llama/Llama-3.1-8B", "--rank", "16", "--detail", "--trainer", "bare")
    assert text.startswith("meta-llama/Llama-3.1-8B: llama, 32 layers, 8.03 B parameters\n")
    for part in (
        *("full", "LoRA r16", "41,943,040", "99.48 %", "persistent, GiB", "optimizer states"),
        *("saved for backward, GiB", "start of backward, in the loss", "TFLOP"),
        *("what the peak is made of, GiB", "lowers the peak most"),
        "LoRA keeps more for backward than full",
    ):
        assert part in text
    assert re.search(r"optimizer step +\* 74\.79 ", text)
    assert re.search(r"start of backward, in the loss +60\.13 +\* 36\.40 ", text)
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [["gpt2"], ["--rank", "8", "gpt2"], ["gpt2", "-r", "4"], ["-b", "2", "gpt2", "--explain"]],
)
def test_predict_may_go_unnamed(arguments: list[str]) -> None:
    assert answer(*arguments, "-s", "128") == answer("predict", *arguments, "-s", "128")


def test_one_prediction_a_model_and_method_in_the_order_given() -> None:
    methods = ("--method", "qlora", "--method", "full")
    found = predictions("gpt2", "Qwen/Qwen2.5-0.5B", *methods, "-s", "64")
    asked = [(p["model"]["id"], p["setup"]["method"]) for p in found]
    models = ("openai-community/gpt2", "Qwen/Qwen2.5-0.5B")
    assert asked == [(model, method) for model in models for method in ("qlora", "full")]


def test_rslora_is_another_scale_and_costs_nothing() -> None:
    """PEFT multiplies by a number made at the start, whichever formula it comes from."""
    adapter = ("gpt2", "--method", "lora", "-s", "64", "--engine", "analytic")
    (plain,), (rslora,) = predictions(*adapter), predictions(*adapter, "--use-rslora")
    assert rslora.pop("setup") == {**plain.pop("setup"), "use_rslora": True}
    assert rslora == plain
    assert "float32 adapters, rsLoRA\n" in answer(*adapter, "--use-rslora", "--detail")


def test_every_option_reaches_the_setup() -> None:
    options = (
        "--method qlora -r 4 --alpha 9 --dropout 0.1 --targets c_attn,mlp.c_fc -b 3 -s 96"
        " --layers-to-transform 0,2-4 --modules-to-save ln_f --use-rslora --adapter-dtype bfloat16"
        " --use-dora --quant-type int8"
        " --accumulation 2 --dtype float16 --precision amp --no-double-quant --recipe trl"
        " --optimizer sgd --optimizer-impl forloop --checkpointing --attention eager --device cuda"
        " --loss plain --world-size 4 --sharding ddp --kernels transformers --padding 0.25"
        " --hold-outputs --label-smoothing-factor 0.1 --eval-batch-size 8"
        " --reduce-bucket-size 5000 --use-reentrant --loop-state trl --transformers 5"
        " --generation-batch-size 6 --max-completion-length 32 --optimizer-rank 64"
        " --image-size 640x480 --no-use-orig-params"
        " --engine analytic --offline"
    )
    (found,) = predictions("gpt2", *options.split())
    assert found["setup"] == {
        "method": "qlora", "rank": 4, "alpha": 9.0, "dropout": 0.1,
        "targets": ["c_attn", "mlp.c_fc"], "layers_to_transform": [0, 2, 3, 4],
        "modules_to_save": ["ln_f"], "use_rslora": True, "adapter_dtype": "bfloat16",
        "double_quant": False, "recipe": "trl", "batch_size": 3, "seq_len": 96, "accumulation": 2,
        "dtype": "float16", "precision": "amp", "optimizer": "sgd", "optimizer_impl": "forloop",
        "checkpointing": True, "attention": "eager", "device": "cuda", "loss": "plain",
        "world_size": 4, "sharding": "ddp", "packed": None, "kernels": "transformers",
        "hold_outputs": True, "label_smoothing_factor": 0.1, "padding": 0.25, "eval_batch_size": 8,
        "reduce_bucket_size": 5000, "use_reentrant": True, "loop_state": "trl",
        "generation_batch_size": 6, "max_completion_length": 32, "optimizer_rank": 64,
        "images": None, "image_size": "640x480", "transformers": "5", "use_dora": True,
        "fast_lora": False, "quant_type": "int8", "peft_type": "lora", "feedforward_modules": [],
        "oft_block_size": 32, "lora_kernels": "peft", "optimizer_in_bwd": False,
        "offload_checkpoints": False, "freeze": [], "qat": "none", "qat_group_size": 32,
        "offload_params": False, "offload_activations": False, "offload_optimizer_device": "none",
        "offload_param_device": "none", "offload_embedding": False, "use_orig_params": False,
        "beta": 0.0, "use_vllm": False, "quantize_experts": False, "target_parameters": [],
        "peft_arg": [],
        "context_parallel_size": 1,
    }  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize(
    ("targets", "trained"),
    [
        ("all-linear", 4_884_480),
        ("default", 921_600),
        ("q_proj,v_proj", 921_600),
        ("attention", 1_843_200),
        (r"re:.*\.(q|v)_proj", 921_600),
    ],
)
def test_targets(targets: str, trained: int) -> None:
    asked = ("--method", "lora", "--targets", targets, "-s", "64")
    (found,) = predictions("HuggingFaceTB/SmolLM2-135M", *asked)
    assert found["parameters"]["trainable"] == trained


def test_the_trl_recipe_brings_its_adapter_dtype() -> None:
    methods = ("--method", "full", "--method", "qlora")
    full, qlora = predictions("gpt2", *methods, "--recipe", "trl", "-s", "64")
    assert qlora["setup"]["adapter_dtype"] == "bfloat16"
    assert full["setup"]["adapter_dtype"] is None


def test_csv_md_and_per_layer() -> None:
    def rows(*more: str) -> list[dict[str, str]]:
        text = answer("gpt2", "-s", "64", "--format", "csv", *more)
        return list(csv.DictReader(io.StringIO(text)))

    assert [row["setup.method"] for row in rows()] == ["full", "lora"]
    layers = [row for row in rows("--per-layer") if row["method"] == "lora"]
    assert sum(int(row["num_parameters"]) for row in layers) == 124_439_808
    assert answer("gpt2", "-s", "64", "--format", "md").startswith(
        "**LoRA r16 needs an 8 GB GPU**; "
    )
    table = answer("meta-llama/Llama-3.1-8B", "-r", "8", "--per-layer")
    line = next(line for line in table.splitlines() if "self_attn.q_proj" in line)
    numbers = "x32 4096 x 4096 16,777,216 16,777,216 65,536 99.61 %"
    assert " ".join(line.split()) == f"model.layers.0-31.self_attn.q_proj {numbers}"


@pytest.mark.grid
@pytest.mark.parametrize(
    ("arguments", "code", "verdicts"),
    [
        (["gpt2", "-s", "512", "--gpu", "rtx_4090"], 0, ["fits", "fits"]),
        (["meta-llama/Llama-3.1-8B", "--gpu", "h100_sxm_80gb"], 0, ["fits", "fits"]),
        (["meta-llama/Llama-3.1-8B", "--gpu", "custom:77GiB", "--method", "full"], 1, ["tight"]),
        (["meta-llama/Llama-3.1-8B", "--gpu", "custom:77GiB"], 0, ["tight", "fits"]),
        (
            [
                "meta-llama/Llama-3.1-8B",
                "--gpu",
                "custom:77GiB",
                "--method",
                "full",
                "--allow-tight",
            ],
            0,
            ["tight"],
        ),
        (["gpt2", "-s", "512", "--gpu", "custom:64MiB", "--allow-tight"], 1, ["does_not_fit"] * 2),
        (["meta-llama/Llama-3.1-8B", "--gpu", "rtx_4090"], 1, ["does_not_fit", "does_not_fit"]),
        (["gpt2", "-s", "512", "--gpu", "custom:4GiB"], 0, ["fits", "fits"]),
        (["gpt2", "-s", "512", "--gpu", "custom:64MiB"], 1, ["does_not_fit", "does_not_fit"]),
        (
            ["meta-llama/Llama-3.1-8B", "gpt2", "-s", "512", "--gpu", "l4", "--method", "full"],
            0,
            ["does_not_fit", "fits"],
        ),
        (
            ["meta-llama/Llama-3.1-8B", "--gpu", "rtx_4090", "--trainer", "guide"],
            0,
            ["does_not_fit", "fits"],
        ),
    ],
)
def test_exit_code_tells_whether_a_method_fits(
    arguments: list[str], code: int, verdicts: list[str]
) -> None:
    trainer = [] if "--trainer" in arguments else ["--trainer", "bare"]
    document = json.loads(answer(*arguments, *trainer, "--full", "--format", "json", code=code))
    assert [p["fit"]["verdict"] for p in document["predictions"]] == verdicts


@pytest.mark.parametrize(
    ("card", "code", "words"),
    [
        ("custom:90GiB", 0, "fits a 90 GiB GPU: {peak} + up to {rest} overhead, {left} free"),
        (
            "custom:77GiB",
            1,
            "may run out of memory on a 77 GiB GPU: {least_short} to {most_short} of 77.0 GiB",
        ),
        ("custom:70GiB", 1, "does not fit a 70 GiB GPU: needs at least {least}, the GPU has 70.0"),
        ("rtx_4090", 1, "does not fit an RTX 4090: needs at least {least}, the GPU has 23.5"),
    ],
)
def test_text_and_json_rest_on_the_same_reserve(card: str, code: int, words: str) -> None:
    """Of a run that does not fit the least, by the card: no fragmentation, as on any other."""
    asked = ("meta-llama/Llama-3.1-8B", "--method", "full", "--gpu", card, "--trainer", "bare")
    found = json.loads(answer(*asked, "--full", "--format", "json", code=code))["predictions"][0]
    fit, peak = found["fit"], found["peak"]["total_bytes"]
    least = fit["reserve"]["least_context_bytes"] + fit["reserve"]["workspace_bytes"]
    if fit["verdict"] == "does_not_fit":
        assert fit["reserve_bytes"] == least
    assert fit["usable_bytes"] == peak + fit["reserve_bytes"] + fit["headroom_bytes"]
    sizes = {"peak": peak, "left": fit["headroom_bytes"], "least": peak + least}
    numbers = {name: f"{short_in_unit(size, GIB)} GiB" for name, size in sizes.items()}
    plain = {"rest": fit["reserve_bytes"], "least_short": peak + least}
    plain["most_short"] = peak + fit["reserve_bytes"]
    numbers |= {name: short_in_unit(size, GIB) for name, size in plain.items()}
    said = words.format(**numbers)
    assert f"Full {said}" in " ".join(answer(*asked, code=code).split())


@pytest.mark.usefixtures("no_estimates")
def test_fit_that_nobody_can_tell_is_no_yes() -> None:
    question = ("--method", "lora", "--gpu", "h100_sxm_80gb", "--engine", "analytic")
    document = json.loads(
        answer("microsoft/phi-2", *question, "--full", "--format", "json", code=1)
    )
    assert document["predictions"][0]["fit"] is None


MISTRAL = (
    "mistralai/Mistral-7B-v0.1", "-b", "4", "-s", "4096", "--checkpointing", "--targets",
    "attention", "--gpu", "a100_sxm_80gb",
)  # fmt: skip
"""As two public rows have it: 5.35 s in full, 4.93 s with LoRA."""


def test_a_card_brings_the_time_of_a_step() -> None:
    text = answer(*MISTRAL, "--detail")
    for part in (
        "One step on NVIDIA A100 SXM4 80GB, fitted to measurements of this GPU",
        *("at least", "at most", "tokens a second", "MFU", "where the time goes"),
        *("matrix products", "optimizer update", "LoRA r16 makes ", "of full's FLOPs in"),
        "Step times, fitted to measurements of this GPU: ",
        "Nearest public measurement: mistralai/Mistral-7B-v0.1, LoRA, 16,384 tokens",
    ):
        assert part in " ".join(text.split()), part
    full, lora = (p["step_time"] for p in predictions(*MISTRAL))
    assert f"{full['seconds']:.2f} s" in text and f"{lora['tokens_per_second']:,.0f}/s" in text
    for step in (full, lora):
        assert step["low_seconds"] < step["seconds"] < step["high_seconds"]
        assert step["tokens_per_second"] == pytest.approx(16384 / step["seconds"])
        assert sum(step["part_seconds"].values()) == pytest.approx(step["seconds"])
        assert step["calibrated"] and step["basis"] == "fitted"
        measured = step["evidence"]["measured_seconds"]  # by other versions, and with clipping
        assert (step["evidence"]["model"], step["evidence"]["tokens"]) == (MISTRAL[0], 16384)
        assert step["low_seconds"] < measured < step["high_seconds"]
        assert step["evidence"]["url"].startswith("https://github.com/")
    assert full["against_full"] is None
    gap = lora["against_full"]
    assert gap["seconds_ratio"] == pytest.approx(lora["seconds"] / full["seconds"])
    assert sum(gap["cause_seconds"].values()) == pytest.approx(gap["gap_seconds"])


def test_a_peak_comes_with_an_interval_and_the_nearest_measured_one() -> None:
    full, lora = predictions(*MISTRAL)
    for found in (full, lora):
        evidence, peak = found["evidence"], found["peak"]["total_bytes"]
        nearest = evidence["nearest"]
        assert evidence["low_bytes"] < peak < evidence["high_bytes"]
        assert (nearest["model"], nearest["method"]) == (MISTRAL[0], found["setup"]["method"])
        error = nearest["predicted_bytes"] / nearest["measured_bytes"] - 1
        assert nearest["error"] == pytest.approx(error)
        repository = "https://github.com/foundation-model-stack/fms-acceleration/blob/"
        assert nearest["url"].startswith(repository)
    text = " ".join(answer(*MISTRAL, "--detail").split())
    assert "Expect full " in text and "the trainer" in text and "are not given." in text
    assert "LoRA r16, one by one: " in text
    row = "mistralai/Mistral-7B-v0.1, LoRA, 4 x 4,096 tokens with checkpointing"
    assert f"Nearest public measurement: {row}" in text
    assert all(p["evidence"] is None for p in predictions("gpt2", "-s", "128", "--device", "cpu"))
    header, row = answer("gpt2", "-s", "128", "--method", "lora", "--format", "csv").splitlines()
    assert "evidence.nearest.url" in header and "https://github.com/" in row


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("gpt2 -s 512 --gpu custom:24GiB", "the time of a step on custom:24GiB is not known"),
        ("allenai/OLMoE-1B-7B-0924 --gpu h100_sxm_80gb --method lora", "--engine traced"),
        ("gpt2 -s 512 --gpu l4 --optimizer adafactor", "adafactor's update is not known"),
    ],
)
def test_a_time_that_nobody_knows_is_said_and_not_made_up(asked: str, words: str) -> None:
    arguments = asked.split()
    assert words in " ".join(answer(*arguments, "--detail").split())
    for prediction in predictions(*arguments):
        assert prediction["step_time"] is None
        assert words in str(prediction["step_time_refusal"])


def test_without_a_card_there_is_no_time() -> None:
    for prediction in predictions("gpt2", "-s", "512"):
        assert prediction["step_time"] is None and prediction["step_time_refusal"] is None
    assert "One step" not in answer("gpt2", "-s", "512", "--detail")


def test_bad_input_gets_a_clear_error(golden_file: Golden) -> None:
    golden_file.compare_answers(
        "refusals-predict", lambda words: commands.refused(lora_profile(*shlex.split(words)))
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["gpt2", "-s", "64"], 0),
        (["meta-llama/Llama-3.1-8B", "--gpu", "rtx_4090", "--method", "full"], 1),
        (["gpt2", "--rank", "0"], 2),
        (["nobody/nothing"], 3),
    ],
)
def test_a_process_answers_as_its_main_function_does(arguments: list[str], code: int) -> None:
    """All others here run in the tests' own process."""
    done = process(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == lora_profile(*arguments)
    assert done.returncode == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"llama"',
        '{"model_type": 3}',
        '{"model_type": "lama", "hidden_size": 4}',
        '{"model_type": "llama", "hidden_size": "wide"}',
        '{"model_type": "llama", "hidden_size": -64, "num_hidden_layers": 2}',
        "\x00\x01\x02",
    ],
)
def test_a_config_that_is_none_is_a_model_that_cannot_be_had(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    refusal(str(path), code=3)


def test_a_local_config_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(families.TINY["llama"]))
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        (found,) = predictions(name, "--method", "full", "-s", "24", "-b", "2")
        assert found["parameters"]["base"] == 79_152


def test_a_rank_that_outweighs_its_layers_is_a_warning() -> None:
    done = lora_profile("gpt2", "-s", "64", "--rank", "2000", "--full", "--format", "json")
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: rank 2000 is larger than 48 of the adapted layers")
    json.loads(done.stdout)
    assert lora_profile("gpt2", "-s", "64", "--rank", "8").stderr == ""


def test_adapters_on_the_routers_of_llama_4_are_a_warning_since_peft_fails() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        hidden_size=32, intermediate_size=32, intermediate_size_mlp=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_local_experts=2,
        vocab_size=32, pad_token_id=0,
    )  # fmt: skip
    ids = torch.ones(1, 4, dtype=torch.long)
    with torch.random.fork_rng():
        all_linear = get_peft_model(
            Llama4ForCausalLM(config), LoraConfig(target_modules="all-linear")
        )
        attention = get_peft_model(
            Llama4ForCausalLM(config), LoraConfig(target_modules=["q_proj", "v_proj"])
        )
    with pytest.raises(AttributeError, match="tuple"):
        all_linear(input_ids=ids)
    attention(input_ids=ids)
    said = lora_profile("meta-llama/Llama-4-Scout-17B-16E-Instruct", "--gpu", "8xh100").stderr
    assert "fail in the first step" in said
    some = ("--targets", "q_proj,v_proj")
    assert not lora_profile("meta-llama/Llama-4-Scout-17B-16E-Instruct", *some).stderr


def test_a_sequence_longer_than_the_model_was_made_for_is_a_warning() -> None:
    done = lora_profile("gpt2", "-s", "2048")
    assert done.exit_code == 0
    said = "openai-community/gpt2's context length is 1,024 tokens\n  This run's longest"
    assert done.stderr == f"warning: {said} sequence has 2,048.\n"
    of_data = lora_profile("gpt2", "--lengths", "mean=2000")
    assert "longest sequence has 38,050" in of_data.stderr and "--seq-len" not in of_data.stderr


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [("gpt2", 1024), ("google-bert/bert-base-uncased", 512), ("meta-llama/Llama-3.2-1B", 2048)],
)
def test_a_length_that_is_not_given_is_at_most_the_model_s_context(asked: str, tokens: int) -> None:
    assert setup_for(asked).seq_len == setup_for(asked, "transformers").seq_len == tokens
    assert setup_for(asked, seq_len=4096).seq_len == 4096


@pytest.mark.parametrize("trainers", [(), ("--trainer", "all"), ("--trainer", "trl-sft")])
def test_what_is_left_out_of_a_vision_language_model_is_said(trainers: tuple[str, ...]) -> None:
    asked = ("Qwen/Qwen2.5-VL-7B-Instruct", "--method", "lora", "--gpu", "rtx_4090", *trainers)
    said = " ".join(lora_profile(*asked).stdout.split())
    assert "the language model of Qwen/Qwen2.5-VL-7B-Instruct, sized as Qwen/Qwen2.5-7B." in said
    assert "vision tower of 676.6 M parameters is left out; --images adds it." in said


def test_a_length_in_thousands_is_one_of_1024() -> None:
    said = lora_profile("Qwen/Qwen2.5-7B", "--method", "lora", "-s", "32k").stdout
    assert said == lora_profile("Qwen/Qwen2.5-7B", "--method", "lora", "-s", "32768").stdout
    assert "--seq-len: '32kk' is not a valid integer" in lora_profile("gpt2", "-s", "32kk").stderr


def test_a_trainer_s_own_targets_are_no_warning() -> None:
    asked = ("microsoft/Phi-3.5-mini-instruct", "--trainer", "unsloth", "--method", "lora")
    assert lora_profile(*asked).stderr == ""
    assert "q_proj" in lora_profile(*asked, "--targets", "q_proj,qkv_proj").stderr


def test_a_target_among_others_that_matches_nothing_is_a_warning() -> None:
    done = lora_profile("meta-llama/Llama-3.1-8B", "--targets", "q_prj,v_proj")
    assert done.exit_code == 0
    assert done.stderr.startswith(
        "warning: no module of meta-llama/Llama-3.1-8B matches q_prj\n  PEFT ignores it.\n"
        "  Did you mean q_proj"
    )


def test_output_goes_to_a_new_file_only(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    arguments = ["gpt2", "-s", "64", "--full", "--format", "json", "-o", str(path)]
    done = lora_profile(*arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"Wrote {path}.\n"
    first = path.read_text()
    assert json.loads(first)["schema_version"] == "1.0"
    assert "exists" in refusal(*arguments, code=2)
    assert lora_profile(*arguments, "-b", "2", "--force").exit_code == 0
    assert path.read_text() != first


def test_models() -> None:
    assert len(answer("models").splitlines()) == 263
    assert all("qwen3" in line.lower() for line in answer("models", "qwen3").splitlines()[1:])
    found = json.loads(answer("models", "llama-3.1-8b", "--format", "json"))
    assert found["schema_version"] == "1.0"
    assert {m["num_parameters"] for m in found["models"]} == {8_030_261_248}
    assert all(m["source"] for m in found["models"])
    assert len(list(csv.DictReader(io.StringIO(answer("models", "--format", "csv"))))) == 262


def test_gpus() -> None:
    assert len(answer("gpus").splitlines()) == 85
    found = json.loads(answer("gpus", "4090", "--format", "json"))["gpus"]
    assert [g["key"] for g in found] == ["rtx_4090"]
    assert found[0]["usable_bytes"] == 25_232_932_864
    assert re.search(r"rtx_a5000 .* ~\d", answer("gpus", "a5000"))


def test_a_filter_that_finds_nothing_says_so() -> None:
    done = lora_profile("gpus", "4900", "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["gpus"] == []
    assert "no bundled GPU is called '4900'" in done.stderr
    assert not lora_profile("gpus", "4900").stdout


def test_doctor_never_prints_a_token(tmp_path: Path) -> None:
    secret = "hf_" + "x" * 30
    (tmp_path / "torch.py").write_text("raise ImportError('no torch, to be quick')\n")
    quick = {
        "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))),
        "HF_HOME": str(tmp_path),
    }
    done = process("doctor", HF_TOKEN=secret, HF_ENDPOINT="https://user:word@example.org", **quick)
    assert done.returncode == 0
    assert secret not in done.stdout + done.stderr
    assert "user:word" not in done.stdout
    assert re.search(r"token +set by HF_TOKEN", done.stdout)
    assert "HF_HUB_OFFLINE is set" in done.stdout
    (tmp_path / "token").write_text(secret)
    document = json.loads(process("doctor", "--format", "json", **quick).stdout)
    assert document["hub"]["token"] == "set by a token file"
    assert "free disk there" in document["measuring"]
    assert document["packages"]["click"][0].isdigit()
    assert secret not in str(document)


@pytest.mark.parametrize(
    "words", ["", "-h", "--help", "predict -h", "models --help", "gpus -h", "doctor -h"]
)
def test_help(words: str) -> None:
    text = answer(*words.split())
    assert text.startswith("lora-profile")
    assert words in ("predict -h", "doctor -h") or "Examples:\n  lora-profile " in text


def test_version() -> None:
    from lora_profiler import __version__

    assert answer("--version") == f"lora-profile, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lora-profile mod", "models"),
        ("lora-profile meta-llama/Llama-3.1-8", "meta-llama/Llama-3.1-8B"),
        ("lora-profile gpt2 --ran", "--rank"),
        ("lora-profile predict gpt2 --method ql", "qlora"),
        ("lora-profile gpt2 --gpu rtx_40", "rtx_4090"),
        ("lora-profile ben", "bench"),
        ("lora-profile bench gpt2 --budg", "--budget"),
        ("lora-profile bench meta-llama/Llama-3.1-8", "meta-llama/Llama-3.1-8B"),
        ("lora-profile bench gpt2 --rerun oo", "oom"),
        ("lora-profile bench --suite ti", "tiny"),
    ],
)
def test_shell_completion(words: str, expected: str) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    asked = {"_LORA_PROFILE_COMPLETE": "bash_complete", **typed}
    done = commands.in_this_process(environment=OFFLINE | asked)
    assert expected in [line.partition(",")[2] for line in done.stdout.splitlines()]
    if expected == "models":
        assert process(**asked).stdout == done.stdout


def on_a_terminal(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "lora_profiler", *arguments]
    return commands.on_a_terminal(command, columns=80, environment=OFFLINE, **environment)


def test_a_terminal_gets_colour_unless_it_is_unwanted() -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][;m]")
    words = ("gpt2", "-s", "64", "--gpu", "rtx_4090")
    assert colour.search(on_a_terminal(*words))
    plain = on_a_terminal(*words, NO_COLOR="1")
    assert not colour.search(plain)
    assert "\x1b" not in on_a_terminal(*words, TERM="dumb")
    narrow = on_a_terminal("gpt2", "-s", "64", "--per-layer", NO_COLOR="1", TERM="dumb")
    assert max(len(line.rstrip("\r")) for line in narrow.split("\n")) <= 80
    assert "…" not in narrow


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m lora_profiler models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=OFFLINE)
    assert done.stdout.startswith("model ")
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["gpt2 -s 64 --format json", "models", "predict --help"])
def test_a_reader_that_left_is_told_from_a_model_that_does_not_fit(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lora_profiler", *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=OFFLINE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


FULL = "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("models >/dev/full", 2, FULL),
        ("--help >/dev/full", 2, FULL),
        ("gpt2 -s 64 >&-", 0, ""),
        ("gpt2 -s 64 --gpu custom:1MiB >&-", 1, ""),
    ],
)
def test_output_that_finds_no_room(words: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m lora_profiler {words}"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, env=OFFLINE)
    assert (done.returncode, done.stderr) == (code, said)


NEED_TORCH = ("verify small", "calibrate", "compile gpt2", "bench gpt2", "gpt2 --engine traced")


@pytest.mark.parametrize("words", NEED_TORCH)
def test_without_torch_a_command_that_needs_it_names_what_brings_it(words: str) -> None:
    without = (
        "import sys; sys.modules['torch'] = None; import lora_profiler.__main__ as m; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, *words.split()], capture_output=True, text=True, env=OFFLINE
    )
    assert done.returncode == 4
    assert done.stderr.endswith(
        "needs torch\n  Install them: pip install 'lora-profiler[measure]'.\n"
    )
    assert "Traceback" not in done.stderr


def test_adapters_are_called_by_their_method_and_no_option_is_made_up(
    run: commands.Run, tmp_path: Path
) -> None:
    small = ("HuggingFaceTB/SmolLM2-135M", "--peft-type", "ia3")
    asked = run(
        *small, "--engine", "analytic", "--gpu", "t4", "--trainer", "bare", "--method", "lora"
    )
    assert "Using float16 (IA3)." in asked.stderr
    path = str(tmp_path / "run.yaml")
    written = run(*small, "--method", "lora", "--write", "trl", path)
    assert "TRL configs cannot express --peft-type ia3" in written.stderr
    pattern = 'rank_pattern={"q_proj":8}'
    own = run(small[0], "--method", "lora", "--peft-arg", pattern, "--write", "trl", path)
    assert f"cannot express --peft-arg {pattern}\n" in own.stderr
    crossed = run(
        "crossover", *small, "--engine", "analytic", "--method", "full", "--method", "lora"
    )
    assert "IA3 needs less memory than full" in crossed.stdout
    assert "Highest rank" not in crossed.stdout
    planned = run("plan", *small, "--gpus", "t4", "--tokens", "1e6")
    words = " ".join(planned.stdout.split())
    assert "Searched full, IA3, IA3 on nf4. " in words
    assert "IA3 is not compared: no compiled profile answers" in words
