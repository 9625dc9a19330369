"""What a peak rests on, in one line with its source."""

from typing import NamedTuple

from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.units import bytes_texts


class Trust(NamedTuple):
    """A sentence, and where it was published: both empty where nothing public tells of it."""

    text: str
    source: str = ""
    url: str = ""


def trust(answer: Answer) -> Trust:
    """The public run nearest to the answer, and what was predicted of it; how sure the peak is
    where there is none, or where the trainer's loop holds what is not priced."""
    prediction, likely = answer.prediction, answer.likely
    if answer.trainer and answer.trainer.gaps(prediction.workload.setup.method):
        return Trust("An estimate: the trainer's loop holds what is not priced.")
    if likely is None:
        return Trust(_sureness(answer))
    row = likely.nearest
    measured, predicted = bytes_texts([row.measured_bytes, row.predicted_bytes])
    method, name = labels.METHOD_LABELS[row.method], row.model.rpartition("/")[2]
    return Trust(
        f"The nearest public run, {name} {method}, held {measured}; predicted: {predicted}.",
        labels.SOURCE_LABELS[row.source],
        row.url,
    )


def _sureness(answer: Answer) -> str:
    prediction = answer.prediction
    if prediction.saved_activation_bytes is None:
        return "A lower bound: what the layers keep is not known."
    if prediction.exactness == "exact":
        return "Exact for this loop."
    if prediction.error_bound:
        return f"Within {100 * prediction.error_bound:g} %."
    return "An estimate."
