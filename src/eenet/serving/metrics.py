"""What the server counts, for Prometheus and for its own page."""

import threading
import time
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
RECENT = 2000  # requests a model's statistics look back on


@dataclass
class Totals:
    """What a model did since the server started."""

    requests: int = 0
    """Answered."""
    seconds: float = 0.0
    """Of those, in the network, added up."""
    failures: int = 0
    """Requests refused for want of room, too late, or failed."""
    failed_seconds: float = 0.0
    images: int = 0
    """Answered."""
    batches: Tally[int] = field(default_factory=Tally)
    """Images in a batch of the first segment → such batches."""
    last: float = 0.0
    """When the last request was answered; seconds since 1970."""


class Metrics:
    """One per server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        by_model, by_exit = ["model"], ["model", "exit"]
        self._requests = Counter(
            "eenet_requests", "HTTP requests, by path and status", ["path", "status"], registry=registry
        )
        self._latency = Histogram(
            "eenet_request_seconds",
            "In the network, waiting for others included, by the deepest exit an image of the request took",
            by_exit,
            buckets=SECONDS,
            registry=registry,
        )
        self._images = Counter("eenet_images", "Images answered, by exit", by_exit, registry=registry)
        self._cost = Counter(
            "eenet_relative_cost", "Sum of relative costs of images answered", by_model, registry=registry
        )
        self._batches = Histogram(
            "eenet_batch_images",
            "Images that ran together, by segment",
            ["model", "segment"],
            buckets=IMAGES,
            registry=registry,
        )
        self._waiting = Gauge(
            "eenet_images_inside", "Images accepted and not answered yet", by_model, registry=registry
        )
        self._refused = Counter("eenet_refused", "Requests refused: no room", by_model, registry=registry)
        self._failed = Counter(
            "eenet_failed",
            "Requests accepted and not answered: too late, or an error",
            by_model,
            registry=registry,
        )
        self._drift = Gauge(
            "eenet_drift_alarm",
            "1 once images were found to be unlike those of calibration",
            by_model,
            registry=registry,
        )
        self._budget = Gauge(
            "eenet_budget",
            "Wanted mean relative cost of requests that name none",
            by_model,
            registry=registry,
        )
        self._loaded = Gauge("eenet_model_loads", "Times a model was loaded", by_model, registry=registry)
        self._recent: dict[str, deque[tuple[float, tuple[int, ...]]]] = {}
        self._totals: defaultdict[str, Totals] = defaultdict(Totals)
        self._tallying = threading.Lock()  # batches are told by the engine's threads

    def text(self) -> tuple[bytes, str]:
        """In Prometheus' format, with its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def request(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def answered(self, model: str, exits: Sequence[int], costs: Sequence[float], seconds: float) -> None:
        self._latency.labels(model, str(max(exits))).observe(seconds)
        for exit_index in exits:
            self._images.labels(model, str(exit_index)).inc()
        self._cost.labels(model).inc(sum(costs))
        self._recent.setdefault(model, deque(maxlen=RECENT)).append((seconds, tuple(exits)))
        totals = self._totals[model]
        totals.requests, totals.seconds = totals.requests + 1, totals.seconds + seconds
        totals.images, totals.last = totals.images + len(exits), time.time()

    def batch(self, model: str, segment: int, images: int) -> None:
        self._batches.labels(model, str(segment)).observe(images)
        if segment == 0:
            with self._tallying:
                self._totals[model].batches[images] += 1

    def refused(self, model: str) -> None:
        self._refused.labels(model).inc()
        self._totals[model].failures += 1

    def failed(self, model: str, seconds: float) -> None:
        self._failed.labels(model).inc()
        self._totals[model].failures += 1
        self._totals[model].failed_seconds += seconds

    def totals(self, model: str) -> Totals:
        return self._totals[model]

    def loaded(self, model: str) -> None:
        self._loaded.labels(model).inc()
        self._recent.pop(model, None)  # it may have other exits now

    def state(self, model: str, *, inside: int, drift: bool | None, budget: float) -> None:
        """What is measured when it is asked for; no drift monitor: none."""
        self._waiting.labels(model).set(inside)
        self._budget.labels(model).set(budget)
        if drift is not None:
            self._drift.labels(model).set(drift)

    def recent(self, model: str, exits: int) -> dict[str, Any]:
        """Of the last requests: how many images left at each exit, and the median time by exit."""
        seen = list(self._recent.get(model, ()))
        counts, times = [0] * exits, [list[float]() for _ in range(exits)]
        for seconds, taken in seen:
            times[max(taken)].append(seconds)
            for exit_index in taken:
                counts[exit_index] += 1
        return {
            "exit_counts": counts,
            "median_ms": [round(1e3 * median(values), 2) if values else None for values in times],
        }
