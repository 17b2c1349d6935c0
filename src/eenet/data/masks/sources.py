"""Data sets of images with masks: parquet files, or folders of images and of masks with the same names."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from eenet.data import readers
from eenet.data.datasets import IN_MEMORY, SPLITS, Place, place_of
from eenet.data.masks.reading import MOST_CLASSES, NO_CLASS, MaskFormat, highest_class
from eenet.data.masks.sets import MaskedImages
from eenet.data.paired.splits import (
    INFO_FILE,
    Read,
    Reading,
    Splits,
    bytes_of,
    folder_pairs,
    home_of,
    images_alone,
    parquet_splits,
    read_part,
    sizes_of,
)

MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass")


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
    return _load(place_of(name), split, Reading(size, in_memory, skip_damaged, standardise))


@lru_cache(maxsize=4)
def _load(place: Place, split: str, reading: Reading) -> MaskedImages:
    directory = home_of(place, "images and masks")
    splits = _official(directory)
    form = _form(directory, splits)
    side = min(reading.size[-2:]) if reading.size is not None else int(sizes_of(splits)[:, 1:].min())
    return read_part(MaskedImages, splits, form, side, place.name, split, reading)


def images_without_masks(
    directory: Path, class_names: Sequence[str], *, channels: int, side: int, standardise: bool
) -> MaskedImages | None:
    """All images in and below a folder that holds none with masks; None if it holds some, or no images.

    Args:
        directory: of images.
        class_names: that their pixels may have.
        channels: of the images.
        side: that the shorter side of every image is brought to.
        standardise: bring every image to the same mean and spread.

    Raises:
        ValueError: some images can't be read.
    """
    if parquet_splits(directory, "mask", bytes_of) or folder_pairs(directory, MASKS):
        return None
    form = MaskFormat(tuple(class_names), NO_CLASS)
    return images_alone(MaskedImages, directory, form, None, channels, side, standardise=standardise)


def _official(directory: Path) -> Splits:
    if splits := parquet_splits(directory, "mask", bytes_of):
        return splits
    if splits := _folders(directory):
        return splits
    raise FileNotFoundError(
        f"{directory} holds no images with masks; expected parquet files with the columns image and mask, or "
        "folders images/ and masks/ with files of the same names, perhaps in train/ and test/"
    )


def _folders(directory: Path) -> Splits:
    found = {}
    for split, images, masks in folder_pairs(directory, MASKS):
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


# What masks mean ---------------------------------------------------------------------


def _form(directory: Path, splits: Mapping[str, tuple[Read, int]]) -> MaskFormat:
    path = directory / INFO_FILE
    ignore_index, classes, palette, ignored, block = NO_CLASS, None, (), None, 1
    if path.is_file():
        try:
            info = json.loads(path.read_text())
            classes = info.get("classes")
            ignore_index = int(info.get("ignore_index", NO_CLASS))
            palette = tuple(tuple(int(v) for v in colour) for colour in info.get("palette", ()))
            ignored = tuple(info["ignore_colour"]) if "ignore_colour" in info else None
            block = int(info.get("block", 1))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} can't be read: {error}") from error
        if block < 1:
            raise ValueError(
                f"{path}: 'block' is {block}; give how many images in a row are alike, at least 1"
            )
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
    return MaskFormat(tuple(map(str, classes)), ignore_index, palette, ignored, block)  # type: ignore[arg-type]
