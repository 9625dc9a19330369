"""A workload's step traced at a few points and compiled into a profile that answers for every size;
refused on any doubt.

Four traces of four units give the sizes as polynomials and the tape as blocks. Traces of five and
of six units, and one of the model as it is, at sizes of their own, must then come out of it event
by event. A model whose folded tape is that of a relative which passed all this, sizes aside, must
only pass the trace of five units."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from lora_profiler._common.packages import installed_versions
from lora_profiler._common.polynomial import Polynomial
from lora_profiler._common.process import collector_paused
from lora_profiler.errors import CompileError, UnbuildableError
from lora_profiler.memory.compiled.evaluation import bytes_of
from lora_profiler.memory.compiled.law import (
    OF_LOSS,
    NotOfLawError,
    at_sizes,
    law_key,
    law_unsupported_reason,
    measured,
    narrow_states,
    of_model,
    values_of,
)
from lora_profiler.memory.compiled.peaks import DepthError, check_depths, peaks_of
from lora_profiler.memory.compiled.predict import moments_with
from lora_profiler.memory.compiled.profile import (
    Law,
    Profile,
    Regime,
    identity_of,
    profile_key,
    setup_key,
)
from lora_profiler.memory.compiled.regime import (
    below,
    least_sizes,
    pads_masks,
    regime_of,
    valid_sizes,
    windows_of,
)
from lora_profiler.memory.compiled.tape import (
    LEAST_UNITS,
    Affine,
    Birth,
    Layout,
    ModuleNumber,
    Tape,
)
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.feature import File, Kind, part
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.question.workload import Workload
from lora_profiler.trace.fit import LawFit, NoPolynomialError, TracedSizes, fitted
from lora_profiler.trace.flat import (
    FLOP_PHASES,
    PACKAGES,
    ChangingTapeError,
    Flat,
    TapeError,
    aligned,
    at_point,
    difference,
    flat,
)
from lora_profiler.trace.fold import Label, fold, labels_of, template, unfolded
from lora_profiler.trace.modeling import build_model, losses
from lora_profiler.trace.patching import replaced
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import profile_of
from lora_profiler.trace.toys import FITTED, at_depth, layout_of, toys
from lora_profiler.trace.watch import Size
from lora_profiler.trace.watch import effort as expected

# --- a step whose loss is left open ---------------------------------------------------------------

# A step whose head and loss are numbers of bytes, so that the law of its stack leaves them open:
# `support.losses.LossBytes` says what they are.


class SeamBytes(NamedTuple):
    """Of what is born and gone in the forward pass, of what is kept, and of what is born and gone
    beside that in backward."""

    ahead: int
    kept: int
    back: int


class Seam:
    """Stands for the loss of a step; `dtypes` are those of the hidden states that it was given."""

    def __init__(self, sizes: SeamBytes) -> None:
        self._sizes = sizes
        self.dtypes: set[str] = set()

    @contextmanager
    def in_place_of_loss(self) -> Iterator[None]:
        def part_or_seam(kind: Kind, name: str, file: File, needed: str) -> Any:
            return scaled if needed == "scaled_loss" else part(kind, name, file, needed)

        def scaled(_: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, *__: Any) -> Tensor:
            return self._loss(hidden, weight, bias)

        with replaced(losses, "part", part_or_seam):
            yield

    def _loss(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.dtypes.add(str(hidden.dtype).removeprefix("torch."))
        made: Tensor = _Loss.apply(hidden, weight, bias, self._sizes)  # type: ignore[no-untyped-call]
        return made


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, sizes: SeamBytes
    ) -> Tensor:
        hidden.new_empty((sizes.ahead,), dtype=torch.uint8)
        ctx.save_for_backward(hidden.new_empty((sizes.kept,), dtype=torch.uint8))
        ctx.given = [None if t is None else (t.shape, t.dtype) for t in (hidden, weight, bias)]
        ctx.back = sizes.back
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grads
        gradient.new_empty((ctx.back,), dtype=torch.uint8)
        made = [
            gradient.new_empty(given[0], dtype=given[1]) if needed and given else None
            for given, needed in zip(ctx.given, ctx.needs_input_grad, strict=False)
        ]
        return *made, None


# --- compiling ------------------------------------------------------------------------------------

_BATCHES, _RANKS = (3, 7, 5, 2, 4, 11, 2), (5, 11, 3, 13, 7, 2, 8)
_SEQUENCES = (41, 67, 89, 131, 73, 101, 64)
"""Unrelated sizes, also when rounded up to 16 and to 32: the first four are fitted through, the
others checked at."""
_LONGEST = 4096
"""Tokens checked at where neither the regime nor the config sets an end. Traces of long sequences
are no slower."""


def compile_profile(workload: Workload, proven: Collection[str] = ()) -> Profile:
    """The profile that answers `workload` and every other size for which the same regime holds.

    `proven` are `tape_signature`s of tapes that were checked at full depth already.

    Raises CompileError, and what building the model raises.
    """
    if loss_facts(workload.setup.loss).leaves_stack:  # only a law leaves it open
        raise _refused(
            workload, f"its {workload.setup.loss} loss takes a part of the tokens at once"
        )
    with collector_paused():
        regime = regime_of(workload)
        layout = layout_of(workload.model)
        try:
            return _compiled(_OfModel(workload, regime, layout, proven))
        except ChangingTapeError as doubt:
            raise _refused(workload, str(doubt)) from None
        except (TapeError, DepthError) as doubt:
            if layout is None:
                raise _refused(workload, str(doubt)) from None
        except NoPolynomialError as doubt:
            raise _refused(workload, f"no polynomial goes through {doubt}") from None
        except UnbuildableError:
            lora = workload.setup.lora
            if lora is None or lora.has_rules:
                raise
            raise _refused(workload, "PEFT refuses these adapters at other ranks") from None
        try:
            return _compiled(_OfModel(workload, regime, None, proven))
        except (TapeError, NoPolynomialError) as doubt:
            raise _refused(workload, str(doubt)) from None


def compile_law(workload: Workload) -> Profile:
    """The law that answers `workload` and every other model of its type with the same facts, sizes
    and depth open: fitted through toys, proven at two more toys and at the model itself, each cut
    to a depth of its own. `of_model` makes the model's profile of it.

    Raises CompileError with the first event that differs, and what building the model raises.
    """
    if reason := law_unsupported_reason(workload):
        raise CompileError(f"no law is made of {workload.model.id}: {reason}")
    with collector_paused():
        doubt = "no small models with the same facts can be built"
        regime = regime_of(workload)
        layout = layout_of(workload.model)
        if layout is None:
            raise CompileError(f"no law is made of {workload.model.id}: its layers do not repeat")
        deep = at_depth(workload.model, layout.layers(LEAST_UNITS + 2))
        for made in toys(deep, regime):
            try:
                law = _compiled(of := _OfType(workload, regime, layout, made))
                if loss_facts(workload.setup.loss).leaves_stack:
                    _check_loss(law, workload, of.real)
                return law
            except (TapeError, DepthError, NoPolynomialError, NotOfLawError, UnbuildableError) as e:
                doubt = str(e)
    raise CompileError(f"{workload.model.id} has no law of its type: {doubt}")


def _refused(workload: Workload, doubt: str) -> CompileError:
    return CompileError(
        f"{workload.model.id} cannot be compiled into a profile for all sizes: {doubt}; "
        "a single size can be traced (--engine traced)."
    )


class _Sample(NamedTuple):
    """A model of `units` to trace at a point; 0 units where nothing is folded. `loss`: bytes in
    place of one that a law leaves open."""

    units: int
    model: ModelSpec
    point: TracedSizes
    loss: SeamBytes | None = None


class _OfModel:
    """What a profile of one model is fitted through and checked at: the model itself, cut. The
    trace of five units is as long as can be."""

    def __init__(
        self, workload: Workload, regime: Regime, layout: Layout | None, proven: Collection[str]
    ) -> None:
        self.workload, self.regime, self.layout, self._proven = workload, regime, layout, proven
        model, points = workload.model, _points(workload, regime)
        far = _far(points[4], workload, regime)
        if layout is None:
            self.fits = [_Sample(0, model, point) for point in points[:4]]
            self._checks = [_Sample(0, model, far)]
        else:
            whole = layout.units_of(model.num_layers)
            assert whole is not None
            small = at_depth(model, layout.layers(LEAST_UNITS))
            self.fits = [_Sample(LEAST_UNITS, small, point) for point in points[:4]]
            self._checks = [
                *(
                    _Sample(units, at_depth(model, layout.layers(units)), point)
                    for units, point in ((LEAST_UNITS + 1, far), (LEAST_UNITS + 2, points[5]))
                ),
                _Sample(whole, model, points[6]),
            ]
        self.key = profile_key(model, workload.setup, regime)
        self.identity = identity_of(model)
        self.law: Law | None = None
        self.hidden_dtype = ""

    def checks(self, tape: Tape) -> Sequence[_Sample]:
        return self._checks[:1] if tape_signature(tape) in self._proven else self._checks

    def polynomial(self, values: tuple[int, ...]) -> Polynomial:
        return fitted(tuple(sample.point for sample in self.fits), values)

    def of_module(self, name: str, values: tuple[int, ...]) -> Polynomial:
        return self.polynomial(values)

    def at(self, sample: _Sample) -> Callable[[Polynomial], Polynomial]:
        """What polynomials become at the sizes of a model."""
        return _as_it_is


class _OfType:
    """What a law is fitted through and checked at: toys, and the model that is asked about, cut to
    five units and as long as can be."""

    def __init__(
        self, workload: Workload, regime: Regime, layout: Layout, made: Sequence[ModelSpec]
    ) -> None:
        self.workload, self.regime, self.layout = workload, regime, layout
        depths = (*(LEAST_UNITS,) * FITTED, LEAST_UNITS + 1, LEAST_UNITS + 2)
        leaves_open = loss_facts(workload.setup.loss).leaves_stack
        losses = [_drawn(number) if leaves_open else None for number in range(len(depths) + 1)]
        narrow = narrow_states(workload.model, workload.setup, regime.rank)
        samples = []
        for number, (units, toy) in enumerate(zip(depths, made, strict=True)):
            cut = at_depth(toy, layout.layers(units))
            one = replace(workload, model=cut)
            if narrow_states(cut, one.setup, regime.rank) != narrow:
                raise TapeError(f"of {cut.id}, states of other adapters are in 32 bit")
            samples.append(_Sample(units, cut, _points(one, regime)[number], losses[number]))
        self.fits, self._checks = samples[:FITTED], samples[FITTED:]
        real = at_depth(workload.model, layout.layers(LEAST_UNITS + 1))
        point = _far(_points(workload, regime)[-1], workload, regime)
        self.real = _Sample(LEAST_UNITS + 1, real, point, losses[-1])
        self._checks.append(self.real)
        self._fit = LawFit(
            [sample.model for sample in self.fits],
            [sample.point for sample in self.fits],
            layout,
            regime.rank,
            [sample.loss or () for sample in self.fits],
        )
        self.polynomial, self.of_module = self._fit.polynomial, self._fit.of_module
        self.key = law_key(workload.model, workload.setup, regime)
        self.hidden_dtype = ""
        self.identity = {
            "id": f"{workload.model.model_type} (all sizes)",
            "model_type": workload.model.model_type,
        }

    @property
    def law(self) -> Law | None:
        return self._fit.law._replace(hidden_dtype=self.hidden_dtype)

    def checks(self, tape: Tape) -> Sequence[_Sample]:
        return self._checks

    def at(self, sample: _Sample) -> Callable[[Polynomial], Polynomial]:
        return _at(self._fit.law, self.layout, self.regime, sample)


def _at(
    law: Law, layout: Layout, regime: Regime, sample: _Sample
) -> Callable[[Polynomial], Polynomial]:
    values = values_of(law, sample.model, layout, regime.rank, sample.loss or (1, 1, 1))
    measures = measured(law, values)
    return lambda polynomial: at_sizes(polynomial, measures)


def _traced(workload: Workload, regime: Regime, sample: _Sample) -> tuple[Flat, Collection[str]]:
    """And the dtypes that a loss was given hidden states in, where the law leaves it open."""
    seam = None if sample.loss is None else Seam(sample.loss)
    asked = at_point(replace(workload, model=sample.model), sample.point)
    with nullcontext() if seam is None else seam.in_place_of_loss():
        flat_tape = flat(trace(asked, _on_meta))
    if regime_of(asked) != regime:
        raise TapeError(f"a trace at {sample.point} is of another regime")
    return flat_tape, () if seam is None else seam.dtypes


def _compiled(of: _OfModel | _OfType) -> Profile:
    workload, regime, layout = of.workload, of.regime, of.layout

    def traced(sample: _Sample) -> Flat:
        flat_tape, dtypes = _traced(workload, regime, sample)
        if sample.loss is not None:
            of.hidden_dtype = _only(dtypes, of.hidden_dtype)
        return flat_tape

    if (effort := expected()) is not None:
        effort.plan([Size(sample.model.num_layers) for sample in (*of.fits, *of.checks(NO_TAPE))])
    flats = [traced(sample) for sample in of.fits]
    events, sizes = aligned(flats, of.polynomial)
    flops: dict[str, tuple[ModuleNumber, ...]] = {}
    with suppress(NoPolynomialError):  # memory is known all the same
        flops = {
            phase: _by_module([f.flops_of(phase) for f in flats], of.of_module, layout)
            for phase in FLOP_PHASES
        }
    trainable = _by_module([f.trainable for f in flats], of.of_module, layout)
    tape = (
        unfolded(events)
        if layout is None
        else fold(events, labels_of(flats[0].where, layout, LEAST_UNITS), layout)
    )
    checked = []
    for sample in of.checks(tape):
        _check(tape, sizes, {"": trainable, **flops}, layout, sample, traced(sample), of.at(sample))
        checked.append((sample.model.num_layers, *sample.point))
    if layout is not None:
        check_depths(tape, len(sizes))
    windows, num_layers = windows_of(workload.model), workload.model.num_layers
    has_rank = workload.setup.lora is not None
    return Profile(
        key=of.key,
        model=of.identity,
        setup=setup_key(workload.setup),
        regime=regime,
        valid=valid_sizes(regime, windows, layout, num_layers, has_rank=has_rank),
        layout=layout,
        num_layers=num_layers,
        kernels=flats[0].kernels,
        fallbacks=flats[0].fallbacks,
        versions=installed_versions(PACKAGES),
        checked=tuple(checked),
        saved=_saved(tape, sizes, layout),
        **peaks_of(tape, sizes)._asdict(),
        sizes=tuple(sizes),
        flops=flops,
        trainable=trainable,
        tape_source=tape,
        law=of.law,
    )


def _check(
    tape: Tape,
    sizes: Sequence[Polynomial],
    numbers: Mapping[str, Sequence[ModuleNumber]],
    layout: Layout | None,
    sample: _Sample,
    fresh: Flat,
    at: Callable[[Polynomial], Polynomial],
) -> None:
    """Raises TapeError with the first event or number in which a `fresh` trace of `sample` differs.
    `numbers` by module: FLOPs by phase, and trainable parameters under ""."""
    try:
        expanded = tape.expand(sample.units)
    except LookupError:
        raise TapeError(
            f"at {sample.model.num_layers} layers, a tensor dies that is not born"
        ) from None
    wrong = difference(expanded, [at(size).evaluate(*sample.point) for size in sizes], fresh)
    for phase, of_modules in numbers.items():
        seen = fresh.flops_of(phase) if phase else fresh.trainable
        wrong = wrong or _numbers_differ(of_modules, seen, layout, sample, at)
    if wrong:
        raise TapeError(f"at {sample.model.num_layers} layers, {wrong}")


def check_again(profile: Profile, workload: Workload) -> None:
    """Traces `workload` once more, cut to five units and as long as can be, and holds it against
    its `profile` or law, which other versions of the libraries may have made.

    Raises CompileError with the first event that differs, and what building the model raises.
    """
    regime, layout, law = regime_of(workload), profile.layout, profile.law
    units, model, points = 0, workload.model, _points(workload, regime)
    if layout is not None:
        units, model = LEAST_UNITS + 1, at_depth(model, layout.layers(LEAST_UNITS + 1))
    leaves_open = law is not None and loss_facts(workload.setup.loss).leaves_stack
    sample = _Sample(
        units, model, _far(points[4], workload, regime), _drawn(FITTED) if leaves_open else None
    )
    with collector_paused():
        try:
            fresh, _ = _traced(workload, regime, sample)
            at = _at(law, layout, regime, sample) if law and layout else _as_it_is
            numbers = {"": profile.trainable, **profile.flops}
            _check(profile.tape, profile.sizes, numbers, layout, sample, fresh, at)
        except (TapeError, NotOfLawError) as doubt:
            raise CompileError(f"{workload.model.id}: {doubt}") from None


def _as_it_is(polynomial: Polynomial) -> Polynomial:
    return polynomial


NO_TAPE = Tape((), None)


def _check_loss(law: Profile, workload: Workload, sample: _Sample) -> None:
    """Raises TapeError where what a law makes of its stack and the bytes of the loss is not what a
    fresh trace with the loss itself shows, moment by moment."""
    whole = at_point(replace(workload, model=sample.model), sample.point)
    seen = moments_with(profile_of(whole, trace(whole, _on_meta)), whole)
    made = moments_with(of_model(law, whole.model, bytes_of(whole, law)), whole)
    mine, real = largest(made), largest(seen)
    for place in real:
        if mine.get(place) != real[place]:
            raise TapeError(
                f"with its loss, {mine.get(place, 0):,} instead of {real[place]:,} bytes at"
                f" {place[1]} of step {place[0]}"
            )
    for name in ("saved_activation_bytes", "persistent_bytes", "parameters", "flops"):
        if getattr(made, name) not in (getattr(seen, name), None):
            raise TapeError(f"with its loss, {name} are {getattr(made, name)}")


def largest(prediction: Prediction) -> dict[tuple[int | str, str], int]:
    """Bytes of each moment by step. Which layers are the last ones depends on the depth that a
    tape was folded at, so that their backward is one."""
    sizes: dict[tuple[int | str, str], int] = {}
    for moment in prediction.moments:
        place = (moment.step, moment.moment.removeprefix("first_").removeprefix("last_"))
        sizes[place] = max(sizes.get(place, 0), moment.total_bytes)
    return sizes


def _drawn(number: int) -> SeamBytes:
    """Bytes that have nothing to do with each other or with any size."""
    return SeamBytes(*(10**6 + crc32(f"{name} {number}".encode()) % 10**7 for name in OF_LOSS))


def _only(dtypes: Collection[str], before: str) -> str:
    """Raises TapeError where a loss was given hidden states of several dtypes."""
    found = {*dtypes, before} - {""}
    if len(found) != 1:
        raise TapeError(f"the hidden state of the loss is in {', '.join(sorted(found))}")
    return found.pop()


def tape_signature(tape: Tape) -> str:
    """A hash of a folded tape and its layout without the sizes: what happens, in which order, to
    what."""
    blind = [
        [
            run.direction,
            [
                [e._replace(size=0) if isinstance(e, Birth) else e for e in block]
                for block in run.blocks
            ],
        ]
        for run in tape.runs
    ]
    return hashlib.sha256(repr((tape.layout, blind)).encode()).hexdigest()[:24]


def _on_meta(workload: Workload) -> torch.nn.Module:
    return build_model(workload, device="meta")


def _points(workload: Workload, regime: Regime) -> tuple[TracedSizes, ...]:
    """Sizes for which `regime` holds: four to fit through, three to check at.

    Raises CompileError where too few lengths lie below the next window.
    """
    points = []
    for batch, seq, rank in zip(_BATCHES, _lengths(workload, regime), _RANKS, strict=True):
        rank = regime.rank or (rank if workload.setup.lora else 1)
        points.append(TracedSizes(1 if regime.one_sample else batch, seq, rank))
    return tuple(points)


def _lengths(workload: Workload, regime: Regime) -> list[int]:
    if regime.one_token or regime.length:
        return [regime.length or 1] * len(_SEQUENCES)
    windows, holds = windows_of(workload.model), _alignment(workload, regime)
    _, least = least_sizes(regime, windows)
    start, most = 0 if least <= 2 else least, least + 2 * max(_SEQUENCES)
    window, positions = below(regime, windows) or most, workload.model.trained_length or most
    for end in (min(window, positions + 1), window):  # a window can be as long as all positions
        lengths = [seq for seq in range(least, min(end, most)) if holds(seq)]
        if len(lengths) >= len(_SEQUENCES):
            break
    else:
        raise _refused(workload, f"its regime holds for {len(lengths)} lengths alone")
    longest = max(_SEQUENCES)
    if lengths[-1] < start + longest:  # spread over what there is, so that roundings tell apart
        return [lengths[seq * len(lengths) // (longest + 1)] for seq in _SEQUENCES]
    return [next(n for n in lengths if n >= start + seq) for seq in _SEQUENCES]


def _alignment(workload: Workload, regime: Regime) -> Callable[[int], bool]:
    """Whether a length is a multiple of what rows of masks are padded to, or is none, as `regime`
    has it; every length where no mask is padded."""
    if not pads_masks(workload):
        return lambda seq: True
    return lambda seq: (seq % MASK_ALIGNMENT > 0) == regime.unaligned


def _far(point: TracedSizes, workload: Workload, regime: Regime) -> TracedSizes:
    """`point` with as many tokens as the regime and the model's positions allow: a window that
    nobody named would show."""
    if regime.one_token or regime.length:
        return point
    window = below(regime, windows_of(workload.model))
    ends = [end for end in (window and window - 1, workload.model.trained_length) if end]
    holds = _alignment(workload, regime)
    longest = next(filter(holds, range(min(ends, default=_LONGEST), 0, -1)))
    return point._replace(seq=max(point.seq, longest))


def _saved(tape: Tape, sizes: Sequence[Polynomial], layout: Layout | None) -> Affine:
    """Bytes of all that autograd keeps."""

    def at(units: int) -> Polynomial:
        size = Polynomial({})
        for event in tape.expand(units):
            if event.birth is not None and event.birth.saved:
                size = size + sizes[event.birth.size]
        return size

    return (
        Affine.constant(at(0))
        if layout is None
        else Affine.through(LEAST_UNITS, at(LEAST_UNITS), at(LEAST_UNITS + 1))
    )


def _by_module(
    counts: Sequence[Mapping[str, int]],
    fit: Callable[[str, tuple[int, ...]], Polynomial],
    layout: Layout | None,
) -> tuple[ModuleNumber, ...]:
    """Numbers by module seen in each trace, as polynomials. Raises TapeError where inner units
    differ."""
    names = list(dict.fromkeys(name for one in counts for name in one))
    values = {name: tuple(one.get(name, 0) for one in counts) for name in names}
    numbers = {name: fit(name, v) if any(v) else Polynomial({}) for name, v in values.items()}
    if layout is None:
        return tuple(ModuleNumber(name, p, p, p) for name, p in numbers.items())
    by_template: dict[str, dict[Label, Polynomial]] = {}
    for name, unit in zip(names, labels_of(names, layout, LEAST_UNITS), strict=True):
        by_template.setdefault(template(name, unit, layout), {})[unit] = numbers[name]
    found = []
    for name, units in by_template.items():
        if None in units:
            found.append(ModuleNumber(name, units[None], units[None], units[None]))
            continue
        first, second, third, last = (
            units.get(unit, Polynomial({})) for unit in range(LEAST_UNITS)
        )
        if second != third:
            raise TapeError(f"{name} differs between inner layers")
        found.append(ModuleNumber(name, first, second, last))
    return tuple(found)


def _numbers_differ(
    numbers: Sequence[ModuleNumber],
    fresh: Mapping[str, int],
    layout: Layout | None,
    sample: _Sample,
    at: Callable[[Polynomial], Polynomial],
) -> str | None:
    mine = {
        name: at(p).evaluate(*sample.point)
        for number in numbers
        for name, p in number.at(layout, sample.units)
    }
    wrong = [name for name in {*mine, *fresh} if mine.get(name, 0) != fresh.get(name, 0)]
    return (
        f"{min(wrong)} has {mine.get(min(wrong), 0)} instead of {fresh.get(min(wrong), 0)}"
        if wrong
        else None
    )
