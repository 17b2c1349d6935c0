"""A mask, as any file or array may hold it → class numbers; and an image to go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.data.pixels import Pixels, open_image, whole_pixels

NO_CLASS = 255
"""What masks hold, once read, where a pixel has no class."""
MOST_CLASSES = 255
STANDARD_SPREAD = 64.0  # levels of a standardised image that one standard deviation becomes


@dataclass(frozen=True)
class MaskFormat:
    """What the numbers or colours of masks mean."""

    class_names: tuple[str, ...]
    ignore_index: int = NO_CLASS
    """Of pixels without a class."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """The colour of each class, for masks in colour. Any other colour must be `ignore_colour`."""
    ignore_colour: tuple[int, int, int] | None = None
    block: int = 1
    """So many images in a row are alike, such as frames of a video: intervals draw them together."""


def read_mask(mask: Any, form: MaskFormat, name: str) -> NDArray[np.uint8]:
    """Class numbers [H, W], `NO_CLASS` where there is none.

    Args:
        mask: a file, its bytes, a PIL image, or an array. Of an indexed PNG the indices count.
        form: what its numbers or colours mean.
        name: of the mask, for messages.

    Raises:
        ValueError: a number or colour that is no class, or no pixel with a class.
    """
    values = _values(mask)
    if values.ndim == 3:
        found = _of_colours(values, form, name)
    else:
        known = (values < len(form.class_names)) & (values >= 0)
        unknown = ~known & (values != form.ignore_index) & (values != NO_CLASS)
        if unknown.any():
            raise ValueError(
                f"{name} holds class {int(values[unknown][0])}; there are {len(form.class_names)} classes "
                f"(0 to {len(form.class_names) - 1}), and {form.ignore_index} for none"
            )
        found = np.where(known & (values != form.ignore_index), values, NO_CLASS).astype(np.uint8)
    if (found == NO_CLASS).all():
        raise ValueError(f"{name} has no pixel with a class, only {form.ignore_index}, which is for none")
    return found


def highest_class(mask: Any, ignore_index: int, name: str) -> int:
    """The largest number in a mask but for the one that stands for no class; -1 if there is none.

    Raises:
        ValueError: it is in colour.
    """
    values = _values(mask)
    if values.ndim == 3:
        raise _needs_palette(name)
    kept = values[(values != ignore_index) & (values != NO_CLASS)]
    return int(kept.max()) if kept.size else -1


def _values(mask: Any) -> NDArray[Any]:
    if isinstance(mask, np.ndarray):
        return mask
    picture = mask if isinstance(mask, Image.Image) else open_image(mask)
    if picture.mode in ("RGBA", "CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    if picture.mode == "LA":
        picture = picture.getchannel(0)
    return np.asarray(picture)


def _of_colours(values: NDArray[Any], form: MaskFormat, name: str) -> NDArray[np.uint8]:
    if not form.palette:
        if (values == values[..., :1]).all():  # grey, saved in colour
            return read_mask(values[..., 0], form, name)
        raise _needs_palette(name)
    codes = values.astype(np.int64) @ (65536, 256, 1)
    found = np.full(codes.shape, NO_CLASS, np.uint8)
    known = np.zeros(codes.shape, bool)
    colours = [(colour, i) for i, colour in enumerate(form.palette)]
    if form.ignore_colour is not None:
        colours.append((form.ignore_colour, NO_CLASS))
    for (red, green, blue), number in colours:
        here = codes == 65536 * red + 256 * green + blue
        found[here], known[here] = number, True
    if not known.all():
        colour = tuple(values[~known][0].tolist())
        raise ValueError(
            f"{name} holds the colour {colour}, which the palette in info.json doesn't have "
            f"({len(form.palette)} classes); for pixels without a class add 'ignore_colour'"
        )
    return found


def _needs_palette(name: str) -> ValueError:
    return ValueError(
        f"{name} is in colour, and nothing says which colour is which class; add an info.json with 'classes' "
        "and 'palette': [[red, green, blue], ...] to the data set"
    )


def read_pair(
    image: Any, mask: Any, form: MaskFormat, name: str, channels: int | None
) -> tuple[Pixels, NDArray[np.uint8]]:
    """An image, uint8 [C, H, W], and its mask [H, W], both of the size they have.

    Raises:
        ValueError: one of them can't be read, or their sizes differ.
    """
    pixels_CHW, mask_HW = whole_pixels(image, channels), read_mask(mask, form, f"the mask of {name}")
    if pixels_CHW.shape[1:] != mask_HW.shape:
        (height, width), (rows, columns) = pixels_CHW.shape[1:], mask_HW.shape
        raise ValueError(f"{name} has {width}×{height} pixels, but its mask {columns}×{rows}")
    return pixels_CHW, mask_HW


def standardised(pixels_CHW: Pixels) -> Pixels:
    """With the same mean and spread of all channels together, whatever the light: uint8 [C, H, W]."""
    values = pixels_CHW.astype(np.float32)
    scaled = (values - values.mean()) * (STANDARD_SPREAD / max(float(values.std()), 1.0)) + 127.5
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def scaled_to(pixels_CHW: Pixels, size: Sequence[int]) -> Pixels:
    """An image brought to (height, width): Pillow's bilinear filter, antialiased."""
    if tuple(pixels_CHW.shape[1:]) == tuple(size):
        return pixels_CHW
    height, width = size
    layers = [
        Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR) for layer in pixels_CHW
    ]
    return np.stack([np.asarray(layer) for layer in layers])


def size_for(image_size: Sequence[int], shorter: int | None) -> tuple[int, int]:
    """(height, width) of an image whose shorter side is to be so many pixels; none: its own."""
    height, width = image_size
    if shorter is None or min(height, width) == shorter:
        return height, width
    scale = shorter / min(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
