"""Public measurements that predictions are held to, of memory and of step time; and those that are
nearest to a question."""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
