"""What every reader hands over: images one after the other, with labels within their classes."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from eenet.data.image_sets import UNREADABLE, Images, LazyImageSet, evenly
from eenet.data.pixels import image_size, to_array

Size = tuple[int, int] | None
"""Height and width that images are brought to; none: as they are, if they agree."""
Splits = dict[str, Callable[[], LazyImageSet]]
"""Official splits of a data set, each opened when it is asked for. Their `origin` is where they lie."""


class Columns(NamedTuple):
    """Which columns of a table hold what; none: those whose names say so."""

    file: str | None = None
    """Of file names, or of images."""
    label: str | None = None
    usual_file: str | None = None
    """Taken where a table has a column of this name and none is asked for."""
    usual_label: str | None = None

    def missing(self, names: Sequence[str]) -> str:
        """Words for a table with columns of these names that lacks one that is asked for."""
        for asked in (self.file, self.label):
            if asked is not None and asked not in names:
                near = difflib.get_close_matches(asked, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                return f"has no column {asked!r}, only {', '.join(list(names)[:8])}{hint}"
        return ""


LOOKED_AT = 64  # images whose sizes are compared when no size is given
_SPLIT_WORDS = {"train": "train", "training": "train"}
_SPLIT_WORDS |= dict.fromkeys(("test", "testing", "t10k"), "test")
_SPLIT_WORDS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


def split_of(name: str) -> str | None:
    """The split that a word stands for, such as `Val`."""
    return _SPLIT_WORDS.get(name.lower())


def split_within(name: str) -> str | None:
    """The split that the name of a file or folder speaks of: `t10k-images-idx3-ubyte`, `trainLabels.csv`."""
    words = re.findall(r"t10k|[A-Z]?[a-z]+|[A-Z]+", name)
    return next((split for word in words if (split := split_of(word))), None)


def composed(name: str) -> str:
    """A name with its accents as single letters: macOS keeps them apart in the names of files."""
    return unicodedata.normalize("NFC", name)


def in_order(names: Iterable[str]) -> list[str]:
    """Classes: numbers by their value, other names by the alphabet."""
    found = sorted(set(names))
    return sorted(found, key=int) if all(re.fullmatch(r"-?\d+", name) for name in found) else found


@dataclass(frozen=True)
class Rows:
    """Images that lie one after the other: an array, or a list of files."""

    images: Any

    def __call__(self, indices: list[int]) -> list[Any]:
        return [self.images[i] for i in indices]


def labelled(
    read: Callable[[list[int]], Sequence[Any]],
    labels: Any,
    class_names: Sequence[str] | None,
    size: Size,
    name: str,
    *,
    origin: str = "",
    notes: tuple[str, ...] = (),
) -> LazyImageSet:
    """Images with labels within at least two classes, and of one size; damaged ones are left for later.

    Raises:
        ValueError: they aren't.
    """
    labels_B = to_array(labels).astype(np.int64)
    if not len(labels_B):
        raise ValueError(f"{name} holds no images")
    names = list(class_names) if class_names is not None else None
    if names is None:
        refuse_single(np.unique(labels_B).tolist(), name)
        names = numbers_to(int(labels_B.max()))
    refuse_single(names, name)
    outside = labels_B[(labels_B < 0) | (labels_B >= len(names))]
    if len(outside):
        raise ValueError(
            f"{name}: label {int(outside[0])} is outside the {len(names)} classes "
            f"(0 to {len(names) - 1}); {len(outside)} of {len(labels_B)} labels are"
        )
    sizes = _sizes(read, evenly(len(labels_B), LOOKED_AT).tolist(), name)
    channels = max(found[0] for found in sizes)
    shapes = list(dict.fromkeys(found[1:] for found in sizes))
    if size is None and len(shapes) > 1:
        refuse_sizes(shapes, name)
    shape = (channels, *(size or shapes[0]))
    return LazyImageSet(read, labels_B, names, shape, name, origin=origin, notes=notes)


def joined(sets: Sequence[LazyImageSet], trained: Sequence[LazyImageSet], name: str) -> LazyImageSet:
    """Several sets as one; its classes are those of the training images.

    Raises:
        ValueError: the sizes of their images differ, or classes that the training images don't have.
    """
    names = in_order(each for images in trained for each in images.class_names)
    sizes = {images.image_size[1:] for images in sets}
    if len(sizes) > 1:
        refuse_sizes(sorted(sizes), name)
    labels = [images.class_names[label] for images in sets for label in images.labels_B]
    return LazyImageSet(
        _OneAfterTheOther(sets),
        np.array(numbered(labels, names, name)),
        names,
        (max(images.image_size[0] for images in [*sets, *trained]), *sizes.pop()),
        name,
        origin=" + ".join(dict.fromkeys(images.origin for images in sets if images.origin)),
        notes=tuple(dict.fromkeys(note for images in sets for note in images.notes)),
    )


@dataclass(frozen=True)
class _OneAfterTheOther:
    sets: Sequence[LazyImageSet]

    def __call__(self, indices: list[int]) -> list[Any]:
        starts, found = np.cumsum([0, *map(len, self.sets)]), []
        for index in indices:
            k = int(np.searchsorted(starts, index, "right")) - 1
            found += self.sets[k].images([index - int(starts[k])])
        return found


def refuse_sizes(shapes: Sequence[tuple[int, int]], name: str) -> NoReturn:
    some = ", ".join(f"{w}×{h}" for h, w in shapes[:3])
    raise ValueError(f"the images of {name} differ in size ({some} …); give an image size, such as 64")


def numbers_to(highest: int) -> list[str]:
    """Names of classes that have none."""
    return [str(i) for i in range(int(highest) + 1)]


def numbered(labels: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Each label's place among the classes, which are those of the training images.

    Raises:
        ValueError: others are among them.
    """
    places = {name: i for i, name in enumerate(names)}
    if others := sorted(set(labels) - places.keys()):
        some = ", ".join(others[:5]) + (f" … ({len(others)} in all)" if len(others) > 5 else "")
        raise ValueError(
            f"{where} has classes that the training images don't have: {some}; they have "
            f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        )
    return [places[label] for label in labels]


def check_classes(images: Images, name: str) -> None:
    """Refuse training images that are all of one class.

    Raises:
        ValueError: they are.
    """
    refuse_single([images.class_names[label] for label in np.unique(images.labels_B).tolist()], name)


def refuse_single(classes: Sequence[Any], name: str, hint: str = "") -> None:
    """A classifier of one class is always right, and useless.

    Raises:
        ValueError: there is only one.
    """
    if len(classes) < 2:
        raise ValueError(
            f"{name} holds a single class, {str(classes[0])!r}; a classifier needs at least two{hint}"
        )


def _sizes(
    read: Callable[[list[int]], Sequence[Any]], indices: list[int], name: str
) -> list[tuple[int, int, int]]:
    sizes, errors = {}, []  # a dict keeps the order
    for index in indices:
        try:
            sizes[image_size(read([index])[0])] = None
        except UNREADABLE as error:
            errors.append(error)
    if not sizes:
        first = f"none of the {len(errors)} that were tried; the first: " if len(errors) > 1 else ""
        raise ValueError(f"no image of {name} can be read: {first}{errors[0]}") from errors[0]
    return list(sizes)
