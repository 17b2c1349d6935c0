"""What a data set holds: splits, classes, sizes, damaged files, duplicates, and some images to look at."""

import os
import textwrap
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eenet.common import Result, counted, format_table, lines, progress
from eenet.data.datasets import SPLITS, Place, describe_splits, open_split
from eenet.data.image_sets import UNREADABLE, LazyImageSet, evenly
from eenet.data.pixels import whole_pixels

SIDE, NAME_WIDTH, PER_CLASS, MOST_CLASSES = 96, 160, 8, 50  # of the sheet; the first two in pixels
FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
LISTED = 5  # examples that the text names; JSON has all


@dataclass(frozen=True, kw_only=True)
class Duplicate(Result):
    """Images that are the same to the pixel."""

    images: list[str]
    splits: list[str]
    """In which they are."""
    classes: list[str]
    """Which they are said to be."""


@dataclass(frozen=True, kw_only=True)
class DataInfo(Result):
    """What a data set holds."""

    data: str
    splits: str
    """How many images each split has, where it comes from, and what was left out."""
    counts: dict[str, int]
    classes: dict[str, dict[str, int]]
    """Images of each class, split by split; or what else is `counted`."""
    sizes: dict[str, int]
    """Images of each size, width × height × channels, the commonest first."""
    damaged: list[str]
    """Why images can't be read."""
    duplicates: list[Duplicate]
    problems: list[str]
    """Why a split can't be had."""
    sheet: str | None = None
    """A picture of examples of each class."""
    counted: str = "images"
    """Of each class: images, pixels or objects."""

    def __str__(self) -> str:
        between = [found for found in self.duplicates if len(found.splits) > 1]
        torn = [found for found in self.duplicates if len(found.classes) > 1]
        told = {
            "data": self.data,
            "images": self.splits,
            "sizes": _some([f"{size} {count}" for size, count in self.sizes.items()], ", "),
            "damaged": self.damaged and f"{len(self.damaged)}: {_some(self.damaged)}",
            "duplicates": self.duplicates and counted(len(self.duplicates), "image") + " there several times",
            "in two splits": between and f"{len(between)}: {_some([' = '.join(d.images) for d in between])}",
            "two classes": torn and f"{len(torn)}: {_some([' = '.join(d.images) for d in torn])}",
            "problems": self.problems and "; ".join(self.problems),
            "sheet": self.sheet,
        }
        header = ["class" if self.counted == "images" else f"{self.counted} of", *self.counts]
        rows = [[name, *map(str, counts.values())] for name, counts in self.classes.items()]
        return f"{lines({k: v for k, v in told.items() if v})}\n\n{format_table(header, rows)}"


def _some(texts: Sequence[str], between: str = "; ") -> str:
    more = f" … ({len(texts)} in all)" if len(texts) > LISTED else ""
    return between.join(texts[:LISTED]) + more


def survey(
    name: str,
    *,
    label_column: str | None = None,
    file_column: str | None = None,
    out: str | Path | None = None,
) -> DataInfo:
    """Look at every image of a data set, as it is, before anything is trained on it.

    Args:
        name, label_column, file_column: see `eenet.data.load`.
        out: a picture to write, of some images of each class.

    Raises:
        FileNotFoundError, ValueError: as `eenet.data.load`, if there is no split that can be had; a picture
            of another kind than Pillow knows.
    """
    place = Place(name, os.environ.get("EENET_DATA"), label_column, file_column)
    sets, problems = _splits(place)
    sizes: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    same: dict[bytes, list[tuple[str, str, str]]] = defaultdict(list)
    for split, images in sets.items():
        files = _names(images)
        with progress(f"looking at {name}, {split}", len(images)) as advance:
            for i, seen in images.each(_look, advance):
                if isinstance(seen, Exception):
                    damaged[files[i]] = str(seen)
                else:
                    size, content = seen
                    sizes[size] += 1
                    same[content].append((files[i], split, images.class_names[images.labels_B[i]]))
    if out is not None:
        _sheet(next(iter(sets.values()))).save(out)
    return DataInfo(
        data=name,
        splits=describe_splits(sets),
        counts={split: len(images) for split, images in sets.items()},
        classes=_classes(sets),
        sizes=dict(sizes.most_common()),
        damaged=list(damaged.values()),
        duplicates=[_duplicate(found) for found in same.values() if len(found) > 1],
        problems=problems,
        sheet=str(out) if out is not None else None,
    )


def _splits(place: Place) -> tuple[dict[str, LazyImageSet], list[str]]:
    """Those that there are, and why the others are not."""
    found, errors = {}, []
    for split in SPLITS:
        try:
            found[split] = open_split(place, split, (SIDE, SIDE))
        except (ValueError, OSError) as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found, list(dict.fromkeys(map(str, errors)))


def _names(images: LazyImageSet) -> list[str]:
    """What each image is called: its file, or its place."""
    found = images.images([0]) if len(images) else []
    if found and isinstance(found[0], str | Path):
        return [str(file) for file in images.images(slice(None))]
    return [f"image {i} of {images.name}" for i in range(len(images))]


def _look(image: Any) -> tuple[str, bytes]:
    """Size of an image, and a hash of its pixels."""
    pixels = whole_pixels(image)
    channels, height, width = pixels.shape
    size = f"{width}×{height}×{channels}"
    return size, blake2b(pixels.tobytes(), digest_size=16, key=size.encode()).digest()


def _classes(sets: dict[str, LazyImageSet]) -> dict[str, dict[str, int]]:
    names = next(iter(sets.values())).class_names
    counts = {s: np.bincount(images.labels_B, minlength=len(names)).tolist() for s, images in sets.items()}
    return {name: {split: counts[split][label] for split in sets} for label, name in enumerate(names)}


def _duplicate(found: list[tuple[str, str, str]]) -> Duplicate:
    files, splits, classes = (list(dict.fromkeys(part)) for part in zip(*found, strict=True))
    return Duplicate(images=files, splits=splits, classes=classes)


def _sheet(images: LazyImageSet) -> Image.Image:
    """A row for each class: its name, and images at even distances, cut to a square."""
    names = images.class_names[:MOST_CLASSES]
    picture = Image.new("RGB", (NAME_WIDTH + PER_CLASS * SIDE, len(names) * SIDE), "white")
    draw, (font, spell) = ImageDraw.Draw(picture), _lettering()
    for row, name in enumerate(names):
        places = np.flatnonzero(images.labels_B == row)
        told = "\n".join([*textwrap.wrap(spell(name), NAME_WIDTH // 8)[:4], counted(len(places), "image")])
        draw.multiline_text((6, row * SIDE + 6), told, fill="black", font=font)
        for column, place in enumerate(places[evenly(len(places), PER_CLASS)]):
            with suppress(*UNREADABLE):
                (pixels_CHW,) = images.pixels(place)
                array = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)
                one = Image.fromarray(np.ascontiguousarray(array))
                picture.paste(one, (NAME_WIDTH + column * SIDE, row * SIDE))
    return picture


def _lettering() -> tuple[Any, Callable[[str], str]]:
    """A font, and how to spell a name in it: Pillow's own has no accents."""
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, 14), str
    return ImageFont.load_default(14), _without_accents


def _without_accents(name: str) -> str:
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in letters)
