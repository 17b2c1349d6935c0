"""Records and a policy → accuracy, cost, where inputs left, dead exits, curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eenet.common import Result, format_table
from eenet.policies import DEAD_SHARE, ExitPolicy, Records, decide, first_above, recorded_scores

DEAD_ACCURACY = 1.5  # times chance


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """What a policy does on images. Prints as a table, an exit a line."""

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
        final = len(self.costs) - 1
        rows = [
            [
                "final" if k == final else str(k),
                f"{self.costs[k]:.3f}",
                "off" if k in self.switched_off else f"{count / self.num_examples:.1%}",
                "–" if (leaving := self.leaving_accuracy[k]) is None else f"{leaving:.2%}",
                f"{self.exit_accuracy[k]:.2%}",
            ]
            for k, count in enumerate(self.exit_counts)
        ]
        dead = named_exits(self.dead_exits)
        header = ["exit", "cost", "images", "accuracy of these", "accuracy on all"]
        return (
            f"{format_table(header, rows)}\n\n"
            f"accuracy {self.accuracy:.2%} at relative cost {self.relative_cost:.3f} "
            f"on {self.num_examples} images; without leaving early {self.full_accuracy:.2%}; "
            f"dead exits: {dead}"
        )


def named_exits(exits: Sequence[int]) -> str:
    """Such as `exit 0, exit 2`: numbers alone read like a count."""
    return ", ".join(f"exit {k}" for k in exits) or "none"


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
