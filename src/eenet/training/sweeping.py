"""Many trainings of one recipe: where exits sit, how many there are, which heads; resumable."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from eenet.backbones import PLACEMENTS, place, trace
from eenet.common import Result, counted, format_table, wrapped, write_atomically
from eenet.data import Images
from eenet.evaluation import EXIT_COLOURS, measure
from eenet.networks import WEIGHTS_FILE
from eenet.policies import (
    RECORDS_FILE,
    AnyRecords,
    ExitPolicy,
    exits_for_budget,
    policy_for_budget,
    recorded_scores,
)
from eenet.tasks import Task, task_of
from eenet.training.planning.budgeting import wanted_budget
from eenet.training.planning.choosing import chosen_run, complete, default_directory
from eenet.training.planning.making import backbone_for
from eenet.training.planning.settings import TrainConfig, with_defaults
from eenet.training.planning.starting import load_images
from eenet.training.recipes import configured
from eenet.training.run import train
from eenet.training.state import STATE_FILE

SEARCHED = "searched"
OVER = [TrialState.COMPLETE, TrialState.PRUNED]
JOURNAL_FILE, TABLE_FILE, PICTURE_FILE = "sweep.journal", "sweep.csv", "sweep.html"
CURVE_POINTS = 60
MOST_EXITS = 16  # of the network with an exit at every cut


@dataclass(frozen=True)
class Space:
    """What is varied; every combination is a training."""

    placements: Sequence[str] = (*PLACEMENTS, SEARCHED)
    """Names of `eenet.backbones.PLACEMENTS`, or `searched`: the best choice for the budget among many exits
    of a network that is trained once, with an exit at every cut (at most 16)."""
    nums_exits: Sequence[int] = (3,)
    heads: Sequence[str] = ()
    """Default: the task's own."""


@dataclass(frozen=True, kw_only=True)
class SweepRow(Result):
    """A combination that was trained, or why it can't be."""

    placement: str
    num_exits: int
    head: str
    exits: list[str] | None = None
    """Behind which blocks they sit."""
    metric: str | None = None
    """What is called accuracy here: `accuracy`, or of masks `mIoU`."""
    validation_accuracy: float | None = None
    validation_cost: float | None = None
    """Relative."""
    accuracy: float | None = None
    """On test images, as all that follows."""
    relative_cost: float | None = None
    full_accuracy: float | None = None
    dead_exits: list[int] | None = None
    checkpoint: str | None = None
    error: str | None = None


def sweep(
    recipe: str | TrainConfig | None = None,
    out: str | Path | None = None,
    space: Space | None = None,
    *,
    trials: int | None = None,
    command: str | None = None,
    **settings: Any,
) -> list[SweepRow]:
    """Train a recipe with exits in different places; compare at its budget.

    An interrupted sweep goes on where it was, in the middle of a training as well. Table and
    picture are written anew after every training.

    Args:
        recipe: name of a recipe, or a configuration; its budget is where the networks are compared. Default:
            chosen for `data` and `model`, as `eenet.train` does; give a `budget`.
        out: directory with a directory for each network, the journal, `sweep.csv` and `sweep.html`. Default:
            runs/RECIPE-sweep, or runs/DATA-MODEL-sweep.
        space: what is varied.
        trials: so many combinations, chosen by Optuna's TPE. Default: all.
        command: how the run was started, for cards and reports.
        settings: fields of `TrainConfig` that shall be others than in the recipe.

    Returns:
        A row for each combination, the best on validation images first.

    Raises:
        ValueError: unknown names, or another sweep's journal lies in `out`.
    """
    if recipe is None:
        settings = complete(settings, None, None, plain=False)
        config = TrainConfig(**{"budget": "auto", **settings})
    else:
        config = configured(recipe, **settings)
    task = task_of(config.task)
    task.must_support("sweep")
    if (budget := wanted_budget(config)) is None:
        raise ValueError("a sweep compares at one budget; give it as a number (--budget 0.6)")
    if recipe is None:
        config, _, _ = chosen_run(settings, None, None, shown=True)
    config = replace(config, budget=budget)
    out, space = Path(out or sweep_directory(recipe, settings)), space or Space()
    space = replace(space, heads=space.heads or (task.head,))
    _check(space, trials, task.heads())
    out.mkdir(parents=True, exist_ok=True)
    cuts = _cuts(config, load_images(config)["train"])
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(out / JOURNAL_FILE))),
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )
    asked = json.loads(json.dumps(asdict(config)))
    if with_defaults(study.user_attrs.get("recipe", asked)) != asked:
        raise ValueError(f"{out} holds the sweep of another recipe; choose another --out")
    study.set_user_attr("recipe", asked)
    for stopped in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(stopped.number, state=TrialState.FAIL)
        study.enqueue_trial(stopped.params)

    def one(trial: optuna.Trial) -> float:
        placement = trial.suggest_categorical("placement", list(space.placements))
        num_exits = trial.suggest_categorical("num_exits", list(space.nums_exits))
        head = trial.suggest_categorical("head", list(space.heads))
        try:
            chosen = replace(config, placement=placement, num_exits=num_exits, head=head)
            row = _train(chosen, cuts, out, command)
        except ValueError as error:  # too many exits for this placement, a budget below the first exit
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned(str(error)) from error
        for key, value in row.to_dict().items():
            trial.set_user_attr(key, value)
        return row.validation_accuracy or 0.0

    grid = [
        {"placement": placement, "num_exits": num_exits, "head": head}
        for placement, num_exits, head in product(space.placements, space.nums_exits, space.heads)
    ]
    if trials is None:
        for combination in grid:
            study.enqueue_trial(combination, skip_if_exists=True)
    over = study.get_trials(states=OVER)
    left = min(trials or len(grid), len(grid)) - sum(trial.params in grid for trial in over)
    if left > 0:
        study.optimize(one, n_trials=left, callbacks=[lambda study, _: _write(out, _rows(study), task)])
    rows = _rows(study)
    _write(out, rows, task)
    return rows


def sweep_directory(recipe: str | TrainConfig | None, settings: Mapping[str, Any]) -> str:
    """Where a sweep writes to if it isn't told."""
    if recipe is None:
        return f"{default_directory(settings)}-sweep"
    return f"runs/{recipe if isinstance(recipe, str) else recipe.data}-sweep"


def _check(space: Space, trials: int | None, heads: Sequence[str]) -> None:
    if trials is not None and trials < 1:
        raise ValueError(f"trials is {trials}; give at least 1")
    for name, values in asdict(space).items():
        if not values:
            raise ValueError(f"{name} is empty; give at least one")
    known = (*PLACEMENTS, SEARCHED)
    for placement in space.placements:
        if placement not in known:
            raise ValueError(f"unknown placement {placement!r}; choose from {', '.join(known)}")
    for head in space.heads:
        if head not in heads:
            raise ValueError(f"unknown exit head {head!r}; choose from {', '.join(heads)}")


def _train(
    config: TrainConfig,
    cuts: Sequence[tuple[str, float]],
    out: Path,
    command: str | None,
) -> SweepRow:
    """Train unless that network is there already, and measure."""
    budget = wanted_budget(config)
    assert budget is not None
    load = task_of(config.task).load_records
    if config.placement == SEARCHED:
        every = place(cuts, MOST_EXITS) if len(cuts) > MOST_EXITS else range(len(cuts))
        path = _trained(config, cuts, list(every), out, command)
        held_out = load(path / RECORDS_FILE.format(split="validation"))
        chosen = [every[k] for k in exits_for_budget(held_out, config.num_exits, budget)]
    else:
        chosen = place(cuts, config.num_exits, config.placement)
    path = _trained(config, cuts, chosen, out, command)
    held_out, tested = (load(path / RECORDS_FILE.format(split=split)) for split in ("validation", "test"))
    policy = policy_for_budget(held_out, budget)
    validation, test = measure(held_out, policy), measure(tested, policy)
    return SweepRow(
        placement=str(config.placement),
        num_exits=config.num_exits,
        head=config.head,
        exits=[cuts[i][0] for i in chosen],
        metric=test.metric,
        validation_accuracy=validation.quality,
        validation_cost=validation.relative_cost,
        accuracy=test.quality,
        relative_cost=test.relative_cost,
        full_accuracy=test.full_quality,
        dead_exits=test.dead_exits,
        checkpoint=str(path),
    )


def _trained(
    config: TrainConfig,
    cuts: Sequence[tuple[str, float]],
    chosen: Sequence[int],
    out: Path,
    command: str | None,
) -> Path:
    """The directory of the network with these exits: two placements may mean the same one."""
    path = out / "-".join([config.head, *map(str, chosen)])
    if not (path / WEIGHTS_FILE).exists():
        placed = replace(config, placement=[cuts[i][0] for i in chosen], num_exits=len(chosen))
        train(placed, path, resume=(path / STATE_FILE).exists(), command=command)
    return path


def _cuts(config: TrainConfig, images: Images) -> list[tuple[str, float]]:
    """Name and fraction of MACs of every cut of the recipe's backbone."""
    backbone, _ = backbone_for(config, images)
    return [(cut.name, cut.fraction) for cut in trace(backbone, images.image_size).cuts]


def _rows(study: optuna.Study) -> list[SweepRow]:
    """One for each combination that was tried, the best first."""
    tried = {str(t.params): SweepRow(**{**t.params, **t.user_attrs}) for t in study.get_trials(states=OVER)}
    return sorted(tried.values(), key=lambda row: -(row.validation_accuracy or -1))


def sweep_table(rows: Sequence[SweepRow]) -> str:
    """Rows as text."""
    cells, failed = [], []
    for row in rows:
        named = [row.placement, str(row.num_exits), row.head]
        if row.error is not None:
            failed.append(
                wrapped(f"{row.placement}, {counted(row.num_exits, 'exit')}, {row.head}: {row.error}")
            )
            continue
        percents = [f"{value:.2%}" for value in (row.validation_accuracy, row.accuracy, row.full_accuracy)]
        cells.append([*named, ", ".join(row.exits or []), *percents, f"{row.relative_cost:.3f}"])
    header = ["placement", "exits", "head", "behind", "validation", "test", "test, full network", "test cost"]
    return "\n\n".join([format_table(header, cells), *failed])


def _curve(records: AnyRecords) -> tuple[list[float], list[float]]:
    """Mean relative cost and metric, where all early exits share one threshold on the confidence."""
    confidence_KB, early = recorded_scores(records, "confidence"), len(records.head_macs)
    points = []
    for threshold in np.quantile(confidence_KB, np.linspace(0, 1, CURVE_POINTS)).tolist():
        policy = ExitPolicy("confidence", (threshold,) * early)
        points.append((measure(records, policy).relative_cost, records.quality(policy)))
    costs, found = zip(*sorted(points), strict=True)
    return list(costs), list(found)


def _write(out: Path, rows: Sequence[SweepRow], task: Task) -> None:
    """The table, and the picture of every network's curve on test images."""
    columns = list(dict.fromkeys(key for row in rows for key in row.to_dict()))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(row.to_dict() for row in rows)
    write_atomically(out / TABLE_FILE, text.getvalue().encode())
    figure, placements = go.Figure(), sorted({row.placement for row in rows})
    metric = next((row.metric for row in rows if row.metric), "accuracy")
    for row in rows:
        if row.checkpoint is None:
            continue
        path = Path(row.checkpoint) / RECORDS_FILE.format(split="test")
        costs, accuracies = _curve(task.load_records(path))
        name = f"{row.placement}, {counted(row.num_exits, 'exit')}, {row.head}"
        colour = EXIT_COLOURS[placements.index(row.placement) % len(EXIT_COLOURS)]
        figure.add_scatter(x=costs, y=accuracies, name=name, legendgroup=name, line_color=colour)
        figure.add_scatter(
            x=[row.relative_cost],
            y=[row.accuracy],
            name=name,
            legendgroup=name,
            showlegend=False,
            mode="markers",
            marker={"size": 10, "color": colour},
        )
    figure.update_layout(
        title=f"{metric} against cost on test images; dots: set for the budget on validation images",
        xaxis_title="relative cost (MACs / MACs of the plain backbone)",
        yaxis={"title": metric, "tickformat": ".1%"},
        template="plotly_white",
    )
    write_atomically(out / PICTURE_FILE, figure.to_html(include_plotlyjs=True).encode())
