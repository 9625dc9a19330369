"""What a record says of machine and software, and what it must not say; memory and processor time
against other sources."""

import json
import mmap
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import lora_profiler
from commands import in_python
from fake_nvml import FakeDevice, FakeNvml
from lora_profiler.measuring.harness import machine
from lora_profiler.measuring.harness.environment import (
    environment,
    public_command,
    public_word,
    source,
)
from lora_profiler.measuring.harness.machine import (
    CpuTimes,
    cpu_times,
    other_cpu_share,
    resident_bytes,
)
from lora_profiler.measuring.records.record import Environment
from lora_profiler.measuring.records.serialize import decoded
from private_text import private_text

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# --- nothing private ------------------------------------------------------------------------------

TOKENS = (
    "hf_" + "AbCdEfGh" * 4,
    "sk-ant-api03-" + "x1Y2" * 6,
    "0123456789abcdef" * 2,
    "eyJhbGciOiJIUzI1NiJ9.e30.abcDEF123",
)
PLANTED = {
    "HOME": "/home/plantuser", "USER": "plantuser", "LOGNAME": "plantuser", "HOSTNAME": "planthost",
    "HF_TOKEN": TOKENS[0], "WANDB_API_KEY": TOKENS[2],
    "LD_PRELOAD": "/home/plantuser/lib/libjemalloc.so.2", "OMP_NUM_THREADS": "2",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "MALLOC_CONF": TOKENS[1],
    "CUDA_VISIBLE_DEVICES": "GPU-plantuser",
}  # fmt: skip
PLANTED_COMMAND = [
    "/home/plantuser/venv/bin/lora-profile", "bench", "/home/plantuser/models/llama",
    "--records=/srv/planthost/r.jsonl", "-o/home/plantuser/out.json", "--hub-token", "word",
    "--api-key=word", "--weights", TOKENS[0], TOKENS[3], "--rank", "8",
    "https://plantuser:word@planthost/meta/llama?token=word", "plantuser",
    "plantuser@planthost:/tmp/x",
]  # fmt: skip


@pytest.mark.parametrize("import_torch", [False, True])
def test_nothing_private_gets_in(import_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    command = public_command(PLANTED_COMMAND)
    found = environment("cpu", command=command, import_torch=import_torch)
    text = json.dumps(asdict(found))
    here = (str(ROOT), str(Path.home()), platform.node())
    for secret in ("plantuser", "planthost", "word", "/home", "/srv", *TOKENS, *here):
        assert secret not in text
    assert list(private_text(asdict(found), "environment")) == []
    assert found.variables["LD_PRELOAD"] == "libjemalloc.so.2"
    assert found.variables["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert command.startswith(
        "lora-profile bench llama --records=r.jsonl out.json --hub-token '***' "
    )
    assert " --api-key '***' --weights '***' '***' --rank 8 " in command
    assert command.endswith(" --rank 8 llama '***' '***:x'")


@pytest.mark.parametrize(
    "word",
    [
        "SmolLM2-135M-Instruct",
        "Llama-3.1-8B-Instruct",
        "q_proj,v_proj",
        r"re:.*layers\.\d+\.(q|v)_proj",
        "custom:24GiB",
        "garbage_collection_threshold:0.8,max_split_size_mb:128",
        "2e-05",
        "--rank",
    ],
)
def test_ordinary_words_stay(word: str) -> None:
    assert public_word(word) == word


def test_commands_without_a_program_s_name() -> None:
    assert public_command([]) == ""
    by_module = ["/a/lora_profiler/__main__.py", "bench", "org/model"]
    assert public_command(by_module) == "lora-profile bench model"
    assert public_word(r"C:\Users\someone\m.json") == "C:m.json"


# --- the facts ------------------------------------------------------------------------------------


def test_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    found = environment("cpu", command="lora-profile bench")
    assert found.python == platform.python_version()
    assert found.packages["torch"] == version("torch")
    assert found.packages["lora-profiler"] == lora_profiler.__version__
    assert found.threads == torch.get_num_threads()
    assert found.variables["MALLOC_ARENA_MAX"] == "3"
    assert found.variables["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert found.device.kind == "cpu"
    assert found.device.name == found.cpu
    assert found.device.total_bytes == found.memory_bytes
    assert decoded(Environment, json.loads(json.dumps(asdict(found))), "environment") == found


def test_settings_are_read_as_they_stand() -> None:
    torch = pytest.importorskip("torch")
    before = environment("cpu", command=None).key
    torch.use_deterministic_algorithms(True)
    try:
        found = environment("cpu", command=None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.variables["deterministic_algorithms"] == "True"
    assert found.key != before


def test_a_setting_that_torch_refuses_to_tell_is_left_out() -> None:
    """Once the newer switch is set, torch raises on reading the older one. Process-wide, hence a
    process of its own."""
    pytest.importorskip("torch")
    code = (
        "import torch; torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "from lora_profiler.measuring.harness.environment import environment\n"
        "found = environment('cuda', command=None).variables\n"
        "print(found['matmul.fp32_precision'], 'matmul.allow_tf32' in found)"
    )
    assert in_python(code).split() == ["tf32", "False"]


class FakeTorch(SimpleNamespace):
    """As much of torch as describing a CUDA device takes."""

    def __init__(self, hip: str | None = None) -> None:
        properties = SimpleNamespace(
            name="NVIDIA H100 80GB HBM3", total_memory=85_000_000_000, uuid="22-bb", major=9,
            minor=0, gcnArchName="gfx942:sramecc+",
        )  # fmt: skip
        cuda = SimpleNamespace(
            is_available=lambda: True,
            get_device_properties=lambda: properties,
            get_allocator_backend=lambda: "cudaMallocAsync",
            is_initialized=lambda: False,
        )
        super().__init__(
            cuda=cuda,
            version=SimpleNamespace(cuda=None if hip else "13.0", hip=hip),
            get_num_threads=lambda: 4,
            backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91002, benchmark=True)),
        )


def test_a_cuda_device_is_described_by_torch_and_its_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = FakeNvml(
        FakeDevice("GPU-11-aa", vbios="other"),
        FakeDevice("GPU-22-bb", power_limit=700_000, application_clock=1500),
    )
    monkeypatch.setitem(sys.modules, "torch", FakeTorch())
    monkeypatch.setitem(sys.modules, "pynvml", library)
    found = environment("cuda", command=None, environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert asdict(found.device) == {
        "kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "total_bytes": 85_000_000_000,
        "uuid_hash": found.device.uuid_hash, "compute_capability": "9.0", "driver": "580.65.06",
        "cuda": "13.0", "cudnn": "91002", "vbios": "96.00.74.00.01", "ecc": True, "mig": "off",
        "power_limit_watts": 700.0, "clocks_locked": True,
    }  # fmt: skip
    assert (found.allocator, found.variables) == ("cudaMallocAsync", {"cudnn.benchmark": "True"})
    assert library.opened == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    blind = environment("cuda", command=None, environ={})
    assert blind.device.uuid_hash == found.device.uuid_hash
    assert (blind.device.driver, blind.device.mig) == (None, None)


IN_FORCE = {  # as torch 2.13 writes it, csrc/cuda/Module.cpp
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
    "expandable_segments": False,
    "pinned_num_register_threads": 1,
    "release_lock_on_cudamalloc": False,
    "pinned_use_cuda_host_register": False,
    "roundup_power2_divisions": {"1": 0},
    "graph_capture_record_stream_reuse": False,
}


@pytest.mark.parametrize(
    ("settings", "allocator"),
    [
        ({}, "native"),  # what was asked for, but is not in force
        ({"expandable_segments": True}, "native, expandable_segments:True"),
        (
            {"max_split_size": 134_217_728, "garbage_collection_threshold": 0.8},
            "native, max_split_size:134217728, garbage_collection_threshold:0.8",
        ),
    ],
)
def test_allocator_settings_are_those_in_force(
    settings: dict[str, object], allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, read = FakeTorch(), {"segments": [], "allocator_settings": IN_FORCE | settings}
    torch.cuda.get_allocator_backend = lambda: "native"
    torch.cuda.memory = SimpleNamespace(_snapshot=lambda: read)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    before = environment("cuda", command=None, environ={})
    torch.cuda.is_initialized = lambda: True
    found = environment("cuda", command=None, environ={})
    assert (before.allocator, found.allocator) == ("native", allocator)
    assert before.key == found.key, "a resumed run asks before the device is used"


@pytest.mark.parametrize("missing", ["snapshot", "settings", "one", "support"])
def test_an_allocator_that_tells_no_settings(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported() -> None:
        raise RuntimeError("cudaMallocAsync does not yet support snapshot")

    one = {"allocator_settings": {"expandable_segments": True}}
    memories = {
        "snapshot": SimpleNamespace(),
        "settings": SimpleNamespace(_snapshot=lambda: {"segments": []}),
        "one": SimpleNamespace(_snapshot=lambda: one),
        "support": SimpleNamespace(_snapshot=unsupported),
    }
    torch = FakeTorch()
    torch.cuda.is_initialized, torch.cuda.memory = lambda: True, memories[missing]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    assert environment("cuda", command=None, environ={}).allocator == "cudaMallocAsync"


def test_rocm_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(hip="7.0.2"))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    device = environment("cuda", command=None, environ={}).device
    assert (device.cuda, device.compute_capability, device.driver) == ("rocm 7.0.2", "gfx942", None)


def test_a_cuda_device_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml(FakeDevice("GPU-1", name="NVIDIA L4", total=24_000))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    device = environment("cuda", command=None, import_torch=False, environ={}).device
    told = (device.name, device.total_bytes, device.cuda, device.driver)
    assert told == ("NVIDIA L4", 24_000, None, "580.65.06")


# --- the source tree ------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    told = ("user.name=A", "user.email=a@example.org", "init.defaultBranch=main")
    identity = [word for each in told for word in ("-c", each)]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.check_output(command, text=True, stderr=subprocess.PIPE).strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "tree" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    git(folder.parent, "init")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-m", "first")
    return folder


def test_the_commit_of_a_clean_tree(package: Path) -> None:
    found = source(package, {})
    told = (found.commit, found.dirty, found.diff_hash)
    assert told == (git(package, "rev-parse", "HEAD"), False, None)
    # what a run writes beside the package changes no result
    (package.parent / "records.jsonl").write_text("{}\n")
    assert source(package, {}) == found
    assert source(package, {"GIT_DIR": "/nowhere", "LORA_PROFILER_COMMIT": "f" * 40}) == found


def test_differences_from_the_commit_have_a_hash(package: Path) -> None:
    hashes = set()
    for change in ("x = 2\n", "x = 3\n", "x = 2\n"):
        (package / "__init__.py").write_text(change)
        found = source(package, {})
        assert (found.commit, found.dirty) == (git(package, "rev-parse", "HEAD"), True)
        hashes.add(found.diff_hash)
    assert len(hashes) == 2
    (package / "new.py").write_text("y = 1\n")
    assert source(package, {}).diff_hash not in hashes


def test_a_repository_around_an_installed_package_is_another_s(package: Path) -> None:
    installed = package.parent / ".venv" / "lib" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("x = 1\n")
    assert source(installed, {}).commit is None


@pytest.mark.parametrize(
    ("given", "commit"),
    [("0123ABC", "0123abc"), ("f" * 40, "f" * 40), ("HEAD", None), ("", None), ("a" * 41, None)],
)
def test_files_that_travelled_alone_carry_their_commit(
    tmp_path: Path, given: str, commit: str | None
) -> None:
    (tmp_path / "__init__.py").write_text("")
    found = source(tmp_path, {"LORA_PROFILER_COMMIT": given})
    assert (found.commit, found.dirty) == (commit, None)


def test_no_git_is_no_commit(package: Path) -> None:
    assert source(package, {"PATH": "/nowhere"}).commit is None


# --- memory ---------------------------------------------------------------------------------------


def test_resident_bytes_follow_what_is_held() -> None:
    before = resident_bytes()
    held = mmap.mmap(-1, 64 << 20)  # a heap may have as much to reuse
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert 60 << 20 < after - before < 70 << 20
    psutil = pytest.importorskip("psutil")
    assert after == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)


def test_peak_resident_bytes_stay_and_are_the_process_s_own() -> None:
    """A process started by a large one: on Linux its `ru_maxrss` begins at what the large one
    held."""
    child = (
        "from lora_profiler.measuring.harness.machine import *; held = bytearray(b'x') * (90 << 20); del"
        " held; print(peak_resident_bytes())"
    )
    code = (
        "import subprocess, sys; held = bytearray(b'x') * (400 <<"
        f" 20)\nprint(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True,"
        " text=True, check=True).stdout)"
    )
    assert 90 << 20 < int(in_python(code)) < 200 << 20


def written(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


UNLIMITED = {"memory/memory.limit_in_bytes": "9223372036854771712\n"}
VERSION_2 = {
    "memory.max": "max\n",
    "user.slice/memory.max": "1000\n",
    "user.slice/memory.peak": "77\n",
    "user.slice/job/memory.max": "5000\n",
    "user.slice/job/memory.peak": "42\n",
    "user.slice/job/memory.events": "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n",
}
"""The tightest limit counts, and the own group's peak and kills."""
VERSION_1 = UNLIMITED | {
    "unified/x": "",
    "memory/job/memory.limit_in_bytes": "2048\n",
    "memory/job/memory.max_usage_in_bytes": "512\n",
    "memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
}
GROUPS: dict[str, tuple[str, dict[str, str], tuple[int | None, ...]]] = {
    "version 2": ("0::/user.slice/job\n", VERSION_2, (1000, 42, 2)),
    "version 1 beside an empty 2": (
        *("8:cpu,cpuacct:/\n4:memory:/job\n0::/\n", VERSION_1),
        (2048, 512, 1),
    ),
    "no limit of version 2": ("0::/\n", {"memory.max": "max\n"}, (None, None, None)),
    "no limit of version 1": ("4:memory:/\n", UNLIMITED, (None, None, None)),
    "a container, whose group is the mount": (
        *("0::/docker/abc\n", {"memory.max": "4096\n"}),
        (4096, None, None),
    ),
    "none": ("", {}, (None, None, None)),
}
"""Files of the mount, and limit, peak and kills."""


@pytest.mark.parametrize("name", GROUPS)
def test_control_groups(name: str, tmp_path: Path) -> None:
    group, files, found = GROUPS[name]
    root = written(tmp_path, {f"sys/fs/cgroup/{path}": text for path, text in files.items()})
    written(root, {"proc/self/cgroup": group} if group else {})
    read = (machine.memory_limit_bytes, machine.cgroup_peak_bytes, machine.oom_kills)
    assert tuple(each(root) for each in read) == found


def test_physical_memory_agrees_with_psutil() -> None:
    psutil = pytest.importorskip("psutil")
    assert machine.physical_memory_bytes() == pytest.approx(psutil.virtual_memory().total, rel=0.01)


# --- processor time -------------------------------------------------------------------------------


def moment(own: float, busy: float, wall: float, *cpus: int) -> CpuTimes:
    times = {"own_seconds": own, "busy_seconds": busy, "wall_seconds": wall}
    return CpuTimes(**times, cpus=frozenset(cpus or (4, 5)))


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (moment(11, 101, 2), 0.0),
        (moment(11, 102, 2), 0.25),
        (moment(10, 104, 2), 1.0),
        (moment(12, 101, 2), 0.0),
        (moment(1, 1, 0), None),
        (moment(11, 102, 2, 4, 5, 6), None),  # it was moved to other processors meanwhile
    ],
)
def test_the_share_of_others(after: CpuTimes, share: float | None) -> None:
    assert other_cpu_share(moment(10, 100, 0), after) == share


def test_the_share_is_not_known_without_times() -> None:
    assert other_cpu_share(None, moment(1, 1, 1)) is None
    assert other_cpu_share(moment(1, 1, 1), None) is None


STAT = """cpu  9000 0 0 0 0 0 0 0 0 0
cpu0 1000 200 300 99999 88888 40 50 60 700 80
cpu2 7 0 0 99999 0 0 0 0 0 0
cpu11 20000 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.mark.parametrize(
    ("allowed", "cpus", "ticks"),
    [((0,), {0}, 1650), ((0, 2, 3), {0, 2}, 1657), ((77,), {0, 2, 11}, 21657)],
)
def test_busy_time_is_that_of_our_processors(
    tmp_path: Path, allowed: tuple[int, ...], cpus: set[int], ticks: int
) -> None:
    """Idle time and waits are left out, guests count once; where the numbers are others' (a
    container's own), all count."""
    found = cpu_times(written(tmp_path, {"proc/stat": STAT}), frozenset(allowed))
    assert found is not None
    assert found.cpus == cpus
    assert found.busy_seconds * os.sysconf("SC_CLK_TCK") == pytest.approx(ticks)


@linux
def test_our_processors_are_those_of_all_threads() -> None:
    """Bound by the system's call here as OpenMP binds its threads, the first of which is the
    program's own."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    code = (
        "import os, threading; from lora_profiler.measuring.harness.machine import cpu_times\na, b, *_ ="
        " os.sched_getaffinity(0); os.sched_setaffinity(0, {a}); print(cpu_times().cpus == {a})\ngo"
        " = threading.Event(); bound = threading.Event()\nthreading.Thread(target=lambda:"
        " (os.sched_setaffinity(0, {b}), bound.set(), go.wait())).start()\nbound.wait();"
        " print(cpu_times().cpus == {a, b}); go.set()"
    )
    assert in_python(code).split() == ["True", "True"]


def test_without_proc_the_times_are_psutil_s(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    before, found = psutil.cpu_times(percpu=True), cpu_times(tmp_path)
    after = psutil.cpu_times(percpu=True)
    assert found is not None
    least, most = (
        sum(t.user + t.system + t.nice for cpu, t in enumerate(times) if cpu in found.cpus)
        for times in (before, after)
    )
    assert least - 0.001 < found.busy_seconds < most + 0.001


HOG = """
import time
input()
until = time.process_time() + 0.6
while time.process_time() < until:
    pass
print(flush=True)
input()
"""
"""Spends 0.6 processor seconds when it is told to, however long that takes; ends when it is told
to."""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
WATCH = f"""
import json, subprocess, sys
from lora_profiler.measuring.harness.machine import cpu_times
hog = subprocess.Popen([sys.executable, "-c", {HOG!r}], **{PIPES}) if sys.argv[1:] else None
before = cpu_times()
if hog:
    hog.stdin.write("\\n")
    hog.stdin.flush()
    hog.stdout.readline()
else:
    print(flush=True)
    input()
after = cpu_times()
if hog:
    hog.communicate("\\n")
seconds = cpu_times().own_seconds - after.own_seconds
print(json.dumps([after.own_seconds - before.own_seconds, after.busy_seconds - before.busy_seconds, seconds]))
"""


def step(process: "subprocess.Popen[str]") -> None:
    """Tell a process to go on, and wait for its next line."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


@linux
def test_a_hog_beside_us_is_another_s() -> None:
    """In processor seconds, so that other programs may be busy too."""
    pytest.importorskip("psutil")
    hog = subprocess.Popen([sys.executable, "-c", HOG], **PIPES)  # type: ignore[call-overload]
    watch = subprocess.Popen([sys.executable, "-c", WATCH], cwd=ROOT, **PIPES)  # type: ignore[call-overload]
    watch.stdout.readline()
    step(hog)
    own, busy, _ = json.loads(watch.communicate("\n")[0])
    hog.communicate("\n")
    assert own < 0.1
    assert busy - own > 0.5


@linux
def test_a_hog_below_us_is_our_own_and_stays_so_when_it_ended() -> None:
    pytest.importorskip("psutil")
    own, busy, after_its_end = json.loads(in_python(WATCH, "own"))
    assert 0.55 < own < 0.8
    assert busy > own - 0.1
    assert after_its_end > -0.03
