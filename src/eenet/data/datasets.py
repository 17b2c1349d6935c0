"""Data sets by name, folder or hub id, and their train, validation and test splits."""

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eenet.common import progress, require
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
    label_column: str | None = None,
    file_column: str | None = None,
    usual_columns: tuple[str | None, str | None] = (None, None),
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
            MAT files; such a table; the id of a data set on the Hugging Face hub (`owner/name` or
            `owner/name:configuration`); or several of these, with commas between them, which are joined
            split by split.
        split: `train`, `validation` or `test`.
        size: (height, width) that images are brought to, or (channels, height, width), so that grey ones
            become colour or colour ones grey. Default: their own.
        in_memory: bytes of pixels up to which a split is held in memory; a larger one is
            decoded from disk batch by batch.
        skip_damaged: go on without images that can't be read; a note says how many there were.
        label_column, file_column: of a table: its labels, and its file names or images. Default: by the
            names of the columns; a note says which.
        usual_columns: of labels and of file names, where a table has columns of these names and none is
            asked for.

    Raises:
        FileNotFoundError: no such data set here, and the hub can't be reached.
        ValueError: unknown split or name, images of different sizes without `size`, labels
            outside the classes, a single class, test images of classes that the training images don't have,
            or damaged images.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    channels, size = (size[0], size[1:]) if size is not None and len(size) == 3 else (None, size)
    place = place_of(name)._replace(
        label_column=label_column, file_column=file_column, usual_columns=usual_columns
    )
    return _load(place, split, size, in_memory, skip_damaged, channels)


def data_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's settings says how its data are read, as arguments of `load`."""
    names = ("skip_damaged", "label_column", "file_column", "standardise")
    return {name: settings[name] for name in names if settings.get(name)}


def describe_splits(images: Mapping[str, Any]) -> str:
    """A line that says how many images each split has, where it comes from, and what was left out.

    Such as `train 336 · validation 24 (taken from train) · test 120 (val/); test has no images of dog`.
    """
    parts, notes = [], {}
    for split, held in images.items():
        parts.append(f"{split} {len(held)}" + (f" ({held.origin})" if held.origin else ""))
        notes |= dict.fromkeys(held.notes)
        counts_N = held.class_counts()
        if missing := [name for name, count in zip(held.class_names, counts_N, strict=True) if not count]:
            more = f" … ({len(missing)} in all)" if len(missing) > NAMED else ""
            notes[f"{split} has no images of {', '.join(missing[:NAMED])}{more}"] = None
    return "; ".join([" · ".join(parts), *notes])


class Place(NamedTuple):
    """Where a data set is."""

    name: str
    root: str | None
    """`$EENET_DATA`."""
    label_column: str | None = None
    file_column: str | None = None
    usual_columns: tuple[str | None, str | None] = (None, None)


def place_of(name: str) -> Place:
    """Where a data set of this name is to be looked for."""
    return Place(name, os.environ.get("EENET_DATA"))


@lru_cache(maxsize=4)
def _load(
    place: Place, split: str, size: readers.Size, in_memory: int, skip_damaged: bool, channels: int | None
) -> Images:
    images = open_split(place, split, size)
    if channels is not None:
        images = replace(images, image_size=(channels, *images.image_size[1:]))
    channels, height, width = images.image_size
    if len(images) * channels * height * width > in_memory:
        images = images.without_damaged() if skip_damaged else images
    else:
        with progress(f"decoding {place.name}, {split}", len(images)) as advance:
            try:
                images = images.in_memory(advance, skip_damaged=skip_damaged)
            except DamagedError:
                raise ValueError(_all_damaged(place, size)) from None
    if split == "train":
        readers.check_classes(images, place.name)
    return images


def _all_damaged(place: Place, size: readers.Size) -> str:
    """What to tell of all damaged images of all splits, so that all can be mended at once."""
    errors, total = [], 0
    for split in SPLITS:
        with suppress(ValueError, OSError):  # a data set may have no training images
            images = open_split(place, split, size)
            errors += images.damaged().values()
            total += len(images)
    return complaint(errors, total, place.name)


def open_split(place: Place, split: str, size: readers.Size) -> LazyImageSet:
    """A split as `load` gives it, none of it decoded."""
    images = _own_or_taken(place, split, size)
    names = source_of(place.name).class_names
    return replace(images, class_names=list(names)) if names else images


def _own_or_taken(place: Place, split: str, size: readers.Size) -> LazyImageSet:
    official, source = _official_splits(place, size), source_of(place.name)
    if source.unlabelled_test:
        official.pop("test", None)
    own_test = next((word for word in ("test", "validation") if word in official), None)
    if split == "test" and own_test:
        images = official[own_test]()
        return replace(images, origin="") if own_test == "test" else images
    if split == "validation" and "validation" in official and own_test == "test":
        return replace(official["validation"](), origin="")
    if "train" not in official:
        raise FileNotFoundError(f"data set {place.name!r} has no training images, only {', '.join(official)}")
    images = replace(official["train"](), origin="")
    if own_test is None:
        rest, test = _parts(images, source.held_out)
        if split == "test":
            return _taken(test, split)
        images = rest
    if split == "train" and "validation" in official and own_test == "test":
        return images
    train, validation = _parts(images, source.held_out)
    return train if split == "train" else _taken(validation, split)


def _taken(part: LazyImageSet, split: str) -> LazyImageSet:
    return replace(part, origin="taken from train", name=f"the {split} part of {part.name}")


def _official_splits(place: Place, size: readers.Size) -> readers.Splits:
    name, source = place.name, source_of(place.name)
    usual_label, usual_file = place.usual_columns
    usual_label = usual_label or source.label_column
    columns = readers.Columns(place.file_column, place.label_column, usual_file, usual_label)
    if (directory := local_folder(name, place.root)) is not None:
        return readers.folder(directory, source.hub_config, columns, size)
    if (path := _found(name, place.root, readers.is_table)) is not None:
        return readers.table(path, columns, size)
    if "," in name:
        each = [_official_splits(place._replace(name=part), size) for part in _parts_of(name)]
        return _joined(each, name)
    if name == "digits":
        return readers.digits(size)
    if source.hub_id is not None:
        try:
            return readers.hub(source.hub_id, source.hub_config, columns, size)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"data set {name!r} is not under $EENET_DATA ({place.root or 'not set'}), and {error}"
            ) from error
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not name.startswith("."):
        hub_id, _, config = name.partition(":")
        return readers.hub(hub_id, config or None, columns, size)
    near = difflib.get_close_matches(name, SOURCES, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(SOURCES)}"
    raise ValueError(f"unknown data set {name!r}, neither a known name nor a folder nor a hub id; {hint}")


def _parts_of(name: str) -> list[str]:
    """Several data sets, with commas between them."""
    return [part.strip() for part in name.split(",") if part.strip()]


def _joined(parts: Sequence[readers.Splits], name: str) -> readers.Splits:
    """The splits of several data sets, each joined; classes of the same name are the same."""

    @cache
    def opened(split: str) -> list[LazyImageSet]:
        return [part[split]() for part in parts if split in part]

    def joined(split: str) -> LazyImageSet:
        return readers.joined(opened(split), opened("train") or opened(split), f"{name} ({split})")

    return {split: partial(joined, split) for split in dict.fromkeys(s for part in parts for s in part)}


def is_here(name: str) -> bool:
    """Whether this is a data set that needs no fetching: in folders or tables, or the bundled digits."""
    root = os.environ.get("EENET_DATA")
    parts = _parts_of(name) if local_folder(name, root) is None else [name]
    found = [local_folder(part, root) or _found(part, root, readers.is_table) for part in parts]
    return all(part == "digits" or where for part, where in zip(parts, found, strict=True))


def local_folder(name: str, root: str | None) -> Path | None:
    """A directory of this name under `root`, which `$EENET_DATA` gives, or anywhere."""
    return _found(name, root, Path.is_dir)


def _found(name: str, root: str | None, is_it: Callable[[Path], bool]) -> Path | None:
    return next((path for path in [*([Path(root, name)] if root else []), Path(name)] if is_it(path)), None)


def _parts(images: LazyImageSet, held_out: float) -> tuple[LazyImageSet, LazyImageSet]:
    """Most of some images and a part of them, stratified by class.

    Raises:
        ValueError: a class has too few images.
    """
    counts = np.bincount(images.labels_B, minlength=len(images.class_names))
    few = [name for name, count in zip(images.class_names, counts, strict=True) if count == 1]
    classes = np.count_nonzero(counts)
    count = max(math.ceil(held_out * len(images)), classes)  # one of every class at least
    if few or len(images) - count < classes:
        why = f"{few[0]!r} has a single one" if few else f"they are too few for {classes} classes"
        raise ValueError(
            f"{images.name}: {len(images)} images can't be split by class, {why}; give more, or folders "
            "train/, val/ and test/"
        )
    split = require("sklearn.model_selection", f"splitting {images.name} into parts").train_test_split
    kept, out = split(np.arange(len(images)), test_size=count, stratify=images.labels_B, random_state=0)
    return images.subset(np.sort(kept)), images.subset(np.sort(out))
