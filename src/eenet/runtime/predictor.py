"""The door for users: images in, labels out, each with the exit it took."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import cores
from eenet.networks import Network, StoredNetwork, name_of, open_network
from eenet.policies import ExitPolicy
from eenet.runtime.backends.choice import create_backend, installed, options_of
from eenet.runtime.compacting import Answers, run_batch
from eenet.runtime.graphs.segments import segments_of
from eenet.runtime.queued import QueuedEngine
from eenet.runtime.tiling import HALO, check_tiles, put_together, tiles_of
from eenet.tasks import AnyPrediction, Seen, task_of

ENGINES = ("compacting", "queued")


Read = AnyPrediction | ValueError | OSError
"""The answer for an image, or why it can't be read."""


class Predictor:
    """Answers for images; each leaves at the first exit that is sure enough.

    >>> predictor = Predictor("digits-eenet8", budget=0.6)
    >>> found = predictor.predict(np.zeros((8, 8)))
    >>> found.exit in (0, 1, 2)
    True
    >>> predictor.close()
    """

    def __init__(
        self,
        network: Network | str | Path,
        *,
        policy: ExitPolicy | str | None = None,
        budget: float | None = None,
        backend: str | None = None,
        engine: str = "compacting",
        batch_size: int = 64,
        threads: int | None = None,
        workers: int | None = None,
        precision: str = "f32",
        providers: Sequence[str] = (),
        tile: int | None = None,
        halo: int = HALO,
    ) -> None:
        """A network, or the name of a checkpoint; by default under the checkpoint's policy.

        Args:
            network: with the mean and standard deviation of its images in `config`.
            policy: another one, or the name of one that the checkpoint has.
            budget: wanted mean relative cost, for which the checkpoint has a policy.
            backend: `torch`, `torch-compile`, `onnxruntime` or `openvino`. Default: ONNX Runtime for
                a checkpoint, if it is installed and takes the network; torch for a network in
                memory, because a graph of it would have to be made first.
            engine: `compacting` runs what one call brings, and shrinks the batch after every exit;
                `queued` also joins images of calls from many threads, see `eenet.runtime.QueuedEngine`.
            batch_size: images run together, at most. With 1 they go one after the other.
            threads: of ONNX Runtime or OpenVINO for a batch. Default: one per core; with the
                queued engine one, and a batch on every core.
            workers: batches that run at the same time, each in a thread of its own; useful for many images,
                with one `threads` each. Default: one, or with the queued engine one per core.
            precision: `f32`, or `bf16` with torch, torch-compile and OpenVINO.
            providers: ONNX Runtime's execution providers, such as `CUDAExecutionProvider`, the most wanted
                first. Default: the processor's.
            tile: cut images, at their own size, into tiles of at most so many pixels a side; each leaves by
                itself. For masks. Default: images whole, at the size trained with.
            halo: pixels around a tile that it sees as well.

        Raises:
            FileNotFoundError, ValueError: the checkpoint can't be loaded, or the network has no
                `mean` and `std`, or the policy is for another number of exits,
                or there is none for this budget or of this name, or the backend can't be had.
        """
        self.network = open_network(network)
        config, stored = self.network.config, isinstance(self.network, StoredNetwork)
        self._task = task_of(config.task)
        if not isinstance(self.network, StoredNetwork):
            self.network.eval()
        config.normalization(name_of(network))
        policy = config.exit_policy(budget, policy)
        if len(policy.thresholds) != self.network.num_exits:
            raise ValueError(
                f"the policy is for {len(policy.thresholds)} early exits, "
                f"the network has {self.network.num_exits}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        if tile is not None:
            self._task.must_support("--tile")
            check_tiles(tile, halo)
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
        self.policy, self.batch_size = policy, batch_size
        self._tile, self._halo = tile, halo
        self._costs = self.network.costs(policy.enabled)
        fallback = False
        if backend is None:
            fallback = (stored or network is not self.network) and installed("onnxruntime")
            backend = "onnxruntime" if fallback else "torch"
        if engine == "queued" and "threads" in options_of(backend) and threads is None:
            threads, workers = 1, workers or cores()
        self._workers = workers or 1
        given: Any = (self.network, segments_of(policy, config.ensemble), policy.score)
        options: dict[str, Any] = {"threads": threads, "providers": providers or None}
        options["precision"] = None if precision == "f32" else precision
        try:
            self.backend = create_backend(backend, *given, **options)
        except ValueError as error:
            if not fallback:
                raise
            warnings.warn(f"{error}; running with torch", stacklevel=2)
            self.backend = create_backend("torch", *given)
        self._queue = None
        if engine == "queued":
            self._queue = QueuedEngine(
                self.backend, policy, ensemble=config.ensemble, batch_size=batch_size, workers=self._workers
            )

    def predict(self, image: Any) -> Any:
        """The answer for one image: `Prediction`, or what the network's task gives, such as `MaskPrediction`.

        Args:
            image: a file, PIL image, numpy array or tensor, see `eenet.data.to_pixels`.

        Raises:
            FileNotFoundError, ValueError: the image can't be read.
        """
        return next(self.predict_many([image]))

    def predict_many(self, images: Iterable[Any]) -> Iterator[Any]:
        """Answers for images in batches, in order and in constant memory.

        Args:
            images: any number of what `predict` takes.

        Raises:
            FileNotFoundError, ValueError: an image can't be read.
        """
        for found in self.try_many(images):
            if isinstance(found, Exception):
                raise found
            yield found

    def try_many(self, images: Iterable[Any]) -> Iterator[Read]:
        """As `predict_many`, but an image that can't be read gives its error instead of an answer.

        Images are decoded in a thread on every core while the network runs.

        Args:
            images: any number of what `predict` takes.
        """
        source = iter(images)
        first, second = (list(islice(source, self.batch_size)) for _ in range(2))
        if not second:
            yield from self._answered(*self._decoded(first)) if first else ()
            return
        together = self._workers > 1 and self._queue is None
        job: Callable[[list[Any]], Any] = self._both if together else self._decoded
        with ThreadPoolExecutor(max(self._workers, cores())) as pool:
            waiting = deque(pool.submit(job, batch) for batch in (first, second))
            try:
                while waiting:
                    while len(waiting) < 2 * max(self._workers, cores()) and (
                        batch := list(islice(source, self.batch_size))
                    ):
                        waiting.append(pool.submit(job, batch))
                    done: Any = waiting.popleft().result()
                    yield from done if together else self._answered(*done)
            finally:
                pool.shutdown(cancel_futures=True)

    def _decoded(self, images: Sequence[Any]) -> tuple[list[Seen], list[ValueError | OSError | None]]:
        """Pixels of those that can be read, and for each of all its error."""
        seen, errors = [], []
        read = self._task.read if self._tile is None else self._task.read_large
        for image in images:
            try:
                seen.append(read(image, self.network.config))
                errors.append(None)
            except (ValueError, OSError) as error:
                errors.append(error)
        return seen, errors

    def _both(self, images: Sequence[Any]) -> list[Read]:
        return self._answered(*self._decoded(images))

    def _answered(self, seen: Sequence[Seen], errors: Sequence[ValueError | OSError | None]) -> list[Read]:
        """Answers for the images that could be read."""
        answers = iter(self._whole(seen) if self._tile is None else map(self._in_tiles, seen))
        return [next(answers) if error is None else error for error in errors]

    def _whole(self, seen: Sequence[Seen]) -> Iterator[Any]:
        each = self._each([pixels_CHW for pixels_CHW, _ in seen])
        for (probabilities, exit_index), (_, size) in zip(each, seen, strict=True):
            cost, config = self._costs[exit_index], self.network.config
            yield self._task.prediction(probabilities, exit_index, cost, size, config)

    def _in_tiles(self, seen: Seen) -> Any:
        assert self._tile is not None
        by_row = tiles_of(seen.size, self._tile, self._halo)
        tiles = [one for row in by_row for one in row]
        each = self._each([seen.pixels_CHW[:, one.place[0], one.place[1]] for one in tiles])
        whole = put_together(tiles, [answer for answer, _ in each], seen.size)
        exits = np.array([exit_index for _, exit_index in each]).reshape(len(by_row), -1)
        spent = sum(self._costs[k] * one.area for one, (_, k) in zip(tiles, each, strict=True))
        cost = spent / math.prod(seen.size)
        return self._task.prediction_of_tiles(whole, exits.tolist(), cost, seen.size, self.network.config)

    def _each(self, pixels: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], int]]:
        """What each image leaves with, and where; those of one size are run together."""
        found: list[Any] = [None] * len(pixels)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, pixels_CHW in enumerate(pixels):
            shapes.setdefault(pixels_CHW.shape, []).append(i)
        for alike in shapes.values():
            for start in range(0, len(alike), self.batch_size):
                rows = alike[start : start + self.batch_size]
                answers = self.run(np.stack([pixels[i] for i in rows]))
                for i, probabilities, exit_index in zip(
                    rows, answers.probabilities_BN, answers.exits_B.tolist(), strict=True
                ):
                    found[i] = probabilities, exit_index
        return found

    def run(self, pixels_BCHW: NDArray[np.uint8]) -> Answers:
        """Class probabilities and exits of images that have the network's size already.

        Args:
            pixels_BCHW: uint8 [B, C, H, W].

        Raises:
            ValueError: pixels of another type or shape.
        """
        if self._queue is not None:
            return self._queue.submit(pixels_BCHW).result()
        return run_batch(self.backend, self.policy, pixels_BCHW)

    def close(self) -> None:
        """End the threads of a `queued` engine, once they have finished what they have."""
        if self._queue is not None:
            self._queue.close()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
