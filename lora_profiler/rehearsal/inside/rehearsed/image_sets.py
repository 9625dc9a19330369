"""torchvision's data sets that are not on this disk, where the run may pretend them: as many black
images as published, with every class in turn. Nothing is downloaded or written."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from .tokens import DATA_STOOD_IN

_PUBLISHED = {
    "MNIST": (60_000, (28, 28), 10),
    "FashionMNIST": (60_000, (28, 28), 10),
    "KMNIST": (60_000, (28, 28), 10),
    "CIFAR10": (50_000, (32, 32, 3), 10),
    "CIFAR100": (50_000, (32, 32, 3), 100),
}
"""Training images, height x width (x colours), classes. Source: torchvision's documentation."""
_TEST_IMAGES = 10_000


def stand_in_for_mnist() -> None:
    from torchvision.datasets.mnist import MNIST

    MNIST.__init__ = _or_black(MNIST.__init__)


def stand_in_for_cifar() -> None:
    from torchvision.datasets.cifar import CIFAR10

    CIFAR10.__init__ = _or_black(CIFAR10.__init__)


def _or_black(original: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(original)

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        name = type(self).__name__
        if name not in _PUBLISHED or not os.environ.get("HF_HUB_OFFLINE"):
            original(self, *args, **kwargs)
            return
        given.arguments["download"] = False
        try:
            original(*given.args, **given.kwargs)
        except RuntimeError:  # not found
            _fill(self, name)

    return init


def _fill(dataset: Any, name: str) -> None:
    """The types that the class itself has after it has read its files."""
    count, shape, classes = _PUBLISHED[name]
    count = count if dataset.train else _TEST_IMAGES
    images = torch.zeros(count, *shape, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    if len(shape) == 2:
        dataset.data, dataset.targets = images, labels
    else:
        dataset.data, dataset.targets = images.numpy(), labels.tolist()
        dataset.classes = [str(each) for each in range(classes)]
        dataset.class_to_idx = {each: index for index, each in enumerate(dataset.classes)}
    DATA_STOOD_IN.append(f"the data set {name} ({count:,} images)")
