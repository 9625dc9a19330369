"""Regular expressions of a user, matched in a process of their own with a limit: one can take
Python's engine for ever.

The engine stays Python's, as PEFT's is: another one, which knows a time limit, would not match the
same names. Matching also holds the interpreter's lock, so that in this process not even a thread
could end it, and a server would answer nobody.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROCESSOR_SECONDS = 0.25
"""What a pattern may take for all names of a model. A usual one takes a microsecond a name, and a
large model has 50,000."""
_WALL_SECONDS = 10.0
"""Where the system limits no processor time, and where the machine is too busy to give any."""
_SHOWN = 80
_PROCESS = Path(__file__).with_name("pattern_process.py")
_TOO_LONG = (
    "takes more than {:g} s to match. Leave out repetition inside repetition, as in (.*)* or"
    " (a|aa)*, or list names instead."
)


class PatternMatch(NamedTuple):
    """The keys that a pattern matches, or why it is refused, as the end of a sentence about it."""

    keys: frozenset[str]
    problem: str | None = None


class UnmatchedError(Exception):
    """No verdict: the machine was too busy, or no process could be started. The message ends a
    sentence about the pattern."""


def verdict(pattern: str, keys: Sequence[str], *, whole: bool) -> PatternMatch:
    """Which `keys` the pattern matches: as `re.fullmatch` where `whole`, else as `re.match`. Raises
    UnmatchedError."""
    import signal
    import subprocess  # most answers have no pattern to match

    requested = json.dumps(
        {"pattern": pattern, "keys": keys, "whole": whole, "seconds": PROCESSOR_SECONDS}
    )
    command = [sys.executable, "-I", "-S", str(_PROCESS)]
    try:
        done = subprocess.run(
            command,
            input=requested,
            capture_output=True,
            text=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnmatchedError(_TOO_LONG.format(_WALL_SECONDS)) from None
    except OSError as e:
        raise UnmatchedError(
            f"could not be matched: no process could be started ({e.strerror})."
        ) from None
    if done.returncode == -getattr(signal, "SIGVTALRM", 0):
        return PatternMatch(frozenset(), _TOO_LONG.format(PROCESSOR_SECONDS))
    if done.returncode != 0:
        raise UnmatchedError(
            f"could not be matched: the process that tried ended with exit code {done.returncode}."
        )
    answer = json.loads(done.stdout)
    if "problem" in answer:
        return PatternMatch(frozenset(), f"is no regular expression: {answer['problem']}.")
    return PatternMatch(frozenset(keys[i] for i in answer["matched"]))


def shown(pattern: str) -> str:
    """The pattern in quotation marks, cut where it is long."""
    return repr(pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}...")
