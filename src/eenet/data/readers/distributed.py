"""Data sets as they are distributed: scikit-learn's digits, IDX files (MNIST) and MAT files (SVHN)."""

import gzip
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from eenet.common import require
from eenet.data.image_sets import LazyImageSet
from eenet.data.readers.listing import is_litter
from eenet.data.readers.rows import Rows, Size, Splits, labelled, numbers_to, split_within

_TEN = [str(digit) for digit in range(10)]


def digits(size: Size) -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8×8."""

    def read() -> LazyImageSet:
        bunch = require("sklearn.datasets", "the data set digits").load_digits()
        pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
        names = [str(name) for name in bunch.target_names]
        return labelled(Rows(pixels), bunch.target, names, size, "digits")

    return {"train": read}


def mat_files(directory: Path, size: Size) -> Splits:
    """`train_32x32.mat` and `test_32x32.mat` as SVHN is distributed: X [H, W, C, N], y with 10 for 0."""

    def read(path: Path) -> LazyImageSet:
        io = require("scipy.io", f"reading {path}")
        try:
            content = io.loadmat(path)
            pixels, labels = content["X"].transpose(3, 0, 1, 2), content["y"].ravel().astype(np.int64) % 10
        except (ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a MAT file with X [H, W, C, N] and y: {error}") from error
        return labelled(Rows(pixels), labels, _TEN, size, str(path), origin=path.name)

    return {split: partial(read, path) for split, path in _by_split(directory.glob("*_32x32.mat"))}


def idx_files(directory: Path, size: Size) -> Splits:
    """`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` …, as MNIST is distributed; also gzipped."""

    found = dict(_by_split(directory.glob("*-images-idx3-ubyte*")))

    def labels(split: str) -> np.ndarray:
        images = found[split]
        return _idx(images.with_name(images.name.replace("images-idx3", "labels-idx1"))).astype(np.int64)

    def read(split: str) -> LazyImageSet:
        path = found[split]
        names = None if split == "train" or "train" not in found else numbers_to(labels("train").max())
        return labelled(Rows(_idx(path)), labels(split), names, size, str(path), origin=path.name)

    return {split: partial(read, split) for split in found}


def _idx(path: Path) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise ValueError(f"{path} can't be read as an IDX file: {error}") from error


def _by_split(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    found = [(split_within(path.name), path) for path in sorted(paths) if not is_litter(path.name)]
    return [(split, path) for split, path in found if split]
