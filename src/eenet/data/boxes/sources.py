"""Data sets of images with boxes: parquet files, COCO's JSON, YOLO's lines or VOC's XML."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eenet.data.boxes.coco import coco_splits
from eenet.data.boxes.reading import BoxFormat, Found, found_objects, from_xywh, made
from eenet.data.boxes.sets import BoxedImages, side_for
from eenet.data.boxes.texts import voc_splits, yolo_splits
from eenet.data.datasets import IN_MEMORY, SPLITS, Place, place_of
from eenet.data.paired.splits import (
    INFO_FILE,
    Reading,
    Splits,
    home_of,
    images_alone,
    parquet_splits,
    read_part,
    sizes_of,
)

CATEGORIES = ("category", "categories", "label", "labels", "category_id")


def load_boxes(
    name: str,
    split: str,
    *,
    size: tuple[int, ...] | None = None,
    in_memory: int = IN_MEMORY,
    skip_damaged: bool = False,
    standardise: bool = False,
) -> BoxedImages:
    """A split of a data set of images with boxes around objects. An image may hold none.

    Its own test split is the test split; without one, its validation split is, or a fixed part of its images.
    Such parts are runs of neighbours, since frames of a video are alike.

    Args:
        name: a folder under `$EENET_DATA`, or any other: with parquet files that have the columns `image` and
            `objects` (`bbox` in rows x, y, width, height, and `category`), COCO's JSON files beside images or
            in `annotations/`, folders `images/` and `labels/` as YOLO has them, or `JPEGImages/` and
            `Annotations/` as VOC has. An `info.json` may name the `classes`.
        split: `train`, `validation` or `test`.
        size: (height, width), the larger of which the longer side of every image is brought to, a multiple of
            32; or with channels before. Default: near that of the largest images, at most 640.
        in_memory: bytes up to which a split is held in memory.
        skip_damaged: go on without images that can't be read or whose boxes are wrong; a note says how many.
        standardise: bring every image to the same mean and spread.

    Raises:
        FileNotFoundError: no such data set here, or an image is missing.
        ValueError: unknown split, files of another kind, boxes outside images or without size, unknown
            categories, or no object at all.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    return _load(place_of(name), split, Reading(size, in_memory, skip_damaged, standardise))


@lru_cache(maxsize=4)
def _load(place: Place, split: str, reading: Reading) -> BoxedImages:
    splits, names = _official(home_of(place, "images and boxes"))
    asked = reading.size is not None
    side = side_for(
        max(reading.size[-2:]) if reading.size else int(sizes_of(splits)[:, 1:].max()), asked=asked
    )
    form = BoxFormat(tuple(names))
    images = read_part(BoxedImages, splits, form, side, place.name, split, reading)
    if split == "train" and not images.class_counts().any():
        raise ValueError(
            f"{images.name}: none of its {len(images)} images holds an object, so nothing can be learnt"
        )
    return images


def images_without_boxes(
    directory: Path, class_names: Sequence[str], *, channels: int, side: int, standardise: bool
) -> BoxedImages | None:
    """All images in and below a folder that holds none with boxes; None if it holds some, or no images.

    Args:
        directory: of images.
        class_names: of the objects that may be in them.
        channels: of the images.
        side: that the longer side of every image is brought to.
        standardise: bring every image to the same mean and spread.

    Raises:
        ValueError: some images can't be read.
    """
    if _given(directory)[0]:
        return None
    form, nothing = BoxFormat(tuple(class_names)), found_objects([], [])
    return images_alone(BoxedImages, directory, form, nothing, channels, side, standardise=standardise)


def _official(directory: Path) -> tuple[Splits, list[str]]:
    splits, names = _given(directory)
    if splits:
        return splits, [*(names or _info(directory) or _numbers(splits))]
    raise FileNotFoundError(
        f"{directory} holds no images with boxes; expected parquet files with the columns image and objects, "
        "COCO's JSON files, or folders images/ and labels/ (YOLO) or JPEGImages/ and Annotations/ (VOC)"
    )


def _given(directory: Path) -> tuple[Splits, Sequence[str] | None]:
    """Splits of images with boxes, if there are any, and the classes where their own files name them."""
    if splits := parquet_splits(directory, "objects", _of_parquet):
        return splits, None
    for read in (coco_splits, yolo_splits, voc_splits):
        splits, names = read(directory)
        if splits:
            return splits, names
    return {}, None


def _info(directory: Path) -> list[str] | None:
    path = directory / INFO_FILE
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text())
        names = info.get("object_classes", info.get("classes"))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return None if names is None else [*map(str, names)]


def _of_parquet(objects: Any) -> Found:
    """From lists `bbox` and `category`, or a list of objects that have them."""
    if isinstance(objects, list):
        keys = objects[0] if objects else {}
        objects = {key: [each[key] for each in objects] for key in keys}
    objects = objects or {}
    kind = next((key for key in CATEGORIES if key in objects), None)
    return found_objects(from_xywh(objects.get("bbox", [])), objects[kind] if kind else [])


def _numbers(splits: Splits) -> list[str]:
    """Classes by their numbers, where nothing names them."""
    read, count = splits.get("train", next(iter(splits.values())))
    found = [made(truth) for _, truth, _ in map(read, range(count))]
    highest = max((int(np.max(each.labels_M, initial=-1)) for each in found), default=-1)
    return [str(n) for n in range(highest + 1)]
