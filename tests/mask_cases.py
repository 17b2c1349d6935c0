"""Images with masks made up for tests: coloured squares on noise."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = np.array([[60, 60, 60], [210, 60, 60], [60, 60, 210]])
NAMES = ["ground", "red", "blue"]


def made_pair(seed: int, height: int = 32, width: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image [H, W, 3] and its mask [H, W]; every third one is hard to see."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for n in (1, 2):
        y, x = random.integers(0, height - 12), random.integers(0, width - 12)
        mask[y : y + 12, x : x + 12] = n
    noise = random.normal(0, 80 if seed % 3 == 2 else 10, (height, width, 3))
    return (COLOURS[mask] + noise).clip(0, 255).astype(np.uint8), mask


def write_folders(root: Path, counts: dict[str, int] | None = None) -> Path:
    """A data set in folders, some images wider than others."""
    for split, count in (counts or {"train": 16, "validation": 12, "test": 12}).items():
        for k in range(count):
            image, mask = made_pair(k + 1000 * len(split), 32, 40 if k % 4 == 3 else 32)
            for folder, values in (("images", image), ("masks", mask)):
                path = root / split / folder / f"{k:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "info.json").write_text('{"classes": ["ground", "red", "blue"], "ignore_index": 255}')
    return root
