"""Trainers, a folder for each library.

- `__init__.VERSIONS` are its loops, each a `lora_profiler.facts.stacks.Stack`, the newest version
  first: what they set by default, what they hold, what they refuse. `GUIDED` is the name of the one
  that a question without a trainer is answered for.
- `keys.FRAMEWORK` says what the keys of its files mean, as a
  `lora_profiler.trainer_files.meaning.Framework`; `free_keys.toml` has those that cost nothing.
- `started.STARTED` says which command lines start it, as a
  `lora_profiler.trainer_files.commands.Started`.
- `written` makes a file that trains a question: `keys(workload)` or `script(workload)`,
  `launch(setup, file)`, `TRAINER`, the stack that the file is of, and `SHARDINGS`.
"""
