"""COCO's JSON files of objects, as they and the tools that write them lie beside images."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eenet.data import readers
from eenet.data.boxes.reading import Found, found_objects, from_xywh
from eenet.data.paired.splits import IMAGES, INFO_FILE, Splits

NEEDED = ("images", "annotations", "categories")
PREFERRED = "instances"  # of the several files that COCO has for a split, the one with objects


def coco_splits(directory: Path) -> tuple[Splits, list[str]]:
    """Splits by JSON files in the folder, in `annotations/` or in folders for the splits; and the classes.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a file that isn't COCO's, or that names images or categories which it doesn't have.
    """
    files = _files(directory)
    read = {split: _content(path) for split, path in files.items()}
    named = [read["train"], *read.values()] if "train" in read else read.values()
    found = dict.fromkeys(str(each["name"]) for content in named for each in content["categories"])
    names = list(found)
    splits: Splits = {}
    for split, path in files.items():
        places, objects = _rows(directory, path, split, read[split], names)
        splits[split] = partial(_row, places, objects), len(places)
    return splits, names


def _files(directory: Path) -> dict[str, Path]:
    homes = [directory, directory / "annotations", *(p for p in readers.folders_in(directory))]
    found: dict[str, list[Path]] = defaultdict(list)
    for home in dict.fromkeys(homes):
        for path in sorted(home.glob("*.json")) if home.is_dir() else ():
            split = readers.split_within(path.stem) or readers.split_of(home.name)
            if path.name != INFO_FILE:
                found[split or "train"].append(path)
    return {
        split: next((path for path in paths if path.name.startswith(PREFERRED)), paths[0])
        for split, paths in found.items()
    }


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    has = [*content][:5] if isinstance(content, dict) else type(content).__name__
    if missing := [key for key in NEEDED if not isinstance(content, dict) or key not in content]:
        raise ValueError(
            f"{path} is no COCO file of objects: {missing[0]!r} is missing, it has {has}; export as COCO JSON"
        )
    try:
        for key, wanted in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
            if any(name not in each for each in content[key] for name in wanted):
                raise KeyError(f"{key} without {' or '.join(wanted)}")
        if bad := next((each for each in content["annotations"] if len(each.get("bbox", ())) != 4), None):
            raise KeyError(f"annotation {bad.get('id')} has no bbox [x, y, width, height]")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no COCO file of objects: {error.args[0]}; export as COCO JSON"
        ) from error
    return content


def _rows(
    directory: Path, path: Path, split: str, content: Mapping[str, Any], names: Sequence[str]
) -> tuple[list[Path], list[Found]]:
    classes = {each["id"]: names.index(str(each["name"])) for each in content["categories"]}
    of_image: dict[Any, list[dict[str, Any]]] = {each["id"]: [] for each in content["images"]}
    for each in content["annotations"]:
        if each.get("category_id") not in classes:
            raise ValueError(
                f"{path}: annotation {each.get('id')} is of category {each.get('category_id')}, which "
                f"'categories' doesn't have ({len(classes)} of them)"
            )
        if each.get("image_id") not in of_image:
            raise ValueError(
                f"{path}: annotation {each.get('id')} is of image {each.get('image_id')}, which 'images' "
                "doesn't have"
            )
        of_image[each["image_id"]].append(each)
    places = _places(directory, path, split, [str(each["file_name"]) for each in content["images"]])
    return places, [_found(of_image[each["id"]], classes) for each in content["images"]]


def _found(annotations: Sequence[Mapping[str, Any]], classes: Mapping[Any, int]) -> Found:
    boxes_M4 = from_xywh([each["bbox"] for each in annotations])
    sides_M2 = boxes_M4[:, 2:] - boxes_M4[:, :2]
    areas = [each.get("area", side) for each, side in zip(annotations, sides_M2.prod(1), strict=True)]
    crowd = [bool(each.get("iscrowd", 0)) for each in annotations]
    labels = [classes[each["category_id"]] for each in annotations]
    return found_objects(boxes_M4, labels, crowd=np.array(crowd, bool), areas=areas)


def _places(directory: Path, path: Path, split: str, names: Sequence[str]) -> list[Path]:
    """Where the images of a file are: beside it, or in a folder for images or for the split."""
    folders = [*(directory / name for name in IMAGES), directory]
    inner = [home for folder in folders if folder.is_dir() for home in readers.folders_in(folder)]
    homes = [path.parent, *(home for home in inner if readers.split_within(home.name) == split), *folders]
    found: list[Path] = []
    missing = []
    for name in names:
        place = next((home / name for home in homes if (home / name).is_file()), None)
        if place is None:
            missing.append(name)
        else:
            found.append(place)
            if place.parent in homes:  # the others are likely there too
                homes.insert(0, homes.pop(homes.index(place.parent)))
    if missing:
        others = f"; nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path} names the image {missing[0]}, which isn't in {directory}{others}")
    return found


def _row(places: Sequence[Path], objects: Sequence[Found], index: int) -> tuple[Any, Any, str]:
    return places[index], objects[index], str(places[index])
