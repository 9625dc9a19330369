"""What each trainer takes by default, what its loop holds, and how it spells options: data, with
versions."""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
