"""Records of masks and a policy → mIoU, cost, where images left, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import format_table
from eenet.policies import DEAD_SHARE, ExitPolicy, decide
from eenet.tasks.measured import Loss, Measured, intervals_of, named_exits
from eenet.tasks.segmentation.records import SegmentationRecords, iou, miou, parts

DEAD_MIOU = 1.5  # times that of an exit which calls every pixel by the most frequent class
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class SegmentationEvaluation(Measured):
    """What a policy does on images with masks. Prints as a table, an exit a line."""

    metric: ClassVar[str] = "mIoU"
    class_metric: ClassVar[str] = "IoU"
    figures: ClassVar[tuple[str, str]] = ("miou", "full_miou")
    compared: ClassVar[tuple[str, str, str]] = ("of mIoU more", "of mIoU less", "as good")

    num_examples: int
    miou: float
    """Of the policy: mean intersection over union of the classes, pixels of all images taken together."""
    full_miou: float
    """Of the final exit on all images."""
    relative_cost: float
    """Mean MACs spent, exit heads included, divided by those of the network without exits."""
    pixel_accuracy: float
    full_pixel_accuracy: float
    boundary_error: float | None
    """Of the policy: part of the pixels within 3 of another class that are wrong; none if there are none."""
    full_boundary_error: float | None
    class_iou: dict[str, float]
    """Of the policy, by class; without those that are neither there nor answered."""
    exit_counts: list[int]
    exit_miou: list[float]
    """Of each exit's own answer on all images."""
    dead_exits: list[int]
    """Early exits, switched on, where under 0.5 % leave, or that are hardly better than one class for all."""
    switched_off: list[int]
    costs: list[float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 %, by bootstrap over images, of `miou`, `full_miou`, `relative_cost` and `drop` (full minus policy,
    paired)."""

    def __str__(self) -> str:
        rows = [
            [
                *self.exit_cells(k),
                f"{self.exit_miou[k]:.2%}",
            ]
            for k in range(len(self.costs))
        ]
        near = "" if self.boundary_error is None else f", near boundaries {1 - self.boundary_error:.2%}"
        classes = ", ".join(f"{name} {value:.1%}" for name, value in self.class_iou.items())
        told = (
            f"{format_table(['exit', 'cost', 'images', 'mIoU on all'], rows)}\n\n"
            f"mIoU {self.miou:.2%} at relative cost {self.relative_cost:.3f} on {self.num_examples} images; "
            f"without leaving early {self.full_miou:.2%}; pixel accuracy {self.pixel_accuracy:.2%}{near}; "
            f"dead exits: {named_exits(self.dead_exits)}\nIoU by class: {classes}"
        )
        if not self.intervals:
            return told
        return f"{told}\n{self.told_intervals(self.intervals)}"


def measure_masks(
    records: SegmentationRecords, policy: ExitPolicy, *, sure: bool = False
) -> SegmentationEvaluation:
    """What a policy does on recorded images; with intervals if they are to be `sure`.

    Raises:
        ValueError: there are no images, or the policy is for another number of exits.
    """
    if not len(records):
        raise ValueError("there are no inputs to evaluate")
    exits_B, costs = decide(records, policy), records.costs(policy.enabled)
    counts_K = np.bincount(exits_B, minlength=len(costs))
    totals_KNN = records.confusion_KBNN.sum(1, dtype=np.float64)
    totals_NN, exit_miou = records.totals(policy), [miou(each) for each in totals_KNN]
    shares_N = totals_KNN[-1].sum(1) / max(totals_KNN[-1].sum(), 1)
    chance = shares_N.max() / max(np.count_nonzero(shares_N), 1)
    names = zip(records.class_names, iou(totals_NN).tolist(), strict=True)
    return SegmentationEvaluation(
        num_examples=len(records),
        miou=miou(totals_NN),
        full_miou=exit_miou[-1],
        relative_cost=float(np.array(costs)[exits_B].mean()),
        pixel_accuracy=float(np.trace(totals_NN) / max(totals_NN.sum(), 1)),
        full_pixel_accuracy=float(np.trace(totals_KNN[-1]) / max(totals_KNN[-1].sum(), 1)),
        boundary_error=_boundary_error(records, exits_B),
        full_boundary_error=_boundary_error(records, np.full(len(records), len(costs) - 1)),
        class_iou={name: value for name, value in names if value == value},
        exit_counts=counts_K.tolist(),
        exit_miou=exit_miou,
        dead_exits=[
            k
            for k, on in enumerate(policy.enabled)
            if on and (counts_K[k] < DEAD_SHARE * len(records) or exit_miou[k] < DEAD_MIOU * chance)
        ],
        switched_off=[k for k, on in enumerate(policy.enabled) if not on],
        costs=costs,
        intervals=bootstrap(records, policy) if sure else {},
    )


def _boundary_error(records: SegmentationRecords, exits_B: NDArray[np.integer]) -> float | None:
    if records.near_KB2 is None:
        return None
    wrong, near = records.near_KB2[exits_B, np.arange(len(records))].sum(0, dtype=np.int64).tolist()
    return wrong / near if near else None


def bootstrap(
    records: SegmentationRecords, policy: ExitPolicy, *, block: int | None = None
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `miou`, `full_miou`, `relative_cost` and `drop`; the same every time.

    Args:
        records: of images.
        policy: that decides where they leave.
        block: so many images in a row are drawn together, as neighbours in a video are alike. Default: as the
            records say.
    """
    return intervals_of(_drawn(records, policy, records.block if block is None else block))


def loss_of_masks(records: SegmentationRecords, policy: ExitPolicy) -> Loss:
    """What a policy loses of mIoU against the full network on the same images."""
    lost_D = 100 * _drawn(records, policy, records.block)["drop"]
    points = 100 * (miou(records.confusion_KBNN[-1].sum(0)) - miou(records.totals(policy)))
    low, high = np.quantile(lost_D, [0.025, 0.975])
    return Loss(points, float(lost_D.std()), (float(low), float(high)))


def _drawn(records: SegmentationRecords, policy: ExitPolicy, block: int) -> dict[str, NDArray[np.float64]]:
    """The figures of images drawn anew: [D] each."""
    random, count = np.random.default_rng(0), len(records)
    exits_B, rows_B = decide(records, policy), np.arange(count)
    blocks = -(-count // block)
    drawn_DG = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS)
    weights_DB = np.repeat(drawn_DG, block, 1)[:, :count].astype(np.float64)
    costs_B = np.array(records.costs(policy.enabled))[exits_B]
    ours_D, full_D = (
        _mious(weights_DB, records.confusion_KBNN[chosen, rows_B]) for chosen in (exits_B, np.full(count, -1))
    )
    costs_D = weights_DB @ costs_B / weights_DB.sum(1)
    return {"miou": ours_D, "full_miou": full_D, "relative_cost": costs_D, "drop": full_D - ours_D}


def _mious(weights_DB: NDArray[np.float64], confusion_BNN: NDArray[np.uint32]) -> NDArray[np.float64]:
    both_DN, either_DN = (weights_DB @ each_BN for each_BN in parts(confusion_BNN))
    some_DN = either_DN > 0
    iou_DN = np.divide(both_DN, either_DN, out=np.zeros_like(both_DN), where=some_DN)
    return iou_DN.sum(1) / np.maximum(some_DN.sum(1), 1)


def iou_by_class(records: SegmentationRecords, policy: ExitPolicy, names: Sequence[str]) -> dict[str, float]:
    """IoU of the classes that are there or answered, by name."""
    found = zip(names, iou(records.totals(policy)).tolist(), strict=True)
    return {name: value for name, value in found if value == value}
