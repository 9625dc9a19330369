"""What training asks of CUDA's caching allocator, in order: the tape of a step at given sizes, with
what no tape shows and a rehearsal does, as `benchmarks/results/boundary.md` compares them.

Births of a tape are the storages that an operator returns. Beside them a card is asked for BLAS
workspaces, for a 16-bit weight while it is quantised, and for the scratch memory of flash
attention's backward pass. And a tape has two steps: what a step leaves behind decides where the
next one's blocks lie, so that a third is asked for as the second was.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from lora_profiler.catalog.contexts import most_multiprocessors
from lora_profiler.compiled.allocator import EMPTY_CACHE
from lora_profiler.compiled.evaluation import Evaluation, events_of, tape_of
from lora_profiler.compiled.regime import regime_of
from lora_profiler.compiled.tape import Birth, FlatEvent
from lora_profiler.compiled.trials import Trials
from lora_profiler.support.library_memory import (
    code_book_bytes,
    loop_bytes_beside,
    pass_scalar_bytes,
    scaler_holds,
    workspace_bytes,
)
from lora_profiler.workload import DTYPE_BYTES, Workload

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "matmul"})
"""Operators that run in BLAS. The first one of each thread, forward and autograd's, makes its
workspace, after its own result."""
FLASH = "_scaled_dot_product_flash_attention"
FLASH_BACKWARD = "_scaled_dot_product_flash_attention_backward"
FLASH_ROWS = 128
"""Flash attention's backward kernel sums the gradient of the queries in float32, over rows padded
to a multiple of this, and expands grouped keys and values to all heads: torch's
aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp (mha_bwd). cuDNN's, for which a tape
of flash stands in, has one workspace: that sum, and another of each row."""
_FLOAT32 = 4
_BLOCK = 64
"""NF4 scales so many weights together, in float32 before the scales are quantised themselves:
bitsandbytes' functional.py (quantize_4bit)."""
_COLUMNS, _ROWS, _FEWEST, _MOST = 128, 4, 16, 256
"""Of a sum over tokens, the gradient of a bias or a norm: columns and rows that a block of 128
threads takes at once, and how many values a thread adds up at least and at most before the sum is
shared by several blocks, whose float32 parts lie in scratch memory: torch's
aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig)."""
_THREADS = {75: 1024, 86: 1536, 89: 1536, 120: 1536, 121: 1536}
_USUAL_THREADS, _USUAL_CAPABILITY = 2048, 80
"""Of a multiprocessor; NVIDIA's CUDA programming guide."""
_ASK_FOR_MORE = PRODUCTS | {"sum", FLASH_BACKWARD}
DROPOUT = "native_dropout"
"""Returns its output and its mask, and asks for the mask first: torch's
aten/src/ATen/native/cuda/Dropout.cu."""


class Requests(NamedTuple):
    """`events`: n asks for `sizes[n]` bytes, ~n gives them back; and `allocator.EMPTY_CACHE`."""

    sizes: Sequence[int]
    events: Sequence[int]


def trials_for(workload: Workload) -> Trials | None:
    """Of what the tape at hand asks for; None where there is none."""
    evaluation = tape_of(workload)
    return None if evaluation is None else _trials_of(evaluation, workload)


@lru_cache(maxsize=8)
def _trials_of(evaluation: Evaluation, workload: Workload) -> Trials:
    return Trials(*requests_of(evaluation, workload))


def requests_for(workload: Workload) -> Requests | None:
    """`requests_of` by the tape at hand; None where there is none."""
    evaluation = tape_of(workload)
    return None if evaluation is None else requests_of(evaluation, workload)


def requests_of(evaluation: Evaluation, workload: Workload) -> Requests:
    """Three steps of `workload`; two, where the second one of the tape does not end as it began."""
    return _Asking(evaluation, workload).requests


class _Asking:
    def __init__(self, evaluation: Evaluation, workload: Workload) -> None:
        self._workload = workload
        at = evaluation.values(workload.setup)
        self._values = [size.evaluate(*at) for size in evaluation.profile.sizes]
        self._sizes: list[int] = []
        self._events: list[int] = []
        self.requests = Requests(self._sizes, self._events)
        self._numbers: list[int] = []  # of the tape's births among all requests
        self._unmade = {"forward", "backward"}
        self._phase = ""
        modules = list(workload.model.modules())
        self._turned = {name for name, module in modules if module.kind == "Conv1D"}
        width = DTYPE_BYTES[workload.setup.dtype]
        self._linear = {
            name: width * max(w.numel for w in module.weights if w.tied_to is None)
            for name, module in modules
            if module.kind == "Linear" and any(w.tied_to is None for w in module.weights)
        }
        self._take(code_book_bytes(workload.setup))
        self._take(loop_bytes_beside(workload.setup) + pass_scalar_bytes(workload.setup))
        for each in scaler_holds(workload.setup)[:2]:
            if each:
                self._take(each)
        tape = events_of(evaluation)
        begins = [i for i, event in enumerate(tape) if _begins(event)]
        self._copies_output = _copies_output(tape)
        self._log_sum_exp = next(
            (b.size for a, b in pairwise(_births(tape)) if a.op == b.op == FLASH), None
        )
        kernels = regime_of(workload).kernels
        self._is_cudnn = bool(kernels) and kernels[0].startswith("cudnn")
        self._before(tape[: begins[0]])
        self._events.append(EMPTY_CACHE)  # of what loading left, as the harness does
        self._steps(tape[begins[0] :])
        self._once_more(tape, begins)

    def _take(self, size: int) -> int:
        self._events.append(len(self._sizes))
        self._sizes.append(size)
        return len(self._sizes) - 1

    def _give(self, number: int) -> None:
        self._events.append(~number)

    def _before(self, tape: Sequence[FlatEvent]) -> None:
        """The model and its adapters; a tape has them module by module. In 4 bit its linear layers'
        weights have memory one at a time, until each is quantised, the last one first, as
        `modeling/deferred.py` and `modeling/nf4.py` make them; what stays in 16 bit comes then."""
        births = _births(tape)
        self._numbers = [0] * len(births)
        quantised = dict(_quantised(births))
        late = {
            n
            for n, b in enumerate(births)
            if quantised
            and n not in quantised
            and (b.category == "parameters" and self._values[b.size] == self._linear.get(b.module))
        }
        deferred = {n: self._unpacked(births[n]) for n in quantised}
        deferred |= {n: self._values[births[n].size] for n in late}
        packed = {n + k for n, states in quantised.items() for k in range(states + 1)}
        self._construct(births, dict(sorted(deferred.items())), packed)
        weights: list[int] = []
        for n, states in reversed(quantised.items()):
            self._give_all(weights)
            weights = self._quantise(n, births[n : n + states + 1])
        for n in late:
            self._numbers[n] = self._take(deferred[n])
        self._give_all(weights)
        self._adapt([(n, b) for n, b in enumerate(births) if b.category == "adapters"])

    def _construct(
        self, births: Sequence[Birth], deferred: Mapping[int, int], packed: Set[int]
    ) -> None:
        """The constructors, and initialisation after them."""
        used: list[int] = []
        for n, birth in enumerate(births):
            if n in deferred:
                self._give(self._take(deferred[n]))
                self._give_all(used)
                used = [self._take(deferred[n])]
            elif n not in packed and birth.category != "adapters":
                self._numbers[n] = self._take(self._values[birth.size])
        head = [self._take(self._tied_head())] if deferred else []
        self._give_all(used)
        for size in deferred.values():
            self._give(self._take(size))
        self._give_all(head)

    def _give_all(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._give(number)

    def _tied_head(self) -> int:
        """Of a head that its constructor makes before it is tied to the embedding."""
        weights = (w for _, module in self._workload.model.modules() for w in module.weights)
        tied = max((w.numel for w in weights if w.tied_to is not None), default=0)
        return tied * DTYPE_BYTES[self._workload.setup.dtype]

    def _unpacked(self, birth: Birth) -> int:
        return 2 * self._values[birth.size] * DTYPE_BYTES[self._workload.setup.dtype]

    def _quantise(self, n: int, births: Sequence[Birth]) -> list[int]:
        """The 16-bit weight, which a Conv1D turns, and is held until the next one's turn. Scales
        are in float32 before they are quantised themselves."""
        turned = births[0].module in self._turned
        weights = [self._take(self._unpacked(births[0])) for _ in range(1 + turned)]
        scales = [self._take(self._values[births[0].size] * 2 // _BLOCK * _FLOAT32)]
        self._numbers[n] = self._take(self._values[births[0].size])
        for k, birth in enumerate(births[1:], n + 1):
            self._numbers[k] = self._take(self._values[birth.size])
        self._give_all(scales)
        return weights

    def _adapt(self, births: Sequence[tuple[int, Birth]]) -> None:
        """PEFT makes adapters in the weights' format, and then casts each."""
        setup = self._workload.setup
        assert setup.lora is not None or not births
        wide = setup.lora is not None and DTYPE_BYTES[setup.lora.adapter_dtype]
        narrow = DTYPE_BYTES[setup.dtype]
        made = [self._take(self._values[b.size] * narrow // (wide or narrow)) for _, b in births]
        for (n, birth), number in zip(births, made, strict=True):
            self._numbers[n] = number
            if wide != narrow:
                self._numbers[n] = self._take(self._values[birth.size])
                self._give(number)

    def _steps(self, tape: Sequence[FlatEvent]) -> None:
        values, numbers, take = self._values, self._numbers, self._take
        output = -1
        for i, (birth, dies, mark) in enumerate(tape):
            if birth is not None:
                if birth.op == DROPOUT and output < 0:
                    output = values[birth.size]
                    numbers.append(-1)  # asked for after the mask
                    continue
                numbers.append(take(values[birth.size]))
                if birth.op == DROPOUT:
                    numbers[-2], output = take(output), -1
                elif birth.op in _ASK_FOR_MORE:
                    self._beside(tape, i)
            elif mark is None:
                self._events.append(~numbers[dies])
            else:
                self._phase = mark.phase

    def _beside(self, tape: Sequence[FlatEvent], i: int) -> None:
        """What the operator whose result was born asks for besides."""
        birth = tape[i].birth
        assert birth is not None
        if birth.op in PRODUCTS and self._phase in self._unmade:
            self._unmade.remove(self._phase)
            self._take(workspace_bytes(self._workload.platform))
        if birth.op == "sum" and birth.category == "gradients":
            self._give(self._take(self._scratch_of_sum(self._values[birth.size])))
        if birth.op == FLASH_BACKWARD and not _follows(tape, i, FLASH_BACKWARD):
            queries, keys = (self._values[_birth_size(tape, i - k)] for k in (2, 1))
            self._scratch_of_flash(queries, keys)

    def _scratch_of_sum(self, size: int) -> int:
        """Of the gradient of a vector of `size` bytes. Of a platform's cards the one with the most
        multiprocessors counts."""
        setup = self._workload.setup
        columns = size // DTYPE_BYTES[setup.dtype]
        each = -(-setup.batch_size * setup.seq_len // _ROWS)
        if each < _FEWEST * _ROWS or columns < _COLUMNS:
            return 0
        capability = self._workload.platform.capability or _USUAL_CAPABILITY
        threads = _THREADS.get(capability, _USUAL_THREADS)
        room = most_multiprocessors(capability) * (threads // _COLUMNS) * _COLUMNS
        shared = min(-(-room // columns), -(-each // _FEWEST))
        blocks = max(shared, -(-each // _MOST))
        return _FLOAT32 * columns * _COLUMNS * blocks if blocks > 1 else 0

    def _scratch_of_flash(self, queries: int, keys: int) -> None:
        setup = self._workload.setup
        width = DTYPE_BYTES[setup.lowered_dtype or setup.dtype]
        rows = -(-setup.seq_len // FLASH_ROWS) * FLASH_ROWS
        summed = queries * _FLOAT32 // width * rows // setup.seq_len
        if self._is_cudnn and self._log_sum_exp is not None:
            self._give(self._take(summed + self._values[self._log_sum_exp]))
            return
        copied = (queries,) if self._copies_output else ()
        expanded = (queries, queries) if keys < queries else ()
        scratch = [self._take(size) for size in (*copied, summed, *expanded)]
        for number in reversed(scratch):
            self._give(number)

    def _once_more(self, tape: Sequence[FlatEvent], begins: Sequence[int]) -> None:
        """The last step again. What it gives back of the step before it, as the batch and the loss,
        is now its own."""
        last = tape[begins[-1] :]
        first = sum(event.birth is not None for event in tape[: begins[-1]])
        dying = [event.dies for event in last if event.birth is None and event.mark is None]
        inherited = sorted(n for n in dying if n < first)
        left = sorted(set(range(first, len(self._numbers))) - set(dying))
        if len(left) != len(inherited):
            return
        heir = dict(zip(inherited, left, strict=True))
        before = self._numbers
        self._numbers = [before[heir.get(n, n)] for n in range(first)]
        self._steps(last)


def _begins(event: FlatEvent) -> bool:
    mark = event.mark
    return mark is not None and mark.phase == "setup" and mark.micro == 0 and not mark.note


def _birth_size(tape: Sequence[FlatEvent], i: int) -> int:
    birth = tape[i].birth
    assert birth is not None
    return birth.size


def _follows(tape: Sequence[FlatEvent], i: int, op: str) -> bool:
    following = tape[i + 1].birth if i + 1 < len(tape) else None
    return following is not None and following.op == op


def _copies_output(tape: Sequence[FlatEvent]) -> bool:
    """Whether flash attention's output is not in the order that its backward pass reads it in, so
    that it is copied there as it was in forward."""
    births = _births(tape)
    for output, *following in zip(births, *(births[k:] for k in range(1, 6)), strict=False):
        if output.op == FLASH:
            after = next((birth for birth in following if birth.op != FLASH), None)
            return after is not None and (after.op, after.size) == ("clone", output.size)
    return False


def _quantised(births: Sequence[Birth]) -> Iterator[tuple[int, int]]:
    """(number of a packed weight, how many births of its quantisation follow it)."""
    number = 0
    for kind, group in groupby(birth.category for birth in births):
        count = sum(1 for _ in group)
        if kind == "quantization_state":
            yield number - 1, count
        number += count


def _births(tape: Sequence[FlatEvent]) -> list[Birth]:
    return [event.birth for event in tape if event.birth is not None]
