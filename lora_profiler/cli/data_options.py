"""The options that say how long samples are and how batches are made of them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lora_profiler.cli.click_support import FiniteRange, NearestChoice
from lora_profiler.cli.option_groups import DATA, grouped, together
from lora_profiler.cli.options import given
from lora_profiler.errors import UsageError
from lora_profiler.option import MAX_SIZE, flag

if TYPE_CHECKING:
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.planning.over_data import TrainingData

F = TypeVar("F", bound=Callable[..., Any])

BATCHINGS = ("random", "grouped", "packed", "packed-split", "packed-wrapped", "packed-axolotl")
"""As `batching.batches` has them, which is loaded for questions about data alone."""
_ABOUT_DATA = ("batching", "pad_to_multiple_of", "epochs")

_option = grouped(DATA)
# fmt: off
data_options = together(
    _option("--data", "FILE[#COLUMN]",
        "Samples of this JSONL, JSON, Parquet, Arrow or text file, or folder of them: the worst batch's memory, the"
        " average one's time. --seq-len cuts them where it is given."),
    _option("--lengths", "mean=N,max=N|FILE",
        "Samples as long as that, in tokens: two of mean=, median=, p95= and sigma= of a log-normal distribution,"
        " with min=, max= and samples=; or a file of length,count.", rare=True),
    _option("--batching",
        help="With --data or --lengths: drawn at random and padded to the longest, grouped by length, or packed"
        " into rows of --seq-len as TRL (packed is its bfd) or axolotl do.", rare=True, type=NearestChoice(BATCHINGS),
        default="random", show_default=True),
    _option("--pad-to-multiple-of", "TOKENS", "With --data or --lengths: batches are padded to a multiple.",
        rare=True, type=click.IntRange(1, MAX_SIZE)),
    _option("--epochs", "NUMBER", "With --data or --lengths: how long so many take.", rare=True,
        type=FiniteRange(0, min_open=True)),
)
# fmt: on


def training_data(
    ctx: click.Context, o: Mapping[str, Any], model: "ModelSpec"
) -> "TrainingData | None":
    """What --data or --lengths say, None without them.

    Raises UsageError for both, for options that only data give a meaning, and for data that cannot
    be read.
    """
    if o["data"] is None and o["lengths"] is None:
        if idle := [name for name in _ABOUT_DATA if given(ctx, name)]:
            raise UsageError(
                f"{flag(idle[0])} is about the lengths of samples; add --data or --lengths, or"
                " leave it out."
            )
        return None
    if o["data"] is not None and o["lengths"] is not None:
        raise UsageError("--data and --lengths both say how long samples are; leave one out.")
    from lora_profiler.planning.over_data import TrainingData

    if o["data"] is not None:
        from lora_profiler.batching.files import read_data

        lengths = read_data(o["data"], model)
    else:
        from lora_profiler.batching.data import lengths_from

        lengths = lengths_from(o["lengths"])
    return TrainingData(
        lengths=lengths,
        batching=o["batching"],
        max_length=o["seq_len"] if given(ctx, "seq_len") else None,
        pad_to_multiple_of=o["pad_to_multiple_of"],
        epochs=o["epochs"],
    )
