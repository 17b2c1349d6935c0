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
from torchvision.datasets import ImageFolder

from eenet import data
from eenet.data.datasets import _load
from eenet.data.readers import Columns, folder, from_dataset


def arrays(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def pixels(images: data.Images) -> np.ndarray:
    return images.pixels(slice(None))


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
        blue_and_red = pixels(images)[:, [2, 0]].mean((2, 3))
        assert np.array_equal(blue_and_red.argmax(1), images.labels_B)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"class {i % 3}").mkdir(exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / f"class {i % 3}" / f"{i}.png")
    parts = [set(pixels(data.load(str(tmp_path), split))[:, 0, 0, 0].tolist()) for split in data.SPLITS]
    assert sorted(map(len, parts)) == [6, 6, 48]
    assert set().union(*parts) == set(range(60))


def write_images(root: Path, *names: str, sizes: tuple[int, ...] = (4,)) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (sizes[i % len(sizes)], 4), i).save(root / name)


def many(*folders: str, count: int = 10) -> list[str]:
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


def loaded(root: Path, **options: Any) -> dict[str, data.Images]:
    return {split: data.load(str(root), split, **options) for split in data.SPLITS}


def test_class_folders_are_read_as_torchvision_does(tmp_path: Path) -> None:
    write_images(tmp_path, *many("b/x", "b/x-y", "b", "a", "C"))
    oracle = ImageFolder(str(tmp_path))
    found = from_dataset(oracle)
    images = folder(tmp_path, None, Columns(), None)["train"]()
    assert images.class_names == oracle.classes
    assert np.array_equal(images.labels_B, found.labels_B)
    assert images.read([0, 7, 40]) == [path for path, _ in (oracle.samples[i] for i in (0, 7, 40))]


@pytest.mark.parametrize(("word", "split"), [("test", "test"), ("Val", "test"), ("TESTING", "test")])
def test_a_class_without_test_images_is_named(word: str, split: str, tmp_path: Path) -> None:
    """Classes go by name: `cat` keeps its number though `ant` is missing; so is what has an empty folder."""
    write_images(tmp_path, *many("train/ant", "train/cat", "train/dog"), f"{word}/cat/0.png")
    (tmp_path / word / "dog").mkdir()
    images = loaded(tmp_path)
    assert images[split].class_names == ["ant", "cat", "dog"]
    assert images[split].labels_B.tolist() == [1]
    assert "test has no images of ant, dog" in data.describe_splits(images)


@pytest.mark.parametrize("word", ["test", "val"])
def test_classes_that_training_images_lack(word: str, tmp_path: Path) -> None:
    write_images(tmp_path, *many("train/cat", "train/dog"), f"{word}/cat/0.png", f"{word}/dgo/0.png")
    for split in data.SPLITS:
        with pytest.raises(
            ValueError, match="classes that the training images don't have: dgo; they have cat"
        ):
            data.load(str(tmp_path), split)


@pytest.mark.parametrize(
    ("column", "kind"), [(["cat", "ant", "dog"], "string"), ([1, 0, 2], "int64")], ids=["text", "numbers"]
)
def test_classes_of_parquet_files_go_by_name_too(column: list, kind: str, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    for split, labels in (("train", column * 20), ("test", column[:1] * 3)):
        rows = [{"image": {"bytes": png(arrays(1, 8, 8)[0]), "path": None}, "label": x} for x in labels]
        datasets.Dataset.from_list(rows, features).to_parquet(tmp_path / f"{split}.parquet")
    test = data.load(str(tmp_path), "test")
    assert test.class_names == (["ant", "cat", "dog"] if kind == "string" else ["0", "1", "2"])
    assert test.labels_B.tolist() == [1, 1, 1]
    datasets.Dataset.from_list([{**rows[0], "label": "emu" if kind == "string" else 3}], features).to_parquet(
        tmp_path / "test.parquet"
    )
    _load.cache_clear()
    with pytest.raises(ValueError, match=r"don't have: emu|label 3 is outside the 3 classes"):
        data.load(str(tmp_path), "test")


@pytest.mark.parametrize(
    "litter",
    ["__MACOSX/._a.png", ".DS_Store/a.png", "@eaDir/a.png", "lost+found/a.png", ".ipynb_checkpoints/a.png",
     "$RECYCLE.BIN/a.png", "__pycache__/a.png", "ant/._0.png", "ant/.ipynb_checkpoints/0-checkpoint.png",
     "ant/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "ant/__MACOSX/0.png"],
)  # fmt: skip
@pytest.mark.parametrize("home", ["", "train"])
def test_what_systems_leave_behind_is_no_data(litter: str, home: str, tmp_path: Path) -> None:
    write_images(tmp_path / home, *many("ant", "cat"))
    (tmp_path / home / litter).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / home / litter).write_bytes(b"no image")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / home / "ant" / name).write_bytes(b"no image")
    images = loaded(tmp_path)
    assert images["train"].class_names == ["ant", "cat"]
    assert sum(map(len, images.values())) == 20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (many("images"), r"holds a single class, 'images'.* labels.csv with the columns file and label$"),
        (many("train/cat", "val/cat"), r"train holds a single class, 'cat'; .* folders CLASS/ of images"),
        (many("flowers/rose", "flowers/tulip"), r"or give .*flowers, which has folders in it"),
    ],
)
def test_a_single_class_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    write_images(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path), "train")


@pytest.mark.parametrize("label", [0, 2, "cat"])
def test_a_single_class_in_a_table_of_images_is_refused(label: int | str, tmp_path: Path) -> None:
    rows = [{"image": {"bytes": png(a), "path": None}, "label": label} for a in arrays(20, 8, 8)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=f"holds a single class, '{label}'"):
        data.load(str(tmp_path), "train")


def test_training_images_of_one_class_among_several_are_refused() -> None:
    images = from_dataset([(arrays(1, 8, 8)[0], 1)] * 9, class_names=["no", "yes"])
    with pytest.raises(ValueError, match="mine holds a single class, 'yes'"):
        data.check_classes(images, "mine")


def test_splits_say_where_they_come_from(tmp_path: Path) -> None:
    train = many("train/cat", "train/dog", count=18)
    write_images(tmp_path / "one", *train)
    write_images(tmp_path / "two", *train, *many("val/cat", "val/dog"))
    write_images(tmp_path / "all", *train, *many("valid/cat", "valid/dog"), *many("test/cat", "test/dog"))
    expected = {
        "one": "train 28 · validation 4 (taken from train) · test 4 (taken from train)",
        "two": "train 32 · validation 4 (taken from train) · test 20 (val/)",
        "all": "train 36 · validation 20 · test 20",
    }
    for options in ({}, {"in_memory": 0}):
        found = {name: data.describe_splits(loaded(tmp_path / name, **options)) for name in expected}
        assert found == expected


def test_unlabelled_test_images_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, *many("train/cat", "train/dog", "test"))
    assert "; test/ left out: its images have no labels" in data.describe_splits(loaded(tmp_path))
    write_images(tmp_path, *many("val/cat", "val/dog"))
    _load.cache_clear()
    found = data.describe_splits(loaded(tmp_path))
    assert found.endswith("test 20 (val/); test/ left out: its images have no labels")


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, *many("cat", "dog"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "read.me").write_text("no image")
    images = loaded(tmp_path)
    assert images["train"].class_names == ["cat", "dog"]
    assert data.describe_splits(images).endswith(f"{tmp_path.name}/docs/ left out: no images in it")


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    write_images(tmp_path, *many("train/cat", "train/dog", "val/cat", "valid/cat"))
    with pytest.raises(ValueError, match="two folders of validation images: val, valid"):
        data.load(str(tmp_path), "train")


def test_links_in_circles_end(tmp_path: Path) -> None:
    write_images(tmp_path, *many("cat", "dog"))
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert sum(map(len, loaded(tmp_path).values())) == 20


def test_folders_that_hold_no_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no data set; expected train"):
        data.load(str(tmp_path), "train")
    (tmp_path / "train").mkdir()
    for name in ("cat", "0.png"):
        Image.new("L", (4, 4)).save(tmp_path / "train" / name, "PNG")
        with pytest.raises(FileNotFoundError, match=r"no image in the class folders of .*train"):
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
    assert np.array_equal(pixels(test), given["test"].transpose(0, 3, 1, 2))
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
    assert np.array_equal(pixels(test), arrays(20, 32, 32, 3).transpose(0, 3, 1, 2))
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
    assert np.array_equal(pixels(test)[:, 0], arrays(20, 28, 28))
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
    ("row", "message"),
    [
        ({"label": 0}, r"train.parquet has the columns text, label; expected .* one of labels"),
        ({"image": {"bytes": b"", "path": None}}, "needs an image and a label column"),
    ],
)
def test_tables_without_images_or_labels(row: dict, message: str, tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "x", **row}]).to_parquet(tmp_path / "train.parquet")
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
        ([(torch.randn(3, 8, 8) * 9, label) for label in (0, 1)], "0 to 1"),
        ([(np.zeros((8, 8), np.uint8), 0), (np.zeros((9, 8), np.uint8), 1)], "differ in size"),
        ([(np.zeros((8, 8), np.uint8), 1)] * 3, "holds a single class, '1'"),
    ],
)
def test_unusable_datasets(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dataset(dataset)
