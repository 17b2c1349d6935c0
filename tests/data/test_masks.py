"""Images with masks: where they come from, what is refused, and that both are varied together."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mask_cases import NAMES, made_pair, write_folders
from PIL import Image

import eenet
from eenet.data import (
    AUGMENTATIONS,
    NO_CLASS,
    MaskedImages,
    load_masks,
    mask_batches,
    masked_images,
    open_image,
)


def png(values: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": "some.png"}


def write_one(root: Path, mask: Image.Image | np.ndarray | None, info: str = "") -> Path:
    for folder, value in (("images", made_pair(0)[0]), ("masks", mask)):
        (root / folder).mkdir(parents=True)
        for k in range(4):
            if value is not None:
                picture = value if isinstance(value, Image.Image) else Image.fromarray(value)
                picture.save(root / folder / f"{k}.png")
    if info:
        (root / "info.json").write_text(info)
    return root


def test_folders_and_parquet_give_the_same(tmp_path: Path) -> None:
    folders = write_folders(tmp_path / "folders")
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "info.json").write_text((folders / "info.json").read_text())
    for split in ("train", "validation", "test"):
        files = sorted((folders / split / "images").iterdir())
        rows = [
            {"image": {"bytes": f.read_bytes(), "path": f.name},
             "mask": {"bytes": (folders / split / "masks" / f.name).read_bytes(), "path": f.name}}
            for f in files
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), tables / f"{split}-00000-of-00001.parquet")
    for split, count in (("train", 16), ("validation", 12), ("test", 12)):
        one, other = load_masks(str(folders), split), load_masks(str(tables), split)
        assert len(one) == len(other) == count
        assert one.class_names == NAMES
        assert one.class_counts().tolist() == other.class_counts().tolist()
        for i in range(count):
            for a, b in zip(one.pair(i), other.pair(i), strict=True):
                assert np.array_equal(a, b)


def test_parts_of_a_data_set_without_splits_are_runs_of_neighbours(tmp_path: Path) -> None:
    root = tmp_path / "one"
    write_folders(root, {"train": 40})
    for folder in ("images", "masks"):  # no level for the split
        (root / "train" / folder).rename(root / folder)
    (root / "train").rmdir()
    parts = {split: load_masks(str(root), split) for split in ("train", "validation", "test")}
    places = {split: images.indices_B for split, images in parts.items()}
    assert sorted(np.concatenate([*places.values()]).tolist()) == list(range(40))  # type: ignore[arg-type]
    assert [len(images) for images in parts.values()] == [32, 4, 4]
    assert parts["test"].origin == "taken from train"


def test_classes_are_numbered_where_nothing_names_them(tmp_path: Path) -> None:
    images = load_masks(str(write_one(tmp_path / "d", made_pair(0)[1])), "train")
    assert images.class_names == ["0", "1", "2"]


def test_colours_and_indexed_masks(tmp_path: Path) -> None:
    mask = made_pair(0)[1]
    palette = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    info = json.dumps({"classes": NAMES, "palette": palette, "ignore_colour": [1, 2, 3]})
    colours = np.array(palette, np.uint8)[mask]
    colours[0, 0] = 1, 2, 3
    read = load_masks(str(write_one(tmp_path / "colours", colours, info)), "train").pair(0)[1]
    assert read[0, 0] == NO_CLASS
    read[0, 0] = mask[0, 0]
    assert np.array_equal(read, mask)
    indexed = Image.fromarray(mask, "L").convert("P")
    indexed.putdata(mask.ravel().tolist())
    indexed.putpalette([value for colour in palette for value in colour])
    found = load_masks(str(write_one(tmp_path / "indexed", indexed)), "train").pair(0)[1]
    assert np.array_equal(found, mask)


CLASSES = json.dumps({"classes": NAMES})


@pytest.mark.parametrize(
    ("mask", "info", "said"),
    [
        (np.zeros((30, 32), np.uint8), CLASSES, "32×32 pixels, but its mask 32×30"),
        (np.full((32, 32), 7, np.uint8), CLASSES, r"holds class 7; there are 3 classes \(0 to 2\)"),
        (np.full((32, 32, 3), (9, 8, 7), np.uint8), CLASSES, "is in colour, .* add an info.json"),
        (
            np.full((32, 32, 3), (9, 8, 7), np.uint8),
            json.dumps({"classes": NAMES, "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}),
            r"holds the colour \(9, 8, 7\), which the palette",
        ),
        (np.full((32, 32), 255, np.uint8), CLASSES, "has no pixel with a class, only 255"),
        (None, CLASSES, "0.png has no mask: .*; nor have 3 others"),
        (np.zeros((32, 32), np.uint8), "", "has 1 classes; masks need 2 to 255"),
        (np.zeros((32, 32), np.uint8), "{", "info.json can't be read"),
        (
            np.zeros((32, 32), np.uint8),
            json.dumps({"classes": NAMES, "palette": [[0, 0, 0]]}),
            "names 3 classes, but 1 colours",
        ),
        (
            np.zeros((32, 32), np.uint8),
            json.dumps({"classes": NAMES, "block": 0}),
            "'block' is 0; give how many",
        ),
    ],
)
def test_bad_masks_are_one_line(tmp_path: Path, mask: Any, info: str, said: str) -> None:
    write_one(tmp_path / "d", mask, info)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_masks(str(tmp_path / "d"), "train")
    assert "\n" not in str(caught.value)


def test_no_data_set_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no images with masks; expected parquet files"):
        load_masks(str(tmp_path / "empty"), "train")
    with pytest.raises(FileNotFoundError, match="no folder no_such with images and masks"):
        load_masks("no_such", "train")


def test_damaged_ones_can_be_left_out(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "d")
    (root / "test" / "images" / "003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 12 images of .* can't be read"):
        load_masks(str(root), "test")
    left = load_masks(str(root), "test", skip_damaged=True)
    assert len(left) == 11
    assert left.notes == (f"1 damaged file of {root} (test) left out",)


def made(count: int, **sizes: int) -> MaskedImages:
    pairs = [made_pair(k, **sizes) for k in range(count)]
    return masked_images([image for image, _ in pairs], [mask for _, mask in pairs], NAMES)


def test_buckets_hold_every_image_once_and_one_size_each() -> None:
    pairs = [made_pair(k, 32, 40 if k % 3 == 0 else 32) for k in range(10)]
    images = masked_images([image for image, _ in pairs], [mask for _, mask in pairs], NAMES, side=16)
    seen: list[int] = []
    for rows, pixels_BCHW, masks in images.buckets(4):
        assert len(rows) == len(pixels_BCHW) == len(masks) <= 4
        for row, mask in zip(rows.tolist(), masks, strict=True):
            assert np.array_equal(mask, pairs[row][1])  # masks keep their size
            assert pixels_BCHW.shape[1:] == (3, 16, 20 if row % 3 == 0 else 16)
        seen += rows.tolist()
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("augmentation", ["none", "shift-flip", "crop-flip"])
def test_image_and_mask_are_varied_together(augmentation: str) -> None:
    masks = [made_pair(k)[1] for k in range(8)]
    images = masked_images([np.repeat(80 * m[..., None], 3, 2) for m in masks], masks, NAMES)
    (batch,) = mask_batches(images, 8, AUGMENTATIONS[augmentation], seed=0, epoch=0)
    shown_BHW = (batch.pixels_BCHW[:, 0].float() / 80).round()
    assert (shown_BHW == batch.masks_BHW).float().mean() > 0.9  # but for edges between classes
    (again,) = mask_batches(images, 8, AUGMENTATIONS[augmentation], seed=0, epoch=0)
    assert torch.equal(batch.pixels_BCHW, again.pixels_BCHW)
    (other,) = mask_batches(images, 8, AUGMENTATIONS[augmentation], seed=0, epoch=1)
    assert not torch.equal(batch.pixels_BCHW, other.pixels_BCHW)


def test_parts_of_a_batch_are_what_one_process_would_see() -> None:
    images = made(8)
    whole = next(mask_batches(images, 8, AUGMENTATIONS["crop-flip"], seed=3, epoch=2))
    which: dict[str, int] = {"seed": 3, "epoch": 2}
    halves = [next(mask_batches(images, 8, AUGMENTATIONS["crop-flip"], part=(i, 2), **which)) for i in (0, 1)]
    assert torch.equal(whole.masks_BHW, torch.cat([half.masks_BHW for half in halves]))


def test_standardised_images_no_longer_differ_in_light() -> None:
    image, mask = made_pair(0)
    dark = (image // 8).astype(np.uint8)
    images = masked_images([image, dark], [mask, mask], NAMES, standardise=True)
    means = [images.pair(i)[0].mean() for i in (0, 1)]
    spreads = [images.pair(i)[0].std() for i in (0, 1)]
    assert means == pytest.approx([127.5, 127.5], abs=10)
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)


def test_what_a_data_set_of_masks_holds(tmp_path: Path) -> None:
    """Pixels by class and split, damaged images, images in two splits."""
    home = write_folders(tmp_path / "my", {"train": 4, "validation": 4, "test": 4})
    (home / "train" / "images" / "000.png").write_bytes(b"nothing")
    for folder in ("images", "masks"):
        shutil.copy(home / "test" / folder / "002.png", home / "train" / folder / "001.png")
    found: Any = eenet.info(str(home), task="segmentation")
    assert found.counts == {"train": 3, "validation": 4, "test": 4}
    masks = [np.array(open_image(path)) for path in sorted((home / "test" / "masks").iterdir())]
    assert [found.classes[name]["test"] for name in NAMES] == [
        sum((m == n).sum() for m in masks) for n in range(3)
    ]
    assert found.sizes == {"32×32×3": 8, "40×32×3": 3}
    assert "000.png is not an image" in found.damaged[0]
    assert [each.splits for each in found.duplicates] == [["train", "test"]]
    assert "pixels of" in str(found)
    info = json.loads((home / "info.json").read_text())
    (home / "info.json").write_text(json.dumps({**info, "task": ["segmentation", "detection"]}))
    again: Any = eenet.info(str(home))
    assert again.classes == found.classes
    with pytest.raises(ValueError, match="out is for images with labels, not for segmentation"):
        eenet.info(str(home), out=tmp_path / "sheet.png")
