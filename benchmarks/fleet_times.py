"""What a machine of a fleet takes: for a batch in each segment, to hand it on, and Ray for every image."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from watching import family

from eenet import ExitPolicy, Predictor
from eenet.networks import open_network
from eenet.runtime import Answers, Backend, Carried, create_backend, run_segment, segments_of
from eenet.runtime.backends.backend import Outputs
from eenet.scale import predict
from eenet.scale.bulk import pipeline
from eenet.scale.bulk.operators import OneSegment, WholeNetwork, plain_backend
from eenet.scale.bulk.pipeline import STAGE_BATCH
from eenet.scale.bulk.tables import FEATURES, array, tensor
from eenet.scale.session import session
from eenet.scale.shipping import Files, How

LINES = ("batch_K", "image_K", "hop_K", "hop_image_K")
SIZES = (1, 8, 64, 256)  # of batches that are timed
REPEATS = 5
ROWS = 1000  # of a table, and of a part


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
    """To read and decode an image, and all that Ray takes for it, its driver included."""
    driver: float = 0.0
    """Of that, of the driver, of which there is one."""

    def seconds(self, segment: int, count: int, *, travels: bool = False) -> float:
        """Of a segment for a batch."""
        found = self.batch_K[segment] + self.image_K[segment] * count
        return found + (self.hop_K[segment] + self.hop_image_K[segment] * count if travels else 0.0)

    def hops(self, coming_K: Sequence[float], count: int) -> float:
        """Of all features that an image takes along, on average, in batches of so many."""
        lines = zip(coming_K, self.hop_K, self.hop_image_K, strict=True)
        return sum(coming * (hop / count + each) for coming, hop, each in lines)


def measure(checkpoint: str, by: str, pixels_BCHW: NDArray[np.uint8], workers: int = 2) -> Times:
    """Times of one processor while all `workers` compute: lines through batches of several sizes."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        found = list(pool.map(_measure, *zip(*[(checkpoint, by, pixels_BCHW)] * workers, strict=True)))
    return averaged(found)


def averaged(found: Sequence[Times]) -> Times:
    """Means of several measurements."""
    rows = [asdict(each) for each in found]
    return Times(**{name: np.mean([row[name] for row in rows], 0).tolist() for name in rows[0]})


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
            found[0].append(_mean(lambda k=segment, given=images: run_segment(backend, stay, k, given)))
            found[1].append(_mean(lambda kept=features: _handed_on(kept)))
        for line, seconds in zip(lines, found, strict=True):
            slope, start = np.polyfit(SIZES, seconds, 1, w=1 / np.array(seconds))
            line.append((max(float(start), 0.0), max(float(slope), 0.0)))
    run, hop = (tuple(zip(*line, strict=True)) for line in lines)
    times = Times(run[0], run[1], hop[0], hop[1])
    if by == "stage":
        return times
    # in one go the network runs as one graph: its segments keep their shares of what that takes
    whole = Predictor(network, threads=1)
    batches = [pixels_BCHW[i : i + pipeline.BATCH] for i in range(0, len(pixels_BCHW), pipeline.BATCH)]
    apart = 0.0
    for batch in batches:
        exits_B = whole.run(batch).exits_B
        apart += sum(times.seconds(k, n) for k in range(len(segments)) if (n := int(np.sum(exits_B >= k))))
    share = _mean(lambda: [whole.run(batch) for batch in batches]) / apart
    return replace(times, batch_K=scaled(share, times.batch_K), image_K=scaled(share, times.image_K))


def scaled(factor: float, values: Sequence[float]) -> list[float]:
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


def _mean(run: Callable[[], Any]) -> float:
    """Not the median: what disturbs a long run now and then is a part of it."""
    run()
    start = time.process_time()
    for _ in range(REPEATS):
        run()
    return (time.process_time() - start) / REPEATS


# What Ray takes: runs whose workers sleep while networks would run --------------------


def drawn(shares_K: NDArray[np.float64], count: int, *, first: int = 0) -> NDArray[np.intp]:
    """Exits of so many images that came to exit `first`, by the shares of all."""
    left_K = shares_K[first:] / shares_K[first:].sum()
    return first + np.random.default_rng().choice(len(left_K), count, p=left_K)


class SilentNetwork(WholeNetwork):
    """The operator that runs the whole network, asleep for as long as that would take."""

    shares_K: NDArray[np.float64]
    times: Times

    def __init__(self, files: Files, how: How) -> None:
        super().__init__(files, how)
        self._predictor: Any = self

    def run(self, pixels_BCHW: NDArray[np.uint8]) -> Answers:
        count, classes = len(pixels_BCHW), len(self._told["class_names"])
        coming_K = np.append(1, 1 - np.cumsum(self.shares_K)[:-1]).tolist()
        time.sleep(sum(self.times.seconds(k, round(share * count)) for k, share in enumerate(coming_K)))
        said_BN = np.full((count, classes), 1 / classes, np.float32)
        return Answers(said_BN, drawn(self.shares_K, count))


class SilentSegment(OneSegment):
    """The operator that runs one segment, likewise; all images get what its first one got."""

    shares_K: NDArray[np.float64]
    times: Times

    def __init__(self, files: Files, how: How, index: int) -> None:
        super().__init__(files, how, index)
        self._real, self._said = self._backend, None
        self.segments, self._backend = self._real.segments, cast("Any", self)

    def run(self, index: int, features: Any) -> Outputs:
        count, here = len(features), self.segments[index].exit
        self._said = self._said or self._real.run(index, features[:1])
        time.sleep(self.times.seconds(index, count))
        outputs = Outputs(*(None if v is None else np.repeat(np.asarray(v), count, 0) for v in self._said))
        if outputs.score_B is None:
            return outputs
        leaves_B = drawn(self.shares_K, count, first=here or 0) == here
        return outputs._replace(score_B=np.where(leaves_B, 9, -9).astype(np.float32))

    def take(self, features: Any, rows: NDArray[np.intp]) -> Any:
        return features[rows]


@contextmanager
def silent(shares_K: NDArray[np.float64], times: dict[str, Times]) -> Iterator[None]:
    """Within it, `eenet batch` reads, decodes, hands on and writes, but runs nothing.

    It takes its time nevertheless: a part of what Ray takes is for every second, not for every image.
    """
    kinds = {"network": ("WholeNetwork", SilentNetwork), "stage": ("OneSegment", SilentSegment)}
    with ExitStack() as patched:
        for by, (name, kind) in kinds.items():
            given = {"shares_K": shares_K, "times": times[by]}
            known = type(name, (kind,), given)  # workers get it as it is here
            patched.enter_context(patch.object(pipeline, name, known))
        yield


@dataclass(frozen=True)
class Run:
    """Of an image, in a real run, without its start."""

    images: int
    seconds: float
    """Of the clock."""
    spent: float
    """Of all processors."""
    driver: float
    """Of that, of the driver."""
    last_batch: float
    """Images together in the last segment."""


def real_run(checkpoint: str, by: str, table: Any) -> Run:
    """`eenet batch` with two workers, on a third of the images and on all: their difference has no start."""
    found, last_batch = list[NDArray[np.float64]](), 0.0
    for part in (3, 1):
        rows = table.slice(0, table.num_rows // part)
        # a Ray of its own for each, so that no workers are there already
        with tempfile.TemporaryDirectory() as directory, session(cpus=2), family(every=2.0) as seen:
            given, out = (Path(directory) / name for name in ("images.parquet", "out"))
            parquet.write_table(rows, given, row_group_size=ROWS)
            told = predict(given, checkpoint, out=out, by=by, workers=2, rows=ROWS)
            found.append(np.array([told.seconds, *seen.spent()]))
            last_batch = told.last_batch or 0.0
    seconds, spent, driver = ((found[1] - found[0]) / (table.num_rows - table.num_rows // 3)).tolist()
    return Run(table.num_rows, seconds, spent, driver, last_batch)


def with_ray(times: dict[str, Times], runs: dict[str, Run], coming_K: Sequence[float]) -> dict[str, Times]:
    """Times by way, with what silent runs took.

    Args:
        times: of segments, and of hops in one process, by way.
        runs: silent ones, by way. What the one by stage takes more is that of hops.
        coming_K: of all images, those that come to each segment.
    """
    network, stage = runs["network"], runs["stage"]
    read = {"read": max(network.spent - network.driver, 0.0), "driver": max(network.driver, 0.0)}
    none = [0.0] * len(coming_K)
    hops = {name: [0.0, *getattr(times["stage"], name)[1:]] for name in ("hop_K", "hop_image_K")}
    apart = replace(times["stage"], **hops)
    more = max(stage.spent - network.spent, 0.0) / apart.hops(coming_K, STAGE_BATCH)
    return {
        "network": replace(times["network"], **read, hop_K=none, hop_image_K=none),
        "stage": replace(apart, **read, **{name: scaled(more, line) for name, line in hops.items()}),
    }
