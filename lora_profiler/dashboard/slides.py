"""The bars of the first screen at every stop of its sliders, so that a browser can draw them while
one is dragged without asking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_profiler.dashboard.answered import Answered, workloads
from lora_profiler.dashboard.question import SETUP_OPTIONS
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.engine import (
    engine_for_search,
    on_card,
    peak_bytes_checked,
    predict_checked,
)
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.planning.sizes import BATCHES, lengths
from lora_profiler.report.first_screen import Frame
from lora_profiler.report.first_screen.frame import framed, judged
from lora_profiler.report.labels import way_label
from lora_profiler.units import count_text

RANKS = tuple(2**n for n in range(10))
LABELS = {"seq_len": "Length", "batch_size": "Batch", "rank": "Rank"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """A slider: an option, its stops, the place of the one that is asked, and the bars at each."""

    name: str
    label: str
    stops: tuple[int, ...]
    place: int
    frames: tuple[Frame, ...]


def slides(model: ModelSpec, result: Answered, shown: Frame) -> tuple[Slide, ...]:
    """A slider for each size of the question, with the bars of `shown` at each of its stops. Stops
    that are refused, or of which a peak is not known, are left out; a slider of one stop too.

    Each peak is that of the question with that size, from the same polynomials as its answer.
    """
    if any(answer.prediction.saved_activation_bytes is None for answer in result.answers):
        return ()
    return tuple(
        slide
        for name in _names(result)
        if len((slide := _slide(name, model, result, shown)).stops) > 1
    )


def _names(result: Answered) -> tuple[str, ...]:
    adapted = any(p.workload.setup.lora for p in result.predictions)
    return tuple(name for name in LABELS if adapted or name != "rank")


def _slide(name: str, model: ModelSpec, result: Answered, shown: Frame) -> Slide:
    asked = result.question.options[name]
    found = dict(_frames(name, _stops(name, asked, model), model, result, shown))
    return Slide(
        name=name,
        label=LABELS[name],
        stops=tuple(found),
        place=list(found).index(asked) if asked in found else 0,
        frames=tuple(found.values()),
    )


def _stops(name: str, asked: int, model: ModelSpec) -> Sequence[int]:
    if name == "seq_len":
        return lengths(asked, model.trained_length)
    return sorted({*(RANKS if name == "rank" else BATCHES), asked})


def _frames(
    name: str, stops: Sequence[int], model: ModelSpec, result: Answered, shown: Frame
) -> Iterator[tuple[int, Frame]]:
    question = result.question
    engines = [engine_for_search(p, question.engine) for p in result.predictions]
    helds = [held_bytes(p) for p in result.predictions]
    for stop in stops:
        if stop == question.options[name]:
            yield stop, shown
            continue
        sized = replace(question, options={**question.options, name: stop})
        try:
            ways = [on_card(w, result.gpu) for w in workloads(model, sized)]
            asked = list(zip(ways, engines, strict=True))
            peaks = [(way_label(w.setup), peak_bytes_checked(w, engine)) for w, engine in asked]
            if name == "rank":  # alone it changes what is held
                helds = [held_bytes(predict_checked(w, engine)) for w, engine in asked]
        except LoraProfilerError:  # this size is refused, or nobody knows it
            continue
        bars = [
            replace(bar, label=label, peak_bytes=peak, reserve_bytes=kept, verdict=verdict)
            for bar, (label, peak), held in zip(shown.bars, peaks, helds, strict=True)
            for kept, verdict in (judged(peak, held, result.gpu),)
        ]
        yield stop, framed(bars, result.gpu, shown.scale_bytes)


def as_data(found: Sequence[Slide]) -> list[dict[str, Any]]:
    """What the script in the browser draws from: texts, and parts of bars in per cent."""
    return [
        {
            "name": slide.name,
            "label": slide.label,
            "place": slide.place,
            "stops": list(slide.stops),
            "texts": [count_text(stop) for stop in slide.stops],
            "frames": [_bars(frame) for frame in slide.frames],
        }
        for slide in found
    ]


def _bars(frame: Frame) -> dict[str, Any]:
    return {
        "words": frame.words,
        "bars": [
            {
                "label": bar.label,
                "number": frame.number(bar),
                "parts": list(frame.parts(bar)),
                "cut": frame.is_cut(bar),
            }
            for bar in frame.bars
        ],
    }


def is_stop(name: object, value: object) -> bool:
    """Whether a browser may have sent this: an option with a slider, and a size that it can
    have."""
    return (
        isinstance(name, str)
        and name in LABELS
        and isinstance(value, int)
        and not isinstance(value, bool)
        and 1 <= value <= SETUP_OPTIONS[name].declared.largest
    )
