"""What the tests with Ray share: processes to kill."""

import os
from pathlib import Path
from typing import Any

RAYLET = "RAY_RAYLET_PID"
"""Variable that all workers of a Ray have."""


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
