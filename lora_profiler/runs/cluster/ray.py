"""A Ray cluster: reached or started, asked what it has, given cases. Queueing, placing and running
again are Ray's.

Only this file and `ray_connection.py` know Ray. A cluster of this machine's own is closed to
everybody else: its processes listen on 127.0.0.1 alone and want a token, without dashboard and
usage statistics, and its folder is this user's and goes when it ends.
"""

import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.harness.case import case_dict
from lora_profiler.measuring.harness.process import python_path
from lora_profiler.runs.campaign.planned import Planned
from lora_profiler.runs.cluster import ray_task
from lora_profiler.units import GIB, MIB, bytes_text

CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 100 * MIB
"""Of a cluster of our own: records are small, and by default Ray takes a third of the memory that
cases need."""
_LONGEST_FOLDER = 40
"""In characters: Ray adds 64 to the name of a socket in it, and the system allows 107."""
_OWN_ADDRESS_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable, for every system in spite of its name: 0 makes 127.0.0.1 the node's address and
all that it listens on."""
_PATIENCE = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
"""Attempts and seconds for a port where something answers that is no Ray; by default Ray tries for
over two minutes."""


def imported_ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as e:
        raise UsageError(
            f"--ray needs Ray ({e}); install it: pip install 'lora-profiler[cluster]'."
        ) from None
    return ray


def local_address() -> str | None:
    """The address that `ray start` left on this machine, if somebody still answers there.

    Read from Ray's file and not by Ray, which takes its settings from the environment when it is
    imported: too early by then.
    """
    place = (
        os.environ.get("RAY_TMPDIR")
        or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
        or "/tmp"
    )
    try:
        address = Path(place, "ray", "ray_current_cluster").read_text("utf-8").strip()
        check_reachable(address)
    except (OSError, UsageError):
        return None
    return address


def check_reachable(address: str) -> None:
    """Raises UsageError within seconds where Ray would try for a minute."""
    host, colon, port = address.rpartition(":")
    if (
        "://" in address
        or not colon
        or not host
        or not port.isdecimal()
        or not 0 < int(port) < 65536
    ):
        raise UsageError(
            f"--ray {address} is not an address; accepted: auto, local, or HOST:PORT of this"
            " machine's cluster (`ray start --address=HOST:PORT`)."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as e:
        raise UsageError(
            f"no Ray cluster answers at {address} ({e.strerror or e}); start one with `ray start"
            " --head`, or take --ray local."
        ) from None


@contextmanager
def settings(*, own: bool, is_named: bool) -> Iterator[str | None]:
    """The environment that Ray's processes are started in, put back at the end; and the folder of a
    cluster of our own.

    As Ray itself does, the token in the user's home is shown to a cluster that was started on this
    machine, and to no other.
    """
    changes = {"RAY_USAGE_STATS_ENABLED": "0"}
    if own:
        changes |= {
            _OWN_ADDRESS_ONLY: "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _token(),
            # it would end workers for what their cases are measured for
            "RAY_memory_monitor_refresh_ms": "0",
            "PYTHONPATH": python_path(),
        }
    elif (
        not is_named
        and "RAY_AUTH_MODE" not in os.environ
        and Path("~/.ray/auth_token").expanduser().exists()
    ):
        changes["RAY_AUTH_MODE"] = "token"
    if not own:
        changes |= _PATIENCE
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            yield folder if own and len(folder) <= _LONGEST_FOLDER else None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@cache
def _token() -> str:
    """Ray reads it once a process."""
    return secrets.token_hex(32)


def connect(ray: Any, address: str | None, folder: str | None, num_cpus: int | None) -> None:
    """Raises UsageError."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
        what = (
            f"the Ray cluster at {address} cannot be used"
            if address
            else "Ray cannot be started here"
        )
        raise UsageError(f"{what}: {' '.join(str(e).split())}") from None


PROCESS_BYTES = 3 * GIB // 2
"""Of a measured process on the CPU beside its tensors: Python, torch and its libraries held 0.4 to
1.2 GiB in the committed records."""
ON_GPUS = ("cuda", "xpu")
"""Devices that Ray and Slurm count as GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one case. `memory_bytes` is 0 where nobody knows: on a GPU the host holds little but the
    loading of the weights."""

    cpus: int
    gpus: int
    memory_bytes: int


def needs(planned: Planned, cpus: int) -> Needs:
    """On the CPU the memory is the predicted peak, or the budget that ends the run before it, and a
    process without tensors; of several ranks, of each.
    """
    case, setup = planned.case, planned.case.workload.setup
    if setup.device != "cpu":
        return Needs(
            cpus=cpus, gpus=setup.world_size if setup.device in ON_GPUS else 0, memory_bytes=0
        )
    peak, budget = planned.prediction.peak.total_bytes, case.conditions.budget_bytes
    of_a_rank = PROCESS_BYTES + (peak if budget is None else min(peak, budget))
    return Needs(cpus=cpus, gpus=0, memory_bytes=of_a_rank * setup.world_size)


def together(several: Iterable[Needs]) -> Needs:
    """The most of each: what every task of one array asks for."""
    every = list(several)
    return Needs(
        cpus=max(n.cpus for n in every),
        gpus=max(n.gpus for n in every),
        memory_bytes=max(n.memory_bytes for n in every),
    )


def default_cpus(environ: Mapping[str, str] | None = None) -> int:
    """As many processors as OMP_NUM_THREADS allows threads, where it is set; else 1."""
    given = (os.environ if environ is None else environ).get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else 1


AUTO, LOCAL = "auto", "local"
ANSWER_SECONDS = 120.0
"""For a node to start a worker and tell its versions."""
ENVIRONMENT_SECONDS = 300.0
_NAMED = 3
"""So many machines are named where many have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNode:
    """A machine of the cluster and all that it has, in use or not; `memory_bytes` is what Ray gives
    to tasks. Two nodes may have one address.
    """

    id: str
    address: str
    cpus: int
    gpus: int
    memory_bytes: int

    @property
    def name(self) -> str:
        return f"{self.address} ({self.id[:6]})"


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has started the case; with it, Ray shows whether it is still the one that ends
    it."""

    worker: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What the worker sent back: the record as JSON, or why that machine cannot run the case."""

    worker: int
    record: Mapping[str, Any] | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker was lost, and so was the one that ran the case again; or Ray failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


Event = Begun | Ended | Lost | Cancelled


@dataclass(slots=True, kw_only=True)
class RayCluster:
    """Where cases are sent. `cpus` are those of each case; `nodes` those machines that can run
    any."""

    ray: Any
    nodes: tuple[RayNode, ...]
    cpus: int
    child: tuple[str, ...] | None = None
    _keys: dict[tuple[str, bool], frozenset[str]] = field(default_factory=dict)

    @property
    def has_gpus(self) -> bool:
        return any(node.gpus for node in self.nodes)

    def at_once(self, needs: Needs) -> int:
        """How many such cases the machines can run side by side; 1 at least."""
        room = [
            min(
                n.cpus // needs.cpus,
                n.gpus // needs.gpus if needs.gpus else n.cpus,
                n.memory_bytes // max(1, needs.memory_bytes),
            )
            for n in self.nodes
        ]
        return max(1, sum(room))

    def refusal(self, needs: Needs) -> str | None:
        """Why no machine here has what a case needs; None if one has."""
        if any(
            needs.gpus <= n.gpus and needs.cpus <= n.cpus and needs.memory_bytes <= n.memory_bytes
            for n in self.nodes
        ):
            return None
        for what, needed, most in (
            ("GPU", needs.gpus, max(n.gpus for n in self.nodes)),
            ("processor", needs.cpus, max(n.cpus for n in self.nodes)),
        ):
            if needed > most:
                return (
                    f"it asks for {needed} {what}{'s'[: needed > 1]}, and no machine of the cluster"
                    f" has more than {most}"
                )
        most_bytes = max(n.memory_bytes for n in self.nodes)
        return (
            f"it needs {bytes_text(needs.memory_bytes)} of memory, and Ray gives at most"
            f" {bytes_text(most_bytes)} on a machine"
        )

    def environment_keys(self, device: str, ranks: bool) -> frozenset[str]:
        """Of what runs on `device` on any machine that has one, each asked once. Raises UsageError
        where one does not answer."""
        if (device, ranks) not in self._keys:
            gpus = 1 if device in ON_GPUS else 0
            requests = []
            for node in self.nodes:
                if node.gpus >= gpus:
                    task = self._on(
                        node, ray_task.environment_key, num_cpus=self.cpus, num_gpus=gpus
                    )
                    requests.append((node, task.remote(device, ranks, self.cpus)))
            self._keys[device, ranks] = frozenset(
                _answer(self.ray, node, ref, ENVIRONMENT_SECONDS) for node, ref in requests
            )
        return self._keys[device, ranks]

    def submit(self, case: Case, needs: Needs, timeout_seconds: float) -> Any:
        """A handle for `next_events`. Ray starts the case where there is room for it, and once more
        if its worker is lost."""
        task = self.ray.remote(ray_task.measured).options(
            num_returns="streaming",
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory_bytes,
            max_retries=1,
            name=f"{case.key}.{case.repeat}",
        )
        return task.remote(
            json.dumps(case_dict(case), allow_nan=False), timeout_seconds, needs.cpus, self.child
        )

    def next_events(
        self, handles: Sequence[Any], timeout_seconds: float
    ) -> list[tuple[Any, Event]]:
        """What has happened to `handles`, at most one event each; none after `timeout_seconds`.
        Only `Begun` is not the last."""
        ready, _ = self.ray.wait(
            list(handles), num_returns=1, timeout=timeout_seconds, fetch_local=False
        )
        return [(handle, self._event(handle)) for handle in ready]

    def _event(self, handle: Any) -> Event:
        errors = self.ray.exceptions
        try:
            answer = json.loads(self.ray.get(next(handle)))
        except errors.TaskCancelledError:
            return Cancelled()
        except errors.RayError as e:
            return Lost(_first_line(e))
        except StopIteration:
            return Lost("it ended without a record")
        if "record" in answer or "refused" in answer:
            return Ended(answer["worker"], answer.get("record"), answer.get("refused"))
        return Begun(answer["worker"])

    def cancel(self, handle: Any, force: bool = False) -> None:
        """Takes a case out of the queue, or interrupts its worker, which ends the measured process;
        `force` ends the worker."""
        self.ray.cancel(handle, force=force)

    def _on(self, node: RayNode, function: Any, **options: Any) -> Any:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node.id, soft=False
        )
        return self.ray.remote(function).options(scheduling_strategy=strategy, **options)


@contextmanager
def opened(
    address: str, cpus: int, *, num_cpus: int | None = None, child: tuple[str, ...] | None = None
) -> Iterator[RayCluster]:
    """The cluster at `address` (host:port), or with "local" one of this machine's own, which ends
    with the block. "auto" takes $RAY_ADDRESS, else the cluster that `ray start` made this machine
    part of, else "local".

    `cpus` are given to each case. `num_cpus` makes a local cluster believe that it has so many, and
    `child` stands in for the measured process, both for tests. What Ray prints is kept from stdout,
    where data go, and from the rows on stderr. Raises UsageError where Ray is not installed, nobody
    answers, or the machines differ in what they have installed.
    """
    given = os.environ.get("RAY_ADDRESS") if address == AUTO else address
    running = None if given == LOCAL else given or local_address()
    if running is not None:
        check_reachable(running)
    with (
        settings(own=running is None, is_named=bool(given)) as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
    ):
        ray = imported_ray()
        try:
            connect(ray, running, folder, num_cpus)
            nodes = _nodes(ray, cpus)
            if running is None and nodes[0].address != "127.0.0.1":
                raise UsageError(
                    "Ray was imported before with settings that open its ports to the network; take"
                    " a new process."
                )
            cluster = RayCluster(ray=ray, nodes=nodes, cpus=cpus, child=child)
            _check_versions(cluster)
            yield cluster
        finally:
            ray.shutdown()


def _nodes(ray: Any, cpus: int) -> tuple[RayNode, ...]:
    """The machines that could run a case. Raises UsageError where there is none."""
    alive = [each for each in ray.nodes() if each["Alive"]]
    nodes = [
        RayNode(
            id=each["NodeID"],
            address=each["NodeManagerAddress"],
            cpus=int(each["Resources"].get("CPU", 0)),
            gpus=int(each["Resources"].get("GPU", 0)),
            memory_bytes=int(each["Resources"].get("memory", 0)),
        )
        for each in alive
    ]
    able = tuple(node for node in nodes if node.cpus >= cpus)
    if not able:
        most = max((node.cpus for node in nodes), default=0)
        raise UsageError(
            f"each case needs {cpus} CPUs; the largest machine of the cluster has {most}. Use"
            f" `--cpus-per-case {most}`"
        )
    return able


# --- what the machines have installed -------------------------------------------------------------


def _check_versions(cluster: RayCluster) -> None:
    """Raises UsageError where two machines differ, or where their lora-profiler is not this one."""
    requests = [
        (node, cluster._on(node, ray_task.versions, num_cpus=0).remote()) for node in cluster.nodes
    ]
    versions = {
        node.name: _answer(cluster.ray, node, ref, ANSWER_SECONDS) for node, ref in requests
    }
    own = ray_task.versions()
    message = differences(versions, own["lora-profiler"])
    if message:
        raise UsageError(message)


def differences(
    versions_by_address: Mapping[str, Mapping[str, str]], own_version: str
) -> str | None:
    """What is installed in different versions on the machines of `versions_by_address`; None if
    nothing is."""
    parts = []
    for name in sorted({name for versions in versions_by_address.values() for name in versions}):
        by_version: dict[str, list[str]] = {}
        for address, versions in versions_by_address.items():
            by_version.setdefault(versions.get(name, "none"), []).append(address)
        if len(by_version) > 1:
            parts.append(
                f"{name} is "
                + ", ".join(f"{version} on {_some(where)}" for version, where in by_version.items())
            )
    if parts:
        return (
            "the machines of the cluster differ, so that their records could not be compared:"
            f" {'; '.join(parts)}."
        )
    version = (
        next(iter(versions_by_address.values())).get("lora-profiler")
        if versions_by_address
        else own_version
    )
    if version != own_version:
        return (
            f"the cluster has lora-profiler {version}, and this is {own_version}; install the same"
            " on all machines."
        )
    return None


def _some(addresses: Sequence[str]) -> str:
    more = len(addresses) - _NAMED
    return ", ".join(addresses[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _answer(ray: Any, node: RayNode, ref: Any, timeout_seconds: float) -> Any:
    """What one machine says. Raises UsageError."""
    try:
        return ray.get(ref, timeout=timeout_seconds)
    except ray.exceptions.GetTimeoutError:
        raise UsageError(
            f"{node.name} of the cluster gave no answer within {timeout_seconds:g} s; it may be"
            " taken by other work."
        ) from None
    except ray.exceptions.RayError as e:
        raise UsageError(
            f"{node.name} of the cluster cannot run this program: {_first_line(e)}; install"
            " lora-profiler[measure] there."
        ) from None


def _first_line(error: Exception) -> str:
    """The last line of a traceback, or the first of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return (lines[-1] if "Traceback" in str(error) or "ray::" in lines[0] else lines[0])[:300]
