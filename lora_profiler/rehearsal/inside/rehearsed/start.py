"""Puts the hooks on as soon as the script imports torch and transformers."""

import os

from .imports import after_import
from .settings import read_settings


def _torch_imported() -> None:
    import torch

    if torch.version.cuda is None:
        return
    from .recorder import Recorder
    from .values import draw_no_weights, take_largest_cases

    take_largest_cases()
    draw_no_weights()
    Recorder(read_settings()).install()


def _hub_imported() -> None:
    from .weights import stand_in

    stand_in(read_settings())


after_import("torch", _torch_imported)
if os.environ.get("LORA_PROFILER_RUN_SETTINGS"):
    after_import("transformers.utils.hub", _hub_imported)
