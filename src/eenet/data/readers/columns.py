"""A file with a table → its columns, as text: CSV and its like, JSON lines, Parquet."""

import csv
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from eenet.common import require
from eenet.data.readers.parquet import holds_images
from eenet.data.readers.rows import composed

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


class UnreadableError(Exception):
    """Why a file is no table, said of it: `can't be read: …`."""


def read_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a table by name; what is empty or missing is an empty text.

    Raises:
        UnreadableError: it is damaged, or holds images.
        ValueError: a library is needed for it.
    """
    if path.suffix.lower() == ".parquet":
        require("pyarrow", f"reading {path}")
    read = {".parquet": _parquet, ".jsonl": _json_lines}.get(path.suffix.lower(), _separated)
    try:
        names, rows = read(path)
    except (ValueError, OSError, AttributeError, csv.Error) as error:
        raise UnreadableError(f"can't be read: {error}") from error
    if twice := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise UnreadableError(f"has two columns called {twice[0]!r}")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: [_text(value) for value in column] for name, column in zip(names, columns, strict=True)}


def _parquet(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    if holds_images(str(path)):
        raise UnreadableError("holds images; such tables are called train.parquet and test.parquet")
    table = import_module("pyarrow.parquet").read_table(path)
    columns = [column.to_pylist() for column in table.columns]
    return [composed(name.strip()) for name in table.column_names], list(zip(*columns, strict=True))


def _json_lines(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = list(dict.fromkeys(name for row in found for name in row))
    return [composed(name.strip()) for name in names], [[row.get(name) for name in names] for row in found]


def _separated(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    """Of text whose first line names the columns; what separates them is found by it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        separator = max(",;\t|", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, strict=True)
        lines = [(reader.line_num, line) for line in reader if any(line)]
    if not lines:
        raise ValueError("it is empty")
    width = len(lines[0][1])
    for number, line in lines:
        if len(line) > width:
            raise ValueError(f"line {number} has {len(line)} values, the first line names {width} columns")
    names, *rows = [line + [""] * (width - len(line)) for _, line in lines]
    return [composed(name.strip()) for name in names], list(rows)


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return composed(str(int(value) if isinstance(value, float) and value.is_integer() else value).strip())
