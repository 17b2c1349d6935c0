"""Data: splits that never overlap, exact augmentation, batches that can be taken up anywhere."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from eenet import data
from eenet.data import ImageSet, Source, augment, batches

NAMES = ["cat", "dog", "bird"]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """A folder in the Hugging Face layout, 5×6 colour images whose first pixel is their number."""
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    for split, count, parts in (("train", 60, 2), ("test", 9, 1)):
        for part in range(parts):
            rows = []
            for i in range(part, count, parts):
                array = np.random.default_rng(i).integers(0, 255, (5, 6, 3), dtype=np.uint8)
                array[0, 0] = i
                buffer = io.BytesIO()
                Image.fromarray(array).save(buffer, "PNG")
                rows.append({"img": {"bytes": buffer.getvalue(), "path": None}, "label": i % 3})
            table = datasets.Dataset.from_list(rows, features=features)
            table.to_parquet(tmp_path / f"{split}-{part}.parquet")
    return tmp_path


def numbers(images: ImageSet) -> set[int]:
    return set(images.pixels_BCHW[:, 0, 0, 0].tolist())


def test_parquet_folder(parquet: Path) -> None:
    train, validation, test = (data.load(str(parquet), split) for split in data.SPLITS)
    assert numbers(train) | numbers(validation) == set(range(60))
    assert not numbers(train) & numbers(validation)
    assert numbers(test) == set(range(9))
    assert train.image_size == (3, 5, 6)
    assert train.class_names == NAMES
    assert all(
        label == pixel % 3 for label, pixel in zip(train.labels_B, train.pixels_BCHW[:, 0, 0, 0], strict=True)
    )


def test_name_is_looked_up_in_the_data_folder_first(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data._official_split.cache_clear()
    (parquet / "root").mkdir()
    (parquet / "root" / "mnist").symlink_to(parquet)
    monkeypatch.setenv("EENET_DATA", str(parquet / "root"))
    assert len(data.load("mnist", "test")) == 9
    data._official_split.cache_clear()


def test_digits_are_stratified_and_disjoint() -> None:
    parts = [data.load("digits", split) for split in data.SPLITS]
    assert sum(map(len, parts)) == 1797
    for part in parts:
        shares = torch.bincount(part.labels_B) / len(part)
        assert (shares - 0.1).abs().max() < 0.01
    again = data.load("digits", "validation")
    assert torch.equal(again.labels_B, parts[1].labels_B)


@pytest.mark.parametrize(
    ("name", "split", "error", "message"),
    [
        ("digits", "valid", ValueError, "unknown split"),
        ("mnits", "test", ValueError, "did you mean mnist"),
        ("/no/where", "test", ValueError, "neither a known name nor a folder"),
    ],
)
def test_refusals(name: str, split: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        data.load(name, split)


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EENET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data._official_split.cache_clear()
    with pytest.raises(FileNotFoundError, match="could not be fetched"):
        data.load("cifar10", "test")


def test_folder_without_parquet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no test"):
        data.load(str(tmp_path), "test")


def test_augment_is_a_shift_and_a_flip() -> None:
    """Against looking for each result among all crops of the padded image and its mirror image."""
    pixels = torch.randint(1, 255, (40, 2, 5, 6), dtype=torch.uint8)
    result = augment(pixels, Source(crop_padding=2, flip=True), torch.Generator().manual_seed(0))
    seen = set()
    for image, changed in zip(pixels, result, strict=True):
        matches = [
            (flip, dy, dx)
            for flip in (False, True)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(
                torch.nn.functional.pad(image, (2,) * 4)[:, dy : dy + 5, dx : dx + 6].flip(2 if flip else ()),
                changed,
            )
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 20
    assert {flip for flip, _, _ in seen} == {True, False}


def test_digits_are_never_mirrored() -> None:
    assert not data.SOURCES["digits"].flip
    assert not data.SOURCES["mnist"].flip
    pixels = torch.randint(0, 255, (50, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(augment(pixels, Source(), torch.Generator()), pixels)


def test_batches_can_be_taken_up_anywhere(digits: ImageSet) -> None:
    def epoch(start: int, epoch: int = 3, seed: int = 1) -> list[torch.Tensor]:
        source = data.SOURCES["digits"]
        return [
            augment(pixels, source, generator)
            for pixels, _, generator in batches(digits, 32, seed=seed, epoch=epoch, start=start)
        ]

    whole, rest = epoch(0), epoch(5)
    assert len(whole) == len(digits) // 32
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert not torch.equal(whole[0], epoch(0, epoch=4)[0])
    assert not torch.equal(whole[0], epoch(0, seed=2)[0])


def test_an_epoch_shows_every_image_at_most_once(digits: ImageSet) -> None:
    numbered = ImageSet(digits.pixels_BCHW, torch.arange(len(digits)), digits.class_names)
    shown = torch.cat([labels for _, labels, _ in batches(numbered, 10, seed=0, epoch=0)])
    assert len(shown) == len(set(shown.tolist())) == len(digits) // 10 * 10


def test_mean_and_std(digits: ImageSet) -> None:
    mean, std = digits.mean_std()
    values = digits.pixels_BCHW.double() / 255
    assert mean == pytest.approx([values.mean().item()])
    assert std == pytest.approx([values.std(correction=0).item()])
