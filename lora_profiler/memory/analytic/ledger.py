"""The symbolic ledger: a forward pass on tensors without data, in which every op applies the rule
of what autograd keeps.

A family's forward pass calls these ops, and those of `matmuls.py`, in the order in which
transformers calls torch's. A tensor knows its element count (a polynomial in batch, sequence and
rank), its dtype, whether it requires grad, and its storage. Saved bytes are summed over distinct
storages, parameters and buffers left out, which is how `torch.autograd.graph.saved_tensors_hooks`
sees them: a view shares its storage, and a tensor kept by two ops counts once.

Every op also leaves a `Node`: what it saves, the FLOPs of its kernels, what its backward allocates.
`liveness.py` walks these nodes to find the live bytes inside a layer's backward pass,
`structure.py` sums their FLOPs, `kernels/` tells what a device launches for each.

Saving rules: torch's `derivatives.yaml`, checked against real models by
`tests/memory/test_saved_bytes.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, S, constant, total
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.base import Base
from lora_profiler.question.feature import part
from lora_profiler.question.model_spec import Module
from lora_profiler.question.option import Kernels, LoraKernels
from lora_profiler.question.workload import Loss, Qat, Transformers

# --- tensors without data -------------------------------------------------------------------------

# What the ledger works on: tensors without data, the storages behind them, and the autograd nodes
# that ops leave.

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


class Tensor:
    """A tensor without data. `merged` tells whether its (batch, head) dimensions can be viewed as
    one: a fresh tensor's can, a transposed view's only at batch size 1, and `matmul` copies what
    cannot."""

    __slots__ = ("_bytes", "dtype", "elements", "merged", "requires_grad", "storage")
    _bytes: Polynomial

    def __init__(
        self,
        elements: Polynomial,
        dtype: str,
        requires_grad: bool,
        storage: Storage,
        merged: bool = True,
    ) -> None:
        self.elements = elements
        self.dtype = dtype
        self.requires_grad = requires_grad
        self.storage = storage
        self.merged = merged

    @property
    def bytes(self) -> Polynomial:
        try:
            return self._bytes
        except AttributeError:
            self._bytes = self.elements * ITEMSIZE[self.dtype]
            return self._bytes


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
    is a copy; `flexes_sinks`: with sinks it is FlexAttention's; `compiled`: each layer is compiled;
    `rotates_pairs`: the rotary embedding turns neighbours. `fast_lora`: adapters are
    fms-acceleration's, `lora_kernels`: whose functions hold layers with their adapters;
    `freezes_a`: B alone trains. `nested_scales`: those of 4-bit weights are quantised too,
    `quantizes_experts`: packed experts are in 4 bit.
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
    flexes_sinks: bool = False
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


# --- the ledger -----------------------------------------------------------------------------------


def promoted(x: Tensor, y: Tensor) -> str:
    """The dtype of what is made of both: the wider one, float32 of float16 and bfloat16."""
    if x.dtype != y.dtype and ITEMSIZE[x.dtype] == ITEMSIZE[y.dtype]:
        return "float32"
    return x.dtype if ITEMSIZE[x.dtype] >= ITEMSIZE[y.dtype] else y.dtype


@dataclass(slots=True)
class Ledger:
    """Runs one part of the model: the weights it may use, and what became of them.

    `modules` and `adapters` are keyed by the names that the forward pass uses (relative to the
    layer inside a layer). `trainable` are the modules whose own weights receive gradients. `leaf`:
    see `inputs`; `scalars`: see `scale`. `cached` are autocast's copies of trained
    weights, by the weight's own storage; they live until autocast is left at the end of forward.
    `returned` is what a module hands on beside its output, for which the layer has a name until it
    ends.
    """

    rules: Rules
    modules: Mapping[str, Module]
    adapters: Mapping[str, Sequence[Adapter]]
    trainable: frozenset[str]
    nodes: list[Node] = field(default_factory=list)
    saved: dict[Storage, str] = field(default_factory=dict)
    scope: str = ""
    leaf: Tensor | None = None
    scalars: int = 0
    cached: dict[Storage, Tensor] = field(default_factory=dict)
    returned: tuple[Tensor, ...] = ()

    # --- tensors ----------------------------------------------------------------------------------

    def fresh(
        self, elements: Polynomial, dtype: str, requires_grad: bool, merged: bool = True
    ) -> Tensor:
        size = elements * ITEMSIZE[dtype]
        made = Tensor(elements, dtype, requires_grad, Storage(size), merged)
        made._bytes = size
        return made

    def weight(self, module: str, name: str = "weight") -> Tensor:
        """The parameter as the forward pass sees it."""
        shape = self.modules[module].weight(name)
        quantized = self.base(module) is not None
        dtype = self.rules.dtype if quantized else self.rules.unpacked(module)
        storage = Storage(ZERO, "parameter", f"{module}.{name}")
        return Tensor(constant(shape.numel), dtype, module in self.trainable, storage)

    def base(self, module: str) -> Base | None:
        """How a quantised layer runs: every linear one but the output head is."""
        is_replaced = self.modules[module].is_linear and module != self.rules.head
        return self.rules.base if is_replaced else None

    def has(self, module: str, name: str = "weight") -> bool:
        return module in self.modules and any(w.name == name for w in self.modules[module].weights)

    def view(self, x: Tensor, heads: int = 1) -> Tensor:
        """Another shape of the same storage. Where it parts features into several `heads`, a
        gradient whose heads come before its tokens in memory is copied on its way back."""
        out = Tensor(x.elements, x.dtype, x.requires_grad, x.storage, x.merged)
        self.record("view" if heads == 1 else "view_heads", (x,), (out,), aliases=True)
        return out

    def turn(self, x: Tensor) -> Tensor:
        """(b, s, heads, d) as (b, heads, s, d), a view; gradients pass through it without a
        copy."""
        out = Tensor(x.elements, x.dtype, x.requires_grad, x.storage, merged=False)
        self.record("turn", (x,), (out,), aliases=True)
        return out

    def shared(self, name: str, elements: Polynomial, dtype: str) -> Tensor:
        """A tensor made once per model and used by every layer; its storage counts once, under
        `name`."""
        return Tensor(elements, dtype, False, Storage(elements * ITEMSIZE[dtype], "shared", name))

    def positions(self) -> Tensor:
        """Position ids; those of packed rows come with the batch."""
        size = self.rules.positions
        return Tensor(
            size, "int64", False, Storage(size * 8, "input" if self.rules.packed else "activation")
        )

    def split(self, x: Tensor, sizes: Sequence[Polynomial]) -> tuple[Tensor, ...]:
        """`split` or `chunk`: parts that share x's storage; their gradients are concatenated."""
        return self._parts("split", x, sizes, x.merged)

    def slices(
        self, x: Tensor, sizes: Sequence[Polynomial], *, merged: bool = True
    ) -> tuple[Tensor, ...]:
        """Parts taken one by one (`x[..., a:b]`): each gradient is put into zeros of x's size, and
        these are added."""
        return self._parts("slices", x, sizes, merged)

    def halves(self, x: Tensor) -> Tensor:
        """The two halves of each head's features, as one that is used twice."""
        return self._parts("halves", x, (x.elements // 2,), False)[0]

    def _parts(
        self, op: str, x: Tensor, sizes: Sequence[Polynomial], merged: bool
    ) -> tuple[Tensor, ...]:
        parts = tuple(Tensor(size, x.dtype, x.requires_grad, x.storage, merged) for size in sizes)
        self.record(op, (x,), parts)
        return parts

    def record(
        self,
        op: str,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        saved: Sequence[Tensor] = (),
        forward_flops: Polynomial = ZERO,
        backward_flops: Polynomial = ZERO,
        gradients: Polynomial = ZERO,
        workspace: Polynomial = ZERO,
        aliases: bool = False,
        saves_output: bool = False,
        sizes: tuple[Polynomial, ...] = (),
        side_inputs: tuple[Tensor, ...] = (),
        lowers: tuple[Tensor, ...] = (),
        behind: tuple[Node, ...] = (),
    ) -> None:
        kept: list[Storage] = []
        requires_grad = outputs[0].requires_grad
        if requires_grad:
            for tensor in saved:
                if tensor.storage.role != "parameter" and tensor.storage not in kept:
                    kept.append(tensor.storage)
                    self.saved.setdefault(tensor.storage, self.scope)
        self.nodes.append(
            Node(
                module=self.scope,
                inputs=inputs,
                outputs=outputs,
                saved=tuple(kept),
                forward_flops=forward_flops,
                backward_flops=backward_flops if requires_grad else ZERO,
                gradients=gradients,
                workspace=workspace,
                aliases=aliases,
                saves_output=saves_output,
                packs=requires_grad and bool(saved),
                op=op,
                sizes=sizes,
                side_inputs=side_inputs,
                lowers=lowers,
                behind=behind,
            )
        )

    # --- element by element -----------------------------------------------------------------------

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        if x.dtype == dtype:
            return x
        out = self.fresh(x.elements, dtype, x.requires_grad, x.merged)
        self.record("_to_copy", (x,), (out,))
        return out

    def scale(self, x: Tensor) -> Tensor:
        """x times or divided by a Python number: saves nothing but that number, 8 bytes of host
        memory."""
        self.scalars += x.requires_grad
        return self._alike("scale", x)

    def scale_by(self, x: Tensor, factor: Tensor) -> Tensor:
        """x times a buffer of one element, which is no activation."""
        return self._alike("scale", x, factor)

    def shift(self, x: Tensor) -> Tensor:
        """x plus a Python number: saves nothing."""
        return self._alike("shift", x)

    def negate(self, x: Tensor) -> Tensor:
        """-x: saves nothing."""
        return self._alike("neg", x)

    def _alike(self, op: str, x: Tensor, *side_inputs: Tensor) -> Tensor:
        out = self.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
        self.record(op, (x,), (out,), side_inputs=side_inputs)
        return out

    def mask(self, x: Tensor, mask: Tensor) -> Tensor:
        """x plus a mask that needs no gradient, in the wider dtype: saves nothing."""
        dtype = promoted(x, mask)
        out = self.fresh(x.elements, dtype, x.requires_grad, x.merged)
        self.record("mask", (x,), (out,), side_inputs=(mask,))
        return out

    def copy(self, x: Tensor, times: int = 1) -> Tensor:
        """`contiguous()`, `clone()` or a repetition that really copies."""
        out = self.fresh(x.elements * times, x.dtype, x.requires_grad)
        self.record("clone", (x,), (out,))
        return out

    def expand(self, x: Tensor, times: int) -> Tensor:
        """A repetition by stride 0: no copy, the same storage."""
        out = Tensor(x.elements * times, x.dtype, x.requires_grad, x.storage, merged=False)
        self.record("expand", (x,), (out,))
        return out

    def keep(self, *tensors: Tensor) -> None:
        """A Python name (an argument, a local variable) keeps these alive until here, whether they
        are used again or not."""
        self.nodes[-1].holds += tensors

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y in the wider dtype; both get the same gradient, converted where their dtype
        differs."""
        dtype = promoted(x, y)
        out = self.fresh(x.elements, dtype, x.requires_grad or y.requires_grad, x.merged)
        self.record("add", (x, y), (out,), aliases=x.dtype == y.dtype)
        return out

    def multiply(self, x: Tensor, y: Tensor, *, elements: Polynomial | None = None) -> Tensor:
        """x * y: keeps each factor for the other's gradient. `elements`: broadcast, else x's."""
        dtype = promoted(x, y)
        out = self.fresh(
            elements or x.elements, dtype, x.requires_grad or y.requires_grad, x.merged
        )
        saved = [a for a, b in ((x, y), (y, x)) if b.requires_grad]
        broadcast = [t for t in (x, y) if t.requires_grad and t.elements != out.elements]
        gradients = total(
            t.bytes for t in (x, y) if t.requires_grad and t.storage.role == "parameter"
        )
        self.record(
            "mul", (x, y), (out,), saved, gradients=gradients, workspace=out.bytes * len(broadcast)
        )
        return out

    def square(self, x: Tensor) -> Tensor:
        """x.pow(2), or 3: keeps x. Autocast runs it in float32 on CUDA."""
        if self.rules.autocast and self.rules.device != "cpu":
            x = self.cast(x, "float32")
        out = self.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
        self.record("pow", (x,), (out,), (x,), workspace=x.bytes)
        return out

    def activation(self, x: Tensor, name: str, *, keeps_output: bool = False) -> Tensor:
        """silu and gelu keep their input; relu, tanh, rsqrt, softmax and sigmoid their output."""
        out = self.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
        self.record(name, (x,), (out,), (out if keeps_output else x,), saves_output=keeps_output)
        return out

    def reduce(self, x: Tensor, elements: Polynomial, name: str) -> Tensor:
        """ "mean" or "sum" over some dimensions: saves nothing, its gradient is expanded without a
        copy."""
        out = self.fresh(elements, x.dtype, x.requires_grad)
        self.record(name, (x,), (out,))
        return out

    def concatenate(self, *parts: Tensor, elements: Polynomial) -> Tensor:
        """Where `parts` stand for more than they are, `elements` says how much is read and
        written."""
        out = self.fresh(elements, parts[0].dtype, any(p.requires_grad for p in parts))
        self.record("cat", parts, (out,))
        return out

    def pad(self, x: Tensor, width: int, padded: int) -> Tensor:
        """The last dimension of `width` filled up with zeros."""
        out = self.fresh(x.elements // width * padded, x.dtype, x.requires_grad)
        self.record("constant_pad_nd", (x,), (out,))
        return out

    def dropout(self, x: Tensor, p: float) -> Tensor:
        """Keeps its mask where x requires grad: one byte an element on CUDA, the noise in x's dtype
        on CPU."""
        if p == 0.0 or not self.rules.trains:
            return x
        out = self.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
        mask = self.fresh(x.elements, x.dtype if self.rules.device == "cpu" else "bool", False)
        self.record("native_dropout", (x,), (out,), (mask,), saves_output=True, side_inputs=(mask,))
        return out

    def softmax(self, x: Tensor, dtype: str) -> Tensor:
        """softmax(x, dtype=dtype): keeps its output. CUDA's kernel reads float16 and sums in
        float32, and its backward writes float16; else a copy of x is made first (torch
        `native/SoftMax.cpp`, half_to_float)."""
        reads_float16 = self.rules.device == "cuda" and (x.dtype, dtype) == ("float16", "float32")
        scores = x if reads_float16 else self.cast(x, dtype)
        out = self.fresh(x.elements, dtype, x.requires_grad)
        self.record(
            "_softmax",
            (scores,),
            (out,),
            (out,),
            saves_output=True,
            workspace=self._softmax_product(out),
        )
        return out

    def safe_softmax(self, x: Tensor, dtype: str) -> Tensor:
        """SDPA's softmax of float32 scores, in which masked rows become zeros. It returns them in
        `dtype` too, for nobody."""
        out = self.fresh(x.elements, x.dtype, x.requires_grad)
        returned = self.fresh(x.elements, dtype, False)
        self.record(
            "_safe_softmax",
            (x,),
            (out,),
            (out,),
            saves_output=True,
            side_inputs=(returned,),
            workspace=self._softmax_product(out),
        )
        return out

    def _softmax_product(self, out: Tensor) -> Polynomial:
        """CUDA's backward of softmax multiplies gradient and output into a tensor of its own first
        (torch `native/cuda/SoftMax.cu`, softmax_backward_cuda_out); the CPU's does not."""
        return ZERO if self.rules.device == "cpu" else out.bytes

    def lowered(self, x: Tensor) -> Tensor:
        """x as autocast hands it to a product: a copy per call, unless it is in that dtype
        already."""
        return self.cast(x, self.rules.autocast) if self.rules.autocast else x

    # --- norms, embeddings ------------------------------------------------------------------------

    def layer_norm(self, x: Tensor, name: str, rows: Polynomial = TOKENS) -> Tensor:
        """nn.LayerNorm: keeps x, mean and 1/std; the statistics are float32 on CUDA and x's dtype
        on CPU.

        Autocast runs it in float32 on CUDA, for which weight and bias are copied and kept, and
        leaves it alone on CPU.
        """
        self.scope = name
        widens = self.rules.autocast and self.rules.device != "cpu"
        if widens:
            x = self.cast(x, "float32")
        module = self.modules.get(name)
        weights = tuple(self.weight(name, w.name) for w in module.weights) if module else ()
        trains = any(weight.requires_grad for weight in weights)
        out = self.fresh(x.elements, x.dtype, x.requires_grad or trains)
        statistics = self.fresh(
            rows * 2, x.dtype if self.rules.device == "cpu" else "float32", False
        )
        copies = [
            self.fresh(weight.elements, "float32", False)
            for weight in weights
            if widens and weight.dtype != "float32"
        ]
        self.record(
            "native_layer_norm",
            (x,),
            (out,),
            (x, statistics, *copies),
            gradients=total(weight.bytes for weight in weights if weight.requires_grad),
            workspace=total(copy.bytes for copy in copies) if trains else ZERO,
            side_inputs=(*weights, statistics),
        )
        return out

    # --- the model's ends -------------------------------------------------------------------------

    def inputs(self, x: Tensor) -> Tensor:
        """The output of the input embedding, which `enable_input_require_grads` makes a leaf that
        requires grad."""
        if self.rules.input_grads and not x.requires_grad:
            self.leaf = Tensor(x.elements, x.dtype, True, x.storage)
            return self.leaf
        return x
