"""Tables that hold the images themselves: parquet files here, and data sets of the Hugging Face hub."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eenet.common import require
from eenet.data.image_sets import LazyImageSet
from eenet.data.readers.listing import is_litter
from eenet.data.readers.rows import (
    Columns,
    Size,
    Splits,
    labelled,
    numbered,
    numbers_to,
    split_of,
    split_within,
)


def hub(hub_id: str, config: str | None, columns: Columns, size: Size) -> Splits:
    """A data set of the Hugging Face hub with an image and a label column.

    Raises:
        FileNotFoundError: the hub has no such data set, or can't be reached.
    """
    datasets = _datasets(f"fetching {hub_id}")
    try:
        found: list[str] = datasets.get_dataset_split_names(hub_id, config)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data set {hub_id!r} could not be fetched from the Hugging Face hub: "
            f"{str(error).splitlines()[0]}"
        ) from error

    tables = {
        split_of(split) or split: partial(datasets.load_dataset, hub_id, config, split=split)
        for split in found
    }
    return {split: partial(_images, tables, split, columns, size, hub_id) for split in tables}


def parquet_files(columns: Columns, directory: Path, size: Size) -> Splits:
    """Files such as `train-0.parquet`, or `train/0.parquet`; those without images are none of these."""
    files: dict[str, list[str]] = {}
    for path in sorted([*directory.glob("*.parquet"), *directory.glob("*/*.parquet")]):
        split = split_within(path.name) if path.parent == directory else split_of(path.parent.name)
        if split and not is_litter(path.name):
            files.setdefault(split, []).append(str(path))
    files = {split: paths for split, paths in files.items() if holds_images(paths[0])}

    def table(split: str) -> Any:
        return _datasets(f"reading {directory}").Dataset.from_parquet(files[split])

    tables = {split: partial(table, split) for split in files}
    return {
        split: partial(_images, tables, split, columns, size, f"{directory} ({split})") for split in tables
    }


def _datasets(purpose: str = "reading tables of images") -> Any:
    """Hugging Face datasets, slow to import."""
    datasets = require("datasets", purpose)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def holds_images(path: str) -> bool:
    """Whether a file has a column of what may be images: bytes, alone or with a name."""
    pyarrow, parquet = require("pyarrow", f"reading {path}"), require("pyarrow.parquet", f"reading {path}")
    kinds = pyarrow.types
    holding = (kinds.is_struct, kinds.is_binary, kinds.is_large_binary)
    try:
        return any(is_kind(column) for column in parquet.read_schema(path).types for is_kind in holding)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read as a parquet file: {error}") from error


def _images(
    tables: Mapping[str, Callable[[], Any]], split: str, columns: Columns, size: Size, name: str
) -> LazyImageSet:
    datasets = _datasets()
    table = tables[split]()
    image, label = _columns(table, columns, name)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    values, kind = _labels(table, label, name), table.features[label]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    if names is None:
        own = split == "train" or "train" not in tables
        trained = values if own else _labels(tables["train"](), label, name)
        if isinstance(values[0], str):
            names = sorted({str(value) for value in trained})
            values = numbered(values, names, name)
        elif not own:
            names = numbers_to(max(trained))
    return labelled(_EncodedRows(encoded, image), values, names, size, name, origin=f"{split} split")


def _columns(table: Any, columns: Columns, name: str) -> tuple[str, str]:
    datasets, kinds = _datasets(), table.features
    if missing := columns.missing(list(kinds)):
        raise ValueError(f"{name} {missing}")
    images = [c for c in (columns.file, columns.usual_file) if c and c in kinds]
    images += [c for c, kind in kinds.items() if isinstance(kind, datasets.Image)]
    images += [c for c in ("image", "img", "picture") if c in kinds]
    preferred = [columns.label, columns.usual_label, "label", "labels", "fine_label", "class", "target"]
    labels = [c for c in preferred if c and c in kinds]
    labels += [c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise ValueError(
            f"{name} needs an image and a label column, such as 'image' and 'label'; it has {list(kinds)}"
        )
    return images[0], labels[0]


def _labels(table: Any, column: str, name: str) -> list[Any]:
    values = table[column][:]
    if not values or None in values:
        raise ValueError(f"{name} has {'rows without a label' if values else 'no rows'}")
    return values


@dataclass(frozen=True)
class _EncodedRows:
    """Image files in a column of a memory-mapped table."""

    table: Any
    column: str

    def __call__(self, indices: list[int]) -> list[Any]:
        rows = self.table[indices][self.column]
        return [row["bytes"] if row["bytes"] is not None else row["path"] for row in rows]
