"""Live bytes inside a layer: what the forward pass and autograd hold from node to node, over what
the ledger recorded.

Forward: a tensor lives until its last use, or for good if it is saved. Backward: at each node its
incoming gradients, the tensors still saved, the new input gradients and the kernel's own workspace
exist at once; afterwards its saved tensors and incoming gradients are released. Both are estimates,
not replays: Python names that outlive a last use, buffers that torch reuses in place, and copies
that a kernel makes on its own can move a peak inside a layer by the error stated with the answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler._common.polynomial import (
    ZERO,
    Polynomial,
    RunningSum,
    constant,
    total,
    undominated,
)
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Node, Storage, Tensor

LEAST_MOVED = 1024
"""Bytes from which on OffloadActivations moves a tensor; a size that grows with the batch is taken
for more."""
STASH = 5
"""Tensors saved one after the other of which it has the moved ones still on the card."""


def is_moved(storage: Storage, *, shared: bool = False) -> bool:
    """`shared`: or would be, of what all layers save."""
    size = storage.bytes
    fixed = size.evaluate(1, 1, 1)
    may_move = storage.role == "activation" or (shared and storage.role == "shared")
    return may_move and (size != constant(fixed) or fixed >= LEAST_MOVED)


def on_host(nodes: Sequence[Node]) -> frozenset[Storage]:
    """What of the saved tensors OffloadActivations rids the card of: what is saved once."""
    savers = Counter(storage for node in nodes for storage in node.saved)
    return frozenset(s for s, times in savers.items() if times == 1 and is_moved(s))


_TRANSPOSED = ("cudnn", "flash", "efficient")
"""Attention whose output has its heads beside each other in memory."""


def returned(nodes: Sequence[Node], *, by_axolotl: bool) -> list[Polynomial]:
    """Bytes that come back from the host for each node of a layer that ran again under
    OffloadActivations: a copy of what was saved for the first time. axolotl moves weights too,
    which are transposed when they are saved, and so no parameters to it, and copies what is
    transposed, so that attention's output is moved again as the next layer's input."""
    seen: set[Storage | str] = set()
    sizes = []
    for node in nodes:
        fresh = {s.name or s: s for s in node.saved if (s.name or s) not in seen}
        if not (by_axolotl and node.op in _TRANSPOSED):
            seen.update(fresh)
        size = total(s.bytes for s in fresh.values() if is_moved(s, shared=True))
        if by_axolotl and node.op == "linear" and node.packs:
            size += total(t.bytes for t in node.inputs if t.storage.role == "parameter")
        sizes.append(size)
    return sizes


@dataclass(slots=True, eq=False)
class _Gradient:
    bytes: Polynomial
    users: int

    def release(self) -> Polynomial:
        """One user less; the bytes that this frees."""
        self.users -= 1
        return ZERO if self.users else self.bytes


def forward_bytes(
    nodes: Sequence[Node],
    start: Tensor,
    output: Tensor,
    *,
    stop: int,
    promotes: bool,
    keeps: bool = True,
    moved: frozenset[Storage] = frozenset(),
) -> tuple[Polynomial, ...]:
    """Largest live bytes while the first `stop` of `nodes` run forward with autograd on, the
    storage of `start` left out.

    `promotes`: an op on two dtypes first copies the narrower operand, as torch's CPU kernels do.
    `keeps`: what autograd saves lives on; inside a checkpoint it is let go as soon as nothing else
    needs it. `moved` wait on the host once `STASH` tensors were saved after them.
    """
    last_use: dict[Storage, int] = {}
    kept: set[Storage] = {start.storage, output.storage}
    for i, node in enumerate(nodes):
        last_use.update((t.storage, i) for t in (*node.inputs, *node.outputs, *node.holds))
        if keeps:
            kept.update(s for s in node.saved if s not in moved)
            last_use.update((s, _copied(nodes, i)) for s in node.saved if s in moved)
        else:
            last_use.update((storage, i) for storage in node.saved)
    dying: dict[int, list[Storage]] = {}
    for storage, i in last_use.items():
        if storage not in kept and storage.role == "activation":
            dying.setdefault(i, []).append(storage)

    seen = {start.storage}
    live = RunningSum(ZERO)
    candidates = []
    for i, node in enumerate(nodes[:stop]):
        for storage in (*(t.storage for t in node.outputs), *node.saved):
            if storage not in seen and storage.role == "activation":
                seen.add(storage)
                live.add(storage.bytes)
        candidates.append(live.value + _promoted(node) if promotes else live.value)
        for storage in dying.get(i, ()):
            live.subtract(storage.bytes)
    return undominated(candidates)


def _copied(nodes: Sequence[Node], index: int) -> int:
    """The node at which what `index` saved has been copied, or the last one."""
    after = 0
    for i, node in enumerate(nodes[index + 1 :], index + 1):
        after += len(node.saved) + sum(t.storage.role == "parameter" for t in node.inputs)
        if after >= STASH:
            return i
    return len(nodes) - 1


def _promoted(node: Node) -> Polynomial:
    widths = [ITEMSIZE[t.dtype] for t in node.inputs]
    if len(widths) < 2 or min(widths) == max(widths):
        return ZERO
    narrow = (t for t in node.inputs if ITEMSIZE[t.dtype] < max(widths))
    return total(t.elements * max(widths) for t in narrow)


def waiting_gradients(nodes: Sequence[Node], output: Tensor) -> Polynomial:
    """Bytes of the gradients that wait when backward comes to the first node that needs a saved
    tensor: with checkpointing the forward pass runs again there, beside them."""
    behind = next((i for i in range(len(nodes), 0, -1) if nodes[i - 1].packs), 0)
    return backward_bytes(nodes[behind:], output)[1]


def backward_bytes(
    nodes: Sequence[Node],
    output: Tensor,
    *,
    keeps_gradient: bool = False,
    keeps_parameters: bool = True,
    moved: frozenset[Storage] = frozenset(),
    returned: Sequence[Polynomial] = (),
) -> tuple[tuple[Polynomial, ...], Polynomial]:
    """Largest live bytes during the backward of `nodes`, as few polynomials whose maximum it is,
    and those at its end; parameters left out.

    Counted are saved tensors of these nodes (shared ones left out), activation gradients and the
    parameter gradients that these nodes leave behind. `output` is the tensor whose gradient arrives
    first; `keeps_gradient`: somebody else holds that one until the end. Without `keeps_parameters`
    those of parameters go as soon as they are there. `moved` come back from the host for their node
    and stay until the next that needs some has run; or `returned` bytes come back for each node and
    stay.
    """
    users: dict[Storage, int] = {}
    for node in nodes:
        for storage in node.saved:
            if storage.role != "shared" and storage not in moved:
                users[storage] = users.get(storage, 0) + 1
    live = RunningSum(total(storage.bytes for storage in users))
    pending: dict[Tensor, _Gradient] = {output: _Gradient(output.bytes, 1 + keeps_gradient)}
    live.add(output.bytes)
    candidates: list[Polynomial] = []
    before_it = ZERO  # what came back for the node before

    for index, node in reversed([*enumerate(nodes)]):
        arrived = [pending.pop(t) for t in node.outputs if t in pending]
        if not arrived:
            continue
        back = ZERO
        if moved:
            back = total(storage.bytes for storage in node.saved if storage in moved)
        live.add(returned[index] if returned else back)
        if node.behind:
            x = node.inputs[0]
            inside = forward_bytes(node.behind, x, x, stop=len(node.behind), promotes=False)
            candidates += [live.value + size for size in inside]
        sums: list[tuple[Tensor, bool]] = []
        for tensor in node.inputs:
            if not tensor.requires_grad or tensor.storage.role == "parameter":
                continue
            passes_on = node.aliases and tensor.dtype == node.outputs[0].dtype
            if tensor in pending:
                sums.append((tensor, passes_on))
            elif passes_on:
                arrived[0].users += 1
                pending[tensor] = arrived[0]
            else:
                pending[tensor] = _Gradient(tensor.bytes, 1)
            if not passes_on:
                live.add(tensor.bytes)
        live.add(node.gradients)
        if not node.behind:  # else what it saved is let go before gradients are converted
            candidates.append(live.value + node.workspace)
        if not keeps_parameters:
            live.subtract(node.gradients)
        if back != ZERO and not returned:
            live.subtract(before_it)
            before_it = back

        for storage in node.saved:
            if storage in users:
                users[storage] -= 1
                if users[storage] == 0:
                    live.subtract(storage.bytes)
        for gradient in arrived:
            live.subtract(gradient.release())
        for tensor, passes_on in sums:
            before = pending[tensor]
            if before.users > 1:  # somebody else holds it, so the sum is a tensor of its own
                live.add(tensor.bytes)
                live.subtract(before.release())
                candidates.append(live.value)
                pending[tensor] = _Gradient(tensor.bytes, 1)
            if not passes_on:
                live.subtract(tensor.bytes)
    return undominated(candidates), live.value
