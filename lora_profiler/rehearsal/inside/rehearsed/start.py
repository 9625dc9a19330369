"""Puts the hooks on as soon as the script imports torch and transformers. Without settings of a
rehearsal, as where the harness rehearses its own case, nobody records: only what would read the
card's values is answered."""

import gc
import os
from typing import Any

from .dequantised import observe_bitsandbytes
from .failure import observe_failures
from .flash_attention import stand_in_for_flash_attention
from .holes import read_no_holes
from .hub import publish_nothing, stand_in_for_metrics, stand_in_for_texts, stand_in_for_word_lists
from .hub_kernels import stand_in_for_kernels
from .imports import after_import
from .settings import read_settings


def _torch_imported() -> None:
    import torch

    if torch.version.cuda is None:
        return
    from . import values

    values.take_largest_cases()
    values.sort_nothing()
    values.decompose_nothing()
    values.read_masks_as_true()
    values.note_reads()
    values.find_no_infinities()
    values.draw_no_weights()
    values.multiply_no_zeros()
    if _IS_RECORDED:
        from .recorder import Recorder
        from .weights import stand_in_for_casts, stand_in_for_urls

        stand_in_for_urls()
        stand_in_for_casts()
        recorder = Recorder(read_settings())
        recorder.install()
        _RECORDERS.append(recorder)


def _hub_imported() -> None:
    from .weights import stand_in

    stand_in(read_settings())


def _downloads_imported() -> None:
    from .data import stand_in_for_files_of_data
    from .weights import stand_in_for_files

    settings = read_settings()
    stand_in_for_files(settings)
    if settings.pretends_data:
        stand_in_for_files_of_data(settings)


def _trainer_imported() -> None:
    for recorder in _RECORDERS:
        recorder.observe_evaluation()


def _arguments_imported() -> None:
    from .changes import change_arguments

    change_arguments(read_settings().changes)


def _hub_api_imported() -> None:
    from .weights import stand_in_for_lists

    publish_nothing()
    stand_in_for_lists(read_settings())


def _of_pictures_imported() -> None:
    import torch

    if torch.version.cuda is not None:
        from .integers import compute_small_integers

        compute_small_integers()


def _cached_losses_imported() -> None:
    """These cut padding by its mask, in the forward pass and again in the backward pass."""
    import torch
    from sentence_transformers.base.losses import gradcache

    from .integers import compute_small_integers

    def new(kind: type, *args: object, **kwargs: object) -> object:
        compute_small_integers()
        return object.__new__(kind)

    if torch.version.cuda is not None:
        gradcache.CachedLossMixin.__new__ = new


def _timm_imported() -> None:
    from .weights import stand_in_for_timm

    stand_in_for_timm()


def _metrics_imported() -> None:
    if read_settings().pretends_data:
        stand_in_for_metrics()


def _nltk_imported() -> None:
    if read_settings().pretends_data:
        stand_in_for_texts()


def _downloads_of_words_imported() -> None:
    if read_settings().pretends_data:
        stand_in_for_word_lists()


def _mnist_imported() -> None:
    from .image_sets import stand_in_for_mnist

    if read_settings().pretends_data:
        stand_in_for_mnist()


def _cifar_imported() -> None:
    from .image_sets import stand_in_for_cifar

    if read_settings().pretends_data:
        stand_in_for_cifar()


def _datasets_imported() -> None:
    from .data import stand_in_for_data

    settings = read_settings()
    if settings.pretends_data:
        stand_in_for_data(settings)


_RECORDERS: list[Any] = []
"""The process' own, once torch is there."""
_IS_RECORDED = bool(os.environ.get("LORA_PROFILER_RUN_SETTINGS"))
after_import("torch", _torch_imported)
after_import("bitsandbytes.cextension", observe_bitsandbytes)
if _IS_RECORDED:
    gc.freeze = lambda: None  # Unsloth freezes its model, and gc.get_objects finds no frozen one
    observe_failures(read_settings().folder)
    after_import("safetensors", read_no_holes)
    after_import("transformers.utils.hub", _hub_imported)
    after_import("huggingface_hub.file_download", _downloads_imported)
    after_import("huggingface_hub.hf_api", _hub_api_imported)
    for of_pictures in ("transformers.vision_utils", "diffusers.models.modeling_utils"):
        after_import(of_pictures, _of_pictures_imported)
    after_import("sentence_transformers.base.losses.gradcache", _cached_losses_imported)
    after_import("timm.models._builder", _timm_imported)
    after_import("evaluate.loading", _metrics_imported)
    after_import("nltk.tokenize.punkt", _nltk_imported)
    after_import("sentence_transformers.util.file_io", _downloads_of_words_imported)
    after_import("transformers.trainer", _trainer_imported)
    after_import("transformers.modeling_utils", stand_in_for_flash_attention)
    after_import("kernels", stand_in_for_kernels)
    if read_settings().changes:
        after_import("transformers.training_args", _arguments_imported)
    after_import("torchvision.datasets.mnist", _mnist_imported)
    after_import("torchvision.datasets.cifar", _cifar_imported)
    after_import("datasets.load", _datasets_imported)
