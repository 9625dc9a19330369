"""The stub libraries of one torch: built when first asked for, kept in the user's cache, whole or
not there."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lora_profiler._common.paths import CACHE_VARIABLE, cache_folder
from lora_profiler.errors import RehearsalError
from lora_profiler.rehearsal.compiler import Compiler
from lora_profiler.rehearsal.environment import Environment
from lora_profiler.rehearsal.symbols import Exports, exports

SOURCES = {
    "libcudart": ("runtime.c", "card.c", "memory.c", "kernels.c", "capture.c"),
    "libcuda": ("driver.c", "driver_refused.c"),
    "libcublas": ("cublas.c",),
    "libcublasLt": ("cublaslt.c",),
    "libcudnn": ("cudnn.c",),
    "libnccl": ("nccl.c",),
    "libnvidia-ml": ("nvml.c",),
    "libnvrtc": ("nvrtc.c",),
}
"""Where a caller reads what comes back. Every other function returns 0 but those that decompose
matrices, and every other library has only such."""
_HANDLES_FROM = ("libcublas", "libcublasLt", "libcudnn", "libcusolver", "libcusparse")
"""Libraries whose ...Create... give the caller a handle through their first argument."""
_COMPUTE = ("libcublas", "libcublasLt", "libcusolver", "libcusparse", "libcufft", "libnccl")
_ABOUT = (
    "Create", "Destroy", "Get", "Set", "Init", "Version", "Group", "Comm", "bufferSize",
    "BufferSize",
)  # fmt: skip
_UNSUPPORTED = 9
"""CUSOLVER_STATUS_NOT_SUPPORTED."""
_GENERATED = """extern void pretended_called(const char *, const char *, int);
extern void *calloc(unsigned long, unsigned long);
"""


@dataclass(frozen=True, slots=True)
class Stubs:
    """`libraries` in the order in which they are loaded: the runtime, whose state the others use,
    first."""

    folder: Path
    libraries: tuple[Path, ...]
    built_now: bool


def stub_sources() -> Path:
    return Path(str(files("lora_profiler.rehearsal") / "stubs"))


def stubs(environment: Environment, compiler: Compiler) -> Stubs:
    """Those in the cache, else built now. Raises RehearsalError where they cannot be built or
    kept."""
    cache = cache_folder()
    if cache is None:
        raise RehearsalError(
            f"There is no home folder to keep the stub libraries in; set {CACHE_VARIABLE} to a "
            "folder."
        )
    folder = cache / "stubs" / f"torch-{environment.torch}-{_key(environment, compiler)}"
    built_now = not folder.is_dir()
    if built_now:
        _build_whole(folder, environment, compiler)
    return Stubs(folder, _in_order(folder), built_now)


def _in_order(folder: Path) -> tuple[Path, ...]:
    return tuple(
        sorted(
            folder.glob("*.so*"),
            key=lambda path: (not path.name.startswith("libcudart"), path.name),
        )
    )


def _key(environment: Environment, compiler: Compiler) -> str:
    """Of all that the libraries are made from: our sources, the compiler, and the libraries that
    they are made for."""
    digest = hashlib.sha256()
    for path in sorted(
        [*stub_sources().iterdir(), Path(__file__), Path(__file__).with_name("symbols.py")]
    ):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((compiler, environment.cudnn, environment.nccl, environment.cuda)).encode())
    for path in (*environment.libraries, *environment.driver_sources):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def _build_whole(folder: Path, environment: Environment, compiler: Compiler) -> None:
    """Built beside its place and renamed to it: of two builds at once the first stays, and one that
    fails leaves nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError as e:
        raise RehearsalError(
            f"{folder.parent} cannot be written: {e.strerror}; set {CACHE_VARIABLE} to another "
            "folder."
        ) from None
    try:
        _build(partial, environment, compiler)
        partial.chmod(0o755)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(folder: Path, environment: Environment, compiler: Compiler) -> None:
    wanted = exports(environment.libraries, environment.driver_sources)
    runtime = wanted["libcudart"]
    with tempfile.TemporaryDirectory() as work:
        for each in [runtime, *(each for stem, each in wanted.items() if stem != "libcudart")]:
            links = () if each is runtime else (f"-L{folder}", f"-l:{runtime.soname}")
            _compile(each, folder, Path(work), environment, compiler, links)


def _compile(
    wanted: Exports,
    folder: Path,
    work: Path,
    environment: Environment,
    compiler: Compiler,
    links: tuple[str, ...],
) -> None:
    generated = work / f"{wanted.stem}.c"
    generated.write_text(generated_source(wanted))
    sources = [stub_sources() / name for name in SOURCES.get(wanted.stem, ())]
    command = [
        *compiler.command,
        *["-O1", "-fPIC", "-shared", "-w", "-fno-builtin"],
        f"-I{stub_sources()}",
        f"-I{environment.headers}",
        f"-DCUDA_MAJOR={environment.cuda_major}",
        f"-DCUDNN_PINNED={environment.cudnn}",
        f"-DNCCL_PINNED={environment.nccl}",
        f"-Wl,-soname,{wanted.soname}",
        "-o",
        str(folder / wanted.soname),
        str(generated),
        *map(str, sources),
        *links,
    ]
    if wanted.version is not None:
        script = work / f"{wanted.stem}.map"
        script.write_text(f"{wanted.version} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={script}")
    done = subprocess.run(
        [*command, "-ldl", "-lpthread"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line
        ] or done.stderr.splitlines()
        raise RehearsalError(
            f"{' '.join(compiler.command)} could not build {wanted.soname} for torch "
            f"{environment.torch}: {lines[0] if lines else ''}"
        )


def generated_source(wanted: Exports) -> str:
    """C of functions that return 0. They are weak: one that a source of ours defines takes its
    place."""
    return _GENERATED + "".join(_functions(wanted))


def _functions(wanted: Exports) -> Iterator[str]:
    for name in sorted(wanted.functions):
        computes = wanted.stem in _COMPUTE and not any(word in name for word in _ABOUT)
        makes = wanted.stem in _HANDLES_FROM and "Create" in name
        yield f"__attribute__((weak)) long long {name}(void **first) {{\n"
        yield f'    pretended_called("{wanted.stem}", "{name}", {int(computes)});\n'
        yield "    *first = calloc(1, 4096);\n" if makes else ""
        yield f"    return {_UNSUPPORTED if _is_of_unknown_size(wanted, name) else 0};\n}}\n"


def _is_of_unknown_size(wanted: Exports, name: str) -> bool:
    """Where it asks cuSOLVER for the size of a workspace: without an answer torch would take what
    lay in memory, and ask the card for that."""
    return wanted.stem == "libcusolver" and "ufferSize" in name
