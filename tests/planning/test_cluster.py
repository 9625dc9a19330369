"""Plans for clusters: the verdicts against predictions asked one by one, the way a cluster is
written, the command."""

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lora_profiler.cli.main import root
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.planning.engine import predict
from lora_profiler.planning.placement import find_cluster, find_network, plan, world_sizes
from lora_profiler.planning.reserve import held_bytes, judge, reserve_for
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.units import MIB

LLAMA = "meta-llama/Llama-3.1-8B"
SETUP = TrainSetup(checkpointing=True)


def test_clusters_are_cards_or_machines_of_cards() -> None:
    found = find_cluster("16x8xh100-80gb")
    assert (found.machines, found.cards_each, found.gpu.key) == (16, 8, "h100_sxm_80gb")
    assert find_cluster("2 x rtx_4090").cards == 2
    for wrong in ("h100-80gb", "8x", "0x8xrtx_4090", "8xh100_sxm_8gb", "100000xrtx_4090"):
        with pytest.raises(UsageError):
            find_cluster(wrong)


def test_world_sizes_double_within_a_machine_and_then_by_machines() -> None:
    assert list(world_sizes(find_cluster("3x6xrtx_4090"))) == [1, 2, 4, 6, 12, 18]
    assert list(world_sizes(find_cluster("1xrtx_4090"))) == [1]


def test_the_fewest_cards_are_those_that_predictions_one_by_one_find() -> None:
    model, cluster = find_model(LLAMA, offline=True), find_cluster("8xrtx_4090")
    options = plan(
        [Workload(model=model, setup=s) for s in (SETUP, replace(SETUP, lora=LoraConfig()))],
        cluster,
    )
    assert len(options) == 8
    usable = cluster.gpu.usable_bytes
    assert usable is not None
    for option in options:
        asked = option.whole.prediction.workload
        fitting = []
        for world in (1, 2, 4, 8):
            shared = replace(
                asked.setup, world_size=world, sharding=option.sharding if world > 1 else "none"
            )
            alone = predict(Workload(model=model, setup=shared))
            peak, held = alone.peak.total_bytes, held_bytes(alone)
            fits = judge(peak, usable, find_gpu("rtx_4090"), held) == "fits"
            fitting += [world] if fits else []
        assert (option.least and option.least.world_size) == min(fitting, default=None), (
            option.sharding
        )
    needed = {
        (o.whole.prediction.workload.setup.method, o.sharding): o.least and o.least.world_size
        for o in options
    }
    assert needed["full", "ddp"] is None  # 8 bytes a weight on every card
    # 8 bytes a weight and 2 of temporaries, over 4 cards: 18.7 of 23.6 GiB
    assert needed["full", "fsdp"] == 4
    assert needed["lora", "fsdp"] is not None


def test_a_card_without_room_for_the_reserve_is_no_fit() -> None:
    """The peak of two ranks fits, but not with what tensors do not show: four ranks are needed."""
    model = find_model("SmolLM2-135M", offline=True)
    two = TrainSetup(checkpointing=True, world_size=2, sharding="fsdp")
    peak = predict(Workload(model=model, setup=two)).peak.total_bytes
    reserve = reserve_for(find_gpu("custom:1GiB"), peak)
    least = peak + reserve.workspace_bytes + reserve.least_context_bytes
    cluster = find_cluster(f"8xcustom:{-(-least // MIB)}MiB")
    assert cluster.gpu.usable_bytes is not None
    assert judge(peak, cluster.gpu.usable_bytes, cluster.gpu) == "tight"
    option = next(
        o for o in plan([Workload(model=model, setup=SETUP)], cluster) if o.sharding == "fsdp"
    )
    assert option.least is None or option.least.world_size > 2


def test_sending_bounds_the_time_from_both_sides() -> None:
    model, cluster = find_model(LLAMA, offline=True), find_cluster("8xa100_sxm_80gb")
    alone, slow = (
        plan([Workload(model=model, setup=SETUP)], cluster, network)[2]
        for network in (None, find_network("1GB/s"))
    )
    assert (
        alone.low_seconds
        and alone.high_seconds
        and slow.low_seconds
        and slow.high_seconds
        and slow.communication
    )
    sending = slow.communication.sent_bytes / 10**9
    assert slow.low_seconds == pytest.approx(max(alone.low_seconds, sending))
    assert slow.high_seconds == pytest.approx(alone.high_seconds + sending)
    rates = slow.tokens_per_second
    assert rates and rates[0] == pytest.approx(8 * 2048 / slow.high_seconds)


def test_the_command_shows_every_way_and_says_how_few_cards_do() -> None:
    asked = [
        "plan", LLAMA, "--cluster", "4xa100_sxm_80gb", "--checkpointing", "--interconnect",
        "nvlink3",
    ]  # fmt: skip
    shown = CliRunner().invoke(root, asked, catch_exceptions=False)
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.split())
    assert "✓ LoRA r16 fits 4 × A100 with " in words and "; 1 GPU is enough." in words
    assert "FSDP-no-reshard" in words and "sending over nvlink3" in words
    assert "with checkpointing" in words
    usual = CliRunner().invoke(root, asked[:-2], catch_exceptions=False)
    assert usual.stdout == shown.stdout  # the usual link of this GPU
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    document = json.loads(
        CliRunner().invoke(root, [*asked, "--format", "json"], catch_exceptions=False).stdout
    )
    assert len(document["options"]) == 8
    for option in document["options"]:
        whole = option["whole"]
        assert whole["world_size"] == 4
        assert whole["peak_bytes"] == sum(whole["bytes"].values())


def test_a_model_that_no_sharding_fits_ends_with_1() -> None:
    result = CliRunner().invoke(
        root, ["plan", "meta-llama/Llama-3.1-405B", "--cluster", "2xrtx_4090"]
    )
    assert result.exit_code == 1
    assert result.stdout.startswith("✗ Full does not fit 2 × RTX 4090:")
    assert "Full does not fit 256 × RTX 4090 either, even with --checkpointing" in result.stdout
    assert "\nno checkpointing" not in result.stdout and "checkpointing of LoRA" in result.stdout


@pytest.mark.parametrize("more", [[], ["--checkpointing"]])
def test_where_nothing_fits_it_says_what_would_and_that_does(more: list[str]) -> None:
    """Never what is switched on already."""

    def placed(cards: int, *options: str) -> list[str]:
        words = ["plan", "meta-llama/Llama-3.1-70B", "--cluster", f"{cards}xh100-80gb"]
        done = CliRunner().invoke(root, [*words, *options], catch_exceptions=False)
        return done.stdout.splitlines()

    lines = [line for line in placed(8, *more) if line.startswith("→ ")]
    assert lines and all(("--checkpointing" in line) is (not more) for line in lines)
    for line in lines:
        found = re.fullmatch(r"→ (.*) fits (\d+) × H100 with .*\.", line)
        assert found is not None, line
        again = placed(int(found[2]), "--checkpointing")
        assert any(text.startswith(f"✓ {found[1]} fits {found[2]} × ") for text in again)


def test_the_plan_chooses_shardings_itself() -> None:
    result = CliRunner().invoke(
        root, ["plan", "gpt2", "--cluster", "2xrtx_4090", "--world-size", "2", "--sharding", "ddp"]
    )
    assert isinstance(result.exception, UsageError)
