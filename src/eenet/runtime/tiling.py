"""Large images in tiles: cut with a halo around each, and their answers put together again.

Tiles go through the engine like images, so plain parts of an image leave early and crowded ones go on. An
answer is the whole image's wherever the network looks no further than the halo. Nearly so where sides aren't
multiples of 32: the state of a whole image is then a little finer than its stride says.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGNED = 32  # pixels: tiles begin where the features of a whole image would
HALO = 16  # likewise, for the finer ones


class Tile(NamedTuple):
    """A part of an image."""

    place: tuple[slice, slice]
    """Rows and columns of the image, halo included."""
    core: tuple[slice, slice]
    """Those that it answers for."""

    @property
    def area(self) -> int:
        """In pixels, halo included."""
        return math.prod(part.stop - part.start for part in self.place)


def check_tiles(tile: int, halo: int) -> None:
    """Refuse sizes at which tiles would not fit together.

    Raises:
        ValueError: they are not what they have to be.
    """
    if tile < ALIGNED or tile % ALIGNED:
        raise ValueError(f"tile is {tile}; give a multiple of {ALIGNED} pixels")
    if halo < 0 or halo % HALO:
        raise ValueError(f"halo is {halo}; give 0 or a multiple of {HALO} pixels")


def tiles_of(size: tuple[int, int], tile: int, halo: int) -> list[list[Tile]]:
    """The tiles of an image of this (height, width), by row: about equally large, at most `tile` without
    `halo`."""
    rows, columns = (_parts(side, tile) for side in size)
    return [
        [
            Tile((_around(row, halo, size[0]), _around(column, halo, size[1])), (row, column))
            for column in columns
        ]
        for row in rows
    ]


def put_together(
    tiles: Sequence[Tile], answers: Sequence[NDArray[np.float32]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Answers [N, h, w] of tiles as that of the image, at the same stride."""
    stride = round((tiles[0].place[0].stop - tiles[0].place[0].start) / answers[0].shape[1])
    whole = np.empty((len(answers[0]), *(-(-side // stride) for side in size)), np.float32)
    for one, answer_Nhw in zip(tiles, answers, strict=True):
        cut, here = [], []
        for core, place in zip(one.core, one.place, strict=True):
            first, end = core.start // stride, -(-core.stop // stride)
            here.append(slice(first, end))
            cut.append(slice(first - place.start // stride, end - place.start // stride))
        whole[:, here[0], here[1]] = answer_Nhw[:, cut[0], cut[1]]
    return whole


def _parts(side: int, tile: int) -> list[slice]:
    step = -(-math.ceil(side / math.ceil(side / tile)) // ALIGNED) * ALIGNED
    return [slice(start, min(start + step, side)) for start in range(0, side, step)]


def _around(part: slice, halo: int, side: int) -> slice:
    return slice(max(part.start - halo, 0), min(part.stop + halo, side))
