"""Many machines, as far as one with two processors shows them: Ray beside processes run by hand.

    EENET_DATA=... python benchmarks/scale.py [--parts bulk stages serve]

- `bulk`: `eenet batch` with two workers against two processes of `eenet.Predictor`, each with half of the
  images and one thread, in turn; the same rows.
- `stages`: a ResNet-50 of random weights, a quarter of whose images comes to its last segment, by network and
  by stage.
- `serve`: Ray Serve with two replicas against `eenet serve`, in turn, 16 clients that wait for their answers.

Processor time is told beside that of the clock, because other programs on the machine hardly change it.
Writes benchmarks/results/scale-….csv.
"""

import io
import os
import re
import resource
import subprocess
import sys
import tempfile
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
from fleet import processor_seconds
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from runtime import noise, policy_for_shares, random_network
from watching import watched

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
    """The same images either way, a turn each; a third of them too, so that the start can be taken off."""
    files = sorted((Path(os.environ["EENET_DATA"]) / "cifar10").glob("train*.parquet"))
    tables = [parquet.read_table(file) for file in files]
    whole = pa.concat_tables([table.rename_columns(["image", "label"]) for table in tables]).slice(0, count)
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    memory, same = dict.fromkeys(("Ray", "by hand"), 0.0), True
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(repeats):
            for images in (count // 3, count):
                home = Path(directory) / f"{turn}-{images}"
                home.mkdir()
                parquet.write_table(whole.slice(0, images), home / "images.parquet", row_group_size=1000)
                spent, took, most = _ray(home)
                seconds.setdefault(("Ray", images), []).append((spent, took))
                memory["Ray"] = max(memory["Ray"], most)
                spent, took = by_hand(home, images)
                seconds.setdefault(("by hand", images), []).append((spent, took))
                hands = _read([home / f"hand-{k}.parquet" for k in (0, 1)])
                same = same and _read(sorted((home / "ray").glob("part-*"))) == hands
    for way, most in memory.items():
        few, all_ = (np.median(seconds[way, images], 0) for images in (count // 3, count))
        yield {
            "way": way,
            "images": count,
            "images a second": round(count / all_[1]),
            "processor ms an image, without the start": round(
                1e3 * (all_[0] - few[0]) / (count - count // 3), 3
            ),
            "processor s of the start": round(few[0] - (all_[0] - few[0]) / 2, 1),
            "equal rows": same,
            "MB of a worker, at most": round(most) or "",
        }


def _ray(home: Path) -> tuple[float, float, float]:
    """Seconds of processors, of the clock, and the memory of the largest worker."""
    own = time.process_time()
    with (
        session(cpus=2),
        processor_seconds("ray::Map", "ray::IDLE") as spent,
        peak(lambda name: name.startswith("ray::")) as seen,
    ):
        found = predict(home / "images.parquet", CHECKPOINT, out=home / "ray", by="network", workers=2)
    return sum(spent.values()) + time.process_time() - own, found.seconds, max(seen)


def by_hand(home: Path, count: int) -> tuple[float, float]:
    """Two processes at once, each with half: seconds of processors and of the clock."""
    half, running = count // 2, []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for k, (first, size) in enumerate([(0, half), (half, count - half)]):
        words = [home / "images.parquet", home / f"hand-{k}.parquet", str(first), str(size), CHECKPOINT]
        running.append(subprocess.Popen([sys.executable, "-c", BY_HAND, *words]))
    assert [process.wait() for process in running] == [0, 0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.perf_counter() - start


def _read(files: list[Path]) -> dict[str, list[Any]]:
    return pa.concat_tables(
        [parquet.read_table(file, columns=["label", "exit"]) for file in files]
    ).to_pydict()


@contextmanager
def peak(chosen: Callable[[str], bool]) -> Iterator[list[float]]:
    """The largest resident memory of a process whose name is chosen, in MB, looked at now and then."""
    seen = [0.0]

    def look(process: Path, title: str) -> None:
        if chosen(title):
            text = (process / "status").read_text()
            seen.append(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024)

    with watched(look, 0.2):
        yield seen


def stages(count: int = 512) -> Iterator[dict[str, Any]]:
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
