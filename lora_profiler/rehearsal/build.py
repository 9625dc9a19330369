"""The stub libraries of one torch: built when first asked for, kept in the user's cache, whole or
not there, by the C compiler that is there ($CC, gcc, clang, cc, or Zig's from PyPI)."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lora_profiler._common.paths import CACHE_VARIABLE, cache_folder
from lora_profiler.errors import RehearsalError
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.rehearsal.elf import read_library
from lora_profiler.rehearsal.environment import CudaEnvironment

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
_NVIDIA = re.compile(r"lib(cu|nv|nccl)\w*")
_NOT_NVIDIA = re.compile(r"libcurl|libcups")
_UNVERSIONED = (
    ("nccl", "libnccl"),
    ("nvshmem", "libnvshmem_host"),
    ("cuFile", "libcufile"),
    ("curand", "libcurand"),
    ("nvrtc", "libnvrtc"),
    ("cusparseLt", "libcusparseLt"),
    ("cupti", "libcupti"),
    ("nvml", "libnvidia-ml"),
    ("cu", "libcuda"),
)
"""Whose a symbol without a version is, by what its name begins with; the first that fits."""
_ALWAYS = {"libcuda": "libcuda.so.1", "libnvidia-ml": "libnvidia-ml.so.1"}
"""Looked up by name while a program runs, so that no library need name them."""
_DRIVER_CALL = re.compile(r"\b(cu[A-Z]\w+)\s*\(")
_COMPILERS = ("gcc", "clang", "cc")
_COMPILE_SECONDS = 300
"""For one library, which takes a tenth of a second."""
_PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class Compiler:
    """`version`: the first line that it says of itself."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Raises RehearsalError where there is none."""
    for command in _candidates():
        try:
            done = subprocess.run(
                [*command, "--version"], check=False, capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return Compiler(command, done.stdout.partition("\n")[0].strip())
    raise RehearsalError(
        "A rehearsal builds small C libraries once, and there is no C compiler here: install "
        "gcc or clang, or\n"
        "  pip install 'lora-profiler[rehearse]'    (ziglang, a C compiler from PyPI)"
    )


def _candidates() -> list[tuple[str, ...]]:
    given = shlex.split(os.environ.get("CC", ""))
    commands = [tuple(given)] if given else []
    commands += [(path,) for name in _COMPILERS if (path := shutil.which(name))]
    if find_spec("ziglang") is not None:
        commands.append((sys.executable, "-m", "ziglang", "cc"))
    return commands


@dataclass(slots=True)
class Exports:
    """Of one stub library: `version` is what its symbols are asked under, None for none."""

    soname: str
    version: str | None = None
    functions: set[str] = field(default_factory=set)

    @property
    def stem(self) -> str:
        return stem_of(self.soname)


def stem_of(soname: str) -> str:
    return soname.partition(".so")[0]


def exports(libraries: Iterable[Path], driver_sources: Iterable[Path] = ()) -> dict[str, Exports]:
    """Stem -> what that library must have. `driver_sources`: C that is compiled against libcuda
    later, as Triton's."""
    read = [read_library(path) for path in libraries]
    wanted = {stem: Exports(soname) for stem, soname in _ALWAYS.items()}
    for library in read:
        for soname in library.needed:
            if _NVIDIA.match(soname) and not _NOT_NVIDIA.match(soname):
                wanted.setdefault(stem_of(soname), Exports(soname))
    for library in read:
        for symbol in library.undefined:
            stem = stem_of(symbol.soname) if symbol.soname else _owner(symbol.name)
            if stem in wanted:
                wanted[stem].functions.add(symbol.name)
                wanted[stem].version = symbol.version or wanted[stem].version
    for source in driver_sources:
        wanted["libcuda"].functions |= set(
            _DRIVER_CALL.findall(source.read_text("utf-8", "replace"))
        )
    return wanted


def _owner(name: str) -> str:
    for prefix, stem in _UNVERSIONED:
        if re.match(prefix + r"[A-Zx_i]", name) or (
            prefix in ("nccl", "nvshmem") and name.startswith(prefix)
        ):
            return stem
    return ""


@dataclass(frozen=True, slots=True)
class Stubs:
    """`libraries` in the order in which they are loaded: the runtime, whose state the others use,
    first."""

    folder: Path
    libraries: tuple[Path, ...]
    built_now: bool

    @property
    def package(self) -> Path:
        """What to put on PYTHONPATH to import lora_profiler and nothing else: beside an installed
        one lie packages that would take the place of the environment's own."""
        return self.folder / _PACKAGE


def stub_sources() -> Path:
    return Path(str(files("lora_profiler.rehearsal") / "stubs"))


def stubs(environment: CudaEnvironment, compiler: Compiler) -> Stubs:
    """Those in the cache, else built now. Raises RehearsalError where they cannot be built or
    kept."""
    cache = cache_folder()
    if cache is None:
        raise RehearsalError(
            f"There is no home folder to keep the stub libraries in; set {CACHE_VARIABLE} to a "
            "folder."
        )
    place = cache / "stubs"
    if re.search("[:;]", str(place)):  # which part the paths of LD_PRELOAD and PYTHONPATH
        raise RehearsalError(
            f"{place} has a colon or a semicolon in its name; set {CACHE_VARIABLE} to another "
            "folder."
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        if place.stat().st_uid == os.geteuid():
            _keep_others_out(place)
        folder = place / f"torch-{environment.torch}-{_key(environment, compiler)}"
        built_now = not folder.is_dir()
        if built_now:
            _build_whole(folder, environment, compiler)
        _refuse_what_others_write([place, folder, *folder.iterdir()])
    except OSError as e:
        raise RehearsalError(
            f"{e.filename or place} cannot be written or read: {e.strerror}; set {CACHE_VARIABLE} "
            "to another folder."
        ) from None
    return Stubs(folder, _in_order(folder), built_now)


def _keep_others_out(path: Path) -> None:
    path.chmod(path.stat().st_mode & 0o755)


def _refuse_what_others_write(paths: Iterable[Path]) -> None:
    """The name of the folder can be worked out by anybody, and what lies there is loaded into the
    script's process. Raises RehearsalError."""
    for path in paths:
        status = path.lstat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise RehearsalError(
                f"{path} can be changed by another user, so it is not loaded; remove it, or set "
                f"{CACHE_VARIABLE} to a folder of your own."
            )


def _in_order(folder: Path) -> tuple[Path, ...]:
    return tuple(
        sorted(
            folder.glob("*.so*"),
            key=lambda path: (not path.name.startswith("libcudart"), path.name),
        )
    )


def _key(environment: CudaEnvironment, compiler: Compiler) -> str:
    """Of all that the folder is made from: our sources and where they lie, the compiler, and the
    libraries that the stubs are made for."""
    digest = hashlib.sha256(str(_package()).encode())
    for path in sorted([*stub_sources().iterdir(), Path(__file__)]):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((compiler, environment.cudnn, environment.nccl, environment.cuda)).encode())
    for path in (*environment.libraries, *environment.driver_sources):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def _build_whole(folder: Path, environment: CudaEnvironment, compiler: Compiler) -> None:
    """Built beside its place and renamed to it: of two builds at once the first stays, and what a
    killed one left the next clears away."""
    with WorkingFolder(folder.parent) as work:
        built = Path(work) / "built"
        (built / _PACKAGE).mkdir(parents=True)
        (built / _PACKAGE / "lora_profiler").symlink_to(_package())
        _build(built, Path(work), environment, compiler)
        for path in (built, *built.iterdir()):
            _keep_others_out(path)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _build(folder: Path, work: Path, environment: CudaEnvironment, compiler: Compiler) -> None:
    wanted = exports(environment.libraries, environment.driver_sources)
    runtime = wanted["libcudart"]
    for each in [runtime, *(each for stem, each in wanted.items() if stem != "libcudart")]:
        links = () if each is runtime else (f"-L{folder}", f"-l:{runtime.soname}")
        _compile(each, folder, work, environment, compiler, links)


def _compile(
    wanted: Exports,
    folder: Path,
    work: Path,
    environment: CudaEnvironment,
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
    try:
        done = subprocess.run(
            [*command, "-ldl", "-lpthread"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RehearsalError(
            f"{' '.join(compiler.command)} took more than {_COMPILE_SECONDS} s to build "
            f"{wanted.soname} for torch {environment.torch}; name another compiler in CC."
        ) from None
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
