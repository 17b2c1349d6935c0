"""Data sets by name: splits that never overlap, the same in every run; clear refusals."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from eenet import data
from eenet.data.datasets import IN_MEMORY, _load
from eenet.data.image_sets import ImageSet, LazyImageSet

NAMES = ["cat", "dog", "bird"]


def write_parquet(path: Path, numbers: range, *, columns: tuple[str, str] = ("image", "label")) -> None:
    """6×5 colour images whose first pixel is their number; label number % 3."""
    image_column, label_column = columns
    features = datasets.Features(
        {image_column: datasets.Image(), label_column: datasets.ClassLabel(names=NAMES)}
    )
    rows = []
    for i in numbers:
        array = np.random.default_rng(i).integers(0, 255, (5, 6, 3), dtype=np.uint8)
        array[0, 0] = i
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        rows.append({image_column: {"bytes": buffer.getvalue(), "path": None}, label_column: i % 3})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "train-0.parquet", range(0, 30))
    write_parquet(tmp_path / "train-1.parquet", range(30, 60))
    write_parquet(tmp_path / "test-0.parquet", range(9))
    return tmp_path


def numbers(images: data.Images) -> set[int]:
    return set(images.pixels(slice(None))[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(("in_memory", "kind"), [(IN_MEMORY, ImageSet), (0, LazyImageSet)])
def test_parquet_folder(parquet: Path, in_memory: int, kind: type) -> None:
    train, validation, test = (data.load(str(parquet), split, in_memory=in_memory) for split in data.SPLITS)
    assert isinstance(train, kind)
    assert numbers(train) | numbers(validation) == set(range(60))
    assert not numbers(train) & numbers(validation)
    assert numbers(test) == set(range(9))
    assert train.image_size == (3, 5, 6)
    assert train.class_names == NAMES
    for images in (train, validation, test):
        firsts = images.pixels(slice(None))[:, 0, 0, 0]
        assert np.array_equal(firsts % 3, images.labels_B)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": range(60), "valid": range(60, 90)}, {"test": range(60, 90)}),
        (
            {"train": range(60), "val": range(60, 90), "test": range(90, 99)},
            {"train": range(60), "validation": range(60, 90), "test": range(90, 99)},
        ),
        ({"train": range(60)}, {}),
    ],
    ids=["without test", "with all three", "train alone"],
)
def test_official_splits(
    splits: dict[str, range], expected: dict[str, range], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no split of its own is a part of the training images; nothing overlaps, nothing is lost."""
    for word, members in splits.items():
        write_parquet(tmp_path / "some" / "data" / f"{word}-00000-of-00001.parquet", members)
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    found = {split: numbers(data.load("some", split)) for split in data.SPLITS}
    assert all(found[split] == set(members) for split, members in expected.items())
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    assert set().union(*found.values()) == set().union(*splits.values())
    assert min(map(len, found.values())) >= 6


def test_name_is_looked_up_in_the_data_folder_first(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parquet / "root").mkdir()
    (parquet / "root" / "mnist").symlink_to(parquet)
    monkeypatch.setenv("EENET_DATA", str(parquet / "root"))
    assert len(data.load("mnist", "test")) == 9


def test_digits_are_stratified_and_disjoint() -> None:
    parts = [data.load("digits", split) for split in data.SPLITS]
    assert sum(map(len, parts)) == 1797
    for part in parts:
        shares = np.bincount(part.labels_B) / len(part)
        assert np.abs(shares - 0.1).max() < 0.01
    assert np.array_equal(data.load("digits", "validation").labels_B, parts[1].labels_B)


def test_other_sizes() -> None:
    images = data.load("digits", "test", size=(12, 10))
    assert images.image_size == (1, 12, 10)
    assert isinstance(images, ImageSet)


@pytest.mark.parametrize(
    ("name", "hub_id", "config", "columns"),
    [
        ("cifar100", "uoft-cs/cifar100", None, ("img", "fine_label")),
        ("svhn", "ufldl-stanford/svhn", "cropped_digits", ("image", "label")),
        ("tiny-imagenet", "zh-plus/tiny-imagenet", None, ("image", "label")),
        ("someone/anything", "someone/anything", None, ("picture", "target")),
        ("someone/anything:small", "someone/anything", "small", ("image", "label")),
    ],
)
def test_the_hub(
    name: str,
    hub_id: str,
    config: str | None,
    columns: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub stands in as local files: what is asked of it, and what is made of its answer."""
    for split, members in (("train", range(60)), ("test", range(60, 80))):
        write_parquet(tmp_path / f"{split}.parquet", members, columns=columns)

    def names(asked: str, given: str | None) -> list[str]:
        assert (asked, given) == (hub_id, config)
        return ["train", "test", "extra"]

    def load(asked: str, given: str | None, *, split: str) -> datasets.Dataset:
        assert (asked, given) == (hub_id, config)
        table = datasets.Dataset.from_parquet(str(tmp_path / f"{split}.parquet"))
        assert isinstance(table, datasets.Dataset)
        extra = datasets.ClassLabel(names=["coarse"])
        return table.add_column("coarse_label", [0] * len(table)).cast_column("coarse_label", extra)

    monkeypatch.delenv("EENET_DATA", raising=False)
    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    _load.cache_clear()
    assert numbers(data.load(name, "test")) == set(range(60, 80))
    train = data.load(name, "train")
    assert len(train) + len(data.load(name, "validation")) == 60
    assert train.class_names == NAMES
    _load.cache_clear()


def test_parquet_in_a_folder_per_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train" / "0000.parquet", range(60))
    write_parquet(tmp_path / "test" / "0000.parquet", range(60, 70))
    assert numbers(data.load(str(tmp_path), "test")) == set(range(60, 70))


def test_imagenet_is_measured_on_its_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels of its test images aren't public."""
    for split, members in (("train", range(60)), ("validation", range(60, 80)), ("test", range(80, 90))):
        write_parquet(tmp_path / "imagenet" / f"{split}.parquet", members)
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    assert numbers(data.load("imagenet", "test")) == set(range(60, 80))
    assert numbers(data.load("imagenet", "validation")) < set(range(60))
    told = data.describe_splits({split: data.load("imagenet", split) for split in data.SPLITS})
    assert told == "train 54 · validation 6 (taken from train) · test 20 (validation split)"


@pytest.mark.parametrize(
    ("name", "split", "error", "message"),
    [
        ("digits", "valid", ValueError, "unknown split"),
        ("mnits", "test", ValueError, "did you mean mnist"),
        ("/no/where", "test", ValueError, "neither a known name nor a folder nor a hub id"),
        ("cifar10", "test", FileNotFoundError, "not under .EENET_DATA .* could not be fetched"),
        ("no/such-thing", "test", FileNotFoundError, "could not be fetched"),
    ],
)
def test_refusals(
    name: str,
    split: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        data.load(name, split)


def test_test_images_alone(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", range(30))
    assert len(data.load(str(tmp_path), "test")) == 30
    with pytest.raises(FileNotFoundError, match="has no training images, only test"):
        data.load(str(tmp_path), "train")


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", range(4))
    with pytest.raises(ValueError, match="4 images can't be split by class"):
        data.load(str(tmp_path), "train")


def test_several_data_sets_are_joined_split_by_split(tmp_path: Path) -> None:
    """Classes go by name; each image keeps its label; a data set without test images gives none."""
    shades = iter(range(200))
    wanted: dict[int, str] = {}
    for part, names in (("one/train", "ab"), ("one/test", "ab"), ("two", "bc"), ("three", "ca")):
        for name in names:
            for _ in range(10):
                shade = next(shades)
                path = tmp_path / part / name / f"{shade}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(
                    "RGB" if part == "two" else "L", (4, 4), (shade,) * 3 if part == "two" else shade
                ).save(path)
                wanted[shade] = name
    name = ", ".join(str(tmp_path / part) for part in ("one", "two", "three"))
    images = {split: data.load(name, split) for split in data.SPLITS}
    found = {}
    for part in images.values():
        assert part.class_names == ["a", "b", "c"]
        assert part.image_size == (3, 4, 4)
        shown = part.pixels(slice(None))[:, 0, 0, 0].tolist()
        found |= {shade: part.class_names[label] for shade, label in zip(shown, part.labels_B, strict=True)}
    assert found == wanted
    assert numbers(images["test"]) == set(range(20, 40))
    assert data.describe_splits(images).startswith("train 54 · validation 6 (taken from train) · test 20; ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["here", "nowhere"], "unknown data set 'nowhere'|neither a known name"),
        (["here", "other size"], r"differ in size \(4×4, 8×8 …\); give an image size"),
    ],
)
def test_data_sets_that_can_not_be_joined(names: list[str], message: str, tmp_path: Path) -> None:
    for part, side in (("here", 4), ("other size", 8)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                Image.new("L", (side, side), i).save(tmp_path / part / name / f"{i}.png")
    with pytest.raises(ValueError, match=message):
        data.load(",".join(str(tmp_path / name) for name in names), "train")
