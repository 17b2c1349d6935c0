"""What early exits cost in training: one step with exits against one step of the plain backbone.

Steps alternate, so that a machine that slows down slows both. Also how many images the
loader delivers per second beside what training consumes. Prints a table and writes
`benchmarks/results/train_step-HARDWARE-torchVERSION.csv`.

    python benchmarks/train_step.py --model resnet20_cifar --num-exits 3
"""

import csv
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from timm.optim import create_optimizer_v2

from eenet.common import hardware
from eenet.data import AUGMENTATIONS, ImageSet, augment, batches
from eenet.training import TrainConfig
from eenet.training.objectives import get_objective
from eenet.training.run import build


def main(model: str = "resnet20_cifar", num_exits: int = 3, batch_size: int = 128, rounds: int = 30) -> None:
    """Time training steps in pairs.

    Args:
        model: timm name of the backbone, run on 32×32 colour images.
        num_exits: early exits of the network compared with the plain one.
        batch_size: images per step.
        rounds: pairs of steps, after 5 that don't count.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels = torch.randint(0, 256, (10 * batch_size, 3, 32, 32), dtype=torch.uint8).numpy()
    images = ImageSet(pixels, torch.randint(0, 10, (len(pixels),)).numpy(), [str(i) for i in range(10)])
    config = TrainConfig("cifar10", model, num_exits=num_exits)
    steps = [Step(replace(config, num_exits=n), images, batch_size, device) for n in (0, num_exits)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 5):
        for step, taken in zip(steps, times, strict=True):
            taken.append(step())
    plain, exits = (taken[5:] for taken in times)
    ratios = [b / a for a, b in zip(plain, exits, strict=True)]

    began, count = time.perf_counter(), 0
    varied = AUGMENTATIONS["shift-flip"]
    for batch in batches(images, batch_size, varied, seed=0, epoch=0):
        count += len(augment(batch, varied))
    loader = count / (time.perf_counter() - began)
    consumed = batch_size / statistics.median(exits)
    row = {
        "model": model,
        "num_exits": num_exits,
        "batch_size": batch_size,
        "rounds": rounds,
        "plain_ms": round(1000 * statistics.median(plain), 2),
        "exits_ms": round(1000 * statistics.median(exits), 2),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_of_medians": round(statistics.median(exits) / statistics.median(plain), 4),
        "loader_images_per_s": round(loader),
        "training_images_per_s": round(consumed),
        "loader_over_training": round(loader / consumed, 1),
    }
    for name, value in row.items():
        print(f"{name:<24} {value}")
    place = hardware().replace(" ", "-")
    path = (
        Path(__file__).parent / "results" / f"train_step-{place}-torch{torch.__version__.split('+')[0]}.csv"
    )
    path.parent.mkdir(exist_ok=True)
    known = path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if not known:
            writer.writeheader()
        writer.writerow(row)


class Step:
    """One training step, timed."""

    def __init__(self, config: TrainConfig, images: ImageSet, batch_size: int, device: str) -> None:
        self.network = build(config, images).to(device).train()
        self.network.to(memory_format=self.network.memory_format)  # type: ignore[call-overload]
        self.optimizer = create_optimizer_v2(self.network, opt="sgd", lr=0.01, weight_decay=5e-4)
        self.objective = get_objective("joint", distillation=config.distillation)
        self.costs_K = self.network.costs_K
        x = torch.randn(batch_size, 3, 32, 32, device=device)
        self.images = x.contiguous(memory_format=self.network.memory_format)
        self.labels = torch.randint(0, 10, (batch_size,), device=device)

    def __call__(self) -> float:
        began = time.perf_counter()
        outputs = self.network(self.images)
        self.objective(outputs, self.labels, self.costs_K).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(main)
