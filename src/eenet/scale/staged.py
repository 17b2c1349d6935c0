"""A network whose segments are deployments: images that stay are batched with those of all servers."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Full
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import require
from eenet.networks import open_network
from eenet.policies import ExitPolicy, chain
from eenet.runtime import (
    Answers,
    Carried,
    EngineClosedError,
    Outputs,
    Parted,
    Promise,
    create_backend,
    part,
    segments_of,
)
from eenet.scale.shipping import PLAIN
from eenet.serving import served_policy

WAIT_SECONDS = 0.002  # of a batch for others
TRIES = 3  # of a request whose replica dies


@dataclass(frozen=True)
class Travelling:
    """Images on their way to a segment, all of one request."""

    images: Carried
    policy: ExitPolicy

    @property
    def count(self) -> int:
        return len(self.images.features)


class SegmentServer:
    """One segment of a network, for requests of all servers."""

    def __init__(self, checkpoint: str, index: int, batch_size: int, following: Any = None) -> None:
        """Prepare it.

        Args:
            checkpoint: directory or name, there on every machine.
            index: of the segment.
            batch_size: images that run together, about.
            following: handle of the next segment; none behind the last.
        """
        serve = require("ray.serve", "serving with Ray", "scale")
        network = open_network(checkpoint)
        self._ensemble, served = network.config.ensemble, served_policy(network.config)
        segments = segments_of(served, self._ensemble)
        self._backend = create_backend(
            "onnxruntime", network, segments, served.score, threads=1, providers=PLAIN
        )
        self._index, self._following = index, following

        @serve.batch(
            max_batch_size=batch_size,
            batch_wait_timeout_s=WAIT_SECONDS,
            batch_size_fn=lambda requests: min(sum(request.count for request in requests), batch_size),
        )
        async def together(requests: list[Travelling]) -> list[Parted]:
            return await asyncio.to_thread(self._run, requests)

        self._together = together

    def _run(self, requests: Sequence[Travelling]) -> list[Parted]:
        """The segment for several requests at once, which may have policies of their own."""
        outputs = self._backend.run(
            self._index, np.concatenate([np.asarray(request.images.features) for request in requests])
        )
        found, at = [], 0
        for request in requests:
            mine = slice(at, at := at + request.count)
            own = Outputs(*(None if values is None else values[mine] for values in outputs))
            weights = chain(self._ensemble, request.policy.enabled)[self._exit]
            found.append(part(self._backend, request.policy, self._index, request.images, own, weights))
        return found

    @property
    def _exit(self) -> int:
        exit_index = self._backend.segments[self._index].exit
        assert exit_index is not None
        return exit_index

    async def __call__(self, request: Travelling) -> Answers:
        """Answers for the images that leave here, and for the others from the next segment."""
        parted = await self._together(request)
        early = len(request.policy.thresholds)
        scores_BK = np.full((request.count, early), np.nan, np.float32)
        exits_B = np.full(request.count, self._exit)
        if parted.score_B is not None:
            scores_BK[:, self._exit] = parted.score_B
        if not len(parted.staying):
            return Answers(parted.probabilities_BN, exits_B, scores_BK)
        rest: Answers = await self._following.remote(Travelling(parted.carried, request.policy))
        probabilities_BN = np.empty((request.count, rest.probabilities_BN.shape[1]), np.float32)
        if len(parted.leaving):
            probabilities_BN[parted.leaving] = parted.probabilities_BN
        probabilities_BN[parted.staying] = rest.probabilities_BN
        exits_B[parted.staying] = rest.exits_B
        assert rest.scores_BK is not None
        later = slice(self._exit + 1, early)
        scores_BK[parted.staying, later] = rest.scores_BK[:, later]
        return Answers(probabilities_BN, exits_B, scores_BK)


class StagedEngine:
    """Hands images to the first segment; the same interface as the queued engine's."""

    def __init__(self, first: Any, policy: ExitPolicy, most_waiting: int) -> None:
        """A running engine.

        Args:
            first: handle of the first segment.
            policy: of images that come without one.
            most_waiting: images inside, at most.
        """
        self._first, self._policy, self._most_waiting = first, policy, most_waiting
        self._died = require("ray.exceptions", "serving with Ray", "scale").RayActorError
        self._inside, self._closed = 0, False
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def inside(self) -> int:
        """Images without an answer yet."""
        return self._inside

    def submit(self, pixels_BCHW: NDArray[np.uint8], *, policy: ExitPolicy | None = None) -> Future[Answers]:
        """A future for the answers."""
        future: Future[Answers] = Future()
        self.hand_in(pixels_BCHW, future, policy=policy)
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
        """As `eenet.runtime.QueuedEngine.hand_in`."""
        count = len(pixels_BCHW)
        if not count:
            promise.set_result(Answers(np.empty((0, 0), np.float32), np.empty(0, np.intp)))
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._closed and self._inside and self._inside + count > self._most_waiting:
                if not wait:
                    raise Full(f"{self._inside} images are waiting; the most is {self._most_waiting}")
                if not self._changed.wait(None if deadline is None else deadline - time.monotonic()):
                    raise TimeoutError(f"no room for {count} images within {timeout} seconds")
            if self._closed:
                raise EngineClosedError("the engine is closed")
            self._inside += count
        request = Travelling(Carried(pixels_BCHW), policy or self._policy)
        asyncio.run_coroutine_threadsafe(self._answer(request, promise, timeout), self._loop)

    async def _answer(self, request: Travelling, promise: Promise, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                answers = await self._asked(request)
        except Exception as error:  # whatever a segment raises belongs to its request
            self._leave(request.count)
            promise.set_exception(error)
        else:
            self._leave(request.count)
            promise.set_result(answers)

    async def _asked(self, request: Travelling) -> Answers:
        """Again, if a replica dies under it: a segment keeps nothing."""
        for _ in range(TRIES - 1):
            try:
                return await self._first.remote(request)
            except self._died:
                continue
        return await self._first.remote(request)

    def _leave(self, count: int) -> None:
        with self._changed:
            self._inside -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Finish what is inside, take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._inside:
                self._changed.wait()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
