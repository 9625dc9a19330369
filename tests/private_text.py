"""Text that tells where, on whose machine or with which rights a run was made, and so has no place
in a record."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PATH = re.compile(
    r"""(?<![\w.*/\\])(?:
        /(?!/)(?:[\w.+@~-]+/)+[\w.+@~-]*            # two parts or more: /srv/x
      | /(?:home|root|tmp|Users|mnt|opt|srv|var)\b   # or one that says enough
      | ~[\w-]*/
      | [A-Za-z]:[\\/](?![\\/])
      | \\\\[\w.-]+\\
      | file://
    )""",
    re.VERBOSE,
)
_TOKEN = re.compile(
    r"""\b(?:
        hf_[A-Za-z0-9]{16,} | gh[opsu]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{20,} | sk-[\w-]{20,}
      | AKIA[A-Z0-9]{16} | eyJ[\w-]{10,}\.eyJ[\w-]+ | Bearer\s+\S{8,}
      | (?:api[_-]?key|password|passwd|secret|token)\s*[=:]\s*\S+
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)(?:$|_)",
    re.IGNORECASE,
)
_USER = re.compile(
    r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b | (?<!\S)[a-z_][\w-]*@[\w-]+(?=[:\s]|$)", re.VERBOSE
)
_HOST = re.compile(
    r"\b[\w-]+\.(?:[\w-]+\.)*(?:cluster|corp|home\.arpa|internal|intra|lan|local|localdomain)\b |"
    r" \bip-\d+-\d+-\d+-\d+\b",
    re.VERBOSE | re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_SERIAL = re.compile(r"\b(?:GPU|MIG)-[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)

_VERSIONS = ("environment.packages", "environment.platform", "environment.device")
"""Where four numbers with dots are a version."""


def private_text(data: Any, where: str = "") -> Iterator[str]:
    """One sentence for each text of a JSON value, its keys too, that gives something away; the text
    itself is not repeated.

    Looks for absolute paths, user and host names as they appear in addresses, tokens, and serial
    numbers of cards.
    """
    if isinstance(data, str):
        for what, pattern in _KINDS.items():
            if pattern.search(data) and not (pattern is _ADDRESS and where.startswith(_VERSIONS)):
                yield f"{where} holds {what}."
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from private_text(key, f"a name in {where}")
            place = f"{where}.{key}" if where else str(key)
            if where.endswith("variables") and _SECRET_NAME.search(str(key)):
                yield f"{place} is a secret."
            yield from private_text(value, place)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from private_text(item, where)


_KINDS = {
    "an absolute path": _PATH,
    "what looks like a token or a password": _TOKEN,
    "what looks like a user's address": _USER,
    "what looks like the name of a machine": _HOST,
    "the address of a machine": _ADDRESS,
    "the serial number of a card": _SERIAL,
}
