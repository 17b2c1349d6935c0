"""Images with boxes around objects, of whatever sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.data.boxes.reading import (
    MULTIPLE,
    BoxFormat,
    Objects,
    found_objects,
    letterboxed,
    made,
    read_objects,
)
from eenet.data.paired.sets import PairedImages
from eenet.data.pixels import Pixels, image_size

LARGEST = 640  # longer side that images are brought to, unless another is asked for


@dataclass(frozen=True)
class BoxedImages(PairedImages[Objects]):
    """Images with objects. `side` is of their longer side; boxes are in pixels of the images as they are.

    An image may hold no object. `form` is a `BoxFormat`. `read` gives objects as `Found`, or what makes that.
    """

    task: ClassVar[str] = "detection"

    def decoded(self, image: Any, truth: Any, name: str) -> tuple[Pixels, Objects]:
        options: dict[str, Any] = {"channels": self.channels, "standardise": self.standardise}
        return read_objects(image, made(truth), self.form, name, **options)

    def scaled(self, index: int) -> tuple[Pixels, Objects]:
        pixels_CHW, objects = self.pair(index)
        return letterboxed(pixels_CHW, self.side), objects

    def counted(self, truth: Objects) -> NDArray[np.int64]:
        """Objects of each class: [N]."""
        return np.bincount(truth.labels_M, minlength=len(self.class_names))

    def nbytes(self, truth: Objects) -> int:
        return truth.boxes_M4.nbytes


def boxed_images(
    images: Sequence[Any],
    objects: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    side: int | None = None,
    standardise: bool = False,
) -> BoxedImages:
    """Images and objects of your own.

    Args:
        images: files, PIL images or arrays, see `eenet.data.to_pixels`.
        objects: for each image `boxes`, in rows left, top, right, bottom in pixels, and as many `labels`,
            class numbers; perhaps `crowd`, whether one stands for many and isn't to be counted.
        class_names: of the numbers from 0 on.
        side: multiple of 32 that the longer side of every image is brought to. Default: as theirs, at
            most 640.
        standardise: bring every image to the same mean and spread.

    Raises:
        ValueError: their numbers differ, or a box lies outside its image, has no size or an unknown class.
    """
    if len(images) != len(objects) or not len(images):
        raise ValueError(
            f"{len(images)} images and objects of {len(objects)}; give as many of both, at least one"
        )
    found = [found_objects(each["boxes"], each["labels"], crowd=each.get("crowd")) for each in objects]

    def read(index: int) -> tuple[Any, Any, str]:
        return images[index], found[index], f"image {index}"

    channels = image_size(images[0])[0]
    form = BoxFormat(tuple(class_names))
    whole = BoxedImages(read, len(images), form, channels, 1, standardise=standardise)
    whole = whole.checked(lambda _: None, skip_damaged=False, in_memory=2**31)
    longest = max(max(truth.size) for _, truth in whole.held.values())
    return replace(whole, side=side_for(longest if side is None else side, asked=side is not None))


def side_for(longest: int, *, asked: bool) -> int:
    """The longer side for images: what was asked for, or near the longest there is.

    Raises:
        ValueError: no multiple of 32 was asked for.
    """
    if not asked:
        return min(max(round(longest / MULTIPLE), 1) * MULTIPLE, LARGEST)
    if longest % MULTIPLE:
        near = max(round(longest / MULTIPLE), 1) * MULTIPLE
        raise ValueError(
            f"image size {longest}: networks for boxes take multiples of {MULTIPLE}, such as {near}"
        )
    return longest
