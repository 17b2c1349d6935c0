"""Damaged images: all of them are named at once, or left out and counted."""

import io
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from eenet import data
from eenet.data.datasets import _load
from eenet.data.image_sets import LazyImageSet
from eenet.data.readers import from_dataset

BAD = ["train/ant/3.png", "train/cat/5.png", "train/cat/17.png", "test/cat/0.png", "test/cat/1.png"]


def noise(i: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders with files that are cut, are text, are empty, or have lost what they link to."""
    for split, count in (("train", 20), ("test", 4)):
        for name in ("ant", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                noise(i).save(tmp_path / split / name / f"{i}.png")
    for i, name in enumerate(BAD):
        path = tmp_path / name
        content = path.read_bytes()
        path.unlink()
        if i == 4:
            path.symlink_to(tmp_path / "gone.png")
        else:
            path.write_bytes((content[:200], b"some text", b"", content[:-30])[i])
    _load.cache_clear()
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_are_named_at_once(split: str, photos: Path) -> None:
    """Those of the other splits too: else the next run finds them, and the next."""
    with pytest.raises(ValueError, match=r"^5 of 48 images of .* can't be read .*--skip-damaged") as refused:
        data.load(str(photos), split)
    assert all(str(photos / name) in str(refused.value) for name in BAD)


@pytest.mark.parametrize("in_memory", [2**30, 0])
def test_they_are_left_out_and_counted(in_memory: int, photos: Path) -> None:
    images = {
        split: data.load(str(photos), split, in_memory=in_memory, skip_damaged=True) for split in data.SPLITS
    }
    assert isinstance(images["train"], LazyImageSet) == (in_memory == 0)
    told = data.describe_splits(images)
    assert sum(map(len, images.values())) == 48 - 5
    counts = re.findall(r"(\d) damaged files? of (the validation part of |)\S+/(train|test) left out", told)
    assert sum(int(count) for count, _, _ in counts) == 5, told
    assert ("2", "", "test") in counts
    for part in images.values():
        pixels = part.pixels(slice(None))
        assert pixels.shape == (len(part), 1, 20, 16)
        assert len(part.labels_B) == len(part)
    assert images["test"].labels_B.tolist() == [0, 0, 0, 0, 1, 1]
    again = data.load(str(photos), "train", in_memory=in_memory, skip_damaged=True)
    assert np.array_equal(again.labels_B, images["train"].labels_B)


@pytest.mark.parametrize("workers", [0, 2])
def test_met_while_training_all_are_named_too(workers: int, photos: Path) -> None:
    """Not in memory, so not decoded before; processes that decode hand the error over without a traceback."""
    images = data.load(str(photos), "train", in_memory=0)
    assert isinstance(images, LazyImageSet)
    count = len(images.damaged())
    with pytest.raises(ValueError, match=rf"^{count} of 36 images of .*train can't be read") as refused:
        list(data.batches(images, 4, data.AUGMENTATIONS["none"], seed=0, epoch=0, workers=workers))
    assert "Traceback" not in str(refused.value)
    test = data.load(str(photos), "test", in_memory=0)
    with pytest.raises(ValueError, match=r"^2 of 8 images of .*test can't be read"):
        list(data.in_order(test, 4))


def test_a_message_names_ten(tmp_path: Path) -> None:
    for name in ("ant", "cat"):
        (tmp_path / name).mkdir()
        for i in range(30):
            (tmp_path / name / f"{i}.png").write_text("text")
        noise(0).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"58 of 60 images .*; and 48 more$") as refused:
        data.load(str(tmp_path), "train")
    assert str(refused.value).count("is not an image in a known format") == 10


def test_damaged_images_in_a_table_are_numbered(tmp_path: Path) -> None:
    rows = []
    for i in range(40):
        buffer = io.BytesIO()
        noise(i).save(buffer, "PNG")
        content = buffer.getvalue()[: 90 if i in (7, 21) else None]
        rows.append({"image": {"bytes": content, "path": None}, "label": i % 2})
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"2 of 40 .*image 7 of .*train.*image 21 of .*damaged"):
        data.load(str(tmp_path), "train")


def test_data_sets_of_ones_own(photos: Path) -> None:
    """torchvision's opens files itself: the error is Pillow's own; labels may be known only by opening."""
    folder = ImageFolder(str(photos / "train"))

    class Unlisted(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(folder)

        def __getitem__(self, index: int) -> Any:
            return folder[index]

    lazy = from_dataset(folder, name="mine")
    with pytest.raises(ValueError, match=r"^3 of 40 images of mine can't be read .*image 13 of mine: "):
        list(data.in_order(lazy, 10))
    with pytest.raises(ValueError, match=r"^3 of 40 images of mine can't be read"):
        from_dataset(Unlisted(), name="mine")
    for dataset in (folder, Unlisted()):
        kept = from_dataset(dataset, name="mine", skip_damaged=True)
        assert len(kept) == 37
        assert kept.notes == ("3 damaged files of mine left out",)
        assert kept.labels_B.tolist() == [0] * 19 + [1] * 18
        assert len(kept.in_memory()) == 37


def test_nothing_but_damaged_images(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("text")
    for skip in (False, True):
        with pytest.raises(ValueError, match="not an image in a known format"):
            data.load(str(tmp_path), "train", skip_damaged=skip)


def test_large_images_are_decoded_in_threads_in_order() -> None:
    rows = [(noise(i, (300, 300)), i % 2) for i in range(60)]
    images = from_dataset(rows)
    assert np.array_equal(images.in_memory().pixels_BCHW, images.pixels(slice(None)))
