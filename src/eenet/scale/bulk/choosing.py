"""The whole network in every actor, or a segment in each: which is faster, measured on some of the images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eenet.runtime import Carried, run_segment
from eenet.scale.bulk.operators import plain_backend, predictor_of
from eenet.scale.bulk.tables import FEATURES, array, tensor
from eenet.scale.shipping import Files, How, unpacked

MARGIN = 1.2  # by which stages must be faster: what Ray takes for every table isn't among the times
REPEATS = 3  # of which the fastest counts: whatever else runs only adds


@dataclass(frozen=True)
class Times:
    """Seconds of one worker for an image."""

    network: float
    """All segments in one actor."""
    segments: Sequence[float]
    """Each alone in full batches, for the share of the images that come to it, with what it hands on."""

    @property
    def stage(self) -> float:
        """All segments, each in actors of its own."""
        return sum(self.segments)

    @property
    def faster(self) -> str:
        return "stage" if MARGIN * self.stage < self.network else "network"


def measure(
    files: Files,
    how: How,
    pixels_BCHW: NDArray[np.uint8],
    hand_on: Callable[[Any], Any] = lambda table: table,
) -> Times:
    """Both ways timed on these images, on this machine.

    Args:
        files: of the network.
        how: it is run.
        pixels_BCHW: as they come.
        hand_on: a table on its way to another worker.
    """
    with unpacked(files) as network:
        predictor, backend = predictor_of(network, how), plain_backend(network, how)
    count = len(pixels_BCHW)
    whole = _fastest(lambda: predictor.run(pixels_BCHW))
    seconds, images = list[float](), Carried(pixels_BCHW)
    for index in range(len(backend.segments)):
        coming = _filled(images, count)
        share = len(images.features) / count
        taken = _fastest(lambda i=index, batch=coming: run_segment(backend, how.policy, i, batch))
        parted = run_segment(backend, how.policy, index, images)
        if not len(parted.staying):
            seconds.append(taken * share)
            break
        images = parted.carried
        staying = np.asarray(images.features)
        shipped = _fastest(lambda kept=staying: array(hand_on(pa.table({FEATURES: tensor(kept)}))[FEATURES]))
        seconds.append(taken * share + shipped)
    seconds += [0.0] * (len(backend.segments) - len(seconds))
    return Times(whole / count, [each / count for each in seconds])


def _filled(images: Carried, count: int) -> Carried:
    """So many rows, some of them again and again: a batch that others have filled up."""
    rows = np.arange(count) % len(images.features)
    before = None if images.before_BN is None else np.asarray(images.before_BN)[rows]
    seen = [(said_BN[rows], sure_B[rows]) for said_BN, sure_B in images.seen]
    return Carried(np.ascontiguousarray(images.features[rows]), before, seen)


def _fastest(run: Callable[[], Any]) -> float:
    run()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def measure_with_ray(files: Files, how: How, pixels_BCHW: NDArray[np.uint8]) -> Times:
    """The same in a task of Ray, whose object store hands tables on."""
    import ray

    return measure(files, how, pixels_BCHW, lambda table: ray.get(ray.put(table)))
