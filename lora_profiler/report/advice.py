"""What to try after a run that failed: by its status, and where the loss was no number by the dtype
that it was trained in."""

from lora_profiler.records.record import Record
from lora_profiler.report.labels import STATUS_ADVICE

_FLOAT16 = (
    "--dtype bfloat16, or --dtype float32 with or without --precision amp: a whole step in float16"
    " needs loss scaling, which this one does not have"
)
_OTHERS = (
    "--dtype float32, other weights or another text; the same command again gives the same loss"
)


def advice(record: Record) -> str | None:
    """The end of 'To try: ...'; None for a run that went through."""
    status, failure = record.measurement.status, record.measurement.failure
    if (
        status == "invalid" and failure is not None and failure.step is not None
    ):  # the step whose loss is no number
        return _FLOAT16 if record.workload.setup.dtype == "float16" else _OTHERS
    return STATUS_ADVICE.get(status)
