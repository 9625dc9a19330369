"""Commands in a process that reads no file outside its working folder, and writes none: what `mcp`
has them run in. `python -P -m lora_profiler.cli.guarded` takes arguments as JSON lists on stdin, and
gives the exit code, stdout and stderr of each as JSON."""

import errno
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_LISTS = ("os.listdir", "os.scandir")


def guard(folder: Path, temporary: str) -> None:
    """From here on every open of another file raises PermissionError, for good. Read may be the
    folder, Python and what is installed, the caches of models and profiles, and the user's own
    defaults; written only these caches and the folder `temporary`, which building a model takes."""
    from lora_profiler._common.own_defaults import config_path
    from lora_profiler._common.paths import cache_folder, hub_home

    caches = [os.path.realpath(place) for place in (cache_folder(), hub_home()) if place]
    caches.append(os.path.realpath(temporary))
    installed = [sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *filter(None, sys.path)]
    others = [str(config_path()), os.devnull, "/proc/cpuinfo", "/proc/meminfo"]
    readable = [*caches, *(os.path.realpath(r) for r in (str(folder), *installed, *others))]
    sys.dont_write_bytecode = True

    def refuse(path: Any, among: Sequence[str]) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.path.realpath(os.fsdecode(path))
        if not any(
            place == root or place.startswith(root.rstrip(os.sep) + os.sep) for root in among
        ):
            raise PermissionError(errno.EACCES, "outside the folder of the server", str(place))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            is_written = bool(flags & _WRITES) if mode is None else bool(set(mode) & set("wax+"))
            refuse(path, [*caches, os.devnull] if is_written else readable)
        elif event in _LISTS:
            refuse(args[0] if args and args[0] is not None else ".", readable)
        elif event in _CHANGES:
            refuse(args[0], caches)

    sys.addaudithook(hook)


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    from lora_profiler.cli.click_support import run
    from lora_profiler.cli.main import root

    kept = {name: io.BytesIO() for name in ("stdout", "stderr")}
    out, err = (io.TextIOWrapper(each, "utf-8", write_through=True) for each in kept.values())
    code: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run(root, arguments, "lora-profile")
        except SystemExit as e:
            code = e.code
    return {"code": code or 0} | {name: of.getvalue().decode() for name, of in kept.items()}


def main() -> None:
    asked = json.load(sys.stdin)
    with TemporaryDirectory() as temporary:
        tempfile.tempdir = temporary
        guard(Path.cwd(), temporary)
        json.dump([_run(arguments) for arguments in asked], sys.stdout)


if __name__ == "__main__":
    main()
