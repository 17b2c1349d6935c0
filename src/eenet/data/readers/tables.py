"""Tables of file names and labels beside the images: `labels.csv`, `train.csv` and the like."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eenet.common import counted
from eenet.data.image_sets import LazyImageSet
from eenet.data.readers.columns import SUFFIXES, UnreadableError, read_columns
from eenet.data.readers.listing import IMAGE_SUFFIXES, folders_in, images_under, is_image, is_litter
from eenet.data.readers.rows import (
    Columns,
    Rows,
    Size,
    Splits,
    composed,
    in_order,
    labelled,
    numbered,
    split_of,
    split_within,
)

FILE_COLUMNS = (
    "file", "filename", "filepath", "image", "imagename", "imagefile", "imagepath", "img", "imgname",
    "imgpath", "imageid", "imgid", "path", "picture", "photo", "id", "name",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classname", "classlabel", "classid", "target", "category", "categoryname",
    "categoryid", "species", "breed", "diagnosis", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
"""Columns by their names in small letters, without what separates words; the first of them that there is."""
EXPECTED = (
    "expected a table with a column of file names (file, filename, image, path, id, …) and one of labels "
    "(label, class, target, category, …), and the images beside it or in folders there"
)


class UnreadableTableError(ValueError):
    """A table that is none of file names and labels."""

    def __init__(self, directory: Path, reasons: dict[str, str]) -> None:
        self.names = ", ".join(reasons)
        why = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        super().__init__(
            f"{directory} holds a table that can't be read as one of labels: {why}; {EXPECTED}. If it is "
            "none, move it elsewhere"
        )


def tables(directory: Path, columns: Columns, size: Size, *, only: Path | None = None) -> Splits:
    """The splits of images whose labels stand in tables; none if there is no table.

    A table is for the split that its name or folder speaks of, else for the training images; a column
    `split` may say it for each row. Files are named with or without their suffix, relative to the table or
    to a folder of images beside it. `only`: this table and no other.

    Raises:
        UnreadableTableError: no table is one of file names and labels.
        ValueError: an image has two labels, a name stands for several files, or other splits have classes
            that the training images don't have.
    """
    given = table_files(directory) if only is None else [(only, split_within(only.stem))]
    if not given:
        return {}
    images, read, reasons = _Images(directory), [], {}
    for path, split in given:
        shown = path.relative_to(directory).as_posix()
        try:
            read.append(_read(path, split, images, columns))
        except _NoLabelsError as reason:
            reasons[shown] = str(reason)
    notes = [f"{shown} left out: it {reason}" for shown, reason in reasons.items()]
    if any(table.split == "train" for table in read):
        notes += [f"{table.name} left out: it is for no split" for table in read if not table.split]
        read = [table for table in read if table.split]
    elif reasons and not any(table.split is None for table in read):
        raise UnreadableTableError(directory, reasons)
    rows: dict[str, dict[Path, str]] = {}
    origins: dict[str, str] = {}
    for table in read:
        notes.append(f"labels from {table.name} ({', '.join(table.columns)})")
        for split, part in table.rows.items():
            if split in rows:
                raise ValueError(
                    f"{directory} has two tables for {split}, {origins[split]} and {table.name}; keep one, "
                    "or call them train.csv and test.csv"
                )
            rows[split], origins[split] = part, table.name
        if table.without_label:
            notes.append(f"{counted(table.without_label, 'row')} of {table.name} without a label left out")
    notes += _unnamed(images, {path for part in rows.values() for path in part})
    trained = rows.get("train") or {k: v for part in rows.values() for k, v in part.items()}
    names = in_order(trained.values())

    def images_of(split: str) -> LazyImageSet:
        where, part = f"{directory} ({split})", rows[split]
        labels = numbered(list(part.values()), names, f"{where}, from {origins[split]},")
        origin = origins[split] if len(rows) == len(read) else f"{split} in {origins[split]}"
        return labelled(
            Rows([str(path) for path in part]),
            labels,
            names,
            size,
            where,
            origin=origin,
            notes=tuple(notes),
        )

    return {split: partial(images_of, split) for split in rows}


def table(path: Path, columns: Columns, size: Size) -> Splits:
    """The splits of one table, whatever lies beside it. Errors as in `tables`."""
    return tables(path.parent, columns, size, only=path)


def is_table(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def table_files(directory: Path) -> list[tuple[Path, str | None]]:
    """Tables in a directory and in the folders of its splits; with the split that they speak of."""
    found = [(path, split_within(path.stem)) for path in _tables_in(directory)]
    for part in folders_in(directory):
        if split := split_of(part.name):
            found += [(path, split) for path in _tables_in(part)]
    return found


def _tables_in(directory: Path) -> list[Path]:
    files = (p for p in directory.iterdir() if is_table(p) and not is_litter(p.name))
    return sorted(p for p in files if "submission" not in p.name.lower())


def _unnamed(images: "_Images", named: set[Path]) -> list[str]:
    """Notes of images that no table names; in a folder of its own these are a competition's test images."""
    others = [path for path in images.files if images.directory / path not in named]
    of_split = {path.parts[0] for path in others if len(path.parts) > 1 and split_within(path.parts[0])}
    of_split -= {path.relative_to(images.directory).parts[0] for path in named & images.whole}
    notes = [f"{folder}/ left out: its images have no labels" for folder in sorted(of_split)]
    count = sum(path.parts[0] not in of_split for path in others)
    return [*notes, f"{counted(count, 'image')} left out: no table names them"] if count else notes


class _NoLabelsError(Exception):
    """Why a table is none of file names and labels, said of it: `has …`."""


@dataclass(frozen=True)
class _Table:
    name: str
    split: str | None
    columns: tuple[str, str]
    rows: dict[str, dict[Path, str]]
    """For each split: files and their labels."""
    without_label: int


def _read(path: Path, split: str | None, images: "_Images", columns: Columns) -> _Table:
    try:
        frame = read_columns(path)
    except UnreadableError as error:
        raise _NoLabelsError(str(error)) from error
    splits = _splits(frame, split or "train", path)
    if missing := columns.missing(list(frame)):
        raise _NoLabelsError(missing)
    known = [column for column in (columns.file, columns.usual_file) if column in frame]
    named = known[:1] or _chosen(frame, FILE_COLUMNS)
    found = {column: images.find_all(frame[column], splits, path.parent) for column in named}
    file = max(named, key=lambda column: sum(isinstance(f, Path) for f in found[column]), default=None)
    known = [column for column in (columns.label, columns.usual_label) if column in frame]
    labels = known[:1] or _chosen(frame, LABEL_COLUMNS)
    labels = [column for column in labels if column != file]
    if file is not None and not labels and len(frame) == 2:
        labels = [column for column in frame if column != file]
    if file is None or not labels:
        names = ", ".join(list(frame)[:8])
        first = " (its first line must name the columns)" if any(map(is_image, frame)) else ""
        raise _NoLabelsError(f"has the columns {names}{first}")
    if others := [column for column in labels if not _same_classes(frame[labels[0]], frame[column])]:
        raise ValueError(
            f"{path} has two columns that may be labels, {labels[0]!r} and {others[0]!r}; say which: "
            "--label-column (label_column=)"
        )
    label, there = labels[0], sum(isinstance(one, Path) for one in found[file])
    if there <= len(splits) / 2:
        pairs = zip(frame[file], found[file], strict=True)
        some = next((f"; {name!r} {one or 'is not'}" for name, one in pairs if not isinstance(one, Path)), "")
        raise _NoLabelsError(
            f"names {counted(len(splits), 'file')} in {file!r}, of which {there} are there{some}"
        )
    rows: dict[str, dict[Path, str]] = {}
    for name, one, text, own in zip(frame[file], found[file], frame[label], splits, strict=True):
        if isinstance(one, str):
            raise ValueError(f"{path} names {name!r}, which {one}")
        place = one or images.directory / name
        if text and rows.setdefault(own, {}).setdefault(place, text) != text:
            raise ValueError(
                f"{path} gives {name} the labels {rows[own][place]} and {text}; an image can have only one"
            )
    labelled_rows = [text for text in frame[label] if text]
    if not labelled_rows or len(set(labelled_rows)) == len(labelled_rows) > 2:
        raise _NoLabelsError(
            f"has {'another label for each file' if labelled_rows else 'no labels'} in {label!r}"
        )
    shown = path.relative_to(images.directory).as_posix()
    return _Table(shown, split, (file, label), rows, len(splits) - len(labelled_rows))


def _same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two columns say the same by other names, such as numbers and words."""
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


def _chosen(frame: dict[str, list[str]], names: Sequence[str]) -> list[str]:
    plain = {column: re.sub(r"[^a-z0-9]", "", column.lower()) for column in frame}
    found = [column for column in frame if plain[column] in names]
    return sorted(found, key=lambda column: names.index(plain[column]))


def _splits(frame: dict[str, list[str]], default: str, path: Path) -> list[str]:
    """The split of each row."""
    for column in _chosen(frame, SPLIT_COLUMNS):
        words = {word: split_of(word) for word in set(frame[column])}
        if others := [word for word, split in words.items() if not split]:
            if len(others) == len(words):
                continue
            raise ValueError(
                f"{path} has {sorted(others)[0]!r} in its column {column!r}; expected train, validation "
                "or test"
            )
        return [words[word] or default for word in frame[column]]
    return [default] * len(next(iter(frame.values()), []))


class _Images:
    """The images under a directory, to be found by what a table calls them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = [path.relative_to(directory) for path in images_under(directory)]
        self.whole = {directory / path for path in self.files}
        self.by_stem: dict[str, list[Path]] = {}
        for path in self.files:
            self.by_stem.setdefault(composed(path.stem).lower(), []).append(path)

    def find_all(self, names: list[str], splits: list[str], home: Path) -> list[Path | str | None]:
        """The file of each name; words if it may be several, nothing if it is none."""
        home = home.relative_to(self.directory)
        return [self._find(name, split, home) for name, split in zip(names, splits, strict=True)]

    def _find(self, name: str, split: str, home: Path) -> Path | str | None:
        *folders, last = [
            part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")
        ] or [""]
        stem = last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in IMAGE_SUFFIXES else last
        found = []
        for path in self.by_stem.get(stem.lower(), ()):
            inner = [composed(part) for part in path.parts[:-1]]
            shared = min(len(inner), len(folders))
            whole = bool(inner) and folders[-len(inner) :] == inner
            other = bool(inner) and split_within(inner[0]) not in (None, split) and not whole
            same = inner[len(inner) - shared :] == folders[len(folders) - shared :]
            if same and not other and (stem == last or composed(path.name).lower() == last.lower()):
                found.append((shared, inner == [*map(composed, home.parts), *folders], path))
        best = [one for one in found if one[:2] == max(one[:2] for one in found)]
        if len(best) > 1:
            return f"may be {best[0][2]} or {best[1][2]}"
        if not best:
            return Path(name) if Path(name).is_absolute() and Path(name).is_file() else None
        return self.directory / best[0][2]
