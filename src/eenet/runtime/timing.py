"""How long early exit takes on this machine, against the plain backbone on the same backend."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import Result
from eenet.networks import EENet
from eenet.policies import ExitPolicy
from eenet.runtime.backends.choice import create_backend
from eenet.runtime.backends.exported import load_exported
from eenet.runtime.compacting import run_batch
from eenet.runtime.segments import Segment, segments_of

Pixels = NDArray[np.uint8]
RUN_SECONDS = 0.5  # of the plain backbone in one run
BLOCK_SECONDS = 0.05
MOST_CALLS = 200  # in one run
WARM_UP = 3  # calls of each


@dataclass(frozen=True)
class Contender:
    """Something to be timed on a batch."""

    name: str
    call: Callable[[Pixels], Any]


@dataclass(frozen=True, kw_only=True)
class BenchRow(Result):
    """Early exit against the plain backbone on one backend. Times in ms are for a batch."""

    backend: str
    batch_size: int
    plain_ms: float
    """Of the plain backbone: median over runs of the mean."""
    early_exit_ms: float
    ideal_ms: float
    """If each image cost only the backbone up to its exit, as measured."""
    speedup: float
    """plain / early exit, median over runs of the ratio."""
    mac_speedup: float
    """What MACs would say."""
    realised: float
    """speedup / mac_speedup."""
    efficiency: float
    """ideal / early exit."""
    exit_shares: list[float]
    plain_p50_ms: float
    """Percentiles over single batches."""
    plain_p95_ms: float
    plain_p99_ms: float
    plain_images_per_second: float
    early_exit_p50_ms: float
    early_exit_p95_ms: float
    early_exit_p99_ms: float
    early_exit_images_per_second: float
    against_ms: float | None = None
    """Of another network."""
    against_speedup: float | None = None
    """other network / early exit."""
    exported_ms: float | None = None
    """Of exported files."""
    exported_speedup: float | None = None
    """plain / exported."""


@dataclass(frozen=True, kw_only=True)
class StageTimes(Result):
    """Milliseconds that the parts of a network take for a batch: medians, measured in turn."""

    backend: str
    batch_size: int
    stage_ms: list[float]
    """K."""
    head_ms: list[float]
    """K - 1."""
    plain_ms: float
    """Of the plain backbone."""


def time_network(
    network: EENet,
    policy: ExitPolicy,
    pixels_BCHW: Pixels,
    *,
    backend: str,
    batch_size: int,
    repeats: int = 7,
    against: EENet | None = None,
    exported: str | Path | None = None,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> BenchRow:
    """Time early exit and the plain backbone in turn on the same batches.

    A run goes over some batches, in blocks of a twentieth of a second: a block by one, the same
    block by the next, so that all see the same weather and each finds its own data in the caches.

    Args:
        network: to be timed under a policy, and as the plain backbone without heads.
        policy: when images leave.
        pixels_BCHW: images, which decide who leaves where; taken again if they are too few.
        backend: see `eenet.Predictor`.
        batch_size: images that arrive together.
        repeats: runs; times are the medians over them.
        against: another network, without leaving early, such as a smaller one.
        exported: directory written by `eenet export`, run as its files say, whatever the backend.
        on_progress: called with 1 after every run.
        options: of the backend.

    Raises:
        ValueError: no images, or the backend can't be had.
    """
    if not len(pixels_BCHW):
        raise ValueError("there are no images to time with")
    if batch_size < 1 or repeats < 1:
        raise ValueError(f"batch_size {batch_size} and repeats {repeats} must be at least 1")
    segments = segments_of(policy, network.config.ensemble)
    parts = [Segment(0, s.last, None) for s in segments[:-1]]
    fast = create_backend(backend, network, [*segments, *parts], policy.score, **options)
    contenders = [
        Contender("early_exit", lambda batch: run_batch(fast, policy, batch)),
        _plain("plain", network, backend, **options),
    ]
    for i in range(len(parts)):
        contenders.append(Contender(f"part {i}", partial(fast.run, len(segments) + i)))
    if against is not None:
        contenders.append(_plain("against", against, backend, **options))
    if exported is not None:
        files, given = load_exported(exported, threads=options.get("threads"))
        contenders.append(Contender("exported", lambda batch: run_batch(files, given, batch)))
    batches = list(islice(_batches(pixels_BCHW, batch_size), MOST_CALLS))
    for contender in contenders:
        for batch in batches[:WARM_UP]:
            contender.call(batch)
    batches, block = _enough(contenders[1], batches)
    times = {contender.name: np.zeros((repeats, len(batches))) for contender in contenders}
    for run in range(repeats):
        for first in range(0, len(batches), block):
            for contender in contenders:
                for i, batch in enumerate(batches[first : first + block], first):
                    start = time.perf_counter()
                    contender.call(batch)
                    times[contender.name][run, i] = 1e3 * (time.perf_counter() - start)
        if on_progress is not None:
            on_progress(1)
    exits_B = np.concatenate([run_batch(fast, policy, batch).exits_B for batch in batches])
    shares = np.bincount(exits_B, minlength=network.num_exits + 1) / len(exits_B)
    return _row(network, policy, backend, batch_size, shares, times)


def stage_times(
    network: EENet,
    pixels_BCHW: Pixels,
    *,
    backend: str,
    batch_size: int,
    repeats: int = 30,
    **options: Any,
) -> StageTimes:
    """Milliseconds that every stage and every head takes for a batch: medians, measured in turn."""
    final = network.num_exits
    policy = ExitPolicy("confidence", (2.0,) * final)
    segments = [*segments_of(policy, None), *(Segment(k, k, None) for k in range(final))]
    fast = create_backend(backend, network, segments, policy.score, **options)
    plain = _plain("plain", network, backend, **options)
    batch = next(_batches(pixels_BCHW, batch_size))
    seen: dict[str, list[float]] = {}

    def clock(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seen.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for _ in range(WARM_UP + repeats):
        clock("plain", lambda: plain.call(batch))
        features: Any = batch
        for k in range(final):
            clock(f"bare {k}", lambda k=k, x=features: fast.run(final + 1 + k, x))
            features = clock(f"whole {k}", lambda k=k, x=features: fast.run(k, x)).features
        clock("last", lambda x=features: fast.run(final, x))
    ms = {name: median(values[WARM_UP:]) for name, values in seen.items()}
    return StageTimes(
        backend=backend,
        batch_size=batch_size,
        stage_ms=[*(ms[f"bare {k}"] for k in range(final)), ms["last"]],
        head_ms=[max(ms[f"whole {k}"] - ms[f"bare {k}"], 0.0) for k in range(final)],
        plain_ms=ms["plain"],
    )


def _plain(name: str, network: EENet, backend: str, **options: Any) -> Contender:
    final = network.num_exits
    fast = create_backend(backend, network, [Segment(0, final, final)], "confidence", **options)
    return Contender(name, partial(fast.run, 0))


def _batches(pixels_BCHW: Pixels, batch_size: int) -> Any:
    """Batches without end, going round."""
    rows = cycle(range(len(pixels_BCHW)))
    while True:
        yield np.ascontiguousarray(pixels_BCHW[list(islice(rows, batch_size))])


def _enough(plain: Contender, batches: list[Pixels]) -> tuple[list[Pixels], int]:
    """As many batches as the plain backbone runs in half a second, at least two; and as many make a block."""
    start = time.perf_counter()
    plain.call(batches[0])
    each = time.perf_counter() - start
    count = max(2, min(len(batches), round(RUN_SECONDS / each)))
    return batches[:count], max(1, round(BLOCK_SECONDS / each))


def _row(
    network: EENet,
    policy: ExitPolicy,
    backend: str,
    batch_size: int,
    shares: NDArray[np.float64],
    times: dict[str, NDArray[np.float64]],
) -> BenchRow:
    def ms(name: str) -> float:
        return float(np.median(times[name].mean(1)))

    def ratio(slow: str, fast: str) -> float:
        return float(np.median(times[slow].mean(1) / times[fast].mean(1)))

    on = [k for k, enabled in enumerate(policy.enabled) if enabled]
    ideal = shares[-1] * times["plain"].mean(1)
    for i, k in enumerate(on):
        ideal = ideal + shares[k] * times[f"part {i}"].mean(1)
    speedup, mac_speedup = ratio("plain", "early_exit"), 1 / float(shares @ network.costs(policy.enabled))
    row: dict[str, Any] = {
        "backend": backend,
        "batch_size": batch_size,
        "plain_ms": ms("plain"),
        "early_exit_ms": ms("early_exit"),
        "ideal_ms": float(np.median(ideal)),
        "speedup": speedup,
        "mac_speedup": mac_speedup,
        "realised": speedup / mac_speedup,
        "efficiency": float(np.median(ideal / times["early_exit"].mean(1))),
        "exit_shares": shares.tolist(),
    }
    for name in ("plain", "early_exit"):
        for percent in (50, 95, 99):
            row[f"{name}_p{percent}_ms"] = float(np.percentile(times[name], percent))
        row[f"{name}_images_per_second"] = 1e3 * batch_size / ms(name)
    if "against" in times:
        row |= {"against_ms": ms("against"), "against_speedup": ratio("against", "early_exit")}
    if "exported" in times:
        row |= {"exported_ms": ms("exported"), "exported_speedup": ratio("plain", "exported")}
    return BenchRow(**row)
