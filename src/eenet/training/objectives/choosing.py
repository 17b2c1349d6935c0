"""An objective by name, with the settings of a run that it takes."""

import inspect
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor

from eenet.training.objectives.base import OBJECTIVES, Objective
from eenet.training.planning.settings import TrainConfig, changed

WEIGHTS = ("cost_weight", "early_weight", "distillation", "label_smoothing")
"""Settings of a run that an objective may take."""


def trains_confidence(name: str) -> bool:
    """Whether an objective trains the gates, to be compared with 0.5."""
    return OBJECTIVES.mark(name, "trains_confidence")


def get_objective(
    name: str,
    *,
    class_weights_N: Tensor | None = None,
    exit_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    **settings: float,
) -> Objective:
    """An objective by name, with those of the settings that it takes.

    Args:
        name: of the objective.
        class_weights_N: how much an image of each class counts. Default: all the same.
        exit_loss: of the task, see `joint_cross_entropy`.
        settings: by name, see `WEIGHTS`.

    Raises:
        ValueError: there is no objective of this name.
    """
    taken = settings_of(name)
    given: dict[str, Any] = {key: value for key, value in settings.items() if key in taken}
    if class_weights_N is not None and takes_class_weights(name):
        given["class_weights_N"] = class_weights_N
    if exit_loss is not None:
        given["exit_loss"] = exit_loss
    return partial(OBJECTIVES[name], **given)


def takes_class_weights(name: str) -> bool:
    """Whether an objective has them."""
    return "class_weights_N" in inspect.signature(OBJECTIVES[name]).parameters


def settings_of(name: str) -> list[str]:
    """Which of `WEIGHTS` an objective takes."""
    taken = inspect.signature(OBJECTIVES[name]).parameters
    return [weight for weight in WEIGHTS if weight in taken]


def unused(config: TrainConfig, asked: Collection[str]) -> list[str]:
    """What of a configuration does nothing, though it was `asked` for or a recipe sets it, and why."""
    if not config.num_exits:
        idle = ["placement", "head", "budget", "cost_weight", "early_weight"]
        idle += [] if config.teacher else ["distillation"]
        told = [f"{name} {getattr(config, name)}" for name in idle if name in asked]
        return [f"not used: {', '.join(told)}, as there are no early exits"] if told else []
    known, notable = settings_of(config.objective), {*asked, *changed(config)}
    notes = [
        f"not used: {name} {getattr(config, name)}, which objective {config.objective} doesn't have"
        for name in WEIGHTS
        if name in notable and name not in known
    ]
    if config.class_weights and not takes_class_weights(config.objective):
        notes.append(
            f"not used: class_weights {config.class_weights}, which objective {config.objective} doesn't "
            "have; balanced does the like"
        )
    if trains_confidence(config.objective):
        notes.append(
            f"not used: budget {config.budget}, as objective {config.objective} trains confidences to be "
            "compared with 0.5; for a budget, set thresholds by `eenet calibrate --budget`"
        )
    return notes
