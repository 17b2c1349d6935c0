"""The machine this runs on: its name, its cores, its memory."""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path


def hardware() -> str:
    """What this runs on, in words."""
    torch = sys.modules.get("torch")  # without it nothing runs on a GPU
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {_processor()}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(re.sub(r"\((R|TM)\)|CPU|Processor|@.*", " ", value).split())
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep what is freed.

    Every step of a training frees the same large blocks and asks for them again. From the system
    they come with cleared pages, which takes up to a seventh of the time on a CPU.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)
