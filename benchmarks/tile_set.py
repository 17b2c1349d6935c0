"""Makes a set of tiles out of enlarged images with masks, for a network that is to work on tiles.

    python benchmarks/tile_set.py camvid runs/tiles
    eenet train camvid --data runs/tiles --image-size 288 --epochs 15 --out runs/tiles-seed0
    python benchmarks/tiles.py runs/tiles-seed0 --data camvid

Tiles are cut at random places, several from each image; every split stays with its own images. Their side is
that of a tile with its halo on both sides. Written as folders of JPEG and PNG files.
"""

import json
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from tiles import enlarged

from eenet.common import progress
from eenet.data import load_masks, scaled_to

SPLITS = {"train": 4, "validation": 4, "test": 2}  # tiles of each image
QUALITY = 92


def main(data: str, out: Path, /, side: int = 288, megapixels: float = 1.0, seed: int = 0) -> None:
    """Write the tiles.

    Args:
        data: images with masks.
        out: directory, not there yet.
        side: of a tile with its halos, in pixels.
        megapixels: of the enlarged images.
        seed: of what is drawn.
    """
    random = np.random.default_rng(seed)
    out.mkdir(parents=True)
    sets = {split: load_masks(data, split) for split in SPLITS}
    about = {"classes": list(sets["train"].class_names), "block": SPLITS["test"]}
    (out / "info.json").write_text(json.dumps(about))
    for split, each in SPLITS.items():
        images = sets[split]
        places = [out / split / kind for kind in ("images", "masks")]
        for place in places:
            place.mkdir(parents=True)
        with progress(f"{split} images", len(images)) as advance:
            for index in range(len(images)):
                pixels_CHW, mask_HW = images.pair(index)
                height, width = size = enlarged(mask_HW.shape, megapixels)
                large_HWC = scaled_to(pixels_CHW, size).transpose(1, 2, 0)
                truth_HW = np.asarray(Image.fromarray(mask_HW.astype(np.uint8)).resize((width, height), 0))
                for n in range(each):
                    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
                    part = slice(top, top + side), slice(left, left + side)
                    name = f"{index:05}-{n}"
                    Image.fromarray(large_HWC[part]).save(places[0] / f"{name}.jpg", quality=QUALITY)
                    Image.fromarray(truth_HW[part]).save(places[1] / f"{name}.png")
                advance(1)


if __name__ == "__main__":
    tyro.cli(main)
