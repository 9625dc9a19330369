"""Imported by Python as it starts; starts the rehearsal, and then the environment's own
sitecustomize where it has one."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_HERE = os.path.dirname(os.path.abspath(__file__))


def _start_the_next() -> None:
    others = [place for place in sys.path if os.path.abspath(place or os.getcwd()) != _HERE]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if os.environ.get("LORA_PROFILER_RUN"):
    import rehearsed.start  # type: ignore[import-not-found]  # noqa: F401  (it lies beside this file)
_start_the_next()
