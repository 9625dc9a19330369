"""Where the process of `lora-profile` begins, which `python -m lora_profiler` is too."""

from typing import NoReturn

from lora_profiler.collector import collector_paused


def main() -> NoReturn:
    """Ends the process with the exit code of the contract: see `cli.main`."""
    with collector_paused():  # modules stay
        from lora_profiler import cli
    cli.main()


if __name__ == "__main__":
    main()
