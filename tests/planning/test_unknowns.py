"""What a question leaves open: each unknown is worth what the package itself predicts of its
alternatives, nothing of which it is said that it is not given is called exact, and the intervals
hold what the docs say of public rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.public import peak_intervals
from benchmarks.public.grade import headline
from lora_profiler import Workload, find_model, predict
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.facts.stacks import (
    Trainer,
    as_guided,
    find_stack,
    guided_trainers,
    trainers,
    versions,
)
from lora_profiler.planning.answers import answers
from lora_profiler.planning.setups import DEFAULTS, setup_for, workloads
from lora_profiler.planning.unknowns import WHO, peak_interval, spread, unknowns
from lora_profiler.question.workload import OPTIONS
from lora_profiler.report.answer.verdicts import interval_lines, version_words
from tests.commands import Run

LLAMA = find_model("meta-llama/Llama-3.1-8B")
SIZES: dict[str, Any] = {"batch_size": 2, "seq_len": 2048, "checkpointing": True}
RESULTS: dict[str, Any] = json.loads(
    Path("benchmarks/results/peak_intervals.json").read_text("utf-8")
)


def asked(trainer: str | None, method: Any, **options: Any) -> tuple[Workload, Trainer | None]:
    every = SIZES | options
    setup = setup_for(LLAMA, trainer or "bare", method, **every)
    named = frozenset(every)
    whose = None
    if trainer is not None:
        whose = Trainer(stack=find_stack(trainer), explicit=named, is_pinned="@" in trainer)
    return Workload(model=LLAMA, setup=setup), whose


def told(trainer: str | None, method: Any, **options: Any) -> Any:
    workload, whose = asked(trainer, method, **options)
    (answer,) = answers([workload], trainer=whose, given={*SIZES, *options})
    return answer


# --- what is open ---------------------------------------------------------------------------------


def test_a_plain_question_names_who_trains_and_the_recipe() -> None:
    answer = told(None, "qlora")
    found = {each.what for each in answer.likely.unknowns}
    assert {"the trainer", "the k-bit recipe", "the adapted layers"} <= found
    (line,) = interval_lines([answer])
    assert line.startswith("Expect ") and line.endswith(" more are not given.")
    assert "the trainer" in line and "the k-bit recipe" in line


def test_what_is_given_is_not_named() -> None:
    without = {each.what for each in told(None, "qlora").likely.unknowns}
    given = told(None, "qlora", recipe="stock", targets="all-linear", double_quant=True)
    assert without - {each.what for each in given.likely.unknowns} == {
        "the k-bit recipe",
        "the adapted layers",
        "double quantisation",
    }
    assert given.likely.high_bytes < told(None, "qlora").likely.high_bytes


def test_a_run_that_options_describe_has_the_error_of_described_rows_alone() -> None:
    said = {
        "recipe": "kbit-norms", "targets": "all-linear", "dropout": 0.0, "double_quant": True,
        "padding": 0.0, "attention": "flash_attention_2", "precision": "amp", "dtype": "bfloat16",
        "kernels": "transformers", "loss": "plain",
    }  # fmt: skip
    answer = told("transformers@4.48", "qlora", **said)
    likely = answer.likely
    assert likely.unknowns == () and likely.described == "nearly"
    assert interval_lines([answer])[0].endswith("the options say all that ran.")
    width = likely.high_bytes / likely.low_bytes
    half = likely.half_width
    assert width == pytest.approx((1 + half) / (1 - half), rel=1e-6)


def test_lengths_that_a_file_caps_are_open_and_those_of_packed_rows_are_not() -> None:
    options = {"recipe": "stock"}
    workload, whose = asked("axolotl", "qlora", **options)
    assert whose is not None
    file = Trainer(stack=whose.stack, explicit=whose.explicit, file_options=whose.explicit)
    for trainer, is_open in ((whose, False), (file, True)):
        names = [each.what for each in unknowns(workload, trainer, trainer.explicit)]
        assert ("the lengths of samples" in names) == is_open
        assert ("Liger's kernels" in names) != is_open  # a file says all that is no default
    packed, _ = asked("axolotl", "qlora", packed=512)
    names = [each.what for each in unknowns(packed, file, {*file.explicit, "packed"})]
    assert "the lengths of samples" not in names


def test_every_alternative_is_one_that_some_question_has() -> None:
    """Nothing is declared that the package always refuses."""
    alive: set[str] = set()
    for trainer in (None, "bare", *guided_trainers()):
        for method in ("full", "lora", "qlora"):
            for more in ({}, {"checkpointing": False}, {"loss": "fused"}):
                if trainer not in (None, "bare") and "loss" in more:
                    continue
                workload, whose = asked(trainer, method, **more)
                peak = predict(workload).peak.total_bytes
                found = spread(workload, peak, whose, frozenset(SIZES))
                alive |= {each.what for each in found.unknowns}
    declared = {o.declared.unknown for o in OPTIONS if o.declared.alternatives}
    declared |= {v.what for name in trainers() for s in versions(name) for v in s.variants}
    given_or_sharded = {"the lengths of samples", "mixed precision under FSDP"}
    assert declared - alive == given_or_sharded
    assert all(o.declared.unknown for o in OPTIONS if o.declared.alternatives)


# --- what it is worth -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"recipe": "kbit"}, {"targets": "default"}, {"dropout": 0.1}, {"transformers": "4.48"}],
    ids=str,
)
def test_the_answer_to_what_was_left_open_lies_in_the_interval(options: dict[str, Any]) -> None:
    plain, pinned = told(None, "qlora"), told(None, "qlora", **options)
    assert plain.likely.low_bytes < pinned.prediction.peak.total_bytes < plain.likely.high_bytes


@pytest.mark.parametrize("trainer", guided_trainers())
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_whoever_trains_lies_in_the_interval_of_nobody_named(trainer: str, method: str) -> None:
    plain = told(None, method)
    named = told(trainer, method, dtype="bfloat16", targets="all-linear", rank=16)
    assert plain.likely.low_bytes < named.prediction.peak.total_bytes < plain.likely.high_bytes


@pytest.mark.parametrize("name", guided_trainers())
def test_on_a_gpu_without_bfloat16_others_train_in_float16_too(name: str) -> None:
    """Each trainer's autocast in the range of nobody named is that of its own answer."""
    t4 = find_gpu("t4").platform()
    options = {**DEFAULTS, "methods": ("qlora",)}
    plain, own = (
        workloads(LLAMA, options, {"methods"}, t4, as_guided(find_stack(trainer)))[0]
        for trainer in ("guide", name)
    )
    who = Trainer(stack=find_stack("guide"), explicit=frozenset({"methods"}))
    (found,) = (u.alternatives for u in unknowns(plain, who, {"methods"}) if u.what == WHO)
    place = guided_trainers().index(name)
    assert found[place]["precision"] == own.setup.precision != "amp"


@pytest.mark.parametrize("name", [LLAMA.id, "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_interval_is_over_the_trainers_of_the_table(name: str, method: str) -> None:
    """Those that the table answers, and no refused one; where the first lines' settings are the
    question's, each peak of the table lies in the interval."""
    stated: dict[str, Any] = {"dtype": "bfloat16", "optimizer": "adamw", "accumulation": 1}
    report = predict(name, method=method, batch_size=2, seq_len=1024, checkpointing=True, **stated)
    answer, table = report.answer, report.by_trainer
    assert table is not None and answer.likely is not None
    lines = [line.foreseen.prediction for line in table.lines if line.foreseen]
    who = next(u for u in unknowns(answer.prediction.workload, answer.trainer, ()) if u.what == WHO)
    kernels = {options["kernels"] for options in who.alternatives}
    assert kernels >= {line.workload.setup.kernels for line in lines}
    assert ("litgpt" in kernels) == (name == LLAMA.id)
    for line in lines:
        assert answer.likely.low_bytes < line.peak.total_bytes < answer.likely.high_bytes
    assert " with the setup above: " in interval_lines([answer])[0]


@pytest.mark.parametrize(
    ("trainer", "older"),
    [
        ("torchtune", "torchtune@0.2"),
        ("torchtune", "torchtune@0.6"),
        ("axolotl", "axolotl@0.4"),
        ("trl-sft", "trl-sft@0.14"),
        ("llamafactory", "llamafactory@0.9.1"),
        ("transformers", "transformers@4.45"),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_older_version_lies_in_the_interval_of_one_that_is_not_named(
    trainer: str, older: str, method: str
) -> None:
    same: dict[str, Any] = {"dtype": "bfloat16", "rank": 8, "targets": "all-linear"}
    today, then = told(trainer, method, **same), told(older, method, **same)
    assert today.likely.low_bytes < then.prediction.peak.total_bytes < today.likely.high_bytes


def test_what_older_versions_took_is_said() -> None:
    today, then = told("torchtune", "lora"), told("torchtune@0.2", "lora", targets=TORCHTUNE)
    more = then.prediction.peak.total_bytes / today.prediction.peak.total_bytes - 1
    assert 0.05 < more < 0.5
    said = version_words(today)
    assert (
        said == f"Answered as torchtune 0.7; older versions took up to {round(100 * more)} % more"
    )
    assert version_words(told("torchtune@0.7", "lora")) == ""


TORCHTUNE = find_stack("torchtune").defaults["lora"]["targets"]


def test_changes_that_go_together_widen_more_than_one() -> None:
    found = told(None, "qlora").likely
    highest = max(each.high_bytes for each in found.unknowns)
    assert found.high_bytes * (1 - found.half_width) > highest * 1.02


@pytest.mark.usefixtures("no_estimates")
def test_where_only_a_trace_would_tell_no_interval_is_stated(run: Run) -> None:
    model = ("bigcode/gpt_bigcode-santacoder", "--trainer", "bare")
    words = (*model, "--checkpointing", "--method", "full")
    answer = json.loads(run(*words, "--full", "--format", "json").stdout)["predictions"][0]
    assert answer["evidence"]["low_bytes"] is None
    assert not all(each["is_priced"] for each in answer["evidence"]["unknowns"])
    assert "full: no interval, parts are not modelled: " in run(*words).stdout


# --- what is called exact -------------------------------------------------------------------------


def test_exact_is_said_of_nothing_that_is_open(run: Run) -> None:
    open_ones = ((), ("--trainer", "trl-sft"), ("--trainer", "torchtune"), ("--trainer", "axolotl"))
    for words in open_ones:
        for more in ((), ("--detail",)):
            said = run(LLAMA.id, "--method", "qlora", "--checkpointing", *words, *more).stdout
            assert "exact" not in said.partition("Nearest public")[0], said


def test_exact_is_said_of_a_version_as_pinned(run: Run) -> None:
    pinned = (
        "--trainer", "transformers@5.24", "--dtype", "bfloat16", "--targets", "all-linear",
        "--dropout", "0", "--precision", "pure", "--padding", "0", "--attention", "flash",
        "--kernels", "transformers", "--loss", "plain", "-s", "4096",
    )  # fmt: skip
    said = run(LLAMA.id, "--method", "lora", *pinned).stdout
    assert "Computed byte for byte for transformers 5.24's Trainer" in " ".join(said.split())


def test_a_file_that_only_an_older_version_takes_is_answered_as_that_version(
    run: Run, tmp_path: Path
) -> None:
    text = (
        "model:\n  _component_: torchtune.models.llama3_1.lora_llama3_1_8b\n"
        "  lora_attn_modules: [q_proj, v_proj]\n  lora_rank: 8\n"
        "tokenizer:\n  _component_: torchtune.models.llama3.llama3_tokenizer\n"
        "  max_seq_len: 2048\nbatch_size: 2\ndtype: bf16\n"
        "checkpointer:\n  _component_: torchtune.{}.FullModelMetaCheckpointer\n"
        "loss:\n  _component_: torch.nn.CrossEntropyLoss\n"
        "optimizer:\n  _component_: torch.optim.AdamW\n"
    )
    for home, version in (("utils", "0.2"), ("training", "0.7")):
        file = tmp_path / f"{home}.yaml"
        file.write_text(text.format(home))
        said = " ".join(run(str(file)).stdout.split())
        assert f"Trained by torchtune {version}'s recipes" in said
        assert ("Answered as torchtune 0.7" in said) == (version == "0.7")
    read = run("read", str(tmp_path / "utils.yaml")).stdout
    assert "answered as 0.2" in " ".join(read.split())


COMPILED = {
    "axolotl": "base_model: meta-llama/Llama-3.2-3B\nsequence_len: 4096\nmicro_batch_size: 2\n"
    "bf16: true\ntorch_compile: {}\n",
    "torchtune": "model: {{_component_: torchtune.models.llama3_2.llama3_2_3b}}\n"
    "tokenizer:\n  _component_: torchtune.models.llama3.llama3_tokenizer\n"
    "  max_seq_len: 4096\nbatch_size: 2\ndtype: bf16\nenable_activation_checkpointing: false\n"
    "loss: {{_component_: torchtune.modules.loss.CEWithChunkedOutputLoss}}\n"
    "optimizer: {{_component_: torch.optim.AdamW, fused: true}}\ncompile: {}\n",
}


@pytest.mark.parametrize("framework", COMPILED)
def test_a_compiled_run_is_an_upper_end_and_says_so(
    run: Run, tmp_path: Path, framework: str
) -> None:
    """torchtune's row 3 of its table of flags, which held 42.9 GiB, among them."""
    file = tmp_path / "run.yaml"
    given = (str(file), "--seq-len", "4096", "--padding", "0")
    ends = []
    for is_on in ("false", "true"):
        file.write_text(COMPILED[framework].format(is_on))
        found = json.loads(run(*given, "--full", "--format", "json").stdout)["predictions"][0]
        ends.append((found["evidence"]["low_bytes"], found["peak"]["total_bytes"]))
    said = " ".join(run(*given, "--gpu", "rtx_4090").stdout.split())
    assert "torch.compile is not modelled (the answer is too high)" in said
    assert "does not fit an RTX 4090 as far as modelled" in said
    whole = " ".join(run(*given, "--gpu", "rtx_4090", "--detail").stdout.split())
    assert "what torch.compile saves" in whole
    assert ends[0][1] == ends[1][1] and ends[1][0] < 0.9 * ends[0][0]
    assert framework != "torchtune" or ends[1][0] < 42.9 * 1024**3 < ends[1][1]


@pytest.mark.usefixtures("no_estimates")
def test_a_lower_bound_is_called_so_under_a_trainer_with_gaps(run: Run) -> None:
    words = ("microsoft/phi-1_5", "--trainer", "litgpt", "--method", "lora", "--gpu", "a10g")
    done = run(*words)
    assert "A lower bound: activations are not known." in done.stdout
    assert "! LoRA r8 may fit an A10G" in done.stdout and "Expect" not in done.stdout


def test_python_asks_as_the_command_does(run: Run) -> None:
    words = (
        LLAMA.id, "--method", "lora", "--checkpointing", "-s", "1024", "--full", "--format", "json",
    )  # fmt: skip
    words += ("--trainer", "bare")
    found = json.loads(run(*words).stdout)["predictions"][0]["evidence"]
    setup = setup_for(LLAMA, "bare", "lora", checkpointing=True, seq_len=1024)
    bare = Trainer(stack=find_stack("bare"))
    likely = peak_interval(predict(Workload(model=LLAMA, setup=setup)), bare)
    assert likely is not None
    assert (found["low_bytes"], found["high_bytes"]) == (likely.low_bytes, likely.high_bytes)


# --- public rows ----------------------------------------------------------------------------------


def test_nine_in_ten_lie_inside_on_both_halves() -> None:
    peaks = [row for row in RESULTS["rows"] if row["reading"] == "peak"]
    for said in peak_intervals.ASKED:
        rows = [row for row in peaks if row["said"] == said]
        assert len(rows) >= 60 and sum(row["is_inside"] for row in rows) >= 0.9 * len(rows)


def test_what_the_docs_claim_is_what_the_results_say() -> None:
    claim = headline(RESULTS["rows"])
    for page in ("docs/accuracy.md", "benchmarks/results/peak_intervals.md"):
        assert claim in " ".join(Path(page).read_text("utf-8").split())
    written = Path("benchmarks/results/peak_intervals.md").read_text("utf-8")
    assert peak_intervals.report(RESULTS) == written


PEAKS = [row for row in RESULTS["rows"] if row["reading"] == "peak"]


@pytest.mark.grid
@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize("row", PEAKS, ids=lambda row: f"{row['id']} {row['said']}")
def test_a_row_is_answered_as_the_results_say(row: dict[str, Any]) -> None:
    answer = peak_intervals.answered(tuple(row["command"].split()))
    assert not isinstance(answer, str)
    found = answer["evidence"]
    assert (found["low_bytes"], found["high_bytes"]) == (row["low_bytes"], row["high_bytes"])
    assert [each["what"] for each in found["unknowns"]] == row["unknowns"]


def test_an_older_version_of_layers_that_no_rule_knows_has_the_error_of_undescribed_runs() -> None:
    model = find_model("bigcode/gpt_bigcode-santacoder")
    sizes = {"seq_len": 2048, "batch_size": 4, "dtype": "bfloat16", "checkpointing": True}
    setup = setup_for(model, "transformers", "full", **sizes)
    today = predict(Workload(model=model, setup=setup), may_trace=False)
    then = replace(today.workload, setup=replace(setup, transformers="4.48"))
    for workload, described in ((today.workload, "nearly"), (then, "not")):
        likely = peak_interval(replace(today, workload=workload, saved_activation_bytes=1))
        assert likely is not None and likely.described == described
