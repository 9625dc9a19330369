"""The data of a plan as a file that was uploaded: read as the command line reads `--data`, or a
histogram as `--lengths`."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from lora_profiler.batching.files import SUFFIXES, read_data
from lora_profiler.batching.histogram import read_histogram
from lora_profiler.batching.sample_lengths import SampleLengths
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.model_spec import ModelSpec

HISTOGRAM = ".csv"
TYPES = tuple(suffix.removeprefix(".") for suffix in (*SUFFIXES, HISTOGRAM))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file and the column to read of it; `file_id` tells it from another of its name."""

    name: str
    file_id: str
    content: bytes = field(repr=False)
    column: str | None = None

    @property
    def identity(self) -> tuple[str, str, str | None]:
        """What tells it from others, without its content."""
        return self.name, self.file_id, self.column

    @property
    def _is_histogram(self) -> bool:
        return PurePath(self.name).suffix.lower() == HISTOGRAM

    @property
    def arguments(self) -> tuple[str, str]:
        """What the command line is told of it, in the folder where it lies."""
        if self._is_histogram:
            return "--lengths", self.name
        return "--data", f"{self.name}#{self.column}" if self.column else self.name

    def lengths(self, model: ModelSpec | None) -> SampleLengths:
        """Of its samples, in tokens of `model`'s tokenizer where that is on this machine. Raises
        LoraProfilerError for what cannot be read."""
        with tempfile.TemporaryDirectory(prefix="lora_profiler-") as folder:
            # a name that is in no message otherwise, since any may come from a browser
            own = f"{PurePath(folder).name}{PurePath(self.name).suffix.lower()}"
            path = Path(folder) / own
            path.write_bytes(self.content)
            try:
                found = self._read(path, model)
            except LoraProfilerError as e:
                text = str(e).replace(str(path), self.name).replace(own, self.name)
                raise type(e)(text) from None
        return replace(found, source=found.source.replace(own, self.name))

    def _read(self, path: Path, model: ModelSpec | None) -> SampleLengths:
        if not self._is_histogram:
            return read_data(f"{path}#{self.column}" if self.column else str(path), model)
        if self.column:
            raise UsageError(f"{path} has counts of lengths, and no column to choose.")
        return read_histogram(path)
