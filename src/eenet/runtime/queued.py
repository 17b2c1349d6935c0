"""Requests of many threads, batched again at every segment: what stays of one is joined by others."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from queue import Full

import numpy as np
from numpy.typing import NDArray

from eenet.policies import Ensemble, ExitPolicy, Weights, chain, looks_back, score_of_answers
from eenet.runtime.backends.backend import Backend, Outputs
from eenet.runtime.compacting import Answers, answers, carried, check_number, joined
from eenet.runtime.requests import Chunk, EngineClosedError, Promise, Queue, Request, said_before, seen_before

SMOOTHING = 0.1  # of the time that a batch takes
PATIENCE = 1.5  # times that: more answers easy images sooner, hard ones later


class QueuedEngine:
    """Runs requests from any number of threads on a backend.

    Every segment has a queue. Run next is the deepest one with a full batch; else the one with
    an image that has waited too long; else the first, so that easy images are answered soon and
    later batches grow; else the longest. What waits there is shared among the workers that are idle.

    with QueuedEngine(backend, policy) as engine:
        found = engine.submit(pixels_BCHW).result()
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
        self._weights: dict[tuple[bool, ...], list[Weights | None]] = {}  # by exits that are on
        self._seconds = [0.0] * len(backend.segments)  # that a batch takes, smoothed
        self._queues = [Queue() for segment in backend.segments if segment.exit is not None]
        self._inside = 0
        self._closed = False
        self._idle = 0
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
        future: Future[Answers] = Future()
        future.set_running_or_notify_cancel()  # images can't be called back one by one
        self.hand_in(pixels_BCHW, future, policy=policy, timeout=timeout, wait=wait)
        return future

    def hand_in(
        self,
        pixels_BCHW: NDArray[np.uint8],
        promise: Promise,
        *,
        policy: ExitPolicy | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> None:
        """What `submit` does, for a promise of the caller's."""
        now = time.monotonic()
        count, deadline = len(pixels_BCHW), now + (timeout if timeout is not None else float("inf"))
        if not count:
            promise.set_result(Answers(np.empty((0, 0), np.float32), np.empty(0, np.intp)))
            return
        policy = self._policy if policy is None else policy
        weights_K = self._weights.get(policy.enabled)
        if weights_K is None:
            weights_K = self._weights[policy.enabled] = chain(self._ensemble, policy.enabled)
        scores_BK = np.full((count, len(policy.thresholds)), np.nan, np.float32)
        request = Request(
            promise, policy, weights_K, np.zeros(count, np.intp), scores_BK, count, now, deadline
        )
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
            self._queues[0].put(Chunk(request, np.arange(count), pixels_BCHW))
            self._changed.notify_all()

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
                self._idle += 1
                while not any(queue.images for queue in self._queues):
                    if self._closed and not self._inside:
                        self._changed.notify_all()
                        return
                    self._changed.wait()
                index = self._next()
                share = -(-self._queues[index].images // self._idle)
                chunks = self._queues[index].pop(self._backend, min(share, self._batch_size))
                self._idle -= 1
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

    def _is_wanted(self, chunk: Chunk) -> bool:
        """Whether anyone still waits for it; if not, it goes."""
        if chunk.request.failed:
            self._leave(len(chunk.rows))
            return False
        if time.monotonic() > chunk.request.deadline:
            self._fail(chunk, TimeoutError("the deadline passed before the images were through"))
            return False
        return True

    def _run(self, index: int, chunks: Sequence[Chunk]) -> None:
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
        for _, group in groupby(chunks, _came_the_same_way):
            alike = list(group)
            end = at + sum(len(chunk.rows) for chunk in alike)
            self._settle(index, alike, slice(at, end), outputs)
            at = end

    def _check(self, index: int, outputs: Outputs) -> None:
        values = outputs.probabilities_BN if outputs.score_B is None else outputs.score_B
        exit_index = self._backend.segments[index].exit
        assert values is not None
        assert exit_index is not None
        check_number(values, exit_index)

    def _settle(self, index: int, chunks: Sequence[Chunk], batch: slice, outputs: Outputs) -> None:
        """Note the answers of images that leave, and queue the others for the next segment.

        The chunks have one policy and have come the same way; theirs is this part of the batch.
        """
        exit_index = self._backend.segments[index].exit
        assert exit_index is not None
        policy, weights = chunks[0].request.policy, chunks[0].request.weights_K[exit_index]
        assert outputs.probabilities_BN is not None
        own_BN, before_BN = outputs.probabilities_BN[batch], said_before(chunks)
        joined_BN = joined(own_BN, before_BN, weights)
        on = exit_index == len(policy.enabled) or policy.enabled[exit_index]
        leaves_B, score_B, seen = np.full(len(own_BN), on), None, seen_before(chunks)
        if outputs.score_B is not None:
            score_B = outputs.score_B[batch]
        if score_B is not None and on:
            if looks_back(policy.score):
                seen.append((own_BN, score_B))
                score_B = score_of_answers(policy.score, seen)
            leaves_B = score_B > policy.thresholds[exit_index]
        said_BN, staying, kept = answers(own_BN, joined_BN), np.flatnonzero(~leaves_B), None
        if len(staying):
            kept = self._backend.take(outputs.features, batch.start + staying)
            if on:
                before_BN = carried(own_BN, joined_BN, weights, staying)
        leaving: list[tuple[Request, NDArray[np.intp], NDArray[np.float32]]] = []
        onward: list[Chunk] = []
        at = kept_at = 0
        for chunk in chunks:
            mine = slice(at, at := at + len(chunk.rows))
            if score_B is not None:
                chunk.request.scores_BK[chunk.rows, exit_index] = score_B[mine]
            leaves = leaves_B[mine]
            if count := np.count_nonzero(leaves):
                leaving.append((chunk.request, chunk.rows[leaves], said_BN[mine][leaves]))
            if count < len(leaves):
                assert kept is not None
                part = slice(kept_at, kept_at := kept_at + len(leaves) - count)
                before = None if before_BN is None else before_BN[part]
                mine_seen = [(p[mine][~leaves], h[mine][~leaves]) for p, h in seen]
                features = tuple(of[part] for of in kept) if isinstance(kept, tuple) else kept[part]
                onward.append(Chunk(chunk.request, chunk.rows[~leaves], features, before, mine_seen))
        done: list[Request] = []
        with self._changed:
            for request, rows, values in leaving:
                request.answer(rows, values, exit_index)
                self._inside -= len(rows)
                if not request.left:
                    done.append(request)
            for chunk in onward:
                self._queues[index + 1].put(chunk)
            self._changed.notify_all()
        for request in done:
            request.finish()

    def _fail(self, chunk: Chunk, error: Exception) -> None:
        with self._changed:
            first = not chunk.request.failed
            chunk.request.failed = True
        self._leave(len(chunk.rows))
        if first:
            chunk.request.promise.set_exception(error)

    def _leave(self, count: int) -> None:
        with self._changed:
            self._inside -= count
            self._changed.notify_all()


def _came_the_same_way(chunk: Chunk) -> tuple[int, bool, int]:
    return id(chunk.request.policy), chunk.before_BN is None, len(chunk.seen)
