"""Other processes, looked at now and then while something runs."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAYLET = "RAY_RAYLET_PID"
"""Variable that all workers of a Ray have."""
TICK, PAGE_MB = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def watched(look: Callable[[Path, str], None], every: float) -> Iterator[None]:
    """Call `look` with each process, its directory in /proc and its command line, at the start, `every` so
    many seconds, and at the end.

    What it raises when a process ends meanwhile is passed over.
    """
    over = threading.Event()

    def once() -> None:
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                look(process, (process / "cmdline").read_text())
            except (OSError, IndexError):
                continue

    def watch() -> None:
        while not over.wait(every):
            once()

    once()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        once()


@dataclass
class Seen:
    """A process."""

    title: str
    seconds: float = 0.0
    """Of processors, since the first look or its start."""
    own_mb: float = 0.0
    """Resident memory that it shares with none, at most."""
    shared_mb: float = 0.0
    """Resident memory that others may have too, at most: files, Ray's object store."""


@contextmanager
def family(every: float = 0.5) -> Iterator[dict[int, Seen]]:
    """This process, as `driver`, and all that come from it, by process id."""
    own, first = os.getpid(), True
    seen, before = {own: Seen("driver")}, dict[int, float]()

    def look(process: Path, title: str) -> None:
        number, stat = int(process.name), (process / "stat").read_text().rpartition(")")[2].split()
        if number != own and int(stat[1]) not in seen:
            return
        seconds = (int(stat[11]) + int(stat[12])) / TICK
        one = seen.setdefault(number, Seen(title))
        if number != own and title:
            one.title = title
        one.seconds = seconds - before.setdefault(number, seconds if first else 0.0)
        _, resident, shared, *_ = (int(value) * PAGE_MB for value in (process / "statm").read_text().split())
        one.own_mb, one.shared_mb = max(one.own_mb, resident - shared), max(one.shared_mb, shared)

    with watched(look, every):
        first = False
        yield seen


def raylet_of(ray: Any) -> str:
    """By which the workers of this Ray, and of no other, are known."""
    return ray.get(ray.remote(os.getenv).options(num_cpus=0).remote(RAYLET))


def actors(raylet: str, name: str) -> set[int]:
    """Process ids of its actors whose titles begin with a name."""
    found, wanted = set(), f"{RAYLET}={raylet}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title, environment = (process / "cmdline").read_text(), (process / "environ").read_bytes()
        except OSError:
            continue
        if title.startswith(f"ray::{name}") and wanted in environment.split(b"\0"):
            found.add(int(process.name))
    return found
