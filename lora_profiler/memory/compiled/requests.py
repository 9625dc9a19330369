"""What training asks of CUDA's caching allocator, in order: the tape of a step at given sizes, with
what no tape shows and a rehearsal does, as `benchmarks/results/boundary.md` compares them.

Births of a tape are the storages that an operator returns. Beside them a card is asked for BLAS
workspaces, for a 16-bit weight while it is quantised, and for the scratch memory of flash
attention's backward pass. And a tape has two steps: what a step leaves behind decides where the
next one's blocks lie, so that a third is asked for as the second was.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property, lru_cache
from itertools import dropwhile, groupby, islice, pairwise
from typing import NamedTuple, TypeGuard

from lora_profiler._common.polynomial import Polynomial, Values
from lora_profiler.facts.catalog.gpus import most_multiprocessors
from lora_profiler.memory.compiled.allocator import EMPTY_CACHE, Trials
from lora_profiler.memory.compiled.cudnn import FLASH
from lora_profiler.memory.compiled.evaluation import Evaluation, tape_of
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.memory.compiled.tape import Birth, Death, Event, Layout, Mark, Stretch
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.bases import adapter_dtype
from lora_profiler.question.support.library_memory import (
    code_book_bytes,
    extra_loop_bytes,
    pass_scalar_bytes,
    product_scratch_bytes,
    scaler_holds,
    workspace_bytes,
)
from lora_profiler.question.workload import DTYPE_BYTES, Workload

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "matmul"})
"""Operators that run in BLAS. The first one of each thread, forward and autograd's, makes its
workspace, after its own result."""
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
DROPOUT = "native_dropout"
"""Returns its output and its mask, and asks for the mask first: torch's
aten/src/ATen/native/cuda/Dropout.cu."""


class Requests(NamedTuple):
    """`events`: n asks for `sizes[n]` bytes, ~n gives them back; and `allocator.EMPTY_CACHE`.
    `again`: from which event on the last step is there once more, None where it is not."""

    sizes: Sequence[int]
    events: Sequence[int]
    again: int | None


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
    return Asking(evaluation, workload).requests


OWN, GIVEN_BACK = -1, -2
"""Of an event in `Asked`: a request of the stretch itself, and its being given back."""


class Asked(NamedTuple):
    """What a stretch of a tape asks for, wherever it stands. `births`: which of its requests each
    birth is. `events`: (`OWN`, `GIVEN_BACK`, or the block that the storage was born in, by its
    number in `homes`; the request's or the birth's number there)."""

    sizes: Sequence[int]
    births: Sequence[int]
    events: Sequence[tuple[int, int]]
    homes: Sequence[Death]
    phase: str


class Asking:
    """`requests` of a workload, put together from a tape. Sizes come from `_valued`, `_over_rows`,
    `_workspace` and `_scratch_of_sum` alone, so that another class can leave them open."""

    def __init__(self, evaluation: Evaluation, workload: Workload) -> None:
        self._workload = workload
        at = evaluation.values(workload.setup)
        self._values = [self._valued(size, at) for size in evaluation.profile.sizes]
        self._sizes: list[int] = []
        self._events: list[int] = []
        self._numbers: list[int] = []  # of the tape's births among all requests
        self._unmade = frozenset({"forward", "backward"})
        self._phase = ""
        self._asked: dict[tuple[int, frozenset[str], str], Asked] = {}
        modules = list(workload.model.modules())
        self._turned = {name for name, module in modules if module.kind == "Conv1D"}
        width = DTYPE_BYTES[workload.setup.dtype]
        self._linear = {
            name: width * max(w.numel for w in module.weights if w.tied_to is None)
            for name, module in modules
            if module.kind == "Linear" and any(w.tied_to is None for w in module.weights)
        }
        self._take(code_book_bytes(workload.setup))
        of_loop = extra_loop_bytes(workload.setup, workload.model.sound)
        self._take(of_loop + pass_scalar_bytes(workload.setup))
        for each in scaler_holds(workload.setup)[:2]:
            if each:
                self._take(each)
        self._is_cudnn = self.is_cudnn(workload)
        tape, self._units = evaluation.profile.tape, evaluation.units
        self._stretches = list(tape.stretches(self._units, _begins))
        begins = [i for i, stretch in enumerate(self._stretches) if _begins(stretch.events[0])]
        self._before(self._stretches[: begins[0]], tape.layout)
        self._events.append(EMPTY_CACHE)  # of what loading left, as the harness does
        self._steps(self._stretches[begins[0] : begins[-1]])
        first, born, unmade = len(self._events), len(self._numbers), self._unmade
        self._steps(self._stretches[begins[-1] :])
        end = len(self._events)
        self._once_more(self._stretches[begins[-1] :], first, born)
        repeats = len(self._events) > end and self._unmade == unmade
        self.requests = Requests(self._sizes, self._events, end if repeats else None)

    def _take(self, size: int) -> int:
        self._events.append(len(self._sizes))
        self._sizes.append(size)
        return len(self._sizes) - 1

    def _give(self, number: int) -> None:
        self._events.append(~number)

    def _before(self, stretches: Sequence[Stretch], layout: Layout | None) -> None:
        """The model and its adapters; a tape has them module by module. In 4 bit its linear layers'
        weights have memory one at a time, until each is quantised, the last one first, as
        `modeling/deferred.py` and `modeling/nf4.py` make them; what stays in 16 bit comes then."""
        births = list(_births(stretches))
        if layout and any(birth.category == "quantization_state" for birth in births):
            births = [
                birth._replace(module=layout.name(birth.module, stretch.unit, self._units))
                for stretch in stretches
                for birth in _births([stretch])
            ]
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
        """The constructors of all but the head, initialisation after them, and then the head's own
        (transformers `modeling_utils.py`, post_init of the model inside)."""
        used: list[int] = []

        def use(size: int) -> None:
            nonlocal used
            self._give_all(used)
            used = [self._take(size)]

        head = self._workload.model.output_embedding
        inside = {n: size for n, size in deferred.items() if births[n].module != head}
        for n, birth in enumerate(births):
            if n in inside:
                self._give(self._take(inside[n]))
                use(inside[n])
            elif n not in deferred and n not in packed and birth.category != "adapters":
                self._numbers[n] = self._take(self._values[birth.size])
        for size in inside.values():
            use(size)
        own = [size for n, size in deferred.items() if n not in inside]
        for size in own or ([self._tied_head()] if deferred else []):
            self._give(self._take(size))
            use(size)
        self._give_all(used)

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
        """PEFT makes adapters in the weights' format, and each is cast when all are there."""
        if not births:
            return
        setup = self._workload.setup
        made_in, trained_in = DTYPE_BYTES[setup.dtype], DTYPE_BYTES[adapter_dtype(setup)]
        for n, birth in births:
            self._numbers[n] = self._take(self._values[birth.size] * made_in // trained_in)
        for n, birth in births if made_in != trained_in else ():
            cast = self._take(self._values[birth.size])
            self._give(self._numbers[n])
            self._numbers[n] = cast

    def _steps(self, stretches: Sequence[Stretch]) -> None:
        numbers = self._numbers
        for stretch in stretches:
            key = id(stretch.events), self._unmade, self._phase if self._unmade else ""
            asked = self._asked.get(key)
            if asked is None:
                asked = self._asked[key] = self._asked_by(stretch.events)
            self._phase = asked.phase
            first = len(self._sizes)
            born = [stretch.born_in(death, self._units) for death in asked.homes]
            self._sizes += asked.sizes
            numbers += [first + number for number in asked.births]
            self._events += [
                ~numbers[born[home] + number]
                if home >= 0
                else first + number
                if home == OWN
                else ~(first + number)
                for home, number in asked.events
            ]

    def _asked_by(self, stretch: Sequence[Event]) -> Asked:
        """All births of one operator lie in one stretch."""
        sizes: list[int] = []
        births: list[int] = []
        events: list[tuple[int, int]] = []
        homes: dict[tuple[object, ...], tuple[int, Death]] = {}

        def take(size: int) -> int:
            events.append((OWN, len(sizes)))
            sizes.append(size)
            return len(sizes) - 1

        output, phase = -1, self._phase
        for i, event in enumerate(stretch):
            if isinstance(event, Death):
                key = *event[:3], event.ordinal < 0
                home, _ = homes.setdefault(key, (len(homes), event))
                events.append((home, event.ordinal))
            elif isinstance(event, Mark):
                phase = event.phase
            elif event.op == DROPOUT and output < 0:
                output = self._values[event.size]
                births.append(-1)  # asked for after the mask
            else:
                births.append(take(self._values[event.size]))
                if event.op == DROPOUT:
                    births[-2], output = take(output), -1
                if event.op in PRODUCTS and phase in self._unmade:
                    self._unmade -= {phase}
                    take(self._workspace)
                scratch = [take(size) for size in self._scratch(stretch, i)]
                events += [(GIVEN_BACK, number) for number in reversed(scratch)]
        return Asked(sizes, births, events, [death for _, death in homes.values()], phase)

    def _scratch(self, stretch: Sequence[Event], i: int) -> Sequence[int]:
        """Of the operator whose result was born, given back before it is done."""
        birth = stretch[i]
        assert isinstance(birth, Birth)
        if birth.op in PRODUCTS:
            size = product_scratch_bytes(self._workload.platform)
            return (size,) if size else ()
        if birth.op == "sum" and birth.category == "gradients":
            return (self._scratch_of_sum(self._values[birth.size]),)
        if birth.op == FLASH_BACKWARD and not any(map(_of_flash, stretch[i + 1 : i + 2])):
            queries, keys = (self._values[b.size] for b in stretch[i - 2 : i] if _of_flash(b))
            return self._scratch_of_flash(queries, keys)
        return ()

    def _scratch_of_sum(self, size: int) -> int:
        """Of the gradient of a vector of `size` bytes. Of a platform's cards the one with the most
        multiprocessors counts."""
        setup = self._workload.setup
        columns = size // DTYPE_BYTES[setup.dtype]
        each = -(-setup.batch_size * setup.seq_len // _ROWS)
        if each < _FEWEST * _ROWS or columns < _COLUMNS:
            return 0
        room = room_of(self._workload.platform)
        shared = min(-(-room // columns), -(-each // _FEWEST))
        blocks = max(shared, -(-each // _MOST))
        return _FLOAT32 * columns * _COLUMNS * blocks if blocks > 1 else 0

    def _scratch_of_flash(self, queries: int, keys: int) -> Sequence[int]:
        setup = self._workload.setup
        width = DTYPE_BYTES[setup.lowered_dtype or setup.dtype]
        summed = self._over_rows(queries * _FLOAT32 // width)
        if self._is_cudnn and self._log_sum_exp is not None:
            return (summed + self._values[self._log_sum_exp],)
        copied = (queries,) if self._copies_output else ()
        expanded = (queries, queries) if keys < queries else ()
        return (*copied, summed, *expanded)

    @staticmethod
    def is_cudnn(workload: Workload) -> bool:
        kernels = regime_of(workload).kernels
        return bool(kernels) and kernels[0].startswith("cudnn")

    def _valued(self, size: Polynomial, at: Values) -> int:
        return size.evaluate(*at)

    def _over_rows(self, size: int) -> int:
        """Of what has a row for each token, with the rows that flash attention pads to."""
        length = self._workload.setup.seq_len
        return size * (-(-length // FLASH_ROWS) * FLASH_ROWS) // length

    @property
    def _workspace(self) -> int:
        return workspace_bytes(self._workload.platform)

    @cached_property
    def _log_sum_exp(self) -> int | None:
        births = _births(self._stretches)
        return next((b.size for a, b in pairwise(births) if a.op == b.op == FLASH), None)

    @cached_property
    def _copies_output(self) -> bool:
        """Whether flash attention's output is not in the order that its backward pass reads it in,
        so that it is copied there as it was in forward."""
        births = dropwhile(lambda birth: birth.op != FLASH, _births(self._stretches))
        output = next(births, None)
        after = next((birth for birth in islice(births, 5) if birth.op != FLASH), None)
        if output is None or after is None:
            return False
        return (after.op, after.size) == ("clone", output.size)

    def _once_more(self, last: Sequence[Stretch], first: int, born: int) -> None:
        """The last step again, whose events begin with number `first`, and its births with `born`.
        What it gives back of the step before it, as the batch and the loss, is now its own."""
        dying = {~event for event in self._events[first:] if event < 0}
        before, own = self._numbers[:born], self._numbers[born:]
        inherited = [n for n, number in enumerate(before) if number in dying]
        left = [number for number in own if number not in dying]
        if len(left) != len(inherited):
            return
        for n, heir in zip(inherited, left, strict=True):
            before[n] = heir
        self._numbers = before
        self._steps(last)


def room_of(platform: Platform) -> int:
    """Columns of a sum that the multiprocessors of a card take at once."""
    capability = platform.capability or _USUAL_CAPABILITY
    threads = _THREADS.get(capability, _USUAL_THREADS)
    return most_multiprocessors(capability) * (threads // _COLUMNS) * _COLUMNS


def _begins(event: Event) -> bool:
    """Whether a step does."""
    return (
        isinstance(event, Mark) and event.phase == "setup" and event.micro == 0 and not event.note
    )


def _of_flash(event: Event) -> TypeGuard[Birth]:
    return isinstance(event, Birth) and event.op == FLASH_BACKWARD


def _quantised(births: Sequence[Birth]) -> Iterator[tuple[int, int]]:
    """(number of a packed weight, how many births of its quantisation follow it)."""
    number = 0
    for kind, group in groupby(birth.category for birth in births):
        count = sum(1 for _ in group)
        if kind == "quantization_state":
            yield number - 1, count
        number += count


def _births(stretches: Sequence[Stretch]) -> Iterator[Birth]:
    return (e for stretch in stretches for e in stretch.events if isinstance(e, Birth))
