"""Rehearsals by the command, `lora-profile rehearse`, and what their documents say."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKSPACES = "workspaces of BLAS"
"""What a prediction leaves out, and rehearsals tell."""


def rehearsed(
    python: Path | str, card: str, command: Sequence[str], *options: str, **how: Any
) -> subprocess.CompletedProcess[str]:
    """With the document as its output, where there is one. `how` is as of `subprocess.run`."""
    words = [sys.executable, "-m", "lora_profiler", "rehearse", "--format", "json", "--gpu", card]
    words += ["--python", str(python), *options, "--", *command]
    return subprocess.run(words, capture_output=True, text=True, **how)


def workspaces_bytes(rank: Mapping[str, Any]) -> int:
    """Of one rank of a document."""
    return int((rank["held"]["categories"] or {}).get(WORKSPACES, 0))


def steady_bytes(rank: Mapping[str, Any]) -> int:
    """The steady requested peak without BLAS workspaces."""
    return int(rank["peaks"]["steady"]["requested_bytes"]) - workspaces_bytes(rank)
