"""Makes a stream of frames, half of them empty, out of a detection set: for exits that empty images take.

    python benchmarks/stream.py nuclei runs/stream --side 128
    eenet train nuclei-boxes --data runs/stream --image-size 128 --set standardise=false

Frames are crops at random places of random images. An empty one shows no pixel of any object. In the others
an object counts if at least half of it can be seen; crops that show less of one are thrown away. Frames for
training and validation come from training images, each image for one of them; those to be tested on come from
test images. They are written as COCO has them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from eenet.common import progress
from eenet.data import load_boxes

FRAMES = {"train": 1600, "validation": 400, "test": 2000}
SEEN = 0.5
HELD_OUT = 0.2  # of the training images, for validation
QUALITY = 92


def crop(images: Any, index: int, side: int, random: np.random.Generator) -> tuple[Any, Any, Any] | None:
    """Pixels, boxes and labels of a frame; none if it shows a small part of an object."""
    pixels_CHW, objects = images.pair(index)
    height, width = pixels_CHW.shape[1:]
    if min(height, width) < side:
        return None
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    moved_M4 = objects.boxes_M4 - [left, top, left, top]
    seen_M4 = moved_M4.clip(0, side)
    areas_M, whole_M = ((box[:, 2:] - box[:, :2]).clip(0).prod(1) for box in (seen_M4, moved_M4))
    there_M = areas_M > 0
    if (areas_M < SEEN * whole_M)[there_M].any():
        return None
    return pixels_CHW[:, top : top + side, left : left + side], seen_M4[there_M], objects.labels_M[there_M]


def main(data: str, out: Path, /, side: int = 192, seed: int = 0) -> None:
    """Write the frames.

    Args:
        data: images with boxes.
        out: directory, not there yet.
        side: of a frame, in pixels.
        seed: of what is drawn.
    """
    random = np.random.default_rng(seed)
    sets = {split: load_boxes(data, split, in_memory=2**32) for split in ("train", "test")}
    order = random.permutation(len(sets["train"]))
    held = order[: round(HELD_OUT * len(order))], order[round(HELD_OUT * len(order)) :]
    of_split = {"validation": held[0], "train": held[1], "test": np.arange(len(sets["test"]))}
    names = sets["train"].class_names
    categories = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    (out / "images").mkdir(parents=True)
    for split, wanted in FRAMES.items():
        images, annotations, room = [], [], {True: wanted // 2, False: wanted // 2}
        with progress(f"{split} frames", wanted) as advance:
            while sum(room.values()):
                source = sets["test" if split == "test" else "train"]
                found = crop(source, int(random.choice(of_split[split])), side, random)
                if found is None or not room[empty := not len(found[1])]:
                    continue
                room[empty] -= 1
                number = len(images) + 1
                file = f"{split}-{number:05}.jpg"
                Image.fromarray(found[0].transpose(1, 2, 0)).save(out / "images" / file, quality=QUALITY)
                images.append({"id": number, "file_name": file, "width": side, "height": side})
                for box_4, label in zip(found[1], found[2], strict=True):
                    sides = box_4[2:] - box_4[:2]
                    about = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1}
                    about |= {"area": float(sides.prod()), "iscrowd": 0}
                    annotations.append({**about, "bbox": [*map(float, box_4[:2]), *map(float, sides)]})
                advance(1)
        found_all = {"images": images, "annotations": annotations, "categories": categories}
        (out / f"{split}.json").write_text(json.dumps(found_all))


if __name__ == "__main__":
    tyro.cli(main)
