"""Images with their truth, of whatever sizes: held in memory if they are few, else decoded when needed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import cores
from eenet.data.image_sets import UNREADABLE, DamagedError, Images, complaint, evenly, left_out
from eenet.data.pixels import Pixels, quiet, to_array

SAMPLE = 500  # images looked at for mean and standard deviation
Truth = TypeVar("Truth")
"""What is known of an image."""


@dataclass(frozen=True)
class PairedImages(ABC, Generic[Truth]):
    """Images, each with its truth."""

    task: ClassVar[str]
    """That these images are for, see `eenet.tasks`."""
    read: Callable[[int], tuple[Any, Any, str]]
    """Index → image as a file, bytes or array, its truth as it is found, and what messages call them."""
    count: int
    form: Any
    """What truths mean; it has `class_names`."""
    channels: int
    side: int
    """That images are brought to; of which of their sides, a kind of images says."""
    name: str = "the data set"
    indices_B: NDArray[np.intp] | None = None
    """Where `read` finds these images. Default: in order."""
    standardise: bool = False
    """Bring every image to the same mean and spread."""
    labelled: bool = True
    """Whether their truths are known. If not, there is no object, and no pixel has a class."""
    origin: str = ""
    notes: tuple[str, ...] = ()
    held: dict[int, tuple[Pixels, Truth]] = field(default_factory=dict, repr=False, compare=False)
    """Decoded ones, by where `read` finds them."""

    # What a kind of images says -----------------------------------------------------------

    @abstractmethod
    def decoded(self, image: Any, truth: Any, name: str) -> tuple[Pixels, Truth]:
        """What `read` gave → pixels uint8 [C, H, W] of the size they have, and the truth, checked.

        Raises:
            ValueError: they can't be read, or don't belong together.
        """

    @abstractmethod
    def scaled(self, index: int) -> tuple[Pixels, Truth]:
        """The image as a network is to see it; its truth stays as it is."""

    @abstractmethod
    def counted(self, truth: Truth) -> NDArray[np.int64]:
        """How often each class occurs: [N]."""

    @abstractmethod
    def nbytes(self, truth: Truth) -> int:
        """Of memory that a truth takes."""

    def kind(self, pixels: Pixels, truth: Truth) -> Hashable:  # noqa: ARG002
        """Those of one kind may be in one batch."""
        return pixels.shape

    # What all share -----------------------------------------------------------------------

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

    def pair(self, index: int) -> tuple[Pixels, Truth]:
        """An image as large as it is, and its truth.

        Raises:
            ValueError: they can't be read, or don't belong together.
        """
        place = int(self._places_B[index])
        if place in self.held:
            return self.held[place]
        with quiet():
            return self.decoded(*self.read(place))

    def name_of(self, index: int) -> str:
        """What messages call an image: its file, or its place."""
        return self.read(int(self._places_B[index]))[2]

    def buckets(self, batch_size: int) -> Iterator[tuple[NDArray[np.intp], Pixels, list[Truth]]]:
        """All images in batches of one kind: their indices, pixels [B, C, H, W], and truths."""
        waiting: dict[Hashable, list[tuple[int, tuple[Pixels, Truth]]]] = {}

        def batch(kind: Hashable) -> tuple[NDArray[np.intp], Pixels, list[Truth]]:
            indices, pairs = zip(*waiting.pop(kind), strict=True)
            return np.array(indices), np.stack([p for p, _ in pairs]), [truth for _, truth in pairs]

        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(self), batch_size):
                chunk = range(start, min(start + batch_size, len(self)))
                for index, pair in zip(chunk, pool.map(self.scaled, chunk), strict=True):
                    kind = self.kind(*pair)
                    waiting.setdefault(kind, []).append((index, pair))
                    if len(waiting[kind]) == batch_size:
                        yield batch(kind)
        for kind in list(waiting):
            yield batch(kind)

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

    def checked(self, on_progress: Callable[[int], Any], *, skip_damaged: bool, in_memory: int) -> Self:
        """The same once every image and truth was read; kept in memory up to so many bytes.

        Raises:
            ValueError: some can't be read or don't belong together (they are named), unless `skip_damaged`.
        """
        errors: dict[int, Exception] = {}
        held: dict[int, tuple[Pixels, Truth]] = {}
        sums_N, total = np.zeros(len(self.class_names), np.int64), 0

        def attempt(index: int) -> tuple[Pixels, Truth] | Exception:
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
                sums_N += self.counted(made[1])
                total += made[0].nbytes + self.nbytes(made[1])
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

    def subset(self, indices: Any) -> Self:
        """The images at these indices."""
        rows = indices if isinstance(indices, slice) else np.atleast_1d(to_array(indices)).astype(np.intp)
        return replace(self, indices_B=self._places_B[rows])

    def class_counts(self) -> NDArray[np.int64]:
        """How often each class occurs in all: [N]."""
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
        each = [self.counted(self.pair(i)[1]) for i in range(len(self))]
        return np.sum(each, 0) if each else np.zeros(len(self.class_names), np.int64)


AnyImages = Images | PairedImages[Any]
