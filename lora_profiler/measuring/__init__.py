"""A real training step, measured: `harness` runs one case in a process of its own, `records` stores
what it showed in a file that only grows."""
