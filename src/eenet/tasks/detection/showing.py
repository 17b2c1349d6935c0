"""Boxes drawn on their image, and what a report shows of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eenet.data import Objects, whole_pixels
from eenet.policies import ExitPolicy, decide
from eenet.tasks.detection.boxes import Boxes
from eenet.tasks.detection.metrics import bootstrap_boxes
from eenet.tasks.detection.precision import average_precision, mean_of
from eenet.tasks.detection.records import DetectionRecords
from eenet.tasks.pages import beside, figure, worst_classes
from eenet.tasks.segmentation.maps import palette

THICK = 200  # pixels of an image's shorter side for each pixel of a line
SHOWN = 480  # pixels of answer and truth side by side


def drawn(image: Any, found: Boxes, class_names: Sequence[str], *, told: bool = True) -> Image.Image:
    """An image with boxes; any image that `eenet.data.to_pixels` takes.

    Args:
        image: as large as boxes mean it.
        found: in pixels.
        class_names: of the labels; each has a colour of its own.
        told: with class and score at each box.
    """
    pixels_HWC = whole_pixels(image, 3).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    pen, colours = ImageDraw.Draw(picture), palette(len(class_names))
    width = max(1, round(min(picture.size) / THICK))
    for box, score, label in zip(*found, strict=True):
        colour = tuple(colours[label].tolist())
        pen.rectangle([*box], outline=colour, width=width)
        if told:
            text, corner = f"{class_names[label]} {score:.0%}", (box[0], max(box[1] - 12, 0))
            pen.rectangle(pen.textbbox(corner, text), fill=colour)
            pen.text(corner, text, fill="white" if sum(colour) < 400 else "black")
    return picture


def answer_and_truth(
    image: Any, found: Boxes, objects: Objects, class_names: Sequence[str]
) -> dict[str, Any]:
    """The boxes found beside those that are there, as a picture of a report."""
    true = Boxes(objects.boxes_M4, np.ones(len(objects.labels_M)), objects.labels_M)
    both = [drawn(image, boxes, class_names, told=False) for boxes in (found, true)]
    caption = f"{len(found.labels_M)} found of {len(objects.labels_M)}"
    return figure(beside(both), caption, thumbnail=SHOWN)


def exits_shown(records: DetectionRecords) -> dict[str, Any]:
    """Of each exit, see `Task.exits_shown`."""
    each = [
        mean_of(average_precision(records.pooled(records.at(k)))[0]) for k in range(len(records.counts_KB))
    ]
    return {"full": each[-1], "exit_quality": each}


def policy_shown(records: DetectionRecords, policy: ExitPolicy) -> dict[str, Any]:
    """Of a policy, see `Task.policy_shown`."""
    ours_TN, full_TN = (
        average_precision(records.pooled(exits_B))[0] for exits_B in (decide(records, policy), records.at(-1))
    )
    counts_N = records.truths_ABN[0].sum(0, dtype=np.int64)
    return {
        "interval": bootstrap_boxes(records, policy)["map"],
        "by_class": worst_classes(counts_N, ours_TN.mean(0), full_TN.mean(0)),
    }
