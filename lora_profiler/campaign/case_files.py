"""Cases as files, one JSON object each, to be measured somewhere else: `lora-profile bench --case
FILE`."""

import json
from collections.abc import Sequence
from pathlib import Path

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.harness import Case
from lora_profiler.harness.case import case_dict, case_from_dict


def write_cases(cases: Sequence[Case], folder: Path) -> None:
    """`folder`/1.json and so on, in order. Raises OSError."""
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(cases, 1):
        (folder / f"{number}.json").write_text(
            json.dumps(case_dict(case), indent=1, allow_nan=False) + "\n", "utf-8"
        )


def read_case(path: Path) -> Case:
    """The case in a file that `write_cases` made. Raises UsageError for anything else."""
    try:
        return case_from_dict(json.loads(path.read_bytes().decode("utf-8")))
    except OSError as e:
        raise UsageError(f"--case {path} cannot be read: {e.strerror or e}.") from None
    except (
        LoraProfilerError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        AttributeError,
    ) as e:
        raise UsageError(
            f"--case {path} holds no case that this version reads ({e}); `bench --suite NAME --emit"
            " sbatch` writes such files."
        ) from None
