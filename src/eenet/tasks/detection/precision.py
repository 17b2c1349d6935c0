"""By the rules of COCO's evaluation: which boxes of an image hit an object, and average precision of many."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.data import Objects
from eenet.tasks.detection.boxes import Boxes, overlaps, sides

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersections over union that are asked for."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas in pixels of the objects that count."""
RECALLS = np.linspace(0, 1, 101)
"""At which precision is read off."""
_BITS = 1 << np.arange(len(OVERLAPS))


class Matched(NamedTuple):
    """Of an image's boxes and objects."""

    hits_AM: NDArray[np.uint16]
    """For each size and box, the overlaps at which it hits an object, as bits."""
    idle_AM: NDArray[np.uint16]
    """Those at which it counts for nothing: on a crowd, on an object of another size, or of another size."""
    truths_AN: NDArray[np.uint16]
    """Objects that count, by size and class."""


def believed(found: Boxes, size: tuple[int, int]) -> Objects:
    """Boxes that were found in an image of this (height, width), as if they were its objects."""
    crowd_M = np.zeros(len(found.labels_M), bool)
    return Objects(found.boxes_M4, found.labels_M, crowd_M, sides(found.boxes_M4).prod(1), size)


def matched(found: Boxes, objects: Objects, classes: int) -> Matched:
    """Match boxes with objects of their class, the surest first."""
    count = len(found.scores_M)
    hits_AM, idle_AM = (np.zeros((len(SIZES), count), np.uint16) for _ in range(2))
    truths_AN = np.zeros((len(SIZES), classes), np.uint16)
    for n in np.union1d(found.labels_M, objects.labels_M):
        ours, true = np.flatnonzero(found.labels_M == n), np.flatnonzero(objects.labels_M == n)
        ours = ours[np.argsort(-found.scores_M[ours], kind="stable")]
        boxes_D4, areas_G, crowd_G = found.boxes_M4[ours], objects.areas_M[true], objects.crowd_M[true]
        fit_DG = overlaps(boxes_D4, objects.boxes_M4[true], crowd_G)
        areas_D = sides(boxes_D4).prod(1)
        for a, (low, high) in enumerate(SIZES.values()):
            out_G = crowd_G | (areas_G < low) | (areas_G > high)
            hit_TD, idle_TD = _matched(fit_DG, out_G, crowd_G)
            idle_TD |= ~hit_TD & ((areas_D < low) | (areas_D > high))
            hits_AM[a, ours], idle_AM[a, ours] = _BITS @ hit_TD, _BITS @ idle_TD
            truths_AN[a, n] = np.count_nonzero(~out_G)
    return Matched(hits_AM, idle_AM, truths_AN)


def _matched(
    fit_DG: NDArray[np.float64], out_G: NDArray[np.bool_], crowd_G: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Boxes that hit an object that counts, and those on one that doesn't: [T, D] each.

    Each box takes the object that it fits best among those that count and aren't taken, else one that doesn't
    count; of equal ones the last.
    """
    thresholds_T1 = OVERLAPS[:, None]
    hit_TD, idle_TD = (np.zeros((len(OVERLAPS), len(fit_DG)), bool) for _ in range(2))
    taken_TG = np.zeros((len(OVERLAPS), fit_DG.shape[1]), bool)
    rows_T = np.arange(len(OVERLAPS))
    for d in np.flatnonzero((fit_DG >= OVERLAPS[0]).any(1)):
        open_TG = (fit_DG[d] >= thresholds_T1) & ~(taken_TG & ~crowd_G)
        for which_G, into_TD in ((~out_G, hit_TD), (out_G, idle_TD)):
            fit_TG = np.where(open_TG & which_G, fit_DG[d], -1.0)
            best_T = fit_TG.shape[1] - 1 - fit_TG[:, ::-1].argmax(1)
            takes_T = (fit_TG[rows_T, best_T] >= 0) & ~hit_TD[:, d]
            into_TD[takes_T, d] = True
            taken_TG[rows_T[takes_T], best_T[takes_T]] = True
    return hit_TD, idle_TD


def unpacked(bits_M: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Bits as a row for each overlap: [T, M]."""
    return (bits_M[None] & _BITS[:, None]) > 0


@dataclass(frozen=True)
class Pooled:
    """The boxes that one answer for each of B images gives, all together."""

    scores_D: NDArray[np.float64]
    labels_D: NDArray[np.integer]
    images_D: NDArray[np.intp]
    """Whose box it is."""
    hits_D: NDArray[np.uint16]
    idle_D: NDArray[np.uint16]
    truths_BN: NDArray[np.integer]

    def by_class(self) -> Iterator["Ranked"]:
        """The boxes of each class, the surest first."""
        for n in range(self.truths_BN.shape[1]):
            own = np.flatnonzero(self.labels_D == n)
            own = own[np.argsort(-self.scores_D[own], kind="stable")]
            hits_TD, idle_TD = unpacked(self.hits_D[own]), unpacked(self.idle_D[own])
            yield Ranked(
                self.scores_D[own], self.images_D[own], hits_TD, ~(hits_TD | idle_TD), self.truths_BN[:, n]
            )


@dataclass(frozen=True)
class Ranked:
    """Boxes of one class in descending order of scores."""

    scores_D: NDArray[np.float64]
    images_D: NDArray[np.intp]
    hits_TD: NDArray[np.bool_]
    misses_TD: NDArray[np.bool_]
    truths_B: NDArray[np.integer]

    def measured(
        self, weights_B: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average precision and recall at each overlap: [T] each; NaN where there is nothing to find.

        `weights_B`: how often each image counts.
        """
        if weights_B is None:
            truths, weights_D = float(self.truths_B.sum()), np.ones(len(self.images_D))
        else:
            truths, weights_D = float(weights_B @ self.truths_B), weights_B[self.images_D]
        if not truths:
            return np.full(len(OVERLAPS), np.nan), np.full(len(OVERLAPS), np.nan)
        passed_D, precision_T, recall_T = weights_D.cumsum(), [], []
        for hits_H, idle_I in self._places:
            found_H = weights_D[hits_H].cumsum()
            idle = np.concatenate([[0.0], weights_D[idle_I].cumsum()])
            counted_H = passed_D[hits_H] - idle[np.searchsorted(idle_I, hits_H)]
            best_H = np.maximum.accumulate((found_H / np.maximum(counted_H, np.spacing(1)))[::-1])[::-1]
            places = np.searchsorted(found_H / truths, RECALLS)
            precision_T.append(best_H[places[places < len(best_H)]].sum() / len(RECALLS))
            recall_T.append(found_H[-1] / truths if len(found_H) else 0.0)
        return np.array(precision_T), np.array(recall_T)

    @cached_property
    def _places(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """At each overlap the hits, and the boxes that count for nothing. Precision falls between hits, so it
        is of no interest anywhere else."""
        idle_TD = ~(self.hits_TD | self.misses_TD)
        return [
            (np.flatnonzero(hits_D), np.flatnonzero(idle_D))
            for hits_D, idle_D in zip(self.hits_TD, idle_TD, strict=True)
        ]


def average_precision(pooled: Pooled) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and recall by overlap and class: [T, N] each; NaN for classes that don't occur."""
    found = [ranked.measured() for ranked in pooled.by_class()]
    precision, recall = zip(*found, strict=True)
    return np.stack(precision, 1), np.stack(recall, 1)


def mean_of(found: NDArray[np.float64]) -> float:
    """Over all that isn't NaN; 0 if all is."""
    return float(np.nanmean(found)) if not np.isnan(found).all() else 0.0


def worths(ranked: Ranked, scores_D: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By how much average precision changes if a box with this score joins the others: [T, D] each.

    As a hit, and as a miss. A hit adds the precision at its place and raises that of hits behind it; a miss
    lowers that.
    """
    truths = max(int(ranked.truths_B.sum()), 1)
    hits_TD, all_TD = ranked.hits_TD.cumsum(1), (ranked.hits_TD | ranked.misses_TD).cumsum(1)
    squared_TD = np.maximum(all_TD, 1).astype(np.float64) ** 2
    behind = [_from_here_on(ranked.hits_TD * part / squared_TD) for part in (all_TD - hits_TD, hits_TD)]
    places_D = np.searchsorted(-ranked.scores_D, -scores_D)
    before = [np.pad(part, ((0, 0), (1, 0)))[:, places_D] for part in (hits_TD, all_TD)]
    raised_TD, lowered_TD = (part[:, places_D] for part in behind)
    return ((before[0] + 1) / (before[1] + 1) + raised_TD) / truths, -lowered_TD / truths


def _from_here_on(values_TD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of each value and all after it, and 0 behind the last: [T, D + 1]."""
    sums = np.cumsum(values_TD[:, ::-1], 1)[:, ::-1]
    return np.pad(sums, ((0, 0), (0, 1)))
