"""What a profile says beyond memory at each moment: cost by module, memory over a step, and the
allocator. Each goes through the whole tape, and is worked out when asked for."""

from collections import Counter, defaultdict
from collections.abc import Mapping

from lora_profiler._common.polynomial import Values
from lora_profiler.memory.compiled.allocator import replay
from lora_profiler.memory.compiled.evaluation import Evaluation, evaluation_of, events_of
from lora_profiler.memory.compiled.requests import requests_of
from lora_profiler.memory.prediction import (
    PHASES,
    Category,
    CurvePoint,
    Details,
    DeviceMemory,
    LayerCost,
    Phase,
    Prediction,
)
from lora_profiler.question.model_spec import Module
from lora_profiler.question.workload import Workload

# --- memory over a step ---------------------------------------------------------------------------

# Memory over a step, read off the tape: few points for a picture, and never without the highest of
# each stretch.

MOST_POINTS = 400
"""About as many as a picture has columns to spare; a step of 70 layers has 40,000 events."""


def curve(evaluation: Evaluation, at: Values) -> tuple[CurvePoint, ...]:
    """One steady step (step 2) in about `MOST_POINTS` stretches, none across two phases: the
    highest instant of each."""
    sizes = [size.evaluate(*at) for size in evaluation.profile.sizes]
    events = events_of(evaluation)
    length = sum(1 for event in events if event.mark is None) // 2
    width = max(1, length // MOST_POINTS)
    live: Counter[Category] = Counter()
    births: list[tuple[Category, int, str]] = []
    points: list[CurvePoint] = []
    step, phase, module = 0, "", ""
    highest: tuple[int, CurvePoint] | None = None
    total = num_events = 0

    def close() -> None:
        nonlocal highest, num_events
        if highest is not None:
            points.append(highest[1])
        highest, num_events = None, 0

    for event in events:
        if event.mark is not None:
            if not event.mark.note:
                close()
                step, phase = event.mark.step, event.mark.phase
        elif event.birth is not None:
            birth = event.birth
            module = birth.module
            births.append((birth.category, sizes[birth.size], module))
            live[birth.category] += sizes[birth.size]
            total += sizes[birth.size]
        else:
            category, size, _ = births[event.dies]
            live[category] -= size
            total -= size
        if step != 2 or phase not in PHASES:
            continue
        if highest is None or total > highest[0]:
            highest = (
                total,
                CurvePoint(
                    phase=_PHASES[phase], module=module, bytes={c: n for c, n in live.items() if n}
                ),
            )
        num_events += 1
        if num_events == width:
            close()
    close()
    return tuple(points)


_PHASES: dict[str, Phase] = {phase: phase for phase in PHASES}


# --- details --------------------------------------------------------------------------------------


def layers_of(prediction: Prediction) -> tuple[LayerCost, ...]:
    """By the profile that answers its workload, as the two below. Raise NoProfileError where it is
    no more."""
    answered = _answered(prediction)
    return _layers(evaluation_of(answered), answered)


def curve_of(prediction: Prediction) -> tuple[CurvePoint, ...]:
    answered = _answered(prediction)
    evaluation = evaluation_of(answered)
    return curve(evaluation, evaluation.values(answered.setup))


def device_memory_of(prediction: Prediction) -> DeviceMemory:
    answered = _answered(prediction)
    return _device_memory(evaluation_of(answered), answered)


def _answered(prediction: Prediction) -> Workload:
    """The workload whose profile it is."""
    return prediction.priced_as or prediction.workload


def details(evaluation: Evaluation, workload: Workload) -> Details:
    """All three."""
    return Details(
        layers=_layers(evaluation, workload),
        curve=curve(evaluation, evaluation.values(workload.setup)),
        device_memory=(
            _device_memory(evaluation, workload) if workload.setup.device == "cuda" else None
        ),
    )


def _device_memory(evaluation: Evaluation, workload: Workload) -> DeviceMemory:
    """The whole tape at these sizes, with what libraries take for themselves, replayed through a
    simulation of CUDA's caching allocator."""
    sizes, events, _ = requests_of(evaluation, workload)
    plain, expandable = replay(sizes, events), replay(sizes, events, expandable_segments=True)
    return DeviceMemory(
        allocated_bytes=plain.allocated_bytes,
        reserved_bytes=plain.reserved_bytes,
        expandable_reserved_bytes=expandable.reserved_bytes,
        sizes=tuple(sizes),
        events=tuple(events),
    )


def _layers(evaluation: Evaluation, workload: Workload) -> tuple[LayerCost, ...]:
    """One row per module that owns parameters, then rows for what belongs to no module alone.
    Columns sum to the totals."""
    profile, at = evaluation.profile, evaluation.values(workload.setup)
    values = [size.evaluate(*at) for size in profile.sizes]
    columns: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    loss = False
    for event in events_of(evaluation):
        if event.mark is not None and not event.mark.note:
            loss = event.mark.phase == "loss"
            continue
        if event.birth is None:
            continue
        birth = event.birth
        size = values[birth.size]
        if birth.saved:
            columns["loss" if loss else birth.module or "model"]["saved"] += size
        if birth.category in ("parameters", "adapters", "quantization_state"):
            columns[birth.module]["parameters"] += size
        elif birth.category == "optimizer_states":
            columns[birth.module or "optimizer"]["states"] += size
    for number in profile.trainable:
        for name, polynomial in number.at(profile.layout, evaluation.units):
            columns[name]["trainable"] += polynomial.evaluate(*at)
    for phase in profile.flops.values():
        for number in phase:
            for name, polynomial in number.at(profile.layout, evaluation.units):
                columns[name or "model"]["flops"] += polynomial.evaluate(*at)
    for name, size in evaluation.gradients(values).items():
        columns[name]["gradients"] += size
    rows = [
        _row(name, module.kind, columns.pop(name, {}), module)
        for name, module in workload.model.modules()
    ]
    for name, own in columns.items():
        if any(own.values()):
            rows.append(_row(name, "optimizer" if name == "optimizer" else "activation", own))
    return tuple(rows)


def _row(name: str, kind: str, own: Mapping[str, int], module: Module | None = None) -> LayerCost:
    return LayerCost(
        name=name,
        kind=kind,
        in_features=module.in_features if module else None,
        out_features=module.out_features if module else None,
        num_parameters=module.num_parameters if module else 0,
        num_trainable_parameters=own.get("trainable", 0),
        parameter_bytes=own.get("parameters", 0),
        gradient_bytes=own.get("gradients", 0),
        optimizer_state_bytes=own.get("states", 0),
        saved_activation_bytes=own.get("saved", 0),
        flops=own.get("flops", 0),
    )
