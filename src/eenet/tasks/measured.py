"""What results of every task have in common: exits, costs, and one number that is to be high."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import Result


class Measured(Result):
    """What a policy does on images. Each task adds its own figures as a dataclass."""

    metric: ClassVar[str]
    """As messages call it, such as `accuracy`."""
    class_metric: ClassVar[str]
    """The same of a single class."""
    figures: ClassVar[tuple[str, str]]
    """The names of its fields: of the policy, and without leaving early."""
    compared: ClassVar[tuple[str, str, str]]
    """How a page says so many points more, less, and the same, such as `more accurate`."""
    num_examples: int
    relative_cost: float
    """Mean MACs spent, exit heads included, divided by those of the plain network."""
    exit_counts: list[int]
    """Images that leave at each exit."""
    dead_exits: list[int]
    """Early exits, switched on, that serve nobody or answer no better than chance."""
    switched_off: list[int]
    """Early exits that the policy doesn't run."""
    costs: list[float]
    """Relative cost of leaving at each exit."""

    def exit_cells(self, k: int) -> list[str]:
        """The row of an exit begins with its name, cost, and share of the images."""
        share = "off" if k in self.switched_off else f"{self.exit_counts[k] / self.num_examples:.1%}"
        return ["final" if k == len(self.costs) - 1 else str(k), f"{self.costs[k]:.3f}", share]

    def told_intervals(self, intervals: Mapping[str, tuple[float, float]]) -> str:
        """95 % intervals of the metric, of cost and of the drop, in a line."""
        shown = {name: [f"{100 * v:.2f}" for v in pair] for name, pair in intervals.items()}
        low, high = intervals["relative_cost"]
        return (
            f"95 % intervals: {self.metric} {' to '.join(shown[self.figures[0]])} %, cost {low:.3f} to "
            f"{high:.3f}, drop against the full network {' to '.join(shown['drop'])} points"
        )

    @property
    def quality(self) -> float:
        """The metric under the policy, from 0 to 1."""
        return getattr(self, self.figures[0])

    @property
    def full_quality(self) -> float:
        """The same without leaving early."""
        return getattr(self, self.figures[1])


@dataclass(frozen=True)
class Loss:
    """What a policy loses of the metric against the full network, on the same images; in points."""

    points: float
    error: float
    """Its standard error."""
    interval: tuple[float, float]
    """95 %."""
    expected: float | None = None
    """By the full network's probabilities, without labels: far less noisy, and as good as they are."""

    @property
    def within_noise(self) -> bool:
        """Whether it is at most one standard error."""
        return self.at_most(self.error)

    def at_most(self, points: float) -> bool:
        """By the labels and by what is expected: of few images the labels alone let much pass by luck."""
        return max(self.points, self.expected or 0.0) <= points + 1e-9

    def __str__(self) -> str:
        low, high = self.interval
        told = f"{self.points:.2f} points lost (95 % interval {low:.2f} to {high:.2f})"
        if self.expected is None:
            return told
        return f"{told}, {self.expected:.2f} expected by the full network's probabilities"


def intervals_of(drawn: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    """95 % intervals of figures, each drawn again many times: [D]."""
    found = {name: np.quantile(values_D, [0.025, 0.975]) for name, values_D in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def named_exits(exits: Sequence[int]) -> str:
    """Such as `exit 0, exit 2`: numbers alone read like a count."""
    return ", ".join(f"exit {k}" for k in exits) or "none"
