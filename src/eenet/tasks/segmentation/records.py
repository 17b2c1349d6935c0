"""Records of masks: a confusion matrix for each image and exit, and the cheap scores of each answer.

The metric is the mean intersection over union (mIoU) of matrices summed over images, so it is no mean over
images. Near a policy it changes as its linear part does, which is one: see `SegmentationRecords.worth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.policies import AnyRecords, Ensemble, ExitPolicy, decide, sigmoid
from eenet.tasks.dense import load_records, save_records

if TYPE_CHECKING:
    from torch import nn

STATISTICS = ("sure_share", "low_quantile", "entropy", "max_softmax")
"""Scores that a gate sees, of its own exit's answer."""
RECORDED = (*STATISTICS, "margin")
ROUNDED = 1e-3  # of the pixels, whose class rounding may change
_TENSORS = ("confusion_KBNN", "scores_SKB", "agreement_KKB", "confidence_logits_KB")
_LATER = ("near_KB2",)  # that records of older checkpoints lack
_ABOUT = ("stage_macs", "head_macs", "backbone_macs", "class_names", "block")
BOUNDARY = 3  # pixels: what lies so near to another class is near a boundary


@dataclass(frozen=True)
class SegmentationRecords(AnyRecords):
    """What K exits said about the pixels of B images, and what each exit costs."""

    task: ClassVar[str] = "segmentation"
    confusion_KBNN: NDArray[np.uint32]
    """Pixels by true class (rows) and answered class; those without a class aren't counted."""
    scores_SKB: NDArray[np.float32]
    """`RECORDED`, of the K - 1 early exits."""
    agreement_KKB: NDArray[np.float32]
    """Part of the pixels that early exit k gives the same class as an earlier one j."""
    confidence_logits_KB: NDArray[np.float32]
    stage_macs: list[int]
    head_macs: list[int]
    backbone_macs: int
    class_names: list[str]
    near_KB2: NDArray[np.uint32] | None = None
    """Near the boundaries of classes: pixels that are answered wrongly, and all."""
    block: int = 1
    """So many images in a row are alike, such as frames of a video: the bootstrap draws them together."""
    ensemble: Ensemble | None = None
    """None: a state already joins what exits know."""
    totals_NN: NDArray[np.float64] | None = None
    """Where the metric is taken as linear: a matrix summed over images. None: that of the final exit."""

    def __len__(self) -> int:
        return self.confusion_KBNN.shape[1]

    @property
    def num_classes(self) -> int:
        """That are answered."""
        return self.confusion_KBNN.shape[2]

    def subset(self, rows: NDArray[Any]) -> "SegmentationRecords":
        """The records of some images.

        Args:
            rows: indices of the images, or a bool for each.
        """
        return replace(
            self,
            confusion_KBNN=self.confusion_KBNN[:, rows],
            scores_SKB=self.scores_SKB[:, :, rows],
            agreement_KKB=self.agreement_KKB[:, :, rows],
            confidence_logits_KB=self.confidence_logits_KB[:, rows],
            near_KB2=None if self.near_KB2 is None else self.near_KB2[:, rows],
            block=1,
            totals_NN=None,
        )

    def scores(self, score: str, enabled: Sequence[bool]) -> NDArray[np.float32]:
        """What a policy compares with thresholds: [K - 1, B], see `eenet.policies.recorded_scores`.

        Args:
            score: its name.
            enabled: the early exits that are on.

        Raises:
            ValueError: a score that isn't recorded.
        """
        if score == "confidence":
            return sigmoid(self.confidence_logits_KB)
        if score in RECORDED:
            return self.scores_SKB[RECORDED.index(score)].copy()
        if score != "agreement":
            known = ", ".join(["confidence", "agreement", *RECORDED])
            raise ValueError(f"score {score!r} is not recorded of masks; choose from {known}")
        found = np.zeros_like(self.confidence_logits_KB)
        for k in range(len(found)):
            before = [j for j in range(k) if enabled[j]]
            if before:
                found[k] = self.agreement_KKB[k, before[-1]]
        return found

    def worth(self, enabled: Sequence[bool] | None = None) -> NDArray[np.float64]:  # noqa: ARG002
        """What an answer adds to mIoU taken as linear: [K, B]; the mean of a policy's answers is its mIoU.

        By how much mIoU changes with an image's pixels in the intersection and the union of each class.

        Args:
            enabled: of no effect: the answer at an exit doesn't depend on the others.
        """
        totals_NN = self.totals_NN
        if totals_NN is None:
            totals_NN = self.confusion_KBNN[-1].sum(0, dtype=np.float64)
        _, either_N = parts(totals_NN)
        some_N = either_N > 0
        scale_N = np.divide(1.0, either_N, out=np.zeros_like(either_N), where=some_N) / max(some_N.sum(), 1)
        both_KBN, either_KBN = parts(self.confusion_KBNN)
        change_KB = both_KBN @ scale_N - either_KBN @ (scale_N * iou(totals_NN, absent=0.0))
        return miou(totals_NN) + len(self) * change_KB

    def losses(self) -> NDArray[np.float64]:
        """By how much less of an image's pixels an exit gets right than the final one: [K, B]."""
        right_KB = np.trace(self.confusion_KBNN, axis1=2, axis2=3).astype(np.float64)
        pixels_B = self.confusion_KBNN[-1].sum((1, 2))
        return np.maximum(right_KB[-1] - right_KB, 0) / np.maximum(pixels_B, 1)

    def around(self, policy: ExitPolicy) -> "SegmentationRecords":
        """With mIoU taken as linear near a policy.

        Args:
            policy: by which images leave.
        """
        return replace(self, totals_NN=self.totals(policy))

    def totals(self, policy: ExitPolicy) -> NDArray[np.float64]:
        """The confusion matrix of a policy's answers, summed over images: [N, N].

        Args:
            policy: by which images leave.
        """
        return self.confusion_KBNN[decide(self, policy), np.arange(len(self))].sum(0, dtype=np.float64)

    def joined(self) -> "SegmentationRecords":
        """With fitted gates: a state already joins what exits know."""
        return self.gated()[1] if self.head_macs else self

    def gated(self) -> "tuple[list[nn.Module], SegmentationRecords]":
        """Gates fitted to what going on to the final exit gains, and the confidences that they give."""
        from eenet.tasks.gain import GainGate, fit_gates

        worth_KB = self.worth()
        statistics_KBS = self.scores_SKB[: len(STATISTICS)].transpose(1, 2, 0)
        gates, confidence_logits_KB = fit_gates(
            lambda: GainGate(STATISTICS, "max_softmax"), statistics_KBS, worth_KB[-1] - worth_KB[:-1]
        )
        return [*gates], replace(self, confidence_logits_KB=confidence_logits_KB)

    def classes_seen(self) -> set[int]:
        """The classes that occur."""
        return set(np.flatnonzero(self.confusion_KBNN[-1].sum((0, 2))).tolist())

    def alike(self, other: Any) -> bool:
        """Whether `other` holds the same answers to the same images, but for rounding."""
        mine, others = self.confusion_KBNN.astype(np.int64), other.confusion_KBNN.astype(np.int64)
        return (
            mine.shape == others.shape
            and np.allclose(self.scores_SKB, other.scores_SKB, rtol=0, atol=1e-3)
            and float(np.abs(mine - others).sum()) <= ROUNDED * mine.sum()
        )

    def save(self, path: str | Path) -> None:
        """Write them as one file.

        Args:
            path: of the safetensors file.
        """
        kept = [*_TENSORS, *(name for name in _LATER if getattr(self, name) is not None)]
        save_records(self, path, kept, (*_ABOUT, "block"))

    @staticmethod
    def load(path: str | Path) -> "SegmentationRecords":
        """Read what `save` wrote.

        Args:
            path: of the safetensors file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a file of records of masks.
        """
        return load_records(SegmentationRecords, path, _TENSORS, "masks", _LATER)


def parts(confusion_NN: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels in the intersection and in the union of truth and answer, by class: both [..., N]."""
    both = np.diagonal(confusion_NN, axis1=-2, axis2=-1).astype(np.float64)
    return both, confusion_NN.sum(-1, dtype=np.float64) + confusion_NN.sum(-2, dtype=np.float64) - both


def iou(totals_NN: NDArray[Any], *, absent: float = np.nan) -> NDArray[np.float64]:
    """Intersection over union of each class: [N]; `absent` for a class that is neither there nor answered."""
    both_N, either_N = parts(totals_NN)
    return np.divide(both_N, either_N, out=np.full_like(both_N, absent), where=either_N > 0)


def miou(totals_NN: NDArray[Any]) -> float:
    """Their mean over the classes that are there or answered."""
    found_N = iou(totals_NN)
    return float(found_N[~np.isnan(found_N)].mean()) if not np.isnan(found_N).all() else 0.0


def confusion(truth_HW: NDArray[np.uint8], answer_HW: NDArray[np.uint8], classes: int) -> NDArray[np.uint32]:
    """Pixels by true and answered class: [N, N]; truths that are no class, such as 255, don't count."""
    counted = truth_HW < classes
    pairs = truth_HW[counted].astype(np.int64) * classes + answer_HW[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.uint32)


def near_boundaries(truth_HW: NDArray[np.uint8], classes: int, reach: int = BOUNDARY) -> NDArray[np.bool_]:
    """Pixels of a class with another class within `reach` pixels along both axes. Kohli et al. 2009."""
    lowest, highest = (
        np.where(truth_HW < classes, truth_HW.astype(np.int16), nothing) for nothing in (classes, -1)
    )
    for axis in (0, 1):
        lowest = _over_neighbours(np.minimum, lowest, reach, axis)
        highest = _over_neighbours(np.maximum, highest, reach, axis)
    return (truth_HW < classes) & (lowest != highest)


def _over_neighbours(of: np.ufunc, values_HW: NDArray[np.int16], reach: int, axis: int) -> NDArray[np.int16]:
    found, size = values_HW.copy(), values_HW.shape[axis]
    for by in range(1, min(reach, size - 1) + 1):
        ahead, behind = (
            tuple(cut if a == axis else slice(None) for a in (0, 1))
            for cut in (slice(by, None), slice(None, size - by))
        )
        of(found[behind], values_HW[ahead], out=found[behind])
        of(found[ahead], values_HW[behind], out=found[ahead])
    return found
