"""Where cases come from: suites, named tuples of them that `benchmarks/suites.py` of a source tree
makes and that are no part of the installed package; and files, for other machines.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, invalidate_caches
from pathlib import Path

from lora_profiler._common.paths import read_regular
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.harness.case import case_dict, case_from_dict
from lora_profiler.question.workload import Device

Suite = Callable[..., tuple[Case, ...]]
MODULE = "benchmarks.suites"
FILE = Path("benchmarks", "suites.py")
MOST_BYTES = 10_000_000
"""Of a case in a file, which has some thousand."""


def places() -> tuple[Path, ...]:
    """Folders that may hold `benchmarks/suites.py`: the source tree around this package, then the
    working directory."""
    return Path(__file__).resolve().parents[3], Path.cwd()


def suites(roots: Sequence[Path] | None = None) -> Mapping[str, Suite]:
    """Every suite by name, of the first of `roots` (default: `places()`) that has some. Raises
    UsageError where none has."""
    searched = places() if roots is None else roots
    root = next((root for root in searched if (root / FILE).is_file()), None)
    if root is None:
        where = " nor in ".join(dict.fromkeys(str(root / FILE.parent) for root in searched))
        raise UsageError(
            f"there are no suites in {where}; run from a checkout of lora-profiler, or name models"
            " instead."
        )
    sys.path.insert(0, str(root))
    invalidate_caches()
    try:
        by_name: Mapping[str, Suite] = import_module(MODULE).suites()
    finally:
        sys.path.remove(str(root))
    return by_name


def suite(name: str, roots: Sequence[Path] | None = None) -> Suite:
    """The suite called `name`. Raises UsageError for an unknown one, with all there are."""
    known = suites(roots)
    if name not in known:
        raise UsageError(
            f"there is no suite {name!r}; there are"
            f" {', '.join(sorted(known))}.{did_you_mean(name, known)}"
        )
    return known[name]


def suite_cases(name: str, device: Device, roots: Sequence[Path] | None = None) -> tuple[Case, ...]:
    """The cases of the suite called `name`, for `device`. Raises UsageError for an unknown suite,
    with all there are."""
    return suite(name, roots)(device=device)


# --- cases as files -------------------------------------------------------------------------------


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
        return case_from_dict(json.loads(read_regular(path, MOST_BYTES).decode("utf-8")))
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
