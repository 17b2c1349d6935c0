"""Images with boxes made up for tests: coloured squares on noise, some images with none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import eenet
from eenet.data import normalize
from eenet.policies import score_of
from eenet.tasks import task_of

COLOURS = np.array([[210, 60, 60], [60, 60, 210]])
NAMES = ["red", "blue"]
EMPTY = 4  # one image of so many holds nothing


def made_boxes(seed: int, height: int = 64, width: int = 64) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """An image [H, W, 3], and its boxes and labels; every third one is hard to see."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 60.0)
    boxes, labels = [], []
    for n in range(0 if seed % EMPTY == 3 else random.integers(1, 4)):
        tall, wide = random.integers(14, 30, 2)
        top, left = random.integers(0, height - tall), random.integers(0, width - wide)
        if any(left < r and l < left + wide and top < b and t < top + tall for l, t, r, b in boxes):  # noqa: E741
            continue
        image[top : top + tall, left : left + wide] = COLOURS[n % 2]
        boxes.append([left, top, left + wide, top + tall])
        labels.append(n % 2)
    noise = random.normal(0, 60 if seed % 3 == 2 else 10, image.shape)
    pixels = (image + noise).clip(0, 255).astype(np.uint8)
    return pixels, {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels, int)}


def write_coco(root: Path, counts: dict[str, int] | None = None) -> Path:
    """A data set as COCO has it: `annotations/instances_SPLIT.json` and a folder of images for each split."""
    for split, count in (counts or {"train": 24, "validation": 12, "test": 12}).items():
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        for k in range(count):
            pixels, objects = made_boxes(k + 1000 * len(split), 64, 96 if k % 4 == 2 else 64)
            Image.fromarray(pixels).save(root / split / f"{k:03}.png")
            height, width = pixels.shape[:2]
            images.append({"id": k + 1, "file_name": f"{k:03}.png", "height": height, "width": width})
            for (left, top, right, bottom), label in zip(*objects.values(), strict=True):
                box = [left, top, right - left, bottom - top]
                about = {"image_id": k + 1, "category_id": int(label) + 5, "iscrowd": 0}
                annotations.append(
                    {"id": len(annotations) + 1, "bbox": box, "area": box[2] * box[3], **about}
                )
        categories = [{"id": n + 5, "name": name} for n, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


SIZES = ((64, 64), (48, 64), (40, 90), (57, 36))


def made_detector() -> eenet.EENet:
    torch.manual_seed(1)
    network = eenet.create_model(
        "resnet8_w4_cifar",
        task="detection",
        num_classes=2,
        num_exits=2,
        input_size=(3, 64, 64),
        task_settings={"width": 8, "scales": [[1.2, 0.3], [0.9, -0.1], [1.0, 0.0]]},
    )
    network.config.mean, network.config.std = [0.4] * 3, [0.3] * 3
    network.config.class_names = NAMES
    network.train()
    with torch.no_grad():  # norms that do something
        for seed in range(20):
            pixels = np.stack([made_boxes(seed)[0].transpose(2, 0, 1)] * 2)
            network(normalize(torch.from_numpy(pixels), [0.4] * 3, [0.3] * 3))
        for k, head in enumerate(network.heads):  # scores that differ from image to image
            head.get_parameter("answer.12.weight").mul_(8)
            head.get_parameter("answer.12.bias").add_(0.1 * (k + 1))
    return network.eval()


def pictures(count: int = 16) -> list[np.ndarray]:
    return [made_boxes(k, *SIZES[k % len(SIZES)])[0] for k in range(count)]


def middling(network: eenet.EENet, score: str) -> tuple[float, ...]:
    """Thresholds at which some images leave at every exit."""
    scores = []
    for k in range(2):
        found = []
        for picture in pictures():
            seen = task_of("detection").read(picture, network.config)
            logits, confidences = network.answers(seen.pixels_CHW[None])
            found.append(score_of(score, [logits[k]], [confidences[k]])[0])
        scores.append(float(np.quantile(found, 0.6)) + 1e-6)
    return tuple(scores)
