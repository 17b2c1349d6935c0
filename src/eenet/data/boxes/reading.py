"""Objects as a file has them → checked boxes; and an image brought to a network's size, by letterboxing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.data.masks.reading import scaled_to, standardised
from eenet.data.pixels import Pixels, whole_pixels

MULTIPLE = 32
"""Both sides of what a network for boxes sees are multiples of it: the stride of most backbones."""
GREY = 114  # of what is added to an image
ROUNDING = 2.0  # pixels by which a box may go over the border of its image


@dataclass(frozen=True)
class BoxFormat:
    """What the categories of objects are called."""

    class_names: tuple[str, ...]


class Found(NamedTuple):
    """The objects of an image as a file has them."""

    boxes_M4: NDArray[np.float64]
    """Left, top, right, bottom in pixels."""
    labels_M: NDArray[np.int64]
    """Class numbers."""
    crowd_M: NDArray[np.bool_]
    """Stands for many, or is too hard to count: finding it is neither right nor wrong."""
    areas_M: NDArray[np.float64] | None = None
    """In pixels, where a file says it. None: of the box."""
    relative: bool = False
    """Boxes are in parts of the image's width and height."""


class Objects(NamedTuple):
    """What is to be found in an image."""

    boxes_M4: NDArray[np.float64]
    """Left, top, right, bottom in pixels of the image as it is."""
    labels_M: NDArray[np.int64]
    crowd_M: NDArray[np.bool_]
    areas_M: NDArray[np.float64]
    size: tuple[int, int]
    """(height, width) of the image."""


def made(found: Found | Callable[[], Found]) -> Found:
    """Objects of an image whose file is perhaps only read now."""
    return found if isinstance(found, Found) else found()


def found_objects(
    boxes: Any, labels: Any, *, crowd: Any = None, areas: Any = None, relative: bool = False
) -> Found:
    """From lists: boxes left, top, right, bottom, and class numbers."""
    labels_M = np.asarray(labels, np.int64).reshape(-1)
    crowd_M = np.zeros(len(labels_M), bool) if crowd is None else np.asarray(crowd, bool)
    boxes_M4 = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas_M = None if areas is None else np.asarray(areas, np.float64)
    return Found(boxes_M4, labels_M, crowd_M, areas_M, relative)


def from_xywh(boxes_M4: Any) -> NDArray[np.float64]:
    """Left, top, width, height → left, top, right, bottom."""
    boxes_M4 = np.array(boxes_M4, np.float64).reshape(-1, 4)
    boxes_M4[:, 2:] += boxes_M4[:, :2]
    return boxes_M4


def checked_objects(found: Found, size: tuple[int, int], form: BoxFormat, name: str) -> Objects:
    """Objects of an image of this (height, width), boxes cut off at its border.

    Raises:
        ValueError: a box outside the image or without size, or a category that there isn't.
    """
    height, width = size
    boxes_M4 = found.boxes_M4 * ([width, height] * 2 if found.relative else 1)
    if len(boxes_M4) != len(found.labels_M):
        raise ValueError(f"{name} has {len(boxes_M4)} boxes, but {len(found.labels_M)} categories")
    classes = len(form.class_names)
    if (unknown_M := (found.labels_M < 0) | (found.labels_M >= classes)).any():
        raise ValueError(
            f"{name} holds category {int(found.labels_M[unknown_M][0])}; there are {classes} "
            f"(0 to {classes - 1})"
        )
    limits = np.array([width, height] * 2)
    over_M = ~((boxes_M4 >= -ROUNDING) & (boxes_M4 <= limits + ROUNDING)).all(1)  # also NaN
    if over_M.any():
        raise ValueError(
            f"{name}: the box {_told(boxes_M4[over_M][0])} lies outside the image of {width}×{height} pixels"
        )
    boxes_M4 = boxes_M4.clip(0, limits)
    sides_M2 = boxes_M4[:, 2:] - boxes_M4[:, :2]
    if (flat_M := (sides_M2 <= 0).any(1)).any():
        raise ValueError(f"{name}: the box {_told(boxes_M4[flat_M][0])} has no size")
    areas_M = sides_M2.prod(1) if found.areas_M is None else found.areas_M
    return Objects(boxes_M4, found.labels_M, found.crowd_M, areas_M, size)


def _told(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{side:g}" for side in np.round(box, 1)) + ")"


def read_objects(
    image: Any, found: Found, form: BoxFormat, name: str, *, channels: int | None, standardise: bool
) -> tuple[Pixels, Objects]:
    """An image, uint8 [C, H, W] of the size it has, and its objects.

    Raises:
        ValueError: as `checked_objects`, or the image can't be read.
    """
    pixels_CHW = whole_pixels(image, channels)
    height, width = pixels_CHW.shape[1:]
    objects = checked_objects(found, (height, width), form, name)
    return standardised(pixels_CHW) if standardise else pixels_CHW, objects


def letterbox_size(size: Sequence[int], longer: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of an image scaled to this longer side, and the same with what is added to it."""
    scale = longer / max(size)
    height, width = (max(round(side * scale), 1) for side in size)
    return (height, width), (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)


def letterboxed(pixels_CHW: Pixels, longer: int) -> Pixels:
    """An image scaled to a longer side, with grey added below and on the right, up to multiples of 32."""
    scaled, (height, width) = letterbox_size(pixels_CHW.shape[1:], longer)
    found = np.full((len(pixels_CHW), height, width), GREY, np.uint8)
    found[:, : scaled[0], : scaled[1]] = scaled_to(pixels_CHW, scaled)
    return found
