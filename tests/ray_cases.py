"""What the tests with Ray share: images to read."""

from pathlib import Path

import numpy as np
from conftest import in_memory
from PIL import Image


def write_digits(folder: Path, count: int) -> None:
    """Digits as files that are called by their number, and one behind the sixth that is no image."""
    width = len(str(count - 1))
    for i, image in enumerate(in_memory("digits", "test").pixels_BCHW[:count]):
        Image.fromarray(np.asarray(image[0])).save(folder / f"{i:0{width}}.png")
    (folder / f"{5:0{width}}-broken.png").write_bytes(b"no image")
