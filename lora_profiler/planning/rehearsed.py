"""The harness' own case on a card that is not there: where it runs, and its record as an answer."""

import os
import sys
from pathlib import Path

from lora_profiler.harness.pretended import Pretended
from lora_profiler.rehearsal.build import stubs
from lora_profiler.rehearsal.cards import PretendedCard
from lora_profiler.rehearsal.compiler import find_compiler
from lora_profiler.rehearsal.environment import check_platform, find_python, read_environment
from lora_profiler.rehearsal.launch import over_stubs

PYTHON_VARIABLE = "LORA_PROFILER_CUDA_PYTHON"
"""Names the Python with a CUDA build of torch where nobody else does."""


def cuda_python(python: str | None) -> Path:
    """`python`, else that of PYTHON_VARIABLE, else this one. Raises RehearsalError."""
    named = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
    return find_python((), named)


def pretended_on(card: PretendedCard, count: int, python: str | None) -> Pretended:
    """`count` such cards in that environment, whose stub libraries are built if need be.

    Raises RehearsalError where it cannot be rehearsed in.
    """
    check_platform()
    environment = read_environment(cuda_python(python))
    libraries = stubs(environment, find_compiler())
    return Pretended(
        python=environment.python,
        torch=environment.torch,
        variables=over_stubs(libraries, card, count),
        capability=card.capability,
        count=count,
        missing=environment.missing,
    )
