"""Shuffled batches of tensors and their random variations, all decided by seed, epoch and step alone."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from eenet.data.image_sets import UNREADABLE, Images
from eenet.data.pixels import Pixels, whole_pixels
from eenet.data.sources import Augmentation


class Batch(NamedTuple):
    """Images, labels, and how each is to be varied."""

    pixels_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    flips_B: Tensor
    """Whether to mirror; counts only where the augmentation says so."""
    shifts_B2: Tensor
    """Rows and columns to move by, in 0 … 2 × the largest shift."""
    erased_B2: Tensor
    """Where the middle of what is erased lies, in 0 … 1 of height and width."""


def batches(
    images: Images,
    batch_size: int,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
) -> Iterator[Batch]:
    """The shuffled batches of one epoch from step `start` on; the last, smaller one is left out.

    Order and variation of every image depend on seed, epoch and step alone: a run can be
    taken up anywhere, and processes that share a batch see together what one would see.

    Args:
        images: in memory or not.
        batch_size: of all parts together.
        augmentation: its `crop` is done here, the rest by `augment`.
        seed, epoch, start: which batches.
        part: (i, n): the i-th of n equal parts of every batch.
        workers: processes that decode images ahead. Default: one per core, at most 8, and
            none for images in memory.

    Raises:
        ValueError: a damaged image was met; all damaged images of these are named.
    """
    steps = _Steps(images, batch_size, augmentation, seed, epoch, part)
    yield from loaded(steps, range(start, len(images) // batch_size), images, workers)


def augment(batch: Batch, augmentation: Augmentation) -> Tensor:
    """Shift, mirror and erase in every image as its batch says, on whatever device the images are.

    torchvision's transforms draw once per call, so a batch would share one shift;
    calling them per image costs more than a training step on a GPU.
    """
    pixels_BCHW, device = batch.pixels_BCHW, batch.pixels_BCHW.device
    if not augmentation.shift and not augmentation.flip and not augmentation.erase:
        return pixels_BCHW
    count, channels, height, width = pixels_BCHW.shape
    up, left = _largest_shift(augmentation, height), _largest_shift(augmentation, width)
    columns = torch.arange(width).expand(count, width)
    if augmentation.flip:
        columns = torch.where(batch.flips_B[:, None], columns.flip(1), columns)
    rows = (torch.arange(height) + batch.shifts_B2[:, :1]).to(device)
    columns = (columns + batch.shifts_B2[:, 1:]).to(device)
    padded = F.pad(pixels_BCHW, (left, left, up, up))
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    varied_BCHW = padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    if not augmentation.erase:
        return varied_BCHW
    return _erase(varied_BCHW, batch.erased_B2.to(device), augmentation.erase)


def _erase(pixels_BCHW: Tensor, middles_B2: Tensor, share: float) -> Tensor:
    rows_BH, columns_BW = (
        ((torch.arange(side, device=pixels_BCHW.device) + 0.5) / side - middle_B[:, None]).abs() < share / 2
        for side, middle_B in zip(pixels_BCHW.shape[2:], middles_B2.T, strict=True)
    )
    erased_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
    means_BC11 = pixels_BCHW.float().mean((2, 3), keepdim=True).to(pixels_BCHW.dtype)
    return torch.where(erased_B1HW, means_BC11, pixels_BCHW)


def recoloured(pixels_BCHW: Tensor, most: float) -> Tensor:
    """Images in another light, drawn from torch's generator: brightness, then contrast, then saturation.

    Args:
        pixels_BCHW: uint8.
        most: by how much the factors may differ from 1; 0 leaves the images as they are.
    """
    if not most:
        return pixels_BCHW
    factors = 1 + most * (2 * torch.rand((3, len(pixels_BCHW), 1, 1, 1)) - 1)
    bright, contrast, saturation = factors.to(pixels_BCHW.device)
    varied = pixels_BCHW * bright
    mean = varied.mean((1, 2, 3), keepdim=True)
    varied = mean + contrast * (varied - mean)
    grey = varied.mean(1, keepdim=True)
    varied = grey + saturation * (varied - grey)
    return varied.round().clamp(0, 255).to(torch.uint8)


def normalize(pixels_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels → float32 images with the data set's mean and standard deviation taken out."""
    scale = torch.tensor(std, device=pixels_BCHW.device)[:, None, None] * 255
    shift = torch.tensor(mean, device=pixels_BCHW.device)[:, None, None] * 255
    return (pixels_BCHW - shift) / scale


def to_cropped_pixels(image: Any, input_size: Sequence[int], seed: int) -> Pixels:
    """A random part of an image (8 to 100 % of its area) as uint8 [C, H, W]: ImageNet's augmentation.

    Szegedy et al. 2015. Arguments and errors as in `to_pixels`; `seed` decides the part.
    """
    channels, *wanted = input_size
    pixels = torch.from_numpy(whole_pixels(image, channels))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        part = RandomResizedCrop.get_params(pixels, [0.08, 1.0], [3 / 4, 4 / 3])
    return tv.resized_crop(pixels, *part, wanted, antialias=True).numpy()


def derived_seed(*numbers: int) -> int:
    """One seed from several numbers, such as seed, epoch and step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of so many images in an epoch."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(count, generator=generator).numpy()


def own_rows(batch_size: int, part: tuple[int, int]) -> slice:
    """The i-th of n equal parts of a batch."""
    i, n = part
    assert batch_size % n == 0
    return slice(i * batch_size // n, (i + 1) * batch_size // n)


def loaded(items: Dataset[Any], order: range, images: Any, workers: int | None) -> Iterator[Any]:
    """Items in this order; those of images that aren't in memory are made ahead, in processes."""
    if workers is None:
        workers = 0 if images.here else min(os.cpu_count() or 1, 8)
    generator = torch.Generator().manual_seed(0)  # else the loader draws from the global one
    loader = DataLoader(
        _OrError(items),
        batch_size=None,
        sampler=order,
        num_workers=min(workers, len(order)),
        worker_init_fn=_ignore_ctrl_c,
        generator=generator,
    )
    for item in loader:
        if isinstance(item, Exception):
            images.refuse_damaged(item)
        yield item


@dataclass
class _OrError(Dataset[Any]):
    """Items, or why they can't be read: a process that decodes would wrap its error in a traceback."""

    items: Dataset[Any]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except UNREADABLE as error:
            return error


@dataclass
class _Steps(Dataset[Batch]):
    images: Images
    batch_size: int
    augmentation: Augmentation
    seed: int
    epoch: int
    part: tuple[int, int]

    def __post_init__(self) -> None:
        self.order = shuffled(len(self.images), self.seed, self.epoch)

    def __getitem__(self, step: int) -> Batch:
        size, mine = self.batch_size, own_rows(self.batch_size, self.part)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch, step + 1))
        flips_B = torch.rand(size, generator=generator) < 0.5
        tops = [_largest_shift(self.augmentation, side) for side in self.images.image_size[1:]]
        shifts_B2 = torch.stack(
            [torch.randint(0, 2 * top + 1, (size,), generator=generator) for top in tops], 1
        )
        erased_B2 = torch.rand((size, 2), generator=generator)
        chosen = self.order[step * size : (step + 1) * size][mine]
        seeds = None
        if self.augmentation.crop:
            seeds = torch.randint(2**31, (size,), generator=generator)[mine].tolist()
        pixels_BCHW = torch.from_numpy(self.images.pixels(chosen, seeds))
        labels_B = torch.from_numpy(self.images.labels_B[chosen])
        return Batch(pixels_BCHW, labels_B, flips_B[mine], shifts_B2[mine], erased_B2[mine])


def _largest_shift(augmentation: Augmentation, side: int) -> int:
    return round(augmentation.shift * side)


def _ignore_ctrl_c(worker: int) -> None:  # noqa: ARG001
    """The training process finishes its step and saves; it needs its batch for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
