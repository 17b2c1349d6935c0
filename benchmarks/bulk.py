"""Many image files from disk: early exit and the plain network, on one core and on all of them.

    EENET_DATA=... python benchmarks/bulk.py [--checkpoint NAME] [--data NAME] [--count N]

Writes JPEG files of a data set to a temporary folder, labels them in turn by each way, and prints images a
second: medians over the repeats, and the ratio of both ways in the same turn. Reading files is part of the
time, loading the network isn't. Writes benchmarks/results/bulk-….csv.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from PIL import Image
from results import write

from eenet import EENet, ExitPolicy, Predictor, data
from eenet.common import cores, format_table
from eenet.data import to_pixels


def one_after_the_other(predictor: Predictor, files: list[Path]) -> int:
    """Decode a batch, then run it, then the next, all on one core."""
    size = predictor.network.config.input_size
    done = 0
    for i in range(0, len(files), predictor.batch_size):
        batch = [np.asarray(to_pixels(file, size)) for file in files[i : i + predictor.batch_size]]
        done += len(predictor.run(np.stack(batch)).exits_B)
    return done


def on_all_cores(predictor: Predictor, files: list[Path]) -> int:
    """A batch on every core, from the file to the answer."""
    return sum(1 for _ in predictor.predict_many(files))


def main(
    checkpoint: str = "tiny-imagenet-50-eenet18",
    data_name: str = "tiny-imagenet-50",
    count: int = 5000,
    repeats: int = 5,
    backend: str = "onnxruntime",
) -> None:
    """Measure.

    Args:
        checkpoint: whose policy is used; beside it the same network without leaving early, heads never run.
        data_name: whose training images are written as files.
        count: of images.
        repeats: turns.
        backend: with threads of its own.
    """
    network = EENet.from_pretrained(checkpoint)
    never = ExitPolicy.all_at(network.num_exits, network.num_exits)
    images = data.load(data_name, "train", size=network.config.input_size[1:])
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{i:05}.jpg" for i in range(count)]
        for file, pixels in zip(files, images.pixels(list(range(count))), strict=True):
            array = np.moveaxis(np.asarray(pixels), 0, 2)
            Image.fromarray(array.squeeze()).save(file, quality=90)
        ways = {}
        for name, policy in (("early exit", None), ("plain network", never)):
            alone = Predictor(network, policy=policy, backend=backend, threads=1)
            spread = Predictor(network, policy=policy, backend=backend, threads=1, workers=cores())
            ways[name] = (
                (lambda p=alone: one_after_the_other(p, files)),
                (lambda p=spread: on_all_cores(p, files)),
            )
        seconds = {(name, way): [] for name in ways for way in (0, 1)}
        for turn in range(repeats + 1):
            for name, both in ways.items():
                for way, run in enumerate(both):
                    start = time.perf_counter()
                    assert run() == count
                    if turn:
                        seconds[name, way].append(time.perf_counter() - start)
    rows = []
    for name in ways:
        before, after = seconds[name, 0], seconds[name, 1]
        ratio = median(b / a for b, a in zip(before, after, strict=True))
        rows.append(
            {
                "network": name,
                "images a second, on one core": round(count / median(before)),
                "on all cores": round(count / median(after)),
                "times as fast": round(ratio, 2),
            }
        )
    print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(f"\n{checkpoint}, {count} files, {backend}: {write(f'bulk-{checkpoint}', rows)}")


if __name__ == "__main__":
    tyro.cli(main)
