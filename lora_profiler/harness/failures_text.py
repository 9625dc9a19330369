"""Text of a failure made fit for a record."""

import re

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+\- ]+)+[\\/]([\w.+\-]+)")


def without_paths(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _PATH.sub(r"\1", text)
