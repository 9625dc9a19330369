"""Real training runs, one process each: `measure(workload)` returns a `Record`. Nothing here
imports torch in the parent."""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
