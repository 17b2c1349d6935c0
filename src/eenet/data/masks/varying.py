"""Shuffled batches of images with masks, varied together."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from eenet.data.masks.reading import NO_CLASS
from eenet.data.masks.sets import MaskedImages
from eenet.data.paired.varying import paired_batches
from eenet.data.sources import Augmentation

LEAST_AREA = 0.25  # of an image, in a random part that is brought to full size


class MaskBatch(NamedTuple):
    """Parts of images and masks, already varied."""

    pixels_BCHW: Tensor
    """uint8."""
    masks_BHW: Tensor
    """uint8, `NO_CLASS` where a pixel has no class."""


def mask_batches(
    images: MaskedImages, batch_size: int, augmentation: Augmentation, **which: Any
) -> Iterator[MaskBatch]:
    """The shuffled batches of one epoch; `which`: seed, epoch and so on, see `eenet.data.batches`.

    Every image is brought to its size and gives a random part, [side, side]. With `crop` that is 25 to 100 %
    of its area, scaled; with `flip` it may be mirrored.
    """
    vary = partial(_varied, transform(images.side, augmentation))
    yield from paired_batches(images, batch_size, vary, _joined, **which)


def transform(side: int, augmentation: Augmentation) -> v2.Transform:
    """A random part of an image and its mask, both [side, side]."""
    if augmentation.crop:
        found: list[v2.Transform] = [v2.RandomResizedCrop(side, (LEAST_AREA, 1.0), antialias=True)]
    else:
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: NO_CLASS}
        found = [
            v2.Resize(side, antialias=True),
            v2.RandomCrop(side, pad_if_needed=True, fill=fill),  # type: ignore[arg-type]
        ]
    if augmentation.flip:
        found.append(v2.RandomHorizontalFlip())
    return v2.Compose(found)


def _varied(transform: v2.Transform, pixels_CHW: Any, mask_HW: Any) -> tuple[Tensor, Tensor]:
    image, mask = transform(tv_tensors.Image(pixels_CHW), tv_tensors.Mask(mask_HW[None]))
    return image.as_subclass(Tensor), mask.as_subclass(Tensor)[0]


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> MaskBatch:
    return MaskBatch(*map(torch.stack, zip(*pairs, strict=True)))
