"""From what an exit says of every place to boxes in pixels of the image; numpy alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.data import letterbox_size
from eenet.policies import logit, sigmoid

MOST = 100
"""Boxes of an image, unless a network's settings say otherwise; COCO's limit."""
BOX_CANDIDATES = 4  # times as many places are looked at
LEAST, MOST_CELLS = -4.0, 6.0  # logarithms of the distance from a place to a side of its box, in cells
SAME_OBJECT = 0.6  # intersection over union, from which on two boxes of a class are of the same object
Scale = Sequence[float]
"""Factor and shift of the logits of an exit's class probabilities."""


class Boxes(NamedTuple):
    """Objects that were found, the surest first."""

    boxes_M4: NDArray[np.float64]
    """Left, top, right, bottom."""
    scores_M: NDArray[np.float64]
    """Probabilities, in (0, 1)."""
    labels_M: NDArray[np.int64]

    def only(self, rows: Any) -> "Boxes":
        """Some of them, by index or mask."""
        return Boxes(self.boxes_M4[rows], self.scores_M[rows], self.labels_M[rows])


def boxes_of(answer_Chw: NDArray[np.float32], size: tuple[int, int], longer: int, most: int = MOST) -> Boxes:
    """The boxes of an image.

    Args:
        answer_Chw: what an exit answered: class probabilities and four distances in cells, [N + 4, h, w].
        size: (height, width) of the image.
        longer: side that it was brought to.
        most: so many at most.
    """
    scaled, (height, width) = letterbox_size(size, longer)
    _, rows, columns = answer_Chw.shape
    scores = answer_Chw[:-4].ravel()
    count = min(BOX_CANDIDATES * most, len(scores))
    places = np.argpartition(-scores, count - 1)[:count]
    places = places[np.lexsort((places, -scores[places]))]
    labels_M, y, x = np.unravel_index(places, answer_Chw[:-4].shape)
    left, top, right, bottom = answer_Chw[-4:, y, x].astype(np.float64)
    corners = np.stack([x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom], 1)
    per_cell = np.array([width / columns * size[1] / scaled[1], height / rows * size[0] / scaled[0]] * 2)
    boxes_M4 = (corners * per_cell).clip(0, [size[1], size[0]] * 2)
    there = np.flatnonzero((boxes_M4[:, 2:] > boxes_M4[:, :2]).all(1))  # not all in what was added
    kept = there[suppressed(boxes_M4[there], labels_M[there], most)]
    return Boxes(boxes_M4[kept], scores[places[kept]].astype(np.float64), labels_M[kept].astype(np.int64))


def suppressed(
    boxes_M4: NDArray[np.float64], labels_M: NDArray[np.int64], most: int | None = None
) -> NDArray[np.intp]:
    """Non-maximum suppression within each class: which boxes stay, of those in descending order of scores.

    `most`: so many at most.
    """
    left, stay = np.arange(len(boxes_M4)), []
    while len(left) and len(stay) != most:
        first, left = left[0], left[1:]
        stay.append(first)
        fit = overlaps(boxes_M4[first, None], boxes_M4[left])[0]
        left = left[(fit <= SAME_OBJECT) | (labels_M[left] != labels_M[first])]
    return np.array(stay, np.intp)


def overlaps(
    ours_D4: NDArray[np.float64], true_G4: NDArray[np.float64], crowd_G: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Intersection over union of each with each: [D, G]; with crowds, the part of ours that lies in them."""
    both_DG2 = np.minimum(ours_D4[:, None, 2:], true_G4[None, :, 2:])
    both_DG2 -= np.maximum(ours_D4[:, None, :2], true_G4[None, :, :2])
    both_DG = both_DG2.clip(0).prod(2)
    ours_D, true_G = (sides(boxes).prod(1) for boxes in (ours_D4, true_G4))
    either_DG = ours_D[:, None] + true_G - both_DG
    if crowd_G is not None:
        either_DG = np.where(crowd_G, ours_D[:, None], either_DG)
    return both_DG / np.maximum(either_DG, 1e-12)


def sides(boxes_M4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Widths and heights: [M, 2]."""
    return boxes_M4[:, 2:] - boxes_M4[:, :2]


def rescaled(scores_M: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Probabilities of an exit on the scale of the final exit."""
    factor, shift = scale
    return sigmoid(factor * logit(scores_M).astype(np.float64) + shift)


def answers_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an image leaves with, from logits [..., N + 4, h, w], as `head.answered` has it."""
    classes, sides = logits[..., :-4, :, :], logits[..., -4:, :, :]
    return np.concatenate([sigmoid(classes), np.exp(sides.clip(LEAST, MOST_CELLS))], -3).astype(np.float32)


def logits_of(answers: NDArray[np.float32]) -> NDArray[np.float32]:
    """The other way round."""
    classes, sides = answers[..., :-4, :, :], answers[..., -4:, :, :]
    return np.concatenate([logit(classes), np.log(sides)], -3)
