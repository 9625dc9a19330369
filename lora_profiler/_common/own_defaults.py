"""A user's own defaults for the command line: `~/.config/lora-profiler/config.toml`.

gpu = "rtx_4090"            # predict --gpu, crossover --gpu
gpus = ["t4", "8xh100"]     # plan --gpus
trainer = "trl-sft"         # --trainer of all three

[prices]                    # plan --price, an hour in USD
t4 = 0.35
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lora_profiler.errors import UsageError, did_you_mean

_KEYS: Final = ("gpu", "gpus", "trainer", "prices")
COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "predict": {"gpu": "gpu", "trainer": "trainer"},
    "crossover": {"gpu": "gpu", "trainer": "trainer"},
    "plan": {"gpus": "gpus", "trainer": "trainer", "prices": "prices"},
}
"""Parameters of commands by the key that is their default."""


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Below $XDG_CONFIG_HOME, else ~/.config; with a `~` where there is no home."""
    given = (os.environ if environ is None else environ).get("XDG_CONFIG_HOME", "")
    folder = given if os.path.isabs(given) else os.path.expanduser(os.path.join("~", ".config"))
    return Path(folder, "lora-profiler", "config.toml")


def has_config(path: Path) -> bool:
    return os.path.exists(path)


def read_config(path: Path) -> dict[str, Any]:
    """The values by key as a command takes them: GPUs in one text, prices as 't4=0.35/h'.

    Raises UsageError, in one sentence, for a file that cannot be read, that is no TOML, or that has
    another key or kind of value.
    """
    import tomllib

    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.") from None
    except ValueError as e:  # no TOML, or no UTF-8
        raise UsageError(f"{path} is not TOML: {e}.") from None
    for key, value in found.items():
        at = _place(path, key)
        if key not in _KEYS:
            known = did_you_mean(key, _KEYS) or f" Supported: {', '.join(_KEYS)}"
            raise UsageError(f"{at}: unknown key {key}.{known}")
        if wanted := _wanted(key, value):
            raise UsageError(f"{at}: {key} is {value!r}; write {wanted}.")
    values = dict(found)
    if isinstance(found.get("gpus"), list):
        values["gpus"] = ",".join(found["gpus"])
    if "prices" in found:
        values["prices"] = [f"{name}={price:g}/h" for name, price in found["prices"].items()]
    return values


def _place(path: Path, key: str) -> str:
    """The file and the line that begins with `key`, as a table's too."""
    start = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}\b""")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if start.match(line):
            return f"{path}, line {number}"
    return str(path)


def check_names(path: Path, known: Mapping[str, Callable[[str], object]]) -> None:
    """Of a file that `read_config` reads: `known` raises UsageError for a name of that key that is
    none. Raises it with the line of the file."""
    for key, values in read_config(path).items():
        for value in values if isinstance(values, list) else values.split(","):
            try:
                known[key](value)
            except UsageError as e:
                raise UsageError(f"{_place(path, key)}: {key}: {e}") from None


def _wanted(key: str, value: Any) -> str:
    """What the value should be, '' where it is."""
    if key == "prices":
        is_right = isinstance(value, dict) and all(
            isinstance(price, int | float) and not isinstance(price, bool) and price > 0
            for price in value.values()
        )
        return "" if is_right else "a table of numbers, as in [prices] and t4 = 0.35"
    texts = value if key == "gpus" and isinstance(value, list) else [value]
    is_right = bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)
    return "" if is_right else f'text, as in {key} = "{"trl-sft" if key == "trainer" else "t4"}"'
