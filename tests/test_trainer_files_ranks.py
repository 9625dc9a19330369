"""What files say of several ranks, and of the kind of checkpoints that frameworks take there. What
is expected was read in accelerate 1.15, transformers 5.24, TRL 1.16, LLaMA-Factory ff6d4d1 and
axolotl 067b021."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_profiler import find_model, predict
from lora_profiler.errors import UsageError
from lora_profiler.stacks import find_stack
from lora_profiler.trainer_files.document import TrainerFileError
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model
from lora_profiler.workload import TrainSetup, Workload
from test_trainer_files import AXOLOTL, GRPO, LLAMAFACTORY, OVER_DEEPSPEED, TRL

FULL = TRL.replace("use_peft: true\n", "")
PLAIN = "output_dir: x\nper_device_train_batch_size: 2\nbf16: true\n"
OVER_FSDP = """\
distributed_type: FSDP
mixed_precision: bf16
num_processes: 4
fsdp_config:
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A file's reading with others beside it."""

    def run(text: str, *beside: str, **named: Any) -> TrainerFile:
        paths = [tmp_path / f"{n}.yaml" for n in range(len(beside) + 1)]
        for path, content in zip(paths, (text, *beside), strict=True):
            path.write_text(content)
        for name, content in named.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return read_files(paths)

    return run


def gaps(file: TrainerFile) -> list[str]:
    return [key.missing for key in file.not_modelled]


# --- the kind of checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, False])
def test_each_framework_names_the_kind_of_checkpoints(read: Any, value: bool) -> None:
    said = str(value).lower()
    kwargs = f"gradient_checkpointing_kwargs:\n  use_reentrant: {said}\n"
    for text in (AXOLOTL + kwargs, TRL + kwargs, LLAMAFACTORY + f"use_reentrant_gc: {said}\n"):
        assert read(text).options["use_reentrant"] is value
    written = TRL + f"gradient_checkpointing_kwargs: '{{\"use_reentrant\": {said}}}'\n"
    assert read(written).options["use_reentrant"] is value


def test_what_frameworks_take_by_themselves(read: Any) -> None:
    for name, usual in (("axolotl", True), ("llamafactory", True), ("trl-sft", None)):
        assert find_stack(name).defaults["lora"].get("use_reentrant") is usual
    assert read(AXOLOTL + "rl: dpo\n").options["use_reentrant"] is False
    frozen = "unfrozen_parameters:\n  - lm_head\n"
    assert read(AXOLOTL + frozen).options["use_reentrant"] is False
    assert "use_reentrant" not in read(AXOLOTL).options  # the stack's, which is reentrant


def test_operations_that_are_not_run_again_are_named(read: Any) -> None:
    file = read(TRL + "gradient_checkpointing_kwargs: {selective: true}\n")
    assert gaps(file) == ["selective checkpointing"]


def test_ranks_change_the_kind_of_checkpoints(read: Any) -> None:
    over_fsdp2 = read(LLAMAFACTORY, OVER_FSDP + "  fsdp_version: 2\n")
    assert over_fsdp2.options["use_reentrant"] is False
    assert "use_reentrant" not in read(LLAMAFACTORY, OVER_FSDP).options  # FSDP1: its own default
    own = read(LLAMAFACTORY + "fsdp: full_shard\n")  # which torchrun starts
    assert own.options["sharding"] == "fsdp" and "use_reentrant" not in own.options
    assert read(TRL, OVER_DEEPSPEED).options["use_reentrant"] is True  # adapters under ZeRO-3
    assert "use_reentrant" not in read(FULL, OVER_DEEPSPEED).options
    by_accelerate = read(FULL, OVER_FSDP + "  fsdp_activation_checkpointing: true\n")
    assert by_accelerate.options["use_reentrant"] is False
    off = read(FULL, OVER_FSDP + "  fsdp_activation_checkpointing: false\n")
    assert off.options["checkpointing"] is True  # as the trainer's own key says


# --- FSDP -----------------------------------------------------------------------------------------

PLAIN_MODEL = PLAIN + "model_name_or_path: gpt2\n"


@pytest.mark.parametrize(
    ("settings", "sharding"),
    [
        ("  fsdp_version: 2\n", "fsdp"),
        ("  fsdp_version: 2\n  fsdp_reshard_after_forward: false\n", "fsdp-no-reshard"),
        ("  fsdp_version: 1\n", "fsdp1-no-prefetch"),
        ("  fsdp_offload_params: false\n", "fsdp1-no-prefetch"),
        ("  fsdp_backward_prefetch: BACKWARD_PRE\n", "fsdp1"),
        ("  fsdp_sharding_strategy: FULL_SHARD\n", "fsdp1-no-prefetch"),
        ("  fsdp_sharding_strategy: NO_SHARD\n", "ddp"),
    ],
)
def test_accelerate_s_file_names_the_version(read: Any, settings: str, sharding: str) -> None:
    file = read(PLAIN_MODEL, OVER_FSDP + settings)
    assert (file.options["sharding"], file.options["world_size"]) == (sharding, 4)
    assert gaps(file) == []


def test_accelerate_s_context_parallelism_is_torch_s(read: Any) -> None:
    degree = "parallelism_config:\n  parallelism_config_cp_size: {}\n"
    whole = OVER_FSDP + "  fsdp_version: 2\n"
    file = read(PLAIN_MODEL, whole + degree.format(2))
    assert file.options["context_parallel_size"] == 2 and gaps(file) == []
    assert "context_parallel_size" not in read(PLAIN_MODEL, whole + degree.format(1)).options
    going_round = degree.format(2) + "  parallelism_config_cp_comm_strategy: alltoall\n"
    assert "keys and values that go round" in gaps(read(PLAIN_MODEL, whole + going_round))[0]
    flat = read(PLAIN_MODEL, OVER_FSDP + "  fsdp_version: 1\n" + degree.format(2))
    assert "context_parallel_size" not in flat.options
    assert gaps(flat) == ["context parallelism with sharding fsdp1-no-prefetch, answered without"]


def test_flat_shards_of_what_trains_in_bf16_are_float32(read: Any) -> None:
    options = read(PLAIN_MODEL, OVER_FSDP + "  fsdp_version: 1\n").options
    assert (options["precision"], options["dtype"]) == ("amp", "float32")
    options = read(PLAIN_MODEL, OVER_FSDP + "  fsdp_version: 2\n").options
    assert (options["precision"], options["dtype"]) == ("fsdp-mixed", "float32")


def test_a_4_bit_base_over_shards(read: Any) -> None:
    """accelerate widens nothing beside it, and DeepSpeed's ZeRO-3 shares it."""
    eight = AXOLOTL.replace("adamw_bnb_8bit", "adamw_torch_8bit")
    shared = eight.replace("activation_offloading: legacy\n", "") + "fsdp: [full_shard]\n"
    file = read(shared + "fsdp_version: 2\n")
    assert (file.options["sharding"], file.options["precision"]) == ("fsdp", "fsdp-mixed")
    assert (file.options["optimizer"], gaps(file)) == ("adamw_torch_8bit", [])
    assert not {"dtype", "adapter_dtype"} & {*file.options}
    over_zero3 = read(TRL + "load_in_4bit: true\n", OVER_DEEPSPEED)
    assert (over_zero3.options["sharding"], gaps(over_zero3)) == ("zero3", [])


def test_adapters_over_flat_shards(read: Any) -> None:
    paged = AXOLOTL.replace("adamw_bnb_8bit", "paged_adamw_8bit") + "fsdp: [full_shard]\n"
    file = read(paged.replace("activation_offloading: legacy\n", ""))
    assert (file.options["sharding"], gaps(file)) == ("fsdp1-no-prefetch", [])
    assert file.options["optimizer"] == "paged_adamw_8bit"
    lora = paged.replace("load_in_4bit: true\nadapter: qlora", "adapter: lora")
    options = read(lora).options
    assert (options["precision"], options["adapter_dtype"]) == ("amp", "float32")
    assert "dtype" not in options  # what is frozen stays as it is loaded
    on_host = read(lora + "fsdp_config:\n  offload_params: true\n")
    assert "paged_adamw_8bit on the shards of FSDP, answered as adamw" in gaps(on_host)


def test_what_fsdp1_has_no_rules_for_is_answered_as_fsdp2_and_said(read: Any) -> None:
    adapters = LLAMAFACTORY.replace("finetuning_type: full", "finetuning_type: lora")
    flat = read(adapters, OVER_FSDP + "  fsdp_version: 1\n").options
    assert (flat["sharding"], flat["precision"]) == ("fsdp1-no-prefetch", "amp")
    assert flat["adapter_dtype"] == "float32" and flat.get("dtype") != "float32"
    saved = read(adapters + "additional_target: norm\n", OVER_FSDP + "  fsdp_version: 1\n")
    assert "FSDP1 of modules_to_save, answered as FSDP2" in gaps(saved)
    head = read(adapters + "additional_target: lm_head\n", OVER_FSDP + "  fsdp_version: 1\n")
    assert (head.options["sharding"], gaps(head)) == ("fsdp1-no-prefetch", [])
    assert head.options.get("dtype") != "float32"
    loss = read(FULL, OVER_FSDP + "  fsdp_version: 1\n")
    assert loss.options["sharding"] == "fsdp"
    assert gaps(loss) == ["FSDP1 of the trl loss, answered as FSDP2"]
    assert {key.direction for key in loss.not_modelled} == {"either way"}
    kept = read(PLAIN_MODEL, OVER_FSDP + "  fsdp_sharding_strategy: SHARD_GRAD_OP\n")
    assert gaps(kept) == ["FSDP1 that keeps layers whole, answered as FSDP2"]
    in_a_node = read(PLAIN_MODEL, OVER_FSDP + "  fsdp_sharding_strategy: HYBRID_SHARD\n")
    assert {key.direction for key in in_a_node.not_modelled} == {"too low"}


def test_the_switch_of_a_trainer_s_own_file(read: Any) -> None:
    file = read(PLAIN_MODEL + "fsdp: full_shard auto_wrap\n")
    assert (file.options["sharding"], file.asks) == ("fsdp", ("world_size",))  # transformers 5
    first = read(PLAIN_MODEL + "fsdp: full_shard\nfsdp_config:\n  version: 1\n")
    assert first.options["sharding"] == "fsdp1-no-prefetch"
    kept = read(PLAIN_MODEL + "fsdp: true\nfsdp_config:\n  reshard_after_forward: false\n")
    assert kept.options["sharding"] == "fsdp-no-reshard"
    full = "\n".join(
        line
        for line in AXOLOTL.splitlines()
        if not line.startswith(("adapter", "load_in", "lora", "optimizer"))
    )
    ours = "\nfsdp_config:\n  reshard_after_forward: true\n"
    assert read(full + ours).options["sharding"] == "fsdp1-no-prefetch"  # unless it says 2
    assert read(full + ours + "fsdp_version: 2\n").options["sharding"] == "fsdp"


def test_a_loss_that_needs_a_head_in_16_bit_goes_with_shards_gathered_in_it(read: Any) -> None:
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


# --- DeepSpeed ------------------------------------------------------------------------------------

STAGE_3 = {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True}}


def test_deepspeed_s_file_is_read_where_accelerate_s_names_it(read: Any) -> None:
    beside = """\
distributed_type: DEEPSPEED
num_processes: 8
deepspeed_config:
  deepspeed_config_file: ds.json
"""
    file = read(PLAIN_MODEL, beside, ds=STAGE_3)
    assert (file.options["sharding"], file.options["world_size"]) == ("zero3", 8)
    assert gaps(file) == []


def test_accelerate_s_stage_is_2_unless_it_is_said(read: Any) -> None:
    beside = "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config:\n"
    assert read(PLAIN_MODEL, beside + "  zero3_init_flag: false\n").options["sharding"] == "zero2"
    elsewhere = read(PLAIN_MODEL, beside + "  deepspeed_config_file: my/zero3.json\n")
    assert elsewhere.options["sharding"] == "zero3"


def test_a_bucket_of_auto_is_the_hidden_size_squared(read: Any) -> None:
    file = read(PLAIN_MODEL + "deepspeed: ds.json\n", ds=STAGE_3)
    model = find_model("Qwen/Qwen3-0.6B")
    assert "reduce_bucket_size" not in file.options
    assert on_model(file, model).options["reduce_bucket_size"] == 1024**2


def test_what_deepspeed_does_otherwise_than_known_is_said(read: Any) -> None:
    two = {"zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 2e8}}
    file = read(PLAIN_MODEL + "deepspeed: ds.json\n", ds=two)
    assert file.options["reduce_bucket_size"] == 200_000_000
    assert gaps(file) == ["a second reduce bucket (overlap_comm)"]
    three = {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1e7}}
    file = read(PLAIN_MODEL + "deepspeed: ds.json\n", ds=three)
    assert gaps(file) == ["limits of ZeRO-3 other than its defaults"]


MOVED = {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
BOTH = {**MOVED, "offload_param": {"device": "nvme", "nvme_path": "/nvme"}}


def moved(file: TrainerFile) -> tuple[str, str]:
    found = (file.options.get(f"offload_{what}_device", "none") for what in ("optimizer", "param"))
    optimizer, param = found
    return optimizer, param


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 2, **MOVED}, ("cpu", "none")),
        ({"stage": 3, **BOTH}, ("cpu", "nvme")),
        ({"stage": 2, **BOTH}, ("cpu", "none")),  # whose weights stay
        ({"stage": 2, "cpu_offload": True}, ("cpu", "none")),
        ({"stage": 3, "offload_optimizer": {"device": "none"}}, ("none", "none")),
    ],
)
def test_what_deepspeed_keeps_on_the_host(
    read: Any, zero: dict[str, Any], expected: tuple[str, str]
) -> None:
    file = read(PLAIN_MODEL + "deepspeed: ds.json\n", ds={"zero_optimization": zero})
    assert moved(file) == expected
    assert gaps(file) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ds_z2_offload_config.json", ("cpu", "none")),
        ("ds_z3_offload_config.json", ("cpu", "cpu")),
        ("zero3_bf16_cpuoffload_params.json", ("none", "cpu")),
        ("zero3_bf16_cpuoffload_all.json", ("cpu", "cpu")),
    ],
)
def test_a_name_tells_what_is_kept_on_the_host(
    read: Any, name: str, expected: tuple[str, str]
) -> None:
    """LLaMA-Factory's and axolotl's."""
    assert moved(read(PLAIN_MODEL + f"deepspeed: elsewhere/{name}\n")) == expected


def test_accelerate_s_own_keys_keep_on_the_host(read: Any) -> None:
    beside = """\
distributed_type: DEEPSPEED
num_processes: 8
deepspeed_config:
  zero_stage: 3
  offload_optimizer_device: cpu
  offload_param_device: cpu
"""
    file = read(PLAIN_MODEL, beside)
    assert (moved(file), gaps(file)) == (("cpu", "cpu"), [])
    one = read(PLAIN_MODEL, beside.replace("num_processes: 8", "num_processes: 1"))
    assert (moved(one), gaps(one)) == (("cpu", "cpu"), [])
    assert (one.options["sharding"], one.options["world_size"]) == ("zero3", 1)
    paged = read(PLAIN_MODEL + "optim: paged_adamw_8bit\n", beside)
    assert paged.options["optimizer"] == "adamw"
    assert gaps(paged) == ["paged_adamw_8bit on the host, answered as DeepSpeed's CPUAdam"]


def test_stage_1_moves_states_alone(read: Any) -> None:
    file = read(
        PLAIN_MODEL + "deepspeed: ds.json\n", ds={"zero_optimization": {"stage": 1, **MOVED}}
    )
    assert (file.options["sharding"], moved(file)) == ("zero1-deepspeed", ("cpu", "none"))
    assert file.completing({"world_size": 1})["sharding"] == "zero1-deepspeed"
    assert gaps(file) == []


# --- launchers ------------------------------------------------------------------------------------

SCRIPT = "trl/scripts/sft.py --model_name_or_path gpt2 --max_length 64"


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [
        ("torchrun --nproc_per_node 8", 8),
        ("torchrun --nproc_per_node=4 --nnodes=2", 8),
        ("torchrun --nproc-per-node 4 --nnodes 2:3", 8),
        ("deepspeed --num_gpus 4 --num_nodes 2", 8),
        ("accelerate launch --num_processes 8 --num_machines 2", 8),
    ],
)
def test_a_launcher_s_processes_are_ranks(tmp_path: Path, launcher: str, ranks: int) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"{launcher} {SCRIPT}\n")
    assert read_files([path]).options["world_size"] == ranks


def test_a_launcher_of_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"torchrun --nproc_per_node gpu {SCRIPT}\n")
    assert read_files([path]).asks == ("world_size",)
    path.write_text(f"torchrun --nproc_per_node many {SCRIPT}\n")
    with pytest.raises(TrainerFileError, match="number of processes: it must be a number"):
        read_files([path])


def test_generation_is_named_where_ranks_share_the_weights(read: Any) -> None:
    whole = read(GRPO + "deepspeed: ds.json\n", ds={"zero_optimization": {"stage": 2}})
    assert whole.options["generation_batch_size"] == 8
    shared = read(GRPO + "deepspeed: ds.json\n", ds=STAGE_3)
    assert "generation_batch_size" not in shared.options
    assert shared.options["use_vllm"]
    assert "generation under zero3, which gathers weights, answered as vLLM's" in gaps(shared)


@pytest.mark.parametrize(
    ("setting", "version", "missing"),
    [
        ("forward_prefetch: true", 1, "gathered ahead in forward"),
        ("fsdp_forward_prefetch: false", 1, ""),
        ("limit_all_gathers: false", 1, "without a limit"),
        ("limit_all_gathers: true", 1, ""),
        ("fsdp_limit_all_gathers: false", 2, ""),
    ],
)
def test_what_fsdp1_gathers_ahead_is_said(
    read: Any, setting: str, version: int, missing: str
) -> None:
    """FSDP2 has neither: accelerate refuses the one and leaves the other out."""
    config = f"fsdp: full_shard\nfsdp_config:\n  version: {version}\n  {setting}\n"
    found = gaps(read(PLAIN_MODEL + config))
    assert any(missing in gap for gap in found) if missing else found == []
