"""What waits on the host: FSDP's shards and saved tensors, against what torch's and TRL's own code
asked for, rehearsed over torch's CUDA build (`tests/rehearsal/test_rehearsed_offloading.py` does it again),
against autograd's hooks, and by hand."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

import cases
import oracle
from agreement import totals
from commands import Run
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.liveness import on_host
from lora_profiler.memory.analytic.plan import plan_for
from lora_profiler.memory.analytic.predict import values
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.planning.setups import setup_for
from lora_profiler.planning.timing import step_time
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.json.predict import prediction_dict
from lora_profiler.units import GIB

CARD = find_gpu("h100_sxm_80gb")
MODEL = find_model("HuggingFaceTB/SmolLM2-135M")
LORA = LoraConfig(r=8)
SHARDS = TrainSetup(
    batch_size=2, seq_len=256, world_size=4, sharding="fsdp", offload_params=True,
    optimizer_impl="fused",
)  # fmt: skip
REHEARSED_SHARDS: list[tuple[dict[str, Any], int]] = [
    ({}, 746_289_256),
    ({"lora": LORA, "checkpointing": True, "optimizer_impl": "foreach"}, 384_968_328),
    ({"sharding": "fsdp-no-reshard", "accumulation": 2}, 951_614_828),
    ({"loss": "chunked", "world_size": 2}, 511_147_496),
    ({"precision": "fsdp-mixed", "dtype": "float32", "world_size": 2}, 746_289_256),
    ({"batch_size": 1, "seq_len": 16}, 233_575_304),
    ({"lora": LORA, "quantization": Quantization(), "checkpointing": True}, 381_575_296),
]
"""Peaks that `fully_shard(offload_policy=CPUOffloadPolicy())` asked for on rank 0, torch 2.13; BLAS
workspaces left out."""
REHEARSED_FLAT: list[tuple[dict[str, Any], int]] = [
    ({"sharding": "fsdp1"}, 762_215_368),
    ({"sharding": "fsdp1-no-prefetch"}, 753_365_128),
]
"""The same of `FullyShardedDataParallel(cpu_offload=CPUOffload(offload_params=True))`."""
ACTIVATIONS = TrainSetup(
    batch_size=4, seq_len=1024, lora=LoraConfig(r=16), loss="trl", loop_state="trl",
    optimizer_impl="fused", offload_activations=True,
)  # fmt: skip
REHEARSED_ACTIVATIONS: list[tuple[dict[str, Any], int, int]] = [
    ({"checkpointing": True}, 629_446_476, 629_301_728),
    ({}, 1_173_043_500, 1_182_335_936),
    ({"checkpointing": True, "lora": None}, 1_099_454_970, 1_273_898_126),
    ({"lora": None}, 2_091_334_618, 2_265_777_774),
]
"""What TRL's SFTTrainer(activation_offloading=True) asked for in forward and in backward."""
REENTRANT = ({"checkpointing": True, "use_reentrant": True}, 629_716_812, 729_074_224)
"""The same with reentrant checkpoints, where the peak is inside a layer."""
SCALARS = 8
"""Bytes that it asked for beside in backward, each time."""


def asked(setup: TrainSetup) -> Workload:
    return Workload(model=MODEL, setup=setup, platform=Platform(capability=CARD.capability))


@pytest.mark.parametrize(("changes", "rehearsed"), [*REHEARSED_SHARDS, *REHEARSED_FLAT])
def test_shards_on_the_host_ask_for_what_torch_did(changes: Any, rehearsed: int) -> None:
    assert predict(asked(replace(SHARDS, **changes))).peak.total_bytes == rehearsed


def test_shards_by_hand() -> None:
    """A quarter of 134,515,008 weights of 2 bytes, rows dealt out, their gradients and twice as
    much of moments, with a step counter for each of 272 tensors."""
    prediction = predict(asked(SHARDS))
    share = sum(
        -(-w.shape[0] // 4) * w.numel // w.shape[0] * 2
        for _, module in MODEL.modules()
        for w in module.weights
        if w.tied_to is None
    )
    assert dict(prediction.host_bytes) == {
        "parameters": share,
        "gradients": share,
        "optimizer_states": 2 * share + 4 * 272,
    }
    assert not any(prediction.persistent_bytes.values())
    assert {row.parameter_bytes + row.optimizer_state_bytes for row in prediction.layers} == {0}
    assert totals(prediction)["optimizer_step"] == 256 + 2 * 256 * 8 + 4  # inverse frequencies, ids
    assert prediction_dict(prediction)["host_bytes"] == dict(prediction.host_bytes)
    kept = predict(asked(replace(SHARDS, offload_params=False)))
    assert prediction.traffic == kept.traffic and not kept.host_bytes


@pytest.mark.parametrize(
    ("sharding", "gathered"), [("fsdp", 49152 * 576 * 2), ("fsdp1", (49152 * 576 + 576) * 2)]
)
def test_saving_brings_a_part_to_the_card_beside_what_is_made_of_it(
    sharding: Any, gathered: int
) -> None:
    """Of two ranks: the largest weight and half of it, as `get_model_state_dict` asked for; of
    FSDP1 the root's unit."""
    found = totals(predict(asked(replace(SHARDS, sharding=sharding, world_size=2))))
    assert found["saving"] - found["setup"] == gathered + gathered // 2


@pytest.mark.parametrize(("changes", "ahead", "back"), REHEARSED_ACTIVATIONS)
def test_moved_activations_ask_for_what_trl_did(changes: Any, ahead: int, back: int) -> None:
    prediction = predict(asked(replace(ACTIVATIONS, **changes)))
    found = totals(prediction)
    assert found["end_of_forward"] == ahead
    assert found["loss_backward"] == back - SCALARS
    assert prediction.exactness == "estimate"
    rows = sum(row.saved_activation_bytes for row in prediction.layers)
    assert rows == prediction.saved_activation_bytes


def test_what_runs_again_is_moved_too() -> None:
    changes, ahead, back = REENTRANT
    prediction = predict(asked(replace(ACTIVATIONS, **changes)))
    assert totals(prediction)["end_of_forward"] == pytest.approx(ahead, rel=1e-3)
    assert prediction.peak.total_bytes == pytest.approx(back, rel=1e-3)
    assert prediction.peak.moment == "first_layer_backward"


def test_inside_a_layer_what_was_moved_comes_back_for_its_node() -> None:
    """16 sequences, where the peak of backward is inside the last layer."""
    found = totals(predict(asked(replace(ACTIVATIONS, batch_size=16))))
    assert found["last_layer_backward"] == pytest.approx(2_981_022_724, rel=1e-5)
    assert found["last_layer_forward"] < found["last_layer_backward"]


def test_torchtune_waits_with_one_input_until_the_last_norm_s_backward() -> None:
    """torchtune 0.7's lora_finetune_single_device, rehearsed."""
    names = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(r=64, lora_alpha=128, target_modules=names, adapter_dtype="bfloat16")
    loop: dict[str, Any] = {"kernels": "torchtune", "loss": "torchtune", "loop_state": "none"}
    setup = replace(ACTIVATIONS, lora=lora, checkpointing=True, hold_outputs=True, **loop)
    workload = replace(asked(setup), model=find_model("meta-llama/Llama-3.2-1B"))
    assert predict(workload).peak.total_bytes == 5_434_039_172
    with pytest.raises(UsageError, match="activation checkpointing"):
        predict_by(replace(workload, setup=replace(setup, checkpointing=False)))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_saved_once_is_what_autograd_s_hooks_see_once(name: str) -> None:
    setup = TrainSetup(batch_size=2, seq_len=64, lora=LORA, dtype="float32", device="cpu")
    workload = Workload(model=cases.spec_of(name), setup=setup)
    forward, at = plan_for(workload).forward, values(workload)
    assert forward is not None
    ours = Counter[int]()
    for layer in forward.layers:
        for storage in on_host(layer.run.nodes):
            ours[storage.bytes.evaluate(*at)] += len(layer.indices)

    model = oracle.build(cases.CONFIGS[name], setup)
    seen: dict[int, list[torch.Tensor]] = {}
    inside = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if inside[0] and not isinstance(tensor, torch.nn.Parameter):
            seen.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
        return tensor

    base = model.get_base_model()
    for module in base.modules():
        if type(module).__name__ in base._no_split_modules:
            module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, 1))
            module.register_forward_hook(lambda *_: inside.__setitem__(0, 0))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    ids = torch.ones((2, 64), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids, use_cache=False)
    real = Counter[int]()
    for address, tensors in seen.items():
        size = tensors[0].untyped_storage().nbytes()
        if len(tensors) == 1 and address not in weights and size >= 1024:
            real[size] += 1
    assert ours == real


def test_layers_inputs_wait_under_fsdp_too() -> None:
    """Nothing else is saved outside a checkpoint, so that no gathered weight is."""
    shared = replace(ACTIVATIONS, checkpointing=True, world_size=2, sharding="fsdp")
    prediction = predict_by(asked(shared), "analytic")
    alone = predict_by(asked(replace(ACTIVATIONS, checkpointing=True)), "analytic")
    assert prediction.host_bytes == alone.host_bytes
    assert prediction.error_bound is None
    with pytest.raises(UsageError, match="whole weights"):
        predict_by(asked(replace(shared, checkpointing=False)))


def test_a_step_that_the_host_takes_part_in_has_no_time() -> None:
    for setup in (SHARDS, ACTIVATIONS):
        assert "offloading to CPU" in str(step_time(asked(setup), CARD).refusal)
    with pytest.raises(UsageError, match="without reentrant"):
        reentrant = replace(ACTIVATIONS, checkpointing=True, use_reentrant=True)
        predict_by(asked(replace(reentrant, world_size=2, sharding="fsdp")))
    for engine in ("compiled", "traced"):
        with pytest.raises(UsageError, match="analytic"):
            predict_by(asked(ACTIVATIONS), engine)


AXOLOTL_RUNS: list[tuple[dict[str, Any], int, float]] = [
    ({"lora_kernels": "peft"}, 907_274_584, 0),
    ({"lora_kernels": "peft", "use_reentrant": False}, 907_274_584, 0),
    ({"lora_kernels": "peft", "loss": "fused"}, 408_078_680, 0.002),
    ({"loss": "fused"}, 373_537_112, 0.003),
    ({"method": "qlora", "rank": 32, "alpha": 16.0, "lora_kernels": "peft"}, 778_296_848, 0),
]
"""Peaks that axolotl 0.19's `axolotl train` asked for (TRL 1.9, transformers 5.16, torch 2.13),
rehearsed on its examples lora-1b.yml and qlora-1b.yml with activation_offloading; and how far off
the answer may be, where the peak is inside a layer."""


@pytest.mark.parametrize(("changes", "rehearsed", "error"), AXOLOTL_RUNS)
def test_axolotl_s_adapters_ask_for_what_its_own_run_did(
    changes: dict[str, Any], rehearsed: int, error: float
) -> None:
    options = {
        "rank": 16, "alpha": 32.0, "batch_size": 2, "seq_len": 512, "dropout": 0.0, **changes,
    }  # fmt: skip
    method = options.pop("method", "lora")
    more = {"optimizer": "adamw_8bit", "attention": "auto", "offload_activations": True}
    setup = setup_for(MODEL, "axolotl", method, **options, **more, accumulation=1)
    found = predict(asked(setup)).peak.total_bytes
    assert found == pytest.approx(rehearsed, rel=error, abs=0)


def test_the_answer_tells_of_a_rank_and_of_all(run: Run) -> None:
    words = "gpt2 --method full --world-size 4 --sharding fsdp --offload-params --detail"
    shown = run(*words.split()).stdout
    assert "in the host's memory" in shown and "of 4 ranks on one machine" in shown
    assert "power of two" in shown


@pytest.mark.parametrize(("trainer", "bytes_each"), [("bare", 2), ("transformers", 4)])
def test_the_answer_tells_what_the_host_has_to_hold(
    run: Run, trainer: str, bytes_each: int
) -> None:
    """8,030,261,248 parameters, as many gradients, and two averages of each: in bfloat16, or in
    float32, in which accelerate keeps what trains on shards."""
    words = ("--method", "full", "--sharding", "fsdp", "--world-size", "8", "--offload-params")
    more = ("--trainer", trainer, "--dtype", "bfloat16") if trainer == "bare" else ()
    said = " ".join(run("meta-llama/Llama-3.1-8B", *words, *more).stdout.split())
    in_all = 8_030_261_248 * 4 * bytes_each
    text = f"{in_all / 8 / GIB:.2f} GiB a rank of CPU memory (full), {in_all / GIB:.2f} GiB in all"
    assert f"Also needs {text}." in said, said
    assert "CPU memory" not in run("gpt2").stdout


def test_each_method_has_its_own_host_memory_in_all(run: Run) -> None:
    words = ("--sharding", "fsdp", "--world-size", "4", "--offload-params", "--trainer", "bare")
    said = " ".join(run("gpt2", "--method", "full,lora", *words).stdout.split())
    pairs = re.findall(
        r"([0-9.,]+) MiB a rank of CPU memory \(.+?\), ([0-9.,]+) ([GM])iB in all", said
    )
    assert len(pairs) == 2
    for rank, every, unit in pairs:
        in_all = float(every) * (1024 if unit == "G" else 1)
        assert in_all == pytest.approx(4 * float(rank), rel=0.01)
