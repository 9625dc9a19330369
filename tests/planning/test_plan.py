"""The planner against a search that tries everything, with nothing shared and nothing left out;
what it takes for granted; its words, and what it says to bad input."""

import json
import re
import shlex
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from benchmarks.truth.exhaustive_plans import front_of, front_of_plan, try_everything
from commands import Run
from lora_profiler import (
    Amount,
    Budget,
    LoraConfig,
    Quantization,
    Space,
    TrainingData,
    TrainSetup,
    UsageError,
    Workload,
    find_gpu,
    find_model,
    lengths_of,
    make_plan,
    offers_of,
    predict,
    step_time,
)
from lora_profiler.facts.catalog import bundled_gpus
from lora_profiler.facts.catalog.gpus import Price, read_price, table_prices
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.placement import find_network
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.plan_space import MOST_SAVED_BYTES_PER_PARAMETER, Costs
from lora_profiler.planning.planned import cluster_of, concessions_of, cost_of, hours_of, is_within
from lora_profiler.question.workload import Method
from lora_profiler.report.answer.verdicts import short_gpu_names
from lora_profiler.report.decision import plan as plan_words
from lora_profiler.report.decision.plan import money_text, plan_blocks
from lora_profiler.report.terminal import plain

QWEN = find_model("Qwen/Qwen2.5-0.5B")
LLAMA = find_model("meta-llama/Llama-3.1-8B")
PRICES = {"rtx_3060_ti": Price(per_hour=0.1), "rtx_4090": Price(per_hour=0.5)}


# --- everything tried -----------------------------------------------------------------------------


CASES = {
    "prices": (["rtx_3060_ti", "rtx_4090"], PRICES, (1,)),
    "no prices": (["rtx_3060_ti", "rtx_4090"], {}, (1,)),
    "several cards": (["4xrtx_3060_ti"], PRICES, (1, 2, 4)),
}
LENGTHS = lengths_of([100, 200, 300, 900] * 50)


@pytest.mark.parametrize("case", CASES)
def test_the_front_and_the_choice_are_those_of_trying_everything(case: str) -> None:
    names, prices, worlds = CASES[case]
    space = Space(effective_batch=4, ranks=(8, 64))
    offers = offers_of(QWEN, names, prices=prices, seq_len=1024)
    plan = make_plan(offers, Amount(tokens=10_000_000), space)
    tried = try_everything(offers, Amount(tokens=10_000_000), space, worlds)
    assert front_of_plan(plan) == front_of(tried)
    assert plan.counts.fitting < plan.counts.considered
    best = plan.recommended
    assert best is not None
    goal = [t.cost if prices else t.hours for t in tried]
    least = min(value for value in goal if value is not None)
    near = [t for t, value in zip(tried, goal, strict=True) if value and value <= 1.05 * least]
    of = {(t.card, t.setup): t for t in near}
    chosen = of[best.cluster.gpu.key, best.setup]
    assert chosen.objectives.concessions == min(t.objectives.concessions for t in near)
    assert chosen.objectives.trained == max(
        t.objectives.trained
        for t in near
        if t.objectives.concessions == chosen.objectives.concessions
    )
    assert best.hours and best.hours.middle == pytest.approx(chosen.hours, rel=1e-9)


def test_over_data_the_front_is_that_of_trying_everything() -> None:
    amount, space = Amount(data=TrainingData(lengths=LENGTHS)), Space(effective_batch=4, ranks=(8,))
    offers = offers_of(QWEN, ["rtx_3060_ti"], prices=PRICES)
    plan = make_plan(offers, amount, space)
    assert front_of_plan(plan) == front_of(try_everything(offers, amount, space, (1,)))


def test_over_data_a_run_is_the_answer_of_predict() -> None:
    data = TrainingData(lengths=LENGTHS)
    offers = offers_of(QWEN, ["rtx_4090"], methods=["lora"], prices=PRICES)
    plan = make_plan(offers, Amount(data=data, epochs=3), Space(effective_batch=8, ranks=(8,)))
    assert plan.front
    for run in plan.front:
        (answer,) = answers([run.workload], run.cluster.gpu, data=data)
        assert run.peak_bytes == answer.prediction.peak.total_bytes
        assert run.worst == answer.prediction.workload
        assert answer.over_data and answer.timing and answer.timing.step and run.time
        assert run.steps == 3 * answer.over_data.steps_per_epoch
        time = answer.timing.step.time
        assert (run.time.step.low, run.time.step.middle, run.time.step.high) == pytest.approx(
            (time.low, time.seconds, time.high)
        )


# --- what the search takes for granted ------------------------------------------------------------

WAYS = {
    "full": TrainSetup(),
    "lora": TrainSetup(lora=LoraConfig()),
    "qlora": TrainSetup(lora=LoraConfig(), quantization=Quantization()),
}
SEVERAL = [
    "Qwen/Qwen2.5-0.5B",
    "openai-community/gpt2",
    "google/gemma-2-2b",
    "EleutherAI/pythia-160m",
]


@pytest.mark.grid
@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("name", SEVERAL)
def test_cards_with_the_same_attention_kernels_hold_the_same(name: str, method: str) -> None:
    costs, model = Costs(Amount()), find_model(name)
    for gpu in bundled_gpus():
        if gpu.capability is None:
            continue
        offer = (
            offers_of(model, [gpu.key], methods=[_method(method)])[0] if gpu.usable_bytes else None
        )
        if offer is None:
            continue
        own = offer.workloads[0]
        layout = costs.layout(costs.shared(own), own.setup)
        assert layout is not None and layout.peak_bytes == peak_bytes(own)


def _method(name: str) -> Method:
    return name  # type: ignore[return-value]  # one of them


@pytest.mark.grid
@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("name", SEVERAL)
def test_a_step_takes_no_less_with_checkpointing_or_of_a_higher_rank(
    name: str, method: str
) -> None:
    model, gpu = find_model(name), find_gpu("a100_sxm_80gb")

    def seconds(setup: TrainSetup) -> float:
        step = step_time(Workload(model=model, setup=setup), gpu).step
        assert step is not None
        return step.time.seconds

    for batch, loss in product((1, 8), ("plain", "fused")):
        setup = replace(WAYS[method], batch_size=batch, seq_len=256)
        if loss == "fused" and name.startswith("google"):
            continue  # its head caps the logits
        setup = replace(setup, loss=loss)
        assert seconds(replace(setup, checkpointing=True)) >= seconds(setup)
        if setup.lora is not None:
            by_rank = [
                seconds(replace(setup, lora=replace(setup.lora, r=r)))
                for r in (4, 8, 12, 16, 64, 256)
            ]
            assert all(lower <= higher for lower, higher in pairwise(by_rank))


@pytest.mark.parametrize("method", WAYS)
def test_eight_bit_states_save_no_more_than_is_allowed_for(method: str) -> None:
    for rank, checkpointing in product((8, 64), (False, True)):
        setup = replace(WAYS[method], checkpointing=checkpointing, seq_len=256)
        if setup.lora:
            setup = replace(setup, lora=replace(setup.lora, r=rank))
        whole, eight = (
            predict(Workload(model=QWEN, setup=replace(setup, optimizer=optimizer)))
            for optimizer in ("adamw", "adamw_8bit")
        )
        saved = whole.peak.total_bytes - eight.peak.total_bytes
        assert saved <= MOST_SAVED_BYTES_PER_PARAMETER * whole.parameters.trainable


# --- choices --------------------------------------------------------------------------------------


def planned(budget: Budget | None = None, **space: object) -> TrainingPlan:
    offers = offers_of(QWEN, ["rtx_3060_ti", "rtx_4090"], prices=PRICES, seq_len=1024)
    sizes = Space(effective_batch=4, ranks=(8, 64), **space)  # type: ignore[arg-type]
    return make_plan(offers, Amount(tokens=10_000_000), sizes, budget)


def test_limits_are_kept_and_money_alone_buys_speed() -> None:
    free = planned().recommended
    assert free is not None and free.cost is not None and free.hours is not None
    within = planned(Budget(max_hours=free.hours.middle / 1.5)).recommended
    assert within is not None and within.hours is not None and within.cost is not None
    assert within.hours.middle <= free.hours.middle / 1.5
    assert within.cost.middle >= free.cost.middle
    quick = planned(Budget(max_cost=10.0))
    assert quick.goal == "quickest" and quick.recommended is not None
    assert planned(Budget(max_hours=0.001)).recommended is None
    assert planned(Budget(max_cost=0.0001)).recommended is None


def test_what_is_given_is_taken_as_it_is() -> None:
    plan = planned(checkpointing=True, loss="fused", micro_batch=2, optimizer="sgd")
    assert plan.front
    for run in plan.front:
        setup = run.setup
        assert (setup.checkpointing, setup.loss, setup.batch_size) == (True, "fused", 2)
        assert setup.optimizer == "sgd" and setup.accumulation == 2


def test_neighbours_and_what_binds() -> None:
    offers = offers_of(LLAMA, ["2xrtx_4090"], methods=["lora"], prices=PRICES)
    plan = make_plan(offers, Amount(tokens=10_000_000), Space(ranks=(8,)))
    run, binding = plan.recommended, plan.binding
    assert run is not None and run.time is not None and binding is not None
    assert binding.kind == "memory" and binding.without_memory_seconds is not None
    assert binding.without_memory_seconds < run.time.step.middle
    assert run.setup.checkpointing
    for neighbour in plan.neighbours:
        assert neighbour.run is not None and neighbour.run.cluster.cards == neighbour.cards
        assert neighbour.run.setup.method == "lora" and neighbour.run.setup.lora is not None
        assert neighbour.run.setup.lora.r == 8


@pytest.mark.usefixtures("the_bundle")
def test_a_model_that_laws_alone_know_is_planned_for(run: Run) -> None:
    """On GPUs whose kernels of attention are unlike, with several micro-batches a step; the first
    GPU has no bfloat16."""
    name, gpus = "ibm-granite/granite-3.1-2b-base", ("t4", "rtx_4090")
    asked = ("plan", name, "--tokens", "10M", "--methods", "lora", "--ranks", "8")
    asked += ("--checkpointing",)  # of which there are laws
    found = {}
    for few in (*((gpu,) for gpu in gpus), gpus):
        plan = json.loads(run(*asked, "--gpus", ",".join(few), "--format", "json").stdout)
        found[few] = plan["recommended"]["run"]
        assert found[few]["hours"]["low"] > 0, few
        assert found[few]["setup"]["accumulation"] > 1
    assert found[gpus] == found[gpus[1:]]
    command = ("--method", "lora", "-r", "8", "--accumulation", "16", "--gpu", "rtx_4090")
    answer = json.loads(run(name, *command, "--format", "json", "--full").stdout)
    assert answer["predictions"][0]["peak"]["total_bytes"] == found[gpus]["peak_bytes"]


def test_a_slow_link_binds() -> None:
    offers = offers_of(
        QWEN, ["2xrtx_3060_ti"], methods=["full"], network=find_network("0.001GB/s"), seq_len=256
    )
    plan = make_plan(offers, Amount(tokens=10_000_000), Space(effective_batch=2))
    two = [run for run in plan.front if run.cluster.cards == 2]
    for run in two:
        assert run.time is not None and run.time.sending_seconds is not None
        assert run.time.step.middle == run.time.compute_seconds + run.time.sending_seconds
    assert plan.recommended is not None and plan.recommended.cluster.cards == 1


def test_where_nothing_fits_the_nearest_that_would_do_fits() -> None:
    offers = offers_of(find_model("meta-llama/Llama-3.1-70B"), ["2xrtx_4090"], methods=["qlora"])
    plan = make_plan(offers, Amount(tokens=1_000_000), Space(ranks=(8,)))
    assert plan.front == () and plan.recommended is None
    (qlora,) = plan.methods
    nearest = qlora.nearest
    assert nearest is not None and nearest.missing_bytes > 0
    assert nearest.enough_cards is not None
    more = offers_of(
        find_model("meta-llama/Llama-3.1-70B"),
        [f"{nearest.enough_cards}xrtx_4090", nearest.smallest_cards[0].key],
        methods=["qlora"],
    )
    again = make_plan(more, Amount(tokens=1_000_000), Space(ranks=(8,)))
    assert {run.cluster.gpu.key for run in again.front} == {"rtx_4090", more[1].gpu.key}


ASKED: dict[str, tuple[str, list[str], Budget]] = {
    "a neighbour is cheaper": ("meta-llama/Llama-3.1-8B", ["gh200_96gb"], Budget()),
    "full does not fit": ("meta-llama/Llama-3.1-8B", ["rtx_4090", "l40s"], Budget()),
    "up to 2 cards": (QWEN.id, ["2xrtx_3060_ti", "rtx_4090"], Budget()),
    "the cheapest takes too long": (QWEN.id, ["t4", "a100_sxm_80gb"], Budget(max_hours=0.5)),
    "as quick as money buys": (QWEN.id, ["t4", "a100_sxm_80gb"], Budget(max_cost=0.9)),
}


@pytest.mark.parametrize("case", ASKED)
def test_nothing_printed_beats_the_recommendation_by_what_it_claims(case: str) -> None:
    name, cards, budget = ASKED[case]
    offers = offers_of(find_model(name), cards, prices=table_prices())
    plan = make_plan(offers, Amount(tokens=10_000_000), Space(ranks=(16,)), budget)
    best = plan.recommended
    assert best is not None
    of = cost_of if plan.goal == "cheapest" else hours_of
    text = " ".join(plain(plan_blocks(plan)).split())
    word = "cheapest" if plan.goal == "cheapest" else "fastest"
    claims_best = f"The {word} that fits the GPUs " in text
    runs = [*plan.front, *(each.run for each in plan.methods if each.run)]
    within = [run for run in runs if is_within(run, budget)]
    assert claims_best is (min(map(of, within)) == of(best))
    for run in runs:
        if of(run) < of(best) and of(run) * 1.05 < of(best):
            assert not is_within(run, budget)
    for neighbour in plan.neighbours:
        if neighbour.run is not None and of(neighbour.run) < of(best) and claims_best:
            assert ", not offered: " in plan_words.neighbour_words(plan, neighbour)


def test_every_method_gets_a_row() -> None:
    """Also one that another beats in everything, and one that fits nowhere: by how much, and on how
    many cards it does."""
    offers = offers_of(LLAMA, ["2xrtx_4090"], prices=PRICES)
    plan = make_plan(offers, Amount(tokens=10_000_000), Space(ranks=(8,)))
    assert [each.method for each in plan.methods] == ["full", "lora", "qlora"]
    full, lora, qlora = plan.methods
    assert full.run is None and full.nearest is not None and lora.run is plan.recommended
    assert qlora.run is not None and qlora.run not in plan.front
    enough = full.nearest.enough_cards
    rows = {row.cells[1]: row.cells for row in reversed(plan_words.ways_table(plan).rows)}
    assert rows["LoRA r8"][0] == "✓" and rows["LoRA r8"][-1].strip() == "recommended"
    assert rows["QLoRA r8"][0] == "" and rows["Full"][0] == "✗"
    assert rows["Full"][2] == "2 × RTX 4090" and rows["Full"][-1] == f"fits {enough} × RTX 4090"
    more = offers_of(LLAMA, [f"{enough}xrtx_4090"], methods=["full"], prices=PRICES)
    assert make_plan(more, Amount(tokens=10_000_000), Space(ranks=(8,))).recommended is not None
    fewer = offers_of(LLAMA, [f"{enough // 2}xrtx_4090"], methods=["full"], prices=PRICES)
    assert make_plan(fewer, Amount(tokens=10_000_000), Space(ranks=(8,))).recommended is None


def test_gpus_have_the_shortest_names_that_tell_them_apart() -> None:
    def names(*keys: str) -> list[str]:
        return list(short_gpu_names(map(find_gpu, keys)).values())

    assert names("h100_sxm_80gb", "rtx_4090", "custom:24GiB") == ["H100", "RTX 4090", "24 GiB GPU"]
    assert names("h100_sxm_80gb", "h100_pcie_80gb") == ["H100 SXM5", "H100 PCIe"]
    assert names("a100_sxm_40gb", "a100_sxm_80gb") == ["A100 SXM4 40GB", "A100 SXM4 80GB"]


def test_whoever_waits_hears_how_far_the_search_is() -> None:
    offers, heard = offers_of(QWEN, ["2xrtx_3060_ti"], seq_len=512), list[tuple[int, int]]()
    make_plan(offers, Amount(), Space(ranks=(8, 64)), watch=lambda *so_far: heard.append(so_far))
    assert heard[0][0] == 0 and heard[-1][0] == heard[-1][1] > 100
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert len({total for _, total in heard}) == 1


# --- prices ---------------------------------------------------------------------------------------


def test_every_price_of_the_table_has_a_card_a_date_and_addresses() -> None:
    keys = {gpu.key for gpu in bundled_gpus()}
    for key, price in table_prices().items():
        assert key in keys and price.per_hour > 0 and price.currency == "USD"
        assert price.date.startswith("2026-") and price.provider
        assert price.source.startswith("https://") and price.read_from.startswith("https://")


@pytest.mark.parametrize(
    "text", ["t4", "t4=", "t4=2.49", "=2/h", "t4=two/h", "t4=-1/h", "t4=1/day"]
)
def test_a_price_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write a GPU and its price per hour"):
        read_price(text)


# --- the command line -----------------------------------------------------------------------------

SITUATIONS = {
    "8B on one 24 GB card": "meta-llama/Llama-3.1-8B --gpus rtx_4090 --tokens 10M",
    "70B": "meta-llama/Llama-3.1-70B --gpus 8xh100_sxm_80gb --tokens 10M --methods lora,qlora --ranks 16",
    "1B on a T4": "meta-llama/Llama-3.2-1B --gpus t4 --tokens 10M",
    "7B over conversations": "Qwen/Qwen2.5-7B --gpus rtx_4090,l40s,a100_sxm_80gb --lengths"
    " mean=600,max=4096,samples=50000 --epochs 3 --ranks 16,64",
    "nothing fits": "meta-llama/Llama-3.1-70B --gpus rtx_4090 --tokens 10M",
    "no budget suffices": "gpt2 --gpus t4,l4 --tokens 10B --max-hours 0.1 --max-cost 0.01",
}


@pytest.mark.grid
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_plan_is_one_screen_with_the_verdict_first(run: Run, situation: str) -> None:
    done = run("plan", *shlex.split(SITUATIONS[situation]))
    lines, fits = done.stdout.splitlines(), not situation.startswith("no")
    assert len(lines) <= 25, done.stdout
    assert max(map(len, lines)) <= 80, done.stdout
    assert lines[0].startswith("✓ Take " if fits else "✗ No plan "), done.stdout
    assert done.exit_code == (0 if fits else 1), done.stderr


@pytest.mark.parametrize("situation", ["nothing fits", "no budget suffices"])
def test_what_would_do_does(run: Run, situation: str) -> None:
    words = shlex.split(SITUATIONS[situation])
    typed = shlex.split(re.findall("→ .*: (--.*)", run("plan", *words).stdout)[0])
    for name, value in zip(typed[::2], typed[1::2], strict=True):
        words[words.index(name) + 1] = value
    done = run("plan", *words)
    assert done.exit_code == 0, done


def test_its_command_asks_for_the_same_run(run: Run) -> None:
    asked = shlex.split(SITUATIONS["7B over conversations"])
    best = json.loads(run("plan", *asked, "--format", "json").stdout)["recommended"]["run"]
    command = shlex.split(best["command"])
    assert command[0] == "lora-profile"
    (answer,) = json.loads(run(*command[1:], "--full", "--format", "json").stdout)["predictions"]
    assert answer["peak"]["total_bytes"] == best["peak_bytes"]
    assert answer["fit"]["headroom_bytes"] >= best["headroom_bytes"]  # which is of the bound
    assert answer["step_time"]["seconds"] == pytest.approx(best["time"]["step_seconds"]["middle"])
    assert answer["data"]["total_seconds"] == pytest.approx(3600 * best["hours"]["middle"])


def test_a_trainers_file_is_planned_for_and_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "qlora.yml"
    file.write_text(
        "base_model: Qwen/Qwen2.5-0.5B\nadapter: lora\nlora_r: 8\nlora_alpha: 16\n"
        "lora_target_linear: true\nsequence_len: 1024\nmicro_batch_size: 2\n"
        "gradient_accumulation_steps: 4\nbf16: true\noptimizer: adamw_torch\n"
        "datasets:\n  - path: tatsu-lab/alpaca\n    type: alpaca\n"
    )
    done = run("plan", str(file), "--gpus", "rtx_4090", "--tokens", "1M")
    assert done.exit_code == 0, done.stderr
    assert "Batch 8 × 1,024 tokens" in done.stdout
    assert "LoRA r8 on one RTX 4090" in done.stdout
    out = tmp_path / "run.yml"
    options = ["--gpus", "rtx_4090", "--tokens", "1M", "--write", "axolotl", str(out)]
    done = run("plan", "Qwen/Qwen2.5-0.5B", "--trainer", "axolotl", "--methods", "lora", *options)
    assert done.exit_code == 0, done.stderr
    command = done.stdout[done.stdout.index("lora-profile ") :].partition("\n\n")[0]
    (asked, read) = (
        json.loads(run(*arguments, "--full", "--format", "json").stdout)["predictions"][0]["setup"]
        for arguments in (
            shlex.split(command.replace("\\\n", ""))[1:],
            [str(out), "--gpu", "rtx_4090"],
        )
    )
    assert asked == read


def test_a_loss_of_a_trainer_is_planned_over_several_ranks(run: Run) -> None:
    done = run("plan", "gpt2", "--trainer", "trl-sft", "--gpus", "2xl4", "--tokens", "1M")
    assert "2 × L4" in done.stdout
    assert "is known of" not in done.stdout


def test_data_without_tokens_are_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": ""}\n')
    done = run("plan", "gpt2", "--gpus", "t4", "--data", str(file))
    assert done.exit_code == 2 and done.stderr.startswith("error:"), done


def test_where_no_time_is_known_it_says_so() -> None:
    offers = offers_of(QWEN, ["custom:24GiB"], methods=["lora"])
    plan = make_plan(offers, Amount(tokens=1_000_000), Space(ranks=(8,)))
    assert plan.goal == "roomiest" and plan.recommended is not None
    assert plan.recommended.hours is None
    text = " ".join(plain(plan_blocks(plan)).split())
    assert "time not known" in text and "no source here gives its bandwidth" in text


def test_a_base_or_states_in_few_bits_are_concessions() -> None:
    lora = TrainSetup(lora=LoraConfig())
    eight = [replace(lora, optimizer=name) for name in ("adamw_8bit", "adamw_torch_4bit")]
    whole = [replace(lora, optimizer=name) for name in ("adamw", "sgd", "paged_adamw_32bit")]
    assert {concessions_of(setup) for setup in eight} == {1}
    assert {concessions_of(setup) for setup in whole} == {0}
    assert concessions_of(replace(eight[0], quantization=Quantization())) == 2


def test_what_costs_less_than_a_cent_is_not_free() -> None:
    assert [money_text(cost, "USD") for cost in (0.0, 0.001, 0.006, 99.994, 1234.5)] == [
        "0.00 USD", "<0.01 USD", "0.01 USD", "99.99 USD", "1,234 USD"
    ]  # fmt: skip
    assert money_text(0.001, "") == "<0.01"


@pytest.mark.parametrize(("trainer", "batch"), [("axolotl", 2), ("torchtune", 2)])
def test_each_gpu_offered_has_a_sequence_of_a_trainers_own_batch(
    run: Run, trainer: str, batch: int
) -> None:
    words = ("plan", QWEN.id, "--trainer", trainer, "--tokens", "1M", "--gpus", "2xrtx_4090")
    plan = json.loads(run(*words, "--format", "json").stdout)
    assert plan["searched"]["effective_batch"] == batch
    assert {row["cards_each"] for row in plan["front"]} == {1, 2}


def test_gpus_that_cannot_share_the_batch_are_named_with_a_batch_that_they_can(run: Run) -> None:
    words = ("plan", QWEN.id, "--tokens", "1M", "--gpus", "2xrtx_4090", "--method", "lora")
    said = run(*words, "--effective-batch", "3").stdout
    (more,) = re.findall(r"Not tried: 2 × RTX 4090 .* (--effective-batch \d+)", said)
    assert "Not tried" not in run(*words, *more.split()).stdout


def test_a_file_that_always_checkpoints_is_planned_and_written(run: Run, tmp_path: Path) -> None:
    """No option is refused that nobody gave: a plan tries only what the file can say."""
    words = ("plan", QWEN.id, "--tokens", "1M", "--gpus", "2xl4", "--method", "lora")
    for name in ("unsloth", "trl"):
        file = tmp_path / f"{name}.{'py' if name == 'unsloth' else 'yaml'}"
        done = run(*words, "--write", name, str(file), "--format", "json")
        assert done.exit_code == 0, done.stderr
        best = json.loads(done.stdout)["recommended"]["run"]
        read = run(str(file), "--gpu", "l4", "--full", "--format", "json")
        (found,) = json.loads(read.stdout)["predictions"]
        assert found["setup"]["checkpointing"] == best["setup"]["checkpointing"]


def test_methods_are_read_in_any_case(run: Run) -> None:
    words = ("plan", "gpt2", "--gpus", "l4", "--tokens", "1M", "--ranks", "8", "--format", "json")
    plans = [json.loads(run(*words, "--methods", name).stdout) for name in ("QLoRA", "qlora")]
    assert plans[0] == plans[1]


def test_a_gpu_s_name_may_begin_with_a_number() -> None:
    names = ("4090", "2x4090", "rtx_4090")
    assert {cluster_of(name).gpu.key for name in names} == {"rtx_4090"}
    assert cluster_of("2x4090").cards == 2
