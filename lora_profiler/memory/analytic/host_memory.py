"""What lies in the host's memory instead of the card's, of one rank: bytes of tensors by category.

Sources: torch 2.13 `distributed/fsdp/_fully_shard/_fsdp_param.py` and `_fsdp_collectives.py`
(foreach_reduce) for FSDP2's shards, `distributed/fsdp/_flat_param.py` for FSDP1's.
"""

from dataclasses import replace

from lora_profiler._common.polynomial import ZERO, Polynomial, constant
from lora_profiler.memory.analytic.activations import Activations
from lora_profiler.memory.analytic.persistent import total_state_bytes, unpacked_dtype
from lora_profiler.memory.analytic.sharding import ShardState, Unit
from lora_profiler.memory.prediction import Category
from lora_profiler.question.support.offloading import embeddings_on_host
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup, Workload


def kept_on_host(shards: ShardState, setup: TrainSetup) -> ShardState:
    """`shards` where a rank's weights, gradients and optimizer states stay on the host: what is
    gathered and reduced comes to the card, and nothing that trains stays there, but under FSDP1 its
    gradients until backward is over (`distributed/fsdp/_runtime_utils.py`,
    _accumulate_sharded_grad). States are those of the CPU's optimizer, step counters among them."""
    share = shards.state
    steps = replace(setup, device="cpu", attention="auto")  # FlashAttention 2 has no place there
    states = total_state_bytes(shards.stepped.trainable, steps)
    nothing = replace(share, parameter_bytes=0, adapter_bytes=ZERO, order=())

    def sent_off(unit: Unit) -> Unit:
        return unit._replace(reduced_share=unit.reduced_share * shards.flat)

    return replace(
        shards,
        state=nothing,
        stepped=nothing,
        units=tuple(map(sent_off, shards.units)),
        root=shards.root and sent_off(shards.root),
        embed=shards.embed and sent_off(shards.embed),
        head=shards.head and sent_off(shards.head),
        host={
            "parameters": constant(share.parameter_bytes),
            "adapters": share.adapter_bytes,
            "gradients": share.gradient_bytes,
            "optimizer_states": states,
        },
    )


def without_embeddings(shards: ShardState, workload: Workload) -> ShardState:
    """`shards` of a process alone where embeddings' rows are looked up on the host."""
    moved = sum(
        module.weights[0].numel * DTYPE_BYTES[unpacked_dtype(name, workload.setup)]
        for name, module in embeddings_on_host(workload)
    )
    if not moved:
        return shards
    own = replace(shards.state, parameter_bytes=shards.state.parameter_bytes - moved)
    return replace(shards, state=own, stepped=own, host={"parameters": constant(moved)})


def host_bytes(kept: Activations | None, shards: ShardState) -> dict[Category, Polynomial]:
    """What a rank keeps on the host: its shards, and what layers keep that waits there."""
    sizes = dict(shards.host)
    if kept is not None:
        sizes["activations"] = kept.moved.hosted
    return sizes
