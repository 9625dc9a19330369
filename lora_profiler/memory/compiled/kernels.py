"""The kernels of a micro-batch, read off a profile: for models whose layers no rule counts.

The tape has what every operator writes, and the profile the FLOPs of every module. What an operator
reads is not in it, and follows from what it is (`_READS`, `_REDUCES`); how far off that is, says
`benchmarks.truth.profile_times`.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import NamedTuple

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.errors import UncountedError
from lora_profiler.memory.compiled.evaluation import Evaluation, evaluation_of
from lora_profiler.memory.compiled.law import role_of, sizes_of
from lora_profiler.memory.compiled.regime import windows_of
from lora_profiler.memory.compiled.tape import Birth, Death, Event, Mark
from lora_profiler.memory.kernels import Gemm, Kernel, Phase, StepKernels, launches_of, merged
from lora_profiler.question.adapters import adapters
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import Module
from lora_profiler.question.option import DTYPE_BYTES
from lora_profiler.question.workload import Dtype, Workload

_READS = {
    "add": 1.7, "sub": 1.7, "mul": 1.3, "where": 2, "lerp": 2, "addcmul": 3, "empty_like": 2,
    "native_layer_norm_backward": 2.7, "native_dropout_backward": 1.5,
    "slice_backward": 0.5, "select_backward": 0.5, "nll_loss_backward": 0,
}  # fmt: skip
"""Bytes that an operator reads for each that it writes; twice as many as it writes by the name of a
backward function, else as many. Sums and products have two inputs or a number and one; what is
made empty is written by the backward of a softmax."""
_REDUCES = frozenset(
    {"mean", "sum", "amax", "var_mean", "logsumexp", "linalg_vector_norm", "nll_loss_forward"}
)
"""They read what was written before them."""
_WRITES = frozenset(
    {"empty", "zeros", "zeros_like", "ones_like", "full", "full_like", "arange", "new_zeros"}
)
_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "linear", "_grouped_mm", "_scaled_mm", "convolution"}
)
_OF_LOGITS = 36
"""Bytes that a loss moves for a logit of two bytes, as torch's cross-entropy of float32 copies: the
copy 6, the logarithm of the softmax 8, its backward 12, the negative likelihood's backward 4, and
the copy of the gradient 6."""
_UNPACKED = 4
"""4-bit weights are a quarter of those that they become."""
_SCALED = 64
"""Weights that share a float32 scale."""
_SEVERAL = frozenset(
    {
        "native_layer_norm", "native_layer_norm_backward", "native_dropout", "nll_loss_forward",
        "topk", "sort", "max", "min", "var_mean",
    }
)  # fmt: skip
"""They have several results, which one launch writes."""


class _Written(NamedTuple):
    """What one operator writes: the number of its size, and of the one written before it. `more`:
    a further result of the operator before."""

    phase: Phase
    op: str
    size: int
    before: int
    more: bool


class _Attention(NamedTuple):
    """The sizes of the results of one call of an attention kernel."""

    phase: Phase
    op: str
    sizes: tuple[int, ...]


def profile_kernels(workload: Workload) -> StepKernels:
    """The kernels of a micro-batch of `workload`, the last of several.

    Raises NoProfileError, and UncountedError where the profile has no FLOPs, its layers do not
    repeat, or adapters are on weights of experts: in which dtype those multiply is not known.
    """
    evaluation = evaluation_of(workload)
    profile, setup = evaluation.profile, workload.setup
    at = evaluation.values(setup)
    sizes = [size.evaluate(*at) for size in profile.sizes]
    if not profile.flops or profile.layout is None:
        raise UncountedError(
            f"the kernels of {workload.model.id} are not counted: its profile has"
            f" {'no layers that repeat' if profile.flops else 'no FLOPs'}; a trace knows them."
        )
    lora = setup.lora
    if lora and any(a.kind not in ("Linear", "Conv1D") for a in adapters(workload.model, lora)):
        raise UncountedError(
            f"the kernels of {workload.model.id} are not counted: adapters on something else than a"
            " linear layer; a trace knows them."
        )
    tape = _Tape(evaluation)
    kernels = [
        *_of_memory(tape, sizes),
        *_products(evaluation, workload, tape, sizes),
        *_of_attention(evaluation, workload, tape, sizes),
    ]
    tokens = setup.batch_size * setup.seq_len
    head = dict(workload.model.modules()).get(workload.model.output_embedding or "")
    if loss_facts(setup.loss).leaves_stack and head is not None and head.out_features:
        moved = _OF_LOGITS * tokens * head.out_features
        kernels.append(
            Kernel(
                kind="memory",
                op="loss",
                phase="backward",
                module="",
                read_bytes=moved,
                written_bytes=0,
            )
        )
    elements = evaluation.trainable.evaluate(*at)
    itemsize = DTYPE_BYTES[lora.adapter_dtype if lora else setup.dtype]
    return StepKernels(
        kernels=merged(kernels),
        tokens=tokens,
        trainable={itemsize: elements},
        trained_tensors=_tensors(workload),
        is_estimate=True,
    )


def _tensors(workload: Workload) -> int:
    """How many tensors train: A and B of each adapter, or all weights."""
    model, lora = workload.model, workload.setup.lora
    if lora is not None:
        return 2 * len(adapters(model, lora))
    return sum(w.tied_to is None for _, module in model.modules() for w in module.weights)


# --- what operators write -------------------------------------------------------------------------


def _blocks(evaluation: Evaluation) -> Iterator[tuple[int, tuple[Event, ...]]]:
    """(how often it runs, block), in the order of the step."""
    tape, units = evaluation.profile.tape, evaluation.units
    for run in tape.runs:
        times = (
            Counter(run.block_of(unit, units) for unit in range(units)) if run.direction else {0: 1}
        )
        for number, block in enumerate(run.blocks):
            if times.get(number):
                yield times[number], block


class _Tape:
    """The last micro-batch of the steady state: what is `written`; the sizes of gradients that are
    added to others in place (`in_place`), which live no longer than that; calls of attention
    kernels, with the modules that make them; sizes of what experts multiply (`routed`), and of
    what each module's products write, backward or not."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.written: Counter[_Written] = Counter()
        self.in_place: Counter[int] = Counter()
        self.attention: Counter[_Attention] = Counter()
        self.attending: set[str] = set()
        self.routed: defaultdict[str, set[int]] = defaultdict(set)
        self.products: defaultdict[tuple[bool, str], list[int]] = defaultdict(list)
        runs = evaluation.profile.tape.runs
        last = max(e.micro for run in runs for b in run.blocks for e in b if type(e) is Mark)
        phase: Phase | None = None
        for times, block in _blocks(evaluation):
            phase = self._count(block, times, phase, last)

    def _count(
        self, block: tuple[Event, ...], times: int, phase: Phase | None, last: int
    ) -> Phase | None:
        births = 0
        before: Birth | None = None
        fresh = -1  # the birth that nothing came after
        call: list[int] = []
        for event in (*block, _END):
            is_attention = isinstance(event, Birth) and "attention" in event.op
            if call and not (isinstance(event, Birth) and before and event.op == before.op):
                assert before is not None and phase is not None
                self.attention[_Attention(phase, before.op, tuple(call))] += times
                call = []
            if type(event) is Mark and not event.note:
                is_last = (event.step, event.micro) == (2, last)
                phase = _PHASES.get(event.phase) if is_last else None
            if type(event) is Birth:
                births += 1
                if phase is None:
                    continue
                if is_attention:
                    call.append(event.size)
                    self.attending.add(event.module)
                else:
                    self._write(event, before, phase, times)
                before, fresh = event, births - 1
            elif type(event) is Death and event[:3] == (0, "here", 0) and event.ordinal == fresh:
                assert before is not None
                self.in_place[before.size] += times * (phase == "backward")
                fresh = -1
        return phase

    def _write(self, birth: Birth, before: Birth | None, phase: Phase, times: int) -> None:
        op = birth.op.rpartition(".")[2]
        more = before is not None and op in _SEVERAL and birth[2:4] == before[2:4]
        size = birth.size if before is None else before.size
        self.written[_Written(phase, op, birth.size, size, more)] += times
        if op in _PRODUCTS and times > 1:
            self.products[phase == "backward", birth.module].append(birth.size)
        if op == "_grouped_mm" and phase == "forward":
            self.routed[birth.module].add(birth.size)


_END = Mark(0, 0, "", "a block ends")
_PHASES: Mapping[str, Phase] = {"forward": "forward", "loss": "forward", "backward": "backward"}


def _of_memory(tape: _Tape, sizes: list[int]) -> Iterator[Kernel]:
    for one, count in tape.written.items():
        size, op = sizes[one.size], one.op
        product = op in _PRODUCTS
        is_unpacking = op == "dequantize_4bit"
        if product or one.more:
            reads: float = 0
        elif op in _REDUCES:
            reads = sizes[one.before]
        elif is_unpacking:
            reads = size // _UNPACKED + size // 2 // _SCALED * 4
        else:
            usual = 0 if op in _WRITES else 2 if op.endswith(_BACKWARD) else 1
            reads = size * _READS.get(op, usual)
        yield Kernel(
            kind="dequantise" if is_unpacking else "memory",
            op=op,
            phase=one.phase,
            module="",
            read_bytes=int(reads),
            written_bytes=0 if product or op == "empty" else size,
            parameters=size // 2 if is_unpacking else 0,
            count=count,
            launches=0 if one.more or op == "empty" else launches_of(op),
        )
    for number, count in tape.in_place.items():
        size = sizes[number]
        yield Kernel(
            kind="memory",
            op="add",
            phase="backward",
            module="",
            read_bytes=2 * size,
            written_bytes=size,
            count=count,
        )


_BACKWARD = ("_backward", "_backward_data")


# --- products -------------------------------------------------------------------------------------


def _flops(evaluation: Evaluation) -> Iterator[tuple[Phase, str, str, int, Polynomial]]:
    """(phase, module, as it is written for every layer, how often, FLOPs)."""
    profile, units = evaluation.profile, evaluation.units
    layout = profile.layout
    for phase, numbers in profile.flops.items():
        for number in numbers:
            parts = [(number.first, 1)]
            if layout is not None and number.in_units:
                parts += [(number.inner, units - 2), (number.last, 1)]
            name = layout.name(number.name, 0, units) if layout else number.name
            for polynomial, count in parts:
                yield phase, name, number.name, count, polynomial  # type: ignore[misc]


def _products(
    evaluation: Evaluation, workload: Workload, tape: _Tape, sizes: list[int]
) -> Iterator[Kernel]:
    """Of modules that call no attention kernel; their launches are among what operators write."""
    at = evaluation.values(workload.setup)
    modules = dict(workload.model.modules())
    setup = workload.setup
    usual = setup.autocast_dtype or setup.dtype
    for phase, name, template, count, polynomial in _flops(evaluation):
        flops = polynomial.evaluate(*at)
        if not flops:
            continue
        module = modules.get(name)
        if module is not None and module.is_linear:
            for gemm, times, dtype in _of_linear(flops, phase, module, workload):
                yield _of_gemm(gemm, count * times, phase, dtype)
        elif module is not None and _matrices(module):
            widest = max((sizes[i] for i in tape.routed[template]), default=0)
            sides = max(max(shape) for _, *shape in _matrices(module))
            is_wide = widest >= DTYPE_BYTES["float32"] * _routed_rows(workload) * sides
            yield from _of_experts(
                flops, count, phase, module, workload, "float32" if is_wide else usual
            )
        elif template not in tape.attending:
            yield from _of_no_weight(
                flops, count, phase, tape.products[phase == "backward", template], sizes, workload
            )


def _routed_rows(workload: Workload) -> int:
    """Of all experts together: each token is sent to several."""
    return workload.setup.batch_size * workload.setup.seq_len * _size("chosen", workload)


def _size(role: str, workload: Workload) -> int:
    """The size of the config that has a role; 1 where none has."""
    sizes = sizes_of(workload.model)
    return next((n for name, n in sizes.items() if role_of(name) == role), 1)


_SMALL = 100
"""Results of so much less than the largest are sums, whose FLOPs are next to nothing."""


def _matrices(module: Module) -> list[tuple[int, int, int]]:
    """(experts, rows, columns) of the module's weights."""
    return [
        (prod(w.shape[:-2]), w.shape[-2], w.shape[-1]) for w in module.weights if len(w.shape) > 1
    ]


def _of_experts(
    flops: int, count: int, phase: Phase, module: Module, workload: Workload, dtype: Dtype
) -> Iterator[Kernel]:
    """Products of the rows that are sent to experts, which together read all weights; in backward
    also those of the weights' gradients, where these train."""
    rows = _routed_rows(workload)
    once = sum(2 * rows * n * k for _, n, k in _matrices(module))
    has_gradients = phase == "backward" and flops > 1.5 * once
    for experts, n, k in _matrices(module):
        m, (side, inner) = rows, (k, n) if phase == "backward" else (n, k)
        ahead = _of_gemm(Gemm(m=m, n=side, k=inner), count, phase, dtype)
        more = DTYPE_BYTES[dtype] * (experts - 1) * n * k
        yield ahead._replace(read_bytes=ahead.read_bytes + more)
        if has_gradients:
            back = _of_gemm(Gemm(m=n, n=k, k=m), count, phase, dtype)
            yield back._replace(written_bytes=back.written_bytes + more)


def _of_no_weight(
    flops: int,
    count: int,
    phase: Phase,
    made: Collection[int],
    sizes: list[int],
    workload: Workload,
) -> Iterator[Kernel]:
    """Products of two activations, as those of attention written out: of equal FLOPs each, which
    with what each writes tells the width that it sums over. Scores of attention tell the dtype."""
    setup = workload.setup
    dtype = setup.autocast_dtype or setup.dtype
    largest = max((sizes[i] for i in made), default=0)
    large = [sizes[i] for i in made if sizes[i] * _SMALL > largest]
    scores = setup.batch_size * _size("heads", workload) * setup.seq_len**2
    if largest == DTYPE_BYTES["float32"] * scores:
        dtype = "float32"
    each = flops // max(1, len(large))
    for size in large:
        elements = max(1, size // DTYPE_BYTES[dtype])
        side = min(setup.seq_len, elements)
        width = max(1, each // (2 * elements))
        other = min(side, max(1, elements // side))
        gemm = Gemm(batches=max(1, elements // (side * other)), m=side, n=other, k=width)
        yield _of_gemm(gemm, count, phase, dtype)


def _of_linear(
    flops: int, phase: str, module: Module, workload: Workload
) -> Iterator[tuple[Gemm, int, Dtype]]:
    """Those of the module's own weights, then those of its adapter, which has what is left of the
    FLOPs."""
    setup = workload.setup
    dtype = setup.autocast_dtype or setup.dtype
    rows = setup.batch_size * setup.seq_len
    n, k = module.out_features or 1, module.in_features or 1
    once = 2 * rows * n * k
    times = max(1, min(flops // once, 2 if phase == "backward" and setup.lora is None else 1))
    if flops < once:  # of some rows alone, as of a head that is given chunks
        yield Gemm(m=max(1, flops // (2 * n * k)), n=n, k=k), 1, dtype
        return
    if phase != "backward":
        yield Gemm(m=rows, n=n, k=k), times, dtype
    else:
        yield Gemm(m=rows, n=k, k=n), 1, dtype
        if times == 2:
            yield Gemm(m=n, n=k, k=rows), 1, dtype
    if setup.lora is None or (left := flops - times * once) <= 0:
        return
    dtype = setup.autocast_dtype or setup.lora.adapter_dtype
    passes = 2 if phase == "backward" else 1
    rank = max(1, left // (2 * rows * (n + k) * passes))
    yield Gemm(m=rows, n=rank, k=k), passes, dtype
    yield Gemm(m=rows, n=n, k=rank), passes, dtype


def _of_gemm(gemm: Gemm, count: int, phase: str, dtype: Dtype) -> Kernel:
    itemsize = DTYPE_BYTES[dtype]
    return Kernel(
        kind="gemm",
        op="mm",
        phase=phase,  # type: ignore[arg-type]
        module="",
        read_bytes=itemsize * gemm.batches * (gemm.m * gemm.k + gemm.k * gemm.n),
        written_bytes=itemsize * gemm.batches * gemm.m * gemm.n,
        dtype=dtype,
        gemm=gemm,
        flops=gemm.flops,
        count=count,
        launches=0,
    )


def _of_attention(
    evaluation: Evaluation, workload: Workload, tape: _Tape, sizes: list[int]
) -> Iterator[Kernel]:
    """With half of the FLOPs where a kernel leaves out what no query sees."""
    setup = workload.setup
    at = evaluation.values(setup)
    flops: Counter[bool] = Counter()
    for phase, _, template, count, polynomial in _flops(evaluation):
        if template in tape.attending:
            flops[phase == "backward"] += count * polynomial.evaluate(*at)
    calls: Counter[bool] = Counter()
    for call, count in tape.attention.items():
        calls[call.op.endswith("_backward")] += count
    is_masked = bool(windows_of(workload.model)) or setup.is_padded
    for call, count in tape.attention.items():
        results = sorted((sizes[i] for i in call.sizes), reverse=True)
        is_backward = call.op.endswith("_backward")
        share = 1 if is_masked and "efficient" in call.op else 2
        moved = sum(results) if is_backward else results[0]
        yield Kernel(
            kind="attention_backward" if is_backward else "attention_forward",
            op=call.op,
            phase=call.phase,
            module="",
            read_bytes=moved + 2 * results[0],
            written_bytes=moved,
            dtype=setup.autocast_dtype or setup.dtype,
            flops=flops[is_backward] // share // calls[is_backward],
            count=count,
            launches=launches_of(call.op, is_grouped=len(set(results[:3])) > 1),
        )
