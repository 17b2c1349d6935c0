"""The queued engine: many threads, each request gets what it would have got alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Full
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtime_cases import Mock, cases, expected_exits, policy_with_shares

from eenet.data.image_sets import ImageSet
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.runtime.backends.backend import Outputs
from eenet.runtime.backends.choice import BACKENDS, create_backend
from eenet.runtime.compacting import run_batch
from eenet.runtime.graphs.segments import segments_of
from eenet.runtime.queued import QueuedEngine


def images(*numbers: int) -> NDArray[np.uint8]:
    """Mock images: each holds its number."""
    return np.array(numbers, np.uint8)[:, None, None, None]


class Gated(Mock):
    """Waits before every run; fails on the image 99."""

    def __init__(self, scores_KB: NDArray[np.float32], policy: ExitPolicy) -> None:
        super().__init__(scores_KB, policy)
        self.gate, self.entered = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[tuple[int, list[int]]] = []

    def run(self, index: int, features: Any) -> Outputs:
        self.entered.release()
        self.gate.acquire()
        numbers = np.asarray(features).reshape(-1).astype(int)
        self.batches.append((index, numbers.tolist()))
        if 99 in numbers:
            raise RuntimeError("out of memory")
        return super().run(index, features)


ALL_STAY = ExitPolicy("confidence", (0.5,))
TABLE = np.zeros((1, 256), np.float32)


@given(cases(), st.lists(st.integers(0, 3), max_size=6), st.integers(1, 5), st.integers(1, 2))
@settings(max_examples=1500, deadline=None)
def test_equals_one_image_at_a_time(
    case: tuple[NDArray[np.float32], ExitPolicy], sizes: list[int], batch_size: int, workers: int
) -> None:
    scores_KB, policy = case
    wanted = expected_exits(scores_KB, policy)
    requests, first = [], 0
    for size in [*sizes, scores_KB.shape[1]]:
        requests.append(list(range(first, min(first + size, scores_KB.shape[1]))))
        first = min(first + size, scores_KB.shape[1])
    with QueuedEngine(Mock(scores_KB, policy), policy, batch_size=batch_size, workers=workers) as engine:
        futures = [engine.submit(images(*numbers)) for numbers in requests]
        for numbers, future in zip(requests, futures, strict=True):
            answers = future.result(10)
            assert answers.exits_B.tolist() == [wanted[n] for n in numbers]
            assert answers.probabilities_BN.tolist() == [[n, wanted[n]] for n in numbers]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch-compile"])  # takes minutes
def test_many_threads_on_a_real_network(trained: EENet, digits: ImageSet, backend: str) -> None:
    policy = policy_with_shares(trained, digits, "confidence", (True, True, True))
    fast = create_backend(backend, trained, segments_of(policy, trained.config.ensemble), "confidence")
    pixels = np.asarray(digits.pixels_BCHW)
    alone = run_batch(fast, policy, pixels)
    rng = np.random.default_rng(0)
    chosen = [rng.choice(len(pixels), rng.integers(1, 9), replace=False) for _ in range(100)]
    queue = QueuedEngine(fast, policy, ensemble=trained.config.ensemble, batch_size=16, workers=2)
    with queue as engine, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda rows: engine.submit(pixels[rows]).result(60), chosen))
    for rows, answers in zip(chosen, found, strict=True):
        np.testing.assert_allclose(answers.probabilities_BN, alone.probabilities_BN[rows], atol=1e-5)
        assert answers.exits_B.tolist() == alone.exits_B[rows].tolist()


def test_survivors_of_different_requests_run_together() -> None:
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY, batch_size=4, patience=60) as engine:
        futures = [engine.submit(images(0))]
        backend.entered.acquire()  # the first runs; the others gather behind it
        futures += [engine.submit(images(n)) for n in (1, 2, 3, 4)]
        backend.gate.release(100)
        for future in futures:
            future.result(10)
    assert backend.batches == [(0, [0]), (0, [1, 2, 3, 4]), (1, [0, 1, 2, 3]), (1, [4])]


def test_workers_share_what_waits() -> None:
    """A lone request of many images keeps all of them busy."""
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY, batch_size=32, workers=2) as engine:
        future = engine.submit(images(*range(5)))
        for _ in range(2):
            assert backend.entered.acquire(timeout=10)  # both run before either is through
        backend.gate.release(100)
        future.result(10)
    assert sorted(numbers for index, numbers in backend.batches if index == 0) == [[0, 1, 2], [3, 4]]


def test_an_image_does_not_wait_for_company_for_ever() -> None:
    """Without patience it goes first, although others would make a longer batch."""
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY, batch_size=8, patience=0) as engine:
        first = engine.submit(images(0))
        backend.entered.acquire()
        others = engine.submit(images(1, 2, 3))
        backend.gate.release(100)
        first.result(10)
        others.result(10)
    assert backend.batches[1] == (1, [0])


def test_a_failing_segment_fails_only_its_own_request() -> None:
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY) as engine:
        first = engine.submit(images(0))
        backend.entered.acquire()
        good, bad, other = (engine.submit(images(*numbers)) for numbers in ((1, 2), (3, 99), (4,)))
        backend.gate.release(100)
        with pytest.raises(RuntimeError, match="out of memory"):
            bad.result(10)
        assert [len(f.result(10).exits_B) for f in (first, good, other)] == [1, 2, 1]
        assert engine.submit(images(5)).result(10).exits_B.tolist() == [1]


def test_nan_fails_only_its_own_request() -> None:
    table = TABLE.copy()
    table[0, 7] = np.nan
    with QueuedEngine(Mock(table, ALL_STAY), ALL_STAY) as engine:
        good, bad = engine.submit(images(1)), engine.submit(images(7))
        with pytest.raises(ValueError, match="exit 0 gives NaN"):
            bad.result(10)
        assert good.result(10).exits_B.tolist() == [1]


def test_deadline() -> None:
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY) as engine:
        first = engine.submit(images(0))
        backend.entered.acquire()
        late = engine.submit(images(1), timeout=0.01)
        time.sleep(0.02)
        backend.gate.release(100)
        with pytest.raises(TimeoutError, match="the deadline passed"):
            late.result(10)
        first.result(10)
    assert all(1 not in numbers for _, numbers in backend.batches)


def test_bounded() -> None:
    backend = Gated(TABLE, ALL_STAY)
    with QueuedEngine(backend, ALL_STAY, most_waiting=3) as engine:
        first = engine.submit(images(0, 1))
        backend.entered.acquire()
        with pytest.raises(Full, match="2 images are waiting; the most is 3"):
            engine.submit(images(2, 3), wait=False)
        with pytest.raises(TimeoutError, match="no room for 2 images"):
            engine.submit(images(2, 3), timeout=0.01)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.submit, images(2, 3))
            backend.gate.release(100)
            assert waiting.result(10).result(10).exits_B.tolist() == [1, 1]
        first.result(10)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(images(0))
