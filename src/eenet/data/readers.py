"""Where images come from: parquet files, the Hugging Face hub, class folders, IDX and MAT files, your own.

Each reader gives the official splits of a data set as `LazyImageSet`s of the images'
own size, or of the size asked for.
"""

import gzip
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import ImageFolder

from eenet.data.image_sets import LazyImageSet
from eenet.data.pixels import IMAGE_SUFFIXES, image_size

Size = tuple[int, int] | None
"""Height and width that images are brought to; none: as they are, if they agree."""
Splits = dict[str, Callable[[], LazyImageSet]]
"""Official splits of a data set, each opened when it is asked for."""

LOOKED_AT = 64  # images whose sizes are compared when no size is given
_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "t10k": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "validation"
)


def from_dataset(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    size: Size = None,
    name: str = "the data set",
) -> LazyImageSet:
    """Images of a map-style `torch.utils.data.Dataset`, such as those of torchvision.

    Args:
        dataset: `dataset[i]` is (image, label), the label an integer; images as `to_pixels`
            takes them: files, PIL images, arrays, tensors; not normalised.
        class_names: default: `dataset.classes`, else the labels as text.
        size: (height, width) of the images. Default: their own.
        name: for error messages.

    Raises:
        ValueError: not a map-style data set of pairs, images of different sizes without a
            `size`, or a label outside the classes.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(f"{name} must have a length and give (image, label) for an index; streams don't")
    labels = getattr(dataset, "targets", None)
    if labels is None or len(labels) != len(dataset):
        try:
            labels = [int(dataset[i][1]) for i in range(len(dataset))]
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{name} must give (image, integer label) for every index: {error}") from error
    names = class_names if class_names is not None else getattr(dataset, "classes", None)
    return _checked(partial(_items, dataset), torch.as_tensor(labels), names, size, name)


def digits(size: Size) -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8×8."""

    def read() -> LazyImageSet:
        bunch: Any = load_digits()
        pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
        names = [str(name) for name in bunch.target_names]
        return _checked(_Rows(pixels), torch.from_numpy(bunch.target), names, size, "digits")

    return {"train": read}


def hub(hub_id: str, config: str | None, label_column: str | None, size: Size) -> Splits:
    """A data set of the Hugging Face hub with an image and a label column.

    Raises:
        FileNotFoundError: the hub has no such data set, or can't be reached.
    """
    datasets = _datasets()
    try:
        found: list[str] = datasets.get_dataset_split_names(hub_id, config)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data set {hub_id!r} could not be fetched from the Hugging Face hub: "
            f"{str(error).splitlines()[0]}"
        ) from error

    def read(split: str) -> LazyImageSet:
        return _from_table(datasets.load_dataset(hub_id, config, split=split), label_column, size, hub_id)

    return {_SPLIT_WORDS.get(split, split): partial(read, split) for split in found}


def folder(directory: Path, config: str | None, label_column: str | None, size: Size) -> Splits:
    """A local data set: parquet files, class folders, IDX files (MNIST) or MAT files (SVHN).

    Raises:
        FileNotFoundError: the folder holds none of these.
        ValueError: splits whose classes differ.
    """
    homes = [directory, directory / "data", *([directory / config] if config else [])]
    for read in (_parquet_files, _mat_files, _idx_files):
        for home in homes:
            if splits := read(home, label_column, size):
                return splits
    if splits := _class_folders(directory, size):
        return splits
    raise FileNotFoundError(
        f"{directory} holds no data set; expected train*.parquet and test*.parquet, or folders of images "
        "train/CLASS/ and test/CLASS/, or CLASS/"
    )


def unlabelled(
    directory: Path, class_names: Sequence[str], image_size: tuple[int, int, int]
) -> LazyImageSet | None:
    """The images that lie in a directory itself, for what needs no labels; all of theirs are 0.

    None if there are none, or if the directory is a data set with labels.
    """
    files = image_files(directory)
    if not files or _directories(directory) or any(directory.glob("*.parquet")):
        return None
    labels_B = torch.zeros(len(files), dtype=torch.long)
    return LazyImageSet(_Rows(files), labels_B, list(class_names), image_size, str(directory))


def image_files(directory: Path) -> list[Path]:
    """The image files in a directory itself, by name."""
    return sorted(p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


# Parquet and hub ---------------------------------------------------------------------


def _datasets() -> Any:
    """Hugging Face datasets: slow to import, and not needed for the bundled digits."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _parquet_files(directory: Path, label_column: str | None, size: Size) -> Splits:
    files: dict[str, list[str]] = {}
    for path in sorted([*directory.glob("*.parquet"), *directory.glob("*/*.parquet")]):
        split = _split_of(path.name) if path.parent == directory else _SPLIT_WORDS.get(path.parent.name)
        if split:
            files.setdefault(split, []).append(str(path))

    def read(split: str) -> LazyImageSet:
        table = _datasets().Dataset.from_parquet(files[split])  # type: ignore[arg-type]
        return _from_table(table, label_column, size, f"{directory} ({split})")

    return {split: partial(read, split) for split in files}


def _from_table(table: Any, label_column: str | None, size: Size, name: str) -> LazyImageSet:
    datasets = _datasets()
    kinds = table.features
    images = [c for c, kind in kinds.items() if isinstance(kind, datasets.Image)]
    images += [c for c in ("image", "img", "picture") if c in kinds]
    preferred = [label_column] if label_column else ["label", "labels", "fine_label", "class", "target"]
    labels = [c for c in preferred if c in kinds]
    labels += [c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise ValueError(
            f"{name} needs an image and a label column, such as 'image' and 'label'; it has {list(kinds)}"
        )
    image, label = images[0], labels[0]
    table = table.select_columns([image, label])
    values, kind = table[label][:], kinds[label]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    if values and isinstance(values[0], str):
        names = sorted(set(values))
        values = [names.index(value) for value in values]
    encoded = table.cast_column(image, datasets.Image(decode=False))
    return _checked(_EncodedRows(encoded, image), torch.tensor(values), names, size, name)


# Folders and other files -------------------------------------------------------------


def _class_folders(directory: Path, size: Size) -> Splits:
    parts = {_SPLIT_WORDS[d.name]: d for d in _directories(directory) if d.name in _SPLIT_WORDS}
    if not parts:
        parts = {"train": directory} if _directories(directory) else {}
    classes = {split: [d.name for d in _directories(part)] for split, part in parts.items()}
    for split, names in classes.items():
        differing = sorted(set(names) ^ set(classes.get("train", names)))
        if differing:
            raise ValueError(
                f"the class folders in {parts['train'].name} and {parts[split].name} of {directory} differ: "
                f"only one of them has {', '.join(differing[:5])}{' …' if len(differing) > 5 else ''}"
            )

    def read(split: str) -> LazyImageSet:
        part = parts[split]
        files = ImageFolder(str(part), is_valid_file=_is_image, allow_empty=True)
        if not files.samples:
            raise FileNotFoundError(f"no image in the class folders of {part}")
        paths = [path for path, _ in files.samples]
        return _checked(_Rows(paths), torch.tensor(files.targets), files.classes, size, str(part))

    return {split: partial(read, split) for split in parts}


def _directories(directory: Path) -> list[Path]:
    found = (p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda path: path.name)


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _mat_files(directory: Path, label_column: str | None, size: Size) -> Splits:  # noqa: ARG001
    """`train_32x32.mat` and `test_32x32.mat` as SVHN is distributed: X [H, W, C, N], y with 10 for 0."""
    from scipy.io import loadmat

    def read(path: Path) -> LazyImageSet:
        try:
            content = loadmat(path)
            pixels, labels = content["X"].transpose(3, 0, 1, 2), content["y"].ravel().astype(np.int64) % 10
        except (ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a MAT file with X [H, W, C, N] and y: {error}") from error
        return _checked(_Rows(pixels), torch.from_numpy(labels), _TEN, size, str(path))

    return {split: partial(read, path) for split, path in _by_split(directory.glob("*_32x32.mat"))}


def _idx_files(directory: Path, label_column: str | None, size: Size) -> Splits:  # noqa: ARG001
    """`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` …, as MNIST is distributed; also gzipped."""

    def read(images: Path) -> LazyImageSet:
        labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
        classes = torch.from_numpy(_idx(labels).astype(np.int64))
        return _checked(_Rows(_idx(images)), classes, None, size, str(images))

    found = _by_split(directory.glob("*-images-idx3-ubyte*"))
    return {split: partial(read, path) for split, path in found}


def _idx(path: Path) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise ValueError(f"{path} can't be read as an IDX file: {error}") from error


def _by_split(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    return [(split, path) for path in sorted(paths) if (split := _split_of(path.name))]


def _split_of(file_name: str) -> str | None:
    word = file_name.replace("_", "-").replace(".", "-").split("-")[0]
    return _SPLIT_WORDS.get(word)


# Sequences of images -----------------------------------------------------------------

_TEN = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class _Rows:
    """Images that lie one after the other: an array, or a list of files."""

    images: Any

    def __call__(self, indices: list[int]) -> list[Any]:
        return [self.images[i] for i in indices]


@dataclass(frozen=True)
class _EncodedRows:
    """Image files in a column of a memory-mapped table."""

    table: Any
    column: str

    def __call__(self, indices: list[int]) -> list[Any]:
        rows = self.table[indices][self.column]
        return [row["bytes"] if row["bytes"] is not None else row["path"] for row in rows]


def _items(dataset: Any, indices: list[int]) -> list[Any]:
    return [dataset[i][0] for i in indices]


def _checked(
    read: Callable[[list[int]], Sequence[Any]],
    labels_B: Tensor,
    class_names: Sequence[str] | None,
    size: Size,
    name: str,
) -> LazyImageSet:
    """Labels within the classes, and one size for all images."""
    labels_B = labels_B.long()
    if not len(labels_B):
        raise ValueError(f"{name} holds no images")
    names = list(class_names) if class_names is not None else None
    if names is None:
        names = [str(i) for i in range(int(labels_B.max()) + 1)]
    outside = labels_B[(labels_B < 0) | (labels_B >= len(names))]
    if len(outside):
        raise ValueError(
            f"{name}: label {int(outside[0])} is outside the {len(names)} classes "
            f"(0 to {len(names) - 1}); {len(outside)} of {len(labels_B)} labels are"
        )
    looked_at = torch.linspace(0, len(labels_B) - 1, min(len(labels_B), LOOKED_AT)).long().tolist()
    sizes = {image_size(image): None for image in read(looked_at)}  # a dict keeps the order
    channels = max(found[0] for found in sizes)
    shapes = list(dict.fromkeys(found[1:] for found in sizes))
    if size is None and len(shapes) > 1:
        some = ", ".join(f"{w}×{h}" for h, w in shapes[:3])
        raise ValueError(f"the images of {name} differ in size ({some} …); give an image size, such as 64")
    return LazyImageSet(read, labels_B, names, (channels, *(size or shapes[0])), name)
