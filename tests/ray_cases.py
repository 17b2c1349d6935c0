"""What the tests with Ray share: images to read, processes to kill."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from conftest import in_memory
from PIL import Image

RAYLET = "RAY_RAYLET_PID"
"""Variable that all workers of a Ray have."""


def write_digits(folder: Path, count: int) -> None:
    """Digits as files that are called by their number, and one behind the sixth that is no image."""
    width = len(str(count - 1))
    for i, image in enumerate(in_memory("digits", "test").pixels_BCHW[:count]):
        Image.fromarray(np.asarray(image[0])).save(folder / f"{i:0{width}}.png")
    (folder / f"{5:0{width}}-broken.png").write_bytes(b"no image")


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
