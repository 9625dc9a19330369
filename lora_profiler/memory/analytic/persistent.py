"""What lives through the whole step: weights (also in NF4), adapters, and what each trainable
tensor brings with it.

Sources: `support/bases.py` for quantised bases; PEFT `tuners/lora` for adapters;
memory rules checked against real models by `tests/memory/test_persistent.py`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from lora_profiler._common.polynomial import (
    ZERO,
    Polynomial,
    R,
    constant,
    product,
    total,
    undominated,
)
from lora_profiler.errors import UsageError
from lora_profiler.question.adapter_method import of_method
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.base import nf4_bytes
from lora_profiler.question.feature import part
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module, StoredBase
from lora_profiler.question.optimizer import PackageOptimizer, optimizer_facts, package_optimizer
from lora_profiler.question.support.bases import (
    BACK_IN_16_BIT,
    adapter_dtype,
    is_packed_expert,
    is_wide_end,
    layer_bytes,
    stored_base,
)
from lora_profiler.question.support.images import part_of
from lora_profiler.question.support.library_memory import has_reference
from lora_profiler.question.support.optimizers import (
    second_averages,
    steps_in_groups,
    widens_embeddings,
)
from lora_profiler.question.workload import DTYPE_BYTES, Dtype, TrainSetup

TRACED_ALONE = (
    "what {} trains is known by a trace of PEFT's own code alone. Leave --engine out, and install"
    " what a trace needs: pip install 'lora-profiler[measure]'."
)

# --- what lives through the step ------------------------------------------------------------------


class StateKind(NamedTuple):
    """What an optimizer makes of one tensor and not of all: `is_wide` where its states are in 32
    bit whatever the optimizer's are; `is_projected` where they are of a projected gradient;
    `averages` is how many second averages there are, None for one a weight; `is_frozen` where it
    trains nothing of it: A under LoRA-FA; `is_idle` where no gradient arrives: in a vision tower
    when every batch is text."""

    is_wide: bool = False
    is_projected: bool = False
    averages: int | None = None
    is_frozen: bool = False
    is_idle: bool = False


_PLAIN = StateKind()


class TrainableTensor(NamedTuple):
    """A tensor that receives a gradient: its shape (polynomials in the rank), its dtype, and what
    an optimizer makes of it."""

    shape: tuple[Polynomial, ...]
    dtype: str
    kind: StateKind = _PLAIN

    @property
    def numel(self) -> Polynomial:
        return product(self.shape)

    @property
    def bytes(self) -> Polynomial:
        return self.numel * DTYPE_BYTES[self.dtype]

    def bytes_at(self, rank: int) -> int:
        """With adapters of `rank`."""
        return numel_at(self, rank) * DTYPE_BYTES[self.dtype]


@lru_cache(maxsize=1024)
def numel_at(tensor: TrainableTensor, rank: int) -> int:
    """Elements with adapters of `rank`; a model has many tensors of few shapes."""
    return tensor.numel.evaluate(1, 1, rank)


@dataclass(frozen=True, kw_only=True)
class Persistent:
    """Bytes and counts by kind, over the whole model; adapters and everything that follows from
    them depend on the rank.

    `order` are all trainable tensors that get a gradient, as they follow each other in the
    optimizer; `idle_parameters` are numbers of the others. Under tensor
    parallelism the gradient of an embedding that is not tied is whole on every rank:
    `stepped_bytes` are what the optimizer takes of it, `unstepped_bytes` the others.
    """

    parameter_bytes: int
    quantization_bytes: int
    adapter_bytes: Polynomial
    adapter_parameters: Polynomial
    order: tuple[TrainableTensor, ...]
    idle_parameters: Polynomial = ZERO
    stepped_bytes: int = 0
    unstepped_bytes: int = 0

    @cached_property
    def trainable(self) -> Counter[TrainableTensor]:
        """How many there are of each."""
        return counted(self.order)

    @property
    def neighbours(self) -> frozenset[tuple[TrainableTensor | None, TrainableTensor]]:
        """The pairs (previous, this) in the optimizer."""
        return frozenset(zip((None, *self.order), self.order, strict=False))

    @property
    def trainable_parameters(self) -> Polynomial:
        stepped = total(tensor.numel * count for tensor, count in self.trainable.items())
        return stepped + self.idle_parameters

    @cached_property
    def gradient_bytes(self) -> Polynomial:
        own = total(tensor.bytes * count for tensor, count in self.trainable.items())
        return own + self.unstepped_bytes


def rest_dtype(setup: TrainSetup) -> Dtype:
    """Dtype of embeddings and head, and so of what the layers begin with: PEFT's k-bit preparation
    turns 16-bit parameters into float32."""
    if setup.has_wide_ends:
        return "float32"
    if setup.quantization is not None and setup.quantization.recipe == "kbit-norms":
        return "bfloat16"
    kbit = setup.quantization is not None and setup.quantization.recipe == "kbit"
    return "float32" if kbit else setup.dtype


def unpacked_dtype(name: str, setup: TrainSetup) -> Dtype:
    """Dtype of a module that is not quantised, of which axolotl widens some: after k-bit
    preparation TRL 0.14 turned embeddings and head back to bfloat16 (`trainer/utils.py`,
    peft_module_casting_to_bf16)."""
    if setup.has_wide_ends:
        return "float32" if is_wide_end(name) else setup.dtype
    if setup.has_wide_routers and name.endswith(".gate"):
        return "float32"
    if setup.quantization is None or setup.quantization.recipe != "kbit-norms":
        return rest_dtype(setup)
    return "bfloat16" if name.rpartition(".")[2] in BACK_IN_16_BIT else "float32"


def copy_dtype(name: str, setup: TrainSetup) -> str:
    """Dtype of what trains whole beside adapters: the base's, but on shards of FSDP1's mixed
    precision theirs, as accelerate keeps all that trains there in float32 (1.15 `accelerator.py`,
    prepare_model)."""
    is_kept_wide = setup.has_flat_units and setup.precision == "amp"
    if is_kept_wide and adapter_dtype(setup) == "float32":
        return "float32"
    return unpacked_dtype(name, setup)


def unquantized(spec: ModelSpec) -> frozenset[str]:
    """Linear layers that stay as they are in a 4-bit model: the output layer, and the owner of the
    last parameter.

    transformers `quantizers/base.py`, get_keys_to_not_convert. A last parameter inside a list of
    layers is not looked for.
    """
    last = next(
        part for part in reversed(spec.parts) if isinstance(part, LayerStack) or part.num_parameters
    )
    kept = {spec.output_embedding or ""}
    if (
        isinstance(last, Module)
        and [w.name for w in last.weights if w.tied_to is None][-1] == "weight"
    ):
        kept.add(last.name)
    return frozenset(kept)


def kept_in_16_bit(spec: ModelSpec, setup: TrainSetup) -> frozenset[str]:
    """`unquantized`, but where the head is quantised too."""
    return frozenset() if kernel_set(setup.kernels).quantizes_head else unquantized(spec)


def module_bytes(
    module: Module, setup: TrainSetup, unquantized: frozenset[str], stored: StoredBase | None
) -> tuple[int, int]:
    """(parameters, quantisation state) in bytes of one module; tied weights count where they first
    occur. `stored`: how a quantised base is.

    A 4-bit layer turns its bias back to the compute dtype in its first forward pass, whatever the
    recipe made of it; one in int8 to that of its input. A bias of GPTQ or AWQ has 16 bit.
    """
    if stored is None or not module.is_linear or module.name in unquantized:
        itemsize = DTYPE_BYTES[unpacked_dtype(module.name, setup)]
        base = setup.quantization
        if base is None or not base.quantize_experts:
            return module.num_parameters * itemsize, 0
        experts = [w.numel for w in module.weights if is_packed_expert(module, w)]
        sizes = [nf4_bytes(numel, base.double_quant) for numel in experts]
        rest = (module.num_parameters - sum(experts)) * itemsize
        return rest + sum(s.weights for s in sizes), sum(s.constants for s in sizes)
    biases = sum(w.numel for w in module.weights if w.name != "weight")
    packed, state = layer_bytes(module, stored)
    dtype = rest_dtype(setup) if stored.quant_type == "int8" else setup.dtype
    return packed + biases * DTYPE_BYTES[dtype], state


def named_bytes(
    name: str,
    module: Module,
    setup: TrainSetup,
    unquantized: frozenset[str],
    stored: StoredBase | None,
) -> tuple[int, int]:
    """`module_bytes` of the one that the model has under `name`, which the checkpoint may keep in
    16 bit."""
    is_kept = stored is not None and name in stored.in_16_bit
    return module_bytes(module, setup, unquantized, None if is_kept else stored)


def groups(spec: ModelSpec) -> Iterator[tuple[Module, int]]:
    """Every distinct module and how often the model has it."""
    for each in spec.parts:
        if isinstance(each, Module):
            yield each, 1
        else:
            counts = Counter(each.order)
            for number, kind in enumerate(each.kinds):
                for module in kind:
                    yield module, counts[number]


def counted(tensors: Sequence[TrainableTensor]) -> Counter[TrainableTensor]:
    """How many there are of each. Most are few objects many times, each of which is hashed once."""
    times = Counter(map(id, tensors))
    found = Counter[TrainableTensor]()
    for number, tensor in {id(tensor): tensor for tensor in tensors}.items():
        found[tensor] += times[number]
    return found


def persistent(
    spec: ModelSpec,
    setup: TrainSetup,
    adapters: tuple[Adapter, ...],
    copies: tuple[tuple[str, Module], ...],
) -> Persistent:
    """`copies` are the modules that `modules_to_save` duplicates, which train beside them.
    Weights of a reference model are parameters too."""
    parameters = quantization = 0
    kept, stored = kept_in_16_bit(spec, setup), stored_base(spec, setup)
    for module, count in groups(spec):
        weight, state = module_bytes(module, setup, kept, stored)
        parameters += weight * count
        quantization += state * count
    if stored is not None and stored.in_16_bit:
        for name, module in spec.modules():
            weight, state = module_bytes(module, setup, kept, stored)
            own, own_state = named_bytes(name, module, setup, kept, stored)
            parameters += own - weight
            quantization += own_state - state
    if has_reference(setup):
        is_narrow = loss_facts(setup.loss).narrow_reference
        parameters += parameters * 2 // DTYPE_BYTES[setup.dtype] if is_narrow else parameters

    parameters += stable_embedding_bytes(spec, setup)
    held = tuple(held_tensors(spec, setup, adapters, copies))
    trained = [tensor for tensor in held if not tensor.kind.is_frozen]
    idle = counted([tensor for tensor in trained if tensor.kind.is_idle])
    added = counted(held if setup.lora is not None else ())
    return Persistent(
        parameter_bytes=parameters,
        quantization_bytes=quantization,
        adapter_bytes=total(tensor.bytes * count for tensor, count in added.items()),
        adapter_parameters=total(tensor.numel * count for tensor, count in added.items()),
        order=tuple(tensor for tensor in trained if not tensor.kind.is_idle),
        idle_parameters=total(tensor.numel * count for tensor, count in idle.items()),
    )


def is_idle(module: str, setup: TrainSetup) -> bool:
    """Whether no step runs the module, so that its weights and adapters get no gradient and no
    optimizer state. Shards have both of all."""
    return setup.images is None and setup.sharding == "none" and part_of(module) != "language_model"


def idled(tensor: TrainableTensor) -> TrainableTensor:
    return tensor._replace(kind=tensor.kind._replace(is_idle=True))


def stable_embedding_bytes(spec: ModelSpec, setup: TrainSetup) -> int:
    """Of the embedding that LitGPT puts in place of a 4-bit model's, a copy with a LayerNorm. The
    optimizer has the first one already, which stays; the copy trains, and nobody clears its
    gradient (0.5.13 `finetune/lora.py`, main)."""
    if setup.quantization is None or not kernel_set(setup.kernels).copies_embedding:
        return 0
    embedding = next(module for _, module in spec.modules() if module.kind == "Embedding")
    words, width = embedding.weight("weight").shape
    return (words + 2) * width * DTYPE_BYTES[setup.dtype]


def trainable_tensors(
    spec: ModelSpec,
    setup: TrainSetup,
    adapters: tuple[Adapter, ...],
    copies: tuple[tuple[str, Module], ...],
) -> Iterator[TrainableTensor]:
    """The tensors that an optimizer gets, in the order of `named_parameters()`."""
    held = held_tensors(spec, setup, adapters, copies)
    return (tensor for tensor in held if not tensor.kind.is_frozen)


def held_tensors(
    spec: ModelSpec,
    setup: TrainSetup,
    adapters: tuple[Adapter, ...],
    copies: tuple[tuple[str, Module], ...],
) -> Iterator[TrainableTensor]:
    """The same with those of adapters that the optimizer freezes."""
    if setup.lora is None:
        for name, module in spec.modules():
            yield from whole_weights(spec, name, module, setup)
        return
    dtype, made = adapter_dtype(setup), {}
    saved = dict(copies)
    if saved:  # modules outside the layers come before and after those with adapters
        position = {name: i for i, (name, _) in enumerate(spec.modules())}
        adapters = tuple(sorted(adapters, key=lambda a: position[a.module]))
        first = position[adapters[0].module]
        before = [name for name in saved if position[name] < first]
        after = [name for name in saved if position[name] > first]
    else:
        before, after = [], []
    for name in before:
        yield from whole_weights(spec, name, saved[name], setup, copied=True)
    for adapter in adapters:
        sizes = adapter[3:]  # all but where it is, and on what
        if sizes not in made:
            made[sizes] = adapter_tensors(adapter, dtype, setup)
        own = made[sizes]
        yield from map(idled, own) if is_idle(adapter.module, setup) else own
    for name in after:
        yield from whole_weights(spec, name, saved[name], setup, copied=True)


def whole_weights(
    spec: ModelSpec, name: str, module: Module, setup: TrainSetup, *, copied: bool = False
) -> Iterator[TrainableTensor]:
    """A module's own weights where they train, tied ones where they come first, those of a copy
    all. `name`: the module's in the model."""
    wide = module.kind == "Embedding" and widens_embeddings(setup)
    idle = is_idle(name, setup)
    facts = optimizer_facts(setup.optimizer)
    dtype = copy_dtype(name, setup) if copied else unpacked_dtype(name, setup)
    for weight in module.weights:
        if not copied and weight.tied_to is not None:
            continue
        kind = StateKind(is_wide=True) if wide else _PLAIN
        if facts.projects_gradients:
            if weight.name == "weight" and module.kind == "Linear":
                kind = StateKind(is_projected=True)
        elif facts.whole_weights_alone:
            averages = second_averages(spec, f"{name}.{weight.name}", weight.shape)
            kind = StateKind(averages=averages)
        yield _fixed(weight.shape, dtype, kind._replace(is_idle=True) if idle else kind)


@lru_cache(
    maxsize=1024
)  # a model has many tensors of few shapes, and one object is counted faster than equal ones
def _fixed(shape: tuple[int, ...], dtype: str, kind: StateKind = _PLAIN) -> TrainableTensor:
    return TrainableTensor(tuple(constant(size) for size in shape), dtype, kind)


def adapter_tensors(adapter: Adapter, dtype: str, setup: TrainSetup) -> tuple[TrainableTensor, ...]:
    """What trains of one adapter, with the rank left open, as `named_parameters()` has it.

    LoRA: A and B, (rank, in, ...) and (out, rank, ...); with DoRA the magnitudes, one for each
    output (PEFT `tuners/lora/dora.py`). Raises UsageError for a method that traces alone know.
    """
    lora = setup.lora
    assert lora is not None
    if not lora.has_rules:
        raise UsageError(TRACED_ALONE.format(lora.method_name))
    if own := of_method(lora.peft_type, "tensors"):
        return own(adapter, dtype, lora)  # type: ignore[no-any-return]
    (_, *inner), (outer, _, *ones) = adapter.a_shape(1), adapter.b_shape(1)
    rank = R * adapter.rank(1)
    a = (rank, *(constant(size) for size in inner))
    b = (constant(outer), rank, *(constant(size) for size in ones))
    of_a = StateKind(is_frozen=True) if optimizer_facts(setup.optimizer).b_alone else _PLAIN
    pair = TrainableTensor(a, dtype, of_a), TrainableTensor(b, dtype)
    return (*pair, _fixed((outer,), dtype)) if lora.use_dora else pair


def adapter_buffer_bytes(adapters: tuple[Adapter, ...], setup: TrainSetup) -> Polynomial:
    """Bytes of what adapters hold and do not train."""
    own = of_method(setup.lora.peft_type, "buffer_bytes") if setup.lora else None
    return own(adapters, setup) if own else ZERO


# --- optimizers -----------------------------------------------------------------------------------

# What an optimizer keeps per trainable tensor, and what one step allocates for a moment: torch's
# AdamW and SGD, and those of bitsandbytes and torchao. The others are in `features/optimizers/`.
#
# Sources: torch `optim/{adamw,sgd}.py`; bitsandbytes `optim/optimizer.py`, `backends/cpu/ops.py`;
# torchao `optim/adam.py`. Measured against the real optimizers by
# `tests/memory/test_persistent.py`, `tests/memory/test_moments.py` and
# `tests/features/test_package_optimizers.py`.

HOST_SCALAR_BYTES = 4


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """Bytes of the states of one tensor that live on the device.

    AdamW keeps two averages in the tensor's own dtype, and a 4-byte step counter that stays in host
    memory unless the implementation is fused (on CPU host memory is what counts). SGD without
    momentum keeps nothing. What the packages keep is in `_package_state_bytes`, what others keep in
    their own files.
    """
    made = package_optimizer(setup.optimizer)
    if made is not None:
        return _package_state_bytes(made, tensor, setup)
    if own := part("optimizers", setup.optimizer, "law", "state_bytes"):
        size: Polynomial = own(tensor, setup)
        return size
    if setup.optimizer == "sgd":
        return ZERO
    counted = setup.optimizer_impl == "fused" or setup.device == "cpu"
    return tensor.bytes * 2 + (HOST_SCALAR_BYTES if counted else 0)


def _package_state_bytes(
    made: PackageOptimizer, tensor: TrainableTensor, setup: TrainSetup
) -> Polynomial:
    """Quantised states come in blocks with a float32 scale each: steps of a size, not a polynomial,
    so that the rank is taken from `setup`.

    Whole states are float32 in bitsandbytes, in the tensor's dtype in torchao, which keeps a code
    book with every quantised state, and a step counter in host memory. What is paged counts
    nothing; scales are never paged.
    """
    made = _on(made, tensor)
    counter = HOST_SCALAR_BYTES if made.package == "torchao" and setup.device == "cpu" else 0
    if made.bits == 32 and not made.is_paged:
        return tensor.numel * (4 * made.states)
    numel = _numel(tensor, setup)
    is_paged = made.pages(numel, setup.device)
    if not made.quantises(numel):
        wide = 4 if made.package == "bitsandbytes" else DTYPE_BYTES[tensor.dtype]
        return constant(0 if is_paged else made.states * wide * numel + counter)
    one = 4 * -(-numel // made.block) + (0 if is_paged else -(-numel * made.bits // 8))
    if made.package == "torchao":
        one += made.code_book_bytes
    return constant(made.states * one + counter)


def paged_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> int:
    """Bytes of states in CUDA's unified memory, which `total_state_bytes` leaves out."""
    made = package_optimizer(setup.optimizer)
    if made is None or not made.is_paged:
        return 0
    size = 0
    for tensor, count in trainable.items():
        numel, own = _numel(tensor, setup), _on(made, tensor)
        if own.pages(numel, setup.device):
            size += count * own.states * numel * own.bits // 8
    return size


def _on(made: PackageOptimizer, tensor: TrainableTensor) -> PackageOptimizer:
    return made._replace(bits=32) if tensor.kind.is_wide else made


def total_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> Polynomial:
    """Bytes of all states. bitsandbytes' 8-bit optimizers share two code books among their tensors,
    made in host memory, of which each comes to the device with the first state that needs it; one
    that steps in backward is an optimizer of its own, with its own books."""
    result = total(state_bytes(tensor, setup) * count for tensor, count in trainable.items())
    made = package_optimizer(setup.optimizer)
    if made is None or made.bits == 32 or made.package == "torchao":
        return result
    if setup.device == "cpu":
        return result + 2 * made.code_book_bytes
    needed = sum(
        count
        for tensor, count in trainable.items()
        if _on(made, tensor).quantises(_numel(tensor, setup))
    )
    owners = needed if setup.optimizer_in_bwd else min(needed, 1)
    return result + owners * made.states * made.code_book_bytes


def step_temporary_candidates(state: Persistent, setup: TrainSetup) -> tuple[Polynomial, ...]:
    """Bytes that a step allocates and frees beside gradients and states; the largest of the
    candidates counts."""
    own = part("optimizers", setup.optimizer, "law", "temporaries")
    if made := package_optimizer(setup.optimizer):
        return undominated(list(_of_package(made, state, setup)))
    return undominated(list((own or _CORE[setup.optimizer])(state, setup)))


def adamw_temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """foreach AdamW makes one tensor per parameter of a dtype at a time. The loop makes two of the
    tensor that it works on while the last one of the tensor before is still bound to its name. On
    CPU the scalars of the step count."""
    on_cpu = setup.device == "cpu"
    if setup.optimizer_impl == "fused":
        yield constant(scalar_bytes(setup) + state.stepped_bytes)
    elif setup.optimizer_impl == "foreach":
        # the temporaries of one dtype are still bound while the next dtype's are made
        dtypes = {tensor.dtype for tensor in state.trainable}
        scalars = 8 + DTYPE_BYTES[min(dtypes)] if on_cpu and len(dtypes) == 1 else 0
        yield (_largest_group(state) if steps_in_groups(setup) else state.gradient_bytes) + scalars
    else:
        for before, this in state.neighbours:
            scalars = 8 + DTYPE_BYTES[this.dtype] if on_cpu else 0
            yield this.bytes * 2 + bytes_of(before) + scalars


def _largest_group(state: Persistent) -> Polynomial:
    """Gradients of the matrices, of which there are more than of vectors."""
    return total(tensor.bytes * n for tensor, n in state.trainable.items() if len(tensor.shape) > 1)


def _sgd(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    yield constant(state.stepped_bytes)


def _of_package(
    made: PackageOptimizer, state: Persistent, setup: TrainSetup
) -> Iterator[Polynomial]:
    """bitsandbytes works in place on CUDA, in float32 copies on CPU."""
    yield ZERO
    if made.package == "torchao":
        for tensor in state.trainable:
            numel = _numel(tensor, setup)
            if made.quantises(numel):
                yield constant(made.states * made.compiled_bytes(numel, setup.device))
    if made.package == "bitsandbytes" and setup.device == "cpu":
        for tensor in state.trainable:
            copies = 3 + (tensor.dtype != "float32")
            if made.quantises(_numel(tensor, setup)):
                copies += 2
            yield tensor.numel * (4 * copies) + (scalar_bytes(setup) if made.kind == "AdamW" else 0)


_CORE = {"adamw": adamw_temporaries, "sgd": _sgd}


def scalar_bytes(setup: TrainSetup) -> int:
    """The step count and what is made of it, on CPU."""
    return 12 if setup.device == "cpu" else 0


def bytes_of(tensor: TrainableTensor | None) -> Polynomial:
    return tensor.bytes if tensor else ZERO


def _numel(tensor: TrainableTensor, setup: TrainSetup) -> int:
    return tensor.numel.evaluate(1, 1, setup.lora.r if setup.lora else 1)
