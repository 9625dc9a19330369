"""A workload's step traced at a few points and compiled into a profile that answers for every size;
refused on any doubt.

Four traces of four units give the sizes as polynomials and the tape as blocks. Traces of five and
of six units, and one of the model as it is, at sizes of their own, must then come out of it event
by event. A model whose folded tape is that of a relative which passed all this, sizes aside, must
only pass the trace of five units.
"""

import gc
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch

from lora_profiler._common.packages import installed_versions
from lora_profiler.algebra import Polynomial
from lora_profiler.compiled.affine import Affine, ModuleNumber
from lora_profiler.compiled.instants import DepthError, instants, undominated
from lora_profiler.compiled.profile import Instant, Profile, Regime, profile_key, setup_key
from lora_profiler.compiled.regime import below, least_sizes, pads_masks, regime_of, windows_of
from lora_profiler.compiled.tape import LEAST_UNITS, Birth, Layout, Tape
from lora_profiler.errors import CompileError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.modeling import build_model
from lora_profiler.prediction import Category
from lora_profiler.support.sdpa import MASK_ALIGNMENT
from lora_profiler.traced.effort import Size
from lora_profiler.traced.fit import NoPolynomialError, Point, fitted
from lora_profiler.traced.flat import (
    ChangingTapeError,
    Flat,
    TapeError,
    aligned,
    at_point,
    difference,
    flat,
)
from lora_profiler.traced.fold import Label, fold, labels_of, template, unfolded
from lora_profiler.traced.layouts import at_depth, layout_of
from lora_profiler.traced.run import trace
from lora_profiler.traced.watch import effort as expected
from lora_profiler.workload import Workload

FLOP_PHASES = ("forward", "backward", "recompute")
PACKAGES = ("lora-profiler", "torch", "transformers", "peft", "bitsandbytes")
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
    enabled = gc.isenabled()
    # the libraries hold a million objects, which would be looked through again and again
    gc.disable()
    try:
        return _folded_or_whole(workload, proven)
    finally:
        if enabled:
            gc.enable()


def _folded_or_whole(workload: Workload, proven: Collection[str]) -> Profile:
    regime = regime_of(workload)
    points = _points(workload, regime)
    layout = layout_of(workload.model)
    try:
        return _compiled(workload, regime, points, layout, proven)
    except ChangingTapeError as doubt:
        raise _refused(workload, str(doubt)) from None
    except (TapeError, DepthError) as doubt:
        if layout is None:
            raise _refused(workload, str(doubt)) from None
    except NoPolynomialError as doubt:
        raise _refused(workload, f"no polynomial goes through {doubt}") from None
    try:
        return _compiled(workload, regime, points, None, proven)
    except (TapeError, NoPolynomialError) as doubt:
        raise _refused(workload, str(doubt)) from None


def _refused(workload: Workload, doubt: str) -> CompileError:
    return CompileError(
        f"{workload.model.id} cannot be compiled into a profile for all sizes: {doubt}; "
        "a single size can be traced (--engine traced)."
    )


def _compiled(
    workload: Workload,
    regime: Regime,
    points: tuple[Point, ...],
    layout: Layout | None,
    proven: Collection[str],
) -> Profile:
    model = workload.model

    def traced(spec: ModelSpec, point: Point) -> Flat:
        return flat(trace(at_point(replace(workload, model=spec), point), _on_meta))

    fit_at, check_at = points[:4], (_far(points[4], workload, regime), *points[5:])
    small = model if layout is None else at_depth(model, layout.layers(LEAST_UNITS))
    if (effort := expected()) is not None:
        more = (
            ()
            if layout is None
            else (layout.layers(LEAST_UNITS + 1), layout.layers(LEAST_UNITS + 2))
        )
        depths = (*(small.num_layers,) * len(fit_at), *more, model.num_layers)
        effort.plan([Size(depth) for depth in depths])
    flats = [traced(small, point) for point in fit_at]
    events, sizes = aligned(flats, fit_at)
    flops = {
        phase: _by_module([f.flops_of(phase) for f in flats], fit_at, layout)
        for phase in FLOP_PHASES
    }
    trainable = _by_module([f.trainable for f in flats], fit_at, layout)
    checked = []
    if layout is None:
        tape, checks = unfolded(events), [(0, model)]
    else:
        tape = fold(events, labels_of(flats[0].where, layout, LEAST_UNITS), layout)
        whole = layout.units_of(model.num_layers)
        assert whole is not None
        checks = [(LEAST_UNITS + 1, at_depth(model, layout.layers(LEAST_UNITS + 1)))]
        if tape_signature(tape) not in proven:
            checks += [
                (LEAST_UNITS + 2, at_depth(model, layout.layers(LEAST_UNITS + 2))),
                (whole, model),
            ]
    for (units, spec), point in zip(checks, check_at, strict=False):
        fresh = traced(spec, point)
        try:
            expanded = tape.expand(units)
        except LookupError:
            raise TapeError(
                f"at {spec.num_layers} layers, a tensor dies that is not born"
            ) from None
        wrong = difference(expanded, sizes, fresh, point)
        wrong = wrong or _numbers_differ(trainable, fresh.trainable, layout, units, point)
        for phase, numbers in flops.items():
            wrong = wrong or _numbers_differ(numbers, fresh.flops_of(phase), layout, units, point)
        if wrong:
            raise TapeError(f"at {spec.num_layers} layers, {wrong}")
        checked.append((spec.num_layers, *point))
    peaks = instants(tape, sizes, None if layout is None else LEAST_UNITS)
    least_batch, least_seq = least_sizes(regime, windows_of(model))
    folded_least = 0 if layout is None else LEAST_UNITS
    return Profile(
        key=profile_key(model, workload.setup, regime),
        model={"id": model.id, "model_type": model.model_type, "fingerprint": model.fingerprint},
        setup=setup_key(workload.setup),
        regime=regime,
        valid=_valid(workload, regime, layout),
        layout=layout,
        num_layers=model.num_layers,
        kernels=flats[0].kernels,
        fallbacks=flats[0].fallbacks,
        versions=installed_versions(PACKAGES),
        checked=tuple(checked),
        saved=_saved(tape, sizes, layout),
        persistent=persistent(peaks),
        instants=tuple(undominated(peaks, least_batch, least_seq, folded_least)),
        sizes=tuple(sizes),
        flops=flops,
        trainable=trainable,
        tape_source=tape,
    )


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


def _points(workload: Workload, regime: Regime) -> tuple[Point, ...]:
    """Sizes for which `regime` holds: four to fit through, three to check at.

    Raises CompileError where too few lengths lie below the next window.
    """
    points = []
    for batch, seq, rank in zip(_BATCHES, _lengths(workload, regime), _RANKS, strict=True):
        rank = regime.rank or (rank if workload.setup.lora else 1)
        points.append(Point(1 if regime.one_sample else batch, seq, rank))
    return tuple(points)


def _lengths(workload: Workload, regime: Regime) -> list[int]:
    if regime.one_token:
        return [1] * len(_SEQUENCES)
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


def _far(point: Point, workload: Workload, regime: Regime) -> Point:
    """`point` with as many tokens as the regime and the model's positions allow: a window that
    nobody named would show."""
    if regime.one_token:
        return point
    window = below(regime, windows_of(workload.model))
    ends = [end for end in (window and window - 1, workload.model.trained_length) if end]
    holds = _alignment(workload, regime)
    longest = next(filter(holds, range(min(ends, default=_LONGEST), 0, -1)))
    return point._replace(seq=max(point.seq, longest))


def _valid(
    workload: Workload, regime: Regime, layout: Layout | None
) -> dict[str, tuple[int, int | None]]:
    windows, lora, layers = (
        windows_of(workload.model),
        workload.setup.lora,
        workload.model.num_layers,
    )
    batch, seq = least_sizes(regime, windows)
    beyond = below(regime, windows)
    return {
        "batch_size": (batch, 1 if regime.one_sample else None),
        "seq_len": (seq, None if beyond is None else beyond - 1),
        "rank": (regime.rank, regime.rank) if regime.rank else (1, None if lora else 1),
        "num_layers": (layers, layers) if layout is None else (layout.layers(LEAST_UNITS), None),
    }


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


def persistent(peaks: Sequence[Instant]) -> dict[Category, Affine]:
    """What lives between two steps, and the gradients when the optimizer begins, none where it
    steps in backward."""
    setup = next(i for i in peaks if i.step == 2 and i.moment == "setup")
    step = next(i for i in peaks if i.step == 2 and i.moment == "optimizer_step")
    return {**setup.live, "gradients": step.live.get("gradients", Affine.constant(Polynomial({})))}


def _by_module(
    counts: Sequence[Mapping[str, int]], points: tuple[Point, ...], layout: Layout | None
) -> tuple[ModuleNumber, ...]:
    """Numbers by module seen at each point, as polynomials. Raises TapeError where inner units
    differ."""
    names = list(dict.fromkeys(name for one in counts for name in one))
    values = {name: _fitted(points, tuple(one.get(name, 0) for one in counts)) for name in names}
    if layout is None:
        return tuple(ModuleNumber(name, p, p, p) for name, p in values.items())
    by_template: dict[str, dict[Label, Polynomial]] = {}
    for name, unit in zip(names, labels_of(names, layout, LEAST_UNITS), strict=True):
        by_template.setdefault(template(name, unit, layout), {})[unit] = values[name]
    numbers = []
    for name, units in by_template.items():
        if None in units:
            numbers.append(ModuleNumber(name, units[None], units[None], units[None]))
            continue
        first, second, third, last = (
            units.get(unit, Polynomial({})) for unit in range(LEAST_UNITS)
        )
        if second != third:
            raise TapeError(f"{name} differs between inner layers")
        numbers.append(ModuleNumber(name, first, second, last))
    return tuple(numbers)


def _fitted(points: tuple[Point, ...], values: tuple[int, ...]) -> Polynomial:
    return fitted(points, values) if any(values) else Polynomial({})


def _numbers_differ(
    numbers: Sequence[ModuleNumber],
    fresh: Mapping[str, int],
    layout: Layout | None,
    units: int,
    at: Point,
) -> str | None:
    mine = {name: p.evaluate(*at) for number in numbers for name, p in number.at(layout, units)}
    wrong = [name for name in {*mine, *fresh} if mine.get(name, 0) != fresh.get(name, 0)]
    return (
        f"{min(wrong)} has {mine.get(min(wrong), 0)} instead of {fresh.get(min(wrong), 0)}"
        if wrong
        else None
    )
