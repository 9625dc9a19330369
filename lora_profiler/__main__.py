"""Where the process of `lora-profile` begins, which `python -m lora_profiler` is too."""

import gc
import sys
from typing import NoReturn

CRASHED = 70
"""EX_SOFTWARE of sysexits.h. Python's own code for what nobody caught, 1, means "does not fit"."""


def main() -> NoReturn:
    """Ends the process with the exit code of the contract: see `cli/main.py`."""
    # an answer's process ends before a search for cycles would pay; `cli.main.root` enables it for
    # other commands
    gc.disable()
    try:
        from lora_profiler.cli.main import main as run_command

        run_command()
    except Exception:
        import traceback

        traceback.print_exc()
        message = "error: lora-profile itself failed\n  Please report the lines above."
        print(message, file=sys.stderr)
        sys.exit(CRASHED)


if __name__ == "__main__":
    main()
