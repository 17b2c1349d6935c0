"""Data sets by name, folder or hub id, and their train, validation and test splits."""

import difflib
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from eenet.common import progress
from eenet.data import readers
from eenet.data.image_sets import DamagedError, Images, LazyImageSet, complaint
from eenet.data.sources import SOURCES, source_of

SPLITS = ("train", "validation", "test")
IN_MEMORY = 2 * 2**30  # bytes: larger splits stay on disk
NAMED = 5  # classes that a line names


def load(
    name: str,
    split: str,
    *,
    size: tuple[int, int] | tuple[int, int, int] | None = None,
    in_memory: int = IN_MEMORY,
    skip_damaged: bool = False,
) -> Images:
    """Load one split of a data set.

    A data set's own test split is the test split; if it has none, its validation split
    is, and if it has neither, a fixed part of its images. Validation images are the data
    set's own if they aren't needed for that, else a fixed part of the training images.
    Splits are disjoint, parts are stratified by class and the same in every run.

    A split that is held in memory is decoded here; if an image is damaged, all damaged ones of all splits
    are named. A larger one is decoded when its images are needed: then all of its damaged ones are named as
    soon as one is met. With `skip_damaged` it is decoded once here too, to know them.

    Args:
        name: one of `SOURCES`; a folder under `$EENET_DATA`, or any other, with parquet files
            in the Hugging Face layout, images and a table of file names and labels, class folders, IDX or
            MAT files; or the id of a data set on the Hugging Face hub (`owner/name` or
            `owner/name:configuration`).
        split: `train`, `validation` or `test`.
        size: (height, width) that images are brought to, or (channels, height, width), so that grey ones
            become colour or colour ones grey. Default: their own.
        in_memory: bytes of pixels up to which a split is held in memory; a larger one is
            decoded from disk batch by batch.
        skip_damaged: go on without images that can't be read; a note says how many there were.

    Raises:
        FileNotFoundError: no such data set here, and the hub can't be reached.
        ValueError: unknown split or name, images of different sizes without `size`, labels
            outside the classes, a single class, test images of classes that the training images don't have,
            or damaged images.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    channels, size = (size[0], size[1:]) if size is not None and len(size) == 3 else (None, size)
    return _load(name, split, size, in_memory, os.environ.get("EENET_DATA"), skip_damaged, channels)


def describe_splits(images: Mapping[str, Images]) -> str:
    """A line that says how many images each split has, where it comes from, and what was left out.

    Such as `train 336 · validation 24 (taken from train) · test 120 (val/); test has no images of dog`.
    """
    parts, notes = [], {}
    for split, held in images.items():
        parts.append(f"{split} {len(held)}" + (f" ({held.origin})" if held.origin else ""))
        notes |= dict.fromkeys(held.notes)
        seen = set(held.labels_B.unique().tolist())
        if missing := [name for label, name in enumerate(held.class_names) if label not in seen]:
            more = f" … ({len(missing)} in all)" if len(missing) > NAMED else ""
            notes[f"{split} has no images of {', '.join(missing[:NAMED])}{more}"] = None
    return "; ".join([" · ".join(parts), *notes])


@lru_cache(maxsize=4)
def _load(
    name: str,
    split: str,
    size: readers.Size,
    in_memory: int,
    root: str | None,
    skip_damaged: bool,
    channels: int | None,
) -> Images:
    images = _split(name, split, size, root)
    if channels is not None:
        images = replace(images, image_size=(channels, *images.image_size[1:]))
    channels, height, width = images.image_size
    if len(images) * channels * height * width > in_memory:
        images = images.without_damaged() if skip_damaged else images
    else:
        with progress(f"decoding {name}, {split}", len(images)) as advance:
            try:
                images = images.in_memory(advance, skip_damaged=skip_damaged)
            except DamagedError:
                raise ValueError(_all_damaged(name, size, root)) from None
    if split == "train":
        readers.check_classes(images, name)
    return images


def _all_damaged(name: str, size: readers.Size, root: str | None) -> str:
    """What to tell of all damaged images of all splits, so that all can be mended at once."""
    errors, total = [], 0
    for split in SPLITS:
        with suppress(ValueError, OSError):  # a data set may have no training images
            images = _split(name, split, size, root)
            errors += images.damaged().values()
            total += len(images)
    return complaint(errors, total, name)


def _split(name: str, split: str, size: readers.Size, root: str | None) -> LazyImageSet:
    images = _own_or_taken(name, split, size, root)
    names = source_of(name).class_names
    return replace(images, class_names=list(names)) if names else images


def _own_or_taken(name: str, split: str, size: readers.Size, root: str | None) -> LazyImageSet:
    official, taken = _official_splits(name, size, root), "taken from train"
    if source_of(name).unlabelled_test:
        official.pop("test", None)
    own_test = next((word for word in ("test", "validation") if word in official), None)
    if split == "test" and own_test:
        images = official[own_test]()
        return replace(images, origin="") if own_test == "test" else images
    if split == "validation" and "validation" in official and own_test == "test":
        return replace(official["validation"](), origin="")
    if "train" not in official:
        raise FileNotFoundError(f"data set {name!r} has no training images, only {', '.join(official)}")
    images = replace(official["train"](), origin="")
    if own_test is None:
        rest, test = _parts(images, source_of(name).held_out)
        if split == "test":
            return replace(test, origin=taken)
        images = rest
    if split == "train" and "validation" in official and own_test == "test":
        return images
    train, validation = _parts(images, source_of(name).held_out)
    return train if split == "train" else replace(validation, origin=taken)


def _official_splits(name: str, size: readers.Size, root: str | None) -> readers.Splits:
    if name == "digits":
        return readers.digits(size)
    source = source_of(name)
    directory = local_folder(name, root)
    if directory is not None:
        return readers.folder(directory, source.hub_config, source.label_column, size)
    if source.hub_id is not None:
        try:
            return readers.hub(source.hub_id, source.hub_config, source.label_column, size)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"data set {name!r} is not under $EENET_DATA ({root or 'not set'}), and {error}"
            ) from error
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not name.startswith("."):
        hub_id, _, config = name.partition(":")
        return readers.hub(hub_id, config or None, None, size)
    near = difflib.get_close_matches(name, SOURCES, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(SOURCES)}"
    raise ValueError(f"unknown data set {name!r}, neither a known name nor a folder nor a hub id; {hint}")


def local_folder(name: str, root: str | None) -> Path | None:
    """A directory of this name under `root`, which `$EENET_DATA` gives, or anywhere."""
    candidates = [Path(root) / name] if root else []
    return next((path for path in [*candidates, Path(name)] if path.is_dir()), None)


def _parts(images: LazyImageSet, held_out: float) -> tuple[LazyImageSet, LazyImageSet]:
    labels_B = images.labels_B.numpy()
    count = max(math.ceil(held_out * len(images)), len(np.unique(labels_B)))  # one of every class at least
    try:
        kept, out = train_test_split(
            np.arange(len(images)), test_size=count, stratify=labels_B, random_state=0
        )
    except ValueError as error:
        raise ValueError(f"{images.name}: {len(images)} images can't be split by class: {error}") from error
    return images.subset(np.sort(kept)), images.subset(np.sort(out))
