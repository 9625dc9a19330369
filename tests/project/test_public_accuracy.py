"""The replay of public memory rows: what is committed, what a rerun gives, and how its errors are
made into statements."""

import math
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral

from benchmarks.pages import RESULTS, read_document
from benchmarks.public import accuracy, conditions, grade, old_code
from benchmarks.public import command as public_command
from benchmarks.public.conditions import NotExpressibleError
from benchmarks.public.memory import memory_row, memory_rows, repeated_heads
from benchmarks.public.peft_runs import PADDED, TOKENS
from benchmarks.public.replay import replay_of, throughput_rows
from benchmarks.public.report import MARKS
from benchmarks.public.tape import tape_of
from benchmarks.public.typed import Typed, typed
from lora_profiler.trace.toys import at_depth

DOCUMENT = read_document("public_accuracy")
ROWS = {(row["id"], row["quantity"]): row for row in DOCUMENT["rows"]}


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_committed_errors_reach_what_was_asked():
    for tier, (mean, worst) in MARKS.items():
        errors = [row["error"] for row in grade.graded(DOCUMENT["rows"], tier)]
        assert grade.mean(errors) <= mean
        assert worst is None or max(map(abs, errors)) <= worst
    assert len(grade.graded(DOCUMENT["rows"], 1)) == 53


def test_the_committed_report_is_what_the_numbers_say():
    assert (RESULTS / "public_accuracy.md").read_text("utf-8") == accuracy.report(DOCUMENT)


def test_every_open_memory_row_is_predicted_or_has_a_reason():
    told = {f"{row['id']} {row['quantity']}" for row in DOCUMENT["rows"]} | set(
        DOCUMENT["left_out"]
    )
    assert told == {f"{row['id']} {row['quantity']}" for row in memory_rows()}
    assert all(DOCUMENT["left_out"].values())


@pytest.mark.grid
@pytest.mark.parametrize(
    "id",
    [
        "fms:refs_a100_80gb.csv:34",  # stock LoRA, float32 logits in the loss
        "fms:refs_a100_80gb_liger.csv:104",  # full, fused linear loss, bound by backward
        "fms:refs_a100_80gb_liger.csv:163",  # four cards
        "litgpt-rt:53",
        "peft:lora/llama-3.2-3B-rank32@5d602fdb",
        "torchtune-flags:5",
    ],
)
def test_a_row_comes_out_again_as_it_was_committed(id):
    raw = next(
        row for row in memory_rows() if row["id"] == id and "reserved" not in row["quantity"]
    )
    row = memory_row(raw)
    found = accuracy.predicted(row, tape_of(row.workload, row.build, row.contexts))
    assert found["bytes"] == ROWS[id, raw["quantity"]]["predicted_bytes"]


def test_a_grown_error_is_named_and_a_smaller_one_is_not():
    old = [
        {"id": "a", "quantity": "peak", "error": 0.001},
        {"id": "b", "quantity": "peak", "error": -0.02},
    ]
    assert accuracy.moved(old, old) == []
    assert accuracy.moved(old, [{**old[0], "error": -0.0005}, {**old[1], "error": 0.01}]) == []
    assert accuracy.moved(old, [{**old[0], "error": -0.0025}, old[1]]) == [
        "a peak: -0.250 %, was +0.100 %"
    ]
    assert accuracy.moved(old, old[:1]) == ["b peak: gone"]


def test_the_interval_is_the_conformal_quantile():
    tens = [0.01 * i for i in range(1, 20)]
    assert grade.half_width({"a": tens}) == pytest.approx(0.18)  # number 18 of 19
    assert grade.half_width({"a": [0.5, -0.1]}) == 0.5  # too few: the largest
    assert grade.half_width({}) == math.inf


def test_a_source_of_many_rows_weighs_no_more_than_one_of_few():
    """By hand: 90 rows of 0.01 and 10 of 0.02 are half of the weight, two of -0.03 and 0.04 the
    other half; nine tenths of it are reached in the last."""
    many = [0.01] * 90 + [0.02] * 10
    assert grade.half_width({"many": many}) == 0.02
    assert grade.half_width({"many": many, "few": [-0.03, 0.04]}) == 0.04
    assert grade.half_width({"many": many, "few": [-0.03] * 9 + [0.04]}) == 0.03


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(45, 50, 0.7819, 0.9667), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)],
)
def test_binomial_intervals_are_those_of_published_tables(hits, n, low, high):
    """Clopper and Pearson, as R's binom.test prints them."""
    assert grade.binomial_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_verdicts_count_refusals_and_acceptances_apart():
    sizes = {"measured_bytes": 23_500_000_000, "predicted_bytes": 23_600_000_000}
    row = {"reading": "peak", "tier": 1, **sizes}
    assert grade.verdicts([row], 0.02) == {
        "asked": 9,
        "fits": 7,
        "refused though it fits": 1,
        "accepted though it does not": 0,
    }
    low = {**row, "measured_bytes": 24_500_000_000, "predicted_bytes": 23_000_000_000}
    assert grade.verdicts([low], 0.0)["accepted though it does not"] == 1


def test_a_reserve_is_raised_by_what_other_sources_were_above():
    measured = (("a", 104), ("a", 90), ("b", 102), ("b", 103), ("c", 50))
    told = {"reading": "reserved", "predicted_bytes": 100}
    rows = [told | {"source": source, "measured_bytes": size} for source, size in measured]
    told = grade.reserved_margins(rows)
    assert told == {"a": pytest.approx(0.03), "b": pytest.approx(0.04), "c": pytest.approx(0.04)}
    assert grade.reserved_margins(rows[4:]) == {"c": 0.0}
    assert grade.reserved_margins([row | {"reading": "peak"} for row in rows]) == {}


def test_rows_that_no_workload_says_give_their_reason():
    raw = next(row for row in memory_rows() if row["id"].startswith("swift"))
    with pytest.raises(NotExpressibleError, match="random length"):
        memory_row(raw)


def test_rows_of_one_run_are_changed_alike():
    runs = {}
    for raw in memory_rows():
        try:
            row = memory_row(raw)
        except NotExpressibleError:
            continue
        runs.setdefault(row.run, set()).add(tuple(change.__qualname__ for change in row.changes))
    assert all(len(kinds) == 1 for kinds in runs.values())


def test_a_base_prepared_for_training_is_another_run_than_a_stock_one():
    rows = {row["id"].partition("refs_")[2]: row for row in memory_rows()}
    stock, prepared = (memory_row(rows[f"a100_80gb.csv:{line}"]) for line in (78, 58))
    assert stock.workload == prepared.workload
    assert stock.run != prepared.run


# --- what is not known ----------------------------------------------------------------------------


def a_row(known: str, **changed: str) -> dict[str, str]:
    raw = next(
        row for row in memory_rows() if row["id"] == known and "reserved" not in row["quantity"]
    )
    return {**raw, **changed}


LORA_ROWS = {
    "fms": "fms:refs_a100_80gb.csv:34",
    "litgpt-rt": "litgpt-rt:53",
    "peft": "peft:lora/llama-3.2-3B-rank32@5d602fdb",
    "fsdp_qlora": "fsdp_qlora:642",
}
MIXTRAL = "mistralai/Mixtral-8x7B"
UNKNOWN = {
    "another model": {"model": "Qwen/Qwen2.5-1.5B", "model_config": "Qwen/Qwen2.5-1.5B"},
    "another model by the known one's config": {"model": "Qwen/Qwen2.5-1.5B"},
    "another model's config": {"model_config": "Qwen/Qwen2.5-1.5B"},
    "no model": {"model": "", "model_config": ""},
    "no rank": {"rank": ""},
    "no number for a rank": {"rank": "all"},
    "rank 0": {"rank": "0"},
    "another method": {"method": "dora"},
    "another base": {"method": "qlora (gptq int4)"},
    "full with a rank": {"method": "full"},
    "another precision": {"compute_dtype": "fp16 amp"},
    "another sharding": {"parallelism": "DeepSpeed ZeRO-3"},
    "another source": {"id": "unsloth:1"},
}


@pytest.mark.parametrize("source", LORA_ROWS)
@pytest.mark.parametrize("what", UNKNOWN)
def test_a_row_that_is_not_known_is_never_priced_as_another(source, what):
    raw = a_row(LORA_ROWS[source])
    assert memory_row(raw).workload.setup.lora is not None
    with pytest.raises(NotExpressibleError):
        memory_row({**raw, **UNKNOWN[what]})


@pytest.mark.parametrize(
    ("id", "changed"),
    [
        (LORA_ROWS["fms"], {"kernels": "another library's fused kernels"}),
        (LORA_ROWS["fms"], {"attention": "eager"}),
        (LORA_ROWS["fms"], {"optimizer": "adamw_bnb_8bit"}),
        (LORA_ROWS["fms"], {"target_modules": "all-linear"}),
        (LORA_ROWS["fms"], {"id": "fms:refs_h100.csv:34"}),
        (
            LORA_ROWS["fms"],
            {"model": f"{MIXTRAL}-Instruct-v0.1", "model_config": f"{MIXTRAL}-v0.1"},
        ),
        (LORA_ROWS["peft"], {"id": "peft:lora/llama-3.2-3B-rank64@5d602fdb"}),
        (LORA_ROWS["peft"], {"id": "peft:oft/llama-3.2-3B-rank32@5d602fdb"}),
        (LORA_ROWS["peft"], {"target_modules": "down_proj gate_proj up_proj"}),
        (LORA_ROWS["litgpt-rt"], {"target_modules": "q,k,v"}),
        ("torchtune-flags:6", {"id": "torchtune-flags:10"}),
        ("torchtune-flags:6", {"id": "torchtune-flags:0"}),
        ("torchtune-flags:6", {"id": "torchtune-flags:8"}),
        ("torchtune-flags:6", {"method": "lora", "rank": "64"}),
        ("torchtune-flags:6", {"id": "torchtune-flags:9", "method": "lora", "rank": "64"}),
    ],
)
def test_a_stack_that_is_not_known_is_refused(id, changed):
    assert memory_row(a_row(id))
    with pytest.raises(NotExpressibleError):
        memory_row(a_row(id, **changed))


@pytest.mark.parametrize("what", [*UNKNOWN, "another card"])
@pytest.mark.parametrize("source", ["fms", "peft", "automodel", "qwen"])
def test_a_step_that_is_not_known_is_refused_too(source, what):
    raw = next(
        row
        for row in throughput_rows()
        if row["id"].startswith(source) and row["method"] == "lora" and row["n_gpus"] == "1"
    )
    assert replay_of(raw).workload.setup.lora.r == int(raw["rank"])
    with pytest.raises(NotExpressibleError):
        replay_of({**raw, **UNKNOWN.get(what, {"gpu": "NVIDIA B300"})})


def test_the_rank_is_the_row_s_own():
    for id in (LORA_ROWS["fms"], LORA_ROWS["litgpt-rt"], LORA_ROWS["fsdp_qlora"]):
        assert memory_row(a_row(id, rank="48")).workload.setup.lora.r == 48


# --- what ran -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "loss"), [(106, "Triton"), (110, "Liger"), (114, "Triton")])
def test_the_liger_file_s_rows_ran_what_they_are_labelled_with(line, loss):
    row = memory_row(a_row(f"fms:refs_a100_80gb_liger.csv:{line}"))
    assert row.stack.startswith(loss)
    assert (old_code.liger in row.changes) == (loss == "Liger")


@pytest.mark.parametrize(
    ("model", "config", "repeats"),
    [
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", True),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B", False),
    ],
)
def test_heads_are_repeated_and_rotated_in_place_in_the_class_that_does_it(model, config, repeats):
    """In both files; the newer one's classes hand grouped heads on."""
    for file, repeats_here in (("a100_80gb_liger.csv:106", repeats), ("a100_80gb.csv:34", False)):
        row = memory_row(
            a_row(f"fms:refs_{file}", model=model, model_config=config, kernels=conditions.TRITON)
        )
        assert (repeated_heads in row.contexts) == repeats_here
        with ExitStack() as stack:
            for context in row.contexts:
                stack.enter_context(context())
            llama, mistral = (
                module.apply_rotary_pos_emb is old_code.rotation_in_place
                for module in (modeling_llama, modeling_mistral)
            )
        assert (mistral, llama) == (repeats, not repeats)


def test_litgpt_s_loop_holds_four_bytes_a_logit_through_backward():
    row = memory_row(a_row("litgpt-rt:53", seq_len="160"))
    workload = replace(row.workload, model=at_depth(row.workload.model, 4))
    dropped = replace(workload, setup=replace(workload.setup, hold_outputs=False))

    def at_the_end_of_backward(workload):
        kept = 0
        for phase, _, live in tape_of(workload, row.build).instants():
            if phase == "optimizer":
                return kept
            kept = sum(live.values()) if phase == "backward" else kept

    held = at_the_end_of_backward(workload) - at_the_end_of_backward(dropped)
    assert held == 4 * 160 * 32_000


@pytest.mark.parametrize(("flag", "method"), [(8, "lora"), (9, "qlora (torchao nf4)")])
def test_torchtune_s_adapters_and_torchao_s_base_are_as_large_as_their_sources_say(flag, method):
    """Llama-3.2-3B: adapters of rank 64 on all but the keys, two values a byte, a byte for 64 and
    two for 16,384 values, embeddings and norms in 16 bit."""
    row = memory_row(
        a_row("torchtune-flags:6", id=f"torchtune-flags:{flag}", method=method, rank="64")
    )
    width, inner, kv, layers = 3072, 8192, 1024, 28
    linear = layers * (2 * width * width + 2 * width * kv + 3 * width * inner)
    rest = 2 * (128_256 * width + (2 * layers + 1) * width)
    adapters = layers * 64 * (4 * width + (width + kv) + 3 * (width + inner))
    parameters = list(row.build(row.workload).parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == adapters
    frozen = sum(p.numel() * p.element_size() for p in parameters if not p.requires_grad)
    assert frozen == rest + (
        2 * linear if flag == 8 else linear // 2 + linear // 64 + linear // 8192
    )
    assert row.workload.setup.optimizer_impl == "fused" and "update in backward" not in row.stack


@pytest.mark.parametrize("spread", [0.4, 0.55, 0.7])
@pytest.mark.parametrize("longest", [440, 600])
def test_peft_s_padding_is_what_its_batches_of_lengths_in_order_give(spread, longest):
    """Its texts end at 1,300 characters, of 2.2 to 3 a token."""
    lengths = np.random.default_rng(0).lognormal(0, np.sqrt(np.log(1 + spread**2)), 200_000)
    for _ in range(30):
        kept = lengths[lengths < longest]
        lengths = lengths * TOKENS / kept.mean()
    buckets = np.sort(kept[: len(kept) // 80 * 80].reshape(-1, 80))
    padded = buckets.reshape(-1, 20, 4).max(axis=2).mean()
    assert padded == pytest.approx(PADDED, abs=2.5)


# --- as the command is typed ----------------------------------------------------------------------

COMMANDS = read_document("public_command")


def test_every_graded_peak_is_asked_or_refused_with_its_reason():
    asked = [row["id"] for row in COMMANDS["rows"]]
    refused = [name.split(" ")[0] for name in COMMANDS["refused"]]
    assert sorted(asked + refused) == sorted(row["id"] for row in public_command.graded_peaks())
    assert all(COMMANDS["refused"].values())


def test_the_committed_report_of_commands_is_what_the_numbers_say():
    text = (RESULTS / "public_command.md").read_text("utf-8")
    assert text == public_command.report(COMMANDS)


@pytest.mark.grid
@pytest.mark.parametrize("id", ["fms:refs_a100_80gb.csv:34", "litgpt-rt:55", "torchtune-flags:5"])
def test_a_command_is_typed_and_answered_as_committed(id):
    committed = next(row for row in COMMANDS["rows"] if row["id"] == id)
    question = typed(a_row(id))
    assert " ".join(question.words) == committed["command"]
    assert question.description == committed["description"]
    assert question.of_first_step == committed["of_first_step"] == id.startswith("litgpt")
    assert public_command.answered(question) == committed["predicted_bytes"]


def test_a_run_is_described_as_well_as_what_its_options_leave_out():
    """By what ran alone: no error is looked at."""
    assert Typed((), (), ()).description == "exactly"
    assert typed(a_row("fms:refs_a100_80gb.csv:34")).description == "exactly"
    assert typed(a_row("fms:refs_a100_80gb.csv:38")).description == "exactly"
    assert typed(a_row("torchtune-flags:1")).description == "nearly"
    assert typed(a_row("torchtune-flags:5")).description == "not"
    with pytest.raises(NotExpressibleError, match="catalogue"):
        typed(a_row("litgpt-rt:47"))
    with pytest.raises(NotExpressibleError):
        typed(a_row("fms:refs_a100_80gb.csv:34", kernels="another"))
