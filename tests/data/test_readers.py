"""Files in every format that the readers know, made here; each image and label is checked."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import TensorDataset

from eenet import data
from eenet.data.datasets import _load
from eenet.data.readers import from_dataset


def arrays(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def pixels(images: data.Images) -> torch.Tensor:
    return images.pixels(torch.arange(len(images)))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_class_folders(tmp_path: Path) -> None:
    colours = {
        "train/red": (255, 0, 0),
        "train/blue": (0, 0, 255),
        "val/red": (255, 0, 0),
        "val/blue": (0, 0, 255),
    }
    for name, colour in colours.items():
        (tmp_path / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (30 + i, 20), colour).save(tmp_path / name / f"{i}.{'JPG' if i % 2 else 'png'}")
        (tmp_path / name / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"differ in size \(\d+×20, .*give an image size"):
        data.load(str(tmp_path), "train")
    for split in data.SPLITS:
        images = data.load(str(tmp_path), split, size=(8, 8))
        assert images.class_names == ["blue", "red"]
        assert len(images) == {"train": 36, "validation": 4, "test": 40}[split]
        blue_and_red = pixels(images)[:, [2, 0]].float().mean((2, 3))
        assert torch.equal(blue_and_red.argmax(1), images.labels_B)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"class {i % 3}").mkdir(exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / f"class {i % 3}" / f"{i}.png")
    parts = [set(pixels(data.load(str(tmp_path), split))[:, 0, 0, 0].tolist()) for split in data.SPLITS]
    assert sorted(map(len, parts)) == [6, 6, 48]
    assert set().union(*parts) == set(range(60))


def test_class_folders_that_differ(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dgo"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name / "0.png")
    for split in data.SPLITS:
        with pytest.raises(
            ValueError, match=r"class folders in train and test of .* differ: only one of them has dgo, dog"
        ):
            data.load(str(tmp_path), split)


def test_folders_that_hold_no_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no data set; expected train"):
        data.load(str(tmp_path), "train")
    (tmp_path / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in the class folders"):
        data.load(str(tmp_path), "train")


def test_svhn_as_distributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAT files: X [32, 32, 3, N], and class 10 for the digit 0."""
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    (tmp_path / "svhn").mkdir()
    given = {"train": arrays(60, 32, 32, 3), "test": arrays(20, 32, 32, 3)}
    for split, images in given.items():
        labels = (np.arange(len(images)) % 10 + 1)[:, None].astype(np.uint8)
        path = tmp_path / "svhn" / f"{split}_32x32.mat"
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels})
    test = data.load("svhn", "test")
    assert torch.equal(pixels(test), torch.from_numpy(given["test"]).permute(0, 3, 1, 2))
    assert test.labels_B.tolist() == [*range(1, 10), 0] * 2
    assert test.class_names == [str(i) for i in range(10)]
    assert len(data.load("svhn", "train")) == 50
    (tmp_path / "svhn" / "test_32x32.mat").write_bytes(b"not a MAT file, but some text" * 9)
    _load.cache_clear()
    with pytest.raises(ValueError, match=r"test_32x32\.mat is not a MAT file"):
        data.load("svhn", "test")


def test_svhn_as_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone of the hub's repository: configurations in folders, and a split `extra` left alone."""
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    home = tmp_path / "svhn" / "cropped_digits"
    home.mkdir(parents=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(i) for i in range(10)])}
    )
    for split, count in (("train", 60), ("test", 20), ("extra", 30)):
        rows = [
            {"image": {"bytes": png(a), "path": None}, "label": i % 10}
            for i, a in enumerate(arrays(count, 32, 32, 3))
        ]
        datasets.Dataset.from_list(rows, features).to_parquet(home / f"{split}-00000-of-00001.parquet")
    test = data.load("svhn", "test")
    assert torch.equal(pixels(test), torch.from_numpy(arrays(20, 32, 32, 3)).permute(0, 3, 1, 2))
    assert test.labels_B.tolist() == [*range(10)] * 2
    assert len(data.load("svhn", "train")) + len(data.load("svhn", "validation")) == 60


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's and Fashion-MNIST's own format."""
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").mkdir()
    pack = gzip.compress if suffix else bytes
    for word, count in (("train", 60), ("t10k", 20)):
        images, labels = arrays(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        start = tmp_path / "fashion-mnist" / word
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            start.with_name(f"{word}-{name}-ubyte{suffix}").write_bytes(pack(header + array.tobytes()))
    test = data.load("fashion-mnist", "test")
    assert torch.equal(pixels(test)[:, 0], torch.from_numpy(arrays(20, 28, 28)))
    assert test.labels_B.tolist() == [*range(10)] * 2
    assert test.class_names[9] == "Ankle boot"
    assert len(data.load("fashion-mnist", "train")) == 50
    (tmp_path / "fashion-mnist" / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(b"no")
    _load.cache_clear()
    with pytest.raises(ValueError, match="can't be read as an IDX file"):
        data.load("fashion-mnist", "test")


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([0, 1, 2] * 20, datasets.Value("int64"), ["0", "1", "2"]),
        (["dog", "ant", "cat"] * 20, datasets.Value("string"), ["ant", "cat", "dog"]),
    ],
)
def test_other_kinds_of_labels(labels: list, kind: Any, names: list[str], tmp_path: Path) -> None:
    """Integers and text do as classes; bytes do as images where no feature says so."""
    features = datasets.Features(
        {"image": {"bytes": datasets.Value("binary"), "path": kind_of_path()}, "label": kind}
    )
    rows = [
        {"image": {"bytes": png(a), "path": None}, "label": label}
        for a, label in zip(arrays(60, 8, 8), labels, strict=True)
    ]
    datasets.Dataset.from_list(rows, features).to_parquet(tmp_path / "train.parquet")
    train = data.load(str(tmp_path), "train")
    assert train.class_names == names
    assert train.image_size == (1, 8, 8)


def kind_of_path() -> Any:
    return datasets.Value("string")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": None, "label": 0}], "image and a label column"),
        ([{"picture": 1, "number": 0}], "image and a label column"),
    ],
)
def test_tables_without_images_or_labels(rows: list[dict], message: str, tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "x", **{k: 1 for k in rows[0] if k != "image"}}]).to_parquet(
        tmp_path / "train.parquet"
    )
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path), "train")


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes(label: int) -> None:
    with pytest.raises(ValueError, match=rf"label {label} is outside the 3 classes \(0 to 2\); 1 of 4"):
        from_dataset([(arrays(1, 8, 8)[0], i) for i in (0, 1, 2, label)], class_names=["a", "b", "c"])


class OwnDataset(torch.utils.data.Dataset):
    """As users write them: PIL images of different sizes, labels only known by asking."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= 12:
            raise IndexError
        return Image.new("RGB", (10 + index, 10), (index, 0, 0)), index % 3


def test_own_dataset() -> None:
    images = from_dataset(OwnDataset(), size=(10, 10))
    assert images.labels_B.tolist() == [0, 1, 2] * 4
    assert pixels(images)[:, 0, 5, 5].tolist() == list(range(12))
    assert images.class_names == ["0", "1", "2"]
    tensors = TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 2)
    assert from_dataset(tensors, class_names=["no", "yes"]).image_size == (3, 8, 8)


def test_a_set_with_grey_images_is_coloured() -> None:
    rows = [(np.zeros((8, 8), np.uint8), 0), (np.zeros((8, 8, 3), np.uint8), 1)]
    assert from_dataset(rows).image_size == (3, 8, 8)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (iter([]), "must have a length"),
        ([], "holds no images"),
        ([(np.zeros((8, 8), np.uint8), "cat")], "integer label"),
        ([np.zeros((8, 8), np.uint8)], "integer label|image"),
        ([(torch.randn(3, 8, 8) * 9, 0)], "0 to 1"),
        ([(np.zeros((8, 8), np.uint8), 0), (np.zeros((9, 8), np.uint8), 0)], "differ in size"),
    ],
)
def test_unusable_datasets(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dataset(dataset)
