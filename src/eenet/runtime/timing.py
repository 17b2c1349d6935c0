"""How long early exit takes on this machine, against the plain backbone on the same backend."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import Result
from eenet.networks import Network
from eenet.policies import ExitPolicy
from eenet.runtime.backends.choice import create_backend
from eenet.runtime.backends.exported import load_exported
from eenet.runtime.compacting import run_batch
from eenet.runtime.graphs.segments import Segment, segments_of

Pixels = NDArray[np.uint8]
Times = NDArray[np.float64]
"""Milliseconds that batches took: runs × batches."""
RUN_SECONDS = 0.5  # of the plain backbone in one run
BLOCK_SECONDS = 0.05
MOST_CALLS = 200  # in one run
WARM_UP = 3  # calls of each
RESAMPLED = 500


@dataclass(frozen=True)
class Contender:
    """Something to be timed on a batch."""

    name: str
    call: Callable[[Pixels], Any]


@dataclass(frozen=True, kw_only=True)
class BenchRow(Result):
    """Early exit against the plain backbone on one backend. Times in ms are for a batch, to four digits.

    All are from the same samples: the time of a batch is its median over the runs, so that what else the
    machine does counts little; then come means and percentiles over the batches.
    """

    backend: str
    batch_size: int
    plain_ms: float
    """Of the plain backbone, mean."""
    early_exit_ms: float
    ideal_ms: float
    """If each image cost only the backbone up to its exit, as measured."""
    speedup: float
    """plain_ms / early_exit_ms."""
    speedup_low: float
    """90 % of what comes out when runs are drawn again lies between, see `spread`."""
    speedup_high: float
    mac_speedup: float
    """What MACs would say."""
    realised: float
    """speedup / mac_speedup."""
    efficiency: float
    """ideal_ms / early_exit_ms."""
    exit_shares: list[float]
    plain_p50_ms: float
    """Percentiles over batches, which differ in where their images leave."""
    plain_p95_ms: float
    plain_p99_ms: float
    plain_images_per_second: float
    early_exit_p50_ms: float
    early_exit_p95_ms: float
    early_exit_p99_ms: float
    early_exit_images_per_second: float
    batches: int
    """In a run."""
    against_ms: float | None = None
    """Of another network."""
    against_speedup: float | None = None
    """against_ms / early_exit_ms."""
    exported_ms: float | None = None
    """Of exported files."""
    exported_speedup: float | None = None
    """plain_ms / exported_ms."""


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
    network: Network,
    policy: ExitPolicy,
    pixels_BCHW: Pixels,
    *,
    backend: str,
    batch_size: int,
    repeats: int = 7,
    against: Network | None = None,
    exported: str | Path | None = None,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> BenchRow:
    """Time early exit and the plain backbone in turn on the same batches, see `times_in_turn`.

    Args:
        network: to be timed under a policy, and as the plain backbone without heads.
        policy: when images leave.
        pixels_BCHW: images, which decide who leaves where; taken again if they are too few.
        backend: see `eenet.Predictor`.
        batch_size: images that arrive together.
        repeats: runs; the time of a batch is its median over them.
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
        _plain("plain", network, backend, **options),
        Contender("early_exit", lambda batch: run_batch(fast, policy, batch)),
    ]
    for i in range(len(parts)):
        contenders.append(Contender(f"part {i}", partial(fast.run, len(segments) + i)))
    if against is not None:
        contenders.append(_plain("against", against, backend, **options))
    if exported is not None:
        files, given = load_exported(exported, threads=options.get("threads"))
        contenders.append(Contender("exported", lambda batch: run_batch(files, given, batch)))
    times = times_in_turn(
        contenders, pixels_BCHW, batch_size=batch_size, repeats=repeats, on_progress=on_progress
    )
    batches = islice(_batches(pixels_BCHW, batch_size), times["plain"].shape[1])
    exits_B = np.concatenate([run_batch(fast, policy, batch).exits_B for batch in batches])
    shares = np.bincount(exits_B, minlength=network.num_exits + 1) / len(exits_B)
    costs = network.costs(policy.enabled)
    return row_of(times, shares, costs, policy.enabled, backend=backend, batch_size=batch_size)


def times_in_turn(
    contenders: Sequence[Contender],
    pixels_BCHW: Pixels,
    *,
    batch_size: int,
    repeats: int,
    run_seconds: float = RUN_SECONDS,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Times]:
    """Milliseconds of every contender for the same batches, in every run.

    A run goes over some batches, in blocks of a twentieth of a second: a block by one, the same
    block by the next, so that all see the same weather and each finds its own data in the caches.

    Args:
        contenders: the first says how many batches a run has, at least two.
        pixels_BCHW: images; taken again if they are too few.
        batch_size: images that arrive together.
        repeats: runs.
        run_seconds: of the first contender in one run.
        on_progress: called with 1 after every run.
    """
    batches = list(islice(_batches(pixels_BCHW, batch_size), MOST_CALLS))
    for contender in contenders:
        for batch in batches[:WARM_UP]:
            contender.call(batch)
    each = min(_clocked(contenders[0], batch) for batch in batches[:WARM_UP])
    batches = batches[: max(2, round(1e3 * run_seconds / each))]
    block = max(1, round(1e3 * BLOCK_SECONDS / each))
    times = {contender.name: np.zeros((repeats, len(batches))) for contender in contenders}
    for run in range(repeats):
        for first in range(0, len(batches), block):
            for contender in contenders:
                for i, batch in enumerate(batches[first : first + block], first):
                    times[contender.name][run, i] = _clocked(contender, batch)
        if on_progress is not None:
            on_progress(1)
    return times


def row_of(
    times: dict[str, Times],
    exit_shares: Sequence[float] | NDArray[np.float64],
    costs: Sequence[float] | NDArray[np.float64],
    enabled: Sequence[bool],
    *,
    backend: str,
    batch_size: int,
) -> BenchRow:
    """What times say, all of it by the same samples.

    Args:
        times: of `plain`, `early_exit`, and of the plain backbone up to the exits that are on, `part 0`,
            `part 1`, …; perhaps `against` and `exported`.
        exit_shares: of the images, that leave at each exit.
        costs: relative, of an image that leaves there.
        enabled: exits that are on.
        backend, batch_size: what was timed.
    """
    shares = np.asarray(exit_shares, float)
    ms = {name: mean_ms(held) for name, held in times.items()}
    ideal = shares[-1] * ms["plain"]
    for i, k in enumerate(k for k, on in enumerate(enabled) if on):
        ideal += shares[k] * ms[f"part {i}"]
    ideal = _four_digits(ideal)
    speedup, mac_speedup = ms["plain"] / ms["early_exit"], 1 / float(shares @ np.asarray(costs, float))
    low, high = spread(times["plain"], times["early_exit"])
    row: dict[str, Any] = {
        "backend": backend,
        "batch_size": batch_size,
        "plain_ms": ms["plain"],
        "early_exit_ms": ms["early_exit"],
        "ideal_ms": ideal,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "mac_speedup": mac_speedup,
        "realised": speedup / mac_speedup,
        "efficiency": ideal / ms["early_exit"],
        "exit_shares": shares.tolist(),
        "batches": times["plain"].shape[1],
    }
    for name in ("plain", "early_exit"):
        for percent in (50, 95, 99):
            found = np.percentile(np.median(times[name], 0), percent)
            row[f"{name}_p{percent}_ms"] = _four_digits(found)
        row[f"{name}_images_per_second"] = 1e3 * batch_size / ms[name]
    if "against" in times:
        row |= {"against_ms": ms["against"], "against_speedup": ms["against"] / ms["early_exit"]}
    if "exported" in times:
        row |= {"exported_ms": ms["exported"], "exported_speedup": ms["plain"] / ms["exported"]}
    return BenchRow(**row)


def mean_ms(times: Times) -> float:
    """Of a batch, to four digits: the mean over batches of their medians over runs."""
    return _four_digits(np.median(times, 0).mean())


def spread(slow: Times, fast: Times) -> tuple[float, float]:
    """Within which slow / fast lies in 90 % of the cases when runs are drawn again, the same for both.

    Bootstrap, Efron 1979. After a single run batches are drawn instead.
    """
    if len(slow) == 1:
        slow, fast = slow.T, fast.T
        typical = np.mean
    else:
        typical = np.median
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(slow), size=len(slow)) for _ in range(RESAMPLED)]
    ratios = [typical(slow[rows], 0).mean() / typical(fast[rows], 0).mean() for rows in drawn]
    low, high = np.percentile(ratios, (5, 95))
    speedup = float(typical(slow, 0).mean() / typical(fast, 0).mean())
    return min(float(low), speedup), max(float(high), speedup)


def stage_times(
    network: Network,
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


def timed(records: Any, measured: Mapping[str, Any]) -> Any:
    """Records whose costs are times, in nanoseconds; `measured` is what a `StageTimes` holds, by name."""
    stages, heads = ([round(1e6 * ms) for ms in measured[f"{part}_ms"]] for part in ("stage", "head"))
    plain = round(1e6 * measured["plain_ms"])
    return replace(records, stage_macs=stages, head_macs=heads, backbone_macs=plain)


def _plain(name: str, network: Network, backend: str, **options: Any) -> Contender:
    final = network.num_exits
    fast = create_backend(backend, network, [Segment(0, final, final)], "confidence", **options)
    return Contender(name, partial(fast.run, 0))


def _batches(pixels_BCHW: Pixels, batch_size: int) -> Iterator[Pixels]:
    """Batches without end, going round."""
    rows = cycle(range(len(pixels_BCHW)))
    while True:
        yield np.ascontiguousarray(pixels_BCHW[list(islice(rows, batch_size))])


def _clocked(contender: Contender, batch: Pixels) -> float:
    start = time.perf_counter()
    contender.call(batch)
    return 1e3 * (time.perf_counter() - start)


def _four_digits(value: float | np.floating[Any]) -> float:
    """So that what is printed is what ratios are made of; a clock knows no more."""
    return float(f"{value:.4g}")
