"""Records and a policy → what accuracy and cost don't tell: calibration, ranking, what an oracle would do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import Result, format_table, wrapped
from eenet.evaluation.metrics import Evaluation, accuracy_cost_curve
from eenet.policies import ExitPolicy, Records, decide, probabilities, recorded_scores

BINS = 15
DRAWS = 1000
CHUNK = 10_000_000  # numbers drawn at a time


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Result):
    """How well the exits know what they know, and what is left to be gained."""

    calibration_error: list[float]
    """Of every exit's answer, see `expected_calibration_error`."""
    auroc: list[float | None]
    """Of the policy's score at every early exit for "right if stopped here"; none if all are right or
    wrong."""
    right_then_wrong: list[int]
    """Images that an early exit gets right and the final exit wrong: "overthinking", Kaya et al. 2019."""
    wrong_then_right: list[int]
    curve_area: float
    """Mean accuracy over all costs, see `curve_area`."""
    oracle: list[tuple[float, float]]
    """Relative cost and accuracy of leaving at the first right exit, see `oracle`."""
    intervals: dict[str, tuple[float, float]]
    """95 %, by bootstrap over images, of `accuracy`, `relative_cost`, `full_accuracy` and `drop` (full minus
    policy, paired)."""

    def table(self) -> str:
        """An exit a line."""
        rows = []
        for k, ((cost, accuracy), error) in enumerate(zip(self.oracle, self.calibration_error, strict=True)):
            early = k < len(self.auroc)
            auroc = self.auroc[k] if early else None
            counts = [str(of[k]) if early else "–" for of in (self.right_then_wrong, self.wrong_then_right)]
            shown = "–" if auroc is None else f"{auroc:.3f}"
            name = str(k) if early else "final"
            rows.append([name, f"{error:.3f}", shown, *counts, f"{accuracy:.2%} at {cost:.3f}"])
        header = ["exit", "calibration error", "AUROC", "right, then wrong", "wrong, then right", "oracle"]
        percents = {name: [f"{100 * v:.2f}" for v in pair] for name, pair in self.intervals.items()}
        low, high = self.intervals["relative_cost"]
        told = (
            f"95 % intervals: accuracy {' to '.join(percents['accuracy'])} %, cost {low:.3f} to {high:.3f}, "
            f"drop against the full network {' to '.join(percents['drop'])} points; "
            f"mean accuracy over all costs {self.curve_area:.2%}"
        )
        return f"{format_table(header, rows)}\n\n{wrapped(told)}"

    __str__ = table


@dataclass(frozen=True, kw_only=True)
class DiagnosedEvaluation(Evaluation, Diagnosis):
    """An evaluation with its diagnosis."""

    def __str__(self) -> str:
        return f"{Evaluation.__str__(self)}\n\n{self.table()}"


def diagnose(records: Records, policy: ExitPolicy) -> Diagnosis:
    """How well the exits know what they know on recorded inputs, and what is left to be gained.

    Args:
        records: of labelled images.
        policy: by which they leave.
    """
    correct_KB, exits_B = records.correct(policy.enabled), decide(records, policy)
    early_KB, final_B = correct_KB[:-1], records.correct()[-1]
    right_B = correct_KB[exits_B, np.arange(len(records))].astype(np.float64)
    spent_B = np.array(records.costs(policy.enabled))[exits_B]
    values = {
        "accuracy": right_B,
        "relative_cost": spent_B,
        "full_accuracy": final_B.astype(np.float64),
        "drop": final_B - right_B,
    }
    return Diagnosis(
        calibration_error=[
            expected_calibration_error(logits_BN, right_B)
            for logits_BN, right_B in zip(records.answers(policy.enabled), correct_KB, strict=True)
        ],
        auroc=[
            auroc(right_B, score_B) if 0 < right_B.sum() < len(right_B) else None
            for right_B, score_B in zip(early_KB, recorded_scores(records, policy.score), strict=True)
        ],
        right_then_wrong=(early_KB & ~final_B).sum(1).tolist(),
        wrong_then_right=(~early_KB & final_B).sum(1).tolist(),
        curve_area=curve_area(records, policy.score),
        oracle=oracle(records),
        intervals={name: bootstrap_interval(values_B) for name, values_B in values.items()},
    )


def auroc(right_B: NDArray[np.bool_], score_B: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a right one scores higher than a wrong one; ties count half."""
    values, of_B, counts = np.unique(score_B, return_inverse=True, return_counts=True)
    wrong = np.bincount(of_B[~right_B], minlength=len(values))
    right = counts - wrong
    below = wrong.cumsum() - wrong / 2
    return float(right @ below / (right.sum() * wrong.sum()))


def reliability(
    logits_BN: NDArray[Any], right_B: NDArray[np.bool_]
) -> tuple[list[float], list[float], list[int]]:
    """Mean max softmax, accuracy and number of inputs, in those of 15 bins of equal width that hold any."""
    top_B = probabilities(logits_BN.astype(np.float64)).max(1)
    bins_B = np.minimum((top_B * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins_B, minlength=BINS)
    held = counts > 0
    sums = (np.bincount(bins_B, of_B, minlength=BINS) for of_B in (top_B, right_B))
    probability, accuracy = ((values[held] / counts[held]).tolist() for values in sums)
    return probability, accuracy, counts[held].tolist()


def expected_calibration_error(logits_BN: NDArray[Any], right_B: NDArray[np.bool_]) -> float:
    """Mean distance between max softmax and accuracy, over bins. Guo et al. 2017."""
    bins = zip(*reliability(logits_BN, right_B), strict=True)
    return sum(count * abs(accuracy - probability) for probability, accuracy, count in bins) / len(logits_BN)


def oracle(records: Records) -> list[tuple[float, float]]:
    """Relative cost and accuracy of leaving at the first right exit, of those up to exit 0, 1, ..."""
    costs_K = np.array(records.costs())
    correct_KB, points = records.correct(), []
    for last in range(len(correct_KB)):
        seen_KB = correct_KB[: last + 1]
        first_B = seen_KB.argmax(0)  # exit 0 where none is right
        points.append((float(costs_K[first_B].mean()), float(seen_KB.any(0).mean())))
    return points


def curve_area(records: Records, score: str) -> float:
    """Mean accuracy over costs on the accuracy–cost curve, from the first exit to the final one."""
    if not records.head_macs:
        return records.full_accuracy
    points = sorted((cost, accuracy) for _, cost, accuracy in accuracy_cost_curve(records, score))
    costs, accuracies = map(np.array, zip(*points, strict=True))
    return float(np.trapezoid(accuracies, costs) / (costs[-1] - costs[0]))


def bootstrap_interval(values_B: NDArray[Any], *, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the mean, by bootstrap over inputs; the same every time."""
    random, count, means = np.random.default_rng(0), len(values_B), []
    step = max(CHUNK // count, 1)
    for start in range(0, draws, step):
        picked = random.integers(count, size=(min(step, draws - start), count))
        means.append(values_B[picked].mean(1, dtype=np.float64))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975]).tolist()
    return low, high
