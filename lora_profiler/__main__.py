"""Where the process of `lora-profile` begins, which `python -m lora_profiler` is too."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Ends the process with the exit code of the contract: see `cli/main.py`."""
    # an answer's process ends before a search for cycles would pay; `cli.main.root` enables it for
    # other commands
    gc.disable()
    from lora_profiler.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
