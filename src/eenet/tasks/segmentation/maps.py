"""From class logits at the decoder's stride to a class for every pixel of an image, and to pictures of it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.data import whole_pixels

STRENGTH = 0.5  # of the colours over an image


def class_map(logits_Nhw: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.uint8]:
    """The likeliest class of every pixel: uint8 [H, W].

    Logits are brought to (H, W) bilinearly, as torch's `interpolate` does, and compared class after class.
    """
    rows_Hh, columns_wW = _weights(logits_Nhw.shape[1], size[0]), _weights(logits_Nhw.shape[2], size[1]).T
    best_HW = rows_Hh @ (logits_Nhw[0] @ columns_wW)
    found_HW = np.zeros(best_HW.shape, np.uint8)
    for n in range(1, len(logits_Nhw)):
        other_HW = rows_Hh @ (logits_Nhw[n] @ columns_wW)
        better_HW = other_HW > best_HW
        np.copyto(best_HW, other_HW, where=better_HW)
        found_HW[better_HW] = n
    return found_HW


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> NDArray[np.float32]:
    """How much each of `old` values counts for each of `new` ones: [new, old]."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(places.astype(int), max(old - 2, 0))
    weights, rows = np.zeros((new, old), np.float32), np.arange(new)
    weights[rows, low] = 1 - (places - low)
    weights[rows, np.minimum(low + 1, old - 1)] += places - low
    return weights


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
