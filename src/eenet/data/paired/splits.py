"""Where the parts of a data set with masks or boxes lie: parquet files, or folders for images and truths."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import progress, require
from eenet.data import readers
from eenet.data.datasets import IN_MEMORY, Place
from eenet.data.image_sets import UNREADABLE
from eenet.data.paired.sets import PairedImages
from eenet.data.pixels import image_size

INFO_FILE = "info.json"
IMAGES = ("images", "image", "img", "JPEGImages")
HELD_OUT = 0.1  # part of the images for validation, and for test, where a data set has none of its own
RUNS = 4  # of neighbours, in which these are taken: frames of a video must not be torn apart
LOOKED_AT = 64  # images whose sizes tell those of a data set
Kind = TypeVar("Kind", bound=PairedImages[Any])
Read = Callable[[int], tuple[Any, Any, str]]
"""Index → image, its truth as it is found, and what messages call them."""
Splits = dict[str, tuple[Read, int]]
"""Official splits: how they are read, and how many images they have."""


class Reading(NamedTuple):
    """How images are read."""

    size: tuple[int, ...] | None
    """(height, width) that is wanted, or with channels before; none: their own."""
    in_memory: int
    """Bytes up to which a split is held in memory."""
    skip_damaged: bool
    standardise: bool


def read_part(
    kind: Callable[..., Kind], splits: Splits, form: Any, side: int, name: str, split: str, reading: Reading
) -> Kind:
    """The images of a split, all read once.

    Args:
        kind: of `PairedImages`.
        splits: official ones, of the data set of this `name`.
        form: what truths mean.
        side: that images are brought to.
        split: `train`, `validation` or `test`.
        reading: how.

    Raises:
        FileNotFoundError, ValueError: there is no such split, or some of it can't be read.
    """
    read, count, indices_B, origin = part_of(splits, split, name)
    given = reading.size is not None and len(reading.size) == 3
    channels = reading.size[0] if given and reading.size else int(sizes_of(splits)[0, 0])
    images = kind(
        read,
        count,
        form,
        channels,
        side,
        name=f"{name} ({split})",
        indices_B=indices_B,
        standardise=reading.standardise,
        origin=origin,
    )
    with progress(f"decoding {name}, {split}", len(images)) as advance:
        return images.checked(advance, skip_damaged=reading.skip_damaged, in_memory=reading.in_memory)


def images_alone(
    kind: Callable[..., Kind],
    directory: Path,
    form: Any,
    truth: Any,
    channels: int,
    side: int,
    *,
    standardise: bool,
) -> Kind | None:
    """All images in and below a folder, whose truth isn't known; None if there are none.

    Args:
        kind: of `PairedImages`.
        directory: of images.
        form: what truths would mean.
        truth: that stands for none, as a file would have it.
        channels: of the images.
        side: that images are brought to.
        standardise: bring every image to the same mean and spread.

    Raises:
        ValueError: some images can't be read.
    """
    if not (files := readers.images_under(directory)):
        return None

    def read(index: int) -> tuple[Any, Any, str]:
        return files[index], truth, str(files[index])

    found = kind(
        read,
        len(files),
        form,
        channels,
        side,
        name=str(directory),
        standardise=standardise,
        labelled=False,
    )
    with progress(f"decoding {directory.name}", len(found)) as advance:
        return found.checked(advance, skip_damaged=False, in_memory=IN_MEMORY)


def home_of(place: Place, what: str) -> Path:
    """Where a data set lies.

    Raises:
        FileNotFoundError: nowhere here; the message says `what` it should hold.
    """
    from eenet.data.datasets import local_folder

    if (directory := local_folder(place.name, place.root)) is None:
        raise FileNotFoundError(
            f"no folder {place.name} with {what}, neither here nor under $EENET_DATA "
            f"({place.root or 'not set'})"
        )
    return directory


def part_of(
    splits: Mapping[str, tuple[Read, int]], split: str, name: str
) -> tuple[Read, int, NDArray[np.intp] | None, str]:
    """How a split is read, how many images there are, which of them it is, and where it comes from."""
    test = next((word for word in ("test", "validation") if word in splits), None)
    if split == "test" and test:
        return *splits[test], None, ""
    if split == "validation" and "validation" in splits and test == "test":
        return *splits["validation"], None, ""
    if "train" not in splits:
        raise FileNotFoundError(f"data set {name!r} has no training images, only {', '.join(splits)}")
    read, count = splits["train"]
    rest = np.arange(count)
    if test is None:
        rest, taken = held_out(rest)
        if split == "test":
            return read, count, taken, "taken from train"
    if split == "train" and "validation" in splits and test == "test":
        return read, count, None, ""
    train, validation = held_out(rest)
    if split == "train":
        return read, count, train, ""
    return read, count, validation, "taken from train"


def held_out(indices: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Most of some images, and a part of them in a few runs of neighbours; the same every time."""
    count = len(indices)
    many = max(round(HELD_OUT * count), 1)
    if count < 2:
        raise ValueError(
            f"{count} images can't be split; give more, or folders train/, validation/ and test/"
        )
    runs = min(RUNS, many)
    taken = np.zeros(count, bool)
    for k in range(runs):
        length = many * (k + 1) // runs - many * k // runs
        start = (2 * k + 1) * count // (2 * runs) - length // 2
        taken[start : start + length] = True
    return indices[~taken], indices[taken]


def parquet_splits(directory: Path, truth: str, found_in: Callable[[Any], Any]) -> Splits:
    """Splits in parquet files that have the columns `image` and `truth`; none if there are no such files.

    Args:
        directory: that holds them.
        truth: name of the column.
        found_in: a value of that column → the truth as it is found.
    """
    files: dict[str, list[str]] = {}
    for path in sorted(directory.glob("*.parquet")):
        if split := readers.split_within(path.name):
            files.setdefault(split, []).append(str(path))
    found: Splits = {}
    for split, paths in files.items():
        table = require("pyarrow.parquet", f"reading {directory}").ParquetDataset(paths)
        if {"image", truth} <= {*table.schema.names}:
            rows = table.read(["image", truth])
            read = partial(_row, rows, truth, found_in, f"{directory.name} ({split})")
            found[split] = read, rows.num_rows
    return found


def _row(table: Any, truth: str, found_in: Callable[[Any], Any], name: str, index: int) -> Any:
    row = table.slice(index, 1).to_pylist()[0]
    return bytes_of(row["image"]), found_in(row[truth]), f"image {row['image']['path'] or index} of {name}"


def bytes_of(value: Mapping[str, Any]) -> Any:
    """What a column of files holds: their content, or where they are."""
    return value["bytes"] or value["path"]


def folder_pairs(directory: Path, truths: Sequence[str]) -> list[tuple[str, Path, Path]]:
    """Split, and its folders of images and truths: in a folder for the split, or the other way round."""
    inner = {split: path for path in readers.folders_in(directory) if (split := readers.split_of(path.name))}
    if inner:
        pairs = [(split, named(path, IMAGES), named(path, truths)) for split, path in inner.items()]
        return [(split, images, others) for split, images, others in pairs if images and others]
    images, others = named(directory, IMAGES), named(directory, truths)
    if images is None or others is None:
        return []
    parts = {split: path for path in readers.folders_in(images) if (split := readers.split_of(path.name))}
    if not parts:
        return [("train", images, others)]
    there = {split: others / path.name for split, path in parts.items()}
    return [(split, path, there[split]) for split, path in parts.items() if there[split].is_dir()]


def named(directory: Path, names: Sequence[str]) -> Path | None:
    """The first folder that is there."""
    return next((directory / name for name in names if (directory / name).is_dir()), None)


def sizes_of(splits: Splits) -> NDArray[np.int64]:
    """(channels, height, width) of some of the training images, a row each."""
    read, count = splits.get("train", next(iter(splits.values())))
    places = np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)
    found = []
    for i in places.tolist():
        try:
            found.append(image_size(read(i)[0]))
        except UNREADABLE:  # which is told later, of all images
            if i == places[-1] and not found:
                raise
    return np.array(found)
