"""Named runs, each with what to expect of it, and how a run is repeated."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eenet.backbones import CIFAR_RESNETS
from eenet.common import Result, wrapped
from eenet.data import SOURCES
from eenet.networks import about_shipped, shipped_checkpoints
from eenet.tasks import task_of
from eenet.training.planning.settings import TrainConfig, changed, check_known, number_of_places


def script(config: TrainConfig, *, imports: Sequence[str] = (), given: Sequence[str] = ()) -> list[str]:
    """Lines of Python that run a configuration again; `given`: what `train` is given beside it."""
    told = ", ".join(f"{name}={value!r}" for name, value in changed(config).items())
    words = ", ".join([f"eenet.TrainConfig({told})", *(f"{name}={name}" for name in given)])
    return [*(f"import {module}" for module in [*imports, "eenet"]), f"eenet.train({words})"]


def how_to_repeat(
    config: TrainConfig,
    command: str | None,
    *,
    given: Sequence[str] = (),
    imports: Sequence[str] = (),
    needs: Sequence[str] = (),
) -> tuple[str, str]:
    """The command or the script, and a card's section about it.

    Args:
        config: of the run.
        command: by which it was started; none: from Python.
        given: `network` or `images` or both, that were objects in memory.
        imports: modules of a user's own parts.
        needs: what else must be there, in words.
    """
    from eenet.data import local_folder

    needs, folder = list(needs), None
    if Path(config.model).is_dir():
        needs.append(f"the checkpoint `{config.model}`")
    if "images" not in given and config.data not in SOURCES:
        folder = local_folder(config.data, os.environ.get("EENET_DATA"))
    if folder is not None:
        needs.append(f"the images in `{folder}`")
    text = f"It needs {' and '.join(needs)}.\n\n" if needs else ""
    if command is not None:
        command += "".join(f" --import {module}" for module in imports)
        return command, f"{text}```\n{command}\n```\n"
    lines = script(config, imports=imports, given=given)
    if given:
        text += (
            f"Not from this card alone: `{'` and `'.join(given)}` were objects in the memory of the program "
            "that trained. With the same again:\n\n"
        )
    listing = "\n".join([*lines[:-1], "", lines[-1]])
    return "; ".join(lines), f"{text}```python\n{listing}\n```\n"


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
_MASKS = TrainConfig(
    "camvid",
    "resnet18",
    task="segmentation",
    batch_size=8,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_epochs=3,
)
_BOXES = replace(
    _MASKS,
    task="detection",
    head="",  # the task's own
    model_args={"channels": [32, 64, 128, 256]},
    task_settings={"stride": 8},
    budget=0.6,
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
    "cifar10-resnet13": Recipe(
        replace(
            _CIFAR,
            model="resnet13_coarse_cifar",
            placement=["layer1.0", "layer2.0", "layer2.1"],
            budget=0.45,
            epochs=30,
            augmentation="shift-flip-erase",
        ),
        "CIFAR-10, a wide and short network for small budgets; about 100 minutes on two cores. "
        "Five more trainings from its own weights, four of them with teachers: cifar10-eenet13",
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
    "tiny-imagenet-50-resnet34": Recipe(
        replace(
            _TINY,
            data="tiny-imagenet-50",
            model="resnet34",
            model_args={"channels": [16, 48, 128, 320]},
            augmentation="shift-flip-erase",
            teacher="tiny-imagenet-50-eenet18",
            epochs=40,
        ),
        "for masks and boxes to start from, with --plain; 50 minutes on two cores with AMX",
    ),
    "camvid": Recipe(
        replace(
            _MASKS,
            data="camvid",
            model="tiny-imagenet-50-eenet18",
            placement=("layer2.1", "layer3.0", "layer3.1"),
            task_settings={"width": 48},
            augmentation="crop-flip-colour",
            budget=0.75,
            image_size=240,
            epochs=60,
        ),
        "street scenes in 11 classes, segmentation, half of ResNet-18's channels, trained on Tiny-ImageNet",
    ),
    "nuclei": Recipe(
        replace(_MASKS, data="nuclei", budget=0.5, image_size=192, epochs=30, standardise=True),
        "cell nuclei under the microscope, segmentation, ResNet-18 from scratch; 11 minutes on two cores",
    ),
    "bccd": Recipe(
        replace(_BOXES, data="bccd", image_size=320, epochs=60),
        "blood cells of 3 kinds, detection, half of ResNet-18's channels from scratch",
    ),
    "aquarium": Recipe(
        replace(_BOXES, data="aquarium", image_size=320, epochs=80, budget=0.75),
        "7 kinds of animals in water, detection, half of ResNet-18's channels; give a trained --model",
    ),
    "nuclei-boxes": Recipe(
        replace(
            _BOXES,
            data="nuclei",
            image_size=256,
            epochs=40,
            standardise=True,
            task_settings={"stride": 4, "most": 400},
        ),
        "cell nuclei under the microscope, detection, half of ResNet-18's channels; not run here",
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

    Args:
        name: as `eenet list` shows it.

    Raises:
        ValueError: there is no recipe of this name.
    """
    if name not in RECIPES:
        if Path(name).is_dir():
            raise ValueError(f"{name} is a folder, not a recipe; to train on what it holds: --data {name}")
        near = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known recipes: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name].config


def configured(recipe: str | TrainConfig, *, plain: bool = False, **settings: Any) -> TrainConfig:
    """A recipe with other settings; see `train`.

    Raises:
        ValueError: unknown recipe or setting, or a value out of range.
    """
    config = get_recipe(recipe) if isinstance(recipe, str) else recipe
    check_known(list(settings))
    num_exits = settings.get("num_exits")
    if num_exits is not None and num_exits < 1:
        raise ValueError(f"num_exits is {num_exits}; give at least 1, or --plain for no early exits")
    settings |= number_of_places(settings)
    if num_exits is not None and "placement" not in settings and not isinstance(config.placement, str):
        settings["placement"] = TrainConfig.placement  # the recipe's places are for another number
    if settings.get("freeze_backbone") and isinstance(recipe, str):
        config = retrofit(config, num_exits=num_exits)
    return replace(config, **settings | ({"num_exits": 0} if plain else {}))


def retrofit(config: TrainConfig, *, num_exits: int | None = None) -> TrainConfig:
    """A recipe turned into one that gives exits to an already trained backbone, which stays as it is.

    Two exits, behind 40 and 70 % of the MACs, unless another number is wanted.

    The final exit, good from the start, can be imitated. See the lab notes for what else was
    tried.

    Raises:
        ValueError: the task has no classifier to keep.
    """
    if not task_of(config.task).keeps_classifier:
        raise ValueError(
            f"{config.task} trains the whole network and has no classifier to keep; leave out freeze_backbone"
        )
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


@dataclass(frozen=True, kw_only=True)
class Names(Result):
    """What there is to start from."""

    checkpoints: dict[str, str]
    """Trained networks that come with eenet, and what each is."""
    recipes: dict[str, str]
    data: list[str]
    backbones: list[str]
    """Those that timm lacks."""

    def __str__(self) -> str:
        width = max(map(len, (*self.checkpoints, *self.recipes)))
        checkpoints, recipes = (
            "\n".join(wrapped(f"  {name:<{width}} {about}", width + 3) for name, about in found.items())
            for found in (self.checkpoints, self.recipes)
        )
        data = f"  {', '.join(self.data)}, a folder, or owner/name on the Hugging Face hub"
        backbones = f"  {', '.join(self.backbones)}, and every CNN of timm"
        return (
            f"checkpoints\n{checkpoints}\n\nrecipes\n{recipes}\n\n"
            f"data\n{wrapped(data, 2)}\n\nbackbones\n{wrapped(backbones, 2)}"
        )


def list_names() -> Names:
    """Known recipes, data sets, trained networks, and this package's own backbones."""
    return Names(
        checkpoints={name: about_shipped(name) for name in shipped_checkpoints()},
        recipes={name: recipe.about for name, recipe in RECIPES.items()},
        data=list(SOURCES),
        backbones=list(CIFAR_RESNETS),
    )
