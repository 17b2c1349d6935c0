"""Other processes, looked at now and then while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def watched(look: Callable[[Path, str], None], every: float) -> Iterator[None]:
    """Call `look` with each process, its directory in /proc and its command line, `every` so many seconds.

    What it raises when a process ends meanwhile is passed over.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    look(process, (process / "cmdline").read_text())
                except (OSError, IndexError):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
