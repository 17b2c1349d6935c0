"""Images with boxes: where they come from, what is refused, and that both are varied together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from box_cases import NAMES, made_boxes, write_coco
from PIL import Image

from eenet.data import (
    AUGMENTATIONS,
    NO_OBJECT,
    UNCOUNTED,
    box_batches,
    boxed_images,
    letterbox_size,
    letterboxed,
    load_boxes,
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("boxes") / "coco")


def as_parquet(source: Path, root: Path) -> Path:
    root.mkdir()
    (root / "info.json").write_text(json.dumps({"classes": NAMES}))
    for split in ("train", "validation", "test"):
        content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
        rows = []
        for each in content["images"]:
            own = [a for a in content["annotations"] if a["image_id"] == each["id"]]
            objects = {"bbox": [a["bbox"] for a in own], "category": [a["category_id"] - 5 for a in own]}
            image = {"bytes": (source / split / each["file_name"]).read_bytes(), "path": each["file_name"]}
            rows.append({"image": image, "objects": objects})
        pq.write_table(pa.Table.from_pylist(rows), root / f"{split}-00000-of-00001.parquet")
    return root


def as_yolo(source: Path, root: Path) -> Path:
    for split in ("train", "validation", "test"):
        images = load_boxes(str(source), split)
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i, path in enumerate(sorted((source / split).iterdir())):
            (root / "images" / split / path.name).write_bytes(path.read_bytes())
            boxes, labels, _, _, (height, width) = images.pair(i)[1]
            lines = []
            for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
                middle = (left + right) / 2 / width, (top + bottom) / 2 / height
                values = *middle, (right - left) / width, (bottom - top) / height
                lines.append(" ".join([str(label), *(f"{v:.9f}" for v in values)]))
            if lines:  # an image without objects needs no file
                (root / "labels" / split / f"{path.stem}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: {0: red, 1: blue}\n")
    return root


def as_voc(source: Path, root: Path) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "validation", "test"):
        images, stems = load_boxes(str(source), split), []
        for i, path in enumerate(sorted((source / split).iterdir())):
            stems.append(f"{split}-{path.stem}")
            (root / "JPEGImages" / f"{stems[-1]}.png").write_bytes(path.read_bytes())
            _, objects = images.pair(i)
            told = [
                f"<object><name>{NAMES[label]}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
                f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
                for (left, top, right, bottom), label in zip(objects.boxes_M4, objects.labels_M, strict=True)
            ]
            text = f"<annotation>{''.join(told)}</annotation>"
            (root / "Annotations" / f"{stems[-1]}.xml").write_text(text)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(stems))
    (root / "info.json").write_text(json.dumps({"classes": NAMES}))
    return root


@pytest.mark.parametrize("other", [as_parquet, as_yolo, as_voc])
def test_all_layouts_give_the_same(coco: Path, tmp_path: Path, other: Any) -> None:
    root = other(coco, tmp_path / "other")
    for split, count in (("train", 24), ("validation", 12), ("test", 12)):
        one, again = load_boxes(str(coco), split), load_boxes(str(root), split)
        assert len(one) == len(again) == count
        assert one.class_names == again.class_names == NAMES
        assert one.class_counts().tolist() == again.class_counts().tolist()
        assert one.image_size == again.image_size == (3, 96, 96)
        for i in range(count):
            (pixels, objects), (others, found) = one.pair(i), again.pair(i)
            assert np.array_equal(pixels, others)
            assert np.allclose(objects.boxes_M4, found.boxes_M4, atol=1e-4)
            assert objects.labels_M.tolist() == found.labels_M.tolist()
    assert any(not len(load_boxes(str(coco), "train").pair(i)[1].boxes_M4) for i in range(24))


def test_crowds_are_kept_but_not_counted(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "d", {"train": 8})
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    images = load_boxes(str(root), "train")
    crowds = [images.pair(i)[1].crowd_M.sum() for i in range(len(images))]
    assert sum(crowds) == 1
    batches = box_batches(images, len(images), AUGMENTATIONS["none"], seed=0, epoch=0)
    assert (next(batches).objects_BM5[..., 0] == UNCOUNTED).sum() == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, _: a.update(bbox=[50, 50, 40, 10]), r"\(50, 50, 90, 60\) lies outside the image of 64×64"),
        (lambda a, _: a.update(bbox=[10, 10, 0, 5]), r"the box \(10, 10, 10, 15\) has no size"),
        (lambda a, _: a.update(bbox=[float("nan"), 1, 2, 3]), "lies outside the image"),
        (lambda a, _: a.update(category_id=99), "is of category 99, which 'categories' doesn't have"),
        (lambda a, _: a.update(image_id=99), "is of image 99, which 'images' doesn't have"),
        (lambda a, _: a.pop("bbox"), r"annotation 1 has no bbox \[x, y, width, height\]"),
        (lambda _, c: c.pop("annotations"), r"is no COCO file of objects: 'annotations' is missing"),
        (lambda _, c: c["images"][0].pop("file_name"), "images without id or file_name"),
        (lambda _, c: c["images"][0].update(file_name="x.png"), "names the image x.png, which isn't in"),
        (lambda _, c: c.update(annotations=[]), "none of its 3 images holds an object"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    root = write_coco(tmp_path / "d", {"train": 4, "test": 2})
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content["annotations"][0], content)
    path.write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_boxes(str(root), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2", "line 1: expected `class x y width height`"),
        ("cat 0.5 0.5 0.2 0.2", "line 1: expected `class"),
        ("7 0.5 0.5 0.2 0.2", r"holds category 7; there are 2 \(0 to 1\)"),
        ("0 0.9 0.9 0.5 0.5", "lies outside the image of 64×64"),
    ],
)
def test_bad_lines_are_one_line(coco: Path, tmp_path: Path, line: str, said: str) -> None:
    root = as_yolo(coco, tmp_path / "yolo")
    (root / "labels/train/000.txt").write_text(line)
    with pytest.raises(ValueError, match=said) as caught:
        load_boxes(str(root), "train")
    assert "\n" not in str(caught.value)
    assert len(load_boxes(str(root), "train", skip_damaged=True)) == 23


def test_outlines_become_boxes(coco: Path, tmp_path: Path) -> None:
    root = as_yolo(coco, tmp_path / "yolo")
    (root / "labels/train/000.txt").write_text("1 0.25 0.25 0.5 0.25 0.5 0.75")
    found = load_boxes(str(root), "train").pair(0)[1]
    assert found.boxes_M4.tolist() == [[16, 16, 32, 48]]


def test_no_data_set_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no images with boxes; expected parquet files"):
        load_boxes(str(tmp_path / "empty"), "train")
    with pytest.raises(FileNotFoundError, match="no folder no_such with images and boxes"):
        load_boxes("no_such", "train")
    bad = tmp_path / "Annotations"
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages/a.png")
    (bad / "a.xml").write_text("<annotation><object><name>x</name></object></annotation>")
    with pytest.raises(ValueError, match=r"a.xml is no VOC file of objects"):
        load_boxes(str(tmp_path), "train")


def test_letterboxing_keeps_shapes() -> None:
    assert letterbox_size((480, 640), 320) == ((240, 320), (256, 320))
    assert letterbox_size((100, 50), 64) == ((64, 32), (64, 32))
    wide = letterboxed(np.full((3, 48, 64), 200, np.uint8), 64)
    assert wide.shape == (3, 64, 64)
    assert (wide[:, :48] == 200).all()
    assert len(np.unique(wide[:, 48:])) == 1
    with pytest.raises(
        ValueError, match="image size 50: networks for boxes take multiples of 32, such as 64"
    ):
        boxed_images([made_boxes(0)[0]], [made_boxes(0)[1]], NAMES, side=50)


@pytest.mark.parametrize("augmentation", ["none", "shift-flip", "crop-flip"])
def test_image_and_boxes_are_varied_together(augmentation: str) -> None:
    pairs = [made_boxes(k) for k in range(16)]
    flat = [np.where((p > 130).any(2, keepdims=True), 250, 0).astype(np.uint8) for p, _ in pairs]
    clear = [k for k in range(16) if k % 3 != 2]  # little noise: what is bright is an object
    images = boxed_images(
        [np.repeat(flat[k], 3, 2) for k in clear], [pairs[k][1] for k in clear], NAMES, side=64
    )
    count = len(clear)
    (batch,) = box_batches(images, count, AUGMENTATIONS[augmentation], seed=0, epoch=0)
    assert batch.pixels_BCHW.shape == (count, 3, 64, 64)
    for pixels_CHW, objects_M5 in zip(batch.pixels_BCHW, batch.objects_BM5, strict=True):
        inside = torch.zeros(64, 64, dtype=torch.bool)
        for _, left, top, right, bottom in objects_M5[objects_M5[:, 0] != NO_OBJECT].tolist():
            part = pixels_CHW[0, round(64 * top) : round(64 * bottom), round(64 * left) : round(64 * right)]
            assert (part > 125).float().mean() > 0.8
            inside[round(64 * top) : round(64 * bottom), round(64 * left) : round(64 * right)] = True
        assert ((pixels_CHW[0] > 200) & ~inside).float().mean() < 0.05
    (again,) = box_batches(images, count, AUGMENTATIONS[augmentation], seed=0, epoch=0)
    assert torch.equal(batch.objects_BM5, again.objects_BM5)
    if augmentation != "none":
        (other,) = box_batches(images, count, AUGMENTATIONS[augmentation], seed=0, epoch=1)
        assert not torch.equal(batch.pixels_BCHW, other.pixels_BCHW)
