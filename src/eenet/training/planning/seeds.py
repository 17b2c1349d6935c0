"""The same run with several seeds: mean ± standard error, and one report that compares them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eenet.common import Result, format_table
from eenet.evaluation import report
from eenet.networks import read_config
from eenet.training.planning.choosing import default_directory
from eenet.training.planning.settings import TrainConfig
from eenet.training.run import REPORT_FILE, TrainResult, train
from eenet.training.state import STATE_FILE
from eenet.training.trainer import process_state

MEASURED = ("accuracy", "relative_cost", "full_accuracy")


@dataclass(frozen=True, kw_only=True)
class SeedsResult(Result):
    """What runs with several seeds measured on test images."""

    seeds: list[int]
    checkpoints: list[str]
    mean: dict[str, float]
    """Of `accuracy`, `relative_cost` and `full_accuracy`, or what a task has instead of accuracy."""
    standard_error: dict[str, float]
    """Of each mean, by the spread between seeds."""
    runs: list[TrainResult]
    report: str | None
    """The page that compares them, if the task has one."""

    def __str__(self) -> str:
        measured = [run.evaluation for run in self.runs]
        rows = [
            [str(seed), f"{each.quality:.2%}", f"{each.relative_cost:.3f}", f"{each.full_quality:.2%}"]
            for seed, each in zip(self.seeds, measured, strict=True)
        ]
        told = []
        for name in self.mean:
            mean, error = self.mean[name], self.standard_error[name]
            cost = name == "relative_cost"
            told.append(f"{mean:.3f} ± {error:.3f}" if cost else f"{mean:.2%} ± {100 * error:.2f}")
        rows.append(["mean ± standard error", *told])
        header = ["seed", measured[0].metric, "relative cost", "without leaving early"]
        where = f"\n\nreport {self.report}" if self.report else ""
        return f"{format_table(header, rows)}{where}"


def train_seeds(
    seeds: int,
    recipe: str | TrainConfig | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> SeedsResult:
    """Train with several seeds, one after the other; the same call goes on where it was interrupted.

    Args:
        seeds: how many, from the `seed` of the settings on.
        recipe: as for `train`.
        out: directory with a directory for each seed and the report. Default: that of `train`, with `-seeds`.
        settings: as for `train`; data by name.

    Raises:
        ValueError: fewer than two seeds, or as `train`.
    """
    if seeds < 2:
        raise ValueError(f"seeds is {seeds}; give at least 2 to know how much runs differ")
    given = vars(recipe) if isinstance(recipe, TrainConfig) else {}
    first = settings.pop("seed", given.get("seed", 0))
    if out is None:
        named = recipe if isinstance(recipe, str) else None
        out = f"runs/{named}-seeds" if named else f"{default_directory({**given, **settings})}-seeds"
    out, runs = Path(out), []
    chosen = list(range(first, first + seeds))
    for seed in chosen:
        place = out / f"seed{seed}"
        runs.append(_one(place, recipe, seed, settings))
    places = [str(out / f"seed{seed}") for seed in chosen]
    page = out / REPORT_FILE
    shown = all(run.report for run in runs)
    if process_state().is_main_process and shown:
        data = read_config(Path(places[0])).provenance["train_config"]["data"]
        report(places, page, data=data)
    figure, full_figure = runs[0].evaluation.figures
    names = (figure, "relative_cost", full_figure)
    mean, error = aggregated([run.to_dict() for run in runs], names)
    return SeedsResult(
        seeds=chosen,
        checkpoints=places,
        mean=mean,
        standard_error=error,
        runs=runs,
        report=str(page) if shown else None,
    )


def _one(
    place: Path, recipe: str | TrainConfig | None, seed: int, settings: Mapping[str, Any]
) -> TrainResult:
    """A run, taken up again if it was stopped; one that is over is only measured again, in no time."""
    return train(recipe, place, seed=seed, resume=(place / STATE_FILE).exists(), **settings)


def aggregated(
    runs: Sequence[Mapping[str, Any]], names: Sequence[str] = MEASURED
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard error over runs of what each measured."""
    found = {name: np.array([run[name] for run in runs], float) for name in names}
    mean = {name: float(values.mean()) for name, values in found.items()}
    error = {name: float(values.std(ddof=1) / len(values) ** 0.5) for name, values in found.items()}
    return mean, error
