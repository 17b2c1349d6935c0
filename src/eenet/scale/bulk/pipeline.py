"""The operators and how many workers each gets; which way is possible, and which is faster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import say
from eenet.networks import Network, name_of, open_network
from eenet.policies import ExitPolicy
from eenet.runtime import BACKENDS, create_backend, installed, segments_of
from eenet.scale.bulk.choosing import Times, measure_with_ray
from eenet.scale.bulk.collecting import Unfinished
from eenet.scale.bulk.decoding import IMAGES, UNIT, Cells, Decoding, block_images
from eenet.scale.bulk.inputs import MOST_IN_UNIT, Inputs
from eenet.scale.bulk.operators import OneSegment, WholeNetwork
from eenet.scale.bulk.tables import PIXELS, UNREADABLE, array
from eenet.scale.shipping import How, fingerprint, packed

WAYS = ("auto", "network", "stage")
DECODING, RUNNING = 0.25, 0.75  # of a processor; both together are one
IN_FLIGHT = 2  # tables that an actor has: one that it runs, one that waits
BATCH, STAGE_BATCH = 64, 256
STAGE_BACKEND = "onnxruntime"
MOST_BLOCKS = 10_000  # of units; Ray keeps a block in mind as long as it works


class Job:
    """A network that many workers run, and by which way."""

    def __init__(
        self,
        checkpoint: Network | str | Path,
        by: str,
        budget: float | None,
        policy: ExitPolicy | str | None,
        backend: str | None,
        providers: Sequence[str],
        batch_size: int | None,
        top_k: int | None,
        workers: int | None,
        num_gpus: float,
    ) -> None:
        """See `eenet.scale.predict`.

        Raises:
            FileNotFoundError, ValueError: the checkpoint can't be read, or options don't fit.
        """
        if by not in WAYS:
            raise ValueError(f"unknown way {by!r}; choose from {', '.join(WAYS)}")
        for name, value in (("workers", workers), ("batch_size", batch_size), ("top_k", top_k)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")
        network = open_network(checkpoint)
        config = network.config
        config.must_support("batch")
        config.normalization(name_of(checkpoint))
        chosen, likeliest = config.exit_policy(budget, policy), min(top_k or 0, config.num_classes)
        self.how = How(chosen, backend or STAGE_BACKEND, tuple(providers), batch_size or BATCH, likeliest)
        if self.how.backend not in BACKENDS or not installed(self.how.backend):
            create_backend(self.how.backend, network, [], chosen.score)  # which says what is missing
        self.input_size, self.costs_K = config.input_size, network.costs(chosen.enabled)
        self.workers, self._num_gpus, self._batch_size = workers, num_gpus, batch_size or STAGE_BATCH
        self._segments = len(segments_of(chosen, config.ensemble))
        self.by = self._possible(by)
        self._files = packed(network)

    def _possible(self, by: str) -> str:
        """The way that is asked for, if the network can be run by stage; else the other one is taken."""
        why = ""
        if self.how.backend != STAGE_BACKEND:
            why = f"features of {self.how.backend} don't go to other machines; take {STAGE_BACKEND}"
        elif self._segments == 1:
            why = "no image leaves early under this policy, so there is a single segment"
        if why and by == "stage":
            raise ValueError(f"by stage: {why}")
        return "network" if why else by

    @property
    def plan(self) -> dict[str, Any]:
        """What answers depend on."""
        network = fingerprint(self._files)
        return {"network": network, "policy": self.how.policy.to_dict(), "top_k": self.how.top_k}

    def run(self, ray: Any, data: Any, pixels: Any, sample: Callable[[], NDArray[np.uint8]]) -> Any:
        """A lazy `Dataset` of answers for one of pixels.

        Args:
            ray, data: the modules `ray` and `ray.data`.
            pixels: of `decoded` or `decoded_cells`.
            sample: some pixels to choose the way by; asked for only if it is to be chosen.
        """
        self.workers = self.workers or int(ray.cluster_resources().get("CPU", 1))
        load = [1.0] * self._segments
        if self.by == "auto":
            pixels_BCHW, self.by = sample(), "network"
            if len(pixels_BCHW):
                times = self._measured(ray, pixels_BCHW)
                self.by, load = times.faster, list(times.segments)
        common: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
        common["num_gpus"] = self._num_gpus or None

        def pool(size: int) -> Any:
            return data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT)

        if self.by == "network":
            common |= {"batch_size": None, "num_cpus": RUNNING, "compute": pool(self.workers)}
            return pixels.map_batches(WholeNetwork, fn_constructor_args=(self._files, self.how), **common)
        sizes = shared_out(self.workers, load)
        common |= {"batch_size": self._batch_size, "num_cpus": RUNNING * min(1, self.workers / sum(sizes))}
        for index, size in enumerate(sizes):
            given = (self._files, self.how, index)
            pixels = pixels.map_batches(OneSegment, fn_constructor_args=given, compute=pool(size), **common)
        return pixels

    def _measured(self, ray: Any, pixels_BCHW: NDArray[np.uint8]) -> Times:
        """Both ways timed on some images, where workers will run."""
        timed = ray.remote(measure_with_ray).options(num_cpus=RUNNING, num_gpus=self._num_gpus)
        times = ray.get(timed.remote(self._files, self.how, pixels_BCHW))
        say(
            f"by {times.faster}: {1 / times.network:,.0f} images a second of a worker that runs the network, "
            f"{1 / times.stage:,.0f} by stage, measured on {len(pixels_BCHW)} images"
        )
        return times


def shared_out(workers: int, load: Sequence[float]) -> list[int]:
    """Workers for each segment by its share of the work, at least one each."""
    whole = sum(load)
    wanted = [workers * each / whole for each in load]
    found = [max(1, int(each)) for each in wanted]
    while sum(found) < workers:
        found[max(range(len(load)), key=lambda k: wanted[k] - found[k])] += 1
    return found


def decoded(data: Any, listed: Inputs, unfinished: Unfinished, input_size: Sequence[int]) -> Any:
    """Pixels of all images that have no answer yet, as a lazy `Dataset`."""
    units = [unit for unit in listed.units if unfinished(unit.first, unit.first + unit.count).any()]
    decoding = Decoding(input_size, listed.column, block_images(input_size, listed.unit_images), unfinished)
    given = data.from_items(
        [{UNIT: unit.to_json()} for unit in units], override_num_blocks=min(len(units), MOST_BLOCKS)
    )
    return given.map_batches(
        decoding.tables, batch_size=1, batch_format="pyarrow", zero_copy_batch=True, num_cpus=DECODING
    )


def decoded_cells(dataset: Any, column: str, input_size: Sequence[int]) -> Any:
    """The same for a `Dataset` of a user's own."""
    return dataset.map_batches(
        Cells(input_size, column).table,
        batch_size=block_images(input_size, MOST_IN_UNIT),
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=DECODING,
    )


def some_pixels(pixels: Any) -> NDArray[np.uint8]:
    """Of the first images of a `Dataset` of pixels: uint8 [B, C, H, W]; none that can't be read."""
    table = pixels.take_batch(IMAGES, batch_format="pyarrow")
    return array(table[PIXELS])[table[UNREADABLE].is_null().to_numpy()]
