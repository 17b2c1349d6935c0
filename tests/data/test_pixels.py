"""Images as users have them: odd modes work, damaged ones are refused in a line."""

import io
import math
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from eenet.data.batching import normalize
from eenet.data.pixels import open_image, to_pixels

RED = (200, 10, 30)


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1", "I;16", "I", "F", "YCbCr", "HSV"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_works(mode: str, channels: int) -> None:
    image = Image.new("RGB", (5, 7), RED)
    if mode == "I;16":
        image = Image.fromarray(np.full((7, 5), 40000, np.uint16))
    else:
        image = image.quantize() if mode == "P" else image.convert(mode)
    pixels = to_pixels(image, (channels, 7, 5))
    assert pixels.shape == (channels, 7, 5)
    assert pixels.dtype == np.uint8
    if mode in ("RGB", "RGBA", "P", "YCbCr", "HSV") and channels == 3:
        assert np.abs(pixels[:, 3, 2].astype(int) - RED).max() <= 4
    if mode == "I;16":
        assert pixels[0, 0, 0] == round(40000 * 255 / 65535)


def test_one_pixel_and_resizing() -> None:
    assert (to_pixels(Image.new("L", (1, 1), 77), (1, 8, 8)) == np.full((1, 8, 8), 77)).all()


def test_transparency_is_laid_on_white() -> None:
    assert to_pixels(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (3, 2, 2)).min() == 255


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    image.paste(RED, (0, 0, 2, 2))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: red on top
    image.save(tmp_path / "a.png", exif=exif)
    pixels = to_pixels(tmp_path / "a.png", (3, 4, 2))
    assert pixels[0].tolist() == [[200, 200], [200, 200], [0, 0], [0, 0]]


def test_arrays_and_tensors_agree() -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    expected = array.transpose(2, 0, 1)
    tensor = torch.from_numpy(expected)
    for given in (array, expected, tensor, tensor / 255, array / 255, Image.fromarray(array)):
        assert np.array_equal(to_pixels(given, (3, 6, 5)), expected)
    grey = array[:, :, 0]
    assert np.array_equal(to_pixels(grey, (3, 6, 5)), np.stack([grey] * 3))


@pytest.mark.parametrize(
    "dtype",
    ["uint16", ">u2", "int16", "int32", ">i4", "uint32", "int64", "uint64", "int8", "bool"],
)
@pytest.mark.parametrize("highest", [1, 120, 255, 256, 4095, 40000, 65535])
def test_integers_of_any_width_are_what_their_files_are(dtype: str, highest: int, tmp_path: Path) -> None:
    """Against the same content as a file: 16 bits grey as PNG and coloured as PPM, 8 bits, or 1 bit."""
    kind, bits = np.dtype(dtype), dtype == "bool"
    highest = min(highest, 1 if bits else int(np.iinfo(kind).max))
    values = np.random.default_rng(highest).integers(0, highest + 1, (6, 5, 3)).astype(kind)
    values[0, 0] = highest
    grey = tmp_path / "grey.png"
    if bits:
        Image.fromarray(values[:, :, 0]).save(grey)
    else:
        Image.fromarray(values[:, :, 0].astype(np.uint16)).save(grey)
    for given in (values[:, :, 0], torch.from_numpy(values[:, :, 0].astype(kind.newbyteorder("=")))):
        assert np.array_equal(to_pixels(given, (1, 6, 5)), to_pixels(grey, (1, 6, 5)))
    if highest > 255:
        colour = tmp_path / "colour.ppm"
        colour.write_bytes(b"P6 5 6 65535\n" + values.astype(">u2").tobytes())
        assert np.array_equal(to_pixels(values, (3, 6, 5)), to_pixels(colour, (3, 6, 5)))
    elif not bits:
        assert np.array_equal(to_pixels(values, (3, 6, 5)), to_pixels(values.astype(np.uint8), (3, 6, 5)))


class Upload:
    """As web frameworks hand files over: it can be read, and no more."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content


class AsyncUpload(Upload):
    async def read(self) -> bytes:  # type: ignore[override]
        return self.content


def test_images_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((6, 5), 50).save(path)
    expected, content = to_pixels(path, (1, 5, 6)), path.read_bytes()
    written = io.BytesIO()
    written.write(content)  # its position is the end, as after Image.save
    with path.open("rb") as file, tempfile.NamedTemporaryFile() as temporary:
        temporary.write(content)
        givens = (content, bytearray(content), memoryview(content), written, file, temporary, Upload(content))
        for given in givens:
            for _ in range(2):
                assert np.array_equal(to_pixels(given, (1, 5, 6)), expected)
    with path.open() as text, pytest.raises(ValueError, match="open it with mode 'rb'"):
        to_pixels(text, (1, 5, 6))
    with pytest.raises(ValueError, match=r"must give bytes, not coroutine.*await"):
        to_pixels(AsyncUpload(content), (1, 5, 6))


def test_decoding_in_threads_leaves_warnings_as_they_were(tmp_path: Path) -> None:
    Image.effect_noise((32, 32), 50).save(tmp_path / "a.jpg")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: to_pixels(tmp_path / "a.jpg", (3, 16, 16)), range(400)))
    assert list(warnings.filters) == before


def by_torchvision(values: np.ndarray, channels: int, height: int, width: int) -> torch.Tensor:
    """What torchvision makes of an image [C, H, W]: grey or colour, scaled to cover, the centre of it."""
    pixels = torch.from_numpy(values.copy())
    if channels == 1 and len(pixels) == 3:
        pixels = tv.rgb_to_grayscale(pixels)
    pixels = pixels.expand(channels, -1, -1)
    scale = max(height / pixels.shape[1], width / pixels.shape[2])
    scaled = [
        max(new, math.ceil(old * scale - 1e-6))
        for new, old in zip((height, width), pixels.shape[1:], strict=True)
    ]
    return tv.center_crop(tv.resize(pixels, scaled, antialias=True), [height, width])


@pytest.mark.parametrize("kind", ["noise", "smooth", "black and white"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("given", [1, 3])
def test_sizes_are_changed_as_torchvision_does(kind: str, channels: int, given: int) -> None:
    """Up and down, also to other shapes; the same where no size changes, within a level where one does."""
    rng = np.random.default_rng(0)
    for height, width in [(40, 60), (61, 33), (7, 90), (1, 1), (128, 128)]:
        values = rng.integers(0, 256, (height, width, given), dtype=np.uint8)
        if kind == "smooth":
            blurred = Image.fromarray(values.squeeze(2) if given == 1 else values).resize(
                (width * 4, height * 3)
            )
            values = np.asarray(blurred).reshape(height * 3, width * 4, given)
        elif kind == "black and white":
            values = np.where(values > 127, np.uint8(255), np.uint8(0))
        for size in [(32, 32), (24, 50), (97, 64), values.shape[:2]]:
            expected = by_torchvision(values.transpose(2, 0, 1), channels, *size).int().numpy()
            found = to_pixels(values, (channels, *size))
            assert found.flags.c_contiguous
            assert np.abs(found - expected).max() <= (size != values.shape[:2])


def test_grey_of_every_colour() -> None:
    """Against torchvision: three of 16,777,216 colours, on the edge between two greys, differ by one."""
    steps, differ = np.arange(256, dtype=np.uint8), 0
    for red in range(256):
        colours = np.stack(np.broadcast_arrays(np.uint8(red), *np.meshgrid(steps, steps)), 2)
        found = to_pixels(colours, (1, 256, 256)).astype(int)
        expected = tv.rgb_to_grayscale(torch.from_numpy(colours).permute(2, 0, 1)).int().numpy()
        assert np.abs(found - expected).max() <= 1
        differ += np.count_nonzero(found != expected)
    assert differ <= 3


def test_normalize_by_hand() -> None:
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    images = normalize(pixels, [0.5, 0.2], [0.25, 0.1])
    torch.testing.assert_close(images, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "expected tensors"),
        (np.zeros((0, 4), np.uint8), "expected tensors"),
        (torch.full((3, 4, 4), -1), "holds -1 to -1; expected 0 to 255"),
        (np.full((4, 4), 70000), "holds 70000 to 70000; expected 0 to 255, or up to 65535"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "integers or floating-point numbers"),
        (np.full((4, 4), "x"), "must hold numbers"),
        (io.StringIO("text"), "must give bytes, not str: open it with mode 'rb'"),
        (io.BytesIO(b"no image"), "the image is not an image in a known format"),
        (torch.full((3, 4, 4), torch.nan), "finite values"),
        (torch.full((3, 4, 4), 7.0), "from 0 to 1"),
        (42, "not int"),
    ],
)
def test_unusable_arrays(image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pixels(image, (3, 4, 4))


def test_unusable_files(tmp_path: Path) -> None:
    text, cut, bomb = tmp_path / "text.png", tmp_path / "cut.jpg", tmp_path / "bomb.png"
    text.write_text("not an image")
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    Image.new("1", (15000, 15000)).save(bomb)
    for path, message in ((text, "not an image"), (cut, "damaged"), (bomb, "too many pixels")):
        with pytest.raises(ValueError, match=message):
            open_image(path)
    with pytest.raises(FileNotFoundError, match="no image file"):
        open_image(tmp_path / "none.png")
