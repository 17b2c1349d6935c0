"""Many machines, as far as one with two processors shows them: Ray beside processes run by hand.

    EENET_DATA=... python benchmarks/scale.py [--parts bulk stages serve]

- `bulk`: `eenet batch` with two workers against two processes of `eenet.Predictor`, each with half of the
  images and one thread, in turn; the same rows; memory of both.
- `stages`: a ResNet-50 of random weights, a quarter of whose images comes to its last segment, by network and
  by stage.
- `serve`: Ray Serve with two replicas against `eenet serve`, in turn, 16 clients that wait for their answers.

Ray's start isn't counted, that of its actors is, and that of the two processes too. Writes
benchmarks/results/scale-….csv.
"""

import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import results
import tritonclient.http as triton
import tyro
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from runtime import noise, policy_for_shares, random_network

from eenet import data
from eenet.common import format_table
from eenet.scale import predict
from eenet.scale.session import session

CHECKPOINT = "cifar10-eenet20"
CLIENTS, WINDOW = 16, 10.0
BY_HAND = """
import sys
import pyarrow as pa
from pyarrow import parquet
from eenet import Predictor

given, out, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
images = parquet.read_table(given, columns=["image"])["image"].slice(first, count)
predictor = Predictor(sys.argv[5], threads=1)
found = list(predictor.predict_many(row["bytes"] for row in images.to_pylist()))
columns = {name: [getattr(one, name) for one in found] for name in ("label", "exit", "probability")}
parquet.write_table(pa.table(columns), out)
"""


def main(
    parts: tuple[str, ...] = ("bulk", "stages", "serve"), images: int = 50_000, repeats: int = 3
) -> None:
    """Run the parts that are named; `repeats` turns."""
    known: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "bulk": lambda: bulk(images, repeats),
        "stages": stages,
        "serve": lambda: serve(repeats),
    }
    for part in parts:
        rows = list(known[part]())
        print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
        print(results.write(f"scale-{part}", rows))


def bulk(count: int, repeats: int) -> Iterator[dict[str, Any]]:
    """The same images either way, a turn each."""
    files = sorted((Path(os.environ["EENET_DATA"]) / "cifar10").glob("train*.parquet"))
    with tempfile.TemporaryDirectory() as directory, session(cpus=2):
        given, home = Path(directory) / "images.parquet", Path(directory)
        table = pa.concat_tables([parquet.read_table(file) for file in files])
        table = table.rename_columns(["image", *table.column_names[1:]]).slice(0, count)
        parquet.write_table(table, given, row_group_size=1000)
        rates: dict[str, list[float]] = {"Ray": [], "by hand": []}
        memory: dict[str, float] = {}
        for turn in range(repeats):
            with peak(lambda name: name.startswith("ray::")) as seen:
                found = predict(given, CHECKPOINT, out=home / f"ray-{turn}", by="network", workers=2)
            rates["Ray"].append(table.num_rows / found.seconds)
            memory["Ray"] = max(seen)
            start = time.perf_counter()
            by_hand(given, home, turn, table.num_rows)
            rates["by hand"].append(table.num_rows / (time.perf_counter() - start))
            memory["by hand"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows = _read(sorted((home / "ray-0").glob("part-*")))
        others = _read([home / f"hand-0-{k}.parquet" for k in (0, 1)])
        same = sum(rows[name] == others[name] for name in ("label", "exit"))
        ratios = [ray / hand for ray, hand in zip(rates["Ray"], rates["by hand"], strict=True)]
        for name, values in rates.items():
            yield {
                "way": name,
                "images": table.num_rows,
                "images a second": round(median(values)),
                "Ray / by hand": round(median(ratios), 3) if name == "Ray" else "",
                "from": round(min(ratios), 3) if name == "Ray" else "",
                "to": round(max(ratios), 3) if name == "Ray" else "",
                "equal": same == 2,
                "MB of a process, at most": round(memory[name]),
            }


def by_hand(given: Path, home: Path, turn: int, count: int) -> None:
    half = count // 2
    spans = [(0, half), (half, count - half)]
    running = []
    for k, (first, size) in enumerate(spans):
        words = [given, home / f"hand-{turn}-{k}.parquet", str(first), str(size), CHECKPOINT]
        running.append(subprocess.Popen([sys.executable, "-c", BY_HAND, *words]))
    assert [process.wait() for process in running] == [0, 0]


def _read(files: list[Path]) -> dict[str, list[Any]]:
    return pa.concat_tables(
        [parquet.read_table(file, columns=["label", "exit"]) for file in files]
    ).to_pydict()


@contextmanager
def peak(chosen: Callable[[str], bool]) -> Iterator[list[float]]:
    """The largest resident memory of a process whose name is chosen, in MB, looked at now and then."""
    seen, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if chosen((process / "cmdline").read_text()):
                        text = (process / "status").read_text()
                        seen.append(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024)
                except (OSError, IndexError):
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def stages(count: int = 768) -> Iterator[dict[str, Any]]:
    """Three exits; 45, 20 and 10 % leave at them, 25 % come to the last segment."""
    network, pixels = random_network("resnet50", 3, 224, 1000), noise(64)
    policy = policy_for_shares(network, pixels, (0.45, 0.2, 0.1))
    with tempfile.TemporaryDirectory() as directory, session(cpus=2):
        home = Path(directory)
        network.save_pretrained(home / "network", graph=True)
        encoded = [{"bytes": _png(pixels[i % 64])} for i in range(count)]
        parquet.write_table(pa.table({"image": encoded}), home / "images.parquet", row_group_size=256)
        for by in ("network", "stage"):
            found = predict(
                home / "images.parquet", home / "network", out=home / by, by=by, workers=2, policy=policy
            )
            yield {
                "by": by,
                "images": found.images,
                "images in a batch of the last segment": found.last_batch,
                "images a second": found.images_per_second,
                "shares": " ".join(f"{n / found.images:.2f}" for n in found.exit_counts),
            }


def _png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def serve(repeats: int) -> Iterator[dict[str, Any]]:
    """Requests of one image, to one server after the other."""
    pixels = np.asarray(data.load("cifar10", "test").pixels(list(range(256))))
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    with ray_server() as ray, plain_server() as plain:
        for _ in range(repeats):
            for name, address in (("Ray Serve, two replicas", ray), ("eenet serve", plain)):
                seconds = loaded(address, pixels)
                rates.setdefault(name, []).append(len(seconds) / WINDOW)
                times.setdefault(name, []).extend(seconds)
    for name, values in rates.items():
        yield {
            "server": name,
            "requests a second": round(median(values)),
            "p50, ms": round(1e3 * float(np.quantile(times[name], 0.5)), 1),
            "p99, ms": round(1e3 * float(np.quantile(times[name], 0.99)), 1),
        }


@contextmanager
def ray_server() -> Iterator[str]:
    from eenet.scale.ray_serve import Arguments, app

    with session(cpus=2):
        from ray import serve

        serve.start(http_options={"host": "127.0.0.1", "port": 8123})
        serve.run(app(Arguments(checkpoints=CHECKPOINT, min_replicas=2, max_replicas=2)), name="eenet")
        yield "127.0.0.1:8123"
        serve.shutdown()


@contextmanager
def plain_server() -> Iterator[str]:
    command = [sys.executable, "-m", "eenet", "serve", CHECKPOINT, "--port", "8124"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        time.sleep(10)
        yield "127.0.0.1:8124"
        process.terminate()


def loaded(address: str, pixels: NDArray[np.uint8]) -> list[float]:
    """Seconds of all requests that clients make in a window."""
    end = time.perf_counter() + WINDOW

    def ask(first: int) -> list[float]:
        seconds = []
        with triton.InferenceServerClient(address) as client:
            while time.perf_counter() < end:
                tensor = triton.InferInput("images", [1, *pixels.shape[1:]], "UINT8")
                tensor.set_data_from_numpy(pixels[(first + len(seconds)) % len(pixels)][None])
                start = time.perf_counter()
                client.infer(CHECKPOINT, [tensor])
                seconds.append(time.perf_counter() - start)
        return seconds

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [each for found in pool.map(ask, range(CLIENTS)) for each in found]


if __name__ == "__main__":
    tyro.cli(main)
