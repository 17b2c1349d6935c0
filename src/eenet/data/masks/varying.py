"""Shuffled batches of images with masks, varied together, all decided by seed, epoch and step alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from eenet.data.batching import derived_seed, loaded, own_rows, shuffled
from eenet.data.masks.reading import NO_CLASS
from eenet.data.masks.sets import MaskedImages
from eenet.data.sources import Augmentation

LEAST_AREA = 0.25  # of an image, in a random part that is brought to full size


class MaskBatch(NamedTuple):
    """Parts of images and masks, already varied."""

    pixels_BCHW: Tensor
    """uint8."""
    masks_BHW: Tensor
    """uint8, `NO_CLASS` where a pixel has no class."""


def mask_batches(
    images: MaskedImages,
    batch_size: int,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
) -> Iterator[MaskBatch]:
    """The shuffled batches of one epoch from step `start` on; see `eenet.data.batches`.

    Every image is brought to its size and gives a random part, [side, side]. With `crop` that is 25 to 100 %
    of its area, scaled; with `flip` it may be mirrored.
    """
    steps = _Steps(images, batch_size, augmentation, seed, epoch, part)
    yield from loaded(steps, range(start, len(images) // batch_size), images, workers)


@dataclass
class _Steps(Dataset[MaskBatch]):
    images: MaskedImages
    batch_size: int
    augmentation: Augmentation
    seed: int
    epoch: int
    part: tuple[int, int]

    def __post_init__(self) -> None:
        self.order = shuffled(len(self.images), self.seed, self.epoch).tolist()
        side = self.images.side
        if self.augmentation.crop:
            found: list[v2.Transform] = [v2.RandomResizedCrop(side, (LEAST_AREA, 1.0), antialias=True)]
        else:
            fill = {tv_tensors.Image: 0, tv_tensors.Mask: NO_CLASS}
            found = [
                v2.Resize(side, antialias=True),
                v2.RandomCrop(side, pad_if_needed=True, fill=fill),  # type: ignore[arg-type]
            ]
        if self.augmentation.flip:
            found.append(v2.RandomHorizontalFlip())
        self.transform = v2.Compose(found)

    def __getitem__(self, step: int) -> MaskBatch:
        size = self.batch_size
        chosen = self.order[step * size : (step + 1) * size][own_rows(size, self.part)]
        pairs = [self._varied(index, derived_seed(self.seed, self.epoch, index + 1)) for index in chosen]
        return MaskBatch(*map(torch.stack, zip(*pairs, strict=True)))

    def _varied(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        pixels_CHW, mask_HW = self.images.pair(index)
        image, mask = tv_tensors.Image(pixels_CHW), tv_tensors.Mask(mask_HW[None])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            image, mask = self.transform(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)[0]
