"""What people type is understood as they mean it, and an ambiguous word is answered with choices."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import RESULTS
from benchmarks.public import threads
from commands import lora_profile
from lora_profiler import find_gpu, find_model
from lora_profiler.errors import LoraProfilerError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("h100", "h100_sxm_80gb"),
        ("H100", "h100_sxm_80gb"),
        ("4090", "rtx_4090"),
        ("colab", "t4"),
        ("Kaggle", "t4"),
        ("h200", "h200_sxm_141gb"),
        ("a100 80gb", "a100_sxm_80gb"),
    ],
)
def test_a_gpu_as_people_call_it(typed: str, key: str) -> None:
    assert find_gpu(typed).key == key


def test_a_name_of_several_gpus_is_answered_with_their_memory() -> None:
    with pytest.raises(
        LoraProfilerError, match=r"a100_sxm_40gb \(40 GB\), a100_sxm_80gb \(80 GB\)"
    ):
        find_gpu("a100")


@pytest.mark.parametrize(
    ("typed", "id"),
    [
        ("qwen2.5 7b", "Qwen/Qwen2.5-7B"),
        ("Qwen2.5  7B", "Qwen/Qwen2.5-7B"),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("llama 3.1 8b", "meta-llama/Llama-3.1-8B"),
        ("gemma3 4b", "google/gemma-3-4b-it"),
        ("qwen 3 8b", "Qwen/Qwen3-8B"),
        ("smol lm2 135m", "HuggingFaceTB/SmolLM2-135M"),
        ("https://huggingface.co/Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Mixtral-8x7B", "mistralai/Mixtral-8x7B-v0.1"),
    ],
)
def test_a_model_as_people_call_it(typed: str, id: str) -> None:
    assert find_model(typed, offline=True).id == id


@pytest.mark.parametrize("name", ["Llama-3.1", "gemma", "phi-3"])
def test_a_part_of_several_names_is_answered_with_those(name: str) -> None:
    with pytest.raises(LoraProfilerError, match="is ambiguous"):
        find_model(name, offline=True)


@pytest.mark.parametrize("user", dict.fromkeys(row["user"] for row in threads.rows("tries")))
def test_a_new_user_is_answered_at_the_second_try_at_most(user: str) -> None:
    """results/threads.md shows what each command answers."""
    tries = [row for row in threads.rows("tries") if row["user"] == user]
    assert len(tries) <= 2
    for row in tries:
        words = shlex.split(row["command"].replace("examples/", f"{EXAMPLES}/"))
        done = lora_profile(*words)
        assert threads.is_answered(row, done.exit_code, done.stdout), done.stderr


def test_several_gpus_that_are_too_few_need_more() -> None:
    words = "meta-llama/Llama-3.1-70B --method full --gpu 2x4090 --sharding fsdp"
    assert "needs more GPUs" in lora_profile(*words.split()).stdout


def test_threads_on_language_models_have_an_answer() -> None:
    """The committed page; `python -m benchmarks.public.threads --write` asks them all again."""
    of_language = (RESULTS / "threads.md").read_text("utf-8").split("\n## ")[1]
    assert "C 0" in of_language and "| C |" not in of_language


def test_words_of_several_models_are_answered_with_their_names() -> None:
    with pytest.raises(
        LoraProfilerError, match=r"is ambiguous; name one: .*meta-llama/Llama-3\.1-8B"
    ):
        find_model("llama 8b", offline=True)


def test_no_name_is_suggested_that_nobody_would_have_meant() -> None:
    with pytest.raises(LoraProfilerError) as refused:
        find_model("foo/bar", offline=True)
    assert "Did you mean" not in str(refused.value)


def predictions(*words: str) -> Sequence[dict[str, Any]]:
    done = lora_profile("predict", *words, "--full", "--format", "json")
    assert done.exit_code in (0, 1), done.stderr
    found: Sequence[dict[str, Any]] = json.loads(done.stdout)["predictions"]
    return found


def test_methods_in_a_list_and_in_capitals() -> None:
    found = predictions("gpt2", "--method", "LoRA,QLoRA", "-s", "64")
    assert [each["setup"]["method"] for each in found] == ["lora", "qlora"]
    assert found == predictions("gpt2", "--method", "lora", "--method", "qlora", "-s", "64")


def test_a_model_of_two_words_needs_no_quotes() -> None:
    (found,) = predictions("qwen2.5", "0.5b", "--method", "lora", "-s", "64")
    assert found["model"]["id"] == "Qwen/Qwen2.5-0.5B"
    assert len(predictions("gpt2", "distilgpt2", "--method", "lora", "-s", "64")) == 2


def test_several_gpus_are_a_world_of_ranks() -> None:
    (found,) = predictions("gpt2", "--method", "lora", "--gpu", "4xh100", "-s", "64")
    assert (found["setup"]["world_size"], found["setup"]["sharding"]) == (4, "fsdp")
    assert found["fit"]["gpu"] == "h100_sxm_80gb"
    words = ("--method", "lora", "--gpu", "4xh100", "-s", "64", "--sharding", "ddp")
    assert predictions("gpt2", *words)[0]["setup"]["sharding"] == "ddp"
    done = lora_profile("predict", "gpt2", "--gpu", "4xh100", "--world-size", "2")
    assert done.exit_code == 2
    assert "4 GPUs, and --world-size says 2" in done.stderr


def test_rows_and_a_mean_length_are_lengths() -> None:
    words = ("gpt2", "--method", "lora", "-b", "2", "--epochs", "3", "-s", "512")
    figures = predictions(*words, "--lengths", "mean=100,samples=500")
    for name in ("--rows", "--samples"):
        found = predictions(*words, name, "500", "--mean-length", "100")
        assert found == figures
    done = lora_profile("predict", "gpt2", "--rows", "500")
    assert done.exit_code == 2
    assert "Add --mean-length" in done.stderr
