"""What waits in the host's memory: layers' inputs, and FSDP's shards. No torch.

Source: unsloth-zoo ce232d6, `gradient_checkpointing.py` (initialize_unsloth_gradient_checkpointing,
UnslothCheckpointFunction): inputs of more than a million numbers are moved, the last layer's is
not, and two buffers on the card, which grow to the longest, take them back in turn.
"""

from lora_profiler.errors import UsageError
from lora_profiler.workload import FULLY_SHARDED, TrainSetup, Workload

LEAST_OFFLOADED = 2**20
"""Elements of an input that stays, and of each of the two buffers at first."""


def is_offloaded(workload: Workload) -> bool:
    """Whether layers' inputs are long enough to be moved."""
    setup = workload.setup
    if not setup.offload_checkpoints or not setup.checkpointing:
        return False
    config = workload.model.config
    width = config.get("hidden_size") or config.get("n_embd", 0)
    return bool(setup.batch_size * setup.seq_len * width > LEAST_OFFLOADED)


def moves_activations(setup: TrainSetup) -> bool:
    """Whether what layers keep is moved as TRL and torchtune do it."""
    return setup.offload_activations


def check_offloading(workload: Workload) -> None:
    """Raises UsageError where nothing here says what is moved."""
    setup = workload.setup
    if setup.offload_params:
        _check_shards(setup)
    if not setup.offload_checkpoints or not setup.checkpointing:
        return
    if setup.device != "cuda":
        raise UsageError(
            f"there is no host to move checkpoints to beside device {setup.device}; leave"
            " --offload-checkpoints out."
        )
    if setup.sharding in FULLY_SHARDED or setup.sharding in ("zero3", "tp"):
        raise UsageError(
            "offloaded checkpoints are known where each rank has all weights; take --sharding ddp,"
            " or leave out --offload-checkpoints."
        )


def _check_shards(setup: TrainSetup) -> None:
    if setup.sharding not in FULLY_SHARDED:
        raise UsageError(
            f"sharding {setup.sharding} keeps no shards on the host; take --sharding fsdp, or leave"
            " --offload-params out."
        )
    if setup.device != "cuda":
        raise UsageError(
            f"there is no host to move shards to beside device {setup.device}; leave"
            " --offload-params out."
        )


PINNED = (
    "Shards and gradients on the host are pinned, which torch takes in powers of two, a tensor at a"
    " time: up to twice their bytes; optimizer states are not."
)
