"""What a policy does on images unlike those it was calibrated on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from eenet.common import Result, format_table, progress
from eenet.data import Images, ImageSet
from eenet.evaluation.evaluating import as_images, collect
from eenet.networks import Network, open_network
from eenet.policies import ExitPolicy, Records, decide
from eenet.tasks import expected_calibration_error, measure, task_of

MOST_IMAGES = 2000


@dataclass(frozen=True, kw_only=True)
class ShiftRow(Result):
    """What a policy does on images with one kind of damage."""

    corruption: str
    """"none" for clean images."""
    severity: int
    """1 to 5; 0 for clean images."""
    num_examples: int
    accuracy: float
    relative_cost: float
    full_accuracy: float
    excess_error: float
    """Accuracy of the full network minus the policy's."""
    disagreement: float
    """Part of the images with another answer than the full network's."""
    exit_shares: list[float]
    calibration_error: float
    """Of the answers given."""


def under_corruptions(
    network: Network,
    policy: ExitPolicy,
    images: Images,
    *,
    names: Sequence[str] = ("all",),
    severities: Sequence[int] = (1, 3, 5),
    most: int = MOST_IMAGES,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[ShiftRow]:
    """Measure a policy on clean images, then under each corruption and severity.

    Args:
        network: whose policy it is.
        policy: stays as it was calibrated.
        images: not those it was calibrated on.
        names: see `eenet.data.CORRUPTIONS`, or `all`.
        severities: 1 to 5.
        most: images, taken at even distances.
        on_progress: called with 1 after every row.

    Yields:
        Rows, the first for clean images.

    Raises:
        ValueError: unknown corruption or severity, or images that don't fit the network.
    """
    from eenet.data import corrupt

    names = _known(names, severities)
    step = max(1, -(-len(images) // most))
    rows = list(range(0, len(images), step))
    clean = ImageSet(images.pixels(rows), images.labels_B[rows], images.class_names)
    cases = [("none", 0), *((name, severity) for name in names for severity in severities)]
    for name, severity in cases:
        damaged = clean
        if severity:
            damaged = ImageSet(corrupt(clean.pixels_BCHW, name, severity), clean.labels_B, clean.class_names)
        yield describe(collect(network, damaged), policy, corruption=name, severity=severity)
        if on_progress is not None:
            on_progress(1)


def evaluate_under_corruptions(
    source: Network | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | Images | None = None,
    split: str = "test",
    budget: float | None = None,
    names: Sequence[str] = ("all",),
    severities: Sequence[int] = (1, 3, 5),
    skip_damaged: bool = False,
) -> list[ShiftRow]:
    """Run a policy on damaged images of a data set, at most 2,000.

    Args:
        source, policy, data, split, budget: as `eenet.evaluate`.
        names: of corruptions, or `all`.
        severities: 1 to 5.
        skip_damaged: go on without image files that can't be read.

    Returns:
        Rows, the first for clean images.

    Raises:
        FileNotFoundError, ValueError: as `eenet.evaluate`; an unknown corruption or severity.
    """
    names = _known(names, severities)
    network = open_network(source)
    task_of(network.config.task).must_support("measuring damaged images")
    chosen = network.config.exit_policy(budget, policy)
    images = as_images(data, network.config, split, skip_damaged=skip_damaged)
    with progress("evaluating", 1 + len(names) * len(severities)) as advance:
        rows = under_corruptions(
            network, chosen, images, names=names, severities=severities, on_progress=advance
        )
        return list(rows)


def _known(names: Sequence[str], severities: Sequence[int]) -> Sequence[str]:
    """Names of corruptions, once it is clear that there are such."""
    from eenet.data import CORRUPTIONS, check_known  # which need torch

    names = list(CORRUPTIONS) if list(names) == ["all"] else names
    for name, severity in product(names, severities):
        check_known(name, severity)
    return names


def describe(
    records: Records, policy: ExitPolicy, *, corruption: str = "none", severity: int = 0
) -> ShiftRow:
    """What counts under shift, on recorded inputs."""
    measured, exits_B = measure(records, policy), decide(records, policy)
    answers_BN = records.answers(policy.enabled)[exits_B, np.arange(len(records))]
    right_B = answers_BN.argmax(1) == records.labels_B
    other_B = answers_BN.argmax(1) != records.answers()[-1].argmax(1)
    return ShiftRow(
        corruption=corruption,
        severity=severity,
        num_examples=measured.num_examples,
        accuracy=measured.accuracy,
        relative_cost=measured.relative_cost,
        full_accuracy=measured.full_accuracy,
        excess_error=measured.full_accuracy - measured.accuracy,
        disagreement=float(other_B.mean()),
        exit_shares=[count / len(records) for count in measured.exit_counts],
        calibration_error=expected_calibration_error(answers_BN, right_B),
    )


def shift_table(rows: Sequence[ShiftRow]) -> str:
    """A table, a line for each kind of damage.

    Args:
        rows: as `evaluate_under_corruptions` gives them.
    """
    cells = [
        [
            row.corruption,
            str(row.severity or "–"),
            *(f"{v:.2%}" for v in (row.accuracy, row.full_accuracy, row.excess_error, row.disagreement)),
            f"{row.relative_cost:.3f}",
            " / ".join(f"{share:.0%}" for share in row.exit_shares),
            f"{row.calibration_error:.3f}",
        ]
        for row in rows
    ]
    header = ["corruption", "severity", "accuracy", "full network", "excess error", "disagreement"]
    header += ["cost", "leave at each exit", "calibration error"]
    return f"{format_table(header, cells)}\n\n{rows[0].num_examples} images"
