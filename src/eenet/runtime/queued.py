"""Requests of many threads, batched again at every segment: what stays of one is joined by others."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Full
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.ensemble import Ensemble, Floats, Weights, chain
from eenet.policies import ExitPolicy
from eenet.runtime.backends import Backend, Outputs
from eenet.runtime.engines import Answers, answers, carried, check_number, joined

SMOOTHING = 0.1  # of the time that a batch takes
PATIENCE = 1.5  # times that: more answers easy images sooner, hard ones later


class EngineClosedError(RuntimeError):
    """The engine takes nothing any more."""


@dataclass(eq=False)
class _Request:
    future: Future[Answers]
    policy: ExitPolicy
    weights_K: Sequence[Weights | None]
    exits_B: NDArray[np.intp]
    scores_BK: NDArray[np.float32]
    left: int
    """Images without an answer."""
    arrived: float
    deadline: float
    probabilities_BN: NDArray[np.float32] | None = None
    failed: bool = False

    def answer(self, rows: NDArray[np.intp], values: NDArray[np.float32], exit_index: int) -> None:
        """Note the answers of some images."""
        if self.probabilities_BN is None:
            self.probabilities_BN = np.empty((len(self.exits_B), values.shape[1]), np.float32)
        self.probabilities_BN[rows] = values
        self.exits_B[rows] = exit_index
        self.left -= len(rows)

    def finish(self) -> None:
        """Outside of any lock: callbacks run here."""
        assert self.probabilities_BN is not None
        self.future.set_result(Answers(self.probabilities_BN, self.exits_B, self.scores_BK))


@dataclass
class _Chunk:
    """Images of one request that wait for the same segment."""

    request: _Request
    rows: NDArray[np.intp]
    features: Any
    before_BN: Floats | None = None
    """What the exits so far said together, see `eenet.ensemble`."""

    def part(self, backend: Backend, first: int, end: int) -> "_Chunk":
        """Some of its images."""
        before_BN = None if self.before_BN is None else self.before_BN[first:end]
        features = backend.take(self.features, np.arange(first, end))
        return _Chunk(self.request, self.rows[first:end], features, before_BN)


@dataclass
class _Queue:
    chunks: deque[_Chunk] = field(default_factory=deque)
    images: int = 0

    def put(self, chunk: _Chunk) -> None:
        self.chunks.append(chunk)
        self.images += len(chunk.rows)

    def pop(self, backend: Backend, most: int) -> list[_Chunk]:
        """The first chunks, together at most so many images; the last one may be divided."""
        taken: list[_Chunk] = []
        while self.chunks and most > 0:
            chunk = self.chunks.popleft()
            if len(chunk.rows) > most:
                self.chunks.appendleft(chunk.part(backend, most, len(chunk.rows)))
                chunk = chunk.part(backend, 0, most)
            self.images -= len(chunk.rows)
            most -= len(chunk.rows)
            taken.append(chunk)
        return taken


class QueuedEngine:
    """Runs requests from any number of threads on a backend.

    Every segment has a queue. Run next is the deepest one with a full batch; else the one with
    an image that has waited too long; else the first, so that easy images are answered soon and
    later batches grow; else the longest.

    >>> with QueuedEngine(backend, policy) as engine:
    ...     found = engine.submit(pixels_BCHW).result()
    """

    def __init__(
        self,
        backend: Backend,
        policy: ExitPolicy,
        *,
        ensemble: Ensemble | None = None,
        batch_size: int = 32,
        most_waiting: int = 1024,
        patience: float | None = None,
        workers: int = 1,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        """A running engine; `close` it, or use it in a `with`.

        Args:
            backend: made for the segments of this policy.
            policy: its thresholds.
            ensemble: of the network's `config`.
            batch_size: images that run together, at most.
            most_waiting: images inside, at most; whoever brings more has to wait.
            patience: seconds after which an image no longer waits for company. Default: one and a
                half times as long as a batch takes through all segments.
            workers: threads that run segments.
            on_batch: told the segment and the number of images of every batch, by the threads.
        """
        self._backend, self._policy = backend, policy
        self._batch_size, self._most_waiting, self._patience = batch_size, most_waiting, patience
        self._on_batch, self._ensemble = on_batch, ensemble
        self._seconds = [0.0] * len(backend.segments)  # that a batch takes, smoothed
        self._queues = [_Queue() for segment in backend.segments if segment.exit is not None]
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        pixels_BCHW: NDArray[np.uint8],
        *,
        policy: ExitPolicy | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Future[Answers]:
        """Hand in images; the future holds their answers, or the error of the segment that failed.

        Args:
            pixels_BCHW: any number, of the network's size.
            policy: for these images, with the engine's score and no exit on that is off there. Default:
                the engine's.
            timeout: seconds; after it the future holds a `TimeoutError` and what isn't run yet is dropped.
            wait: for room inside; else, if there is none, `queue.Full` is raised.

        Raises:
            queue.Full: there is no room, and `wait` is off.
            TimeoutError: there was none in time.
            EngineClosedError: it takes nothing any more.
        """
        now = time.monotonic()
        count, deadline = len(pixels_BCHW), now + (timeout if timeout is not None else float("inf"))
        future: Future[Answers] = Future()
        if not count:
            future.set_result(Answers(np.empty((0, 0), np.float32), np.empty(0, np.intp)))
            return future
        future.set_running_or_notify_cancel()  # images can't be called back one by one
        policy = self._policy if policy is None else policy
        scores_BK = np.full((count, len(policy.thresholds)), np.nan, np.float32)
        weights_K, exits_B = chain(self._ensemble, policy.enabled), np.zeros(count, np.intp)
        request = _Request(future, policy, weights_K, exits_B, scores_BK, count, now, deadline)
        with self._changed:
            while not self._closed and self._inside and self._inside + count > self._most_waiting:
                if not wait:
                    raise Full(f"{self._inside} images are waiting; the most is {self._most_waiting}")
                left = None if timeout is None else deadline - time.monotonic()
                if not self._changed.wait(left):
                    raise TimeoutError(f"no room for {count} images within {timeout} seconds")
            if self._closed:
                raise EngineClosedError("the engine is closed")
            self._inside += count
            self._queues[0].put(_Chunk(request, np.arange(count), pixels_BCHW))
            self._changed.notify_all()
        return future

    @property
    def inside(self) -> int:
        """Images without an answer yet."""
        return self._inside

    def close(self) -> None:
        """Finish what is inside, take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "QueuedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Workers -------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not any(queue.images for queue in self._queues):
                    if self._closed and not self._inside:
                        self._changed.notify_all()
                        return
                    self._changed.wait()
                index = self._next()
                chunks = self._queues[index].pop(self._backend, self._batch_size)
            ready = [chunk for chunk in chunks if self._is_wanted(chunk)]
            if ready:
                self._run(index, ready)

    def _next(self) -> int:
        """The queue to run."""
        sizes = [queue.images for queue in self._queues]
        full = [k for k, size in enumerate(sizes) if size >= self._batch_size]
        if full:
            return full[-1]
        patience = PATIENCE * sum(self._seconds) if self._patience is None else self._patience
        oldest = min((queue.chunks[0].request.arrived, k) for k, queue in enumerate(self._queues) if sizes[k])
        if time.monotonic() - oldest[0] > patience:
            return oldest[1]
        return 0 if sizes[0] else int(np.argmax(sizes))

    def _is_wanted(self, chunk: _Chunk) -> bool:
        """Whether anyone still waits for it; if not, it goes."""
        if chunk.request.failed:
            self._leave(len(chunk.rows))
            return False
        if time.monotonic() > chunk.request.deadline:
            self._fail(chunk, TimeoutError("the deadline passed before the images were through"))
            return False
        return True

    def _run(self, index: int, chunks: Sequence[_Chunk]) -> None:
        features = chunks[0].features
        if len(chunks) > 1:
            features = self._backend.join([chunk.features for chunk in chunks])
        start = time.monotonic()
        try:
            outputs = self._backend.run(index, features)
            self._check(index, outputs)
        except Exception as error:  # whatever a segment raises belongs to its request
            if len(chunks) == 1:
                self._fail(chunks[0], error)
                return
            for chunk in chunks:  # only the one that fails shall fail
                self._run(index, [chunk])
            return
        self._seconds[index] += SMOOTHING * (time.monotonic() - start - self._seconds[index])
        if self._on_batch is not None:
            self._on_batch(index, sum(len(chunk.rows) for chunk in chunks))
        at = 0
        for chunk in chunks:
            rows = np.arange(at, at + len(chunk.rows))
            at += len(chunk.rows)
            self._settle(index, chunk, rows, outputs)

    def _check(self, index: int, outputs: Outputs) -> None:
        values = outputs.probabilities_BN if outputs.score_B is None else outputs.score_B
        exit_index = self._backend.segments[index].exit
        assert values is not None
        assert exit_index is not None
        check_number(values, exit_index)

    def _settle(self, index: int, chunk: _Chunk, rows: NDArray[np.intp], outputs: Outputs) -> None:
        """Note the answers of images that leave, and queue the others for the next segment."""
        exit_index = self._backend.segments[index].exit
        assert exit_index is not None
        policy, before_BN = chunk.request.policy, chunk.before_BN
        weights = chunk.request.weights_K[exit_index]
        assert outputs.probabilities_BN is not None
        own_BN = outputs.probabilities_BN[rows]
        on = exit_index == len(policy.enabled) or policy.enabled[exit_index]
        joined_BN = joined(own_BN, before_BN, weights)
        leaves = np.full(len(rows), on)
        if outputs.score_B is not None:
            if on:
                leaves = outputs.score_B[rows] > policy.thresholds[exit_index]
            chunk.request.scores_BK[chunk.rows, exit_index] = outputs.score_B[rows]
        leaving, staying = np.flatnonzero(leaves), np.flatnonzero(~leaves)
        onward = None
        if len(staying):
            kept = self._backend.take(outputs.features, rows[staying])
            if on:
                before_BN = carried(own_BN, joined_BN, weights, staying)
            onward = _Chunk(chunk.request, chunk.rows[staying], kept, before_BN)
        with self._changed:
            if len(leaving):
                chunk.request.answer(chunk.rows[leaving], answers(own_BN, joined_BN, leaving), exit_index)
            if onward is not None:
                self._queues[index + 1].put(onward)
            self._inside -= len(leaving)
            self._changed.notify_all()
            done = not chunk.request.left
        if done and len(leaving):
            chunk.request.finish()

    def _fail(self, chunk: _Chunk, error: Exception) -> None:
        with self._changed:
            first = not chunk.request.failed
            chunk.request.failed = True
        self._leave(len(chunk.rows))
        if first:
            chunk.request.future.set_exception(error)

    def _leave(self, count: int) -> None:
        with self._changed:
            self._inside -= count
            self._changed.notify_all()
