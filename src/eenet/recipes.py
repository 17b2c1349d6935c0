"""Named training runs, each with what to expect of it."""

import difflib
from dataclasses import dataclass

from eenet.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A `TrainConfig` with a line on what it is for."""

    config: TrainConfig
    about: str


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        TrainConfig("digits", "resnet20_cifar", budget=0.5, epochs=40, batch_size=64, warmup_epochs=2),
        "scikit-learn's 8×8 digits; offline, about a minute on two cores",
    ),
    "mnist": Recipe(
        TrainConfig("mnist", "resnet20_cifar", budget=0.45, epochs=4),
        "MNIST; about 10 minutes on two cores",
    ),
    "cifar10-resnet20": Recipe(
        TrainConfig("cifar10", "resnet20_cifar", budget=0.65, epochs=15, early_weight=0.2),
        "CIFAR-10, the small network; about 40 minutes on two cores",
    ),
    "cifar10-resnet56": Recipe(
        TrainConfig("cifar10", "resnet56_cifar", num_exits=5, budget=0.5, epochs=30, early_weight=0.2),
        "CIFAR-10, the middle network; not run here",
    ),
}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        ValueError: there is no recipe of this name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known recipes: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name].config
