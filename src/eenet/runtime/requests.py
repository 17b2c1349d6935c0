"""Requests inside the queued engine: images that wait for the same segment, and what they carry along."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eenet.policies import ExitPolicy, Floats, Weights
from eenet.runtime.backends.backend import Backend
from eenet.runtime.compacting import Answers, Seen


class Promise(Protocol):
    """Where the answers of a request go, or its error; told once, by a thread of the engine."""

    def set_result(self, answers: Answers, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


class Engine(Protocol):
    """Takes images from any thread; see `eenet.runtime.QueuedEngine`."""

    @property
    def inside(self) -> int: ...

    def submit(
        self, pixels_BCHW: NDArray[np.uint8], *, policy: ExitPolicy | None = None
    ) -> Future[Answers]: ...

    def hand_in(
        self,
        pixels_BCHW: NDArray[np.uint8],
        promise: Promise,
        *,
        policy: ExitPolicy | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> None: ...

    def close(self) -> None: ...


class EngineClosedError(RuntimeError):
    """The engine takes nothing any more."""


@dataclass(eq=False)
class Request:
    promise: Promise
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
            self.probabilities_BN = np.empty((len(self.exits_B), *values.shape[1:]), np.float32)
        self.probabilities_BN[rows] = values
        self.exits_B[rows] = exit_index
        self.left -= len(rows)

    def finish(self) -> None:
        """Outside of any lock: callbacks run here."""
        assert self.probabilities_BN is not None
        self.promise.set_result(Answers(self.probabilities_BN, self.exits_B, self.scores_BK))


@dataclass
class Chunk:
    """Images of one request that wait for the same segment."""

    request: Request
    rows: NDArray[np.intp]
    features: Any
    before_BN: Floats | None = None
    """What the exits so far said together, see `eenet.policies.ensemble`."""
    seen: Seen = field(default_factory=list)
    """What each of them said, if the policy's score looks back."""

    @property
    def size(self) -> list[tuple[int, ...]]:
        """Of an image's features, and of all else that it carries: images of one size run together."""
        parts = self.features if isinstance(self.features, tuple) else (self.features,)
        return [tuple(part.shape[1:]) for part in parts]

    def part(self, backend: Backend, first: int, end: int) -> "Chunk":
        """Some of its images."""
        before_BN = None if self.before_BN is None else self.before_BN[first:end]
        features = backend.take(self.features, np.arange(first, end))
        seen = [(said_BN[first:end], sure_B[first:end]) for said_BN, sure_B in self.seen]
        return Chunk(self.request, self.rows[first:end], features, before_BN, seen)


@dataclass
class Queue:
    chunks: deque[Chunk] = field(default_factory=deque)
    images: int = 0

    def put(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.images += len(chunk.rows)

    def pop(self, backend: Backend, most: int) -> list[Chunk]:
        """The first chunks of one size, together at most so many images; the last one may be divided."""
        taken: list[Chunk] = []
        while self.chunks and most > 0 and (not taken or self.chunks[0].size == taken[0].size):
            chunk = self.chunks.popleft()
            if len(chunk.rows) > most:
                self.chunks.appendleft(chunk.part(backend, most, len(chunk.rows)))
                chunk = chunk.part(backend, 0, most)
            self.images -= len(chunk.rows)
            most -= len(chunk.rows)
            taken.append(chunk)
        return taken


def said_before(chunks: Sequence[Chunk]) -> Floats | None:
    """Joined answers of chunks that have come the same way."""
    said_BN = [chunk.before_BN for chunk in chunks if chunk.before_BN is not None]
    return np.concatenate(said_BN) if said_BN else None


def seen_before(chunks: Sequence[Chunk]) -> Seen:
    """What their exits so far said each."""
    exits = zip(*(chunk.seen for chunk in chunks), strict=True)
    return [(np.concatenate([p for p, _ in said]), np.concatenate([h for _, h in said])) for said in exits]


class Awaited:
    """What the engine's threads tell an event loop; as `asyncio.wrap_future`, for half its price."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answers] = self._loop.create_future()

    def set_result(self, answers: Answers, /) -> None:
        self._tell(self.future.set_result, answers)

    def set_exception(self, error: Exception, /) -> None:
        self._tell(self.future.set_exception, error)

    def _tell(self, settle: Callable[[Any], None], value: Any) -> None:
        def unless_given_up() -> None:
            if not self.future.done():
                settle(value)

        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(unless_given_up)
