"""A Ray to work on: the one this process has joined, a cluster by its address, or one of this machine."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eenet.common import cores, require

PURPOSE = "work on many machines"
REACHED_SECONDS = 10


def ray_library() -> Any:
    """The module `ray`.

    Raises:
        ValueError: it isn't installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return require("ray", PURPOSE, "scale")


def ray_data_library() -> Any:
    """The module `ray.data`, which warns of settings of its own."""
    ray_library()
    require("pyarrow", PURPOSE, "scale")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data = require("ray.data", PURPOSE, "scale")
        data.DataContext.get_current()
    return data


@contextmanager
def session(address: str | None = None, *, cpus: int | None = None) -> Iterator[Any]:
    """Ray, joined or started; what was started here is ended here.

    Args:
        address: of a cluster, or `auto` for the one this machine belongs to. Default: `$RAY_ADDRESS`, else
            a Ray of this process alone.
        cpus: that the latter may use. Default: all of this process.

    Raises:
        ValueError: Ray isn't installed, or this process has joined another one.
        OSError: there is no cluster at this address.
    """
    ray = ray_library()
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", joined):
            raise ValueError(f"this process has joined the Ray at {joined}, not {address}")
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray's workers give way to all else
        options |= {"num_cpus": cpus or cores(), "include_dashboard": False}
    elif address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        raise OSError(f"no Ray {where}: {str(error).splitlines()[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"the address {address} isn't HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHED_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OSError(f"no Ray at {address}: {error}") from error
