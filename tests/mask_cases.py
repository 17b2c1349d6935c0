"""Images with masks made up for tests, coloured squares on noise, and a network for them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import eenet
from eenet.data import normalize
from eenet.policies import score_of
from eenet.tasks import task_of

COLOURS = np.array([[60, 60, 60], [210, 60, 60], [60, 60, 210]])
NAMES = ["ground", "red", "blue"]


def made_pair(seed: int, height: int = 32, width: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image [H, W, 3] and its mask [H, W]; every third one is hard to see."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for n in (1, 2):
        y, x = random.integers(0, height - 12), random.integers(0, width - 12)
        mask[y : y + 12, x : x + 12] = n
    noise = random.normal(0, 80 if seed % 3 == 2 else 10, (height, width, 3))
    return (COLOURS[mask] + noise).clip(0, 255).astype(np.uint8), mask


def write_folders(root: Path, counts: dict[str, int] | None = None) -> Path:
    """A data set in folders, some images wider than others."""
    for split, count in (counts or {"train": 16, "validation": 12, "test": 12}).items():
        for k in range(count):
            image, mask = made_pair(k + 1000 * len(split), 32, 40 if k % 4 == 3 else 32)
            for folder, values in (("images", image), ("masks", mask)):
                path = root / split / folder / f"{k:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (root / "info.json").write_text('{"classes": ["ground", "red", "blue"], "ignore_index": 255, "block": 3}')
    return root


SIZES = ((32, 32), (33, 47), (40, 32), (57, 36))


def made_network(score: str = "confidence", thresholds: tuple[float, ...] = ()) -> eenet.EENet:
    torch.manual_seed(1)
    network = eenet.create_model(
        "resnet8_cifar",
        task="segmentation",
        num_classes=3,
        num_exits=2,
        input_size=(3, 32, 32),
        task_settings={"width": 8},
    )
    network.config.mean, network.config.std = [0.4] * 3, [0.3] * 3
    network.config.class_names = NAMES
    network.train()
    with torch.no_grad():  # norms that do something
        for seed in range(20):
            pixels = np.stack([made_pair(seed)[0].transpose(2, 0, 1)] * 2)
            network(normalize(torch.from_numpy(pixels), [0.4] * 3, [0.3] * 3))
        for head in network.heads:  # scores that differ from image to image
            head.get_parameter("answer.6.weight").mul_(20)
            head.get_parameter("confidence.gain.bias").fill_(-8)
    network.config.policy = eenet.ExitPolicy(score, thresholds or (0.5, 0.5)).to_dict()
    return network.eval()


def pictures(count: int = 24) -> list[np.ndarray]:
    return [made_pair(k, *SIZES[k % len(SIZES)])[0] for k in range(count)]


def middling(network: eenet.EENet, score: str) -> tuple[float, ...]:
    """Thresholds at which some images leave at every exit."""
    scores = []
    for k in range(2):
        found = []
        for picture in pictures():
            seen = task_of("segmentation").read(picture, network.config)
            logits, confidences = network.answers(seen.pixels_CHW[None])
            found.append(score_of(score, [*logits[: k + 1]], [*confidences[: k + 1]])[0])
        scores.append(float(np.quantile(found, 0.6)))
    return tuple(scores)
