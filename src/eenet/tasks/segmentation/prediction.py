"""The answer for one image: a class for each of its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.policies import logarithm
from eenet.tasks.segmentation.maps import class_map, indexed, overlay


@dataclass(frozen=True)
class MaskPrediction:
    """The answer for one image."""

    exit: int
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float
    """MACs spent / MACs of the network without exits."""
    size: tuple[int, int]
    """(height, width) of the image."""
    probabilities_Nhw: NDArray[np.float32] = field(repr=False, compare=False)
    """Of all classes, at the decoder's stride."""
    class_names: Sequence[str] = field(repr=False, compare=False)
    tile_exits: list[list[int]] | None = None
    """Of an image in tiles: where each left, by row; `exit` is the deepest."""

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """The likeliest class of every pixel of the image: uint8 [H, W]."""
        return class_map(logarithm(self.probabilities_Nhw), self.size)

    @property
    def shares(self) -> dict[str, float]:
        """The part of the pixels that each class got, by name."""
        counts_N = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        return dict(zip(self.class_names, (counts_N / self.mask.size).tolist(), strict=True))

    def picture(self) -> Image.Image:
        """The mask as an indexed picture, to be saved as PNG."""
        return indexed(self.mask, len(self.class_names))

    def overlay(self, image: Any) -> Image.Image:
        """The mask laid over its image.

        Args:
            image: what was predicted from: a file, PIL image, array or tensor.

        Raises:
            FileNotFoundError, ValueError: the image can't be read.
        """
        return overlay(image, self.mask, len(self.class_names))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the mask as rows of class numbers."""
        told = ["exit", "relative_cost", "shares", *(["tile_exits"] if self.tile_exits else [])]
        return {**{name: getattr(self, name) for name in told}, "mask": self.mask.tolist()}
