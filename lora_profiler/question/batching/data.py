"""Where lengths come from: figures of a distribution, a histogram, or the data themselves."""

from pathlib import Path

from lora_profiler.errors import UsageError
from lora_profiler.question.batching.sample_lengths import SampleLengths
from lora_profiler.question.model_spec import ModelSpec


def read_lengths(source: str, model: ModelSpec | None = None) -> SampleLengths:
    """Lengths of samples: of figures such as "mean=600,max=4096", of a histogram as CSV (length and
    count), else of data, in tokens of `model`'s tokenizer where it is on this machine.

    Raises UsageError for what cannot be read.

    Examples:
        >>> from lora_profiler.question.batching.data import read_lengths
        >>> read_lengths("mean=600,max=4096").longest
        4096
    """
    if is_figures(source) or source.lower().endswith(".csv"):
        return lengths_from(source)
    from lora_profiler.question.batching.files import read_data

    return read_data(source, model)


def lengths_from(text: str) -> SampleLengths:
    """What `--lengths` says: figures, or a histogram's file."""
    if is_figures(text):
        from lora_profiler.question.batching.sample_lengths import from_figures

        return from_figures(text)
    if not Path(text).is_file():
        raise UsageError(
            f"--lengths is {text[:80]!r}: neither figures, as in mean=600,max=4096, nor a file."
        )
    from lora_profiler.question.batching.files import read_histogram

    return read_histogram(Path(text))


def is_figures(text: str) -> bool:
    return "=" in text and not Path(text).exists()
