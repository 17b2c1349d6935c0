"""Does early exit save time? Backends, batch sizes, rivals, queues and growth, each in its own table.

    python benchmarks/runtime.py CHECKPOINT [--parts backends overhead rival static queue growth]

CHECKPOINT is a trained CIFAR-10 network; the others have random weights and thresholds that
give chosen shares, which is as good for timing. Ratios are of runs that take turns, medians.
`rival` needs `pip install earlyon`. Writes a CSV for each part.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import results
import torch
import tyro
from numpy.typing import NDArray
from torch.optim.swa_utils import update_bn

from eenet import EENet, ExitPolicy, Predictor, create_model, data
from eenet.backbones import create_backbone
from eenet.common import format_table
from eenet.data import normalize
from eenet.networks import without_exits
from eenet.runtime import QueuedEngine, create_backend, run_batch, run_one, segments_of, time_network

SHARES = (0.5, 0.25, 0.125)
BUDGET = 0.6
STATIC = {"cifar10-eenet56": (0.4, "resnet32_cifar"), "cifar10-eenet20": (0.5, "resnet14_cifar")}
"""The budget at which a network is as accurate as which plain one, by 15 epochs of the same recipe."""
SHOWN = ["plain_ms", "early_exit_ms", "ideal_ms", "speedup", "mac_speedup", "realised", "efficiency"]


def main(
    checkpoint: tyro.conf.Positional[Path],
    parts: tuple[str, ...] = ("backends", "overhead", "rival", "static", "queue", "growth"),
    repeats: int = 5,
) -> None:
    """Run the parts that are named; `repeats` runs of each, of which the median counts.

    Args:
        checkpoint: trained on CIFAR-10.
        parts: what to measure.
        repeats: runs of each.
    """
    for part in parts:
        rows: list[dict[str, Any]] = []
        for row in PARTS[part](checkpoint, repeats):
            rows.append(row)
            results.write(f"runtime-{part}", rows)  # what is measured stays, if time runs out
        keys = list(dict.fromkeys(key for row in rows for key in row if key != "exit_shares"))
        kept = [key for key in keys if not key.endswith(("p50_ms", "p95_ms", "p99_ms", "per_second"))]
        cells = [[shown(row.get(key, "")) for key in kept] for row in rows]
        print(
            f"\n{part}\n\n{format_table(kept, cells)}\n\n{results.write(f'runtime-{part}', rows)}", flush=True
        )


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def cifar(count: int) -> NDArray[np.uint8]:
    return data.load("cifar10", "test").pixels(slice(count))


def random_network(backbone: str, num_exits: int, side: int, classes: int) -> EENet:
    """Random weights, also in the gates, so that scores differ between images."""
    torch.manual_seed(0)
    size = (3, side, side)
    network = create_model(backbone, num_exits=num_exits, num_classes=classes, input_size=size).eval()
    network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    for head in network.heads:
        torch.nn.init.normal_(head.get_parameter("confidence.output.weight"))
    return network


def plain_network(backbone: str, like: EENet) -> EENet:
    """Without exits, with random weights, for the images and classes of another network."""
    config = like.config
    arguments = {"num_classes": config.num_classes, "in_chans": config.input_size[0]}
    plain = without_exits(create_backbone(backbone, arguments), config.input_size)
    plain.config.backbone, plain.config.backbone_args = backbone, arguments
    plain.config.mean, plain.config.std = config.mean, config.std
    return plain


def settle_norms(network: EENet, pixels_BCHW: NDArray[np.uint8]) -> None:
    """Batch norms of random weights fitted to images: else all look alike after a hundred layers."""
    config = network.config
    assert config.mean
    assert config.std
    update_bn([normalize(torch.from_numpy(pixels_BCHW), config.mean, config.std)], network)
    network.eval()


def policy_for_shares(
    network: EENet, pixels_BCHW: NDArray[np.uint8], shares: Sequence[float], score: str = "confidence"
) -> ExitPolicy:
    """Thresholds that let these shares of the images leave at the first, second, ... exit."""
    backend = create_backend(
        "onnxruntime", network, segments_of(ExitPolicy(score, (2.0,) * network.num_exits), None), score
    )
    features: Any = pixels_BCHW
    thresholds, left = [], 1.0
    for k in range(network.num_exits):
        outputs = backend.run(k, features)
        assert outputs.score_B is not None
        threshold = float(np.quantile(outputs.score_B, 1 - shares[k] / left)) if k < len(shares) else 2.0
        thresholds.append(threshold)
        features = backend.take(outputs.features, np.flatnonzero(~(outputs.score_B > threshold)))
        left -= shares[k] if k < len(shares) else 0
    return ExitPolicy(score, tuple(thresholds))


def backends(checkpoint: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Every backend and batch size, on networks from small to large."""
    small, pixels = EENet.from_pretrained(checkpoint), cifar(1024)
    policy = small.config.exit_policy(BUDGET)
    yield from _backends("resnet20_cifar, trained", small, policy, pixels, (1, 64, 256), repeats)
    for backbone in ("resnet56_cifar", "resnet110_cifar"):
        network = random_network(backbone, 3, 32, 10)
        settle_norms(network, pixels[:256])
        policy = policy_for_shares(network, pixels, SHARES)
        yield from _backends(backbone, network, policy, pixels, (1, 64, 256), repeats)
    network, large = random_network("resnet50", 3, 224, 1000), noise(64)
    policy = policy_for_shares(network, large, SHARES)
    yield from _backends("resnet50", network, policy, large, (1, 64), repeats)


def _backends(
    name: str,
    network: EENet,
    policy: ExitPolicy,
    images: NDArray[np.uint8],
    sizes: Sequence[int],
    repeats: int,
) -> Iterator[dict[str, Any]]:
    for backend in ("onnxruntime", "openvino", *(["torch", "torch-compile"] if "trained" in name else [])):
        for size in sizes[:2] if backend == "torch-compile" else sizes:  # minutes of compiling for each more
            row = time_network(network, policy, images, backend=backend, batch_size=size, repeats=repeats)
            yield {"network": name, **row.to_dict()}


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 224, 224), dtype=np.uint8)


def overhead(_: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """What exits cost when no image leaves: each alone, and all."""
    pixels = cifar(256)
    for backbone in ("resnet56_cifar", "resnet110_cifar"):
        network = random_network(backbone, 3, 32, 10)
        for on in ((0,), (1,), (2,), (0, 1, 2)):
            policy = ExitPolicy("confidence", (2.0,) * 3, tuple(k in on for k in range(3)))
            for size in (1, 64):
                row = time_network(
                    network, policy, pixels, backend="onnxruntime", batch_size=size, repeats=repeats
                )
                over = row.early_exit_ms / row.plain_ms - 1
                yield {"network": backbone, "exits on": str(on), "batch_size": size, "overhead": over}


def rival(_: Path, repeats: int) -> list[dict[str, Any]]:
    """The package `earlyon` and a plain loop, on the same backbone, heads, images and shares of exits."""
    from earlyon.core.types import EarlyExitConfig, ExitPoint  # pyright: ignore[reportMissingImports]
    from earlyon.core.wrappers import EarlyExitWrapper  # pyright: ignore[reportMissingImports]

    network, pixels = random_network("resnet56_cifar", 3, 32, 10), cifar(256)
    policy = policy_for_shares(network, pixels, SHARES, "max_softmax")
    backbone = torch.nn.Sequential(*network.stages)
    points = [ExitPoint(f"exit{k}", str(k), 1) for k in range(3)]
    config = EarlyExitConfig(
        backbone="resnet56", num_classes=10, exit_points=points, confidence_thresholds=list(policy.thresholds)
    )
    heads = {f"exit{k}": LogitsOnly(head) for k, head in enumerate(network.heads)}
    theirs = EarlyExitWrapper(backbone, heads, torch.nn.Identity(), config, (1, 3, 32, 32)).eval()
    images = normalize(torch.from_numpy(pixels), [0.5] * 3, [0.25] * 3)
    rows = []
    for size in (1, 64):
        chunks = tuple(slice(i, i + size) for i in range(0, len(pixels), size))
        calls: dict[str, Callable[[slice], Any]] = {
            "earlyon": lambda part: (
                theirs(images[part])
                if len(images[part]) == 1
                else theirs.forward_inference_batched(images[part])
            ),
            "one by one, eager": lambda part: [run_one(network, policy, image) for image in images[part]],
        }
        for name in ("torch", "onnxruntime", "openvino"):
            fast = create_backend(name, network, segments_of(policy, network.config.ensemble), policy.score)
            calls[f"eenet, {name}"] = lambda part, fast=fast: run_batch(fast, policy, pixels[part])
        fast = create_backend(
            "onnxruntime", network, segments_of(policy, network.config.ensemble), policy.score
        )
        exits_B = np.concatenate([run_batch(fast, policy, pixels[part]).exits_B for part in chunks])
        shares = (np.bincount(exits_B, minlength=4) / len(pixels)).round(3).tolist()
        seconds = in_turn({name: partial(over, call, chunks) for name, call in calls.items()}, repeats)
        for name, taken in seconds.items():
            rate = len(pixels) / taken
            times = seconds["earlyon"] / taken
            rows.append({"batch_size": size, "runtime": name, "images/s": rate, "× earlyon": times})
        rows[-1]["exit_shares"] = shares
    return rows


def over(call: Callable[[slice], Any], chunks: Sequence[slice]) -> None:
    for chunk in chunks:
        call(chunk)


class LogitsOnly(torch.nn.Module):
    """A head as `earlyon` wants it."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features)[0]


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, called in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def static(_: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Networks in the box against smaller plain ones that are as accurate."""
    pixels = cifar(1024)
    for name, (budget, smaller) in STATIC.items():
        network = EENet.from_pretrained(name)
        plain = plain_network(smaller, network)
        policy = network.config.exit_policy(budget)
        for backend in ("onnxruntime", "openvino"):
            for size in (1, 64, 256):
                row = time_network(
                    network, policy, pixels, backend=backend, batch_size=size, repeats=repeats, against=plain
                )
                yield {
                    "network": name,
                    "budget": budget,
                    "plain": smaller,
                    "mac_ratio": row.mac_speedup * plain.config.backbone_macs / network.config.backbone_macs,
                    "backend": backend,
                    "batch_size": size,
                    "early_exit_ms": row.early_exit_ms,
                    "plain_ms": row.against_ms,
                    "times as fast": row.against_speedup,
                }


def queue(checkpoint: Path, repeats: int) -> list[dict[str, Any]]:
    """1,000 requests of 1 to 8 images from 16 threads that arrive at random, in several ways."""
    network, pixels = EENet.from_pretrained(checkpoint), cifar(2000)
    policy = network.config.exit_policy(BUDGET)
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, len(pixels), rng.integers(1, 9)) for _ in range(1000)]
    pauses = rng.exponential(1e-4, len(requests))
    made = {
        n: create_backend(
            "onnxruntime", network, segments_of(policy, network.config.ensemble), policy.score, threads=n
        )
        for n in (1, 2)
    }
    lock = threading.Lock()
    wrong = {}

    def arrive(name: str, answer: Callable[[NDArray[np.intp]], Any], clients: int = 16) -> None:
        def client(i: int) -> Any:
            time.sleep(pauses[i])
            return answer(requests[i])

        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(client, range(len(requests))))
        alone = [run_batch(made[1], policy, pixels[rows]) for rows in requests] if name not in wrong else []
        pairs = zip(answers, alone, strict=False)
        wrong.setdefault(name, sum(int((a.exits_B != b.exits_B).sum()) for a, b in pairs))

    def locked(rows: NDArray[np.intp]) -> Any:
        with lock:
            return run_batch(made[2], policy, pixels[rows])

    def queued(threads: int, workers: int) -> None:
        with QueuedEngine(made[threads], policy, ensemble=network.config.ensemble, workers=workers) as engine:
            name = f"queued, {workers} workers × {threads} threads"
            arrive(name, lambda rows: engine.submit(pixels[rows]).result())

    one = "one request at a time, 2 threads"
    free = "2 requests at a time, 1 thread each"
    seconds = in_turn(
        {
            one: lambda: arrive(one, locked),
            free: lambda: arrive(free, lambda rows: run_batch(made[1], policy, pixels[rows]), 2),
            "queued, 1 workers × 2 threads": lambda: queued(2, 1),
            "queued, 2 workers × 1 threads": lambda: queued(1, 2),
        },
        repeats,
    )
    count = sum(map(len, requests))
    return [
        {"way": name, "images/s": count / s, "× one at a time": seconds[one] / s, "other exits": wrong[name]}
        for name, s in seconds.items()
    ]


def growth(checkpoint: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Time and memory as batches, exits and the number of images grow."""
    network = EENet.from_pretrained(checkpoint)
    policy, pixels = network.config.exit_policy(BUDGET), cifar(2048)
    for size in (1, 4, 16, 64, 256, 1024):
        row = time_network(network, policy, pixels, backend="onnxruntime", batch_size=size, repeats=repeats)
        yield {"what": "batch size", "n": size} | {key: getattr(row, key) for key in SHOWN}
    for exits in (1, 2, 4, 8, 16):
        deep = random_network("resnet110_cifar", exits, 32, 10)
        stay = ExitPolicy("confidence", (2.0,) * exits)
        row = time_network(deep, stay, pixels[:64], backend="onnxruntime", batch_size=64, repeats=repeats)
        yield {"what": "exits, none leaves", "n": exits} | {key: getattr(row, key) for key in SHOWN}
    context = multiprocessing.get_context("spawn")
    for plain, count in ((True, 1000), (False, 1000), (False, 10_000), (False, 100_000)):
        with context.Pool(1) as pool:
            megabytes, taken = pool.apply(many_images, (checkpoint, plain, count))
        what = "images, plain" if plain else "images"
        yield {"what": what, "n": count, "peak MB": megabytes, "images/s": count / taken}


def many_images(checkpoint: Path, plain: bool, count: int) -> tuple[float, float]:
    """Peak memory of a process that classifies so many images, and its seconds."""
    network = EENet.from_pretrained(checkpoint)
    policy = network.config.exit_policy(BUDGET)
    if plain:
        policy = ExitPolicy(policy.score, policy.thresholds, (False,) * network.num_exits)
    pixels = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)

    def images() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield from pixels

    predictor = Predictor(network, policy=policy, backend="onnxruntime", batch_size=256)
    start = time.perf_counter()
    for _ in predictor.predict_many(islice(images(), count)):
        pass
    taken = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # getrusage's peak would be the parent's, kept over exec
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024, taken


PARTS = {
    "backends": backends,
    "overhead": overhead,
    "rival": rival,
    "static": static,
    "queue": queue,
    "growth": growth,
}

if __name__ == "__main__":
    tyro.cli(main)
