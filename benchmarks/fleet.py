"""Planning past the machines one has: early exit on N of them, whole networks or a segment on each.

    EENET_DATA=... python benchmarks/fleet.py [--parts validate plan] [--checkpoint NAME] [--machines 10 100]

Every segment is timed in batches of several sizes, and what it takes to hand features on. `validate` runs
`eenet batch` with two workers and simulates the same; `plan` simulates fleets: all images at once, and
requests in bursts, by network against by stage. Writes benchmarks/results/fleet-….csv.
"""

import heapq
import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import results
import tyro
from numpy.typing import NDArray
from pyarrow import parquet
from watching import watched

from eenet import ExitPolicy, Predictor
from eenet.common import format_table
from eenet.networks import open_network
from eenet.runtime import Backend, Carried, create_backend, run_segment, segments_of
from eenet.scale import predict
from eenet.scale.bulk.decoding import first_pixels
from eenet.scale.bulk.inputs import list_inputs
from eenet.scale.bulk.operators import plain_backend
from eenet.scale.bulk.pipeline import BATCH, STAGE_BATCH, shared_out
from eenet.scale.bulk.tables import FEATURES, array, tensor
from eenet.scale.session import session
from eenet.scale.shipping import How

LINES = ("batch_K", "image_K", "hop_K", "hop_image_K")
SIZES = (1, 8, 64)  # of batches that are timed
REPEATS = 5
BURST, SHARE, PERIOD = 4.0, 0.1, 10.0  # times the mean rate, for this share of so many seconds


@dataclass(frozen=True)
class Times:
    """Seconds of one machine: of a batch, and for each image in it."""

    batch_K: Sequence[float]
    """By segment."""
    image_K: Sequence[float]
    hop_K: Sequence[float]
    """To take over a batch of features, by the segment that takes it; the first takes pixels."""
    hop_image_K: Sequence[float]
    read: float = 0.0
    """To read and decode an image."""

    def seconds(self, segment: int, count: int, *, travels: bool = False) -> float:
        """Of a segment for a batch."""
        found = self.batch_K[segment] + self.image_K[segment] * count
        return found + (self.hop_K[segment] + self.hop_image_K[segment] * count if travels else 0.0)


@dataclass
class Outcome:
    """What came of all images."""

    seconds_B: NDArray[np.float64]
    """From arrival to answer."""
    end: float
    """When the last answer came."""
    busy: float
    """Seconds of all machines together."""
    batches_K: list[list[int]] = field(default_factory=list)
    """Images in each batch, by segment."""

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.seconds_B) / self.end


@dataclass(eq=False)
class Machine:
    pool: int
    waiting: deque[NDArray[np.intp]] = field(default_factory=deque)
    count: int = 0
    """Images that wait."""
    busy: bool = False

    def put(self, images: NDArray[np.intp]) -> None:
        self.waiting.append(images)
        self.count += len(images)

    def take(self, most: int) -> NDArray[np.intp]:
        taken: list[NDArray[np.intp]] = []
        while self.waiting and most:
            images = self.waiting.popleft()
            if len(images) > most:
                self.waiting.appendleft(images[most:])
                images = images[:most]
            taken.append(images)
            most -= len(images)
            self.count -= len(images)
        return np.concatenate(taken)


def simulate(
    times: Times,
    exits_B: NDArray[np.intp],
    arrivals_B: NDArray[np.float64],
    pools: Sequence[int],
    batch_size: int,
    *,
    seed: int = 0,
) -> Outcome:
    """Every image on its way through a fleet.

    An image goes to the less busy of two machines drawn at random. A machine that is free runs what waits
    there, at most a batch, and doesn't wait for more.

    Args:
        times: of one machine.
        exits_B: the segment after which each image leaves.
        arrivals_B: when each comes, in order, in seconds.
        pools: machines by segment; a single pool runs all segments, batches shrinking after each.
        batch_size: images that run together, at most.
    """
    random, segments = np.random.default_rng(seed), len(times.batch_K)
    machines = [[Machine(pool) for _ in range(count)] for pool, count in enumerate(pools)]
    staged, done_B, busy = len(pools) > 1, np.zeros(len(exits_B)), 0.0
    batches_K: list[list[int]] = [[] for _ in range(segments)]
    numbers, events = itertools.count(), list[tuple[float, int, Machine | None, int, NDArray[np.intp]]]()

    def send(now: float, pool: int, images: NDArray[np.intp]) -> None:
        pair = random.integers(0, len(machines[pool]), 2)
        machine = min((machines[pool][i] for i in pair), key=lambda one: one.count + batch_size * one.busy)
        machine.put(images)
        if not machine.busy:
            run(now, machine)

    def run(now: float, machine: Machine) -> None:
        nonlocal busy
        images, end = machine.take(batch_size), now
        for segment in [machine.pool] if staged else range(segments):
            travels = staged or segment == 0
            end += times.seconds(segment, len(images), travels=travels) + times.read * len(images) * (
                segment == 0
            )
            batches_K[segment].append(len(images))
            leaves_B = exits_B[images] == segment
            done_B[images[leaves_B]] = end
            images = images[~leaves_B]
            if not len(images):
                break
        machine.busy = True
        busy += end - now
        heapq.heappush(events, (end, next(numbers), machine, machine.pool + 1, images))

    arriving = 0
    while arriving < len(arrivals_B) or events:
        if arriving < len(arrivals_B) and (not events or arrivals_B[arriving] <= events[0][0]):
            send(arrivals_B[arriving], 0, np.array([arriving]))
            arriving += 1
            continue
        now, _, machine, pool, images = heapq.heappop(events)
        assert machine is not None
        machine.busy = False
        if len(images):
            send(now, pool, images)
        if machine.count and not machine.busy:
            run(now, machine)
    return Outcome(done_B - arrivals_B, float(done_B.max()), busy, batches_K)


def bursts(rate: float, count: int, *, seed: int = 0) -> NDArray[np.float64]:
    """When images come: at random, on average at this rate, and much faster for a part of each period."""
    random = np.random.default_rng(seed)
    calm = (1 - BURST * SHARE) / (1 - SHARE)
    at, found = 0.0, np.empty(count)
    for i in range(count):
        within = at % PERIOD / PERIOD
        at += random.exponential(1 / (rate * (BURST if within < SHARE else calm)))
        found[i] = at
    return found


def sized(times: Times, shares_K: NDArray[np.float64], machines: int, batch_size: int) -> list[int]:
    """Machines for each segment, by the work that comes to it in full batches."""
    coming_K = np.append(1, 1 - np.cumsum(shares_K)[:-1])
    load = [
        coming * times.seconds(k, batch_size, travels=True) / batch_size + times.read * (k == 0)
        for k, coming in enumerate(coming_K.tolist())
    ]
    return shared_out(machines, load)


def plan(
    ways: Mapping[str, Times],
    shares_K: NDArray[np.float64],
    machines: int,
    *,
    batch_size: int,
    load: float,
    most: int,
) -> Iterator[dict[str, Any]]:
    """Both ways on a fleet: all images at once, then requests in bursts, at a share of the lower capacity."""
    count = min(max(2000, 400 * machines), most)
    exits_B = np.random.default_rng(0).choice(len(shares_K), count, p=shares_K)
    pools = {"network": [machines], "stage": sized(ways["stage"], shares_K, machines, batch_size)}
    bulk = {by: simulate(ways[by], exits_B, np.zeros(count), pools[by], batch_size) for by in pools}
    rate = load * min(found.rate for found in bulk.values())
    for by, at_once in bulk.items():
        found = simulate(ways[by], exits_B, bursts(rate, count), pools[by], batch_size)
        yield {
            "machines": machines,
            "by": by,
            "for each segment": " ".join(map(str, pools[by])),
            "images a second, at once": round(at_once.rate),
            "machine hours for a million": round(1e6 * machines / at_once.rate / 3600, 3),
            "last batch, at once": _mean(at_once.batches_K[-1]),
            "requests a second, in bursts": round(rate),
            "p50, ms": round(1e3 * float(np.quantile(found.seconds_B, 0.5)), 1),
            "p99, ms": round(1e3 * float(np.quantile(found.seconds_B, 0.99)), 1),
            "last batch, in bursts": _mean(found.batches_K[-1]),
        }


def _mean(values: Sequence[int]) -> float:
    return round(float(np.mean(values)), 1) if values else 0.0


def measure(checkpoint: str, by: str, pixels_BCHW: NDArray[np.uint8], workers: int = 2) -> Times:
    """Times of one processor while all `workers` compute: lines through batches of several sizes."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        found = list(pool.map(_measure, *zip(*[(checkpoint, by, pixels_BCHW)] * workers, strict=True)))
    means = [np.mean([list(asdict(each)[name]) for each in found], 0).tolist() for name in LINES]
    return Times(*means)


def _measure(checkpoint: str, by: str, pixels_BCHW: NDArray[np.uint8]) -> Times:
    network = open_network(checkpoint)
    policy = network.config.exit_policy()
    segments = segments_of(policy, network.config.ensemble)
    own = create_backend("onnxruntime", network, segments, policy.score, threads=1)
    backend = plain_backend(network, How(policy)) if by == "stage" else own
    stay = ExitPolicy(policy.score, (float("inf"),) * len(policy.thresholds), policy.enabled)
    lines: list[list[tuple[float, float]]] = [[], []]
    for segment in range(len(backend.segments)):
        found: list[list[float]] = [[], []]
        for size in SIZES:
            images = _at(backend, stay, segment, pixels_BCHW[np.arange(size) % len(pixels_BCHW)])
            features = np.asarray(images.features)
            found[0].append(_median(lambda k=segment, given=images: run_segment(backend, stay, k, given)))
            found[1].append(_median(lambda kept=features: _handed_on(kept)))
        for line, seconds in zip(lines, found, strict=True):
            slope, start = np.polyfit(SIZES, seconds, 1, w=1 / np.array(seconds))
            line.append((max(float(start), 0.0), max(float(slope), 0.0)))
    run, hop = (tuple(zip(*line, strict=True)) for line in lines)
    times = Times(run[0], run[1], hop[0], hop[1])
    if by == "stage":
        return times
    # in one go the network runs as one graph: its segments keep their shares of what that takes
    whole = Predictor(network, threads=1)
    batch = pixels_BCHW[: SIZES[-1]]
    exits_B = whole.run(batch).exits_B
    apart = sum(times.seconds(k, n) for k in range(len(segments)) if (n := int(np.sum(exits_B >= k))))
    share = _median(lambda: whole.run(batch)) / apart
    return replace(times, batch_K=_times(share, times.batch_K), image_K=_times(share, times.image_K))


def _times(factor: float, values: Sequence[float]) -> list[float]:
    return [factor * value for value in values]


def _at(backend: Backend, stay: ExitPolicy, segment: int, pixels_BCHW: NDArray[np.uint8]) -> Carried:
    """What comes to a segment if no image leaves before."""
    images = Carried(pixels_BCHW)
    for k in range(segment):
        images = run_segment(backend, stay, k, images).carried
    return images


def _handed_on(features: NDArray[Any]) -> None:
    """As through an object store: copied in, read there, and joined with others to a batch."""
    sink = pa.BufferOutputStream()
    table = pa.table({FEATURES: tensor(features)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    read = pa.ipc.open_stream(sink.getvalue()).read_all()
    parts = [read.slice(0, len(features) // 2), read.slice(len(features) // 2)]
    array(pa.concat_tables(parts)[FEATURES]).sum()


def _median(run: Callable[[], Any]) -> float:
    found = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return median(found[1:])


def validate(checkpoint: str, ways: Mapping[str, Times], file: Path, count: int) -> Iterator[dict[str, Any]]:
    """Two workers for real, on a third of the images and on all: the difference has no start in it.

    What is compared is the time of processors, which other programs on the machine hardly change.
    """
    whole = parquet.read_table(file).slice(0, count)
    with tempfile.TemporaryDirectory() as directory:
        for by, times in ways.items():
            runs, spent, work, batches = [], [], [], 0.0
            for part in (3, 1):
                given, out = (Path(directory) / f"{by}-{part}{end}" for end in (".parquet", ""))
                parquet.write_table(whole.slice(0, whole.num_rows // part), given, row_group_size=1000)
                with session(cpus=2), processor_seconds("ray::Map", "ray::IDLE") as seconds:
                    found = predict(given, checkpoint, out=out, by=by, workers=2)
                runs.append(found)
                spent.append(sum(seconds.values()))
                exits_B = np.repeat(np.arange(len(found.exit_counts)), found.exit_counts)
                exits_B = np.random.default_rng(0).permutation(exits_B)
                batch = {"network": BATCH, "stage": STAGE_BATCH}[by]
                shares_K = np.array(found.exit_counts) / found.images
                pools = [2] if by == "network" else sized(times, shares_K, 2, batch)
                simulated = simulate(times, exits_B, np.zeros(len(exits_B)), pools, batch)
                work.append(simulated.busy)
                batches = _mean(simulated.batches_K[-1])
            third, all_ = runs
            real, planned = (1e3 * (b - a) / (all_.images - third.images) for a, b in (spent, work))
            yield {
                "by": by,
                "images": all_.images,
                "processor ms an image, real": round(real, 3),
                "simulated": round(planned, 3),
                "simulated / real": round(planned / real, 3),
                "last batch, real": all_.last_batch,
                "last batch, simulated": batches,
            }


@contextmanager
def processor_seconds(*titles: str) -> Iterator[dict[int, float]]:
    """What processes take meanwhile whose command lines begin with one of these, by process id."""
    seen, tick = dict[int, float](), os.sysconf("SC_CLK_TCK")

    def look(process: Path, title: str) -> None:
        if title.startswith(titles):
            user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
            seen[int(process.name)] = (int(user) + int(system)) / tick

    with watched(look, 0.05):
        yield seen


def main(
    parts: tuple[str, ...] = ("validate", "plan"),
    checkpoint: str = "cifar10-eenet20",
    data_name: str = "cifar10",
    machines: tuple[int, ...] = (10, 100, 1000),
    batch_size: int = 64,
    load: float = 0.6,
    most: int = 200_000,
    validated: int = 12_000,
) -> None:
    """Measure, then validate and plan.

    Args:
        parts: `validate`, `plan`.
        checkpoint: whose times are measured, under its own policy, in which all exits are on.
        data_name: data set with parquet files of training images, under $EENET_DATA.
        machines: sizes of fleets, of machines with one processor.
        batch_size: of machines in a fleet.
        load: of the lower capacity, in bursts.
        most: images that are simulated.
        validated: images that are also run for real.
    """
    network = open_network(checkpoint)
    size = network.config.input_size
    file = sorted((Path(os.environ["EENET_DATA"]) / data_name).glob("train*.parquet"))[0]
    pixels_BCHW = first_pixels(list_inputs(file), size, 512)
    read = _median(lambda: first_pixels(list_inputs(file), size, 512)) / 512
    measured = {by: measure(checkpoint, by, pixels_BCHW) for by in ("network", "stage")}
    rows: dict[str, list[dict[str, Any]]] = {}
    if "validate" in parts:
        reading = {by: replace(times, read=read) for by, times in measured.items()}
        rows["validate"] = list(validate(checkpoint, reading, file, validated))
    if "plan" in parts:
        found = Predictor(network).run(pixels_BCHW).exits_B
        shares_K = np.bincount(found, minlength=network.num_exits + 1) / len(found)
        given: dict[str, Any] = {"batch_size": batch_size, "load": load, "most": most}
        rows["plan"] = [row for count in machines for row in plan(measured, shares_K, count, **given)]
    for name, table in rows.items():
        print(format_table(list(table[0]), [[str(value) for value in row.values()] for row in table]))
        print(results.write(f"fleet-{name}-{checkpoint}", table))


if __name__ == "__main__":
    tyro.cli(main)
