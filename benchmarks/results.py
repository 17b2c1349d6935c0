"""Where benchmarks leave their figures: a CSV named by what was measured, hardware and version of torch."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch

from eenet.common import hardware

WIDE = 1.96  # standard errors: half of a 95 % interval


def path_of(name: str, on: str | None = None) -> Path:
    """`benchmarks/results/NAME-HARDWARE-torchVERSION.csv`; by default this hardware."""
    words = [name, *(on or hardware()).split(), f"torch{torch.__version__.split('+')[0]}"]
    return Path(__file__).parent / "results" / f"{'-'.join(words).replace('/', '-')}.csv"


def read(name: str, on: str | None = None) -> list[dict[str, str]]:
    """The rows written so far; none if there is no such table."""
    path = path_of(name, on)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def everywhere(name: str) -> list[dict[str, str]]:
    """The rows of all tables of a name, whatever hardware they are of."""
    rows: list[dict[str, str]] = []
    for path in sorted(Path(__file__).parent.joinpath("results").glob(f"{name}-*.csv")):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def hardware_of(name: str) -> str | None:
    """Where a table was measured: here, or else on the first other hardware that has it."""
    start, end = path_of(name, "|").name.split("|")
    others = Path(__file__).parent.joinpath("results").glob(f"{start}[0-9]*-cores-of-*{end}")
    found = [path.name[len(start) : -len(end)].replace("-", " ") for path in sorted(others)]
    return hardware() if hardware() in found else next(iter(found), None)


def read_found(name: str) -> list[dict[str, str]]:
    """The rows of a table, of whatever hardware `hardware_of` says."""
    return read(name, hardware_of(name))


def instructions() -> str:
    """The processor's vector instructions. Processors of one name differ in them, and by them in speed."""
    return torch.backends.cpu.get_cpu_capability()


def read_comparable(name: str) -> list[dict[str, str]]:
    """The rows of a table of times that were measured here, with the same instructions."""
    return [row for row in read(name) if row.get("instructions") == instructions()]


def write(name: str, rows: list[dict[str, Any]], on: str | None = None) -> Path:
    """Write rows, whose keys may differ, to `path_of(name)`."""
    path = path_of(name, on)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def half_width(accuracy: float, images: int) -> float:
    """Half of the 95 % interval that an accuracy has, since its test images are so many and no more."""
    return float(WIDE * (accuracy * (1 - accuracy) / images) ** 0.5)


def renewed(kept: list[dict[str, str]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's rows but for those of networks that were measured again, and behind them the new ones."""
    measured = {row["network"] for row in rows}
    return [*(row for row in kept if row["network"] not in measured), *rows]


def chosen(names: Iterable[str], only: Collection[str]) -> list[str]:
    """Of the names of what can be trained those that are asked for; by default all."""
    names = list(names)
    if unknown := sorted(set(only).difference(names)):
        raise SystemExit(f"unknown: {unknown}; choose from {names}")
    return [name for name in names if not only or name in only]
