"""Labelled images: held in memory, or decoded from disk whenever they are needed."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import cores, counted, progress
from eenet.data.pixels import Pixels, image_size, quiet, to_array, to_pixels

SAMPLE = 5000  # images looked at for mean and standard deviation, where they aren't in memory
LISTED = 10  # damaged images that a message names
FIRST = 20  # images whose decoding is timed
SLOW = 3e-4  # seconds an image from which threads gain time; below, Python itself is what takes it
UNREADABLE = (ValueError, OSError, SyntaxError)
"""What reading a damaged file raises; Pillow's decoders, in data sets of a user's own, raise all three."""
Labels = NDArray[np.int64]
Made = TypeVar("Made")


class DamagedError(ValueError):
    """Images can't be read; the message names them."""


class _Labelled:
    """What both kinds of image sets share."""

    task: ClassVar[str] = "classification"
    """That these images are for, see `eenet.tasks`."""
    here: ClassVar[bool]
    """Whether they are in memory."""
    labels_B: Labels
    class_names: list[str]
    image_size: tuple[int, int, int]
    """(channels, height, width)."""
    origin: str
    """Where a split comes from that the data set doesn't have under its name: `taken from train`, `val/`."""
    notes: tuple[str, ...]
    """What was left out of the data set, and from which table labels come."""

    def __len__(self) -> int:
        return len(self.labels_B)

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Pixels:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each.

        Args:
            indices: an integer, a slice, or several as a list or an array.
            seeds: of the random parts, one for each image; needs torch.
        """
        raise NotImplementedError

    def class_counts(self) -> NDArray[np.int64]:
        """How many images each class has: [N]."""
        return np.bincount(self.labels_B, minlength=len(self.class_names))

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, on a scale of 0 to 1."""
        counts = np.zeros((self.image_size[0], 256), np.int64)
        for rows in _chunks(self._sample(), 1000):
            for count, values in zip(counts, self.pixels(rows).swapaxes(0, 1), strict=True):
                count += np.bincount(values.ravel(), minlength=256)
        found = [_mean_std(count.tolist()) for count in counts]
        return [mean for mean, _ in found], [std for _, std in found]

    def refuse_damaged(self, first: Exception) -> NoReturn:
        """Name all images that can't be read, now that one was met."""
        raise first

    def _sample(self) -> NDArray[np.intp]:
        return np.arange(len(self))


@dataclass(frozen=True)
class ImageSet(_Labelled):
    """Labelled images in memory; from tensors too, which become arrays."""

    here: ClassVar[bool] = True
    pixels_BCHW: Pixels
    labels_B: Labels
    class_names: list[str]
    origin: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels_BCHW", to_array(self.pixels_BCHW))
        object.__setattr__(self, "labels_B", to_array(self.labels_B).astype(np.int64, copy=False))

    @property
    def image_size(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(channels, height, width)."""
        _, channels, height, width = self.pixels_BCHW.shape
        return channels, height, width

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Pixels:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each."""
        chosen = self.pixels_BCHW[_rows(indices)]
        if seeds is None:
            return chosen
        return _cropped(chosen.transpose(0, 2, 3, 1), self.image_size, seeds)

    def subset(self, indices: Any) -> "ImageSet":
        """The images at these indices."""
        rows = _rows(indices)
        return replace(self, pixels_BCHW=self.pixels_BCHW[rows], labels_B=self.labels_B[rows])


@dataclass(frozen=True)
class LazyImageSet(_Labelled):
    """Labelled images that stay where they are and are decoded whenever they are needed.

    Memory stays the same however many there are: only the labels are held.
    """

    here: ClassVar[bool] = False
    read: Callable[[list[int]], Sequence[Any]]
    """Indices → images of any kind that `eenet.data.to_pixels` takes."""
    labels_B: Labels
    class_names: list[str]
    image_size: tuple[int, int, int]
    name: str = "the data set"
    indices_B: NDArray[np.intp] | None = None
    """Where `read` finds these images. Default: in order."""
    origin: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels_B", to_array(self.labels_B).astype(np.int64, copy=False))

    def pixels(self, indices: Any, seeds: Sequence[int] | None = None) -> Pixels:
        """The images at these indices: uint8 [B, C, H, W]; with `seeds`, a random part of each."""
        places = self._places_B[_rows(indices)].tolist()
        images, decoded = self.read(places), np.empty((len(places), *self.image_size), np.uint8)
        with quiet():
            for j, (place, image) in enumerate(zip(places, images, strict=True)):
                try:
                    if seeds is None:
                        decoded[j] = to_pixels(image, self.image_size)
                    else:
                        decoded[j : j + 1] = _cropped([image], self.image_size, seeds[j : j + 1])
                except UNREADABLE as error:
                    raise ValueError(f"image {place} of {self.name}: {error}") from error
        return decoded

    def images(self, indices: Any) -> Sequence[Any]:
        """The images at these indices as they are, such as names of files."""
        return self.read(self._places_B[_rows(indices)].tolist())

    def subset(self, indices: Any) -> "LazyImageSet":
        """The images at these indices."""
        rows = _rows(indices)
        return replace(self, labels_B=self.labels_B[rows], indices_B=self._places_B[rows])

    def in_memory(
        self, on_progress: Callable[[int], None] | None = None, *, skip_damaged: bool = False
    ) -> ImageSet:
        """All of them decoded; `on_progress` is told how many are done since its last call.

        Raises:
            ValueError: some are damaged (all of those are named), and `skip_damaged` isn't given.
        """
        pixels_BCHW = np.empty((len(self), *self.image_size), np.uint8)
        damaged: dict[int, Exception] = {}
        for i, made in self.decoded(on_progress):
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
            found = self.each(image_size, advance)
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

    def decoded(
        self, on_progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, Pixels | Exception]]:
        """All of them in order, decoded on all cores: index and uint8 [C, H, W], or why it can't be read."""
        return self.each(partial(to_pixels, input_size=self.image_size), on_progress)

    def each(
        self, work: Callable[[Any], Made], on_progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, Made | Exception]]:
        """What `work` makes of each image, on all cores and in order, or its error."""
        run, attempt, everything = map, partial(_attempt, work), np.arange(len(self))
        with ThreadPoolExecutor(cores()) as pool:
            for chunk in (*_chunks(everything[:FIRST], FIRST), *_chunks(everything[FIRST:], 500)):
                places = self._places_B[chunk].tolist()
                images = self._read_each(places)
                began = time.perf_counter()
                with quiet():
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

    def _others(self, damaged: Mapping[int, Exception]) -> list[int]:
        return [i for i in range(len(self)) if i not in damaged]

    def _without(self, damaged: Mapping[int, Exception]) -> "LazyImageSet":
        if len(damaged) == len(self):
            raise ValueError(complaint(damaged.values(), len(self), self.name))
        notes = (*self.notes, left_out(damaged, self.name))
        return replace(self.subset(self._others(damaged)), notes=notes)

    @property
    def _places_B(self) -> NDArray[np.intp]:
        return np.arange(len(self)) if self.indices_B is None else self.indices_B

    def _sample(self) -> NDArray[np.intp]:
        return evenly(len(self), SAMPLE)


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


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """At most so many places among `count`, from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)


def sample(images: Images, count: int) -> Pixels:
    """Pixels of some images at random, the same every time: data sets may be sorted by class."""
    order = np.random.default_rng(0).permutation(len(images))
    return images.pixels(np.sort(order[:count]))


def in_order(images: Images, batch_size: int) -> Iterator[Pixels]:
    """All images in order: uint8 [B, C, H, W], the last batch possibly smaller.

    Raises:
        ValueError: a damaged image was met; all damaged images of these are named.
    """
    if isinstance(images, ImageSet):
        yield from _chunks(images.pixels_BCHW, batch_size)
        return
    held = []
    for _, made in images.decoded():
        if isinstance(made, Exception):
            images.refuse_damaged(made)
        held.append(made)
        if len(held) == batch_size:
            yield np.stack(held)
            held.clear()
    if held:
        yield np.stack(held)


def _rows(indices: Any) -> Any:
    """What arrays take as indices of several rows."""
    if isinstance(indices, slice):
        return indices
    rows = np.atleast_1d(to_array(indices))
    return rows if rows.size else rows.astype(np.intp)


def _chunks(values: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _cropped(images: Iterable[Any], size: tuple[int, int, int], seeds: Sequence[int]) -> Pixels:
    from eenet.data.batching import to_cropped_pixels  # which needs torch

    return np.stack([to_cropped_pixels(image, size, seed) for image, seed in zip(images, seeds, strict=True)])


def _mean_std(counts: list[int]) -> tuple[float, float]:
    """Of how many pixels have each of 256 levels; in whole numbers up to the last division."""
    count = sum(counts)
    total = sum(level * n for level, n in enumerate(counts))
    squares = sum(level**2 * n for level, n in enumerate(counts))
    std = math.sqrt(count * squares - total**2) / (255 * count)
    return total / (255 * count), max(std, 1e-3)
