"""Reaching a Ray cluster, or starting one of this machine's own: addresses, the environment that
its processes begin in, and the call itself."""

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.harness.process import python_path
from lora_profiler.units import MIB

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
