"""Planning past the machines one has: early exit on N of them, whole networks or a segment on each.

    EENET_DATA=... python benchmarks/fleet.py [--parts validate plan] [--checkpoint NAME] [--machines 10 100]

Every segment is timed in batches of several sizes, and what Ray takes, by runs whose workers sleep while
networks would run. `validate` runs `eenet batch` with two workers and simulates the same, in turn with the
timing; `plan` simulates fleets: all images at once, and requests in bursts, by network against by stage.
Writes benchmarks/results/fleet-….csv.
"""

import heapq
import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import results
import tyro
from fleet_times import Run, Times, averaged, measure, real_run, silent, with_ray
from numpy.typing import NDArray
from pyarrow import parquet

from eenet import Predictor
from eenet.common import format_table
from eenet.networks import open_network
from eenet.scale.bulk.decoding import first_pixels
from eenet.scale.bulk.inputs import MOST_IN_UNIT, list_inputs
from eenet.scale.bulk.pipeline import BATCH, STAGE_BATCH, shared_out

BURST, SHARE, PERIOD = 4.0, 0.1, 10.0  # times the mean rate, for this share of so many seconds
PROCESSORS = 2  # of this machine
AT_ONCE = 8 * MOST_IN_UNIT  # images for each machine, where all are there from the start
BATCHES = {"network": BATCH, "stage": STAGE_BATCH}


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


class Queue:
    """Tables of images that wait for a machine."""

    def __init__(self) -> None:
        self.tables: deque[NDArray[np.intp]] = deque()
        self.count = 0

    def put(self, images: NDArray[np.intp]) -> None:
        self.tables.append(images)
        self.count += len(images)

    def take(self, most: int, *, whole: bool) -> NDArray[np.intp]:
        """So many images; with `whole` tables, as many of these as hold so many."""
        taken: list[NDArray[np.intp]] = []
        while self.tables and most > 0:
            images = self.tables.popleft()
            if len(images) > most and not whole:
                self.tables.appendleft(images[most:])
                images = images[:most]
            taken.append(images)
            most -= len(images)
            self.count -= len(images)
        return np.concatenate(taken)


@dataclass(eq=False)
class Machine:
    pool: int
    queue: Queue
    busy: bool = False


def simulate(
    times: Times,
    exits_B: NDArray[np.intp],
    arrivals_B: NDArray[np.float64],
    pools: Sequence[int],
    batch_size: int,
    *,
    table: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Every image on its way through a fleet.

    Requests go to the less busy of two machines drawn at random; a machine that is free runs what waits
    there, at most a batch, and doesn't wait for more. Tables wait in one queue for each segment, until they
    hold a batch together or nothing else is left; a machine cuts them into batches and hands on one table.
    That is what Ray Serve and Ray Data do.

    Args:
        times: of one machine.
        exits_B: the segment after which each image leaves.
        arrivals_B: when each comes, in order, in seconds.
        pools: machines by segment; a single pool runs all segments, batches shrinking after each.
        batch_size: images that run together, at most.
        table: images come in tables of so many. Default: as requests.
    """
    random, segments = np.random.default_rng(seed), len(times.batch_K)
    shared = [Queue() for _ in pools]
    machines = [
        [Machine(pool, shared[pool] if table else Queue()) for _ in range(count)]
        for pool, count in enumerate(pools)
    ]
    staged, done_B, busy = len(pools) > 1, np.zeros(len(exits_B)), 0.0
    batches_K: list[list[int]] = [[] for _ in range(segments)]
    numbers, events = itertools.count(), list[tuple[float, int, Machine, NDArray[np.intp]]]()
    free = [list(pool) for pool in machines]  # of those with a shared queue

    def work(now: float, pool: int, least: int) -> None:
        """Of free machines, if so many images wait in their queue."""
        while free[pool] and shared[pool].count >= least:
            run(now, free[pool].pop())

    def send(now: float, pool: int, images: NDArray[np.intp]) -> None:
        if table:
            shared[pool].put(images)
            work(now, pool, batch_size)
            return
        pair = random.integers(0, len(machines[pool]), 2)
        machine = min(
            (machines[pool][i] for i in pair), key=lambda one: one.queue.count + batch_size * one.busy
        )
        machine.queue.put(images)
        if not machine.busy:
            run(now, machine)

    def run(now: float, machine: Machine) -> None:
        nonlocal busy
        taken, end = machine.queue.take(batch_size, whole=table is not None), now
        on = list[NDArray[np.intp]]()
        for start in range(0, len(taken), batch_size):
            images = taken[start : start + batch_size]
            for segment in [machine.pool] if staged else range(segments):
                end += times.seconds(segment, len(images), travels=staged or segment == 0)
                end += times.read * len(images) * (segment == 0)
                batches_K[segment].append(len(images))
                leaves_B = exits_B[images] == segment
                done_B[images[leaves_B]] = end
                images = images[~leaves_B]
                if not len(images):
                    break
            on.append(images)
        machine.busy = True
        busy += end - now
        heapq.heappush(events, (end, next(numbers), machine, np.concatenate(on)))

    arriving, size, now = 0, table or 1, 0.0
    while True:
        complete = min(arriving + size, len(arrivals_B))
        if arriving < complete and (not events or arrivals_B[complete - 1] <= events[0][0]):
            now = arrivals_B[complete - 1]
            send(now, 0, np.arange(arriving, complete))
            arriving = complete
        elif events:
            now, _, machine, images = heapq.heappop(events)
            machine.busy = False
            if len(images):
                send(now, machine.pool + 1, images)
            if table:
                free[machine.pool].append(machine)
                work(now, machine.pool, batch_size)
            elif machine.queue.count and not machine.busy:
                run(now, machine)
        elif rest := [pool for pool, queue in enumerate(shared) if queue.count]:
            work(now, rest[0], 1)
        else:
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


def coming(shares_K: NDArray[np.float64]) -> list[float]:
    """Of all images, those that come to each segment."""
    return np.append(1, 1 - np.cumsum(shares_K)[:-1]).tolist()


def sized(times: Times, shares_K: NDArray[np.float64], machines: int, batch_size: int) -> list[int]:
    """Machines for each segment, by the work that comes to it in full batches."""
    load = [
        share * times.seconds(k, batch_size, travels=True) / batch_size + times.read * (k == 0)
        for k, share in enumerate(coming(shares_K))
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
    serving = {by: replace(times, read=0.0) for by, times in ways.items()}  # requests bring pixels
    random, count = np.random.default_rng(0), min(max(2000, 400 * machines), most)
    many_B, few_B = (random.choice(len(shares_K), n, p=shares_K) for n in (AT_ONCE * machines, count))
    bulk, capacity, pools = dict[str, Outcome](), dict[str, float](), dict[str, list[int]]()
    for by, times in ways.items():
        placed = [machines] if by == "network" else sized(times, shares_K, machines, STAGE_BATCH)
        zeros_B = np.zeros(len(many_B))
        bulk[by] = simulate(times, many_B, zeros_B, placed, BATCHES[by], table=MOST_IN_UNIT)
        pools[by] = [machines] if by == "network" else sized(serving[by], shares_K, machines, batch_size)
        capacity[by] = simulate(serving[by], few_B, np.zeros(count), pools[by], batch_size).rate
        yield {
            "machines": machines,
            "images": "all at once",
            "by": by,
            "for each segment": " ".join(map(str, placed)),
            "images a second": round(bulk[by].rate),
            "machine hours for a million": round(1e6 * machines / bulk[by].rate / 3600, 3),
            "last batch": mean(bulk[by].batches_K[-1]),
        }
    rate = load * min(capacity.values())
    for by, times in serving.items():
        found = simulate(times, few_B, bursts(rate, count), pools[by], batch_size)
        yield {
            "machines": machines,
            "images": "in bursts",
            "by": by,
            "for each segment": " ".join(map(str, pools[by])),
            "images a second": round(rate),
            "last batch": mean(found.batches_K[-1]),
            "p50, ms": round(1e3 * float(np.quantile(found.seconds_B, 0.5)), 1),
            "p99, ms": round(1e3 * float(np.quantile(found.seconds_B, 0.99)), 1),
        }


def mean(values: Sequence[int]) -> float:
    return round(float(np.mean(values)), 1) if values else 0.0


def compared(by: str, real: Run, times: Times, shares_K: NDArray[np.float64]) -> dict[str, Any]:
    """A real run and a simulated one: what processors work for an image, which tells how many images a second
    they answer if they do nothing else."""
    exits_B = np.random.default_rng(0).choice(len(shares_K), real.images, p=shares_K)
    pools = [PROCESSORS] if by == "network" else [1] * len(shares_K)
    zeros_B = np.zeros(real.images)
    simulated = simulate(times, exits_B, zeros_B, pools, BATCHES[by], table=MOST_IN_UNIT)
    spent = float(simulated.busy) / real.images + times.driver
    return {
        "by": by,
        "images": real.images,
        "processor ms an image, real": round(1e3 * real.spent, 3),
        "simulated": round(1e3 * spent, 3),
        "simulated / real": round(spent / real.spent, 3),
        "of these Ray, files and decoding": round(1e3 * (times.read + times.driver), 3),
        "images a second of two processors, real": round(1 / real.seconds),
        "if they do nothing else": round(PROCESSORS / real.spent),
        "last batch, real": real.last_batch,
        "last batch, simulated": mean(simulated.batches_K[-1]),
    }


def main(
    parts: tuple[str, ...] = ("validate", "plan"),
    checkpoint: str = "cifar10-eenet56",
    data_name: str = "cifar10",
    machines: tuple[int, ...] = (10, 100, 1000),
    batch_size: int = 64,
    load: float = 0.6,
    most: int = 200_000,
    images: int = 24_000,
    turns: int = 3,
) -> None:
    """Measure, validate and plan.

    Args:
        parts: `validate`, `plan`.
        checkpoint: whose times are measured, under its own policy, in which all exits are on.
        data_name: data set with parquet files of training images, under $EENET_DATA.
        machines: sizes of fleets, of machines with one processor.
        batch_size: of machines that answer requests.
        load: of the lower capacity, in bursts.
        most: requests that are simulated.
        images: of real runs.
        turns: in each, all is measured and run once.
    """
    network = open_network(checkpoint)
    files = sorted((Path(os.environ["EENET_DATA"]) / data_name).glob("train*.parquet"))
    pixels_BCHW = first_pixels(list_inputs(files[0]), network.config.input_size, 1024)
    shares_K = np.bincount(Predictor(network).run(pixels_BCHW).exits_B, minlength=network.num_exits + 1)
    shares_K = shares_K / shares_K.sum()
    whole = pa.concat_tables(map(parquet.read_table, files)).slice(0, images)
    found: list[dict[str, Times]] = []
    runs: dict[str, list[Run]] = {by: [] for by in BATCHES}
    for turn in range(turns):
        times = {by: measure(checkpoint, by, pixels_BCHW) for by in BATCHES}
        with silent(shares_K, times):
            quiet = {by: real_run(checkpoint, by, whole) for by in BATCHES}
        found.append(with_ray(times, quiet, coming(shares_K)))
        for by in BATCHES if "validate" in parts else ():
            runs[by].append(real_run(checkpoint, by, whole))
            print(turn, compared(by, runs[by][-1], found[-1][by], shares_K), flush=True)
    ways = {by: averaged([each[by] for each in found]) for by in BATCHES}
    rows: dict[str, list[dict[str, Any]]] = {}
    if "validate" in parts:
        rows["validate"] = [compared(by, typical(runs[by]), ways[by], shares_K) for by in BATCHES]
    if "plan" in parts:
        given: dict[str, Any] = {"batch_size": batch_size, "load": load, "most": most}
        rows["plan"] = [row for count in machines for row in plan(ways, shares_K, count, **given)]
    for name, table in rows.items():
        keys = list(dict.fromkeys(key for row in table for key in row))
        print(format_table(keys, [[str(row.get(key, "")) for key in keys] for row in table]))
        print(results.write(f"fleet-{name}-{checkpoint}", table))


def typical(runs: Sequence[Run]) -> Run:
    """Medians."""
    names = ("seconds", "spent", "driver", "last_batch")
    return replace(runs[0], **{name: median(getattr(run, name) for run in runs) for name in names})


if __name__ == "__main__":
    tyro.cli(main)
