"""Images with masks, of whatever sizes: held in memory if they are few, else decoded when they are needed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from eenet.common import cores
from eenet.data.image_sets import UNREADABLE, DamagedError, Images, complaint, evenly, left_out
from eenet.data.masks.reading import NO_CLASS, MaskFormat, read_pair, scaled_to, size_for
from eenet.data.pixels import Pixels, quiet, to_array

SAMPLE = 500  # images looked at for mean and standard deviation
Pair = tuple[Pixels, NDArray[np.uint8]]
"""An image, uint8 [C, H, W], and its mask [H, W], `NO_CLASS` where a pixel has no class."""


@dataclass(frozen=True)
class MaskedImages:
    """Images with a class for every pixel."""

    task: ClassVar[str] = "segmentation"
    read: Callable[[int], tuple[Any, Any, str]]
    """Index → image and mask as files, bytes or arrays, and what messages call them."""
    count: int
    form: MaskFormat
    channels: int
    side: int
    """That the shorter side of every image is brought to. Masks keep their own size."""
    name: str = "the data set"
    indices_B: NDArray[np.intp] | None = None
    """Where `read` finds these images. Default: in order."""
    standardise: bool = False
    """Bring every image to the same mean and spread."""
    origin: str = ""
    notes: tuple[str, ...] = ()
    held: dict[int, Pair] = field(default_factory=dict, repr=False, compare=False)
    """Decoded ones, by where `read` finds them."""

    def __len__(self) -> int:
        return self.count if self.indices_B is None else len(self.indices_B)

    @property
    def class_names(self) -> list[str]:
        return list(self.form.class_names)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the parts of images that are trained on."""
        return self.channels, self.side, self.side

    @property
    def here(self) -> bool:
        """Whether all are in memory."""
        return all(int(i) in self.held for i in self._places_B)

    def pair(self, index: int) -> Pair:
        """An image and its mask, both as large as they are.

        Raises:
            ValueError: they can't be read, or don't belong together.
        """
        place = int(self._places_B[index])
        if place in self.held:
            return self.held[place]
        image, mask, name = self.read(place)
        with quiet():
            return read_pair(
                image, mask, self.form, name, channels=self.channels, standardise=self.standardise
            )

    def scaled(self, index: int) -> Pair:
        """The same with the image as the network is to see it; the mask keeps its size."""
        pixels_CHW, mask_HW = self.pair(index)
        return scaled_to(pixels_CHW, size_for(mask_HW.shape, self.side)), mask_HW

    def buckets(self, batch_size: int) -> Iterator[tuple[NDArray[np.intp], Pixels, list[NDArray[np.uint8]]]]:
        """All images in batches of one size: their indices, pixels [B, C, H, W], and masks."""
        waiting: dict[tuple[int, ...], list[tuple[int, Pair]]] = {}

        def batch(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], Pixels, list[NDArray[np.uint8]]]:
            indices, pairs = zip(*waiting.pop(shape), strict=True)
            return np.array(indices), np.stack([p for p, _ in pairs]), [m for _, m in pairs]

        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(self), batch_size):
                chunk = range(start, min(start + batch_size, len(self)))
                for index, pair in zip(chunk, pool.map(self.scaled, chunk), strict=True):
                    shape = (*pair[0].shape, *pair[1].shape)
                    waiting.setdefault(shape, []).append((index, pair))
                    if len(waiting[shape]) == batch_size:
                        yield batch(shape)
        for shape in list(waiting):
            yield batch(shape)

    def of_one_size(self, count: int) -> Pixels:
        """So many images at random, the same every time, of the first size that has them: [B, C, H, W]."""
        seen: dict[tuple[int, ...], list[Pixels]] = {}
        for index in np.random.default_rng(0).permutation(len(self)).tolist():
            pixels_CHW, _ = self.scaled(index)
            alike = seen.setdefault(pixels_CHW.shape, [])
            alike.append(pixels_CHW)
            if len(alike) == count:
                break
        return np.stack(max(seen.values(), key=len))

    def checked(
        self, on_progress: Callable[[int], Any], *, skip_damaged: bool, in_memory: int
    ) -> "MaskedImages":
        """The same once every image and mask was read; kept in memory up to so many bytes.

        Raises:
            ValueError: some can't be read or don't belong together (they are named), unless `skip_damaged`.
        """
        errors: dict[int, Exception] = {}
        held: dict[int, Pair] = {}
        sums_N, total = np.zeros(len(self.class_names), np.int64), 0

        def attempt(index: int) -> Pair | Exception:
            try:
                return self.pair(index)
            except UNREADABLE as error:
                return error

        with ThreadPoolExecutor(cores()) as pool:
            for index, made in enumerate(pool.map(attempt, range(len(self)))):
                on_progress(1)
                if isinstance(made, Exception):
                    errors[index] = made
                    continue
                sums_N += _pixels_by_class(made[1], len(sums_N))
                total += made[0].nbytes + made[1].nbytes
                if total <= in_memory:
                    held[int(self._places_B[index])] = made
        if errors and (not skip_damaged or len(errors) == len(self)):
            raise DamagedError(complaint(errors.values(), len(self), self.name))
        if total > in_memory:
            held.clear()
        found = replace(self, held=held)
        if errors:
            kept = [i for i in range(len(self)) if i not in errors]
            found = replace(found.subset(kept), notes=(*self.notes, left_out(errors, self.name)))
        vars(found)["_sums_N"] = sums_N
        return found

    def subset(self, indices: Any) -> "MaskedImages":
        """The images at these indices."""
        rows = indices if isinstance(indices, slice) else np.atleast_1d(to_array(indices)).astype(np.intp)
        return replace(self, indices_B=self._places_B[rows])

    def class_counts(self) -> NDArray[np.int64]:
        """How many pixels each class has: [N]."""
        return self._sums_N

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, on a scale of 0 to 1."""
        sums, squares, count = np.zeros(self.channels), np.zeros(self.channels), 0
        for index in evenly(len(self), SAMPLE).tolist():
            pixels_CHW = self.pair(index)[0].astype(np.float64) / 255
            sums += pixels_CHW.sum((1, 2))
            squares += (pixels_CHW**2).sum((1, 2))
            count += pixels_CHW[0].size
        mean = sums / count
        return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 1e-6)).tolist()

    def refuse_damaged(self, first: Exception) -> NoReturn:
        """All were read before, so this one was changed since."""
        raise first

    @property
    def _places_B(self) -> NDArray[np.intp]:
        return np.arange(self.count) if self.indices_B is None else self.indices_B

    @cached_property
    def _sums_N(self) -> NDArray[np.int64]:
        classes = len(self.class_names)
        each = [_pixels_by_class(self.pair(i)[1], classes) for i in range(len(self))]
        return np.sum(each, 0) if each else np.zeros(classes, np.int64)


AnyImages = Images | MaskedImages


def masked_images(
    images: Sequence[Any],
    masks: Sequence[Any],
    class_names: Sequence[str],
    *,
    side: int | None = None,
    ignore_index: int = NO_CLASS,
    standardise: bool = False,
) -> MaskedImages:
    """Images and masks of your own: files, PIL images or arrays, see `eenet.data.to_pixels`.

    Args:
        images, masks: as many of both; masks hold class numbers.
        class_names: of the numbers from 0 on.
        side: that the shorter side of every image is brought to. Default: the smallest there is.
        ignore_index: of pixels without a class.
        standardise: bring every image to the same mean and spread.

    Raises:
        ValueError: their numbers or sizes differ, or a mask holds something else than classes.
    """
    if len(images) != len(masks) or not len(images):
        raise ValueError(f"{len(images)} images and {len(masks)} masks; give as many of both, at least one")
    form = MaskFormat(tuple(class_names), ignore_index)

    def read(index: int) -> tuple[Any, Any, str]:
        return images[index], masks[index], f"image {index}"

    first, _ = read_pair(*read(0)[:2], form, "image 0", channels=None, standardise=False)
    found = MaskedImages(read, len(images), form, len(first), 1, standardise=standardise)
    found = found.checked(lambda _: None, skip_damaged=False, in_memory=2**31)
    return replace(found, side=side or min(min(m.shape) for _, m in found.held.values()))


def _pixels_by_class(mask_HW: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.bincount(mask_HW.ravel(), minlength=NO_CLASS + 1)[:classes]
