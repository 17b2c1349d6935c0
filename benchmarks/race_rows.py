"""The rows of the race's tables, as its page takes them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import race_answers
import results
from numpy.typing import NDArray

EPOCHS = "60"
REFERENCE = "cifar10-eenet56"  # whose plain backbone is the unit of time
CLOCKS = {f"{backend}_{size}": (told, size) for backend, told in
          (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")) for size in (1, 64)}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A network at a budget."""

    name: str
    precision: str
    budget: str
    accuracy: float
    half_width: float
    macs: float
    ratios: dict[str, float]
    """Time as a part of the reference's, by the clocks that it was measured with."""
    clock: str = ""
    """By which thresholds were set for the least time; none: for a number of MACs."""
    right_B: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    """Whether it is right about each test image, where that was kept."""

    @property
    def exits(self) -> bool:
        """Whether images leave early."""
        return bool(self.budget) and not self.cut

    @property
    def cut(self) -> bool:
        """Whether it ends behind one of its exits, for all images."""
        return self.budget.startswith("exit")

    @property
    def told(self) -> str:
        """In words."""
        told = f"{self.name}{', int8' if self.precision == 'int8' else ''}"
        if self.cut:
            return f"{told}, cut behind {self.budget}"
        set_by = " by the clock" if self.clock else ""
        return f"{told}, budget {float(self.budget):g}{set_by}" if self.exits else told


def raced(table: str = "race-cifar10") -> list[Row]:
    """The networks of a table of `race.py`."""
    found, answers = [], race_answers.read(table)
    for row in results.read_found(table):
        right, error, macs = (float(row[key]) for key in ("accuracy", "half_width_95", "macs"))
        ratios = {key: float(row[f"{key}_ratio"]) for key in CLOCKS if row[f"{key}_ratio"]}
        key = name, precision, budget, clock = tuple(row.get(each, "") for each in race_answers.KEY)
        right_B = race_answers.unpacked(answers[key], int(row["images"])) if key in answers else None
        found.append(Row(name, precision, budget, right, error, macs, ratios, clock, right_B))
    return found


def trained_before(timed: list[Row]) -> Iterator[Row]:
    """Backbones of the table of networks, trained without exits; their times are those of their equals."""
    plain = {row.name: row for row in timed if not row.budget and row.precision == "fp32"}
    for row in results.everywhere("networks"):
        name = row["backbone"].removesuffix("_cifar")
        twin = plain.get(name.replace("resnet", "cifar10-eenet"))
        if (row["data"], row["epochs"], row["num_exits"]) == ("cifar10", EPOCHS, "0") and twin:
            right, images = float(row["accuracy"]), int(row["test_images"])
            error = results.half_width(right, images)
            yield Row(f"{name} (never with exits)", "fp32", "", right, error, twin.macs, twin.ratios)


def over(row: Row, other: Row) -> str:
    """How far a row lies above another one, with the interval: by image, where answers of both were kept."""
    apart = (row.half_width**2 + other.half_width**2) ** 0.5
    if row.right_B is not None and other.right_B is not None:
        apart = race_answers.half_width(row.right_B.astype(float) - other.right_B)
    return f"{100 * (row.accuracy - other.accuracy):+.2f} ± {100 * apart:.2f} points"
