"""Everything a training run depends on, and named runs, each with what to expect of it."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from eenet.backbones import CIFAR_RESNETS, Placement
from eenet.common import Result, wrapped
from eenet.data import AUGMENTATIONS, SOURCES
from eenet.networks import about_shipped, shipped_checkpoints


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    data: str
    """Data set, see `eenet.data.load`."""
    model: str
    """timm name of the backbone, or a checkpoint whose trained backbone is taken."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    freeze_backbone: bool = False
    """Train the exit heads only; the backbone, already trained, stays as it is to the bit."""
    num_exits: int = 3
    """Number of early exits; 0 trains the plain backbone, for comparison."""
    placement: Placement = "linear"
    """Where the exits go, see `eenet.create_model`."""
    head: str = "deep"
    """Kind of exit head."""
    budget: float = 0.6
    """Wanted mean relative cost; sets the exit threshold, on the validation split. Not used by objectives
    that train confidences, which are compared with 0.5."""
    objective: str = "joint"
    """Training loss, see `eenet.training.objectives`."""
    cost_weight: float = 1.0
    """λ, the weight of cost in the paper's objectives and some rivals; `joint` has none."""
    early_weight: float = 1.0
    """Weight of each early exit's loss in the objective `joint`."""
    distillation: float = 0.0
    """Share of the early exits' loss in `joint` that imitates the final exit."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step, over all processes."""
    accumulate: int = 1
    """Parts that a process divides its images into, for less memory; gradients are summed up."""
    learning_rate: float = 0.1
    """Peak of the one warm-up and cosine decay."""
    warmup_epochs: float = 1
    """Epochs of linear warm-up."""
    weight_decay: float = 5e-4
    """Not applied to biases and norms."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    ema: float | None = None
    """Decay of the weights' moving average, such as 0.999, which is then what is kept."""
    image_size: int | None = None
    """Height and width that images are brought to. Default: their own."""
    skip_damaged: bool = False
    """Leave out image files that can't be read, instead of stopping."""
    label_column: str | None = None
    """Of the data set's table, see `eenet.data.load`. Default: by its name."""
    file_column: str | None = None
    """The same for file names."""
    augmentation: str | None = None
    """A name from `eenet.data.AUGMENTATIONS`. Default: what suits the named data set."""
    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the hardware computes in it."""
    save_every: float = 300
    """Seconds between saves of the training state within an epoch."""
    workers: int | None = None
    """Processes that decode images ahead, see `eenet.data.batches`."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passed on to `timm.create_model`."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.num_exits < 0:
            raise ValueError(f"num_exits is {self.num_exits}; it must not be negative")
        for name in ("early_weight", "cost_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation is {self.distillation}; it must lie between 0 and 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must lie between 0 and 1, such as 0.999")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 1")
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation is {self.augmentation!r}; choose from {known}")
        if self.freeze_backbone and not self.num_exits:
            raise ValueError("freeze_backbone without early exits leaves nothing to train")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; choose from auto, fp32, bf16")
        if self.objective != "joint":  # which is known without importing torch
            from eenet.training.objectives import get_objective

            get_objective(self.objective)


def changed(config: TrainConfig) -> dict[str, Any]:
    """What of a configuration isn't as by default."""
    found = {}
    for each in fields(config):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if (value := getattr(config, each.name)) != default:
            found[each.name] = value
    return found


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an older eenet wrote down, with the settings that there are since."""
    later = {each.name: each.default for each in fields(TrainConfig) if each.default is not MISSING}
    return {**later, **settings}


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


def configured(recipe: str | TrainConfig, *, plain: bool = False, **settings: Any) -> TrainConfig:
    """A recipe with other settings; see `train`.

    Raises:
        ValueError: unknown recipe or setting, or a value out of range.
    """
    config = get_recipe(recipe) if isinstance(recipe, str) else recipe
    known = {field.name for field in fields(TrainConfig)}
    for name in settings.keys() - known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(f"unknown setting {name!r}; choose from {', '.join(near or sorted(known))}")
    num_exits = settings.get("num_exits")
    if num_exits is not None and num_exits < 1:
        raise ValueError(f"num_exits is {num_exits}; give at least 1, or --plain for no early exits")
    if settings.get("freeze_backbone") and isinstance(recipe, str):
        config = retrofit(config, num_exits=num_exits)
    return replace(config, **settings, **({"num_exits": 0} if plain else {}))


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
