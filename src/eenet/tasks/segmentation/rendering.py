"""Masks to be looked at: indexed pictures with a colour for each class, and laid over their image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.data import whole_pixels

STRENGTH = 0.5  # of the colours over an image


def palette(classes: int) -> NDArray[np.uint8]:
    """A colour for each class, the same every time: uint8 [N, 3]; neighbours in number differ in hue."""
    hues = (np.arange(classes) * 0.618034 + 0.58) % 1
    light = np.where(np.arange(classes) % 2, 0.95, 0.7)
    offsets = (np.array([5, 3, 1]) + 6 * hues[:, None]) % 6
    strength = np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    return np.rint(255 * light[:, None] * (1 - 0.8 * strength)).astype(np.uint8)


def indexed(mask_HW: NDArray[np.uint8], classes: int) -> Image.Image:
    """A mask as a picture whose pixels are class numbers, and whose palette has their colours."""
    picture = Image.fromarray(mask_HW, "L").convert("P")
    picture.putdata(mask_HW.ravel())
    picture.putpalette(palette(classes).ravel().tolist())
    return picture


def overlay(image: Any, mask_HW: NDArray[np.uint8], classes: int) -> Image.Image:
    """A mask laid over its image, of the same size; any kind of image that `eenet.data.to_pixels` takes."""
    pixels_HWC = whole_pixels(image, 3).transpose(1, 2, 0)
    colours_HWC = palette(classes)[mask_HW]
    mixed = (1 - STRENGTH) * pixels_HWC + STRENGTH * colours_HWC
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
