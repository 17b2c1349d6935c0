"""Many image files → their labels, by the engine and backend that suit how many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eenet.common import Result, format_table, progress
from eenet.data import find_images
from eenet.networks import EENet
from eenet.policies import ExitPolicy
from eenet.runtime.predictor import Predictor

FEW_IMAGES = 500  # to make a graph for a faster backend would take longer than to label them


@dataclass(frozen=True, kw_only=True)
class FilePrediction(Result):
    """The answer for one image file."""

    file: str
    label: str
    probability: float
    """Of the label, in (0, 1]."""
    exit: int
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float
    """MACs spent / MACs of the plain backbone."""


def predict(
    checkpoint: EENet | str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    backend: str | None = None,
) -> list[FilePrediction]:
    """Label image files, directories of images, and globs; each leaves at the first exit that is sure enough.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        inputs: what to label.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        backend: see `eenet.Predictor`. Default: torch for a few images, which needs no preparation.

    Raises:
        FileNotFoundError, ValueError: the checkpoint or an image can't be read.
    """
    files = find_images([inputs] if isinstance(inputs, str | Path) else inputs)
    if backend is None and len(files) < FEW_IMAGES:
        backend = "torch"
    rows = []
    with (
        Predictor(checkpoint, budget=budget, policy=policy, backend=backend) as predictor,
        progress("predicting", len(files)) as advance,
    ):
        for path, answer in zip(files, predictor.predict_many(files), strict=True):
            rows.append(
                FilePrediction(
                    file=str(path),
                    label=answer.label,
                    probability=answer.probability,
                    exit=answer.exit,
                    relative_cost=answer.relative_cost,
                )
            )
            advance(1)
    return rows


def prediction_table(rows: Sequence[FilePrediction]) -> str:
    """A line for each file."""
    cells = [
        [row.file, row.label, f"{row.probability:.3f}", str(row.exit), f"{row.relative_cost:.3f}"]
        for row in rows
    ]
    return format_table(["file", "label", "probability", "exit", "cost"], cells)
