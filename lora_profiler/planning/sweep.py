"""Peaks of millions of (batch, sequence, rank) at once: the same polynomials as `predict`, over
NumPy arrays."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from lora_profiler._common.polynomial import ROUNDINGS, Exponents, Polynomial, undominated
from lora_profiler.errors import UsageError
from lora_profiler.memory.compiled.regime import pads_masks, walks_over_tokens, windows_of
from lora_profiler.planning.engine import check_engine, engine_for_all, peak_polynomials, rules_know
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.loss import CORE, loss_facts
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.question.support.check import check
from lora_profiler.question.support.losses import head_of, loss_regime
from lora_profiler.question.support.offloading import offloads
from lora_profiler.question.support.optimizers import counts_in_steps
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.question.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_BLOCK = 1 << 15
"""Points worked on at a time: what they need fits the processor's cache."""

_EXACT_FLOAT = 2**53
"""Below this every whole number is a float64, and float64 arithmetic on whole numbers is exact;
processors do it faster."""


Key = tuple[int, int, int, int, bool]
"""Regime that hold: batch (1, or 2 for any other), first length of a span, rank where that is a
fact (else any), `_Plans.facts`, and whether a length is
no multiple of what rows of masks are padded to, where that is one (else False)."""
Matrix = tuple[list[Exponents], Any]
"""Monomials, and a row of coefficients for each polynomial that can be the peak."""
Example = tuple[int, int]
"""Batch and sequence at which the regime of a key holds."""
_TOKEN_STEPS = (1, 512, 4096, 32768, MAX_SIZE**2)


def sweep(
    workload: Workload,
    *,
    batch_size: "ArrayLike | None" = None,
    seq_len: "ArrayLike | None" = None,
    rank: "ArrayLike | None" = None,
    engine: str = "auto",
) -> "NDArray[np.int64]":
    """Steady-state peak bytes, `predict(...).peak.total_bytes`, for every combination of the given
    sizes.

    The arrays broadcast against each other as NumPy does: shapes (n, 1, 1), (m, 1), (k,) give an
    (n, m, k) table, equal shapes go point by point. What is left out stays as `workload` has it.
    `engine` as in `predict`; nothing is traced. Needs NumPy, and nothing else.

    Raises UsageError for sizes that are not whole numbers from 1 up, a rank without an adapter, or
    a peak beyond 2^63 bytes, and NoProfileError where only a profile could answer and there is
    none.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, sweep
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(seq_len=512))
        >>> sweep(workload, batch_size=[1, 2, 4]).tolist()
        [1331468072, 1916292904, 3085942568]
    """
    import numpy as np

    setup = workload.setup
    if rank is not None and setup.lora is None:
        raise UsageError("full fine-tuning has no rank to sweep over; leave it out, or set lora.")
    if setup.context_parallel_size > 1:
        raise UsageError(
            "a sweep is over sequences that a rank has whole; leave out --context-parallel-size."
        )
    own = setup.lora.r if setup.lora else 1
    arrays = [
        _sizes(np, name, value, default)
        for name, value, default in (
            ("batch_size", batch_size, setup.batch_size),
            ("seq_len", seq_len, setup.seq_len),
            ("rank", rank, own),
        )
    ]
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError as error:
        raise UsageError(
            f"sizes do not fit together: shapes {', '.join(str(a.shape) for a in arrays)}."
        ) from error
    result = np.empty(shape, np.int64)
    if result.size:
        low, high = (tuple(int(edge(a)) for a in arrays) for edge in (np.min, np.max))
        plans = _Plans(np, workload, engine, low, high)
        arrays = [
            a.astype(plans.dtype).reshape((1,) * (result.ndim - a.ndim) + a.shape) for a in arrays
        ]
        _fill(plans, result, arrays)
    return result


def _sizes(np: Any, name: str, value: "ArrayLike | None", default: int) -> "NDArray[np.int64]":
    array = np.asarray(default if value is None else value)
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 1 or array.max() > MAX_SIZE)):
        raise UsageError(f"{name} must hold whole numbers from 1 to {MAX_SIZE}.")
    result: NDArray[np.int64] = array.astype(np.int64)
    return result


class _Plans:
    """The plans that answer for a range of sizes, as matrices: one row per possible peak, one
    column per monomial."""

    def __init__(
        self, np: Any, workload: Workload, engine: str, low: tuple[int, ...], high: tuple[int, ...]
    ) -> None:
        """`low` and `high`: the least and the largest batch, sequence and rank."""
        self.np, self.workload = np, workload
        check_engine(engine)
        self._engine = engine_for_all(workload, engine)
        self.low, self.high = low, high
        (b0, s0, _), (b1, s1, r1) = low, high
        packed = workload.setup.packed
        windows = [window for window in windows_of(workload.model) if window > 2]
        starts = sorted({1, 2, *windows, *([packed + 1] if packed else [])})
        if self._engine != "analytic" and walks_over_tokens(workload.model):
            starts = [*range(s0, s1 + 1)]
        spans = zip(starts, [*starts[1:], MAX_SIZE + 1], strict=True)
        self.spans = [(first, after) for first, after in spans if first <= s1 and after > s0]
        """Lengths [first, after) for which the same rules hold: one token, a window not yet filled,
        a filled one, packed rows; each length where layers walk over tokens."""
        self.rank_is_fact = counts_in_steps(workload.setup) and workload.setup.lora is not None
        longest = replace(workload, setup=replace(workload.setup, seq_len=s1))
        self.pads_masks = self._engine != "analytic" and pads_masks(longest)
        loss = workload.setup.loss
        by_rules = rules_know(workload) or self._engine == "analytic"
        self._chunked = loss_facts(loss).leaves_stack or (loss != "plain" and by_rules)
        self._matrices: dict[Key, Matrix] = {}
        self._facts: dict[tuple[Any, ...], int] = {}
        batches = {min(b0, 2), min(b1, 2)}
        corners = (
            [(b1, s1)]
            if self._chunked
            else [(b, max(s, s0)) for b in batches for s, _ in self.spans]
        )
        largest = max(
            p.evaluate(b1, s1, r1)
            for b, s in corners
            for p in self._polynomials((min(b, 2), s, r1, 0, False), (b, s))
        )
        if largest >= 2**63:
            raise UsageError("these sizes need more than 2^63 bytes; lower the largest.")
        self.dtype = "float64" if largest < _EXACT_FLOAT else "int64"

    def facts(self, b: Any, s: Any) -> Any:
        """A number at each point, the same where the loss takes as many tokens at a time and
        Unsloth moves and keeps the same; 0 where none of it is a fact."""
        np, workload, rows = self.np, self.workload, self.chunks(b, s)
        others = []
        if workload.setup.offload_checkpoints:
            others.append(offloads(workload, b * s))
        usual = workload.model.config.get("max_position_embeddings", 0)
        own = of_set(workload.setup.kernels, "positions")
        if own and s.max() > usual:
            lengths, inverse = np.unique(s, return_inverse=True)
            setups = [replace(workload.setup, seq_len=int(length)) for length in lengths]
            positions = [own(replace(workload, setup=setup)) for setup in setups]
            others.append(np.array(positions)[inverse].reshape(s.shape))
        if not others:
            return rows
        columns = np.broadcast_arrays(rows, *others)
        kinds, inverse = np.unique(
            np.stack([column.ravel() for column in columns]), axis=1, return_inverse=True
        )
        numbers = [self._facts.setdefault(tuple(kind), len(self._facts) + 1) for kind in kinds.T]
        return np.array(numbers)[inverse.ravel()].reshape(columns[0].shape)

    def chunks(self, b: Any, s: Any) -> Any:
        """Tokens of a chunk of the loss at each point; 0 where they are no fact."""
        setup = self.workload.setup
        head = head_of(self.workload.model) if self._chunked else None
        if head is not None and setup.loss not in CORE:
            return loss_regime(self.workload, head, b, s) + 0 * s  # an array in any case
        if (
            head is None
            or head.out_features is None
            or head.in_features is None
            or head.out_features <= head.in_features
        ):
            return self.np.zeros((1,) * max(b.ndim, s.ndim))
        parts = self.np.ceil(b * s / -(-head.out_features // head.in_features))
        return self.np.exp2(self.np.frexp(parts - 1)[1])  # the exponent is the bit length

    def is_unaligned(self, seq: Any) -> Any:
        """Whether rows of masks of `seq` tokens are padded, where that is a fact."""
        return self.pads_masks and seq % MASK_ALIGNMENT > 0

    def _polynomials(self, key: Key, example: Example) -> list[Polynomial]:
        """What can be the peak from the smallest sizes on, where the regime of `key` holds, as it
        does at `example`."""
        batch, first, rank, *_ = key
        setup = self.workload.setup
        lora = replace(setup.lora, r=rank) if setup.lora and self.rank_is_fact else setup.lora
        sized = replace(
            self.workload,
            setup=replace(setup, batch_size=example[0], seq_len=example[1], lora=lora),
        )
        corner = max(self.low[0], batch), max(self.low[1], first), self.low[2]
        check(sized, self._engine)
        shifted = {p.shifted(*corner): p for p in peak_polynomials(sized, self._engine)}
        return [shifted[p] for p in undominated(shifted)]

    def matrix(self, key: Key, example: Example) -> Matrix:
        coefficients = self._matrices.get(key)
        if coefficients is None:
            polynomials = self._polynomials(key, example)
            monomials = sorted({e for p in polynomials for e in p.nonzero()})
            rows = [[p.terms.get(e, 0) for e in monomials] for p in polynomials]
            coefficients = self._matrices[key] = monomials, self.np.array(rows, self.dtype)
        return coefficients


def _fill(plans: _Plans, result: Any, arrays: list[Any]) -> None:
    """Cuts the table along its longest axis until a piece fits the cache, and answers that."""
    if result.size > _BLOCK:
        axis = max(range(result.ndim), key=lambda i: int(result.shape[i]))
        half = result.shape[axis] // 2
        for part in (slice(0, half), slice(half, None)):
            index = (slice(None),) * axis + (part,)
            _fill(plans, result[index], [a[index] if a.shape[axis] > 1 else a for a in arrays])
        return
    for where, key in _block_regimes(plans, *arrays):
        coefficients = plans.matrix(key, _example(plans, where, key, arrays))
        if where.all() and not (result.ndim == 1 and arrays[0].size > 1 < arrays[1].size):
            result[...] = _largest(plans, coefficients, arrays, result.shape)
        elif where.shape == result.shape and result.ndim == 1:
            _scatter(plans, result, arrays, where, coefficients)
        else:
            plans.np.copyto(
                result,
                _largest(plans, coefficients, arrays, result.shape),
                where=where,
                casting="unsafe",
            )


def _example(plans: _Plans, where: Any, key: Key, arrays: list[Any]) -> Example:
    """The smallest sizes where nothing but them is a fact, else a point at hand."""
    batch, first, _, chunk, is_unaligned = key
    if not chunk:
        lengths = range(first, first + 2 * MASK_ALIGNMENT)
        return batch, next(n for n in lengths if plans.is_unaligned(n) == is_unaligned)
    place = plans.np.unravel_index(where.argmax(), where.shape)
    b, s = (
        int(plans.np.broadcast_to(a, plans.np.broadcast_shapes(a.shape, where.shape))[place])
        for a in arrays[:2]
    )
    return b, s


def _scatter(plans: _Plans, result: Any, arrays: list[Any], where: Any, matrix: Matrix) -> None:
    """Unrelated points, by their number of tokens: many candidates can be the peak of a few tokens,
    few that of many."""
    tokens = arrays[0] * arrays[1]
    for first, after in pairwise(_TOKEN_STEPS):
        chosen = where & (tokens >= first) & (tokens < after)
        count = int(chosen.sum())
        if count:
            result[chosen] = _largest(
                plans, matrix, [a[chosen] if a.size > 1 else a for a in arrays], (count,)
            )


def _block_regimes(plans: _Plans, b: Any, s: Any, r: Any) -> Iterator[tuple[Any, Key]]:
    """(points, the regime that holds there) of one block."""
    ranks = (
        [(int(value), r == value) for value in plans.np.unique(r)]
        if plans.rank_is_fact
        else [(plans.high[2], True)]
    )
    batches = [(batch, where) for batch, where in ((1, b == 1), (2, b > 1)) if where.any()]
    spans = [
        (first, where)
        for first, after in plans.spans
        if (where := (s >= first) & (s < after)).any()
    ]
    facts = plans.facts(b, s)
    chunks = [(int(value), facts == value) for value in plans.np.unique(facts)]
    alignments: list[tuple[bool, Any]] = [(False, True)]
    if plans.pads_masks:
        padded = plans.is_unaligned(s)
        alignments = [(False, ~padded), (True, padded)]
    for (batch, in_batch), (first, in_span), (rank, in_rank), (chunk, in_chunk), (
        unaligned,
        in_those,
    ) in product(batches, spans, ranks, chunks, alignments):
        where = in_batch & in_span & in_rank & in_chunk & in_those
        if where.any():
            yield where, (batch, first, rank, chunk, unaligned)


def _largest(plans: _Plans, matrix: Matrix, arrays: list[Any], shape: tuple[int, ...]) -> Any:
    """The largest candidate at every point of one block.

    The candidate that leads at the largest sizes leaves behind all that it exceeds at every point
    of the block, whichever way each difference of coefficients points. Over a table, all work
    before the rank comes in is on the smaller (batch, sequence) face.
    """
    np, (monomials, coefficients) = plans.np, matrix
    b, s, r = arrays
    values = _values(np, monomials, b, s)
    by_monomial = values.reshape(len(monomials), -1)
    least, most = (
        edge(by_monomial, axis=1) * [float(edge(r)) ** k for _, _, k, *_ in monomials]
        for edge in (np.min, np.max)
    )
    leader = coefficients[(coefficients @ most).argmax()]
    lead = leader - coefficients
    behind = np.maximum(lead, 0) @ least + np.minimum(lead, 0) @ most >= 0
    result = None
    for row in (leader, *coefficients[~behind]):
        by_rank: dict[int, Any] = {}
        for coefficient, value, (_, _, k, *_) in zip(row, values, monomials, strict=True):
            if coefficient:
                by_rank[k] = by_rank.get(k, 0) + coefficient * value
        size: Any = 0
        for power, term in by_rank.items():
            size = size + term * r**power if power else size + term
        result = size if result is None else np.maximum(result, size)
    return np.broadcast_to(result, shape)


def _values(np: Any, monomials: list[Exponents], b: Any, s: Any) -> Any:
    """Each monomial's part in batch and sequence at every point: (monomials, *face)."""
    rounded = [
        np.ceil(s / multiple) * multiple if any(e[i] for e in monomials) else s
        for i, multiple in enumerate(ROUNDINGS, start=3)
    ]
    values = np.empty((len(monomials), *np.broadcast_shapes(b.shape, s.shape)), b.dtype)
    for row, (i, j, _, *powers) in enumerate(monomials):
        term: Any = 1
        for base, power in zip((b, s, *rounded), (i, j, *powers), strict=True):
            for _ in range(power):
                term = term * base
        values[row, ...] = term
    return values
