"""Live bytes inside a backward pass: autograd's own order, node by node, over what the ledger recorded.

At each node its incoming gradients, the tensors still saved, the new input gradients and the kernel's own workspace exist at
once; afterwards its saved tensors and incoming gradients are released. This is an estimate, not a replay: buffers that torch
reuses in place, and copies that a kernel makes on its own, can move a peak inside a layer by the error stated with the answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora_profiler.analytic.ledger import Node, Storage, Tensor
from lora_profiler.analytic.polynomial import ZERO, Polynomial, total


@dataclass(slots=True, eq=False)
class _Gradient:
    bytes: Polynomial
    users: int


def live_bytes(nodes: Sequence[Node], output: Tensor) -> tuple[Polynomial, ...]:
    """Largest live bytes during the backward of `nodes`, as few polynomials whose maximum it is, parameters left out.

    Counted are saved tensors of these nodes (shared ones left out), activation gradients and the parameter gradients that
    these nodes leave behind. `output` is the tensor whose gradient arrives first.
    """
    users: dict[Storage, int] = {}
    for node in nodes:
        for storage in node.saved:
            if storage.role != "shared":
                users[storage] = users.get(storage, 0) + 1
    live = total(storage.bytes for storage in users)
    pending: dict[Tensor, _Gradient] = {output: _Gradient(output.bytes, 1)}
    live = live + output.bytes
    candidates: list[Polynomial] = []

    for node in reversed(nodes):
        arrived = [pending.pop(t) for t in node.outputs if t in pending]
        if not arrived:
            continue
        made = ZERO
        for tensor in node.inputs:
            if not tensor.requires_grad or tensor.storage.role == "parameter":
                continue
            if node.aliases and tensor.dtype == node.outputs[0].dtype and tensor not in pending:
                arrived[0].users += 1
                pending[tensor] = arrived[0]
                continue
            known = pending.get(tensor)
            if known is None:
                pending[tensor] = _Gradient(tensor.bytes, 1)
                made = made + tensor.bytes
            elif known.users > 1:
                known.users -= 1
                pending[tensor] = _Gradient(tensor.bytes, 1)
                made = made + tensor.bytes
        live = live + made + node.gradients
        candidates.append(live + node.workspace)
        for gradient in arrived:
            gradient.users -= 1
            if gradient.users == 0:
                live = live - gradient.bytes
        for storage in node.saved:
            if storage in users:
                users[storage] -= 1
                if users[storage] == 0:
                    live = live - storage.bytes
    return undominated(candidates)


def undominated(candidates: Iterable[Polynomial]) -> tuple[Polynomial, ...]:
    """The candidates that can be the maximum for some sizes: those that no other one dominates coefficient by coefficient."""
    front: list[Polynomial] = []
    for candidate in candidates:
        if any(kept.dominates(candidate) for kept in front):
            continue
        front = [kept for kept in front if not candidate.dominates(kept)]
        front.append(candidate)
    return tuple(front)
