"""Records of boxes and a policy → average precision, cost, where images left, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import format_table
from eenet.policies import DEAD_SHARE, ExitPolicy, decide
from eenet.tasks.detection.precision import SIZES, Pooled, average_precision, mean_of
from eenet.tasks.detection.records import DetectionRecords
from eenet.tasks.measured import Loss, Measured, intervals_of, named_exits

DEAD_PART = 0.1  # of the final exit's average precision
SURELY_EMPTY = 20.0  # confidence logit from which on an image left as empty
DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class DetectionEvaluation(Measured):
    """What a policy does on images with boxes. Prints as a table, an exit a line."""

    metric: ClassVar[str] = "mAP"
    class_metric: ClassVar[str] = "AP"
    figures: ClassVar[tuple[str, str]] = ("map", "full_map")
    compared: ClassVar[tuple[str, str, str]] = ("of mAP more", "of mAP less", "as good")

    num_examples: int
    map: float
    """Of the policy: average precision as of COCO, a mean over ten overlaps from 0.5 to 0.95 and classes."""
    map50: float
    """At an overlap of 0.5."""
    full_map: float
    """Of the final exit on all images."""
    full_map50: float
    recall: float
    """Of the policy: the part of the objects that is found, likewise a mean over overlaps and classes."""
    relative_cost: float
    """Mean MACs spent, exit heads included, divided by those of the network without exits."""
    class_ap: dict[str, float]
    """Of the policy, by class; without those that don't occur."""
    size_ap: dict[str, float]
    """Of the policy, by the area of objects: small under 32², large above 96² pixels; those that occur."""
    empty_images: int
    """That hold no object."""
    left_as_empty: int
    """Images that left since they were surely empty."""
    missed: int
    """Those of them that hold an object."""
    exit_counts: list[int]
    exit_map: list[float]
    """Of each exit's own boxes on all images."""
    dead_exits: list[int]
    """Early exits, switched on, where under 0.5 % leave, or that find next to nothing."""
    switched_off: list[int]
    costs: list[float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 %, by bootstrap over images, of `map`, `full_map`, `relative_cost` and `drop` (full minus policy,
    paired)."""

    def __str__(self) -> str:
        rows = [[*self.exit_cells(k), f"{self.exit_map[k]:.2%}"] for k in range(len(self.costs))]
        told = (
            f"{format_table(['exit', 'cost', 'images', 'mAP on all'], rows)}\n\n"
            f"mAP {self.map:.2%}, mAP50 {self.map50:.2%} at relative cost {self.relative_cost:.3f} on "
            f"{self.num_examples} images; without leaving early {self.full_map:.2%} and "
            f"{self.full_map50:.2%}; dead exits: {named_exits(self.dead_exits)}"
        )
        for what, found in (("class", self.class_ap), ("size", self.size_ap)):
            told += f"\nAP by {what}: {', '.join(f'{name} {value:.1%}' for name, value in found.items())}"
        if self.empty_images or self.left_as_empty:
            told += (
                f"\n{self.empty_images} images hold nothing; {self.left_as_empty} left as empty, of which "
                f"{self.missed} hold an object"
            )
        if not self.intervals:
            return told
        return f"{told}\n{self.told_intervals(self.intervals)}"


def measure_boxes(
    records: DetectionRecords, policy: ExitPolicy, *, sure: bool = False
) -> DetectionEvaluation:
    """What a policy does on recorded images; with intervals if they are to be `sure`.

    Raises:
        ValueError: there are no images, or the policy is for another number of exits.
    """
    if not len(records):
        raise ValueError("there are no inputs to evaluate")
    exits_B, costs = decide(records, policy), records.costs(policy.enabled)
    counts_K = np.bincount(exits_B, minlength=len(costs))
    precision_TN, recall_TN = average_precision(records.pooled(exits_B))
    full_TN, _ = average_precision(records.pooled(records.at(-1)))
    exit_map = [mean_of(average_precision(records.pooled(records.at(k)))[0]) for k in range(len(costs))]
    of_size = {
        name: average_precision(records.pooled(exits_B, a))[0]
        for a, name in enumerate(SIZES)
        if name != "all"
    }
    empty_B = _left_as_empty(records, policy, exits_B)
    holding_B = records.holding()
    return DetectionEvaluation(
        num_examples=len(records),
        map=mean_of(precision_TN),
        map50=mean_of(precision_TN[0]),
        full_map=mean_of(full_TN),
        full_map50=mean_of(full_TN[0]),
        recall=mean_of(recall_TN),
        relative_cost=float(np.array(costs)[exits_B].mean()),
        class_ap=_by_name(precision_TN, records.class_names),
        size_ap={name: mean_of(found) for name, found in of_size.items() if not np.isnan(found).all()},
        empty_images=int((~holding_B).sum()),
        left_as_empty=int(empty_B.sum()),
        missed=int((empty_B & holding_B).sum()),
        exit_counts=counts_K.tolist(),
        exit_map=exit_map,
        dead_exits=[
            k
            for k, on in enumerate(policy.enabled)
            if on and (counts_K[k] < DEAD_SHARE * len(records) or exit_map[k] < DEAD_PART * exit_map[-1])
        ],
        switched_off=[k for k, on in enumerate(policy.enabled) if not on],
        costs=costs,
        intervals=bootstrap_boxes(records, policy) if sure else {},
    )


def _left_as_empty(
    records: DetectionRecords, policy: ExitPolicy, exits_B: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Images that a gate, or a policy for that alone, let go as empty."""
    early_B = exits_B < len(records.head_macs)
    if policy.score == "emptiness":
        return early_B
    if policy.score != "confidence" or not records.head_macs:
        return np.zeros(len(records), bool)
    said_B = records.confidence_logits_KB[np.where(early_B, exits_B, 0), np.arange(len(records))]
    return early_B & (said_B > SURELY_EMPTY)


def ap_by_class(records: DetectionRecords, policy: ExitPolicy, names: Sequence[str]) -> dict[str, float]:
    """Average precision of the classes that occur, by name."""
    return _by_name(average_precision(records.pooled(decide(records, policy)))[0], names)


def _by_name(precision_TN: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    found = zip(names, precision_TN.mean(0).tolist(), strict=True)
    return {name: value for name, value in found if value == value}


def bootstrap_boxes(records: DetectionRecords, policy: ExitPolicy) -> dict[str, tuple[float, float]]:
    """95 % intervals of `map`, `full_map`, `relative_cost` and `drop`; the same every time."""
    random, count = np.random.default_rng(0), len(records)
    exits_B = decide(records, policy)
    costs_B = np.array(records.costs(policy.enabled))[exits_B]
    weights_DB = random.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    ours_D = precisions(records.pooled(exits_B), weights_DB)
    full_D = precisions(records.pooled(records.at(-1)), weights_DB)
    drawn = {
        "map": ours_D,
        "full_map": full_D,
        "relative_cost": weights_DB @ costs_B / count,
        "drop": full_D - ours_D,
    }
    return intervals_of(drawn)


def precisions(pooled: Pooled, weights_DB: NDArray[np.float64]) -> NDArray[np.float64]:
    """mAP of images drawn anew: [D]; `weights_DB` says how often each is drawn."""
    ranked = list(pooled.by_class())
    return np.array([mean_of(np.stack([each.measured(w_B)[0] for each in ranked])) for w_B in weights_DB])


def loss_of_boxes(records: DetectionRecords, policy: ExitPolicy) -> Loss:
    """What a policy loses of average precision against the full network on the same images.

    Its error is that of the linear part, as an infinitesimal jackknife has it (Efron 1982).
    """
    near, rows_B = records.around(policy), np.arange(len(records))
    exits_B, worth_KB = decide(records, policy), near.worth()
    full = mean_of(average_precision(records.pooled(records.at(-1)))[0])
    points = 100 * (full - float(worth_KB[exits_B, rows_B].mean()))
    lost_B = 100 * (worth_KB[-1] - worth_KB[exits_B, rows_B])
    error = float(lost_B.std() / len(records) ** 0.5)
    return Loss(points, error, (points - 1.96 * error, points + 1.96 * error))
