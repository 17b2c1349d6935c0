"""Data sets of images with masks: parquet files, or folders of images and of masks with the same names."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import progress, require
from eenet.data import readers
from eenet.data.datasets import IN_MEMORY, SPLITS, Place, place_of
from eenet.data.masks.reading import MOST_CLASSES, NO_CLASS, MaskFormat, highest_class
from eenet.data.masks.sets import MaskedImages
from eenet.data.pixels import image_size

INFO_FILE = "info.json"
IMAGES = ("images", "image", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass")
HELD_OUT = 0.1  # part of the images for validation, and for test, where a data set has none of its own
RUNS = 4  # of neighbours, in which these are taken: frames of a video must not be torn apart
Read = Callable[[int], tuple[Any, Any, str]]
Splits = dict[str, tuple[Read, int]]
"""Official splits: how they are read, and how many images they have."""


def load_masks(
    name: str,
    split: str,
    *,
    size: tuple[int, ...] | None = None,
    in_memory: int = IN_MEMORY,
    skip_damaged: bool = False,
    standardise: bool = False,
) -> MaskedImages:
    """A split of a data set of images with masks.

    Its own test split is the test split; without one, its validation split is, or a fixed part of its images.
    Such parts are runs of neighbours, since frames of a video are alike.

    Args:
        name: a folder under `$EENET_DATA`, or any other: with parquet files that have the columns `image` and
            `mask`, or with folders `images/` and `masks/`, perhaps in or around folders for each split. An
            `info.json` names the `classes`, the `ignore_index`, and the `palette` of masks in colour.
        split: `train`, `validation` or `test`.
        size: (height, width), the smaller of which the shorter side of every image is brought to, or with
            channels before. Default: the shortest side among the training images.
        in_memory: bytes up to which a split is held in memory.
        skip_damaged: go on without images or masks that can't be read; a note says how many there were.
        standardise: bring every image to the same mean and spread.

    Raises:
        FileNotFoundError: no such data set here, or a mask is missing.
        ValueError: unknown split, masks that are none, or of another size than their image.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    return _load(place_of(name), split, size, in_memory, skip_damaged, standardise)


@lru_cache(maxsize=4)
def _load(
    place: Place,
    split: str,
    size: tuple[int, ...] | None,
    in_memory: int,
    skip_damaged: bool,
    standardise: bool,
) -> MaskedImages:
    directory = readers_folder(place)
    splits = _official(directory)
    read, count, indices_B, origin = _part(splits, split, place.name)
    trained, how_many = splits.get("train", (read, count))
    form = _form(directory, splits)
    channels = size[0] if size is not None and len(size) == 3 else image_size(trained(0)[0])[0]
    side = min(size[-2:]) if size is not None else _shortest_side(trained, how_many)
    images = MaskedImages(
        read,
        count,
        form,
        channels,
        side,
        name=f"{place.name} ({split})",
        indices_B=indices_B,
        standardise=standardise,
        origin=origin,
    )
    with progress(f"decoding {place.name}, {split}", len(images)) as advance:
        return images.checked(advance, skip_damaged=skip_damaged, in_memory=in_memory)


def readers_folder(place: Place) -> Path:
    """Where a data set of masks lies.

    Raises:
        FileNotFoundError: nowhere here.
    """
    from eenet.data.datasets import local_folder

    if (directory := local_folder(place.name, place.root)) is None:
        raise FileNotFoundError(
            f"no folder {place.name} with images and masks, neither here nor under $EENET_DATA "
            f"({place.root or 'not set'})"
        )
    return directory


# Splits ------------------------------------------------------------------------------


def _part(splits: Splits, split: str, name: str) -> tuple[Read, int, NDArray[np.intp] | None, str]:
    """How a split is read, and which of the images it is."""
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


def _official(directory: Path) -> Splits:
    if splits := _parquet(directory):
        return splits
    if splits := _folders(directory):
        return splits
    raise FileNotFoundError(
        f"{directory} holds no images with masks; expected parquet files with the columns image and mask, or "
        "folders images/ and masks/ with files of the same names, perhaps in train/ and test/"
    )


def _parquet(directory: Path) -> Splits:
    files: dict[str, list[str]] = {}
    for path in sorted(directory.glob("*.parquet")):
        if split := readers.split_within(path.name):
            files.setdefault(split, []).append(str(path))
    found: Splits = {}
    for split, paths in files.items():
        table = require("pyarrow.parquet", f"reading {directory}").ParquetDataset(paths)
        if {"image", "mask"} <= {*table.schema.names}:
            rows = table.read(["image", "mask"])
            found[split] = partial(_row, rows, f"{directory.name} ({split})"), rows.num_rows
    return found


def _row(table: Any, name: str, index: int) -> tuple[Any, Any, str]:
    row = table.slice(index, 1).to_pylist()[0]
    image, mask = (row[column]["bytes"] or row[column]["path"] for column in ("image", "mask"))
    return image, mask, f"image {row['image']['path'] or index} of {name}"


def _folders(directory: Path) -> Splits:
    found = {}
    for split, images, masks in _homes(directory):
        names = {path.stem: path for path in readers.images_under(masks)}
        files = readers.images_under(images)
        missing = [path for path in files if path.stem not in names]
        if missing:
            raise FileNotFoundError(
                f"{missing[0]} has no mask: {masks} holds no image called {missing[0].stem}"
                + (f"; nor have {len(missing) - 1} others" if len(missing) > 1 else "")
            )
        if files:
            found[split] = partial(_files, files, [names[path.stem] for path in files]), len(files)
    return found


def _files(images: list[Path], masks: list[Path], index: int) -> tuple[Any, Any, str]:
    return images[index], masks[index], str(images[index])


def _homes(directory: Path) -> list[tuple[str, Path, Path]]:
    """Split, and its folders of images and masks: in a folder for the split, or the other way round."""
    inner = {split: path for path in readers.folders_in(directory) if (split := readers.split_of(path.name))}
    if inner:
        pairs = [(split, _named(path, IMAGES), _named(path, MASKS)) for split, path in inner.items()]
        return [(split, images, masks) for split, images, masks in pairs if images and masks]
    images, masks = _named(directory, IMAGES), _named(directory, MASKS)
    if images is None or masks is None:
        return []
    parts = {split: path for path in readers.folders_in(images) if (split := readers.split_of(path.name))}
    if not parts:
        return [("train", images, masks)]
    return [(split, path, masks / path.name) for split, path in parts.items() if (masks / path.name).is_dir()]


def _named(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_dir()), None)


# What masks mean ---------------------------------------------------------------------


def _form(directory: Path, splits: Mapping[str, tuple[Read, int]]) -> MaskFormat:
    path = directory / INFO_FILE
    ignore_index, classes, palette, ignored = NO_CLASS, None, (), None
    if path.is_file():
        try:
            info = json.loads(path.read_text())
            classes = info.get("classes")
            ignore_index = int(info.get("ignore_index", NO_CLASS))
            palette = tuple(tuple(int(v) for v in colour) for colour in info.get("palette", ()))
            ignored = tuple(info["ignore_colour"]) if "ignore_colour" in info else None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} can't be read: {error}") from error
        if palette and any(len(colour) != 3 for colour in palette):
            raise ValueError(f"{path}: 'palette' must hold [red, green, blue] for each class")
        if palette and classes is not None and len(palette) != len(classes):
            raise ValueError(f"{path} names {len(classes)} classes, but {len(palette)} colours")
    if classes is None:
        read, count = splits.get("train", next(iter(splits.values())))
        highest = len(palette) - 1
        if not palette:
            masks = ((mask, f"the mask of {name}") for _, mask, name in map(read, range(count)))
            highest = max(highest_class(mask, ignore_index, name) for mask, name in masks)
        classes = [str(i) for i in range(highest + 1)]
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ValueError(
            f"{directory} has {len(classes)} classes; masks need 2 to {MOST_CLASSES}, background included"
        )
    return MaskFormat(tuple(map(str, classes)), ignore_index, palette, ignored)  # type: ignore[arg-type]


def _shortest_side(read: Read, count: int) -> int:
    """Among images, at most 64 of them."""
    places = np.linspace(0, count - 1, min(count, 64)).astype(int)
    return min(min(image_size(read(int(i))[0])[1:]) for i in places)
