"""Labelled images: held in memory, or decoded from disk whenever they are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eenet.data.pixels import to_cropped_pixels, to_pixels

SAMPLE = 5000  # images looked at for mean and standard deviation, where they aren't in memory


class _Labelled:
    """What both kinds of image sets share."""

    labels_B: Tensor
    """int64."""
    class_names: list[str]
    image_size: tuple[int, int, int]
    """(channels, height, width)."""

    def __len__(self) -> int:
        return len(self.labels_B)

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Tensor:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each."""
        raise NotImplementedError

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, on a scale of 0 to 1."""
        counts = torch.zeros(self.image_size[0], 256, dtype=torch.float64)
        for chunk in self._sample().split(1000):
            channels = self.pixels(chunk).transpose(0, 1).flatten(1)
            counts += torch.stack([torch.bincount(c, minlength=256) for c in channels])
        weights, values = counts / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
        mean = weights @ values
        std = (weights @ values**2 - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)
        return mean.tolist(), std.tolist()

    def _sample(self) -> Tensor:
        return torch.arange(len(self))


@dataclass(frozen=True)
class ImageSet(_Labelled):
    """Labelled images in memory."""

    pixels_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    class_names: list[str]

    @property
    def image_size(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(channels, height, width)."""
        _, channels, height, width = self.pixels_BCHW.shape
        return channels, height, width

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Tensor:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each."""
        chosen = self.pixels_BCHW[indices]
        if seeds is None:
            return chosen
        pairs = zip(chosen, seeds, strict=True)
        return torch.stack([to_cropped_pixels(image, self.image_size, seed) for image, seed in pairs])

    def subset(self, indices: Any) -> "ImageSet":
        """The images at these indices."""
        return ImageSet(self.pixels_BCHW[indices], self.labels_B[indices], self.class_names)


@dataclass(frozen=True)
class LazyImageSet(_Labelled):
    """Labelled images that stay where they are and are decoded whenever they are needed.

    Memory stays the same however many there are: only the labels are held.
    """

    read: Callable[[list[int]], Sequence[Any]]
    """Indices → images of any kind that `eenet.data.to_pixels` takes."""
    labels_B: Tensor
    class_names: list[str]
    image_size: tuple[int, int, int]
    name: str = "the data set"
    indices_B: Tensor | None = None
    """Where `read` finds these images. Default: in order."""

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Tensor:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each."""
        wanted = np.atleast_1d(self._places_B[indices].numpy()).tolist()
        decoded = []
        for j, (place, image) in enumerate(zip(wanted, self.read(wanted), strict=True)):
            try:
                if seeds is None:
                    decoded.append(to_pixels(image, self.image_size))
                else:
                    decoded.append(to_cropped_pixels(image, self.image_size, seeds[j]))
            except ValueError as error:
                raise ValueError(f"image {place} of {self.name}: {error}") from error
        return torch.stack(decoded) if decoded else torch.empty(0, *self.image_size, dtype=torch.uint8)

    def subset(self, indices: Any) -> "LazyImageSet":
        """The images at these indices."""
        return replace(self, labels_B=self.labels_B[indices], indices_B=self._places_B[indices])

    def in_memory(self, on_progress: Callable[[int], None] | None = None) -> ImageSet:
        """All of them decoded; `on_progress` is told how many are done since its last call."""
        pixels_BCHW = torch.empty(len(self), *self.image_size, dtype=torch.uint8)
        for chunk in torch.arange(len(self)).split(500):
            pixels_BCHW[chunk] = self.pixels(chunk)
            if on_progress is not None:
                on_progress(len(chunk))
        return ImageSet(pixels_BCHW, self.labels_B, self.class_names)

    @property
    def _places_B(self) -> Tensor:
        return torch.arange(len(self)) if self.indices_B is None else self.indices_B

    def _sample(self) -> Tensor:
        return torch.linspace(0, len(self) - 1, min(len(self), SAMPLE)).long()


Images = ImageSet | LazyImageSet


def sample(images: Images, count: int) -> Any:
    """Pixels of some images at random, the same every time, as an array: data sets may be sorted by class."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.pixels(order[:count].sort().values).numpy()
