"""What `eenet info` says of data, against counting by hand."""

import json
import unicodedata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eenet
from eenet.cli import main

ACCENTED = "Château d'été"


def write(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of two sizes; one file is no image, two pictures are there twice."""
    seeds = count()
    for part, number in (("train", 12), ("val", 4), ("test", 5)):
        for name in (ACCENTED, "two words"):
            for i in range(number):
                write(tmp_path / part / name / f"{i}.png", next(seeds), (12, 10) if i else (20, 10))
    train, test = tmp_path / "train", tmp_path / "test"
    (train / "two words" / "3.png").write_text("no image")
    same = Image.open(train / "two words" / "5.png")
    same.save(test / "two words" / "4.bmp")  # another file of the same pixels
    same = Image.open(train / "two words" / "6.png")
    same.save(train / ACCENTED / "again.png")
    return tmp_path


def test_what_is_counted(photos: Path) -> None:
    found = eenet.info(str(photos))
    assert isinstance(found, eenet.DataInfo)
    assert found.counts == {"train": 25, "validation": 8, "test": 11}
    assert found.classes == {
        ACCENTED: {"train": 13, "validation": 4, "test": 5},
        "two words": {"train": 12, "validation": 4, "test": 6},
    }
    assert found.sizes == {"12×10×3": 37, "20×10×3": 6}
    (damaged,) = found.damaged
    assert damaged.endswith("two words/3.png is not an image in a known format")
    twice = {tuple(sorted(Path(file).name for file in each.images)): each for each in found.duplicates}
    assert set(twice) == {("4.bmp", "5.png"), ("6.png", "again.png")}
    assert twice["4.bmp", "5.png"].splits == ["train", "test"]
    assert twice["6.png", "again.png"].classes == [ACCENTED, "two words"]
    assert found.problems == []
    told = str(found)
    assert "in two splits    1: " in told
    assert "two classes      1: " in told


def test_a_sheet_shows_each_class(photos: Path) -> None:
    sheet = photos.parent / "sheet.png"
    assert main(["info", str(photos), "--out", str(sheet)]) == 0
    picture = np.asarray(Image.open(sheet)).astype(int)
    height = picture.shape[0] // 2
    first = eenet.data.load(str(photos), "train", size=(height, height), skip_damaged=True)
    for row, label in enumerate((0, 1)):
        wanted = first.pixels(np.flatnonzero(first.labels_B == label)[:1])[0].transpose(1, 2, 0)
        strip = picture[row * height : (row + 1) * height]
        starts = range(strip.shape[1] - height + 1)
        assert any((strip[:, x : x + height] == wanted).all() for x in starts)


def test_on_the_command_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"train": 25, "validation": 8, "test": 11}
    assert found["duplicates"][0].keys() == {"images", "splits", "classes"}
    assert main(["info", "digits", "--data", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["counts"].values()) == 1797
    assert main(["info", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "digits"
    assert main(["info", "digits-eenet8", "--out", "sheet.png"]) == 2
    assert "digits-eenet8 is no data set that is here" in capsys.readouterr().err


def test_test_images_alone(photos: Path) -> None:
    for part in ("train", "val"):
        (photos / part).rename(photos.parent / f"{part} of {photos.name}")
    found = eenet.info(str(photos))
    assert isinstance(found, eenet.DataInfo)
    assert found.counts == {"test": 11}
    (problem,) = found.problems
    assert problem.endswith("has no training images, only test")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no data set; expected"):
        eenet.info(str(tmp_path / "empty"))


def test_names_with_accents_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    """macOS keeps accents apart from their letters in file names; tables and other systems don't."""
    forms: dict[str, Any] = {"train": "NFC", "test": "NFD"}
    for part, form in forms.items():
        for name in (ACCENTED, "two words"):
            for i in range(10):
                write(tmp_path / part / unicodedata.normalize(form, name) / f"{i}.png", i)
    images = eenet.data.load(str(tmp_path), "test")
    assert images.class_names == [ACCENTED, "two words"]
    assert images.labels_B.tolist() == [0] * 10 + [1] * 10
