"""A Ray cluster: reached or started, asked what it has, given cases. Queueing, placing and running
again are Ray's.

Only this file and `ray_connection.py` know Ray. A cluster of this machine's own is closed to
everybody else: its processes listen on 127.0.0.1 alone and want a token, without dashboard and
usage statistics, and its folder is this user's and goes when it ends.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from lora_profiler.cluster_runs import ray_task
from lora_profiler.cluster_runs.ray_connection import (
    check_reachable,
    connect,
    imported_ray,
    local_address,
    settings,
)
from lora_profiler.cluster_runs.resources import ON_GPUS, Needs
from lora_profiler.errors import UsageError
from lora_profiler.harness import Case
from lora_profiler.harness.case import case_dict
from lora_profiler.units import bytes_text

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
