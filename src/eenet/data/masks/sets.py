"""Images with masks, of whatever sizes."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.data.masks.reading import NO_CLASS, MaskFormat, read_pair, scaled_to, size_for, standardised
from eenet.data.paired.sets import PairedImages
from eenet.data.pixels import Pixels, whole_pixels

Pair = tuple[Pixels, NDArray[np.uint8]]
"""An image, uint8 [C, H, W], and its mask [H, W], `NO_CLASS` where a pixel has no class."""


@dataclass(frozen=True)
class MaskedImages(PairedImages[NDArray[np.uint8]]):
    """Images with a class for every pixel. `side` is of their shorter side; masks keep their own size.

    Masks are uint8 [H, W], `NO_CLASS` where a pixel has no class; `form` is a `MaskFormat`.
    """

    task: ClassVar[str] = "segmentation"

    def decoded(self, image: Any, truth: Any, name: str) -> Pair:
        if self.labelled:
            pixels_CHW, mask_HW = read_pair(image, truth, self.form, name, self.channels)
        else:
            pixels_CHW = whole_pixels(image, self.channels)
            mask_HW = np.full(pixels_CHW.shape[1:], NO_CLASS, np.uint8)
        return standardised(pixels_CHW) if self.standardise else pixels_CHW, mask_HW

    def scaled(self, index: int) -> Pair:
        pixels_CHW, mask_HW = self.pair(index)
        return scaled_to(pixels_CHW, size_for(mask_HW.shape, self.side)), mask_HW

    def counted(self, truth: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Pixels of each class: [N]."""
        return np.bincount(truth.ravel(), minlength=NO_CLASS + 1)[: len(self.class_names)]

    def nbytes(self, truth: NDArray[np.uint8]) -> int:
        return truth.nbytes

    def kind(self, pixels: Pixels, truth: NDArray[np.uint8]) -> Hashable:
        return pixels.shape, truth.shape


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

    first, _ = read_pair(*read(0)[:2], form, "image 0", None)
    found = MaskedImages(read, len(images), form, len(first), 1, standardise=standardise)
    found = found.checked(lambda _: None, skip_damaged=False, in_memory=2**31)
    return replace(found, side=side or min(min(m.shape) for _, m in found.held.values()))
