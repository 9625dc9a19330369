"""`python -m lora_profiler` is `lora-profile`."""

from lora_profiler.cli import main

if __name__ == "__main__":
    main()
