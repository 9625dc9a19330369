"""Folders that the wheel takes from the repository."""

from pathlib import Path

import lora_profiler


def shipped(folder: str) -> Path | None:
    """That of the checkout, or its copy in the installed package; None where there is neither."""
    package = Path(lora_profiler.__file__).resolve().parent
    places = (package.parent / folder, package / "shipped" / folder)
    return next((place for place in places if place.is_dir()), None)
