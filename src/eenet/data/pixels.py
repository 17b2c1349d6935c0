"""Any image a user may hand over → the uint8 pixels a network takes; a tensor is known by its methods."""

import inspect
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Picture = Image.Image | Pixels
"""Mode L or RGB; or uint8 [H, W] or [H, W, 3]."""
ORIENTATION = 0x0112  # its EXIF tag


def open_image(file: Any, *, most_pixels: int | None = None) -> Image.Image:
    """Open an image file, or its bytes.

    Args:
        file: its name, what is in it, or a file object opened for reading bytes.
        most_pixels: that are decoded. Default: Pillow's limit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, truncated, or so large that decoding it is unsafe.
    """
    if not isinstance(file, str | os.PathLike):
        name, file = "the image", io.BytesIO(_content(file))
    elif os.path.isfile(file):  # noqa: PTH113 - a quarter of the time of Path.is_file
        name = str(file)
    else:
        raise FileNotFoundError(f"no image file {file}")
    try:
        with quiet(), Image.open(file) as image:
            limit = most_pixels or Image.MAX_IMAGE_PIXELS  # Pillow itself only warns, up to twice its limit
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} × {image.height}, over {limit}")
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels to be decoded safely: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image in a known format") from error
    except Exception as error:  # Pillow's decoders raise all sorts of errors on damaged files
        raise ValueError(f"{name} is a damaged image: {error}") from error


def _content(file: Any) -> bytes:
    """What is in a file object, from its start, or in a block of bytes."""
    if isinstance(file, bytes | bytearray | memoryview):
        return bytes(file)
    if hasattr(file, "seek") and getattr(file, "seekable", lambda: True)():
        file.seek(0)
    try:
        content = file.read()
    except UnicodeDecodeError:
        content = ""
    if inspect.iscoroutine(content):
        content.close()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(
            f"a file object must give bytes, not {type(content).__name__}: open it with mode 'rb', "
            "and await what an asynchronous upload reads"
        )
    return bytes(content)


_lock, _depth, _filters = threading.Lock(), 0, warnings.catch_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow warns of damaged metadata; the pixels count.

    `catch_warnings` alone isn't made for threads, which decode at once: the first in sets the filters, the
    last out puts them back.
    """
    global _depth, _filters
    with _lock:
        _depth += 1
        if _depth == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _filters.__exit__(None, None, None)


def to_pixels(image: Any, input_size: Sequence[int]) -> Pixels:
    """Turn an image into uint8 [C, H, W] of the wanted size.

    Colour becomes grey or grey colour as the network wants, transparency is laid on
    white, the EXIF orientation is applied. An image of another size is scaled until it
    covers the wanted one (Pillow's bilinear filter, antialiased), then its centre is taken.

    Args:
        image: a file, its bytes or a file object, a PIL image, a numpy array [H, W] or [H, W, C], or a
            tensor [H, W] or [C, H, W]; an array too may be [C, H, W] where its last side can be no C.
            Arrays and tensors hold 0–1 (floating point, bool) or 0–255 (integers); integers of more than
            8 bits may hold 0–65535, as 16-bit files do.
        input_size: (channels, height, width).

    Raises:
        FileNotFoundError, ValueError: the image can't be read or has another layout.
    """
    channels, *wanted = input_size
    picture = _with_channels(_picture(image), channels)
    if list(_shape(picture)[1:]) != wanted:
        picture = _covering(picture, *wanted)
    return _unfolded(picture, channels)


def whole_pixels(image: Any, channels: int | None = None) -> Pixels:
    """The same for an image of the size, and by default the channels, that it has: uint8 [C, H, W]."""
    picture = _picture(image)
    channels = channels or _shape(picture)[0]
    return _unfolded(_with_channels(picture, channels), channels)


def image_size(image: Any) -> tuple[int, int, int]:
    """(channels, height, width) of an image as it is; channels are 1 or 3.

    Raises:
        FileNotFoundError, ValueError: as `to_pixels`.
    """
    return _shape(_picture(image))


def to_array(values: Any) -> NDArray[Any]:
    """An array of what may be a tensor, on any device, or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        try:
            return values.numpy()
        except TypeError:  # bfloat16, which numpy lacks
            return values.float().numpy()
    return np.asarray(values)


def _picture(image: Any) -> Picture:
    """The whole image, upright and on white."""
    if isinstance(image, Image.Image):
        return _plain(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if hasattr(image, "detach") and hasattr(image, "numpy"):
        values = to_array(image)
        return _from_array(values.transpose(1, 2, 0) if values.ndim == 3 else values)
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read"):
        with quiet():
            return _plain(open_image(image))
    raise ValueError(
        f"an image is a path, bytes, file object, PIL image, array or tensor, not {type(image).__name__}"
    )


def _shape(picture: Picture) -> tuple[int, int, int]:
    """(channels, height, width)."""
    if isinstance(picture, Image.Image):
        return len(picture.getbands()), picture.height, picture.width
    height, width, *channels = picture.shape
    return channels[0] if channels else 1, height, width


def _with_channels(picture: Picture, channels: int) -> Picture:
    """Grey, if that is wanted; grey images become colour when they are unfolded."""
    if _shape(picture)[0] in (1, channels):
        return picture
    if channels != 1:
        raise ValueError(f"the network takes {channels} channels, the image has 3")
    colours = np.asarray(picture)
    grey = np.multiply(colours[..., 0], 2989, dtype=np.int32)  # ITU-R BT.601, rounded down: torchvision's
    grey += np.multiply(colours[..., 1], 5870, dtype=np.int32)
    grey += np.multiply(colours[..., 2], 1140, dtype=np.int32)
    return (grey // 10000).astype(np.uint8)


def _covering(picture: Picture, height: int, width: int) -> Image.Image:
    """The centre of an image scaled until it covers this size; only what is kept is computed."""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    scale = max(width / picture.width, height / picture.height)
    left, right = _span(picture.width, width, scale)
    upper, lower = _span(picture.height, height, scale)
    return picture.resize((width, height), Image.Resampling.BILINEAR, (left, upper, right, lower))


def _span(old: int, new: int, scale: float) -> tuple[float, float]:
    """The middle part of a side of `old` that makes a side of `new`."""
    scaled = max(new, math.ceil(old * scale - 1e-6))
    start = round((scaled - new) / 2)
    return start * old / scaled, (start + new) * old / scaled


def _unfolded(picture: Picture, channels: int) -> Pixels:
    values = np.asarray(picture)
    if values.ndim == 2:
        return np.array(np.broadcast_to(values, (channels, *values.shape)), order="C")
    return np.array(values.transpose(2, 0, 1), order="C")


def _plain(image: Image.Image) -> Image.Image:
    """A PIL image of any mode, upright, on white, in mode L or RGB."""
    with quiet():
        if image.getexif().get(ORIENTATION, 1) != 1:  # else exif_transpose would only copy
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image)).astype(np.float64)
        highest = values.max(initial=0)
        top = max(highest, 1) if image.mode == "F" else _top(highest)
        image = Image.fromarray(np.rint(values * (255 / top)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image


def _top(highest: float) -> int:
    """What white is, among integers of more than 8 bits: they often hold 8."""
    return 255 if highest <= 255 else 65535


def _from_array(values: NDArray[Any]) -> Pixels:
    """Numbers [H, W] or [H, W, C]; or [C, H, W], if they can't be that."""
    if values.ndim == 3 and values.shape[2] not in (1, 3) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or not values.size:
        raise ValueError(
            f"an image of shape {values.shape}; expected tensors [C, H, W] or arrays [H, W, C], "
            "with C = 1 or 3"
        )
    return _levels(values)


def _levels(values: NDArray[Any]) -> Pixels:
    """Numbers of any kind as 0 to 255."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "f":
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError("a floating-point image must hold finite values from 0 to 1")
        return np.rint(values * values.dtype.type(255)).astype(np.uint8)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind not in "iu":
        numbers = "integers or floating-point numbers" if kind == "c" else "numbers"
        raise ValueError(f"an image must hold {numbers}, not {values.dtype}")
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise ValueError(
            f"an image of {values.dtype} holds {lowest} to {highest}; expected 0 to 255, or up to 65535"
        )
    return np.rint(values * (255 / _top(highest))).astype(np.uint8)
