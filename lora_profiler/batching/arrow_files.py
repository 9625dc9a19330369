"""Rows of Parquet and Arrow files, which need PyArrow."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_profiler._common.versions import missing
from lora_profiler.errors import LoraProfilerError, UsageError

_ROWS_AT_ONCE = 1000


class MissingPackageError(LoraProfilerError):
    """A package that reads this kind of file is not installed."""

    exit_code = 4


def arrow_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Raises UsageError for a file that is none, and MissingPackageError without PyArrow."""
    if missing(["pyarrow"]):
        raise MissingPackageError(
            f"{path} needs PyArrow to be read; install it: pip install 'lora-profiler[data]'."
        )
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number:,},", row
    except (pa.ArrowException, OSError) as e:
        reason = str(e).splitlines()[0][:200].rstrip(".")
        raise UsageError(f"{path} cannot be read: {reason}.") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE)
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_stream(source)  # as `datasets` writes
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(n) for n in range(reader.num_record_batches))
            return
        yield from reader
