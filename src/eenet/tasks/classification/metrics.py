"""Records and a policy → accuracy, cost, where inputs left, dead exits, curves."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import format_table
from eenet.policies import (
    DEAD_SHARE,
    ExitPolicy,
    Records,
    decide,
    first_above,
    probabilities,
    recorded_scores,
)
from eenet.tasks.measured import Loss, Measured, named_exits

DEAD_ACCURACY = 1.5  # times chance
WIDE = 1.96  # standard errors: half of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measured):
    """What a policy does on images. Prints as a table, an exit a line."""

    metric: ClassVar[str] = "accuracy"
    class_metric: ClassVar[str] = "accuracy"
    figures: ClassVar[tuple[str, str]] = ("accuracy", "full_accuracy")
    compared: ClassVar[tuple[str, str, str]] = ("more accurate", "less accurate", "as accurate")

    num_examples: int
    accuracy: float
    """Of the policy."""
    relative_cost: float
    """Mean MACs spent, exit heads included, divided by those of the plain backbone."""
    exit_counts: list[int]
    """Images that leave at each exit."""
    exit_accuracy: list[float]
    """Of each exit's own answer over all images."""
    leaving_accuracy: list[float | None]
    """Over those that leave there; none if nobody does."""
    full_accuracy: float
    """Of the final exit on all images, with all exits on."""
    dead_exits: list[int]
    """Early exits, switched on, where under 0.5 % leave or whose own accuracy is below 1.5 × chance."""
    switched_off: list[int]
    """Early exits that the policy doesn't run."""
    costs: list[float]
    """Relative cost of leaving at each exit."""

    def __str__(self) -> str:
        rows = [
            [
                *self.exit_cells(k),
                "–" if (leaving := self.leaving_accuracy[k]) is None else f"{leaving:.2%}",
                f"{self.exit_accuracy[k]:.2%}",
            ]
            for k in range(len(self.costs))
        ]
        dead = named_exits(self.dead_exits)
        header = ["exit", "cost", "images", "accuracy of these", "accuracy on all"]
        return (
            f"{format_table(header, rows)}\n\n"
            f"accuracy {self.accuracy:.2%} at relative cost {self.relative_cost:.3f} "
            f"on {self.num_examples} images; without leaving early {self.full_accuracy:.2%}; "
            f"dead exits: {dead}"
        )


def measure(records: Records, policy: ExitPolicy) -> Evaluation:
    """What a policy does on recorded inputs.

    Raises:
        ValueError: there are none, or the policy is for another number of exits.
    """
    if not len(records):
        raise ValueError("there are no inputs to evaluate")
    exits_B = decide(records, policy)
    correct_KB = records.correct(policy.enabled)
    num_exits, num_classes = len(correct_KB), records.logits_KBN.shape[2]
    counts_K = np.bincount(exits_B, minlength=num_exits)
    chosen_B = correct_KB[exits_B, np.arange(len(records))]
    accuracy_K = correct_KB.mean(1)
    costs = records.costs(policy.enabled)
    costs_K = np.array(costs)
    dead = [
        k
        for k in range(num_exits - 1)
        if policy.enabled[k]
        and (counts_K[k] < DEAD_SHARE * len(records) or accuracy_K[k] < DEAD_ACCURACY / num_classes)
    ]
    left_right = [int(chosen_B[exits_B == k].sum()) for k in range(num_exits)]
    return Evaluation(
        num_examples=len(records),
        accuracy=float(chosen_B.mean()),
        relative_cost=float(costs_K[exits_B].mean()),
        exit_counts=counts_K.tolist(),
        exit_accuracy=accuracy_K.tolist(),
        leaving_accuracy=[
            right / count if count else None
            for right, count in zip(left_right, counts_K.tolist(), strict=True)
        ],
        full_accuracy=records.full_accuracy,
        dead_exits=dead,
        switched_off=[k for k in range(num_exits - 1) if not policy.enabled[k]],
        costs=costs,
    )


def loss_of(records: Records, policy: ExitPolicy) -> Loss:
    """What a policy loses on recorded images, by those on which it and the full network differ."""
    full_BN, answer_B, labels_B = _full(records), answered(records, policy), records.labels_B
    expected = 100 * float(full_BN.max(1).mean() - _expected(full_BN, answer_B))
    return replace(paired_loss(answer_B == labels_B, full_BN.argmax(1) == labels_B), expected=expected)


def answered(records: Records, policy: ExitPolicy) -> NDArray[np.int64]:
    """The class that each input is given where it leaves: int64 [B]."""
    return records.answers(policy.enabled)[decide(records, policy), np.arange(len(records))].argmax(1)


def expected_accuracy(records: Records, policy: ExitPolicy, full: Records | None = None) -> float:
    """The accuracy of a policy by the full network's probabilities, without labels.

    Args:
        records: of the network.
        policy: when images leave.
        full: records of the same images, whose full answer counts. Default: the same.
    """
    return _expected(_full(records if full is None else full), answered(records, policy))


def _full(records: Records) -> NDArray[np.float64]:
    return probabilities(records.answers()[-1].astype(np.float64))


def _expected(full_BN: NDArray[np.float64], answer_B: NDArray[np.int64]) -> float:
    return float(full_BN[np.arange(len(answer_B)), answer_B].mean())


def paired_loss(ours_B: NDArray[np.bool_], full_B: NDArray[np.bool_]) -> Loss:
    """What is lost on the same images, by those on which two differ.

    Half an image more in each cell of the table of both being right or wrong makes error and interval honest
    where few differ: Agresti & Min 2005.

    Args:
        ours_B: which images are answered rightly.
        full_B: the same, by what it is compared with.
    """
    count = len(full_B)
    lost, won = int((full_B & ~ours_B).sum()), int((ours_B & ~full_B).sum())
    points, middle = 100 * (lost - won) / count, 100 * (lost - won) / (count + 2)
    error = 100 * (lost + won + 1 - (lost - won) ** 2 / (count + 2)) ** 0.5 / (count + 2)
    return Loss(points, error, (middle - WIDE * error, middle + WIDE * error))


def accuracy_cost_curve(
    records: Records, score: str = "max_softmax", *, points: int = 200
) -> list[tuple[float, float, float]]:
    """Threshold, mean relative cost and accuracy when all early exits share one threshold.

    The thresholds are quantiles of the scores seen, from "all leave at exit 0" to "none
    leaves early".

    Args:
        records: of labelled images.
        score: its name, see `eenet.policies.scores`.
        points: so many thresholds at most.

    Raises:
        ValueError: unknown score.
    """
    scores_KB = recorded_scores(records, score)
    costs_K, rows_B = np.array(records.costs()), np.arange(len(records))
    quantiles = np.sort(scores_KB, None)
    picks = np.linspace(0, len(quantiles) - 1, points).astype(int)
    thresholds = [float("-inf"), *quantiles[picks].tolist()]
    curve, correct_KB = [], records.correct()
    for threshold in thresholds:
        exits_B = first_above(scores_KB, threshold)
        right = float(correct_KB[exits_B, rows_B].mean())
        curve.append((threshold, float(costs_K[exits_B].mean()), right))
    return curve
