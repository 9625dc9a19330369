"""The script of the pages, run anew at every change of one."""

from lora_profiler.dashboard.shell import show

show()
