"""The server under load: early exit against the plain backbone, overload, restart, memory.

    python benchmarks/serving.py [--parts load overload restart soak] [--checkpoint CHECKPOINT]

`load` takes untrained networks with thresholds that let chosen shares leave, which is as good for timing;
`overload` a trained one, whose accuracy counts. Clients run on the same machine and do as little as they can:
requests are made beforehand. Writes a CSV for each part.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import results
import tyro
import uvloop
from numpy.typing import NDArray
from runtime import cifar, noise, plain_network, policy_for_shares, random_network, settle_norms, shown

from eenet import EENet, data
from eenet.common import format_table

SHARES = (0.66, 0.2, 0.08)
CLIENTS = 32
OUTPUTS = ("label", "exit_index")
WARM_UP = 3.0  # seconds
WINDOW = 10.0  # seconds that a contender is loaded before it is the other's turn
NETWORKS = {"resnet50": (224, 1000, 96), "resnet110_cifar": (32, 10, 512)}  # side, classes, images


def main(
    parts: tuple[str, ...] = ("load", "overload", "restart"),
    checkpoint: str = "cifar10-eenet20",
    windows: int = 6,
    minutes: float = 20,
) -> None:
    """Run the parts that are named; `windows` for each contender under load, `minutes` of soak."""
    known: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "load": lambda: load(windows),
        "overload": lambda: overload(checkpoint),
        "restart": restart,
        "soak": lambda: soak(minutes),
    }
    for part in parts:
        rows = []
        for row in known[part]():
            rows.append(row)
            results.write(f"serving-{part}", rows)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[shown(row.get(key, "")) for key in keys] for row in rows]
        print(f"\n{part}\n\n{format_table(keys, cells)}", flush=True)


# A server and its clients ------------------------------------------------------------


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`eenet serve` on a free port: its address and process."""
    command = [sys.executable, "-m", "eenet", "serve", *arguments, "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, text=True)
        try:
            while not (found := re.search(r"at http://(\S+)", _so_far(log))):
                if process.poll() is not None:
                    raise RuntimeError(_so_far(log))
                time.sleep(0.02)
            while not _answers(found[1]):
                time.sleep(0.02)
            yield found[1], process
        finally:
            process.kill()
            process.wait()


def _so_far(log: Any) -> str:
    return os.pread(log.fileno(), 10_000, 0).decode()


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"http://{address}/v2/health/ready").status == 200
    except OSError:
        return False


class Load:
    """What clients saw."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.exits: list[int] = []
        self.labels: list[tuple[int, list[str]]] = []
        self.refused: list[float] = []
        self.errors: list[str] = []
        self.lasted = 0.0

    async def ask(self, connections: "Connections", requests: Sequence[bytes], index: int) -> None:
        """One request, with a batch of images."""
        start = time.perf_counter()
        status, text = await connections.send(requests[index % len(requests)])
        seconds = time.perf_counter() - start
        if status == 503:
            self.refused.append(seconds)
            return
        if status != 200:
            self.errors.append(text.decode())
            return
        self.seconds.append(seconds)
        found = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
        self.exits.append(max(found["exit_index"]))
        self.labels.append((index % len(requests), found.get("label", [])))

    def add(self, other: "Load") -> None:
        """Take in another window."""
        for name in ("seconds", "exits", "labels", "refused", "errors"):
            getattr(self, name).extend(getattr(other, name))
        self.lasted += other.lasted

    def quantile(self, q: float) -> float:
        return float(1e3 * np.quantile(self.seconds, q))

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.lasted


class Connections:
    """Kept open, and as many as are needed at once."""

    def __init__(self, address: str) -> None:
        self._where = address.split(":")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        while self._idle:
            with suppress(ConnectionError, asyncio.IncompleteReadError):  # closed meanwhile
                return await self._answer(request, *self._idle.pop())
        return await self._answer(request, *await asyncio.open_connection(*self._where))

    async def _answer(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[int, bytes]:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        text = await reader.readexactly(int(length[1]))
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split()[1]), text

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def requests_of(model: str, batches: NDArray[np.uint8], outputs: Sequence[str] = OUTPUTS) -> list[bytes]:
    """A request for each batch of images, in the binary form of the Open Inference Protocol."""
    made = []
    for pixels in batches:
        tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape)}
        tensor["parameters"] = {"binary_data_size": pixels.nbytes}
        wanted = [{"name": name} for name in outputs]
        text = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
        head = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: localhost"]
        head += [f"Content-Length: {len(text) + pixels.nbytes}"]
        head += [f"Inference-Header-Content-Length: {len(text)}", "", ""]
        made.append("\r\n".join(head).encode() + text + pixels.tobytes())
    return made


def closed(
    address: str,
    model: str,
    batches: NDArray[np.uint8],
    seconds: float,
    clients: int = CLIENTS,
    outputs: Sequence[str] = OUTPUTS,
) -> Load:
    """Clients that each wait for an answer before they ask again."""
    seen, requests = Load(), requests_of(model, batches, outputs)

    async def run() -> None:
        connections, start, asked = Connections(address), time.perf_counter(), 0

        async def one() -> None:
            nonlocal asked
            while time.perf_counter() - start < seconds:
                asked += 1
                await seen.ask(connections, requests, asked)

        await asyncio.gather(*(one() for _ in range(clients)))
        connections.close()
        seen.lasted = time.perf_counter() - start

    uvloop.run(run())
    return seen


def loaded_in_turn(
    address: str, models: Sequence[str], batches: Any, windows: int, outputs: Sequence[str] = OUTPUTS
) -> tuple[dict[str, Load], list[float]]:
    """Windows of each of two models, and answers a second of the first against the second in each turn."""
    seen, ratios = {model: Load() for model in models}, []
    for turn in range(windows):
        window = {}
        for model in models[:: 1 if turn % 2 else -1]:
            window[model] = closed(address, model, batches, WINDOW, outputs=outputs)
            seen[model].add(window[model])
        first, second = (window[model].per_second for model in models)
        ratios.append(first / second)
    return seen, ratios


def opened(address: str, model: str, batches: NDArray[np.uint8], seconds: float, rate: float) -> Load:
    """Requests at random times, whatever becomes of those before."""
    seen, requests = Load(), requests_of(model, batches)

    async def run() -> None:
        random, asked, at, tasks = np.random.default_rng(0), 0, 0.0, set[asyncio.Task[None]]()
        connections, start = Connections(address), time.perf_counter()
        while at < seconds:
            at += random.exponential(1 / rate)
            await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
            asked += 1
            tasks.add(asyncio.create_task(seen.ask(connections, requests, asked)))
        await asyncio.gather(*tasks)
        connections.close()
        seen.lasted = time.perf_counter() - start

    uvloop.run(run())
    return seen


def batch_sizes(address: str, model: str) -> dict[str, tuple[float, float]]:
    """Images and batches so far, by segment."""
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    pattern = rf'eenet_batch_images_(sum|count){{model="{model}",segment="(\d+)"}} (\S+)'
    found: dict[str, dict[str, float]] = {}
    for kind, segment, value in re.findall(pattern, text):
        found.setdefault(segment, {})[kind] = float(value)
    return {segment: (values["sum"], values["count"]) for segment, values in found.items()}


# Parts -------------------------------------------------------------------------------


def load(windows: int) -> Iterator[dict[str, Any]]:
    """Early exit and the plain backbone, in one server on the same backend, loaded in turn."""
    for name, (side, classes, count) in NETWORKS.items():
        network = random_network(name, 3, side, classes)
        pixels = noise(count) if side == 224 else cifar(count)
        settle_norms(network, pixels[:64])
        policy = policy_for_shares(network, pixels, SHARES)
        network.config.policy = policy.to_dict()
        plain = plain_network(name, network)
        with tempfile.TemporaryDirectory() as directory:
            network.save_pretrained(f"{directory}/early")
            plain.save_pretrained(f"{directory}/plain")
            with served(directory) as (address, _):
                yield _in_turn(name, address, network, pixels[:, None], windows)


def _in_turn(name: str, address: str, network: EENet, batches: Any, windows: int) -> dict[str, Any]:
    models = ("early", "plain")
    for model in models:  # warm-up
        closed(address, model, batches, WARM_UP)
    before = batch_sizes(address, "early")
    seen, ratios = loaded_in_turn(address, models, batches, windows)
    after = batch_sizes(address, "early")
    early, plain = seen["early"], seen["plain"]
    cost = float(np.mean([network.costs_K[k] for k in early.exits]))
    first = [s for s, k in zip(early.seconds, early.exits, strict=True) if k == 0]
    last = [s for s, k in zip(early.seconds, early.exits, strict=True) if k == network.num_exits]
    mean_batches = [(after[k][0] - before[k][0]) / max(after[k][1] - before[k][1], 1) for k in sorted(after)]
    return {
        "network": name,
        "clients": CLIENTS,
        "requests": len(early.seconds) + len(plain.seconds),
        "errors": len(early.errors) + len(plain.errors),
        "mean_cost": cost,
        "throughput_ratio": median(ratios),
        "early_per_second": early.per_second,
        "plain_per_second": plain.per_second,
        **{f"{n}_p{q}_ms": load.quantile(q / 100) for n, load in seen.items() for q in (50, 99)},
        "exit_0_p50_ms": 1e3 * median(first),
        "final_p50_ms": 1e3 * median(last),
        "first/final": median(first) / median(last),
        "mean_batch_by_segment": " ".join(f"{size:.1f}" for size in mean_batches),
    }


def overload(checkpoint: str) -> Iterator[dict[str, Any]]:
    """Three times the requests that the server can answer, with and without giving way."""
    images = data.load("cifar10", "test")
    size, count = 16, 2000
    pixels = np.asarray(images.pixels(list(range(count)))).reshape(-1, size, *images.image_size)
    names = images.class_names
    truth = [names[label] for label in images.labels_B[:count].tolist()]
    room = 6  # requests
    common = (checkpoint, "--most-waiting", str(room * size))
    normal = capacity = None
    for floor in (None, 0.84):
        extra = () if floor is None else ("--accuracy-floor", str(floor), "--data", "cifar10")
        with served(*common, *extra) as (address, _):
            model = Path(checkpoint).name
            closed(address, model, pixels, 3, clients=4)
            if normal is None or capacity is None:
                capacity = closed(address, model, pixels, 15, clients=room).per_second
                normal = opened(address, model, pixels, 15, 0.8 * capacity)
            seen = opened(address, model, pixels, 30, 3 * capacity)
        right = [
            label == truth[index * size + i]
            for index, labels in seen.labels
            for i, label in enumerate(labels)
        ]
        yield {
            "accuracy_floor": floor or "none",
            "capacity_per_second": capacity,
            "normal_p99_ms": normal.quantile(0.99),
            "normal_refused": len(normal.refused) / (len(normal.refused) + len(normal.seconds)),
            "answered_per_second": seen.per_second,
            "accepted_p50_ms": seen.quantile(0.5),
            "accepted_p99_ms": seen.quantile(0.99),
            "refused_per_second": len(seen.refused) / seen.lasted,
            "refused_p99_ms": float(1e3 * np.quantile(seen.refused, 0.99)) if seen.refused else 0.0,
            "errors": len(seen.errors),
            "accuracy": float(np.mean(right)),
        }


def restart() -> Iterator[dict[str, Any]]:
    """Seconds from `kill -9` to the first answer of a new process."""
    for _ in range(3):
        with served("digits-eenet8") as (_, process):
            process.send_signal(signal.SIGKILL)
            process.wait()
        start = time.perf_counter()
        with served("digits-eenet8"):
            yield {"model": "digits-eenet8", "seconds_until_ready": time.perf_counter() - start}


def soak(minutes: float) -> Iterator[dict[str, Any]]:
    """Memory of the process at about half load, every minute after a warm-up of two."""
    pixels = np.asarray(data.load("digits", "test").pixels(list(range(256))))[:, None]
    with served("digits-eenet8", "--data", "digits") as (address, process):
        capacity = closed(address, "digits-eenet8", pixels, 10).per_second
        for minute in range(round(minutes) + 2):
            seen = opened(address, "digits-eenet8", pixels, 60, capacity / 2)
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmRSS:\s+(\d+)", status)
            assert found
            if minute >= 2:
                yield {
                    "minute": minute - 2,
                    "megabytes": int(found[1]) / 1024,
                    "per_second": seen.per_second,
                    "errors": len(seen.errors) + len(seen.refused),
                }


if __name__ == "__main__":
    tyro.cli(main)
