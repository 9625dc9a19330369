"""What a rehearsal is made of, so far as it needs no CUDA build of torch."""

import ctypes
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from packaging.requirements import Requirement

import lora_profiler
from commands import Run, in_python, refused
from golden_files import Golden
from lora_profiler.errors import RehearsalError, UsageError
from lora_profiler.facts.catalog import bundled_gpus, find_gpu, find_model, model_from_config
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.planning.nearest import nearest
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup
from lora_profiler.rehearsal import build, launch, setup
from lora_profiler.rehearsal.build import (
    Compiler,
    Exports,
    Stubs,
    exports,
    find_compiler,
    generated_source,
    read_library,
    stubs,
)
from lora_profiler.rehearsal.environment import (
    CudaEnvironment,
    check_platform,
    find_python,
    read_environment,
)
from lora_profiler.rehearsal.inside.rehearsed.history import (
    find_leak,
    held,
    held_at_peak,
    name_pieces,
    play,
)
from lora_profiler.rehearsal.inside.rehearsed.kernels_by_name import (
    attention_kernels,
    between,
    runs_convolutions,
    runs_recurrent,
)
from lora_profiler.rehearsal.inside.rehearsed.lengths import tokens_of_row
from lora_profiler.rehearsal.inside.rehearsed.settings import Settings
from lora_profiler.rehearsal.launch import PretendedCard, Request, pretended, rehearse
from lora_profiler.rehearsal.result import (
    COUNTERS,
    EXIT_CODES,
    Rehearsal,
    Tried,
    best_of,
    limits,
    read_result,
    worst_of,
)
from lora_profiler.report.blocks import Table
from lora_profiler.report.page import embedded_data, write_page
from lora_profiler.report.rehearsed import rehearsal_blocks, rehearsal_content, rehearsal_document
from lora_profiler.report.terminal import plain
from lora_profiler.runs.comparison.errors import counted_peak
from waiting import wait_for_the_end_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a rehearsal runs on Linux")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
CARD = PretendedCard(
    key="t4", name="NVIDIA T4", capability=75, multiprocessors=40, l2_bytes=1, total_bytes=1 << 34,
    context_bytes=0,
)  # fmt: skip


def compiled(folder: Path, name: str, source: str, *options: str) -> Path:
    path = folder / name
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-w", "-o", path, folder / f"{name}.c", *options]
    subprocess.run(command, check=True, cwd=folder)
    return path


def said_by(*command: str | Path) -> list[str]:
    """Lines."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def executable(path: Path, text: str = "") -> Path:
    """A script of the shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# --- symbols --------------------------------------------------------------------------------------------------------------


@needs_cc
def test_symbols_are_those_that_binutils_list(tmp_path: Path) -> None:
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("needs nm and readelf")
    source = '#include <stdio.h>\nint cuFoo(); int f(){ puts("a"); return cuFoo(); }'
    own = (compiled(tmp_path, "libx.so", source), Path(shutil.which("nm") or "").resolve())
    for path in (*own, *Path(ctypes.__file__).parents[1].glob("lib-dynload/*.so")):
        undefined = said_by("nm", "-D", "--undefined-only", path)
        needed = [line for line in said_by("readelf", "-d", path) if "(NEEDED)" in line]
        found = read_library(path)
        names = {line.split()[-1].partition("@")[0] for line in undefined}
        assert {symbol.name for symbol in found.undefined} == names, path
        assert list(found.needed) == [line.split("[")[1][:-1] for line in needed]


@needs_cc
def test_a_versioned_symbol_belongs_to_the_library_that_gives_that_version(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("libcublas.so.13 { global: *; };\n")
    versioned = ("-Wl,-soname,libcublas.so.13", "-Wl,--version-script=map")
    compiled(tmp_path, "libcublas.so.13", "int cublasFoo(){return 0;}", *versioned)
    uses = "int f(){ return cublasFoo() + cuInit(0) + ncclBar(); }"
    user = compiled(tmp_path, "libuser.so", uses, "-L.", "-l:libcublas.so.13")
    source = tmp_path / "driver.c"
    source.write_text("x = cuCtxGetLimit(&n, 0); cudaFoo(); notcuBar();")
    wanted = exports([user], [source])
    assert wanted["libcublas"] == Exports("libcublas.so.13", "libcublas.so.13", {"cublasFoo"})
    assert wanted["libcuda"] == Exports("libcuda.so.1", None, {"cuInit", "cuCtxGetLimit"})
    assert "libnccl" not in wanted  # nobody names that library


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "libx.so"
    file.write_bytes(b"not a library")
    with pytest.raises(ValueError, match="no 64-bit ELF"):
        read_library(file)


@needs_cc
def test_generated_functions_return_nothing_make_handles_and_give_way_to_written_ones(
    tmp_path: Path,
) -> None:
    wanted = Exports("libcublas.so.13", None, {"cublasCreate_v9", "cublasGemmEx", "cublasWritten"})
    source = (
        generated_source(wanted)
        + "long calls; void pretended_called(const char*a,const char*b,int computes){calls+=computes;}"
    )
    (tmp_path / "written.c").write_text("int cublasWritten(){ return 7; }")
    made = compiled(tmp_path, "libgenerated.so", source, str(tmp_path / "written.c"))
    library = ctypes.CDLL(str(made))
    handle = ctypes.c_void_p()
    assert library.cublasCreate_v9(ctypes.byref(handle)) == 0
    assert handle.value
    assert library.cublasGemmEx(None) == 0
    assert library.cublasWritten() == 7
    # a product computes, a handle does not
    assert ctypes.c_long.in_dll(library, "calls").value == 1


@needs_cc
def test_a_workspace_of_unknown_size_is_refused_and_not_read_out_of_nothing(tmp_path: Path) -> None:
    names = {"cusolverDnSgeqrf_bufferSize", "cusolverDnSgeqrf", "cusolverDnCreate"}
    source = generated_source(Exports("libcusolver.so.12", None, names)) + (
        "void pretended_called(const char*a,const char*b,int c){}"
    )
    library = ctypes.CDLL(str(compiled(tmp_path, "libsolver.so", source)))
    assert library.cusolverDnSgeqrf_bufferSize(None) == 9  # CUSOLVER_STATUS_NOT_SUPPORTED
    assert library.cusolverDnSgeqrf(None) == 0
    assert library.cusolverDnCreate(ctypes.byref(ctypes.c_void_p())) == 0


CUDNN = """
#include <stdlib.h>
#define CUDNN_PINNED 92000
#define CUDA_MAJOR 13
#include "cudnn.c"
static const char *last;
void pretended_called(const char *library, const char *function, int computes) { last = function; }
const char *ran(int operation) {
    void *operations[1], *graph[1], *heuristics, *found[1], *plan;
    cudnnBackendCreateDescriptor(operation, operations);
    cudnnBackendCreateDescriptor(15, graph);
    cudnnBackendCreateDescriptor(4, &heuristics);
    cudnnBackendCreateDescriptor(3, found);
    cudnnBackendCreateDescriptor(5, &plan);
    cudnnBackendSetAttribute(graph[0], 801, 15, 1, (void *)operations);
    cudnnBackendSetAttribute(heuristics, 201, 15, 1, (void *)graph);
    cudnnBackendGetAttribute(heuristics, 202, 15, 1, NULL, found);
    cudnnBackendDestroyDescriptor(graph[0]);
    cudnnBackendSetAttribute(plan, 401, 15, 1, (void *)found);
    cudnnBackendExecute(NULL, plan, NULL);
    return last;
}
"""


@needs_cc
@pytest.mark.parametrize(("operation", "attends"), [(10, 0), (12, 0), (13, 0), (19, 1), (41, 1)])
def test_cudnn_s_attention_is_told_from_its_convolutions(
    tmp_path: Path, operation: int, attends: int
) -> None:
    """By the operations of the graph, in the numbers of cudnn_graph.h: convolutions forward and
    backward, pointwise; a product of matrices, attention as one operation."""
    stubs_folder = Path(build.__file__).with_name("stubs")
    options = (f"-I{stubs_folder}", f"-I{tmp_path}")
    (tmp_path / "cuda_runtime_api.h").touch()
    library = ctypes.CDLL(str(compiled(tmp_path, "libran.so", CUDNN, *options)))
    library.ran.restype = ctypes.c_char_p
    names = [library.ran(operation).decode()]
    assert (attention_kernels(names) == ["cudnn"]) == bool(attends)
    assert runs_convolutions(names) != bool(attends)


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("lora_profiler.rehearsal.build.find_spec", lambda name: None)
    said = r"gcc or clang.*\n.*lora-profiler\[rehearse\]"
    with pytest.raises(RehearsalError, match=said) as refused:
        find_compiler()
    assert refused.value.exit_code == 4


def test_the_compiler_of_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = executable(tmp_path / "own", "echo own compiler 1.0")
    monkeypatch.setenv("CC", f"{own} -m64")
    assert find_compiler() == Compiler((str(own), "-m64"), "own compiler 1.0")


def test_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_profiler.rehearsal.environment.sys.platform", "darwin")
    with pytest.raises(RehearsalError, match="Linux"):
        check_platform()


def an_environment(tmp_path: Path, version: str, cuda: str | None, header: int | None) -> Path:
    """A Python whose torch is a version.py, and its Triton headers of a version of CUDA."""
    packages = tmp_path / "packages"
    (packages / "torch" / "lib").mkdir(parents=True)
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "version.py").write_text(
        f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
    )
    if header is not None:
        include = packages / "triton" / "backends" / "nvidia" / "include"
        include.mkdir(parents=True)
        (packages / "triton" / "__init__.py").touch()
        (include / "cuda.h").touch()
        (include / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {header}\n")
    return executable(tmp_path / "python", f'PYTHONPATH={packages} exec {sys.executable} -S "$@"')


@pytest.mark.parametrize(
    ("version", "cuda", "header", "words"),
    [
        ("2.13.0+cpu", None, None, "not a CUDA build.*rehearse --setup"),
        ("2.13.0+cu130", "13.0", 12080, "headers are missing.*nvidia-cuda-runtime==13"),
        ("2.13.0+cu126", "12.6", None, "nvidia-cuda-runtime-cu12==12"),
    ],
)
def test_an_environment_that_cannot_be_rehearsed_says_what_to_install(
    tmp_path: Path, version: str, cuda: str | None, header: int | None, words: str
) -> None:
    with pytest.raises(RehearsalError, match=f"(?s){words}"):
        read_environment(an_environment(tmp_path, version, cuda, header))


def test_no_torch_and_a_python_that_does_not_run(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", f'exec {sys.executable} -S -I "$@"')
    with pytest.raises(RehearsalError, match="has no torch"):
        read_environment(python)
    executable(python, "echo broken >&2; exit 3")
    with pytest.raises(RehearsalError, match="does not run: broken"):
        read_environment(python)


def test_an_untried_torch_is_said(tmp_path: Path) -> None:
    found = read_environment(an_environment(tmp_path, "9.1.0+cu130", "13.0", 13010))
    assert (found.torch, found.cuda_major, found.headers.name) == ("9.1.0+cu130", 13, "include")
    assert found.caution is not None and "9.1.0" in found.caution
    other = tmp_path / "other"
    other.mkdir()
    assert read_environment(an_environment(other, "2.13.0+cu130", "13.0", 13010)).caution is None


def test_the_python_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchrun", "python", "python3"):
        executable(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_python(["torchrun", "x.py"], None) == tmp_path / "python"
    assert find_python(["python3", "x.py"], None) == tmp_path / "python3"
    assert find_python(["no-such-command"], None) == Path(sys.executable)
    with pytest.raises(RehearsalError, match="no Python /nowhere"):
        find_python(["python"], "/nowhere")


def test_a_command_with_a_path_runs_as_it_is_and_one_without_in_its_environment(
    tmp_path: Path,
) -> None:
    for name in ("python", "trl"):
        executable(tmp_path / name)
    own = Request(command=(), python=tmp_path / "python", card=CARD)
    for given, run in (
        ((str(tmp_path / "trl"), "sft"), [str(tmp_path / "trl"), "sft"]),
        ((sys.executable, "x.py"), [sys.executable, "x.py"]),
        (("trl", "sft"), [str(tmp_path / "trl"), "sft"]),
        (("python", "x.py"), [str(tmp_path / "python"), "x.py"]),
    ):
        assert launch.words_of(replace(own, command=given)) == run
    with pytest.raises(RehearsalError, match="no command /nowhere/python"):
        launch.words_of(replace(own, command=("/nowhere/python", "x.py")))


# --- the cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CudaEnvironment:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    library = tmp_path / "libtorch.so"
    library.write_bytes(b"a library")
    return CudaEnvironment(
        python=Path(sys.executable), torch="2.13.0+cu130", cuda="13.0", cudnn=92000, nccl=22907,
        libraries=(library,), driver_sources=(), headers=tmp_path,
    )  # fmt: skip


COMPILER = Compiler(("cc",), "cc 1.0")


def test_two_builds_at_once_leave_one_whole_folder(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def slow(folder: Path, *_: Any) -> None:
        both.wait()
        for name in ("libcublas.so.13", "libcudart.so.13"):
            (folder / name).write_text(name)
            time.sleep(0.05)
        both.wait()

    monkeypatch.setattr(build, "_build", slow)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: stubs(environment, COMPILER), range(2))
    assert first.libraries == second.libraries
    assert [path.name for path in first.libraries] == ["libcudart.so.13", "libcublas.so.13"]
    # nothing half-built stays
    assert [path.name for path in first.folder.parent.iterdir()] == [first.folder.name]
    assert not stubs(environment, COMPILER).built_now


@pytest.mark.parametrize("error", [RehearsalError("no"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_nothing(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(folder: Path, *_: Any) -> None:
        (folder / "libcudart.so.13").write_text("half")
        raise error

    monkeypatch.setattr(build, "_build", fails)
    with pytest.raises(type(error)):
        stubs(environment, COMPILER)
    assert list((Path(os.environ["LORA_PROFILER_CACHE"]) / "stubs").iterdir()) == []


def test_another_library_or_compiler_is_built_for_anew(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_build", lambda folder, *_: (folder / "libcudart.so.13").touch())
    compilers = (COMPILER, Compiler(("cc",), "cc 2.0"))
    folders = {stubs(environment, compiler).folder for compiler in compilers}
    environment.libraries[0].write_bytes(b"another library")
    folders.add(stubs(environment, COMPILER).folder)
    assert len(folders) == 3


def test_a_cache_that_cannot_be_written_is_said(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(environment.libraries[0]))
    with pytest.raises(RehearsalError, match=r"cannot be written.*LORA_PROFILER_CACHE"):
        stubs(environment, COMPILER)


def a_library(path: Path, *_: Any) -> None:
    """One that a process can look for."""
    source = path / "libcudart.c"
    source.write_text("unsigned long long pretended_launches(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path / "libcudart.so.13", source], check=True)
    source.unlink()


def test_stubs_are_loaded_from_a_cache_with_a_space_in_its_name(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_build", a_library)
    ask = "import ctypes; print(hasattr(ctypes.CDLL(None), 'pretended_launches'))"
    for name in ("cache", "a cache"):
        monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / name))
        variables = os.environ | launch.over_stubs(stubs(environment, COMPILER), CARD, 1)
        command = [sys.executable, "-S", "-c", ask]
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("True\n", "")
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "a:cache"))
    with pytest.raises(RehearsalError, match=r"colon.*LORA_PROFILER_CACHE"):
        stubs(environment, COMPILER)


@pytest.mark.parametrize("culprit", [".", "libcudart.so.13"])
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_stubs_that_another_user_could_have_put_there_are_not_loaded(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch, culprit: str, change: str
) -> None:
    if change == "owner" and os.geteuid():
        pytest.skip("takes root")
    monkeypatch.setattr(build, "_build", lambda folder, *_: (folder / "libcudart.so.13").touch())
    previous = os.umask(0o002)  # as many systems have it
    try:
        found = stubs(environment, COMPILER)
    finally:
        os.umask(previous)
    assert not stubs(environment, COMPILER).built_now
    if change == "owner":
        os.chown(found.folder / culprit, 65534, -1)
    else:
        (found.folder / culprit).chmod(0o777)
    with pytest.raises(RehearsalError, match=r"another user.*LORA_PROFILER_CACHE"):
        stubs(environment, COMPILER)


def test_a_compiler_without_end_is_ended(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_COMPILE_SECONDS", 0.1)
    monkeypatch.setattr(build, "exports", lambda *_: {"libcudart": Exports("libcudart.so.13")})
    compiler = Compiler((str(executable(tmp_path / "cc", "exec sleep 60")),), "cc 1.0")
    with pytest.raises(RehearsalError, match=r"more than 0\.1 s.*CC"):
        stubs(environment, compiler)


def test_what_a_killed_build_left_is_cleared_away_by_the_next(
    environment: CudaEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(os.environ["LORA_PROFILER_CACHE"]) / "stubs"
    script = (
        "import os, sys; from pathlib import Path; from lora_profiler.measuring.records.locks import WorkingFolder\n"
        "place = Path(sys.argv[1]); place.mkdir(parents=True); folder = WorkingFolder(place); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, place])
    assert len(list(place.iterdir())) == 1
    monkeypatch.setattr(build, "_build", lambda folder, *_: (folder / "libcudart.so.13").touch())
    folder = stubs(environment, COMPILER).folder
    assert list(place.iterdir()) == [folder]


# --- cards ----------------------------------------------------------------------------------------------------------------


def test_every_nvidia_card_of_the_catalogue_can_be_pretended() -> None:
    from lora_profiler.facts.catalog.gpus import processor_table

    nvidia = [gpu for gpu in bundled_gpus() if gpu.vendor == "nvidia"]
    assert {gpu.key for gpu in nvidia} == set(processor_table())
    for gpu in nvidia:
        card = pretended(gpu, 100)
        told = card.environment(2)["LORA_PROFILER_CARD"].split("|")
        fields = dict(field.split("=") for field in told)
        assert int(fields["major"]) * 10 + int(fields["minor"]) == gpu.capability
        assert int(fields["total_bytes"]) == gpu.usable_bytes
        assert card.environment(2)["LORA_PROFILER_CARDS"] == "2"


def test_a_custom_card_is_an_a100_of_that_size_and_another_vendor_s_is_refused() -> None:
    card = pretended(find_gpu("custom:24GiB"), 0)
    assert (card.total_bytes, card.capability, card.is_custom) == (24 << 30, 80, True)
    with pytest.raises(UsageError, match="for NVIDIA GPUs"):
        pretended(find_gpu("mi300x_192gb"), 0)


# --- the allocator's log --------------------------------------------------------------------------------------------------


def entry(
    action: str, address: int, size: int, label: str = "", function: str = "forward"
) -> dict[str, Any]:
    frames = [{"name": function, "filename": "/x/train.py", "line": 3}]
    said = {"action": action, "addr": address, "size": size}
    return said | {"user_metadata": label, "frames": frames}


def test_a_log_gives_the_peak_of_each_phase_and_what_was_held() -> None:
    log = play(
        [
            entry("alloc", 1, 1000, "0 setup"),
            entry("alloc", 2, 50, "1 forward model.layers.0"),
            entry("free_completed", 2, 50),
            entry("alloc", 2, 300, "1 forward model.layers.0"),
            entry("alloc", 3, 2 << 20, "1 forward", function="cross_entropy"),
            entry("alloc", 4, 2 << 20, "1 backward", function="run"),
            entry("alloc", 5, 40, "1 backward", function="run"),
            entry("free_requested", 3, 2 << 20),
            entry("free_completed", 3, 2 << 20),
            entry("free_completed", 4, 2 << 20),
            entry("free_completed", 2, 300),
            entry("alloc", 6, 8_519_680, "1 optimizer"),
        ]
    )
    assert {key: peak for key, (peak, _) in log.peaks.items()} == {
        (0, "setup"): 1000,
        (1, "forward"): 1300 + (2 << 20),
        (1, "backward"): 1340 + (4 << 20),
        (1, "optimizer"): 1040 + 8_519_680,
    }
    name_pieces(log, {1: ("parameters", "weight"), 5: ("gradients", "weight")}, 11)
    found = held_at_peak(log, (1, "backward"), "")
    assert found["categories"] == {
        "logits and loss": 4 << 20,
        "parameters": 1000,
        "saved for the backward pass": 300,
        "gradients": 40,
    }
    assert sum(found["categories"].values()) == found["requested_bytes"]
    at_forward = held_at_peak(log, (1, "forward"), "model.layers.0")
    # the layer that makes the logits is told
    assert at_forward["categories"]["logits and loss"] == 300 + (2 << 20)
    assert held_at_peak(log, (1, "optimizer"), "")["categories"]["workspaces of BLAS"] == 8_519_680


def test_a_piece_that_its_own_pass_frees_is_temporary_and_the_owner_goes_by_the_moment() -> None:
    log = play(
        [
            entry("alloc", 1, 10, "1 forward"),
            entry("alloc", 2, 30, "1 forward"),
            entry("free_completed", 2, 30),
            entry("alloc", 2, 5, "1 forward"),
        ]
    )
    name_pieces(log, {2: ("parameters", "later")}, 3)
    assert held_at_peak(log, (1, "forward"), "")["categories"] == {
        "temporaries of the forward pass": 30,
        "saved for the backward pass": 10,
    }


def test_what_was_held_as_memory_ran_out_is_not_what_was_held_at_the_peak() -> None:
    log = play(
        [
            entry("alloc", 1, 1000, "1 forward"),
            entry("free_completed", 1, 1000),
            entry("alloc", 2, 300, "1 backward"),
            entry("alloc", 3, 40, "1 backward"),
            entry("oom", 0, 9000, "1 backward"),
            entry("free_completed", 2, 300),
        ]
    )
    assert log.ran_out == 4
    name_pieces(log, {2: ("gradients", "weight")}, 4)
    found = held(log, (1, "backward"), 4, "")
    assert found["categories"] == {"gradients": 300, "temporaries of the backward pass": 40}
    assert (found["step"], found["phase"], found["requested_bytes"]) == (1, "backward", 340)


def test_what_a_trainer_s_loss_function_calls_is_not_all_of_the_loss() -> None:
    frames = [{"name": name, "filename": "x", "line": 1} for name in ("forward", "compute_loss")]
    of_layer = {**entry("alloc", 1, 10, "1 forward"), "frames": frames}
    of_loss = {**entry("alloc", 2, 20, "1 forward"), "frames": frames[::-1]}
    assert held_at_peak(play([of_layer, of_loss]), (1, "forward"), "")["categories"] == {
        "logits and loss": 20,
        "saved for the backward pass": 10,
    }


def log_of_steps(
    steps: int, kept: Callable[[int], int], size: int = 1 << 20
) -> list[dict[str, Any]]:
    """Each step allocates a loss' graph and a gradient; `kept(step)`: how many steps later the
    graph is freed. An optimizer state is made in step 1, and a cache in step 2."""
    entries: list[dict[str, Any]] = []
    freed: set[int] = set()
    for step in range(1, steps + 1):
        for old in range(1, step):
            if old + kept(old) <= step and old not in freed:
                freed.add(old)
                entries.append(entry("free_completed", old, size, f"{step} forward"))
        if step > 1:
            entries.append(entry("free_completed", 100 + step - 1, size, f"{step} forward"))
        entries.append(entry("alloc", step, size, f"{step} forward"))
        entries.append(entry("alloc", 100 + step, size, f"{step} backward", function="run"))
        if step < 3:
            entries.append(entry("alloc", 200 + step, 9 * size, f"{step} optimizer"))
    return entries


def test_a_leak_is_named_with_the_line_that_allocated_it() -> None:
    entries = log_of_steps(6, kept=lambda _: 99)
    library = {"name": "forward", "filename": f"{sysconfig.get_path('purelib')}/a.py", "line": 7}
    caller = {"name": "main", "filename": "/x/train.py", "line": 9}
    for each in entries:
        each["frames"] = [library, *each["frames"], caller]
    assert find_leak(play(entries), 6) == {
        "bytes_per_step": 1 << 20,
        "where": "/x/train.py:3 forward",
    }
    assert find_leak(play(entries[:-6]), 4) is not None
    for each in entries:
        each["frames"] = []
    assert find_leak(play(entries), 6) == {"bytes_per_step": 1 << 20, "where": ""}


@pytest.mark.parametrize(
    ("steps", "kept", "size"),
    [
        (3, 99, 1 << 20),  # too few to tell it from a warm-up
        (6, 1, 1 << 20),  # the next step replaces it
        (6, 2, 1 << 20),  # the last two are kept
        (6, 99, 4),  # a loss without its graph
    ],
)
def test_what_does_not_grow_with_every_step_is_no_leak(steps: int, kept: int, size: int) -> None:
    assert find_leak(play(log_of_steps(steps, lambda _: kept, size)), steps) is None


def test_what_only_some_steps_leave_behind_is_no_leak() -> None:
    entries = log_of_steps(7, kept=lambda step: 99 if step % 3 == 0 else 1)
    assert find_leak(play(entries), 7) is None


def test_longer_rows_with_every_step_are_no_leak() -> None:
    entries = log_of_steps(6, kept=lambda _: 2)
    for each in entries:
        if each["addr"] < 100:
            each["size"] *= each["addr"]
    assert find_leak(play(entries), 6) is None


def test_a_leak_is_found_although_rows_get_shorter() -> None:
    entries = log_of_steps(6, kept=lambda _: 99)
    for each in entries:
        if 100 < each["addr"] < 200:
            each["size"] *= 3 * (110 - each["addr"])
    found = find_leak(play(entries), 6)
    assert found is not None and found["bytes_per_step"] == 1 << 20


def test_the_answer_says_by_how_much_memory_grows_and_when_it_is_full() -> None:
    peak = dict.fromkeys(COUNTERS, 14 << 30)
    leak = {"bytes_per_step": 1 << 30, "where": f"{os.getcwd()}/train.py:42 main"}
    peaks = dict.fromkeys(("setup", "first_step", "steady", "whole"), peak)
    result = Rehearsal(document(leak=leak, steps=5, peaks=peaks))
    text = " ".join(plain(rehearsal_blocks([result], CARD, "train.py", detail=False)).split())
    said = (
        "Memory grows by 1.00 GiB every step; the tensors that stay were allocated at train.py:42."
    )
    assert said in text
    assert "At that rate the GPU is full after about 7 steps." in text  # 16 GiB


def test_which_attention_ran_is_read_off_the_kernels() -> None:
    flash = "_ZN13pytorch_flash16flash_fwd_kernelI"
    names = {flash: 2, "cudnnBackendExecute attention": 1, "softmax_warp_forward": 4}
    assert attention_kernels(names) == ["flash", "cudnn"] and not runs_convolutions(names)
    assert attention_kernels(["cudnnBackendExecute"]) == []
    for convolution in ("cudnnBackendExecute", "cudnnConvolutionBackwardFilter"):
        assert runs_convolutions([convolution]) and not runs_recurrent([convolution])
    assert runs_recurrent(["cudnnRNNForward"]) and not runs_convolutions(["cudnnRNNForward"])
    assert attention_kernels(["fmha_cutlassF_f16_aligned_64x64_rf_sm80"]) == ["efficient"]
    assert attention_kernels(["softmax_warp_forward"]) == []
    assert between({"a": 2, "b": 1}, {"a": 5, "b": 1, "c": 1}) == {"a": 3, "c": 1}


# --- the script's process -------------------------------------------------------------------------------------------------


def request(*command: str) -> Request:
    return Request(command=command, python=Path(sys.executable), card=CARD)


def without_stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path, (), built_now=False)


def document(**changes: Any) -> dict[str, Any]:
    peak = {"requested_bytes": 10, "allocated_bytes": 20, "reserved_bytes": 30}
    return {
        "schema": 1,
        "status": "done",
        "rank": 0,
        "world_size": 1,
        "torch": "2.13.0+cu130",
        "steps": 3,
        "retries": 0,
        "device": {"name": "T4", "compute_capability": "7.5", "total_bytes": 1 << 34, "count": 1},
        "peaks": {"setup": peak, "first_step": peak, "steady": peak, "whole": peak},
        "phases": [
            {"step": step, "phase": phase, **peak}
            for step in (1, 2, 3)
            for phase in ("backward", "forward")
        ],
        "second_count": {"requested_bytes": 10, "is_equal": True},
        "held": None,
        "leak": None,
        "launches": [{"kernels": 5, "library_calls": 2}],
        "attention": ["flash"],
        "convolutions": False,
        "recurrent": False,
        "kernels": {},
        "out_of_memory": None,
        "error": None,
        "largest_case": [],
        "decomposed": [],
        "last_read": {},
        "values_read": 0,
        "weights_of_holes": [],
        "dtypes_of_holes": {},
        "kernels_stood_in": [],
        "kernels_of_torch": [],
        "data_stood_in": [],
        "data_sizes": {},
        "facts": {"optimizers": []},
        **changes,
    }


WRITES = """
import json, os, sys
for name, document in json.loads(sys.argv[1]).items():
    open(os.path.join(os.environ["LORA_PROFILER_RUN"], name), "w").write(json.dumps(document))
"""


def test_results_are_read_rank_by_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = {
        "result-0-7.json": document(steps=0, status="ended"),
        "result-0-9.json": document(),
        "result-1-8.json": document(rank=1, status="out_of_memory"),
    }
    asked = request("python", "-c", WRITES, json.dumps(written))
    found = rehearse(asked, without_stubs(tmp_path), 2)
    told = [(each.rank, each.status, each.steps) for each in found]
    assert told == [(0, "done", 3), (1, "out_of_memory", 3)]
    assert worst_of(found).rank == 1
    assert EXIT_CODES[worst_of(found).status] == 1


def test_a_script_is_run_with_what_the_stubs_and_the_hooks_need(tmp_path: Path) -> None:
    script = (
        "import json, os, sys; names = ('LORA_PROFILER_CARD', 'HF_HUB_OFFLINE', 'PYTHONPATH', 'LD_PRELOAD', 'HF_HUB_CACHE')\n"
        "open(sys.argv[1], 'w').write(json.dumps({name: os.environ.get(name) for name in names}))"
    )
    out = tmp_path / "out.json"
    preload = Stubs(tmp_path, (tmp_path / "a.so", tmp_path / "b.so"), built_now=False)
    with pytest.raises(RehearsalError, match=r"exit code 0 before it used the GPU.$"):
        rehearse(request("python", "-S", "-c", script, str(out)), preload, 2)
    found = json.loads(out.read_text())
    card = found["LORA_PROFILER_CARD"]
    assert "capability" not in card and "major=7|minor=5" in card
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["LD_PRELOAD"].split(":")[:2] == [str(tmp_path / "a.so"), str(tmp_path / "b.so")]
    assert (Path(found["PYTHONPATH"].split(":")[0]) / "sitecustomize.py").exists()
    assert not Path(found["HF_HUB_CACHE"]).exists()  # it went with the run


ENDS_WITHOUT_ROWS = """
import json, os
settings = json.loads(os.environ["LORA_PROFILER_RUN_SETTINGS"])
document = json.loads(os.environ["DOCUMENT"])
if settings["rows"] > 512:
    document |= {"steps": 3, "status": "done"}
open(os.path.join(os.environ["LORA_PROFILER_RUN"], "result-0-1.json"), "w").write(json.dumps(document))
"""


@pytest.mark.parametrize(
    ("steps", "stood_in", "status"), [(2, ["the data set a/b (text)"], "done"), (2, [], "ended")]
)
def test_simulated_data_that_end_too_early_are_made_anew_with_more_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, stood_in: list[str], status: str
) -> None:
    ended = document(status="ended", steps=steps, data_stood_in=stood_in)
    monkeypatch.setenv("DOCUMENT", json.dumps(ended))
    found = rehearse(request("python", "-c", ENDS_WITHOUT_ROWS), without_stubs(tmp_path), 2)
    assert [each.status for each in found] == [status]


USES_THE_CARD = "import os; open(os.environ['LORA_PROFILER_RUN'] + '/steps-7', 'w').write('2'); "
KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("script", "words", "hint"),
    [
        (KILLS_ITSELF, r"was ended by signal 9 \(SIGKILL\) before it used the GPU", "own memory"),
        (USES_THE_CARD + KILLS_ITSELF, r"signal 9 \(SIGKILL\) before step 3", "own memory"),
        ("import no_such_module", "exit code 1 before it used the GPU", "pip install NAME"),
        ("import sys; sys.exit(7)", "exit code 7 before it used the GPU", ""),
        ("raise OSError('it looks as if you are offline')", "exit code 1", "Without --online"),
        (
            "class E(Exception): __module__ = 'huggingface_hub.errors'\n"
            "try: raise E('no cache')\nexcept E: raise RuntimeError('cannot load')",
            "exit code 1",
            "Without --online",
        ),
    ],
)
def test_how_a_script_ended_is_told_with_the_hint_that_helps(
    tmp_path: Path, script: str, words: str, hint: str
) -> None:
    with pytest.raises(RehearsalError, match=words) as ended:
        rehearse(request("python", "-c", script), without_stubs(tmp_path), 2)
    others = {"own memory", "pip install NAME", "Without --online"} - {hint}
    said = str(ended.value)
    assert hint in said and not any(other in said for other in others)


def test_a_launcher_that_fails_before_any_step_is_told_by_its_exit_code(tmp_path: Path) -> None:
    """The script under it failed without using the GPU; the launcher itself had opened it."""
    written = {"result-0-1.json": document(status="ended", steps=0)}
    script = f"{WRITES}\nsys.exit(2)"
    with pytest.raises(RehearsalError, match="ended with exit code 2 before it used the GPU"):
        command = request("python", "-c", script, json.dumps(written))
        rehearse(command, without_stubs(tmp_path), 2)


def test_a_script_without_end_is_ended_at_the_limit_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    limited = replace(request("python", "-c", script), minutes=0.03)
    with pytest.raises(RehearsalError, match=r"after 0.03 minutes \(--minutes\) before it used"):
        rehearse(limited, without_stubs(tmp_path), 2)
    wait_until(lambda: not Path("/proc", pid.read_text()).exists())


def test_an_interrupt_leaves_none_of_the_script_s_processes(tmp_path: Path) -> None:
    """A launcher and its worker, which hears no SIGTERM."""
    pids = tmp_path / "pids"
    worker = "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'a').write(f'{os.getpid()} '); time.sleep(600)"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}, sys.argv[1]]); time.sleep(600)"

    def interrupt() -> None:
        while not pids.exists() or not pids.read_text().endswith(" "):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        rehearse(request("python", "-c", script, str(pids)), without_stubs(tmp_path), 2)
    (pid,) = map(int, pids.read_text().split())
    wait_for_the_end_of(pid)


def test_a_rehearsal_that_is_killed_leaves_none_of_the_script_s_processes(tmp_path: Path) -> None:
    """A launcher and its worker; the folder goes with the next rehearsal."""
    pids, temp = tmp_path / "pids", tmp_path / "temp"
    temp.mkdir()
    worker = (
        "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()} '); time.sleep(600)"
    )
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}, sys.argv[1]]); time.sleep(600)"
    rehearsing = (
        "import sys\nfrom pathlib import Path\nfrom test_rehearsal import rehearse, request, without_stubs\n"
        "rehearse(request('python', '-c', *sys.argv[1:3]), without_stubs(Path(sys.argv[3])), 2)"
    )
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", rehearsing, script, str(pids), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(temp)},
    )
    wait_until(lambda: pids.exists() and pids.read_text().endswith(" "))
    process.kill()
    process.wait()
    wait_for_the_end_of(int(pids.read_text()))
    assert len(list(temp.iterdir())) == 1
    WorkingFolder(temp).cleanup()
    assert list(temp.iterdir()) == []


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result-0-1.json"
    path.write_text(json.dumps(document(schema=99)))
    with pytest.raises(RehearsalError, match="no result of this version"):
        read_result(path)


def test_an_action_waits_for_the_import_and_not_for_the_look(tmp_path: Path) -> None:
    (tmp_path / "looked_at.py").write_text("value = 1\n")
    inside = Path(build.__file__).with_name("inside")
    script = (
        "import importlib.util, sys\nfrom rehearsed.imports import after_import\n"
        "after_import('looked_at', lambda: print('imported', sys.modules['looked_at'].value))\n"
        "print('found', importlib.util.find_spec('looked_at') is not None)\nimport looked_at\nimport looked_at\n"
        "print(type(looked_at.__spec__.loader).__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{inside}:{tmp_path}"}
    said = in_python(script, env=environment).split("\n")[:3]
    assert said == ["found True", "imported 1", "SourceFileLoader"]


def test_the_environment_s_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['OWN'] = 'ran'\n")
    inside = Path(build.__file__).with_name("inside")
    own = {"PYTHONPATH": f"{inside}:{tmp_path}", "LORA_PROFILER_RUN": str(tmp_path)}
    environment = os.environ | own
    script = "import os, sys; print(os.environ.get('OWN'), 'rehearsed.start' in sys.modules, 'torch' in sys.modules)"
    assert in_python(script, env=environment) == "ran True False\n"


# --- models that are not there --------------------------------------------------------------------------------------------


def test_a_checkpoint_of_holes_has_the_model_s_tensors_and_no_storage(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors")
    from lora_profiler.rehearsal.inside.rehearsed.weights import write_holes

    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512,
        "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 8000, "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "model.safetensors"
    write_holes(tmp_path)
    with torch.device("meta"):
        real = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    with safetensors.safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {name: tuple(parameter.shape) for name, parameter in real.named_parameters()}
    (header_bytes,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert path.stat().st_size == 8 + header_bytes + 2 * real.num_parameters()
    assert path.stat().st_blocks * 512 < 100_000
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.num_parameters() == real.num_parameters() and loaded.dtype == torch.bfloat16


def test_a_head_that_a_checkpoint_holds_apart_is_loaded_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5's class ties it all the same, unless the values differ."""
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed import holes
    from lora_profiler.rehearsal.inside.rehearsed.weights import write_holes

    config = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64,
        "d_ff": 96, "num_layers": 2, "num_heads": 4, "d_kv": 16, "vocab_size": 500,
        "tie_word_embeddings": False,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_holes(tmp_path)
    monkeypatch.setattr(holes, "LARGE", 10_000)
    safetensors = pytest.importorskip("safetensors")
    monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
    holes.read_no_holes()
    monkeypatch.setattr("transformers.modeling_utils.safe_open", safetensors.safe_open)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is not loaded.shared.weight
    spec = model_from_config(config, id="t", source="test")
    assert loaded.num_parameters() == spec.num_parameters
    config["tie_word_embeddings"] = True
    assert model_from_config(config, id="t", source="test").num_parameters < spec.num_parameters


def test_a_large_checkpoint_of_holes_is_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's are, with an index that transformers follows."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dtype": "bfloat16"}))
    monkeypatch.setattr(weights, "_SHARD_BYTES", 100_000)
    weights.write_holes(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1 and not (tmp_path / "model.safetensors").exists()
    assert all((tmp_path / file).stat().st_size < 110_000 for file in files)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert index["metadata"]["total_size"] == 2 * loaded.num_parameters()
    assert loaded.dtype == torch.bfloat16


CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 500,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache of the hub with one model's config, seen by a run through links."""
    constants = pytest.importorskip("huggingface_hub.constants")
    transformers_hub = pytest.importorskip("transformers.utils.hub")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    run = tmp_path / "run" / "hub"
    run.mkdir(parents=True)
    (run / "models--some--model").symlink_to(snapshot.parents[1])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(run))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers_hub, "cached_files", transformers_hub.cached_files)
    monkeypatch.setattr(weights, "STOOD_IN", {})
    models = tmp_path / "models.json"
    kind = {"model_type": "llama", "architecture": "LlamaForCausalLM", "dtype": "float16"}
    models.write_text(json.dumps({"models": [{"id": "known/One", **kind, "config": CONFIG}]}))
    asked = Settings(tmp_path / "run", steps=3, models=models, snapshot=None, pretends_data=True)
    weights.stand_in(asked)
    ASKED_OF[snapshot] = asked
    yield snapshot


ASKED_OF: dict[Path, Settings] = {}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_model_without_weights_loads_from_holes_and_the_user_s_cache_stays_as_it_was(
    hub: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    before = files_of(hub.parents[1])
    model = transformers.AutoModelForCausalLM.from_pretrained("some/model")
    assert model.config.hidden_size == 64
    assert not any(parameter.any() for parameter in model.parameters())
    assert files_of(hub.parents[1]) == before
    assert weights.STOOD_IN == {"some/model": "float32 (assumed: the config names no dtype)"}
    assert str(model.dtype) == "torch.float32"
    model = transformers.AutoModelForCausalLM.from_pretrained("known/One", dtype="auto")
    assert str(model.dtype) == "torch.float16"
    tokenizer = transformers.AutoTokenizer.from_pretrained("known/One")
    assert len(tokenizer("four")["input_ids"]) == 4
    with pytest.raises(OSError, match="find them in the cached files"):
        transformers.AutoModelForCausalLM.from_pretrained("unknown/model")


@pytest.mark.parametrize("is_cached", [False, True])
def test_holes_are_of_the_dtype_that_the_catalogue_knows_where_the_config_names_none(
    hub: Path, is_cached: bool
) -> None:
    """GPT-2's config.json states no dtype, and its file is in float32; a config in the user's cache
    goes before the catalogue's."""
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    assert find_model("bigscience/bloom-560m").dtype == "float16"
    assert find_model("openai-community/gpt2").dtype == "float32"
    snapshot = hub.parents[2] / "models--known--One" / "snapshots" / "abc"
    if is_cached:
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(CONFIG))
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
        run = Path(sys.modules["huggingface_hub.constants"].HF_HUB_CACHE)
        (run / "models--known--One").symlink_to(snapshot.parents[1])
    model = transformers.AutoModelForCausalLM.from_pretrained("known/One")
    assert str(model.dtype) == "torch.float16"
    assert weights.STOOD_IN == {"known/One": "float16"}


def test_a_name_that_nobody_knows_is_its_namesake_or_the_defaults_of_a_config_class(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import DATA_STOOD_IN

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = transformers.AutoConfig.from_pretrained("me/one-Reward")
    assert config.hidden_size == CONFIG["hidden_size"]
    clip = transformers.AutoConfig.from_pretrained("openai/clip-vit-base-patch32")
    assert clip.projection_dim == 512
    assert transformers.AutoConfig.from_pretrained("distilroberta-base").num_hidden_layers == 6
    assert DATA_STOOD_IN[-3:] == [
        "me/one-Reward as known/One",
        "openai/clip-vit-base-patch32 by the defaults of its config class",
        "distilroberta-base as distilbert/distilroberta-base",
    ]
    with pytest.raises(OSError):
        transformers.AutoConfig.from_pretrained("me/another-one")


def test_a_part_that_is_loaded_by_its_folder_in_the_cache_is_filled_too(
    hub: Path, tmp_path: Path
) -> None:
    """As a pipeline of diffusers loads them."""
    transformers = pytest.importorskip("transformers")
    run = tmp_path / "run" / "hub" / "models--some--model" / "snapshots" / "abc"
    model = transformers.AutoModelForCausalLM.from_pretrained(str(run))
    assert not model.lm_head.weight.any()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(run))
    assert len(tokenizer) == CONFIG["vocab_size"]
    elsewhere = tmp_path / "own"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(OSError):
        transformers.AutoModelForCausalLM.from_pretrained(str(elsewhere))
    assert files_of(elsewhere) == files_of(hub) == ["config.json"]


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("Qwen/Qwen2.5-Math-1.5B-Instruct", "as Qwen/Qwen2.5-1.5B"),
        ("Qwen/Qwen2.5-Coder-7B", "as Qwen/Qwen2.5-7B"),
    ],
)
def test_a_model_of_one_subject_has_the_shapes_of_its_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, like: str
) -> None:
    pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.checkpoints import known_checkpoint
    from lora_profiler.rehearsal.inside.rehearsed.settings import Settings

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models = Path(lora_profiler.__file__).parent / "facts" / "catalog" / "data" / "models.json"
    settings = Settings(tmp_path, 3, models, None, pretends_data=True)
    found = known_checkpoint(settings, name)
    assert found is not None and found.by == like


def test_a_pipeline_that_is_listed_has_an_index_of_its_parts(hub: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = "CompVis/stable-diffusion-v1-4"
    transformers.CLIPTextConfig.from_pretrained(name, subfolder="text_encoder")
    run = Path(sys.modules["huggingface_hub.constants"].HF_HUB_CACHE)
    (index,) = (run / f"models--{name.replace('/', '--')}").rglob("model_index.json")
    parts = json.loads(index.read_text())
    assert parts["_class_name"] == "StableDiffusionPipeline" and "" not in parts
    assert parts["scheduler"] == ["diffusers", "PNDMScheduler"]
    assert parts["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert parts["tokenizer"] == ["transformers", "CLIPTokenizer"]


def test_a_part_is_as_another_repository_has_it_but_for_what_goes_with_it() -> None:
    from lora_profiler.rehearsal.inside.rehearsed.checkpoints import known_checkpoint

    models = Path(build.__file__).parents[1] / "facts" / "catalog" / "data" / "models.json"
    asked = Settings(Path(), steps=3, models=models, snapshot=None, pretends_data=False)
    flux, lumina, gemma = (
        known_checkpoint(asked, name)
        for name in (
            "black-forest-labs/FLUX.1-dev", "Alpha-VLLM/Lumina-Image-2.0", "google/gemma-2-2b",
        )
    )  # fmt: skip
    assert flux is not None and lumina is not None and gemma is not None
    assert lumina.configs["vae"] == flux.configs["vae"]
    encoder = lumina.configs["text_encoder"]
    assert encoder["architectures"] == ["Gemma2Model"]
    assert encoder["hidden_size"] == gemma.configs[""]["hidden_size"] == 2304


def test_modules_of_sentence_transformers_are_listed_with_their_places(hub: Path) -> None:
    hugging = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    name, place = "sentence-transformers/static-retrieval-mrl-en-v1", "0_StaticEmbedding"
    for file in ("modules.json", f"{place}/model.safetensors", f"{place}/tokenizer.json"):
        weights._prepare(ASKED_OF[hub], name, file, "")
    run = Path(hugging.constants.HF_HUB_CACHE)
    (listed,) = (run / f"models--{name.replace('/', '--')}").rglob("modules.json")
    (module,) = json.loads(listed.read_text())
    assert (module["path"], module["type"].rpartition(".")[2]) == (place, "StaticEmbedding")
    with safetensors.safe_open(listed.parent / place / "model.safetensors", "pt") as file:
        assert {key: file.get_slice(key).get_shape() for key in dict.fromkeys(file.keys())} == {
            "embedding.weight": [30522, 1024]
        }
    assert (listed.parent / place / "tokenizer.json").exists()


def test_a_cache_of_the_script_s_own_without_the_model_is_left(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = transformers.AutoConfig.from_pretrained("some/model", cache_dir=str(tmp_path / "own"))
    assert config.hidden_size == CONFIG["hidden_size"]


def test_holes_in_another_dtype_hold_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from lora_profiler.rehearsal.inside.rehearsed import weights

    monkeypatch.setattr(torch.Tensor, "to", torch.Tensor.to)
    monkeypatch.setattr(weights, "STOOD_IN", {})
    weights.stand_in_for_casts()
    large, small = torch.ones(1 << 21), torch.ones(2)
    assert large.to(torch.float64).all()
    weights.STOOD_IN["some/model"] = "float32"
    assert not large.to(torch.float64).any() and large.to(torch.float64).dtype == torch.float64
    trained = torch.ones(1 << 21, requires_grad=True)
    assert trained.to(torch.float64).requires_grad and trained.to(torch.float64).all()
    assert (
        small.to(torch.float64).all()
        and large.to("cpu").all()
        and large.int().to(torch.int64).all()
    )


def _private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def test_a_file_of_holes_is_read_without_memory_and_another_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    from lora_profiler.rehearsal.inside.rehearsed.holes import read_no_holes

    written = {
        "large": torch.zeros(4096, 1 << 15, dtype=torch.bfloat16),
        "small": torch.ones(2, 3),
        "one": torch.tensor(7),
    }
    save_file(written, tmp_path / "full.safetensors")
    whole = (tmp_path / "full.safetensors").read_bytes()
    with open(tmp_path / "holes.safetensors", "wb") as file:  # as `cp --sparse=always` leaves it
        file.write(whole[: len(whole) - (256 << 20)])
        file.truncate(len(whole))
    del whole
    monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
    read_no_holes()
    before = _private_bytes()
    with safetensors.safe_open(tmp_path / "holes.safetensors", framework="pt") as file:
        assert file.metadata() is None
        found = file.get_tensors()
        part = file.get_slice("large")[2:6, :5]
        assert sorted(file.keys()) == sorted(written)
    large = found["large"]
    assert (large.shape, large.dtype) == (written["large"].shape, torch.bfloat16)
    assert torch.equal(found["small"], written["small"]) and found["one"].item() == 7
    assert part.shape == (4, 5) and not part.any() and not large[-1].any()
    assert _private_bytes() - before < 64 << 20
    large[0] = 1
    assert large[0].all()
    full = safetensors.safe_open(tmp_path / "full.safetensors", framework="pt")
    assert type(full) is not type(file) and torch.equal(full.get_tensor("small"), torch.ones(2, 3))


CHECKPOINTS = json.loads(
    (Path(build.__file__).parent / "inside" / "rehearsed" / "checkpoints.json").read_text()
)
COUNTED = [
    pytest.param(config, id=f"{name}/{place}")
    for name, configs in CHECKPOINTS.items()
    if not isinstance(configs, str)
    for place, config in configs.items()
    if "_parameters" in config
]


@pytest.mark.parametrize("config", COUNTED)
def test_listed_checkpoints_have_the_published_number_of_parameters(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    if "_class_name" in config:
        kind = getattr(pytest.importorskip("diffusers"), config["_class_name"])
        with torch.device("meta"):
            model = kind.from_config(config)
    else:
        transformers = pytest.importorskip("transformers")
        with torch.device("meta"):
            kind = getattr(transformers, config["architectures"][0])
            model = kind(transformers.AutoConfig.for_model(**config))
    assert sum(each.numel() for each in model.parameters()) == config["_parameters"]


def test_other_names_of_listed_checkpoints_lead_to_one_that_is_known() -> None:
    from lora_profiler.rehearsal.inside.rehearsed.checkpoints import known_checkpoint

    models = Path(build.__file__).parents[1] / "facts" / "catalog" / "data" / "models.json"
    asked = Settings(Path(), steps=3, models=models, snapshot=None, pretends_data=False)
    for name, other in CHECKPOINTS.items():
        known = known_checkpoint(asked, name)
        assert known is not None and known.by == (f"as {other}" if isinstance(other, str) else None)


def test_weights_that_are_in_the_cache_are_the_ones_that_load(hub: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    real = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    real.save_pretrained(hub, max_shard_size="100KB")
    assert (hub / "model.safetensors.index.json").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained("some/model")
    assert torch.equal(model.lm_head.weight, real.lm_head.weight)


def test_a_tokenizer_that_is_stood_in_for_gives_a_token_a_byte_and_is_as_large_as_the_model_s(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import WORD, write_tokenizer

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "Größe, two  spaces\n"
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token != tokenizer.eos_token
    assert len(tokenizer) == CONFIG["vocab_size"]
    assert len(tokenizer(7 * WORD)["input_ids"]) == 7


def test_a_tokenizer_of_a_family_that_trl_knows_has_its_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import chat_template, write_tokenizer

    templates = tmp_path / "trl" / "chat_templates"
    templates.mkdir(parents=True)
    (tmp_path / "trl" / "__init__.py").touch()
    for name in (
        "qwen2_5",
        "qwen3",
        "qwen3_training",
        "qwen3_instruct_2507",
        "llama3_1",
        "llama3_2",
    ):
        (templates / f"{name}.jinja").write_text(f"<|of_{name}|>")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trl", raising=False)
    of = {
        "Qwen/Qwen3-1.7B": "qwen3",
        "Qwen/Qwen3-4B-Instruct-2507": "qwen3_instruct_2507",
        "Qwen/Qwen2.5-0.5B-Instruct": "qwen2_5",
        "meta-llama/Llama-3.2-1B": "llama3_2",
        "meta-llama/Llama-3.1-8B": "llama3_1",
    }
    assert {name: chat_template(name) for name in of} == {k: f"<|of_{v}|>" for k, v in of.items()}
    assert chat_template("google/gemma-2b") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 1000}))
    write_tokenizer(tmp_path, "Qwen/Qwen3-1.7B")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)
    assert tokenizer.decode(chat) == "<|of_qwen3|>" and len(chat) == 1


@pytest.mark.parametrize(("kind", "first"), [("llama", "<s>"), ("qwen2", None), ("bert", None)])
def test_a_tokenizer_has_a_mark_to_begin_with_where_its_model_has(
    tmp_path: Path, kind: str, first: str | None
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import write_tokenizer

    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": 1000}))
    write_tokenizer(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer.bos_token == first


def test_a_chat_is_rendered_with_calls_of_tools_and_one_mark_an_image(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import write_tokenizer

    config = {"model_type": "qwen2_5_vl", "vocab_size": 2000, "image_token_id": 1655}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "2"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text.startswith("user: <|image_pad|>What?<") and text.count("<|image_pad|>") == 1
    assert "assistant: [" in text and '"a": 1' in text and "tool: 2" in text
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == 1655 and len(tokenizer) == 2000
    smol = {"model_type": "smolvlm", "vocab_size": 2000}
    (tmp_path / "config.json").write_text(json.dumps(smol))
    write_tokenizer(tmp_path)  # the class names a mark around an image first
    assert "<image>" in (tmp_path / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("gemma3", {"image_token", "boi_token", "eoi_token"}),
        ("gemma4", {"image_token", "boi_token", "eoi_token", "audio_token", "boa_token"}),
        ("mistral3", set()),
    ],
)
def test_a_tokenizer_has_the_tokens_that_its_processor_expects(
    model_type: str, names: set[str], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import write_tokenizer

    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    write_tokenizer(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ids = {getattr(tokenizer, f"{name}_id") for name in names}
    assert len(ids) == len(names) and None not in ids and tokenizer.unk_token_id not in ids
    assert all(len(tokenizer.tokenize(getattr(tokenizer, name))) == 1 for name in names)


@pytest.mark.parametrize(
    ("config", "longest", "marks"),
    [
        ({"model_type": "clip", "text_config": {"max_position_embeddings": 77}}, 77, (None, None)),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512, ("<s>", "<mask>")),
        ({"model_type": "bert", "max_position_embeddings": 512}, 512, ("[CLS]", "[MASK]")),
        ({"model_type": "t5"}, int(1e30), (None, None)),
    ],
)
def test_a_tokenizer_that_is_stood_in_for_has_its_family_s_marks_and_longest_text(
    tmp_path: Path, config: dict[str, Any], longest: int, marks: tuple[str | None, ...]
) -> None:
    transformers = pytest.importorskip("transformers")
    from lora_profiler.rehearsal.inside.rehearsed.tokens import WORD, write_tokenizer

    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 1000, **config}))
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (len(tokenizer), tokenizer.model_max_length) == (1000, longest)
    assert (tokenizer.cls_token, tokenizer.mask_token) == marks
    of_marks = tokenizer.num_special_tokens_to_add()
    assert len(tokenizer(7 * WORD)["input_ids"]) == 7 + of_marks == 7 + 2 * (marks[0] is not None)
    if config["model_type"] == "t5":  # a class that takes no byte pairs
        assert len(transformers.T5Tokenizer.from_pretrained(tmp_path)(7 * WORD)["input_ids"]) == 8


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("trainer.train()", ("text",)),
        ("from trl import DPOTrainer", ("prompt", "chosen", "rejected")),
        ('item.get("question", ""); config.get("lr"); rows.get("answer")', ("question", "answer")),
        (
            'tokenizer(examples["sentence1"], examples["sentence2"])\n'
            'remove_columns=["idx", "sentence1"]; rename_column("label", "labels")\n'
            'config["lr"]; dataset["train"]; dataset["eval"]',
            ("sentence1", "sentence2", "idx", "label"),
        ),
    ],
)
def test_columns_are_read_off_the_script(source: str, columns: tuple[str, ...]) -> None:
    from lora_profiler.rehearsal.inside.rehearsed.data import columns_of

    assert columns_of(source, ["train.py"]) == columns


def test_json_of_a_data_set_that_is_missing_is_made_and_of_a_model_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hugging = pytest.importorskip("huggingface_hub")
    from lora_profiler.rehearsal.inside.rehearsed import data

    fetch = hugging.hf_hub_download
    module = sys.modules["huggingface_hub.file_download"]
    monkeypatch.setattr(module, "hf_hub_download", fetch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    columns = ("question", "answer")
    asked = Settings(tmp_path, 3, None, None, True, columns, rows=5, tokens=8)
    data.stand_in_for_files_of_data(asked)
    made: Any = module.hf_hub_download
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    path = made("some/numbers", "train.jsonl", repo_type="dataset", **offline)
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [tuple(row) for row in rows] == [columns] * 40
    with pytest.raises(OSError):
        made("some/model", "train.json", **offline)
    with pytest.raises(OSError):
        made("some/numbers", "train.parquet", repo_type="dataset", **offline)


def test_columns_are_read_off_the_command_line() -> None:
    from lora_profiler.rehearsal.inside.rehearsed.data import columns_of

    words = ["--image_column=img", "--dataset_field", "query", "response", "--lr", "1", "--bf16"]
    assert columns_of("", words) == ("img", "query", "response")
    source = """
    parser.add_argument("--image_column", type=str, default="image", help="Of (the) data.")
    parser.add_argument(
        "--caption_column", type=str, default='said')
    parser.add_argument("--dataset_name", default="some")
    """
    assert columns_of(source, ["--lr", "1"]) == ("image", "said")


PRETENDS_DATA = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.environ |= {"LORA_PROFILER_RUN": sys.argv[2], "LORA_PROFILER_RUN_SETTINGS": sys.argv[3]}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": sys.argv[2]}
import rehearsed.start
import datasets
from rehearsed.tokens import DATA_STOOD_IN, TEXTS
"""


def pretending(folder: Path, script: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`script`, to which modules in the folder are known."""
    pytest.importorskip("datasets")
    inside = Path(__file__).parents[2] / "lora_profiler" / "rehearsal" / "inside"
    script = f"{PRETENDS_DATA}sys.path.insert(0, sys.argv[2])\n{script}"
    words = [sys.executable, "-c", script, str(inside), str(folder)]
    return subprocess.run([*words, json.dumps(settings)], capture_output=True, text=True)


def test_a_data_set_that_is_missing_is_stood_in_for_on_request_alone(tmp_path: Path) -> None:
    script = """
made = datasets.load_dataset("some/set")
part = datasets.load_dataset("some/set", split="train[:10]")
print(json.dumps([sorted(made), part[:2], len(made["dev"]), DATA_STOOD_IN, TEXTS]))
"""
    asked = {"columns": ["text", "label", "prompt"], "tokens": 8}
    made = pretending(tmp_path, script, pretends_data=True, **asked)
    splits, part, rows, stood_in, texts = json.loads(made.stdout)
    assert splits == ["test", "train", "validation"]
    texts_of = [" b" * 8, " b b c" + " b" * 5]
    assert part == {"text": texts_of, "label": [0, 1], "prompt": [" b b", " b b"]}
    assert rows == 512
    assert set(stood_in) == {"the data set some/set (text, label, prompt)"}
    assert texts == {"texts": "8 tokens"}
    assert pretending(tmp_path, script, **asked).returncode == 1


def test_simulated_texts_of_varied_lengths_are_the_same_in_two_runs(tmp_path: Path) -> None:
    script = """
made = datasets.load_dataset("some/set", split="train")
print(json.dumps([[len(text.split()) for text in made["text"]], TEXTS]))
"""
    asked = {"pretends_data": True, "columns": ["text"], "tokens": 256, "varied_lengths": True}
    first, second = (json.loads(pretending(tmp_path, script, **asked).stdout) for _ in range(2))
    assert first == second and first[1] == {"texts": "256 tokens on average"}
    assert len(first[0]) == 512 and len(set(first[0])) > 100
    assert mean(first[0]) == pytest.approx(256, rel=0.06)


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        ('made.map(lambda row: {"n": 1}, remove_columns=made.column_names).column_names', ["n"]),
        ('made.map(lambda row: {"n": row["said"]}, remove_columns=made.column_names)[0]',
         {"n": " b" * 4}),
        ('made["said"][0]', " b" * 4),
        ('made.map(lambda row: {"n": row["Tweet text"]})[0]["n"]', " b" * 4),
        ('made.rename_column("said", "text2").column_names', ["text", "text2"]),
        ('made.remove_columns(["meta", "id"]).column_names', ["text"]),
        ('len(made.select(range(10_000)))', 512),
        ('len(made.select(range(10_000, 10_010)))', 10),
        ('[len(part) for part in made.train_test_split(test_size=1000).values()]', [384, 128]),
        ('made.select_columns(["messages"])[0]["messages"][1]["role"]', "assistant"),
        ('made.select_columns(["tool_arguments", "_id"])[1]', {"tool_arguments": "{}", "_id": "1"}),
        ('len(__import__("random").sample(made["text"], 10_000))', 512),
        ('made.features.get("x", made.select_columns("label").features["label"].num_classes)', 2),
    ],
)  # fmt: skip
def test_a_column_is_made_as_the_script_asks_for_it(
    tmp_path: Path, use: str, answer: object
) -> None:
    script = f'made = datasets.load_dataset("some/set", split="train"); print(json.dumps({use}))'
    asked = {"pretends_data": True, "columns": ["text"], "tokens": 4}
    done = pretending(tmp_path, script, **asked)
    assert json.loads(done.stdout) == answer, done.stderr


def test_columns_of_well_known_data_sets_are_their_own(tmp_path: Path) -> None:
    script = """
mrpc = datasets.load_dataset("nyu-mll/glue", "mrpc")["train"]
pictures = datasets.load_dataset("fusing/fill50k", split="train", streaming=True)
ids = datasets.load_dataset("any/set", "triplet-50-ids", split="train")[7]
scored = datasets.load_dataset("lightonai/ms-marco-en-bge-gemma", "train", split="train")[0]
assert (ids["query"], ids["positive"], ids["negative_50"], len(ids)) == (7, 0, 50, 52)
taught = datasets.load_dataset("tomaarsen/msmarco-Qwen3-Reranker-0.6B", split="train")[0]
assert taught["label"] == [0, 1, 0] and len(taught) == 5
assert scored["scores"][:2] == [0.5, -1.5] and scored["document_ids"] == list(range(10))
chosen = datasets.load_dataset("trl-lib/ultrafeedback_binarized", split="train")[0]["chosen"]
nano = "sentence-transformers/NanoBEIR-en"
assert len(datasets.load_dataset(nano, "queries", split="NanoNQ")) == 50
assert len(datasets.load_dataset(nano, "corpus", split="NanoNQ")) == 512
roles = [said["role"] for said in chosen]
print(json.dumps([mrpc.column_names, next(iter(pictures))["image"].size, TEXTS, roles]))
"""
    done = pretending(tmp_path, script, pretends_data=True)
    names, size, texts, roles = json.loads(done.stdout)
    assert roles == ["user", "assistant"] and texts["conversations"] == "1,024 tokens"
    assert names == ["sentence1", "sentence2", "label", "idx"]
    assert size == [512, 512] and texts["images"] == "512 x 512 pixels"


def module(path: Path, text: str) -> None:
    """A module two packages deep."""
    path.parent.mkdir(parents=True)
    for package in (path.parent.parent, path.parent):
        (package / "__init__.py").touch()
    path.write_text(text)


def test_a_text_is_one_sentence_where_nltk_has_no_data_of_its_language(tmp_path: Path) -> None:
    module(
        tmp_path / "nltk" / "tokenize" / "punkt.py",
        "class PunktParameters: ...\n"
        "class PunktTokenizer:\n    def load_lang(self, lang):\n        raise LookupError(lang)\n",
    )
    script = """
from nltk.tokenize.punkt import PunktTokenizer
tokenizer = PunktTokenizer()
tokenizer.load_lang("german")
print(json.dumps([tokenizer._lang, type(tokenizer._params).__name__, DATA_STOOD_IN]))
"""
    done = pretending(tmp_path, script, pretends_data=True)
    answer = json.loads(done.stdout)
    assert answer == ["german", "PunktParameters", ["nltk's sentences of german"]]
    assert pretending(tmp_path, script).returncode == 1


def test_lists_of_words_that_are_downloaded_are_made(tmp_path: Path) -> None:
    module(
        tmp_path / "sentence_transformers" / "util" / "file_io.py",
        "def http_get(url, path):\n    raise OSError(url)\n",
    )
    script = """
import gzip
from sentence_transformers.util.file_io import http_get
os.chdir(sys.argv[2])
http_get("https://some.host/glove.6B.50d.txt.gz", "glove.gz")
vectors = [line.split() for line in gzip.open("glove.gz", "rt")]
http_get("https://some.host/wikipedia_doc_frequencies.txt", "counts.txt")
first, *counts = open("counts.txt")
words = [each[0] for each in vectors]
print(json.dumps([
    len(words), len(set(words)), {len(each) for each in vectors} == {51}, set("bcdefghjkl") < set(words),
    int(first) >= max(int(line.split("\\t")[1]) for line in counts), DATA_STOOD_IN,
]))
http_get("https://some.host/other.zip", "other.zip")
"""
    done = pretending(tmp_path, script, pretends_data=True)
    answer = json.loads(done.stdout)
    files = ["the file glove.6B.50d.txt.gz", "the file wikipedia_doc_frequencies.txt"]
    assert answer == [400_000, 400_000, True, True, True, files]
    assert "OSError: https://some.host/other.zip" in done.stderr
    assert "glove" in pretending(tmp_path, script).stderr.splitlines()[-1]


def test_nothing_is_published_and_a_missing_metric_answers_zeros(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("from .loading import load\n")
    (tmp_path / "evaluate" / "loading.py").write_text("def load(path):\n    raise OSError(path)\n")
    script = """
from huggingface_hub import HfApi, create_repo
import evaluate
metric = evaluate.load("glue")
metric.add_batch(predictions=[1], references=[0])
said = [str(create_repo("model")), HfApi().upload_folder(folder_path=".", repo_id="a/b").oid[:1]]
print(json.dumps([*said, metric.compute()["accuracy"], DATA_STOOD_IN]))
"""
    done = pretending(tmp_path, script, pretends_data=True)
    answer = json.loads(done.stdout)
    assert answer == ["https://huggingface.co/user/model", "0", 0.0, ["the metric glue"]]


# --- an environment of its own --------------------------------------------------------------------------------------------


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What `set_up` runs, and nothing of it is: pip would fetch half a GB."""
    asked: list[list[str]] = []

    def run_nothing(command: list[str], variables: dict[str, str], what: str) -> None:
        asked.append(command)
        if command[1:3] == ["-m", "venv"]:
            (Path(command[3]) / "bin").mkdir()
            (Path(command[3]) / "bin" / "python").touch()
            (Path(command[3]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if "torch" in command:
            assert not any(Path(unquote(urlsplit(variables["PIP_FIND_LINKS"]).path)).glob("*.whl"))

    monkeypatch.setattr(setup, "_run", run_nothing)
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels/of/cpu")
    yield asked


REQUIRES = [
    "filelock",
    'optree>=0.13; extra == "optree"',
    'cuda-toolkit[cublas,cudart]==13.0.3; platform_system == "Linux"',
    'cuda-bindings<14,>=13.0.3; platform_system == "Linux"',
    'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"',
    'triton==3.7.1; platform_system == "Linux"',
]


def test_an_environment_has_torch_what_it_imports_and_nothing_of_nvidia_s(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    site = folder / "lib" / "python3.11" / "site-packages"
    torch = setup._Torch("2.15.0", REQUIRES, site)
    monkeypatch.setattr(setup, "_installed_torch", lambda python: torch)
    monkeypatch.setattr(setup, "read_environment", lambda python: python)
    said: list[str] = []
    python = setup.set_up(folder, lambda *told: said.append(told))
    assert python == folder / "bin" / "python"
    installed = [command[5:] for command in commands if "pip" in command]
    assert installed[0] == ["--no-deps", "--force-reinstall", "torch"]
    assert installed[1] == ["filelock", 'triton==3.7.1; platform_system == "Linux"']
    assert installed[2] == list(setup.OF_HARNESS)
    assert len(said) == 4
    stand_ins = {each.name for each in metadata.distributions(path=[str(site)])}
    assert stand_ins == {"cuda-toolkit", "cuda-bindings", "nvidia-cudnn-cu13"}
    for requirement in REQUIRES[2:5]:
        wanted = Requirement(requirement)
        (stand_in,) = metadata.distributions(path=[str(site)], name=wanted.name)
        assert wanted.specifier.contains(stand_in.version)
        assert wanted.extras <= set(stand_in.metadata.get_all("Provides-Extra") or ())
    assert setup.set_up(folder, lambda *told: said.append(told)) == python and len(said) == 4


@pytest.mark.parametrize("error", [RehearsalError("no network"), KeyboardInterrupt()])
def test_an_environment_that_fails_leaves_nothing(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(python: Path) -> None:
        raise error

    monkeypatch.setattr(setup, "_installed_torch", fail)
    with pytest.raises(type(error)):
        setup.set_up(tmp_path / "made", lambda *told: None)
    assert not (tmp_path / "made").exists()


def test_what_a_killed_set_up_left_is_begun_anew_and_another_s_folder_is_not_touched(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = setup._Torch("2.15.0", [], tmp_path)
    monkeypatch.setattr(setup, "_installed_torch", lambda python: torch)
    monkeypatch.setattr(setup, "read_environment", lambda python: python)
    killed = tmp_path / "killed"
    (killed / "lib").mkdir(parents=True)
    (killed / setup._UNFINISHED).touch()
    setup.set_up(killed, lambda *told: None)
    assert {path.name for path in killed.iterdir()} == {"bin", "lib", "pip.conf", "constraints.txt"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(RehearsalError, match="name a new folder"):
        setup.set_up(tmp_path / "mine", lambda *told: None)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def a_wheel(folder: Path, name: str, version: str, files: dict[str, str], *needs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    meta = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files = files | {
        f"{meta}/METADATA": "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]),
        f"{meta}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{meta}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    (folder / "index.html").write_text(
        "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in folder.glob("*.whl"))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="--setup is for Linux")
def test_pip_keeps_the_torch_of_an_environment_and_setup_puts_back_one_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """pip itself, over an index of a few hundred bytes, where a constraint, a folder of wheels and
    a further index want a CPU build, and the folders have a space in their names."""
    place = tmp_path / "a place"
    index, wheels, folder = place / "index", place / "cpu" / "torch", place / "cuda"
    include = "triton/backends/nvidia/include"
    triton = {
        "triton/__init__.py": "",
        f"{include}/cuda.h": "",
        f"{include}/cuda_runtime_api.h": "#define CUDART_VERSION 13010\n",
    }

    def torch(version: str, cuda: str) -> dict[str, str]:
        text = f"__version__ = {version!r}\ncuda = {cuda}\n"
        return {"torch/__init__.py": "", "torch/version.py": text}

    a_wheel(
        index / "torch",
        "torch",
        "2.15.0",
        torch("2.15.0+cu130", "'13.0'"),
        "nvidia-cudnn-cu13==9.26.0.51",
        "triton==3.9.0",
    )
    for version in ("2.13.0+cpu", "2.15.0+cpu"):
        a_wheel(wheels, "torch", version, torch(version, "None"))
    a_wheel(index / "triton", "triton", "3.9.0", triton)
    for name in (*setup.OF_HARNESS, "trl"):
        a_wheel(
            index / name,
            name,
            "1.0",
            {f"{name}/__init__.py": ""},
            "torch" if name == "trl" else "triton",
        )
    (place / "constraints").write_text("torch<=2.13.0\n")
    (place / "pip.conf").write_text(
        f"[global]\nconstraint = {(place / 'constraints').as_uri()}\n"
        f"find-links = {wheels.as_uri()}\nindex-url = {index.as_uri()}\n"
        f"extra-index-url = {wheels.parent.as_uri()}\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(place / "pip.conf"))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")

    def torch_of(*packages: str) -> str:
        """What torch is there after pip has installed these as a user would."""
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(pip, check=True)
        return read_environment(folder / "bin" / "python").torch

    done = run("rehearse", "--setup", str(folder))
    assert done.exit_code == 0, done.stderr
    assert f"'{folder}/bin/python' -m pip install trl datasets" in done.stdout
    assert torch_of("trl") == "2.15.0+cu130"
    assert torch_of("--upgrade", "torch") == "2.15.0+cu130"
    monkeypatch.setenv("PIP_CONSTRAINT", (place / "constraints").as_uri())
    with pytest.raises(
        RehearsalError, match=r"Put it back:\n  lora-profile rehearse --setup '.*a place/cuda'"
    ):
        torch_of("torch")
    done = run("rehearse", "--setup", str(folder))
    assert done.exit_code == 0, done.stderr
    assert "env -u PIP_CONSTRAINT " in done.stdout
    assert read_environment(folder / "bin" / "python").torch == "2.15.0+cu130"


# --- the answer -----------------------------------------------------------------------------------------------------------


def test_an_answer_says_that_it_was_rehearsed() -> None:
    result = Rehearsal(document())
    text = plain(rehearsal_blocks([result], CARD, "train.py", detail=True))
    assert text.startswith("✓ train.py fits a T4: <0.01 of 16.0 GiB reserved, 3 steps simulated.")
    assert "measured" not in text
    assert text.index("later forward") < text.index("later backward")
    assert rehearsal_document([result], CARD)["device"] == "rehearsed"


def test_the_first_screen_has_the_verdict_the_bar_and_what_is_large() -> None:
    """In 25 lines of 80 columns; what is held and reserved adds up to what the verdict says."""
    gib = 2**30
    whole = {"requested_bytes": 6 * gib, "allocated_bytes": 6 * gib, "reserved_bytes": 7 * gib}
    logits = {"bytes": gib, "category": "logits and loss", "name": "", "stack": ["t/loss.py:42 f"]}
    weight = {
        "bytes": gib // 2,
        "category": "parameters",
        "name": "base_model.model.model.layers.0.mlp.down_proj.base_layer.weight",
        "stack": [],
    }
    held = {
        "step": 3,
        "phase": "backward",
        "requested_bytes": 6 * gib,
        "categories": {"parameters": 2 * gib, "logits and loss": 3 * gib, "buffers": gib},
        "largest": [logits, logits, weight],
    }
    peaks = dict.fromkeys(("setup", "first_step", "steady", "whole"), whole)
    result = Rehearsal(document(held=held, peaks=peaks))
    text = plain(rehearsal_blocks([result], CARD, "train.py", detail=False), 80)
    lines = text.splitlines()
    assert lines[0] == "✓ train.py fits a T4: 7.00 of 16.0 GiB reserved, 3 steps simulated."
    assert lines[2].split() == ["T4,", "16.0", "GiB", "▼", "GiB", "+", "overhead"]
    assert lines[3].split()[-4:] == ["6.00", "+", "1.00", "✓"]
    assert lines[4].split() == ["w", "weights", "2.00", "l", "logits", "3.00", "r", "rest", "1.00"]
    assert re.search(r"^logits +2 × 1\.00  t/loss\.py:42$", text, re.MULTILINE)
    assert re.search(r"^layers\.0\.mlp\.down_proj +0\.50$", text, re.MULTILINE)
    assert len(lines) <= 25 and max(map(len, lines)) <= 80


def test_the_length_of_simulated_texts_comes_right_after_the_verdict() -> None:
    result = Rehearsal(document(data_sizes={"texts": "2,048 tokens", "images": "512 x 512 pixels"}))
    text = plain(rehearsal_blocks([result], CARD, "train.py", detail=False))
    said = "Its data is simulated: texts of 2,048 tokens and images of 512 x 512 pixels"
    assert f"3 steps simulated. {said} (--pretend-tokens). " in " ".join(text.split())


@pytest.mark.parametrize("tokens", [64, 1024])
def test_lengths_of_simulated_texts_vary_around_the_mean(tmp_path: Path, tokens: int) -> None:
    uniform = Settings(tmp_path, 3, None, None, True, tokens=tokens)
    assert {tokens_of_row(uniform, row) for row in range(50)} == {tokens}
    varied = replace(uniform, varied_lengths=True)
    lengths = [tokens_of_row(varied, row) for row in range(4096)]
    assert lengths == [tokens_of_row(varied, row) for row in range(4096)]
    assert mean(lengths) == pytest.approx(tokens, rel=0.03)
    assert tokens // 8 <= min(lengths) < max(lengths) == 4 * tokens
    # of a log-normal distribution with sigma 0.6: its median, and its mean over that
    assert median(lengths) == pytest.approx(tokens * math.exp(-0.18), rel=0.03)
    assert mean(lengths[:512]) == pytest.approx(tokens, rel=0.06)  # one run's rows


def of_steps(*reserved_gib: float) -> Rehearsal:
    """`reserved_gib`: of setup and of each step."""
    rows = [
        {"step": step, "phase": phase, **dict.fromkeys(COUNTERS, int(gib * (1 << 30)) - less)}
        for step, gib in enumerate(reserved_gib)
        for phase, less in (("forward", 1 << 20), ("backward", 0))
    ]
    return Rehearsal(document(phases=rows, steps=len(reserved_gib) - 1))


@pytest.mark.parametrize(
    ("reserved_gib", "words"),
    [
        ((1, 3, 3, 3), None),  # three steps are no run
        ((1, 3, 4, 4, 4), "Reserved memory peaks in step 2 and does not grow later."),
        ((9, 4, 3, 3, 3), "Reserved memory peaks in step 1 and does not grow later."),
        (
            (1, 3, 4, 4, 5.5, 5, 5.5),
            "Reserved memory grew from 4.00 GiB in step 2 to 5.50 GiB in step 4, its peak.",
        ),
    ],
)
def test_the_answer_says_whether_reserved_memory_grew_over_the_steps(
    reserved_gib: tuple[float, ...], words: str | None
) -> None:
    blocks = rehearsal_blocks([of_steps(*reserved_gib)], CARD, "train.py", detail=False)
    text = " ".join(plain(blocks).split())
    assert words in text if words else "Reserved memory" not in text


def test_the_peak_is_that_of_the_step_with_the_longest_rows() -> None:
    peak = dict.fromkeys(COUNTERS, 5 << 30)
    held = {
        "step": 4,
        "phase": "backward",
        "requested_bytes": 4 << 30,
        "categories": {"parameters": 4 << 30},
        "largest": [],
    }
    peaks = dict.fromkeys(("setup", "first_step", "whole"), dict.fromkeys(COUNTERS, 1))
    peaks |= {"steady": peak, "whole": peak}
    phases = of_steps(1, 3, 3, 5, 4).document["phases"]
    result = Rehearsal(document(held=held, peaks=peaks, phases=phases))
    text = plain(rehearsal_blocks([result], CARD, "train.py", detail=False))
    assert re.search(r"later steps +5\.00 +5\.00 +peak in step 3, backward", text)


def test_changes_that_were_tried_are_listed_by_their_peak() -> None:
    def of(gib: int, **changes: Any) -> Rehearsal:
        peak = {"requested_bytes": 1, "allocated_bytes": 1, "reserved_bytes": gib << 30}
        whole = document()["peaks"] | {"whole": peak}
        return Rehearsal(document(peaks=whole, changed=["x"], **changes))

    error = {"type": "ImportError", "message": "no liger", "step": 0, "phase": ""}
    tried = [
        Tried("8bit-optimizer", of(7)),
        Tried("fused-loss", of(1, status="error", error=error)),
        Tried("checkpointing", of(4)),
    ]
    text = plain(rehearsal_blocks([of(8)], CARD, "train.py", None, None, tried, detail=False))
    lines = [line.split() for line in text.splitlines()]
    first, second = ["checkpointing", "4.00", "-4.00"], ["8bit-optimizer", "7.00", "-1.00"]
    assert lines.index(first) < lines.index(second)
    assert ["fused-loss", "-", "-", "error:", "ImportError"] in lines
    said = rehearsal_document([of(8)], CARD, tried=tried)["tried"]
    assert [each["status"] for each in said] == ["done", "error", "done"]


def test_an_answer_says_where_memory_ran_out_in_torch_s_words() -> None:
    ran_out = {"step": 2, "phase": "backward", "wanted_bytes": 1 << 30, "free_bytes": 1 << 20}
    error = {
        "type": "OutOfMemoryError",
        "message": "CUDA out of memory. Tried",
        "where": ["a.py:3 f"],
        "step": 2,
        "phase": "backward",
    }
    result = Rehearsal(document(status="out_of_memory", out_of_memory=ran_out, error=error))
    text = plain(rehearsal_blocks([result], CARD, "train.py", detail=False))
    words = "✗ train.py does not fit a T4: out of memory in step 2, backward;"
    assert " ".join(text.split()).startswith(f"{words} 1.00 GiB more needed, 1.00 MiB free.")
    assert "OutOfMemoryError: CUDA out of memory. Tried" in text and "a.py:3 f" in text


def test_a_page_is_whole_escaped_and_asks_nobody_for_anything() -> None:
    from html.parser import HTMLParser

    error = {"type": "E", "message": "<script>x</script>"}
    result = Rehearsal(document(error=error, status="error"))
    blocks = rehearsal_blocks([result], CARD, "train.py", detail=True)
    numbers = rehearsal_document([result], CARD)
    page = write_page(rehearsal_content(blocks, ("python", "a<b.py"), numbers))
    tags: list[tuple[str, dict[str, str | None]]] = []
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.handle_data = texts.append  # type: ignore[method-assign,assignment]
    parser.feed(page)
    assert not {"link", "img", "iframe"} & {tag for tag, _ in tags}
    asking = [a for _, a in tags if "src" in a or not (a.get("href") or "#").startswith("#")]
    assert asking == []
    assert "python 'a<b.py'" in texts and any("<script>x</script>" in text for text in texts)
    assert "not measured" in page and embedded_data(page) == json.loads(json.dumps(numbers))


def test_what_an_answer_takes_for_granted() -> None:
    plain_words = " ".join(limits(Rehearsal(document()), is_custom=False))
    assert "no values computed" in plain_words and "nonzero" not in plain_words
    told: dict[str, Any] = {
        **{
            "largest_case": ["nonzero"],
            "values_read": 4,
            "attention": ["cudnn"],
            "convolutions": True,
            "recurrent": True,
        },
        **{"world_size": 2, "facts": {"has_experts": True}},
        **{"dtypes_of_holes": {"a/b": "float32"}},
        **{"kernels_stood_in": ["kernels-community/rotary"], "kernels_of_torch": ["c/d"]},
    }
    words = " ".join(limits(Rehearsal(document(**told)), is_custom=True))
    words_of_each = (
        "A100", "nonzero", "4 values", "cuDNN ran attention and convolutions;",
        "cuDNN ran recurrent layers;",
        "Collectives", "experts", "a/b", "float32",
        "simulated: kernels-community/rotary", "USE_HUB_KERNELS=NO", "disk: c/d. Plain torch",
    )  # fmt: skip
    for each in words_of_each:
        assert each in words


def test_ranks_without_a_result_are_counted() -> None:
    text = plain(
        rehearsal_blocks([Rehearsal(document(world_size=4))], CARD, "train.py", detail=False)
    )
    assert "3 of 4 ranks ended without a result." in text


def test_of_several_processes_of_a_rank_the_one_that_trained_most_counts() -> None:
    told: tuple[dict[str, Any], ...] = ({"steps": 1}, {"steps": 3}, {"steps": 0, "status": "ended"})
    found = best_of([Rehearsal(document(**each)) for each in told])
    assert [each.steps for each in found] == [3]


def test_of_a_launcher_and_the_process_that_failed_under_it_the_process_tells() -> None:
    launcher = document(status="error", steps=0, error={"type": "CalledProcessError"})
    worker = document(status="error", steps=0, error={"type": "ValueError"})
    (told,) = best_of([Rehearsal(launcher), Rehearsal(worker)])
    assert told.document["error"]["type"] == "ValueError"


# --- the nearest prediction ---


FACTS: dict[str, Any] = {
    "model": "PeftModelForCausalLM",
    "optimizers": ["torch.optim.adamw.AdamW"],
    "optimizer_options": {"foreach": None, "fused": None},
    "dtypes": {"bfloat16": 100, "trained float32": 60},
    "checkpointing": True,
    "attention_implementation": "sdpa",
    "config": {"model_type": "llama"},
    "name": "meta-llama/Llama-3.2-1B",
    "lora": {"type": "LoraConfig", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0,
        "dtype": "float32", "modules_to_save": None, "target_modules": ["q_proj", "v_proj"],
        "use_rslora": False},
    "inputs": {"input_ids": [2, 300], "labels": [2, 300]},
    "autocast": None,
    "accumulation": 2,
}  # fmt: skip


NF4 = {"type": "nf4", "double": True, "dtype": "bfloat16"}
BNB = "bitsandbytes.optim.adamw"
HELD = {"step": 3, "phase": "backward", "requested_bytes": 1, "largest": []}


def test_the_nearest_question_is_the_one_that_the_script_asked() -> None:
    question = nearest(FACTS, 1, 89, "2.14.1+cu130").prediction
    assert question is not None
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj"))
    setup = TrainSetup(lora=lora, batch_size=2, seq_len=300, accumulation=2, checkpointing=True)
    assert question.workload.setup == setup
    assert question.workload.model == find_model("meta-llama/Llama-3.2-1B", offline=True)
    assert question.workload.platform == Platform(capability=89, torch=(2, 14))


MASKED = {name: [2, 300] for name in ("input_ids", "labels", "attention_mask")}


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"autocast": "bfloat16"}, "precision", "amp"),
        ({"autocast": "float16"}, "precision", "amp-float16"),
        ({"holds_outputs": True}, "hold_outputs", True),
        ({"trainer": "Trainer", "holds_outputs": True}, "hold_outputs", False),
        ({"trainer": "Trainer"}, "loop_state", "transformers-unmasked"),
        ({"trainer": "Trainer", "inputs": MASKED}, "loop_state", "transformers"),
        ({"trainer": "SFTTrainer"}, "loss", "trl"),
        ({"trainer": "DPOTrainer"}, "loop_state", "trl-dpo"),
        ({"trainer": "Trainer", "arguments": {"use_liger_kernel": True}}, "loss", "fused"),
        ({"trainer": "SFTTrainer", "arguments": {"use_liger_kernel": True}}, "loss", "trl"),
        ({"forward_of": "liger_kernel.transformers.model.llama"}, "kernels", "liger"),
        (
            {"trainer": "Trainer", "arguments": {"label_smoothing_factor": 0.1}},
            "label_smoothing_factor",
            0.1,
        ),
        ({"versions": {"transformers": "4.57.1"}}, "transformers", "4.57"),
        ({"use_reentrant": True}, "use_reentrant", True),
        ({"lora": None, "dtypes": {"trained float32": 9}}, "dtype", "float32"),
        ({"optimizer_options": {"fused": True}}, "optimizer_impl", "fused"),
        ({"optimizer_options": {"foreach": False}}, "optimizer_impl", "forloop"),
        ({"optimizers": [f"{BNB}.AdamW8bit"]}, "optimizer", "adamw_8bit"),
        ({"optimizers": [f"{BNB}.PagedAdamW8bit"]}, "optimizer", "paged_adamw_8bit"),
        ({"attention_implementation": "eager"}, "attention", "eager"),
        (
            {"quantisation": NF4 | {"double": False}},
            "quantization",
            Quantization(double_quant=False),
        ),
        (
            {"quantisation": NF4, "end_dtypes": {"embedding": "float32", "norm": "float32"}},
            "quantization",
            Quantization(recipe="kbit"),
        ),
        (
            {"quantisation": NF4, "end_dtypes": {"embedding": "bfloat16", "norm": "float32"}},
            "quantization",
            Quantization(recipe="kbit-norms"),
        ),
    ],
)
def test_each_fact_of_the_script_is_a_field_of_the_question(
    changes: dict[str, Any], field: str, value: Any
) -> None:
    prediction = nearest({**FACTS, **changes}, 1, 80, "2.13.0+cu130").prediction
    assert prediction is not None
    assert getattr(prediction.workload.setup, field) == value


VERA = LoraConfig(peft_type="vera", r=5, lora_dropout=0.1)
IA3 = LoraConfig(peft_type="ia3", feedforward_modules=("down_proj",))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("VeraConfig", {"r": 5, "vera_dropout": 0.1}, VERA),
        ("IA3Config", {"feedforward_modules": ["down_proj"]}, IA3),
        ("OFTConfig", {"oft_block_size": 8}, LoraConfig(peft_type="oft", oft_block_size=8)),
    ],
)
def test_pefts_other_methods_are_read_off_a_model_of_theirs(
    kind: str, options: dict[str, Any], expected: LoraConfig
) -> None:
    """The fields that a rehearsal takes from PEFT's own config, as it stands on a model."""
    import peft
    import transformers

    from lora_profiler.planning import nearest as asked
    from lora_profiler.rehearsal.inside.rehearsed.trained_model import _lora as read_off

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64}
    config = transformers.LlamaConfig(num_hidden_layers=1, **sizes)
    named = getattr(peft, kind)(target_modules=["q_proj", "down_proj"], **options)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), named)
    lora = asked._lora(read_off(model.peft_config["default"], model))
    assert set(lora.target_modules) == {"q_proj", "down_proj"}  # type: ignore[arg-type]
    assert replace(lora, target_modules="all-linear") == expected


@pytest.mark.parametrize("name", sorted({*FACTS} - {"trainer", "versions", "arguments"}))
@pytest.mark.parametrize("foreign", [None, {}, "?", -1])
def test_a_fact_that_nobody_reads_costs_no_rehearsal(name: str, foreign: Any) -> None:
    found = nearest({**FACTS, name: foreign}, 1, 80, "2.13.0+cu130")
    assert found.prediction is not None or found.reason


@pytest.mark.parametrize(
    ("changes", "world_size", "words"),
    [
        ({}, 2, "ranks"),
        ({"config": None}, 1, "no transformers config"),
        ({"trainer": "GRPOTrainer"}, 1, "what GRPOTrainer computes in a step"),
        ({"trainer": "Trainer", "changed_in_trainer": ["compute_loss"]}, 1, "its own compute_loss"),
        ({"trainer": "DPOTrainer", "arguments": {"loss_type": ["ipo"]}}, 1, "loss_type=['ipo']"),
        ({"trainer": "SFTTrainer", "arguments": {"label_smoothing_factor": 0.1}}, 1, "smoothing"),
        ({"inputs": {"input_ids": [2, 300]}}, 1, "computes the loss itself"),
        ({"is_compiled": True}, 1, "compiled model"),
        ({"forward_of": "unsloth.models.llama"}, 1, "that of unsloth.models.llama"),
        ({"attention_implementation": "flex_attention"}, 1, "attention by flex_attention"),
        ({"architecture": "LlamaForSequenceClassification"}, 1, "SequenceClassification"),
        ({"trained_parameters": 5}, 1, "5 parameters train"),
        ({"optimizer_options": {"amsgrad": True}}, 1, "amsgrad"),
        ({"inputs": {"pixel_values": [1, 3, 224, 224]}}, 1, "input_ids"),
        ({"optimizers": ["my.Adagrad"]}, 1, "Adagrad"),
        ({"lora": {**FACTS["lora"], "type": "LoHaConfig"}}, 1, "LoHaConfig"),
        ({"lora": {**FACTS["lora"], "type": "OFTConfig", "r": 4}}, 1, "number of blocks"),
        ({"quantisation": NF4 | {"type": "fp4", "double": False}}, 1, "fp4"),
    ],
)
def test_what_is_not_predicted_is_said(
    changes: dict[str, Any], world_size: int, words: str
) -> None:
    found = nearest({**FACTS, **changes}, world_size, 80, "2.13.0+cu130")
    assert found.prediction is None and words in found.reason
    held = HELD | {"categories": {"parameters": 1}}
    text = plain(
        rehearsal_blocks([Rehearsal(document(held=held))], CARD, "train.py", found, detail=False)
    )
    assert "No prediction to compare with" in text


@pytest.mark.parametrize(
    ("without", "message", "advice"),
    [
        (["org/tiny"], "cannot reshape", "The tokenizer of org/tiny is not here"),
        (
            [],
            "Couldn't reach 'trl-lib/Capybara' on the Hub",
            "Data that is not on this disk can be",
        ),
        ([], "cannot reshape", ""),
    ],
)
def test_what_can_be_simulated_is_advised(without: list[str], message: str, advice: str) -> None:
    error = {"type": "RuntimeError", "message": message, "step": 0, "phase": "", "where": []}
    failed = {"status": "error", "error": error, "without_tokenizer": without}
    for pretends in (False, True):
        result = Rehearsal(document(**failed, pretends_data=pretends))
        text = plain(rehearsal_blocks([result], CARD, "train.py", None, detail=False))
        assert ("--pretend-data" in text) == (bool(advice) and not pretends)
        assert pretends or advice in " ".join(text.split())


def test_the_model_that_the_optimizer_trains_is_told_from_its_reference() -> None:
    """A reference model of DPO is as large, was made as trainable, and takes no checkpointing."""
    import torch

    from lora_profiler.rehearsal.inside.rehearsed.trained_model import training_summary

    models = [torch.nn.Sequential(torch.nn.Linear(3, 3)) for _ in range(9)]
    for trained in models:
        trained.gradient_checkpointing = True  # type: ignore[assignment]
        summary = training_summary([torch.optim.SGD(trained.parameters(), lr=1)])
        trained.gradient_checkpointing = False  # type: ignore[assignment]
        assert summary["checkpointing"]


def test_a_weight_of_the_base_is_no_adapters_by_the_middle_of_its_name() -> None:
    """Gemma 3 has an `mm_soft_emb_norm`, and PEFT's OFT an `oft_R`."""
    from lora_profiler.rehearsal.inside.rehearsed.trained_model import _is_of_adapter

    assert not _is_of_adapter("model.multi_modal_projector.mm_soft_emb_norm.weight")
    for name in ("q_proj.oft_R.default.weight", "head.original_module.weight", "q.lora_A.weight"):
        assert _is_of_adapter(f"base_model.model.{name}")


def test_infinity_of_a_config_is_no_number_in_json() -> None:
    """Mamba layers have a `time_step_limit` of 0 to infinity, and JSON has no infinity."""
    facts = FACTS | {"config": {"time_step_limit": [0.0, float("inf")]}}
    told = rehearsal_document([Rehearsal(document(facts=facts))], CARD, None)
    limit = told["ranks"][0]["facts"]["config"]["time_step_limit"]
    assert limit == [0.0, "Infinity"] and json.dumps(told, allow_nan=False)


def test_a_script_that_leaves_no_model_has_no_nearest_question() -> None:
    left = {name: value for name, value in FACTS.items() if name in ("optimizers", "accumulation")}
    found = nearest(left, 1, 80, "2.13.0+cu130")
    assert found.reason == "no model was found when the script ended"


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, ""),
        ({"trainer": "Trainer", "versions": {"transformers": "5.24.2"}}, ""),
        ({"trainer": "Trainer", "versions": {"transformers": "5.9.0"}}, "transformers 5.9.0 ran"),
        ({"trainer": "SFTTrainer", "versions": {"trl": "1.3.0"}}, "trl 1.3.0 ran"),
        ({"trainer": "Seq2SeqTrainer"}, "Seq2SeqTrainer was not rehearsed"),
        ({"autocast": "float16"}, "without a GradScaler"),
        ({"autocast": "float16", "scales_loss": True}, ""),
        ({"autocast": "bfloat16", "holds_cache": True, "dtypes": {"float32": 9}}, "use_cache"),
        ({"holds_cache": True}, ""),
        ({"other_parameters": 5}, "another model"),
        ({"accumulation": 2}, "accumulates"),
        ({"trainer": "Trainer", "accumulation": 2}, ""),
    ],
)
def test_a_prediction_is_exact_only_of_what_was_rehearsed(
    changes: dict[str, Any], doubt: str
) -> None:
    told = FACTS | {"accumulation": 1, "checkpointing": False} | changes
    found = nearest(told, 1, 80, "2.13.0+cu130")
    assert found.prediction is not None and (doubt or found.prediction.exactness == "exact")
    assert doubt in " ".join(found.doubts) and bool(found.doubts) == bool(doubt)
    for more, exactness in ((0, "estimate" if doubt else "exact"), (4, "estimate")):
        size = counted_peak(found.prediction) + more
        held = HELD | {"requested_bytes": size, "categories": {"parameters": size}}
        result = Rehearsal(document(held=held))
        text = plain(rehearsal_blocks([result], CARD, "train.py", found, detail=True))
        assert ("An estimate: " in text) == (exactness == "estimate")
        assert ("the script holds 4 bytes more than" in text) == (more == 4 and not doubt)
        told_ = rehearsal_document([result], CARD, found)["nearest_prediction"]
        assert told_["exactness"] == exactness and doubt in " ".join(told_["doubts"])


def test_tensors_of_a_batch_beside_ids_and_labels_are_in_the_prediction() -> None:
    """A collator's attention mask, of each micro-batch of a step."""
    of_trainer = FACTS | {"trainer": "Trainer", "accumulation": 3}
    plain_, masked = (
        nearest(of_trainer | {"input_bytes": columns * 2 * 300 * 8}, 1, 80, "2.13.0+cu130")
        for columns in (2, 3)
    )
    assert plain_.prediction is not None and masked.prediction is not None
    more = masked.prediction.peak.total_bytes - plain_.prediction.peak.total_bytes
    assert more == 3 * 2 * 300 * 8
    assert plain_.prediction == nearest(of_trainer, 1, 80, "2.13.0+cu130").prediction


def test_the_prediction_is_compared_with_what_was_held_category_by_category() -> None:
    prediction = nearest(FACTS, 1, 80, "2.13.0+cu130")
    assert prediction.prediction is not None
    predicted = prediction.prediction.peak.bytes
    weights = predicted["parameters"] + predicted["adapters"]
    other = {"workspaces of BLAS": 7, "held since before training": 5}
    categories = {"parameters": weights} | other
    held = HELD | {"requested_bytes": weights + 12, "categories": categories}
    blocks = rehearsal_blocks(
        [Rehearsal(document(held=held))], CARD, "train.py", prediction, detail=True
    )
    (table,) = [block for block in blocks if isinstance(block, Table) and "closest" in block.title]
    rows = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert rows["weights and adapters"][2] == "equal"
    workspaces = 2 * 8_519_680  # of a card before Hopper
    assert rows["workspaces of BLAS"] == ("7", f"{workspaces:,}", f"+{workspaces - 7:,}")
    assert rows["held since before training"] == ("5", "0", "-5")
    assert rows["sum"][1] == f"{prediction.prediction.peak.total_bytes + workspaces:,}"
    columns = zip(*(c[:2] for n, c in rows.items() if n != "sum"), strict=True)
    sums = [sum(int(cell.replace(",", "")) for cell in column) for column in columns]
    assert [f"{total:,}" for total in sums] == list(rows["sum"][:2])


# --- the command ----------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused(run: Run, golden_file: Golden) -> None:
    golden_file.compare_answers(
        "refusals-rehearse", lambda words: refused(run("rehearse", *words.split()))
    )


def test_a_cpu_build_of_torch_is_refused_with_the_command_that_installs_another(
    run: Run, tmp_path: Path
) -> None:
    python = an_environment(tmp_path, "2.13.0+cpu", None, None)
    done = run("rehearse", "--gpu", "t4", "--python", str(python), "--", "python", "x.py")
    assert done.exit_code == 4
    assert "not a CUDA build" in done.stderr and "lora-profile rehearse --setup" in done.stderr


# --- what is committed ----------------------------------------------------------------------------------------------------


def test_committed_rehearsals_of_scripts_agree_in_two_counts_and_8b_fits_24_gb_and_not_16() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    rows = json.loads((results / "rehearsed_scripts.json").read_text())
    counted = [row for row in rows if "second_count" in row]
    assert len(counted) >= 20 and all(row["second_count"]["is_equal"] for row in counted)
    large = [row for row in rows if "Llama-3.1-8B --checkpointing" in row["script"]]
    ended = {row["card"]: (row["exit_code"], row["words"].partition(":")[0]) for row in large}
    assert ended == {"rtx_4090": (0, ""), "rtx_4060_ti_16gb": (1, "OutOfMemoryError")}
