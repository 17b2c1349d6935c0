"""The answer for one image: its label, and the probabilities of all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    label: str
    class_index: int
    probability: float
    """Of the label, in (0, 1]."""
    exit: int
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float
    """MACs spent / MACs of the plain backbone."""
    probabilities_N: NDArray[np.float32] = field(repr=False, compare=False)
    """Of all classes."""
    class_names: Sequence[str] = field(repr=False, compare=False)

    @property
    def probabilities(self) -> dict[str, float]:
        """Of all classes, by name, in the order of the classes."""
        return dict(zip(self.class_names, self.probabilities_N.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = ("label", "class_index", "probability", "exit", "relative_cost", "probabilities")
        return {name: getattr(self, name) for name in told}
