"""Boxes drawn on their image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eenet.data import whole_pixels
from eenet.tasks.detection.boxes import Boxes
from eenet.tasks.segmentation.maps import palette

THICK = 200  # pixels of an image's shorter side for each pixel of a line


def drawn(image: Any, found: Boxes, class_names: Sequence[str]) -> Image.Image:
    """An image with boxes, each with its class and score; any image that `eenet.data.to_pixels` takes."""
    pixels_HWC = whole_pixels(image, 3).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    pen, colours = ImageDraw.Draw(picture), palette(len(class_names))
    width = max(1, round(min(picture.size) / THICK))
    for box, score, label in zip(*found, strict=True):
        colour = tuple(colours[label].tolist())
        pen.rectangle([*box], outline=colour, width=width)
        text = f"{class_names[label]} {score:.0%}"
        left, top = box[0], max(box[1] - 12, 0)
        pen.rectangle(pen.textbbox((left, top), text), fill=colour)
        pen.text((left, top), text, fill="white" if sum(colour) < 400 else "black")
    return picture
