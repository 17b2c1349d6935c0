"""Large images in tiles that leave by themselves: time and mIoU against the whole image through all exits.

    python benchmarks/tiles.py runs/camvid-seed0 [--tile 256 288] [--halo 16 0] [--budget 0.5 0.75]

Test images are enlarged. Every way takes its turn on each image: whole or in tiles, with a halo of so many
pixels; never early, which shows what cutting costs, or early, where each tile leaves by itself. Written to
`benchmarks/results/tiles-DATA-HARDWARE-torchVERSION.csv`. Times are of the network without decoding, medians
over images; mIoU is of all images at the masks' own size.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import results
from ship import trained_on

import eenet
from eenet.data import load_masks, scaled_to
from eenet.networks import open_network
from eenet.policies import logarithm
from eenet.tasks.segmentation.maps import class_map
from eenet.tasks.segmentation.records import confusion, miou

WARM_UP = 2


def enlarged(size: tuple[int, ...], megapixels: float) -> list[int]:
    """Height and width in the same proportion, of so many pixels."""
    scale = (1e6 * megapixels / (size[0] * size[1])) ** 0.5
    return [round(side * scale) for side in size]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--tile", type=int, nargs="+", default=[256])
    parser.add_argument("--halo", type=int, nargs="+", default=[16])
    parser.add_argument("--budget", type=float, nargs="+", default=[None])
    parser.add_argument("--backend", default="onnxruntime")
    given = parser.parse_args()
    network = open_network(given.checkpoint)
    data = given.data or trained_on(network.config)
    images = load_masks(data, "test")  # as they are, not at the network's size
    own = network.config.exit_policy()
    early = {f", budget {b:g}" if b else ", early": network.config.exit_policy(b) for b in given.budget}
    never = eenet.ExitPolicy(own.score, own.thresholds, (False,) * len(own.thresholds))
    cuts = {"whole": (1 << 14, 0)}
    cuts |= {f"tiles of {t} + {h}": (t, h) for t, h in zip(given.tile, given.halo, strict=True)}
    ways = {
        name + end: eenet.Predictor(network, policy=policy, backend=given.backend, tile=tile, halo=halo)
        for name, (tile, halo) in cuts.items()
        for end, policy in ({"": never} | early).items()
    }
    classes = network.config.num_classes
    times: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    totals = {name: np.zeros((classes, classes), np.int64) for name in ways}
    rows = np.linspace(0, len(images) - 1, min(given.images, len(images))).astype(int).tolist()
    for n, index in enumerate([*rows[:WARM_UP], *rows]):
        pixels_CHW, mask_HW = images.pair(index)
        large_CHW = scaled_to(pixels_CHW, enlarged(mask_HW.shape, given.megapixels))
        for name, predictor in ways.items():
            start = time.perf_counter()
            found = predictor.predict(large_CHW)
            spent = 1e3 * (time.perf_counter() - start)
            if n >= WARM_UP:
                times[name].append(spent)
                costs[name].append(found.relative_cost)
                answer_HW = class_map(logarithm(found.probabilities_Nhw), mask_HW.shape)
                totals[name] += confusion(mask_HW, answer_HW, classes)
    full = times["whole"]
    table = [
        {
            "way": name,
            "images": len(rows),
            "megapixels": given.megapixels,
            "cost": round(float(np.mean(costs[name])), 3),
            "ms": round(median(times[name]), 1),
            "time_ratio": round(median(t / f for t, f in zip(times[name], full, strict=True)), 3),
            "metric": round(100 * miou(totals[name]), 2),
        }
        for name in ways
    ]
    print(results.write(f"tiles-{data}", table))


if __name__ == "__main__":
    main()
