"""Many images on many machines, as far as one shows it: Ray beside processes run by hand.

    EENET_DATA=... python benchmarks/scale.py [--parts equal bulk stages memory faults]

- `equal`: `eenet batch` on a parquet file, `eenet predict` on the same images as files: row by row.
- `bulk`: `eenet batch` with two workers against two processes of `eenet.Predictor`, each with half of the
  images and one thread, in turn.
- `stages`: a ResNet-50 of random weights, a quarter of whose images comes to its last segment, by network and
  by stage.
- `memory`: both ways with a small object store, through which several times as much goes.
- `faults`: a worker is killed; the whole command is killed and resumed.

`scale_serving.py` has the servers, `nodes.py` training, `fleet.py` the simulator, `scale_page.py` the page.
Writes benchmarks/results/scale-….csv.
"""

import io
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import results
import tyro
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from runtime import noise, policy_for_shares, random_network
from watching import Family, actors, family, raylet_of

import eenet
from eenet import Predictor
from eenet.common import format_table
from eenet.networks import open_network
from eenet.runtime import create_backend, segments_of
from eenet.scale import predict
from eenet.scale.session import session
from eenet.scale.shipping import PLAIN

CHECKPOINT = "cifar10-eenet56"
COLUMNS = ("label", "exit", "probability")
STORE_MB = 200  # of the object store, where its bound is tried
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
    parts: tuple[str, ...] = ("equal", "bulk", "stages", "memory", "faults"),
    images: int = 50_000,
    repeats: int = 3,
) -> None:
    """Run the parts that are named, on so many images of CIFAR-10; `bulk` in so many turns."""
    known: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "equal": lambda: equal(images),
        "bulk": lambda: bulk(images, repeats),
        "stages": lambda: stages(images // 48),
        "memory": lambda: memory(images),
        "faults": lambda: faults(images // 4),
    }
    for part in parts:
        rows = list(known[part]())
        print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
        print(results.write(f"scale-{part}", rows), flush=True)


def cifar(count: int) -> Any:
    """A table of training images, as files in a column."""
    files = sorted((Path(os.environ["EENET_DATA"]) / "cifar10").glob("train*.parquet"))
    return pa.concat_tables(
        [parquet.read_table(file).rename_columns(["image", "label"]) for file in files]
    ).slice(0, count)


def written(table: Any, home: Path) -> Path:
    """The table as a file, in groups of a thousand rows."""
    home.mkdir(exist_ok=True)
    parquet.write_table(table, home / "images.parquet", row_group_size=1000)
    return home / "images.parquet"


def read(files: Sequence[Path]) -> Any:
    return pa.concat_tables([parquet.read_table(file, columns=list(COLUMNS)) for file in files])


def parts_of(out: Path) -> Any:
    return read(sorted(out.glob("part-*")))


def differing(one: Any, other: Any) -> int:
    """Rows whose label or exit is another one."""
    assert one.num_rows == other.num_rows
    pairs = ((one[name].to_pylist(), other[name].to_pylist()) for name in ("label", "exit"))
    return int(np.sum(np.any([[a != b for a, b in zip(*pair, strict=True)] for pair in pairs], 0)))


def apart(one: Any, other: Any) -> float:
    """Probabilities, at most."""
    return float(np.abs(np.subtract(one["probability"].to_numpy(), other["probability"].to_numpy())).max())


def equal(count: int) -> Iterator[dict[str, Any]]:
    """Both ways against the command that people know."""
    table = cifar(count)
    with tempfile.TemporaryDirectory() as directory, session(cpus=2):
        home = Path(directory)
        given, files = written(table, home), home / "files"
        files.mkdir()
        for i, row in enumerate(table["image"].to_pylist()):
            (files / f"{i:06}.png").write_bytes(row["bytes"])
        told = [row.to_dict() for row in eenet.predict(CHECKPOINT, files)]
        expected = pa.table({name: [row[name] for row in told] for name in COLUMNS})
        for by in ("network", "stage"):
            found = predict(given, CHECKPOINT, out=home / by, by=by, workers=2)
            rows = parts_of(home / by)
            yield {
                "by": by,
                "images": found.images,
                "rows with another label or exit than eenet predict": differing(rows, expected),
                "probabilities apart, at most": f"{apart(rows, expected):.1e}",
            }


def bulk(count: int, repeats: int) -> Iterator[dict[str, Any]]:
    """The same images either way, a turn each; a third of them too, so that the start can be taken off."""
    few, found = count // 3, dict[tuple[str, int], list[tuple[float, float]]]()
    most, other = {"worker": 0.0, "store": 0.0}, 0
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(repeats):
            for images in (few, count):
                home = Path(directory) / f"{turn}-{images}"
                given = written(cifar(images), home)
                took, spent, seen = with_ray(given, home / "ray")
                found.setdefault(("Ray", images), []).append((took, spent))
                most = {name: max(value, seen[name]) for name, value in most.items()}
                found.setdefault(("by hand", images), []).append(by_hand(given, home, images))
                hands = read([home / f"hand-{k}.parquet" for k in (0, 1)])
                other = max(other, differing(parts_of(home / "ray"), hands))
                print(turn, images, *(found[way, images][-1] for way in ("Ray", "by hand")), flush=True)
    for way in ("Ray", "by hand"):
        less, all_ = (np.median(found[way, images], 0) for images in (few, count))
        took, spent = (all_ - less) / (count - few)
        yield {
            "way": way,
            "images": count,
            "turns": repeats,
            "images a second, without the start": round(1 / took),
            "seconds in all": round(all_[0], 1),
            "of these the start": round(all_[0] - count * took, 1),
            "processor ms an image": round(1e3 * spent, 3),
            "other rows": other,
            "own MB of a worker, at most": round(most["worker"]) if way == "Ray" else "",
            "MB in the object store, at most": round(most["store"]) if way == "Ray" else "",
        }


def with_ray(given: Path, out: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds of the clock and of processors, with Ray's start; memory."""
    start = time.perf_counter()
    with session(cpus=2), family() as seen:
        predict(given, CHECKPOINT, out=out, by="network", workers=2)
    took = time.perf_counter() - start
    return took, seen.spent()[0], {"worker": worker_mb(seen), "store": seen.shared_mb}


def worker_mb(seen: Family) -> float:
    """Own memory of the largest worker, at most."""
    return max(one.own_mb for one in seen.members.values() if one.title.startswith("ray::"))


def by_hand(given: Path, home: Path, count: int) -> tuple[float, float]:
    """Two processes at once, each with half: seconds of the clock and of processors."""
    half, running = count // 2, []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for k, (first, size) in enumerate([(0, half), (half, count - half)]):
        words = [given, home / f"hand-{k}.parquet", str(first), str(size), CHECKPOINT]
        running.append(subprocess.Popen([sys.executable, "-c", BY_HAND, *words]))
    assert [process.wait() for process in running] == [0, 0]
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stages(count: int) -> Iterator[dict[str, Any]]:
    """Three exits; 45, 20 and 10 % leave at them, 25 % come to the last segment."""
    network, pixels = random_network("resnet50", 3, 224, 1000), noise(64)
    policy = policy_for_shares(network, pixels, (0.45, 0.2, 0.1))
    with tempfile.TemporaryDirectory() as directory, session(cpus=2):
        home = Path(directory)
        network.save_pretrained(home / "checkpoint", graph=True)
        encoded = pa.table({"image": [{"bytes": png(pixels[i % 64])} for i in range(count)]})
        parquet.write_table(encoded, home / "images.parquet", row_group_size=256)
        for by in ("network", "stage"):
            found = predict(
                home / "images.parquet", home / "checkpoint", out=home / by, by=by, workers=2, policy=policy
            )
            yield {
                "by": by,
                "images": found.images,
                "shares": " ".join(f"{n / found.images:.2f}" for n in found.exit_counts),
                "images in a batch of the last segment": found.last_batch,
                "images a second": found.images_per_second,
            }


def png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def memory(count: int) -> Iterator[dict[str, Any]]:
    """What goes through the store is counted from the images and the features of those that stay."""
    import ray
    from ray._private.internal_api import memory_summary

    network = open_network(CHECKPOINT)
    policy = network.config.exit_policy()
    pixels_bytes = int(np.prod(network.config.input_size))
    for by in ("network", "stage"):
        with tempfile.TemporaryDirectory() as directory:
            home = Path(directory)
            given = written(cifar(count), home)
            options: dict[str, Any] = {
                "log_to_driver": False,
                "logging_level": "ERROR",
                "include_dashboard": False,
            }
            ray.init(address="local", num_cpus=2, object_store_memory=STORE_MB * 2**20, **options)
            try:
                with family() as seen:
                    found = predict(given, CHECKPOINT, out=home / by, by=by, workers=2)
                address = ray.get_runtime_context().gcs_address
                told = memory_summary(address=address, stats_only=True)
                spilled = re.findall(r"Spilled (\d+) MiB", told)
            finally:
                ray.shutdown()
        coming_K = found.images - np.cumsum(found.exit_counts)[:-1]
        through = found.images * pixels_bytes
        if by == "stage":
            through += int(np.dot(coming_K, features_bytes(network, policy)))
        yield {
            "by": by,
            "images": found.images,
            "MB through the object store": round(through / 2**20),
            "MB that it may hold": STORE_MB,
            "MB that it held, at most": round(seen.shared_mb),
            "MB that went to disk": int(spilled[0]) if spilled else 0,
            "own MB of a worker, at most": round(worker_mb(seen)),
        }


def features_bytes(network: Any, policy: Any) -> list[int]:
    """Of an image behind each early exit."""
    segments = segments_of(policy, network.config.ensemble)
    backend = create_backend("onnxruntime", network, segments, policy.score, threads=1, providers=PLAIN)
    features: Any = np.zeros((1, *network.config.input_size), np.uint8)
    found = []
    for index in range(len(segments) - 1):
        features = backend.run(index, features).features
        found.append(np.asarray(features).nbytes)
    return found


def faults(count: int) -> Iterator[dict[str, Any]]:
    """Every image is known by its row; the oracle is the predictor."""
    table = cifar(count)
    told = list(Predictor(CHECKPOINT).predict_many(row["bytes"] for row in table["image"].to_pylist()))
    expected = pa.table({name: [getattr(one, name) for one in told] for name in COLUMNS})
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        given = written(table, home)
        with session(cpus=2) as ray:
            raylet, killed = raylet_of(ray), list[int]()
            killer = threading.Thread(target=kill_a_worker, args=(raylet, home / "worker", killed))
            killer.start()
            found = predict(given, CHECKPOINT, out=home / "worker", by="network", workers=2, rows=1000)
            killer.join()
        assert killed
        yield {"killed": "a worker", **whole(home / "worker", count, expected), "rows kept": found.resumed}
        words = ["batch", str(given), str(home / "driver"), CHECKPOINT, "--by", "network", "--rows", "1000"]
        with subprocess.Popen([sys.executable, "-m", "eenet", *words], stderr=subprocess.DEVNULL) as process:
            while len(list((home / "driver").glob("part-*"))) < count // 3000:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        found = predict(given, CHECKPOINT, out=home / "driver", by="network", rows=1000, resume=True)
        yield {"killed": "the driver", **whole(home / "driver", count, expected), "rows kept": found.resumed}


def kill_a_worker(raylet: str, out: Path, killed: list[int]) -> None:
    """One that runs the network, as soon as a part is written."""
    while not killed:
        running = actors(raylet, "MapWorker(MapBatches(WholeNetwork)")
        if running and list(out.glob("part-*")):
            killed.append(running.pop())
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.01)


def whole(out: Path, count: int, expected: Any) -> dict[str, Any]:
    rows = [n for file in sorted(out.glob("part-*")) for n in parquet.read_table(file)["row"].to_pylist()]
    return {
        "images": count,
        "missing": count - len(set(rows)),
        "rows twice": len(rows) - len(set(rows)),
        "other rows": differing(parts_of(out), expected),
    }


if __name__ == "__main__":
    tyro.cli(main)
