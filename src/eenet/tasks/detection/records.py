"""Records of boxes: for each image and exit the boxes found, and which of them hit, at ten overlaps.

COCO's matching is image by image, so average precision under any policy takes no more than to put the lists
of the chosen exits together. It is no mean over images; near a policy it changes as its linear part does,
which is one: see `DetectionRecords.worth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.policies import (
    AnyRecords,
    Ensemble,
    ExitPolicy,
    box_scores,
    decide,
    logit,
    missed_threshold,
    sigmoid,
)
from eenet.tasks.dense import load_records, save_records
from eenet.tasks.detection.boxes import Scale, rescaled
from eenet.tasks.detection.precision import Pooled, average_precision, mean_of, unpacked, worths

if TYPE_CHECKING:
    from torch import nn

STATISTICS = tuple(name for name in box_scores() if name != "confidence")
"""Scores that a gate sees, of its own exit's answer."""
MISSED, DELTA = 0.05, 0.1
"""At most this part of the images with objects leaves as empty, but for this part of calibrations."""
STEADY = 1e-2  # pull of a scale towards none, for each box
NEWTON = 20  # steps
_TENSORS = ("counts_KB", "scores_D", "labels_D", "hits_AD", "idle_AD", "truths_ABN", "statistics_SKB",
            "confidence_logits_KB")  # fmt: skip
_ABOUT = ("stage_macs", "head_macs", "backbone_macs", "class_names", "scales")


@dataclass(frozen=True)
class DetectionRecords(AnyRecords):
    """What K exits found in B images, and what each exit costs. Boxes lie exit by exit, image by image."""

    task: ClassVar[str] = "detection"
    counts_KB: NDArray[np.uint16]
    """Boxes of each exit and image."""
    scores_D: NDArray[np.float32]
    """Probabilities, as the exit itself gives them."""
    labels_D: NDArray[np.uint16]
    hits_AD: NDArray[np.uint16]
    """See `Matched`, as the next two."""
    idle_AD: NDArray[np.uint16]
    truths_ABN: NDArray[np.uint16]
    statistics_SKB: NDArray[np.float32]
    """`STATISTICS`, of the K - 1 early exits."""
    confidence_logits_KB: NDArray[np.float32]
    stage_macs: list[int]
    head_macs: list[int]
    backbone_macs: int
    class_names: list[str]
    scales: list[list[float]] | None = None
    """For each exit what brings its scores to the scale of the final exit; none: they are as they are."""
    ensemble: Ensemble | None = None
    """None: a state already joins what exits know."""
    near_B: NDArray[np.int64] | None = None
    """The exits near which average precision is taken as linear. None: all at the final exit."""

    def __len__(self) -> int:
        return self.counts_KB.shape[1]

    @property
    def num_classes(self) -> int:
        """That are answered."""
        return self.truths_ABN.shape[2]

    @property
    def task_settings(self) -> dict[str, Any]:
        """What of the task's settings was fitted."""
        return {} if self.scales is None else {"scales": self.scales}

    def holding(self) -> NDArray[np.bool_]:
        """Which images hold an object: [B]."""
        return self.truths_ABN[0].any(1)

    def subset(self, rows: NDArray[Any]) -> "DetectionRecords":
        """The records of some images: `rows` are their indices, or a bool for each."""
        of_boxes = ("scores_D", "labels_D", "hits_AD", "idle_AD")
        kept_D = spans(self._starts_KB[:, rows].ravel(), self.counts_KB[:, rows].ravel())
        return replace(
            self,
            counts_KB=self.counts_KB[:, rows],
            **{name: getattr(self, name)[..., kept_D] for name in of_boxes},
            truths_ABN=self.truths_ABN[:, rows],
            statistics_SKB=self.statistics_SKB[:, :, rows],
            confidence_logits_KB=self.confidence_logits_KB[:, rows],
            near_B=None,
        )

    def scores(self, score: str, enabled: Sequence[bool]) -> NDArray[np.float32]:  # noqa: ARG002
        """What a policy compares with thresholds: [K - 1, B], see `eenet.policies.recorded_scores`.

        Args:
            score: its name.
            enabled: the early exits that are on.

        Raises:
            ValueError: a score that isn't recorded.
        """
        if score == "confidence":
            return sigmoid(self.confidence_logits_KB)
        if score in STATISTICS:
            return self.statistics_SKB[STATISTICS.index(score)].copy()
        raise ValueError(
            f"score {score!r} is not recorded of boxes; choose from {', '.join(('confidence', *STATISTICS))}"
        )

    def alike(self, other: Any) -> bool:
        """Whether `other` holds the same answers to the same images, but for rounding."""
        same = np.array_equal(self.truths_ABN, other.truths_ABN)
        return same and np.allclose(self.statistics_SKB, other.statistics_SKB, rtol=1e-2, atol=1e-3)

    # Precision --------------------------------------------------------------------------

    def pooled(self, exits_B: NDArray[np.integer], size: int = 0) -> Pooled:
        """The boxes of each image at its exit.

        Args:
            exits_B: where each image leaves.
            size: of the objects that count, by index into `SIZES`.
        """
        rows_B = np.arange(len(self))
        counts_B = self.counts_KB[exits_B, rows_B].astype(np.int64)
        own = spans(self._starts_KB[exits_B, rows_B], counts_B)
        return Pooled(
            self._sure_D[own],
            self.labels_D[own],
            np.repeat(rows_B, counts_B),
            self.hits_AD[size, own],
            self.idle_AD[size, own],
            self.truths_ABN[size],
        )

    def at(self, exit_index: int) -> NDArray[np.int64]:
        """All images at the exit `exit_index`; -1: the final one."""
        return np.full(len(self), exit_index % len(self.counts_KB))

    def worth(self, enabled: Sequence[bool] | None = None) -> NDArray[np.float64]:  # noqa: ARG002
        """What an answer adds to average precision taken as linear: [K, B]; its mean is that of a policy.

        Args:
            enabled: of no effect: the answer at an exit doesn't depend on the others.
        """
        return self._worth_KB

    @cached_property
    def _worth_KB(self) -> NDArray[np.float64]:
        near_B = self.at(-1) if self.near_B is None else self.near_B
        pooled = self.pooled(near_B)
        present = max(int(pooled.truths_BN.any(0).sum()), 1)
        value_D = np.zeros(len(self.scores_D))
        for n, ranked in enumerate(pooled.by_class()):
            own = np.flatnonzero(self.labels_D == n)
            if ranked.truths_B.any():
                as_hit_TD, as_miss_TD = worths(ranked, self._sure_D[own])
                hits_TD, idle_TD = unpacked(self.hits_AD[0, own]), unpacked(self.idle_AD[0, own])
                found_TD = np.where(hits_TD, as_hit_TD, np.where(idle_TD, 0.0, as_miss_TD))
                value_D[own] = found_TD.mean(0) / present
        of_image_D = np.repeat(np.arange(self.counts_KB.size), self.counts_KB.ravel())
        sums = np.bincount(of_image_D, value_D, self.counts_KB.size).astype(np.float64)
        added_KB = sums.reshape(self.counts_KB.shape)
        metric = mean_of(average_precision(pooled)[0])
        return metric + len(self) * (added_KB - added_KB[near_B, np.arange(len(self))])

    def around(self, policy: ExitPolicy) -> "DetectionRecords":
        """With average precision taken as linear near `policy`."""
        return replace(self, near_B=decide(self, policy))

    @cached_property
    def _starts_KB(self) -> NDArray[np.int64]:
        counts = self.counts_KB.ravel().astype(np.int64)
        return (counts.cumsum() - counts).reshape(self.counts_KB.shape)

    @cached_property
    def _sure_D(self) -> NDArray[np.float64]:
        """Scores on one scale."""
        if self.scales is None:
            return self.scores_D.astype(np.float64)
        parts = np.split(self.scores_D, np.cumsum(self.counts_KB.sum(1, dtype=np.int64))[:-1])
        return np.concatenate(
            [rescaled(part.astype(np.float64), scale) for part, scale in zip(parts, self.scales, strict=True)]
        )

    # Fitting ----------------------------------------------------------------------------

    def joined(self) -> "DetectionRecords":
        """With the scores of all exits on the scale of the final one, since they are ranked in one list.

        Each exit's are first brought to the part of the overlaps at which such boxes hit (Platt 1999).
        """
        if not self.head_macs:
            return self
        ends = np.cumsum(self.counts_KB.sum(1, dtype=np.int64))[:-1]
        counted_D = self.idle_AD[0] == 0
        fitted = [
            _platt(scores[counted], unpacked(hits[counted]).mean(0))
            for scores, hits, counted in zip(
                np.split(self.scores_D, ends),
                np.split(self.hits_AD[0], ends),
                np.split(counted_D, ends),
                strict=True,
            )
        ]
        factor, shift = fitted[-1]
        return replace(self, scales=[[a / factor, (b - shift) / factor] for a, b in fitted])

    def gated(self) -> "tuple[list[nn.Module], DetectionRecords]":
        """Gates fitted to what going on to the final exit gains, and the confidences that they give.

        If some of these images are empty, those that are surely so leave at once: at most 5 % of the images
        with objects do, but for one in ten calibrations (`missed_threshold`).
        """
        import torch

        from eenet.tasks.detection.head import BoxGate
        from eenet.tasks.gain import fit_gates

        worth_KB = self.worth()
        statistics_KBS = self.statistics_SKB.transpose(1, 2, 0)
        gates, confidence_logits_KB = fit_gates(BoxGate, statistics_KBS, worth_KB[-1] - worth_KB[:-1])
        holding_B = self.holding()
        if holding_B.any() and not holding_B.all():
            emptiness_B = self.scores("emptiness", ()).max(0)[holding_B]
            threshold = missed_threshold(emptiness_B, MISSED, DELTA)
            for k, gate in enumerate(gates):
                if threshold is not None:
                    gate.empty_above.fill_(threshold)
                with torch.no_grad():
                    found = gate.judge(torch.from_numpy(np.ascontiguousarray(statistics_KBS[k])))
                confidence_logits_KB[k] = found.numpy()
        return [*gates], replace(self, confidence_logits_KB=confidence_logits_KB)

    def classes_seen(self) -> set[int]:
        """The classes that occur."""
        return set(np.flatnonzero(self.truths_ABN[0].any(0)).tolist())

    # Files ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write them as one safetensors file, `path`."""
        save_records(self, path, _TENSORS, _ABOUT)

    @staticmethod
    def load(path: str | Path) -> "DetectionRecords":
        """Read what `save` wrote.

        Args:
            path: of the safetensors file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a file of records of boxes.
        """
        return load_records(DetectionRecords, path, _TENSORS, "boxes")


def spans(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """The indices of several runs, one after the other."""
    counts = counts.astype(np.int64)
    shift = starts - (counts.cumsum() - counts)
    return np.repeat(shift, counts) + np.arange(counts.sum())


def _platt(scores_D: NDArray[np.float32], hit_D: NDArray[np.float64]) -> Scale:
    """Factor and shift of logits that best tell which part of the overlaps is hit; by Newton's method."""
    x_D = np.clip(logit(scores_D).astype(np.float64), -15, 15)
    inputs_D2 = np.stack([x_D, np.ones_like(x_D)], 1)
    none = np.array([1.0, 0.0])
    weights, pull = none.copy(), STEADY * max(len(x_D), 1)
    for _ in range(NEWTON):
        p_D = sigmoid(inputs_D2 @ weights)
        slope = inputs_D2.T @ (p_D - hit_D) + pull * (weights - none)
        bend = (inputs_D2 * (p_D * (1 - p_D))[:, None]).T @ inputs_D2 + pull * np.eye(2)
        weights = weights - np.linalg.solve(bend, slope)
    return [max(float(weights[0]), 0.05), float(weights[1])]
