"""Other processes, looked at now and then while something runs."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAYLET = "RAY_RAYLET_PID"
"""Variable that all workers of a Ray have."""
TICK, PAGE_MB = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Seen:
    """A process."""

    title: str
    before: float
    """Seconds of processors that it took before the first look."""
    seconds: float = 0.0
    """After it."""
    own_mb: float = 0.0
    """Resident memory that it shares with none, at most."""


def shared_mb() -> float:
    """Memory of this machine that programs share, such as Ray's object store."""
    return int(re.findall(r"Shmem:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) / 1024


class Family:
    """This process, as `driver`, and all that come from it, by process id; looked at now and then.

    `shared_mb`: by so much shared memory grew, at most.
    """

    def __init__(self) -> None:
        self._own, self._first = os.getpid(), True
        self.members: dict[int, Seen] = {}
        self._before_mb, self.shared_mb = shared_mb(), 0.0
        self._lock = threading.Lock()
        self.look()
        self._first = False

    def look(self) -> None:
        """Once more; processes that end meanwhile keep what was seen of them."""
        with self._lock:
            self.shared_mb = max(self.shared_mb, shared_mb() - self._before_mb)
            for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
                with suppress(OSError, IndexError):
                    self._see(int(process.name), process)

    def _see(self, number: int, process: Path) -> None:
        title = (process / "cmdline").read_text()
        stat = (process / "stat").read_text().rpartition(")")[2].split()
        pages = (process / "statm").read_text().split()
        if number != self._own and int(stat[1]) not in self.members:
            return
        seconds = (int(stat[11]) + int(stat[12])) / TICK
        one = self.members.setdefault(number, Seen(title, seconds if self._first else 0.0))
        one.title = "driver" if number == self._own else title or one.title
        one.seconds = seconds - one.before
        one.own_mb = max(one.own_mb, (int(pages[1]) - int(pages[2])) * PAGE_MB)

    def spent(self) -> tuple[float, float]:
        """Seconds of all processors so far, and those of this process."""
        self.look()
        return sum(one.seconds for one in self.members.values()), self.members[self._own].seconds


@contextmanager
def family(every: float = 2.0) -> Iterator[Family]:
    """Looked at every so many seconds, at the start and at the end."""
    found, over = Family(), threading.Event()

    def watch() -> None:
        while not over.wait(every):
            found.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.look()


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
