"""A network being served: its queue, its policies, what it watches, and how it gives way under load."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Full
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import cores
from eenet.evaluation import DriftMonitor, Measured, depth, depths_of, measure
from eenet.networks import Config, Network, checkpoint_directory, open_network
from eenet.policies import RECORDS_FILE, AnyRecords, ExitPolicy
from eenet.runtime import (
    Answers,
    Awaited,
    Engine,
    EngineClosedError,
    QueuedEngine,
    create_backend,
    installed,
    options_of,
    segments_of,
)
from eenet.serving.metrics import Metrics
from eenet.serving.protocol.describing import configuration, metadata, statistics
from eenet.serving.protocol.tensors import takes
from eenet.tasks import task_of

WATCHED_PER_SECOND = 20  # images that the drift monitor sees, at most
BUSY, QUIET = 0.25, 0.05  # of the room inside: above the first cheaper, below the second dearer
STEP_SECONDS, CALM_SECONDS = 0.25, 2.0
DIGITS = [str(n) for n in range(10)]
FEWEST_RUNS, MOST_RUNS, TIMING_SECONDS = 3, 15, 0.2  # in which is timed how long images take, exit by exit


@dataclass(frozen=True)
class ServeOptions:
    """What all models of a server share."""

    backend: str | None = None
    """Default: ONNX Runtime if it is installed, else torch."""
    providers: tuple[str, ...] = ()
    """Of ONNX Runtime. Default: the processor's."""
    batch_size: int = 32
    most_waiting: int = 256
    """Images accepted and not answered yet; more are refused."""
    workers: int | None = None
    """Threads that run batches. Default: one per core."""
    data: str | None = None
    """Whose validation images tell accuracies and what is usual. Default: records that training left."""
    skip_damaged: bool = False
    """Go on without image files of `data` that can't be read."""
    accuracy_floor: float | None = None
    """Under load give way to cheaper budgets, down to this accuracy on the validation split."""
    engine: Callable[[str, ExitPolicy], Engine] | None = None
    """Makes what runs the images of a model, by its name, under a policy. Default: a queued engine here."""


@dataclass(frozen=True)
class Setting:
    """How deep images go."""

    name: str
    policy: ExitPolicy
    cost: float
    """Wanted mean relative cost; of the own policy as measured on the records. NaN: unknown."""

    @property
    def thresholds(self) -> list[float | None]:
        """By early exit, for JSON; none: no image leaves there."""
        pairs = zip(self.policy.thresholds, self.policy.enabled, strict=True)
        return [t if on and math.isfinite(t) else None for t, on in pairs]


def served_policy(config: Config) -> ExitPolicy:
    """The network's own, with every exit on that any policy uses which requests may ask for."""
    own = config.exit_policy()
    budgets = [config.exit_policy(float(budget)) for budget in config.budgets]
    named = [config.exit_policy(None, key) for key in config.policies]
    used = [own, *budgets, *(policy for policy in named if policy.score == own.score)]
    enabled = tuple(any(on) for on in zip(*(policy.enabled for policy in used), strict=True))
    return ExitPolicy(own.score, own.thresholds, enabled)


class ServedModel:
    """One network on a queued engine."""

    def __init__(self, name: str, checkpoint: str | Path, options: ServeOptions, metrics: Metrics) -> None:
        """Load, prepare and try a checkpoint.

        Raises:
            FileNotFoundError, ValueError: it can't be loaded or run, or there are no records to keep an
                accuracy floor by.
        """
        self.name, self._metrics = name, metrics
        network = open_network(checkpoint)
        self.config = config = network.config
        self.task = task = task_of(config.task)
        task.must_support("serve")
        self.class_names = config.named_classes
        self.labels = "label" in task.outputs
        self.takes = takes(config, options.most_waiting)
        own = config.exit_policy()
        policies = {budget: config.exit_policy(float(budget)) for budget in config.budgets}
        named = {key: config.exit_policy(None, key) for key in config.policies}
        self._served = served_policy(config)
        self.costs = network.costs(self._served.enabled)
        self._budgets = {b: Setting(b, p, float(b)) for b, p in policies.items()}
        self._named = {key: Setting(key, p, math.nan) for key, p in named.items() if p.score == own.score}
        self.backend = options.backend or ("onnxruntime" if installed("onnxruntime") else "torch")
        self.most_waiting = options.most_waiting
        self._batch_size, self._workers, self._warm = options.batch_size, options.workers or cores(), False
        self.engine = options.engine(name, self._served) if options.engine else self._queued(network, options)
        records = _held_out(network, Path(checkpoint_directory(checkpoint)), options)
        self._monitor = _monitor(records, own) if records is not None else None
        self._last_watched, self._watching = 0.0, threading.Lock()
        measured = measure(records, own) if records is not None else None
        self.own = Setting("own", own, measured.relative_cost if measured else math.nan)
        self._load = _Load(self, records, measured, options.accuracy_floor)
        self.alone_ms = self._warm_up()
        """By exit, median milliseconds in the network of an image that leaves there; none: it is off."""
        self._warm = True
        metrics.loaded(name)

    def _queued(self, network: Network, options: ServeOptions) -> Engine:
        """All segments, in threads of this process."""
        run: dict[str, Any] = {"threads": 1 if "threads" in options_of(self.backend) else None}
        run["providers"] = options.providers or None
        segments = segments_of(self._served, self.config.ensemble)
        return QueuedEngine(
            create_backend(self.backend, network, segments, self._served.score, **run),
            self._served,
            ensemble=self.config.ensemble,
            batch_size=options.batch_size,
            most_waiting=options.most_waiting,
            workers=self._workers,
            on_batch=lambda k, images: self._metrics.batch(self.name, k, images) if self._warm else None,
        )

    def _warm_up(self) -> list[float | None]:
        """Every segment in a batch and alone, before anyone waits for it; then timed, an image at a time."""
        score, enabled = self._served.score, self._served.enabled
        final = len(enabled)

        def seconds(exit_index: int, count: int = 1) -> float:
            """All leave there."""
            thresholds = tuple(-math.inf if k == exit_index else math.inf for k in range(final))
            pixels = np.zeros((count, *self.config.input_size), np.uint8)
            start = time.perf_counter()
            self.engine.submit(pixels, policy=ExitPolicy(score, thresholds, enabled)).result()
            return time.perf_counter() - start

        for count in (self._batch_size, 1):
            seconds(final, count)
        found = {k: list[float]() for k in range(final + 1) if k == final or enabled[k]}
        end = time.perf_counter() + TIMING_SECONDS
        while (runs := len(found[final])) < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() < end):
            for exit_index, times in found.items():
                times.append(1e3 * seconds(exit_index))
        return [round(median(found[k]), 3) if k in found else None for k in range(final + 1)]

    def setting(self, budget: Any = None, policy: Any = None) -> Setting:
        """That of a request.

        Raises:
            ValueError: no such budget or policy.
        """
        if budget is not None and policy is not None:
            raise ValueError("give a budget or a policy, not both")
        if policy is not None:
            if policy == "own":
                return self.own
            if not isinstance(policy, str) or policy not in self._named:
                raise ValueError(
                    f"{self.name} has no policy {policy!r}; it has own, {', '.join(self._named)}"
                )
            return self._named[policy]
        if budget is None:
            return self._load.setting()
        if type(budget) not in (int, float) or not math.isfinite(budget):
            raise ValueError(f"budget is {budget!r}; give a number")
        return self._budgets[self.config.budget_within(budget)]

    async def infer(
        self, pixels_BCHW: NDArray[np.uint8], setting: Setting, seconds: float | None
    ) -> tuple[Answers, float]:
        """Answers of the engine, and the seconds it took, waiting for others included.

        Raises:
            queue.Full: there is no room for these images.
            TimeoutError: not done in so many seconds.
            EngineClosedError: the model was closed.
        """
        start, found = time.perf_counter(), Awaited()
        try:
            self.engine.hand_in(pixels_BCHW, found, policy=setting.policy, timeout=seconds, wait=False)
            async with asyncio.timeout(seconds):
                answers = await found.future
        except (Full, EngineClosedError):
            raise
        except Exception:
            self._metrics.failed(self.name, time.perf_counter() - start)
            raise
        spent, exits = time.perf_counter() - start, answers.exits_B.tolist()
        self._metrics.answered(self.name, exits, [self.costs[k] for k in exits], spent)
        if setting.policy == self.own.policy:
            self._watch(answers)
        return answers, spent

    def _watch(self, answers: Answers) -> None:
        """Show an image to the drift monitor, now and then: which one doesn't depend on what is on it."""
        now = time.monotonic()
        if self._monitor is None or now - self._last_watched < 1 / WATCHED_PER_SECOND:
            return
        self._last_watched = now
        last = max(k for k, on in enumerate(self.own.policy.enabled) if on)
        exit_index = int(answers.exits_B[0])
        assert answers.scores_BK is not None
        score = float(answers.scores_BK[0, min(exit_index, last)])
        with self._watching:
            self._monitor.update(float(depth(exit_index, score)))

    @property
    def drift(self) -> bool | None:
        """Whether drift was found; none without records to compare with."""
        return None if self._monitor is None else self._monitor.alarm

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        now = self._load.setting()
        self._metrics.state(self.name, inside=self.engine.inside, drift=self.drift, budget=now.cost)

    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs."""
        return metadata(self.name, self.takes, self.task.output_shapes(self.config))

    def configuration(self) -> dict[str, Any]:
        """In Triton's shape."""
        return configuration(
            self.name,
            self.takes,
            self.task.output_shapes(self.config),
            self.class_names,
            backend=self.backend,
            batch_size=self._batch_size,
            workers=self._workers,
        )

    def statistics(self) -> dict[str, Any]:
        """In Triton's shape."""
        return statistics(self.name, self._metrics.totals(self.name))

    def describe(self) -> dict[str, Any]:
        """For the page: exits, budgets, what they cost and take, and what happened lately."""
        now = self._load.setting()
        return {
            "name": self.name,
            "backend": self.backend,
            "input_size": list(self.config.input_size),
            "labels": self.labels,
            "exits": [*self.config.exits, "final"],
            "costs": self.costs,
            "off": [k for k, on in enumerate(self._served.enabled) if not on],
            "thresholds": now.thresholds,
            "score": self._served.score,
            "alone_ms": self.alone_ms,
            "digits": self.config.input_size[0] == 1 and self.class_names == DIGITS,
            "budgets": sorted(map(float, self._budgets)),
            "policies": ["own", *self._named],
            "now": now.name,
            "inside": self.engine.inside,
            "drift": self.drift,
            **self._metrics.recent(self.name, len(self.costs)),
        }

    def close(self) -> None:
        """Finish what is inside."""
        self.engine.close()


class _Load:
    """Which policy a request without wishes gets: the own one, or a cheaper one while many wait."""

    def __init__(
        self,
        model: ServedModel,
        records: AnyRecords | None,
        measured: Measured | None,
        floor: float | None,
    ) -> None:
        self._model, self._level, self._changed = model, 0, 0.0
        self._settings = [model.own]
        if floor is None:
            return
        if records is None or measured is None:
            raise ValueError(
                f"an accuracy floor for {model.name} needs its records of validation images; "
                "give --data, or serve the directory that training wrote"
            )
        if measured.quality < floor:
            raise ValueError(
                f"{model.name} has {measured.quality:.2%} {measured.metric}, below the floor of {floor:.2%}"
            )
        cheaper = []
        for budget in model.config.budgets:
            found = measure(records, model.config.exit_policy(float(budget)))
            if found.quality >= floor and found.relative_cost < measured.relative_cost:
                cheaper.append((found.relative_cost, model.setting(budget=float(budget))))
        self._settings += [setting for _, setting in sorted(cheaper, key=lambda one: -one[0])]

    def setting(self) -> Setting:
        """The one in force; moves a step at most every so often."""
        if len(self._settings) > 1:
            now = time.monotonic()
            full = self._model.engine.inside / self._model.most_waiting
            if full > BUSY and now - self._changed > STEP_SECONDS:
                self._move(1, now)
            elif full < QUIET and now - self._changed > CALM_SECONDS:
                self._move(-1, now)
        return self._settings[self._level]

    def _move(self, by: int, now: float) -> None:
        self._level = min(max(self._level + by, 0), len(self._settings) - 1)
        self._changed = now


def _held_out(network: Network, directory: Path, options: ServeOptions) -> AnyRecords | None:
    """Records of validation images: collected from a data set, or those that training left."""
    if options.data is not None:
        from eenet.evaluation import as_images, collect  # which take a second to import

        images = as_images(options.data, network.config, "validation", skip_damaged=options.skip_damaged)
        return collect(network, images)
    path = directory / RECORDS_FILE.format(split="validation")
    return task_of(network.config.task).load_records(path) if path.exists() else None


def _monitor(records: AnyRecords, own: ExitPolicy) -> DriftMonitor | None:
    few = len(records) < 100 or not any(own.enabled)
    return None if few else DriftMonitor(depths_of(records, own).tolist())
