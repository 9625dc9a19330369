"""What a rehearsal refuses, or could not come to an answer for."""

from lora_profiler.errors import LoraProfilerError


class RehearsalError(LoraProfilerError):
    """Nothing was rehearsed: no compiler, no CUDA build of torch, another platform, or a script
    that ended before its steps."""

    exit_code = 4
