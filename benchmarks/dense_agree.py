"""Masks of every engine against the slow reference, on a trained network and parts of images of odd sizes.

    python benchmarks/dense_agree.py camvid runs/camvid-seed0 [--budget 0.7] [--images 300]

The reference runs one image after the other, stage by stage. Counted are images that left elsewhere, those
among them whose confidence lies nearer than the guard band to a threshold, and pixels of another class.
Written to `benchmarks/results/dense-agree-NAME-HARDWARE-torchVERSION.csv`.
"""

from pathlib import Path

import numpy as np
import results
import torch
import tyro

import eenet
from eenet.data import normalize
from eenet.evaluation import as_images
from eenet.exporting.comparing import GUARD, near_a_threshold
from eenet.policies import logarithm
from eenet.runtime import run_one
from eenet.tasks import task_of
from eenet.tasks.segmentation.maps import class_map

ENGINES = [(backend, size) for backend in ("torch", "onnxruntime", "openvino") for size in (1, 16)]
LEAST = 97  # pixels of a side, at least; sides are odd


def main(name: str, run: Path, /, budget: float | None = None, images: int = 300) -> None:
    """Compare.

    Args:
        name: of the table.
        run: directory of a network for masks.
        budget: by whose policy images leave. Default: its own.
        images: how many.
    """
    network = eenet.EENet.from_pretrained(run).eval()
    policy = network.config.exit_policy(budget)
    mean, std = network.config.normalization()
    random, held = np.random.default_rng(0), as_images(None, network.config, "test")
    parts, expected, near = [], [], []
    for index in range(images):
        pixels_CHW, _ = held.pair(index % len(held))
        sides = [2 * int(random.integers(LEAST // 2, (n - 1) // 2 + 1)) + 1 for n in pixels_CHW.shape[1:]]
        top, left = (
            int(random.integers(n - s + 1)) for n, s in zip(pixels_CHW.shape[1:], sides, strict=True)
        )
        part_HWC = pixels_CHW[:, top : top + sides[0], left : left + sides[1]].transpose(1, 2, 0)
        seen_CHW = task_of(network.config.task).read(part_HWC, network.config).pixels_CHW
        found, exit_index = run_one(network, policy, normalize(torch.from_numpy(seen_CHW), mean, std))
        parts.append(part_HWC)
        expected.append((exit_index, class_map(logarithm(found.numpy()), part_HWC.shape[:2])))
        near.append(near_a_threshold(network.answers(seen_CHW[None]), policy, GUARD["fp32"]).item())
    rows = []
    for backend, batch_size in ENGINES:
        predictor = eenet.Predictor(network, policy=policy, backend=backend, batch_size=batch_size)
        elsewhere = guarded = other = pixels = 0
        for answer, (exit_index, mask_HW), close in zip(
            predictor.predict_many(parts), expected, near, strict=True
        ):
            elsewhere += answer.exit != exit_index
            guarded += answer.exit != exit_index and close
            if answer.exit == exit_index:
                other += int((answer.mask != mask_HW).sum())
                pixels += mask_HW.size
        counts = {"images": images, "at_another_exit": elsewhere, "of_these_near_a_threshold": guarded}
        share = float(f"{other / pixels:.2g}")
        rows.append({"backend": backend, "batch": batch_size, **counts, "pixels_of_another_class": share})
        print(rows[-1], flush=True)
    left = np.bincount([exit_index for exit_index, _ in expected], minlength=network.num_exits + 1)
    print("images by exit:", left.tolist(), results.write(f"dense-agree-{name}", rows))


if __name__ == "__main__":
    tyro.cli(main)
