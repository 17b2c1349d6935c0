"""Local data sets, and the images in folders of classes or of none."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eenet.data.image_sets import LazyImageSet
from eenet.data.readers.distributed import idx_files, mat_files
from eenet.data.readers.listing import any_image_under, folders_in, images_in, images_under
from eenet.data.readers.parquet import parquet_files
from eenet.data.readers.rows import (
    Columns,
    Rows,
    Size,
    Splits,
    composed,
    labelled,
    numbered,
    refuse_single,
    split_of,
)
from eenet.data.readers.tables import UnreadableTableError, table_files, tables


def folder(directory: Path, config: str | None, columns: Columns, size: Size) -> Splits:
    """A local data set: parquet, IDX (MNIST) or MAT files (SVHN), a table of file names, class folders.

    Raises:
        FileNotFoundError: the folder holds none of these.
        ValueError: a table that is none of labels, a single class, or test images of classes that the
            training images don't have.
    """
    homes = [directory, directory / "data", *([directory / config] if config else [])]
    for read in (partial(parquet_files, columns), mat_files, idx_files):
        for home in homes:
            if splits := read(home, size):
                return splits
    notes: tuple[str, ...] = ()
    asked = [column for column in (columns.label, columns.file) if column]
    for home in filter(Path.is_dir, homes):
        try:
            if splits := tables(home, columns, size):
                return splits
        except UnreadableTableError as error:
            if asked or not _split_folders(directory):
                raise
            notes = (f"{error.names} left out: the folders give the labels",)
    if asked:
        raise ValueError(f"{directory} has no table, so no column {asked[0]!r}")
    if splits := _class_folders(directory, size, notes):
        return splits
    raise FileNotFoundError(
        f"{directory} holds no data set; expected train*.parquet and test*.parquet, or folders of images "
        "train/CLASS/ and test/CLASS/, or CLASS/, or images and a table labels.csv with the columns file and "
        "label"
    )


def unlabelled(
    directory: Path, class_names: Sequence[str], image_size: tuple[int, int, int]
) -> LazyImageSet | None:
    """The images that lie in a directory itself, for what needs no labels; all of theirs are 0.

    None if there are none, or if the directory is a data set with labels.
    """
    files = images_in(directory)
    if not files or folders_in(directory) or table_files(directory):
        return None
    return LazyImageSet(
        Rows(files), np.zeros(len(files), np.int64), list(class_names), image_size, str(directory)
    )


def _split_folders(directory: Path) -> dict[str, Path]:
    """The folders of a directory that are named for a split."""
    found: dict[str, Path] = {}
    for path in folders_in(directory):
        split = split_of(path.name)
        if split in found:
            raise ValueError(
                f"{directory} has two folders of {split} images: {found[split].name}, {path.name}"
            )
        if split:
            found[split] = path
    return found


def _class_folders(directory: Path, size: Size, notes: tuple[str, ...]) -> Splits:
    parts = _split_folders(directory) or ({"train": directory} if folders_in(directory) else {})
    found = {split: [d for d in folders_in(part) if any_image_under(d)] for split, part in parts.items()}
    for split, part in parts.items():
        if found[split]:
            empty = [d.name for d in folders_in(part) if d not in found[split]]
            notes += tuple(f"{part.name}/{name}/ left out: no images in it" for name in empty)
            continue
        loose = bool(images_in(part))
        if split == "train":
            lying = "; those in it have no labels: no table names them" if loose else ""
            raise FileNotFoundError(f"no image in the class folders of {part}{lying}")
        notes += (f"{part.name}/ left out: {'its images have no labels' if loose else 'no images in it'}",)
    parts, found = {s: part for s, part in parts.items() if found[s]}, {s: d for s, d in found.items() if d}
    classes = {split: [composed(d.name) for d in found[split]] for split in parts}
    names = sorted(set(classes["train"]) if "train" in parts else set().union(*classes.values()))
    for split, part in parts.items():
        numbered(classes[split], names, str(part))
    if parts:
        first = found["train"] if "train" in found else next(iter(found.values()))
        refuse_single(names, str(parts.get("train", directory)), _way_out(first[0]))

    def read(split: str) -> LazyImageSet:
        part = parts[split]
        files = [images_under(d) for d in found[split]]
        labels = [name for name, paths in zip(classes[split], files, strict=True) for _ in paths]
        rows = Rows([str(path) for paths in files for path in paths])
        labels, origin = numbered(labels, names, str(part)), f"{part.name}/"
        return labelled(rows, labels, names, size, str(part), origin=origin, notes=notes)

    return {split: partial(read, split) for split in parts}


def _way_out(only: Path) -> str:
    found = [path for path in folders_in(only) if any_image_under(path)]
    inner = f"; or give {only}, which has folders in it" if len(found) > 1 else ""
    table = "images and a table labels.csv with the columns file and label"
    return f": folders CLASS/ of images, or {table}{inner}"
