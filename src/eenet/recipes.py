"""Named training runs, each with what to expect of it."""

import difflib
from dataclasses import dataclass, replace

from eenet.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A `TrainConfig` with a line on what it is for."""

    config: TrainConfig
    about: str


_TINY_NET = TrainConfig("mnist", "resnet8_w4_cifar", num_exits=2, budget=0.5, epochs=15)
_CIFAR = TrainConfig("cifar10", "resnet20_cifar", budget=0.65, epochs=15)
_LONGER = replace(_CIFAR, num_exits=5, budget=0.5, epochs=30)
_TINY = TrainConfig("tiny-imagenet", "resnet18", budget=0.6, epochs=60)
_IMAGENET = replace(
    _TINY, data="imagenet", epochs=90, image_size=224, batch_size=256, weight_decay=1e-4, warmup_epochs=5
)

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        TrainConfig("digits", "resnet20_cifar", budget=0.5, epochs=40, batch_size=64, warmup_epochs=2),
        "scikit-learn's 8×8 digits; offline, about a minute on two cores",
    ),
    "digits-resnet8": Recipe(
        replace(_TINY_NET, data="digits", epochs=60, batch_size=64, warmup_epochs=2),
        "the digits, the paper's smallest network; about a minute on two cores",
    ),
    "mnist": Recipe(
        TrainConfig("mnist", "resnet20_cifar", placement=[0.1, 0.3, 0.6], budget=0.25, epochs=4),
        "MNIST, exits early on; about 10 minutes on two cores",
    ),
    "mnist-resnet8": Recipe(_TINY_NET, "MNIST, the paper's smallest network; about 10 minutes on two cores"),
    "fashion-mnist": Recipe(
        TrainConfig("fashion-mnist", "resnet20_cifar", budget=0.5, epochs=10),
        "Fashion-MNIST; not run here",
    ),
    "cifar10-resnet20": Recipe(_CIFAR, "CIFAR-10, the small network; about 40 minutes on two cores"),
    "cifar10-resnet56": Recipe(
        replace(
            _LONGER,
            model="resnet56_cifar",
            num_exits=4,
            placement=[0.11, 0.4, 0.55, 0.73],
            head="residual",
            budget=0.4,
            epochs=60,
            augmentation="shift-flip-erase",
        ),
        "CIFAR-10, the middle network; about 120 minutes on two cores with AMX",
    ),
    **{
        f"cifar10-resnet{depth}": Recipe(
            replace(_LONGER, model=f"resnet{depth}_cifar"), f"CIFAR-10, ResNet-{depth}; not run here"
        )
        for depth in (32, 44, 110)
    },
    "cifar100-resnet56": Recipe(
        replace(_LONGER, data="cifar100", model="resnet56_cifar", budget=0.7), "CIFAR-100; not run here"
    ),
    "svhn-resnet20": Recipe(replace(_CIFAR, data="svhn", budget=0.5), "SVHN; not run here"),
    **{
        f"svhn-resnet{depth}": Recipe(
            replace(_LONGER, data="svhn", model=f"resnet{depth}_cifar", epochs=15),
            f"SVHN, ResNet-{depth}; not run here",
        )
        for depth in (32, 44, 56, 110)
    },
    **{
        f"tiny-imagenet-resnet{depth}": Recipe(
            replace(_TINY, model=f"resnet{depth}"), f"Tiny-ImageNet, ResNet-{depth}; not run here"
        )
        for depth in (18, 34, 50, 101, 152)
    },
    "tiny-imagenet-50": Recipe(
        replace(
            _TINY,
            data="tiny-imagenet-50",
            model_args={"channels": [32, 64, 128, 256]},
            augmentation="shift-flip-erase",
        ),
        "50 classes of Tiny-ImageNet, half of ResNet-18's channels; about 20 minutes on two cores",
    ),
    **{
        f"imagenet-resnet{depth}": Recipe(
            replace(_IMAGENET, model=f"resnet{depth}"), f"ImageNet-1k, ResNet-{depth}; not run here"
        )
        for depth in (18, 34, 50, 101, 152)
    },
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


def retrofit(config: TrainConfig, *, num_exits: int | None = None) -> TrainConfig:
    """A recipe turned into one that gives exits to an already trained backbone, which stays as it is.

    Two exits, behind 40 and 70 % of the MACs, unless another number is wanted.

    The final exit, good from the start, can be imitated. See the lab notes for what else was
    tried.
    """
    return replace(
        config,
        freeze_backbone=True,
        num_exits=num_exits or 2,
        placement="linear" if num_exits else [0.4, 0.7],
        distillation=0.9,
        budget=0.75,
        epochs=min(config.epochs, 7),
        batch_size=64,
        warmup_epochs=0.25,
    )
