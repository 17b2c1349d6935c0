"""Shuffled batches of images with boxes, varied together by torchvision's transforms."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from eenet.data.boxes.reading import GREY, Objects
from eenet.data.boxes.sets import BoxedImages
from eenet.data.paired.varying import paired_batches
from eenet.data.sources import Augmentation

NO_OBJECT, UNCOUNTED = -1, -2
"""Labels of rows that only fill a batch, and of objects that are neither right nor wrong."""
SCALES = 0.6, 1.5  # of a varied image, against the network's size
SMALLEST = 3  # pixels that must be left of a side of a box


class BoxBatch(NamedTuple):
    """Parts of images with the objects in them, already varied."""

    pixels_BCHW: Tensor
    """uint8."""
    objects_BM5: Tensor
    """Label, left, top, right, bottom, in parts of width and height; with rows of label -1 to fill up."""


def box_batches(
    images: BoxedImages, batch_size: int, augmentation: Augmentation, **which: Any
) -> Iterator[BoxBatch]:
    """The shuffled batches of one epoch; `which`: seed, epoch and so on, see `eenet.data.batches`.

    Every image is brought to its size, [side, side], grey where it doesn't reach. With `crop` it is scaled at
    random first, and a random part taken where it is too large; with `flip` it may be mirrored.
    """
    vary = partial(_varied, transform(images.side, augmentation))
    yield from paired_batches(images, batch_size, vary, _joined, **which)


def transform(side: int, augmentation: Augmentation) -> v2.Transform:
    """An image and its boxes, varied, in [side, side]; boxes of which too little is left are taken out."""
    found: list[v2.Transform] = [
        v2.ScaleJitter((side, side), SCALES if augmentation.crop else (1.0, 1.0), antialias=True),
        v2.RandomCrop(side, pad_if_needed=True, fill=GREY),
    ]
    if augmentation.flip:
        found.append(v2.RandomHorizontalFlip())
    return v2.Compose([*found, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=SMALLEST)])


def _varied(transform: v2.Transform, pixels_CHW: Any, objects: Objects) -> tuple[Tensor, Tensor]:
    boxes: Any = tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
        torch.from_numpy(objects.boxes_M4).float(), format="XYXY", canvas_size=objects.size
    )
    labels_M = torch.from_numpy(objects.labels_M.copy())
    labels_M[torch.from_numpy(objects.crowd_M)] = UNCOUNTED
    image, found = transform(tv_tensors.Image(pixels_CHW), {"boxes": boxes, "labels": labels_M})
    height, width = image.shape[-2:]
    boxes_M4 = found["boxes"].as_subclass(Tensor) / torch.tensor([width, height] * 2)
    return image.as_subclass(Tensor), torch.cat([found["labels"][:, None].float(), boxes_M4], 1)


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> BoxBatch:
    most = max(1, *(len(objects_M5) for _, objects_M5 in pairs))
    objects_BM5 = torch.full((len(pairs), most, 5), float(NO_OBJECT))
    for row_M5, (_, objects_M5) in zip(objects_BM5, pairs, strict=True):
        row_M5[: len(objects_M5)] = objects_M5
    return BoxBatch(torch.stack([pixels_CHW for pixels_CHW, _ in pairs]), objects_BM5)
