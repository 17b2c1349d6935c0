"""What a user names → images, numbered, in units that a worker reads at once: always the same ones."""

import fnmatch
import json
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from eenet.data import find_images

UNITS, FEWEST_IN_UNIT, MOST_IN_UNIT = 32, 16, 1024
AT_ONCE = 16  # footers of parquet files that are read
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_COLUMNS = ("image", "img", "picture", "bytes", "content")


@dataclass(frozen=True)
class Unit:
    """Images that are read at once: files, or row groups of one parquet file."""

    first: int
    """Number of its first image, over all units."""
    count: int
    files: Sequence[str] = ()
    table: str = ""
    groups: Sequence[int] = ()
    row: int = 0
    """Of the parquet file, with which it begins."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Inputs:
    """All images, in order."""

    units: Sequence[Unit]
    column: str = ""
    """Of images, in parquet files."""
    unit_images: int = MOST_IN_UNIT
    """About, of a unit."""

    @cached_property
    def _firsts(self) -> list[int]:
        return [unit.first for unit in self.units]

    @property
    def count(self) -> int:
        return self.units[-1].first + self.units[-1].count

    @property
    def tables(self) -> bool:
        """Whether they lie in parquet files."""
        return bool(self.units[0].table)

    def between(self, start: int, end: int) -> list[tuple[Unit, int, int]]:
        """The units that hold the images of these numbers, and which of their own."""
        found, at = [], max(bisect_right(self._firsts, start) - 1, 0)
        while at < len(self.units) and (unit := self.units[at]).first < end:
            a, b = max(start - unit.first, 0), min(end - unit.first, unit.count)
            found.append((unit, a, b))
            at += 1
        return found

    def fingerprint(self) -> str:
        """By which the same images in the same order are known again."""
        digest = sha256(self.column.encode())
        for unit in self.units:
            digest.update(unit.to_json().encode())
        return digest.hexdigest()


def list_inputs(
    inputs: str | Path | Sequence[str | Path],
    *,
    column: str | None = None,
    unit_images: int | None = None,
    without: str = "",
) -> Inputs:
    """The images that are meant.

    Args:
        inputs: folders, image files, parquet files, or patterns of these; also addresses of object stores,
            such as s3://bucket/folder.
        column: of images, in parquet files. Default: by its kind and name.
        unit_images: in a unit, about. Default: by how many there are.
        without: folder whose files aren't meant: answers may lie in a folder of images.

    Raises:
        FileNotFoundError: nothing matches.
        ValueError: images and parquet files at once, or a parquet file without a column of images.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    inside = f"{_whole(without)}/"
    found = [file for one in given for file in _files_of(str(one))]
    files = [file for file in found if not without or not _whole(file).startswith(inside)]
    if not files:
        raise FileNotFoundError(f"no image or parquet file in {given[0]}, beside the answers")
    tables = [file for file in files if file.partition("?")[0].lower().endswith(".parquet")]
    if tables and len(tables) < len(files):
        raise ValueError(
            f"{given[0]} holds parquet files and images; give one kind, such as {given[0]}/*.png"
        )
    if tables:
        return _of_tables(tables, column, unit_images)
    if column is not None:
        raise ValueError(f"{given[0]} holds no parquet file, so no column {column!r}")
    size = unit_images or _unit_images(len(files))
    parts = [(i, files[i : i + size]) for i in range(0, len(files), size)]
    return Inputs([Unit(first, len(part), part) for first, part in parts], unit_images=size)


def _unit_images(count: int) -> int:
    """So that of few images too there are units for many workers."""
    return min(max(-(-count // UNITS), FEWEST_IN_UNIT), MOST_IN_UNIT)


def place_of(path: str) -> tuple[Any, str]:
    """The file system of a path or address, and the path there."""
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    try:
        return fs.FileSystem.from_uri(path)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _files_of(given: str) -> list[str]:
    """The parquet files or images behind a name, in order."""
    if "://" in given:
        return _stored_files(given)
    if given.lower().endswith(".parquet") and any(mark in given for mark in "*?["):
        found = sorted(map(str, Path().glob(given) if not Path(given).is_absolute() else _absolute(given)))
        if not found:
            raise FileNotFoundError(f"no file matches {given}")
        return found
    path = Path(given)
    tables = sorted(str(file) for file in path.rglob("*.parquet")) if path.is_dir() else []
    try:
        images = [str(file) for file in find_images([given])]
    except FileNotFoundError as error:
        if tables:
            return tables
        if path.is_dir():
            raise FileNotFoundError(f"no image or parquet file in the directory {path}") from error
        raise
    if not path.is_dir() and len(images) == 1 and not Path(images[0]).is_file():
        raise FileNotFoundError(f"no file {given}")
    return [*tables, *images]


def _whole(path: str) -> str:
    """By which two names of one file or folder are the same."""
    return path.rstrip("/") if "://" in path else str(Path(path).absolute())


def _absolute(pattern: str) -> Sequence[Path]:
    path = Path(pattern)
    return list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _stored_files(address: str) -> list[str]:
    """Those of an object store; a pattern may be in the last part, options such as ?region= behind it."""
    base, _, options = address.partition("?")
    folder, _, last = base.rstrip("/").rpartition("/")
    pattern = last if any(mark in last for mark in "*[") else ""
    base, options = (folder if pattern else base).rstrip("/"), f"?{options}" * bool(options)
    filesystem, path = place_of(base + options)
    try:
        found = filesystem.get_file_info(path)
        if found.type == fs.FileType.Directory:
            selector = fs.FileSelector(path, recursive=not pattern)
            names = sorted(info.path for info in filesystem.get_file_info(selector) if info.is_file)
        else:
            names = [path] if found.is_file else []
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{address} can't be listed: {str(error).splitlines()[0]}") from error
    wanted = (*IMAGE_SUFFIXES, ".parquet")
    names = [name for name in names if name.lower().endswith(wanted)]
    names = [name for name in names if fnmatch.fnmatch(name.rpartition("/")[2], pattern or "*")]
    if not names:
        raise FileNotFoundError(f"no image or parquet file at {address}")
    return [base.removesuffix(path) + name + options for name in names]


def _of_tables(files: Sequence[str], column: str | None, unit_images: int | None) -> Inputs:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        footers = list(pool.map(_footer, files))
    column = _image_column(footers[0].schema.to_arrow_schema(), column, files[0])
    unit_images = unit_images or _unit_images(sum(footer.num_rows for footer in footers))
    units, number = list[Unit](), 0
    for file, footer in zip(files, footers, strict=True):
        if column not in footer.schema.to_arrow_schema().names:
            raise ValueError(f"{file} has no column {column!r}, as {files[0]} has")
        groups, count, row = list[int](), 0, 0
        for group in range(footer.num_row_groups):
            groups.append(group)
            count += footer.row_group(group).num_rows
            if count and (count >= unit_images or group == footer.num_row_groups - 1):
                units.append(Unit(number, count, table=file, groups=groups, row=row))
                number, row = number + count, row + count
                groups, count = [], 0
    if not units:
        raise ValueError(f"{files[0]} has no rows")
    return Inputs(units, column, unit_images)


def _footer(file: str) -> Any:
    filesystem, path = place_of(file)
    try:
        with filesystem.open_input_file(path) as opened:
            return parquet.ParquetFile(opened).metadata
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {file}") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} can't be read as a parquet file: {str(error).splitlines()[0]}") from error


def _image_column(schema: Any, asked: str | None, name: str) -> str:
    """The column of image files, as bytes or with a name."""
    kinds = pa.types
    holding = (kinds.is_struct, kinds.is_binary, kinds.is_large_binary)
    fitting = [field.name for field in schema if any(is_kind(field.type) for is_kind in holding)]
    if asked is not None:
        if asked not in fitting:
            raise ValueError(
                f"{name} has no column {asked!r} of image files; it has {', '.join(schema.names)}"
            )
        return asked
    named = [column for column in IMAGE_COLUMNS if column in fitting]
    if not named and len(fitting) != 1:
        which = f"; which of {', '.join(fitting)}?" if fitting else ""
        raise ValueError(
            f"{name} needs a column of image files (bytes); it has {', '.join(schema.names)}{which}"
        )
    return (named or fitting)[0]
