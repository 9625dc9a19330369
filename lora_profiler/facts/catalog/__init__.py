"""The catalogue: `find_model` and `find_gpu` turn a name into facts. Works offline and without
torch."""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
