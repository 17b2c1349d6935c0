"""What a data set of images with masks or boxes holds."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from eenet.common import progress
from eenet.data.datasets import SPLITS, describe_splits, place_of
from eenet.data.image_sets import DamagedError
from eenet.data.paired.sets import PairedImages
from eenet.data.paired.splits import INFO_FILE, home_of
from eenet.data.surveying import DataInfo, Duplicate


def survey_pairs(name: str, load: Callable[..., PairedImages[Any]], counted: str) -> DataInfo:
    """Look at every image and its truth, as they are.

    Args:
        name: of the data set.
        load: name and split → images; takes `skip_damaged`.
        counted: what of each class is counted, such as pixels.

    Raises:
        FileNotFoundError, ValueError: no split can be had.
    """
    sets: dict[str, PairedImages[Any]] = {}
    errors: list[Exception] = []
    damaged: list[str] = []
    for split in SPLITS:
        try:
            try:
                sets[split] = load(name, split)
            except DamagedError as error:
                damaged.append(str(error))
                sets[split] = load(name, split, skip_damaged=True)
        except (ValueError, OSError) as error:
            errors.append(error)
    if not sets:
        raise errors[0]
    sizes: Counter[str] = Counter()
    same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, images in sets.items():
        with progress(f"looking at {name}, {split}", len(images)) as advance:
            for index in range(len(images)):
                pixels_CHW, _ = images.pair(index)
                channels, height, width = pixels_CHW.shape
                sizes[f"{width}×{height}×{channels}"] += 1
                content = blake2b(pixels_CHW.tobytes(), digest_size=16, key=str(pixels_CHW.shape).encode())
                same[content.digest()].append((images.name_of(index), split))
                advance(1)
    names = next(iter(sets.values())).class_names
    counts = {split: images.class_counts().tolist() for split, images in sets.items()}
    found = [tuple(list(dict.fromkeys(part)) for part in zip(*each, strict=True)) for each in same.values()]
    return DataInfo(
        data=name,
        splits=describe_splits(sets),
        counts={split: len(images) for split, images in sets.items()},
        classes={label: {split: counts[split][n] for split in sets} for n, label in enumerate(names)},
        sizes=dict(sizes.most_common()),
        damaged=damaged,
        duplicates=[
            Duplicate(images=files, splits=splits, classes=[]) for files, splits in found if len(files) > 1
        ],
        problems=list(dict.fromkeys(map(str, errors))),
        counted=counted,
    )


def stated_tasks(name: str) -> list[str]:
    """What a data set says that it is for, in its `info.json`; nothing, if it has none."""
    try:
        said = json.loads((home_of(place_of(name), "images") / INFO_FILE).read_text()).get("task", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [said] if isinstance(said, str) else [str(each) for each in said]
