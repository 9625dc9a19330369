"""Unsloth's checkpoints: layers' inputs that wait in the host's memory. No torch.

Source: unsloth-zoo 2026.10.9, `gradient_checkpointing.py` (UnslothCheckpointFunction): inputs of
more than 2 MiB are moved, the last layer's is not, and two buffers on the card, which grow to the
longest, take them back in turn; the second one where half a GiB is free.
"""

from lora_profiler.errors import UsageError
from lora_profiler.workload import FULLY_SHARDED, Workload

LEAST_OFFLOADED = 2**20
"""Elements of an input that stays, in 16 bit."""


def is_offloaded(workload: Workload) -> bool:
    """Whether layers' inputs are long enough to be moved."""
    setup = workload.setup
    if not setup.offload_checkpoints or not setup.checkpointing:
        return False
    config = workload.model.config
    width = config.get("hidden_size") or config.get("n_embd", 0)
    return bool(setup.batch_size * setup.seq_len * width > LEAST_OFFLOADED)


def check_offloading(workload: Workload) -> None:
    """Raises UsageError where nothing here says what is moved."""
    setup = workload.setup
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
