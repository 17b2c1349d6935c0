"""A unit of images → tables of pixels, an operator of its own: it needs processors where networks may not."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from eenet.data import to_pixels
from eenet.scale.bulk.inputs import Inputs, Unit, place_of
from eenet.scale.bulk.tables import PIXELS, UNREADABLE, array, tensor

NUMBER = "number"
"""Of an image, from 0."""
UNIT = "unit"
BLOCK_BYTES = 2**26  # of pixels, at most: Ray hands on blocks whole
IMAGES = 64  # looked at to choose a way


def block_images(input_size: Sequence[int], wanted: int) -> int:
    """Images in a block: as many as are wanted, if they are no more than so many bytes."""
    return max(1, min(wanted, BLOCK_BYTES // int(np.prod(input_size))))


class Decoding:
    """Reads and decodes what isn't answered yet."""

    def __init__(
        self,
        input_size: Sequence[int],
        column: str,
        block: int,
        wanted: Callable[[int, int], NDArray[np.bool_]],
    ) -> None:
        """Prepare.

        Args:
            input_size: of the network.
            column: of images, in parquet files.
            block: images in a table, at most.
            wanted: which of the images from one number to another are to be read: bool [B].
        """
        self._size, self._column, self._block, self._wanted = tuple(input_size), column, block, wanted

    def tables(self, units: Any) -> Iterator[Any]:
        """Tables for a table of units."""
        for text in units[UNIT].to_pylist():
            yield from self.of(Unit(**json.loads(text)))

    def of(self, unit: Unit) -> Iterator[Any]:
        """Tables for a unit."""
        for first, images in self._read(unit):
            rows = np.flatnonzero(self._wanted(first, first + len(images)))
            if len(rows):
                keys = pa.table({NUMBER: pa.array(first + rows, pa.int64())})
                yield with_pixels(keys, [images[i] for i in rows.tolist()], self._size)

    def _read(self, unit: Unit) -> Iterator[tuple[int, list[Any]]]:
        """Image files as bytes or names, and the number of the first."""
        if unit.files:
            for i in range(0, unit.count, self._block):
                yield unit.first + i, list(unit.files[i : i + self._block])
            return
        filesystem, path = place_of(unit.table)
        number = unit.first
        with filesystem.open_input_file(path) as opened:
            file = parquet.ParquetFile(opened)
            for batch in file.iter_batches(self._block, list(unit.groups), [self._column]):
                rows = batch.column(0).to_pylist()
                yield number, [_content(row) for row in rows]
                number += len(rows)


class Cells:
    """Decodes a column of a table of a user's own."""

    def __init__(self, input_size: Sequence[int], column: str) -> None:
        self._size, self._column = tuple(input_size), column

    def table(self, given: Any) -> Any:
        """The other columns, with pixels."""
        if self._column not in given.column_names:
            there = ", ".join(given.column_names)
            raise ValueError(f"the Dataset has no column {self._column!r}; it has {there}")
        images = [_content(cell) for cell in given[self._column].to_pylist()]
        return with_pixels(given.drop_columns([self._column]), images, self._size)


def first_pixels(inputs: Inputs, input_size: Sequence[int], count: int = IMAGES) -> NDArray[np.uint8]:
    """Some of the first images that can be read: uint8 [B, C, H, W]."""
    decoding = Decoding(input_size, inputs.column, count, lambda start, end: np.ones(end - start, bool))
    table = next(decoding.of(inputs.units[0]))
    return array(table[PIXELS])[table[UNREADABLE].is_null().to_numpy()]


def with_pixels(keys: Any, images: Sequence[Any], input_size: Sequence[int]) -> Any:
    """The pixels of images beside the columns that say which; of those that can't be read, why."""
    pixels_BCHW = np.zeros((len(images), *input_size), np.uint8)
    errors: list[str | None] = [None] * len(images)
    for i, image in enumerate(images):
        try:
            pixels_BCHW[i] = to_pixels(_opened(image), input_size)
        except (ValueError, OSError) as error:
            errors[i] = " ".join(str(error).split())
    return keys.append_column(PIXELS, tensor(pixels_BCHW)).append_column(
        UNREADABLE, pa.array(errors, pa.string())
    )


def _content(row: Any) -> Any:
    """What a cell holds: bytes, or a file with a name; nothing, if it is empty."""
    if isinstance(row, dict):
        return row.get("bytes") if row.get("bytes") is not None else row.get("path")
    return row


def _opened(image: Any) -> Any:
    """The bytes of a file in an object store; all else is opened by `to_pixels`."""
    if image is None:
        raise ValueError("the row holds no image")
    if isinstance(image, str) and "://" in image:
        filesystem, path = place_of(image)
        with filesystem.open_input_stream(path) as stream:
            return stream.readall()
    return image
