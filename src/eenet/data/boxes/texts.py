"""A file of objects for each image: lines of numbers as YOLO has them, or VOC's XML."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from eenet.common import require
from eenet.data import readers
from eenet.data.boxes.reading import Found, found_objects
from eenet.data.paired.splits import INFO_FILE, Splits, folder_pairs

LABELS = ("labels",)
ANNOTATIONS = ("Annotations", "annotations")
NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
SETS = "ImageSets/Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def yolo_splits(directory: Path) -> tuple[Splits, list[str] | None]:
    """Splits by folders `images/` and `labels/`, whose files have a line `class x y width height` an object.

    Numbers are the middle and the sides of a box, in parts of the image's; longer lines are outlines. An
    image without a file, or with an empty one, has no object. `data.yaml` or `classes.txt`
    names the classes.
    """
    splits: Splits = {}
    for split, images, labels in folder_pairs(directory, LABELS):
        texts = {path.relative_to(labels).with_suffix(""): path for path in sorted(labels.rglob("*.txt"))}
        files = readers.images_under(images)
        if texts and files:
            beside = [texts.get(path.relative_to(images).with_suffix("")) for path in files]
            splits[split] = partial(_yolo_row, files, beside), len(files)
    return splits, _names(directory) if splits else None


def _yolo_row(files: Sequence[Path], texts: Sequence[Path | None], index: int) -> tuple[Any, Any, str]:
    return files[index], partial(_yolo_objects, texts[index]), str(files[index])


def _yolo_objects(text: Path | None) -> Found:
    boxes, labels = [], []
    for number, line in enumerate(text.read_text().splitlines() if text else (), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, values = int(words[0]), np.array([float(word) for word in words[1:]])
            if len(values) != 4 and (len(values) < 6 or len(values) % 2):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{text}, line {number}: expected `class x y width height`, found {line[:40]!r}"
            ) from None
        labels.append(label)
        if len(values) == 4:
            middle, sides = values[:2], values[2:]
            boxes.append([*(middle - sides / 2), *(middle + sides / 2)])
        else:
            outline = values.reshape(-1, 2)
            boxes.append([*outline.min(0), *outline.max(0)])
    return found_objects(boxes, labels, relative=True)


def _names(directory: Path) -> list[str] | None:
    for name in NAMES_FILES:
        path = directory / name
        if not path.is_file():
            continue
        if path.suffix not in (".yaml", ".yml"):
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        yaml: Any = require("yaml", f"reading {path}")
        try:
            names = yaml.safe_load(path.read_text())["names"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise ValueError(f"{path} names no classes: expected `names: [cat, dog]`") from error
        return [str(names[n]) for n in sorted(names)] if isinstance(names, dict) else [*map(str, names)]
    return None


def voc_splits(directory: Path) -> tuple[Splits, list[str] | None]:
    """Splits by folders of images and `Annotations/` with an XML file for each; and the classes there are.

    `ImageSets/Main/train.txt` and the like say which image is in which split. What is marked as difficult
    doesn't count, like COCO's crowds.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a file that isn't VOC's.
    """
    found: dict[str, list[tuple[Path, list[dict[str, Any]]]]] = {}
    for split, images, notes in folder_pairs(directory, ANNOTATIONS):
        there = {path.stem: path for path in readers.images_under(images)}
        for path in sorted(notes.rglob("*.xml")):
            if path.stem not in there:
                raise FileNotFoundError(f"{path} is about an image {path.stem}, which isn't in {images}")
            found.setdefault(split, []).append((there[path.stem], _voc_objects(path)))
    if not found:
        return {}, None
    listed = _listed(directory)
    if listed and list(found) == ["train"]:
        by_stem = {row[0].stem: row for row in found["train"]}
        found = {
            split: [by_stem[name] for name in names if name in by_stem] for split, names in listed.items()
        }
        found = {split: rows for split, rows in found.items() if rows}
    names = _given_names(directory)
    if names is None:
        names = sorted({each["name"] for rows in found.values() for _, objects in rows for each in objects})
    classes = {name: n for n, name in enumerate(names)}
    return {split: (partial(_voc_row, rows, classes), len(rows)) for split, rows in found.items()}, names


def _given_names(directory: Path) -> list[str] | None:
    path = directory / INFO_FILE
    return json.loads(path.read_text()).get("classes") if path.is_file() else None


def _listed(directory: Path) -> dict[str, list[str]]:
    """The images of each split, by the lists for all classes together."""
    paths = {split: path for path in sorted((directory / SETS).glob("*.txt"))
             if (split := readers.split_of(path.stem))}  # fmt: skip
    return {split: [line.split()[0] for line in path.read_text().splitlines() if line.split()]
            for split, path in paths.items()}  # fmt: skip


def _voc_objects(path: Path) -> list[dict[str, Any]]:
    try:
        root = ElementTree.parse(path).getroot()
        return [
            {
                "name": str(each.findtext("name")).strip(),
                "box": [float(str(each.findtext(f"bndbox/{corner}"))) for corner in CORNERS],
                "difficult": (each.findtext("difficult") or "0").strip() == "1",
            }
            for each in root.iter("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(
            f"{path} is no VOC file of objects: {error}; expected object/name and object/bndbox/xmin, …"
        ) from error


def _voc_row(
    rows: Sequence[tuple[Path, list[dict[str, Any]]]], classes: Mapping[str, int], index: int
) -> tuple[Any, Any, str]:
    image, objects = rows[index]
    return image, partial(_voc_found, str(image), objects, classes), str(image)


def _voc_found(name: str, objects: Sequence[Mapping[str, Any]], classes: Mapping[str, int]) -> Found:
    unknown = next((each["name"] for each in objects if each["name"] not in classes), None)
    if unknown is not None:
        raise ValueError(f"{name} holds category {unknown!r}; there are {', '.join(classes)}")
    boxes_M4 = np.array([each["box"] for each in objects]).reshape(-1, 4) - [1, 1, 0, 0]  # VOC counts from 1
    labels = [classes[each["name"]] for each in objects]
    crowd = np.array([each["difficult"] for each in objects], bool)
    return found_objects(boxes_M4, labels, crowd=crowd)
