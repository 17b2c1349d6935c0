"""Where benchmarks leave their figures: a CSV named by what was measured, hardware and version of torch."""

import csv
from pathlib import Path
from typing import Any

import torch

from eenet.pipeline import hardware


def path_of(name: str) -> Path:
    """`benchmarks/results/NAME-HARDWARE-torchVERSION.csv`."""
    words = [name, *hardware().split(), f"torch{torch.__version__.split('+')[0]}"]
    return Path(__file__).parent / "results" / f"{'-'.join(words).replace('/', '-')}.csv"


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows, whose keys may differ, to `path_of(name)`."""
    path = path_of(name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
