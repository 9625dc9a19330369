"""What is asked where nobody has asked: a page that opens on an answer, not on a form."""

from functools import cache

from lora_profiler.catalog import find_gpu
from lora_profiler.dashboard.question import METHODS, Question
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.setups import DEFAULTS

USUAL_CARD = "rtx_4090"


def first_question() -> Question:
    """Every method of the first model on this machine's card, or the usual one."""
    return Question(options={**DEFAULTS, "methods": METHODS}, gpu=_card())


@cache
def _card() -> str:
    try:
        return find_gpu("auto").key
    except LoraProfilerError:  # no driver, no card, or several kinds
        return USUAL_CARD
