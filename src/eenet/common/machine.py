"""The machine this runs on: its name, its cores, its memory."""

import ctypes
import os
import platform
import sys


def hardware() -> str:
    """What this runs on, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    processor = names.get("cpu_name") or platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {processor}"


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
