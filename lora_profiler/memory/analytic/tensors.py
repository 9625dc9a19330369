"""What the ledger works on: tensors without data, the storages behind them, and the autograd nodes
that ops leave."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, S
from lora_profiler.question.base import Base
from lora_profiler.question.feature import part
from lora_profiler.question.option_values import Kernels, LoraKernels
from lora_profiler.question.workload import Loss, Qat, Transformers

ITEMSIZE = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "bool": 1,
}


class Storage:
    """Bytes behind one or more tensors. `role` is "parameter", "buffer" or "input" (counted
    elsewhere),
    "shared" (made once per model, such as the rotary tables; `name` says which) or "activation"."""

    __slots__ = ("bytes", "name", "role")

    def __init__(self, size: Polynomial, role: str = "activation", name: str = "") -> None:
        self.bytes = size
        self.role = role
        self.name = name


@dataclass(slots=True, eq=False)
class Tensor:
    """A tensor without data. `merged` tells whether its (batch, head) dimensions can be viewed as
    one: a fresh tensor's can, a transposed view's only at batch size 1, and `matmul` copies what
    cannot."""

    elements: Polynomial
    dtype: str
    requires_grad: bool
    storage: Storage
    merged: bool = True

    @property
    def bytes(self) -> Polynomial:
        return self.elements * ITEMSIZE[self.dtype]


@dataclass(slots=True, eq=False)
class Node:
    """One autograd node. `gradients` are parameter-gradient bytes that its backward leaves behind,
    `workspace` what its backward allocates beside input gradients and frees again; `aliases` says
    that it hands its gradient on without a copy. `packs` (saves anything, parameters included) and
    `saves_output` matter to checkpointing, whose recompute stops as soon as the last saved tensor
    exists: before the kernel that keeps its inputs, after the one that keeps what it makes. `holds`
    are tensors that a Python name keeps alive until then.

    `op` names the operator, after torch where it is one of torch's, and decides which kernels run
    (`kernels/`). A product has `sizes` (batches, m, n, k); `side_inputs` are what the kernel reads
    and no gradient passes through here: biases, masks, the weights of a layer norm. `lowers` are
    weights that autocast copies for this node alone. `behind` is what its backward runs where that
    is a program of its own, as of a `torch.autograd.Function` (`features/lora_kernels`)."""

    module: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    saved: tuple[Storage, ...] = ()
    forward_flops: Polynomial = ZERO
    backward_flops: Polynomial = ZERO
    gradients: Polynomial = ZERO
    workspace: Polynomial = ZERO
    aliases: bool = False
    saves_output: bool = False
    packs: bool = False
    holds: tuple[Tensor, ...] = ()
    op: str = ""
    sizes: tuple[Polynomial, ...] = ()
    side_inputs: tuple[Tensor, ...] = ()
    lowers: tuple[Tensor, ...] = ()
    behind: tuple["Node", ...] = ()


class VocabularyShards(NamedTuple):
    """A vocabulary of which each of several ranks has a part."""

    words: int
    ranks: int


class Rules(NamedTuple):
    """What decides between saving rules: device, kernels, dtypes, dropout, and the few sizes at
    which a rule flips.

    `kernel` is attention's where there is no mask, `masked_kernel` where there is one; grouped
    heads are repeated for the efficient one where it takes none (`repeats_heads`).

    `base` is how quantised layers run. `rest_dtype` is the dtype of what is not quantised, and so
    of the residual stream, but for modules of other `unpacked_dtypes`; `head` the output layer,
    which never is quantised; `spread`: each of several ranks has a part of its words.
    `autocast`: what matrix products and attention run in whatever their inputs are.
    `input_grads`: the embeddings' output is made to require grad.
    `masked_layers` get an explicit mask: their sliding window is filled, or rows hold several
    sequences. `one_row`: a micro-batch is one row; `attended` are the pairs of tokens of a row that
    attention computes. `kernels` replace pieces of the forward pass; `copies_attention`: its output
    is a copy; `compiled`: each layer is compiled; `rotates_pairs`: the rotary embedding turns
    neighbours. `fast_lora`: adapters are fms-acceleration's, `lora_kernels`: whose functions hold
    layers with their adapters; `freezes_a`: B alone trains. `nested_scales`: those of 4-bit weights
    are quantised too, `quantizes_experts`: packed experts are in 4 bit.
    `repeats_always`: keys and values are repeated before any kernel of attention. `rotary_tables`:
    cosines and sines are made once a pass, lie in a buffer, or are made at each call. `reentrant`:
    layers are checkpointed by that kind; `steps_in_backward`: gradients of parameters go as they
    come. `gathers_low`: float32 adapters are in the dtype of autocast while they run, by FSDP.
    `keeps_inputs`: products are DeepSpeed's, which keep them for frozen weights too.
    `moves_activations`: what layers save waits on the host, `by_axolotl` weights too. `chunk_rows`:
    tokens that the head takes at a time, None for all logits at once (`losses.chunk_regime`).
    Dropout is for what `trains`. `keeps_seeds`: the efficient kernel leaves its seeds on the card.
    """

    device: str
    kernel: str
    masked_kernel: str
    repeats_heads: bool
    keeps_seeds: bool
    dtype: str
    adapter_dtype: str
    lora_dropout: float
    base: Base | None
    rest_dtype: str
    autocast: str | None
    head: str | None
    one_row: bool
    seq_is_one: bool
    input_grads: bool
    masked_layers: frozenset[int] = frozenset()
    packed: bool = False
    kernels: Kernels = "transformers"
    rotates_pairs: bool = False
    fast_lora: bool = False
    torchtune_dora: bool = False
    """Adapters are torchtune's DoRA."""
    freezes_a: bool = False
    lora_kernels: LoraKernels = "peft"
    copies_attention: bool = False
    compiled: bool = False
    nested_scales: bool = False
    quantizes_experts: bool = False
    repeats_always: bool = False
    rotary_tables: Literal["once", "buffer", "each"] = "once"
    reentrant: bool = False
    steps_in_backward: bool = False
    gathers_low: bool = False
    keeps_inputs: bool = False
    moves_activations: bool = False
    by_axolotl: bool = False
    unpacked_dtypes: tuple[tuple[str, str], ...] = ()
    transformers: Transformers = "5"
    attended: Polynomial = S * S
    chunk_rows: int | None = None
    loss: Loss = "plain"
    trains: bool = True
    qat: Qat = "none"
    qat_group_size: int = 32
    qat_adapted_alone: bool = False
    spread: VocabularyShards | None = None
    ring: int = 1
    """Ranks among which keys and values go round, each with a part of the tokens."""
    qat_rounds_head: bool = True

    def replaced(self, piece: str) -> Any:
        """What `kernels` have in place of a piece of the forward pass, or None."""
        pieces = part("kernels", self.kernels, "law", "REPLACED")
        return pieces.get(piece) if pieces else None

    def unpacked(self, module: str) -> str:
        """Dtype of the weights of a module that is not quantised."""
        return dict(self.unpacked_dtypes).get(module, self.rest_dtype)

    @property
    def positions(self) -> Polynomial:
        """Distinct position ids: (1, s), of packed rows and where ranks share a row (b, s)."""
        return TOKENS if self.packed or self.ring > 1 else S
