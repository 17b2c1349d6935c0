"""Any image a user may hand over → the uint8 tensor a network takes."""

import inspect
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

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
    elif Path(file).is_file():
        name = str(file)
    else:
        raise FileNotFoundError(f"no image file {file}")
    try:
        with _quiet(), Image.open(file) as image:
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
def _quiet() -> Iterator[None]:
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


def to_pixels(image: Any, input_size: Sequence[int]) -> Tensor:
    """Turn an image into uint8 [C, H, W] of the wanted size.

    Colour becomes grey or grey colour as the network wants, transparency is laid on
    white, the EXIF orientation is applied. An image of another size is scaled until it
    covers the wanted one, then its centre is taken.

    Args:
        image: a file, its bytes or a file object, a PIL image, a numpy array [H, W] or [H, W, C], or a
            tensor [H, W] or [C, H, W]. Arrays and tensors hold 0–1 (floating point, bool) or 0–255
            (integers); integers of more than 8 bits may hold 0–65535, as 16-bit files do.
        input_size: (channels, height, width).

    Raises:
        FileNotFoundError, ValueError: the image can't be read or has another layout.
    """
    channels, *wanted = input_size
    pixels = _whole(image, channels)
    size = pixels.shape[1:]
    if list(size) != wanted:
        scale = max(new / old for new, old in zip(wanted, size, strict=True))
        scaled = [max(new, math.ceil(old * scale - 1e-6)) for new, old in zip(wanted, size, strict=True)]
        pixels = tv.center_crop(tv.resize(pixels, scaled, antialias=True), wanted)
    return pixels.contiguous()


def to_cropped_pixels(image: Any, input_size: Sequence[int], seed: int) -> Tensor:
    """A random part of an image (8 to 100 % of its area) as uint8 [C, H, W]: ImageNet's augmentation.

    Szegedy et al. 2015. Arguments and errors as in `to_pixels`; `seed` decides the part.
    """
    channels, *wanted = input_size
    pixels = _whole(image, channels)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        part = RandomResizedCrop.get_params(pixels, [0.08, 1.0], [3 / 4, 4 / 3])
    return tv.resized_crop(pixels, *part, wanted, antialias=True).contiguous()


def image_size(image: Any) -> tuple[int, int, int]:
    """(channels, height, width) of an image as it is; channels are 1 or 3.

    Raises:
        FileNotFoundError, ValueError: as `to_pixels`.
    """
    channels, height, width = _whole(image).shape
    return channels, height, width


def _whole(image: Any, channels: int | None = None) -> Tensor:
    """The whole image as uint8 [C, H, W]."""
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read"):
        image = open_image(image)
    if isinstance(image, Image.Image):
        pixels = _from_pil(image)
    elif isinstance(image, np.ndarray):
        pixels = _from_array(image)
    elif isinstance(image, Tensor):
        pixels = _from_tensor(image)
    else:
        raise ValueError(
            f"an image is a path, bytes, file object, PIL image, array or tensor, not {type(image).__name__}"
        )
    if channels in (None, pixels.shape[0]):
        return pixels
    if channels == 1:
        return tv.rgb_to_grayscale(pixels)
    if pixels.shape[0] == 1:
        return pixels.expand(channels, -1, -1)
    raise ValueError(f"the network takes {channels} channels, the image has {pixels.shape[0]}")


def normalize(pixels_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels → float32 images with the data set's mean and standard deviation taken out."""
    scale = torch.tensor(std, device=pixels_BCHW.device)[:, None, None] * 255
    shift = torch.tensor(mean, device=pixels_BCHW.device)[:, None, None] * 255
    return (pixels_BCHW - shift) / scale


def _from_pil(image: Image.Image) -> Tensor:
    with _quiet():
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
    return tv.pil_to_tensor(image)


def _top(highest: float) -> int:
    """What white is, among integers of more than 8 bits: they often hold 8."""
    return 255 if highest <= 255 else 65535


def _from_array(image: NDArray[Any]) -> Tensor:
    if image.ndim == 3:
        image = image.transpose(2, 0, 1)
    image = np.require(image, image.dtype.newbyteorder("="), ["C", "W"])
    try:
        return _from_tensor(torch.from_numpy(image))
    except TypeError as error:
        raise ValueError(f"an image must hold numbers, not {image.dtype}") from error


def _from_tensor(pixels: Tensor) -> Tensor:
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not pixels.numel():
        raise ValueError(
            f"an image of shape {tuple(pixels.shape)}; expected tensors [C, H, W] or arrays [H, W, C], "
            "with C = 1 or 3"
        )
    if pixels.is_floating_point():
        if not bool(((pixels >= 0) & (pixels <= 1)).all()):
            raise ValueError("a floating-point image must hold finite values from 0 to 1")
        return (pixels * 255).round().to(torch.uint8)
    if pixels.is_complex():
        raise ValueError(f"an image must hold integers or floating-point numbers, not {pixels.dtype}")
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * 255
    if pixels.dtype == torch.uint8:
        return pixels
    values = pixels.to(torch.int64)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise ValueError(
            f"an image of {pixels.dtype} holds {lowest} to {highest}; expected 0 to 255, or up to 65535"
        )
    return (values.double() * (255 / _top(highest))).round().to(torch.uint8)
