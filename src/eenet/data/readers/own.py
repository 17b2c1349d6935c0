"""Data sets of a user's own, in memory or wherever they read from."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from eenet.data.image_sets import LazyImageSet, complaint, left_out
from eenet.data.readers.rows import Size, labelled


def from_dataset(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    size: Size = None,
    name: str = "the data set",
    skip_damaged: bool = False,
) -> LazyImageSet:
    """Images of a map-style `torch.utils.data.Dataset`, such as those of torchvision.

    Args:
        dataset: `dataset[i]` is (image, label), the label an integer; images as `to_pixels`
            takes them: files, PIL images, arrays, tensors; not normalised.
        class_names: default: `dataset.classes`, else the labels as text.
        size: (height, width) of the images. Default: their own.
        name: for error messages.
        skip_damaged: go on without images that can't be read; each is decoded once to know.

    Raises:
        ValueError: not a map-style data set of pairs, images of different sizes without a
            `size`, a label outside the classes, or a single class.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(f"{name} must have a length and give (image, label) for an index; streams don't")
    names = class_names if class_names is not None else getattr(dataset, "classes", None)
    labels, notes, places = getattr(dataset, "targets", None), (), range(len(dataset))
    if labels is None or len(labels) != len(dataset):
        labels, damaged = _labels(dataset, name)
        if damaged and not (skip_damaged and labels):
            raise ValueError(complaint(damaged.values(), len(dataset), name))
        if damaged:
            places = [i for i in range(len(dataset)) if i not in damaged]
            notes = (left_out(damaged, name),)
    images = labelled(partial(_items, dataset, places), labels, names, size, name, notes=notes)
    return images.without_damaged() if skip_damaged else images


def _labels(dataset: Any, name: str) -> tuple[list[int], dict[int, Exception]]:
    """Labels that only asking for the images tells, and which of those can't be read."""
    labels, damaged = [], {}
    for i in range(len(dataset)):
        try:
            labels.append(int(dataset[i][1]))
        except (OSError, SyntaxError) as error:
            damaged[i] = error
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{name} must give (image, integer label) for every index: {error}") from error
    return labels, damaged


def _items(dataset: Any, places: Sequence[int], indices: list[int]) -> list[Any]:
    return [dataset[places[i]][0] for i in indices]
