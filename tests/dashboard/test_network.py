"""What ranks send: volumes against the usual shorthand, links, and the faces that show them."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from jsonschema import validate

import lora_profiler
from lora_profiler.cli.main import root
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic import shared_parts
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import predict
from lora_profiler.planning.placement import LINKS, communication, find_network
from lora_profiler.question.workload import LoraConfig, Sharding, TrainSetup, Workload
from lora_profiler.report.answer.explain import explain_blocks
from lora_profiler.report.answer.timing import communication_lines, communication_table, step_bounds
from lora_profiler.report.json.predict import predict_schema
from lora_profiler.report.terminal import plain
from lora_profiler.steptime.roofline import fresh_bytes, update_bytes
from lora_profiler.units import bytes_text, seconds_text

WORLD = 8
SETUP = TrainSetup(seq_len=512, world_size=WORLD, sharding="fsdp")


def sent(sharding: Sharding, lora: LoraConfig | None = None) -> int:
    model = find_model("SmolLM2-135M", offline=True)
    setup = replace(SETUP, sharding=sharding, lora=lora)
    found = communication(predict(Workload(model=model, setup=setup)))
    assert found is not None
    return found.sent_bytes


def test_volumes_are_those_of_the_zero_paper() -> None:
    """In units of the weights, of which each rank sends (W - 1) / W: DDP two, FSDP three but for
    the root's second gather."""
    weights = 2 * find_model("SmolLM2-135M", offline=True).num_parameters * (WORLD - 1) // WORLD
    assert sent("ddp") == pytest.approx(2 * weights, rel=1e-6)
    embedding = 2 * 49152 * 576 * (WORLD - 1) // WORLD
    assert sent("fsdp") == pytest.approx(3 * weights - embedding, rel=1e-4)
    assert sent("fsdp-no-reshard") == pytest.approx(2 * weights, rel=1e-4)


def test_lora_sends_adapters_under_ddp_and_gathers_the_base_under_fsdp() -> None:
    lora = LoraConfig()
    assert sent("ddp", lora) < 0.1 * sent("ddp")
    assert sent("fsdp", lora) > 0.6 * sent("fsdp")


def test_a_process_alone_sends_nothing() -> None:
    alone = replace(SETUP, world_size=1, sharding="none")
    workload = Workload(model=find_model("gpt2", offline=True), setup=alone)
    assert communication(predict(workload)) is None


def test_links_are_named_or_rates() -> None:
    assert find_network("nvlink4").bytes_per_second == LINKS["nvlink4"]
    assert find_network("12.5 GB/s").bytes_per_second == 12_500_000_000
    for wrong in ("nvlink", "0GB/s", "25", "fast"):
        with pytest.raises(UsageError, match="interconnect is"):
            find_network(wrong)


def test_the_command_shows_and_prints_what_is_sent() -> None:
    ranks = "-s 512 --world-size 4 --sharding fsdp --gpu h100_sxm_80gb"
    asked = ["predict", "gpt2", *ranks.split()]
    detailed = [*asked, "--interconnect", "nvlink4", "--detail"]
    table = CliRunner().invoke(root, detailed, catch_exceptions=False)
    assert "fsdp over 4 ranks" in table.stdout
    assert "Communication of a step among 4 ranks" in table.stdout
    assert "reduce-scatter, backward" in table.stdout
    assert "step, if nothing is" in table.stdout
    in_json = [*asked, "--interconnect", "10GB/s", "--full", "--format", "json"]
    answer = CliRunner().invoke(root, in_json, catch_exceptions=False)
    document = json.loads(answer.stdout)
    validate(document, predict_schema())
    for prediction in document["predictions"]:
        found, time = prediction["communication"], prediction["step_time"]
        assert found["seconds"] == pytest.approx(found["sent_bytes"] / 10**10)
        least = max(time["low_seconds"], found["seconds"])
        assert found["step_low_seconds"] == pytest.approx(least)
        assert found["step_high_seconds"] == pytest.approx(time["high_seconds"] + found["seconds"])


def test_a_link_without_ranks_is_refused() -> None:
    result = CliRunner().invoke(root, ["predict", "gpt2", "--interconnect", "nvlink4"])
    assert isinstance(result.exception, UsageError)


def test_a_table_tells_what_sending_adds_to_a_step() -> None:
    model = find_model("SmolLM2-135M", offline=True)
    card = find_gpu("h100_sxm_80gb")
    (answer,) = answers([Workload(model=model, setup=SETUP)], card, network=find_network("1GB/s"))
    bounds = step_bounds(answer)
    assert bounds is not None
    table = communication_table([answer])
    assert table is not None
    hidden, added = (row.cells[1] for row in table.rows[-2:])
    assert (hidden, added) == tuple(seconds_text(end, bounds[1]) for end in bounds)


@pytest.mark.parametrize(
    ("gpu", "link"),
    [("8xh100_sxm_80gb", "nvlink4"), ("4xl4", "pcie4"), ("2x4xh100_sxm_80gb", None)],
)
def test_several_gpus_send_over_the_link_of_a_plan(gpu: str, link: str | None) -> None:
    answer = lora_profiler.predict("gpt2", method="lora", trainer="trl-sft", gpu=gpu).answer
    (offer,) = lora_profiler.offers_of("gpt2", [gpu])
    for network in (offer.network, answer.communication and answer.communication.network):
        assert (network.key if network else None) == link
    words = f"sending over {link}" if link else "`--interconnect` adds"
    assert words in communication_lines([answer])[0]
    assert (step_bounds(answer) is None) == (link is None)


def test_ranks_of_more_than_one_machine_have_no_usual_link() -> None:
    model, card = find_model("gpt2", offline=True), find_gpu("h100_sxm_80gb")
    setups = [replace(SETUP, world_size=ranks) for ranks in (8, 16)]
    found = answers([Workload(model=model, setup=setup) for setup in setups], card)
    links = [a.communication and a.communication.network for a in found]
    assert [link and link.key for link in links] == ["nvlink4", None]


@pytest.mark.parametrize(
    ("sharding", "ranks"),
    [("ddp", 1), ("tp", 1), ("zero1", 8), ("zero2", 8), ("fsdp", 8), ("fsdp-no-reshard", 8)],
)
def test_a_rank_updates_its_part_alone(sharding: Sharding, ranks: int) -> None:
    alone, shared = TrainSetup(), replace(SETUP, sharding=sharding)
    many = 8 * 10**8
    assert update_bytes(shared, {2: many}) == update_bytes(alone, {2: many // ranks})
    assert fresh_bytes(shared, {2: many}) == fresh_bytes(alone, {2: many // ranks}) > 0


def test_explain_tells_how_ranks_share_each_part() -> None:
    model = find_model("SmolLM2-135M", offline=True)
    shared, alone = (answers([Workload(model=model, setup=s)])[0] for s in (SETUP, TrainSetup()))
    text = plain(explain_blocks(shared), width=400)
    cut = "of each tensor the first of 8 chunks"
    assert f" weights x 2 B (bfloat16), {cut}" in text
    assert f" trained weights x 2 B (bfloat16), {cut}" in text
    assert f"each in that weight's dtype), {cut}" in text
    parts = shared_parts(shared.prediction.workload, shared.prediction.peak.moment)
    assert f"{bytes_text(parts['root'])} the root's gathered weights" in text
    assert f"{bytes_text(parts['buffer'])} the buffer" in text
    assert "chunks" not in plain(explain_blocks(alone), width=400)
