"""Batches that can be taken up anywhere and shared by processes; exact augmentation; constant memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eenet import data
from eenet.data.batching import Batch, augment, batches, recoloured
from eenet.data.image_sets import Images, ImageSet, LazyImageSet, in_order
from eenet.data.readers import from_dataset
from eenet.data.sources import AUGMENTATIONS, Augmentation

SHIFT = AUGMENTATIONS["shift"]


@pytest.fixture
def photos(tmp_path: Path) -> LazyImageSet:
    """Forty JPEGs of different sizes and modes."""
    rows = []
    for i in range(40):
        image = Image.effect_noise((20 + i, 50 - i), 60)
        (image if i % 3 else image.convert("RGB")).save(tmp_path / f"{i}.jpg")
        rows.append((tmp_path / f"{i}.jpg", i % 4))
    return from_dataset(rows, size=(16, 12))


def shown(images: Images, augmentation: Augmentation = SHIFT, **kwargs) -> list[torch.Tensor]:
    settings: Any = {"seed": 1, "epoch": 3} | kwargs
    return [augment(batch, augmentation) for batch in batches(images, 8, augmentation, **settings)]


def test_batches_can_be_taken_up_anywhere(digits: ImageSet) -> None:
    whole, rest = shown(digits), shown(digits, start=5)
    assert len(whole) == len(digits) // 8
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert not torch.equal(whole[0], shown(digits, epoch=4)[0])
    assert not torch.equal(whole[0], shown(digits, seed=2)[0])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_parts_of_a_batch_make_the_whole(name: str, photos: LazyImageSet) -> None:
    """Two processes see together what one would see."""
    whole = shown(photos, AUGMENTATIONS[name])
    parts = [shown(photos, AUGMENTATIONS[name], part=(i, 2)) for i in range(2)]
    assert all(torch.equal(w, torch.cat(p)) for w, p in zip(whole, zip(*parts, strict=True), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_memory_and_workers_do_not_matter(name: str, workers: int, photos: LazyImageSet) -> None:
    """Decoded ahead by other processes, or here; random parts of photos need the photos themselves."""
    here = shown(photos, AUGMENTATIONS[name], workers=0)
    there = shown(photos, AUGMENTATIONS[name], workers=workers)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    if not AUGMENTATIONS[name].crop:
        held = shown(photos.in_memory(), AUGMENTATIONS[name])
        assert all(torch.equal(a, b) for a, b in zip(here, held, strict=True))


def test_an_epoch_shows_every_image_at_most_once(digits: ImageSet) -> None:
    numbered = ImageSet(digits.pixels_BCHW, np.arange(len(digits)), digits.class_names)
    labels = torch.cat([batch.labels_B for batch in batches(numbered, 10, SHIFT, seed=0, epoch=0)])
    assert len(labels) == len(set(labels.tolist())) == len(digits) // 10 * 10


def test_in_order(photos: LazyImageSet) -> None:
    chunks = list(in_order(photos, 16))
    assert [len(chunk) for chunk in chunks] == [16, 16, 8]
    assert np.array_equal(np.concatenate(chunks), photos.in_memory().pixels_BCHW)


def test_augment_is_a_shift_and_a_flip() -> None:
    """Against looking for each result among all crops of the padded image and its mirror image."""
    pixels = torch.randint(1, 255, (40, 2, 16, 8), dtype=torch.uint8)
    how = Augmentation(shift=1 / 8, flip=True)
    images = ImageSet(pixels.numpy(), np.arange(40), ["x"] * 40)
    (batch,) = batches(images, 40, how, seed=0, epoch=0)
    seen = set()
    for image, changed in zip(pixels[batch.labels_B], augment(batch, how), strict=True):
        padded = torch.nn.functional.pad(image, (1, 1, 2, 2))
        matches = [
            (flip, dy, dx)
            for flip in (False, True)
            for dy in range(5)
            for dx in range(3)
            if torch.equal(padded[:, dy : dy + 16, dx : dx + 8].flip(2 if flip else ()), changed)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 15
    assert {flip for flip, _, _ in seen} == {True, False}


def test_erased_is_a_rectangle_of_the_mean_colour() -> None:
    """Of the wanted size, or cut off at an edge; nothing else changes; every place has its turn."""
    pixels = torch.randint(1, 255, (500, 3, 16, 8), dtype=torch.uint8)
    how = Augmentation(erase=1 / 4)
    images = ImageSet(pixels.numpy(), np.arange(500), ["x"] * 500)
    (batch,) = batches(images, 500, how, seed=0, epoch=0)
    before = pixels[batch.labels_B]
    after = augment(batch, how)
    mean = before.float().mean((2, 3), keepdim=True).to(torch.uint8)
    changed = (after != before).any(1)
    assert torch.equal(after, torch.where(changed[:, None], mean, before))
    for image in changed:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert 2 <= len(rows) <= 4
        assert 1 <= len(columns) <= 2
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) == 4 or rows[0] == 0 or rows[-1] == 15
    assert changed.any(0).all()


def test_crops_are_parts_of_the_image() -> None:
    """A picture of two ramps: what is seen keeps both ramps rising, over a part of their range."""
    column, row = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 64))
    picture = np.stack([column, row, np.zeros_like(row)], 2).astype(np.uint8)
    images = from_dataset([(picture, 0)] * 32, size=(16, 16), class_names=["a", "b"])
    (batch,) = batches(images, 32, AUGMENTATIONS["crop-flip"], seed=0, epoch=0)
    pixels = batch.pixels_BCHW.int()
    assert (pixels[:, 0].diff(dim=2) >= -1).all()
    assert (pixels[:, 1].diff(dim=1) >= -1).all()
    spans = (pixels[:, 0, :, -1] - pixels[:, 0, :, 0]).float().mean(1) / 255
    assert spans.min() < 0.6 < 0.8 < spans.max()


def test_digits_are_never_mirrored() -> None:
    assert not any(data.SOURCES[name].augmentation.flip for name in ("digits", "mnist", "svhn"))
    pixels = torch.randint(0, 255, (50, 1, 4, 4), dtype=torch.uint8)
    still = Batch(pixels, torch.zeros(50), torch.ones(50) > 0, torch.zeros(50, 2), torch.zeros(50, 2))
    assert torch.equal(augment(still, AUGMENTATIONS["none"]), pixels)


def test_mean_and_std(digits: ImageSet, photos: LazyImageSet) -> None:
    mean, std = digits.mean_std()
    values = digits.pixels_BCHW / 255
    assert mean == pytest.approx([values.mean()])
    assert std == pytest.approx([values.std()])
    assert photos.mean_std() == photos.in_memory().mean_std()


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    images = from_dataset([(tmp_path / "good.png", 0)] * 99 + [(tmp_path / "good.png", 1)])
    (tmp_path / "good.png").write_text("no image any more")
    with pytest.raises(ValueError, match=r"image 3 of the data set: .*good.png is not an image"):
        images.pixels([3])


MEASURE = r"""
import re, sys
from pathlib import Path
from eenet import data
from eenet.data import AUGMENTATIONS, batches
images = data.load(sys.argv[1], "train", in_memory=int(sys.argv[2]))
count = 0
for batch in batches(images, 16, AUGMENTATIONS["shift"], seed=0, epoch=0, workers=0):
    count += int(batch.pixels_BCHW.sum() > 0)
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
print(type(images).__name__, count, peak // 1024)
"""


def test_memory_stays_constant(tmp_path: Path) -> None:
    """100 pictures of 1000×1000 are 300 MB when decoded; read from disk they need little."""
    for split, count in (("train", 56), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            first = tmp_path / split / name / "0.png"
            Image.new("RGB", (1000, 1000), (1, 2, 3)).save(first)
            for i in range(1, count):
                first.with_name(f"{i}.png").symlink_to(first)
    peaks = {}
    for limit in (0, 2**40):
        command = [sys.executable, "-c", MEASURE, str(tmp_path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kind, count, peak = done.stdout.split()
        assert kind == ("ImageSet" if limit else "LazyImageSet")
        assert int(count) == 100 // 16
        peaks[limit] = int(peak)
    assert peaks[2**40] - peaks[0] > 200


def test_another_light() -> None:
    """Brightness scales, contrast spreads around the mean, saturation away from grey; within the range."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 5, 4), dtype=torch.uint8)
    varied = recoloured(pixels, 0.4)
    assert varied.dtype == torch.uint8
    assert varied.shape == pixels.shape
    torch.manual_seed(1)
    bright, contrast, saturation = (1 + 0.4 * (2 * torch.rand((3, 64, 1, 1, 1)) - 1)).numpy()
    torch.manual_seed(1)
    varied = recoloured(pixels, 0.4).numpy()
    for i, image in enumerate(pixels.numpy().astype(float)):
        image = image * bright[i]
        image = (image - image.mean()) * contrast[i] + image.mean()
        grey = image.mean(0)
        image = ((image - grey) * saturation[i] + grey).clip(0, 255)
        assert np.abs(varied[i] - image).max() <= 0.51
        assert 0.6 <= bright[i].item() <= 1.4
    assert recoloured(pixels, 0.0) is pixels
