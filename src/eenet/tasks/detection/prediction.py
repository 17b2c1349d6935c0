"""The answer for one image: the objects in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.tasks.detection.boxes import MOST, Boxes, Scale, boxes_of, rescaled
from eenet.tasks.detection.showing import drawn

LEAST = 0.05  # probability from which on a box is told
SHOWN = 0.3  # from which on it is drawn and counted


@dataclass(frozen=True)
class BoxPrediction:
    """The answer for one image."""

    exit: int
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float
    """MACs spent / MACs of the network without exits."""
    size: tuple[int, int]
    """(height, width) of the image."""
    answer_Chw: NDArray[np.float32] = field(repr=False, compare=False)
    """Class probabilities and distances to the sides of boxes, at the decoder's stride."""
    longer: int
    """Pixels of the image's longer side, as the network saw it."""
    class_names: Sequence[str] = field(repr=False, compare=False)
    most: int = MOST
    """Boxes at most."""
    scale: Scale = (1.0, 0.0)
    """What brings scores of this exit to the scale of the final one."""

    @cached_property
    def boxes(self) -> Boxes:
        """In pixels of the image, the surest first; all there are, however unsure."""
        found = boxes_of(self.answer_Chw, self.size, self.longer, self.most)
        return found._replace(scores_M=rescaled(found.scores_M, self.scale))

    def above(self, least: float) -> Boxes:
        """Those of at least the probability `least`."""
        return self.boxes.only(self.boxes.scores_M >= least)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """`label`, `score` and `box` (left, top, right, bottom) of each object of at least 5 %."""
        return [
            {"label": self.class_names[label], "score": float(score), "box": box.tolist()}
            for box, score, label in zip(*self.above(LEAST), strict=True)
        ]

    @property
    def counts(self) -> dict[str, int]:
        """How many objects of each class there are, of those of at least 30 %."""
        found_N = np.bincount(self.above(SHOWN).labels_M, minlength=len(self.class_names))
        return {name: n for name, n in zip(self.class_names, found_N.tolist(), strict=True) if n}

    def drawn(self, image: Any) -> Image.Image:
        """The picture `image`, as it was predicted from, with those boxes on it."""
        return drawn(image, self.above(SHOWN), self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in ("exit", "relative_cost", "objects")}


def as_coco(rows: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
    """Rows of answers as COCO has objects, each with its `score`; categories count from 1."""
    images, annotations = [], []
    for number, row in enumerate((row for row in rows if not row["error"]), 1):
        height, width = row["size"]
        images.append({"id": number, "file_name": row["file"], "width": width, "height": height})
        for each in row["objects"]:
            left, top, right, bottom = each["box"]
            sides = right - left, bottom - top
            about = {"id": len(annotations) + 1, "image_id": number, "score": each["score"], "iscrowd": 0}
            about["category_id"] = class_names.index(each["label"]) + 1
            annotations.append({**about, "bbox": [left, top, *sides], "area": sides[0] * sides[1]})
    categories = [{"id": n, "name": name} for n, name in enumerate(class_names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
