"""Labelled images: held in memory, or decoded from disk whenever they are needed."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from eenet.common import cores, counted, progress
from eenet.data.pixels import image_size, to_cropped_pixels, to_pixels

SAMPLE = 5000  # images looked at for mean and standard deviation, where they aren't in memory
LISTED = 10  # damaged images that a message names
FIRST = 20  # images whose decoding is timed
SLOW = 3e-4  # seconds an image from which threads gain time; below, Python itself is what takes it
UNREADABLE = (ValueError, OSError, SyntaxError)
"""What reading a damaged file raises; Pillow's decoders, in data sets of a user's own, raise all three."""
Made = TypeVar("Made")


class DamagedError(ValueError):
    """Images can't be read; the message names them."""


class _Labelled:
    """What both kinds of image sets share."""

    labels_B: Tensor
    """int64."""
    class_names: list[str]
    image_size: tuple[int, int, int]
    """(channels, height, width)."""
    origin: str
    """Where a split comes from that the data set doesn't have under its name: `taken from train`, `val/`."""
    notes: tuple[str, ...]
    """What was left out of the data set, and from which table labels come."""

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

    def refuse_damaged(self, first: Exception) -> NoReturn:
        """Name all images that can't be read, now that one was met."""
        raise first

    def _sample(self) -> Tensor:
        return torch.arange(len(self))


@dataclass(frozen=True)
class ImageSet(_Labelled):
    """Labelled images in memory."""

    pixels_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    class_names: list[str]
    origin: str = ""
    notes: tuple[str, ...] = ()

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
        return replace(self, pixels_BCHW=self.pixels_BCHW[indices], labels_B=self.labels_B[indices])


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
    origin: str = ""
    notes: tuple[str, ...] = ()

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
            except UNREADABLE as error:
                raise ValueError(f"image {place} of {self.name}: {error}") from error
        return torch.stack(decoded) if decoded else torch.empty(0, *self.image_size, dtype=torch.uint8)

    def subset(self, indices: Any) -> "LazyImageSet":
        """The images at these indices."""
        return replace(self, labels_B=self.labels_B[indices], indices_B=self._places_B[indices])

    def in_memory(
        self, on_progress: Callable[[int], None] | None = None, *, skip_damaged: bool = False
    ) -> ImageSet:
        """All of them decoded; `on_progress` is told how many are done since its last call.

        Raises:
            ValueError: some are damaged (all of those are named), and `skip_damaged` isn't given.
        """
        pixels_BCHW = torch.empty(len(self), *self.image_size, dtype=torch.uint8)
        damaged: dict[int, Exception] = {}
        for i, made in self._each(partial(to_pixels, input_size=self.image_size), on_progress):
            if isinstance(made, Exception):
                damaged[i] = made
            else:
                pixels_BCHW[i] = made
        held = ImageSet(pixels_BCHW, self.labels_B, self.class_names, self.origin, self.notes)
        if not damaged:
            return held
        if not skip_damaged:
            raise DamagedError(complaint(damaged.values(), len(self), self.name))
        kept = self._without(damaged)
        return replace(held.subset(self._others(damaged)), notes=kept.notes)

    def damaged(self) -> dict[int, Exception]:
        """Which of them can't be read, and why; each is decoded once, on all cores."""
        with progress(f"looking for damaged images in {self.name}", len(self)) as advance:
            found = self._each(image_size, advance)
            return {i: made for i, made in found if isinstance(made, Exception)}

    def without_damaged(self) -> "LazyImageSet":
        """Those that can be read; each is decoded once to know. A note counts the others."""
        damaged = self.damaged()
        return self._without(damaged) if damaged else self

    def refuse_damaged(self, first: Exception) -> NoReturn:
        """Name all images that can't be read, now that one was met."""
        damaged = self.damaged()
        raise ValueError(
            complaint(damaged.values(), len(self), self.name) if damaged else str(first)
        ) from first

    def _each(
        self, work: Callable[[Any], Made], on_progress: Callable[[int], None] | None
    ) -> Iterator[tuple[int, Made | Exception]]:
        """What `work` makes of each image, or its error."""
        run, attempt, everything = map, partial(_attempt, work), torch.arange(len(self))
        with ThreadPoolExecutor(cores()) as pool:
            for chunk in (*everything[:FIRST].split(FIRST), *everything[FIRST:].split(500)):
                places = self._places_B[chunk].tolist()
                images = self._read_each(places)
                began = time.perf_counter()
                made = list(run(attempt, images))
                if run is map and time.perf_counter() - began > len(chunk) * SLOW:
                    run = pool.map
                for i, place, image, result in zip(chunk.tolist(), places, images, made, strict=True):
                    if isinstance(result, Exception) and not isinstance(image, str | Path):
                        result = ValueError(f"image {place} of {self.name}: {result}")
                    yield i, result
                if on_progress is not None:
                    on_progress(len(chunk))

    def _read_each(self, places: list[int]) -> Sequence[Any]:
        try:
            return self.read(places)
        except UNREADABLE:
            return [_attempt(lambda place: self.read([place])[0], place) for place in places]

    def _others(self, damaged: Mapping[int, Exception]) -> Tensor:
        return torch.tensor([i for i in range(len(self)) if i not in damaged], dtype=torch.long)

    def _without(self, damaged: Mapping[int, Exception]) -> "LazyImageSet":
        if len(damaged) == len(self):
            raise ValueError(complaint(damaged.values(), len(self), self.name))
        notes = (*self.notes, left_out(damaged, self.name))
        return replace(self.subset(self._others(damaged)), notes=notes)

    @property
    def _places_B(self) -> Tensor:
        return torch.arange(len(self)) if self.indices_B is None else self.indices_B

    def _sample(self) -> Tensor:
        return torch.linspace(0, len(self) - 1, min(len(self), SAMPLE)).long()


Images = ImageSet | LazyImageSet


def complaint(errors: Collection[Exception], total: int, name: str) -> str:
    """What to tell of images that can't be read: how many, the first of them, what to do."""
    some = "; ".join(map(str, list(errors)[:LISTED]))
    more = f"; and {len(errors) - LISTED} more" if len(errors) > LISTED else ""
    return (
        f"{len(errors)} of {counted(total, 'image')} of {name} can't be read (mend or delete them, or go on "
        f"without them: --skip-damaged, skip_damaged=True): {some}{more}"
    )


def left_out(damaged: Collection[Any], name: str) -> str:
    """A note that counts them."""
    return f"{counted(len(damaged), 'damaged file')} of {name} left out"


def _attempt(work: Callable[[Any], Made], image: Any) -> Made | Exception:
    try:
        return image if isinstance(image, Exception) else work(image)
    except UNREADABLE as error:
        return error


def sample(images: Images, count: int) -> Any:
    """Pixels of some images at random, the same every time, as an array: data sets may be sorted by class."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.pixels(order[:count].sort().values).numpy()
