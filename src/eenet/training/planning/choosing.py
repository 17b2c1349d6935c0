"""What to do with data and a network where no recipe says it: exits only, finetuning, or from scratch."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from eenet.backbones import place, trace
from eenet.common import say, wrapped
from eenet.data import SOURCES, SPLITS, Images
from eenet.networks import EENet
from eenet.tasks import task_of
from eenet.training.planning.making import backbone_for, check_start
from eenet.training.planning.settings import TrainConfig, check_known, number_of_places
from eenet.training.planning.starting import Start, load_for, start_of

Mode = Literal["retrofit", "finetune", "scratch"]
SEEN = {"retrofit": 40_000, "finetune": 60_000, "scratch": 600_000}
"""Images, with repeats, that a run trains on, within these numbers of epochs."""
EPOCHS = {"retrofit": (4, 40), "finetune": (6, 60), "scratch": (30, 120)}
SMALL = 64  # pixels: from there on a random part of an image still shows what it is


@dataclass(frozen=True)
class Chosen:
    """The settings of a run, and why they are these."""

    settings: dict[str, Any]
    why: str


def choose(start: Start, images: Images, asked: Mapping[str, Any]) -> Chosen:
    """Settings for a run that has no recipe.

    Args:
        start: the backbone.
        images: to be trained on.
        asked: settings that the user has given; they count before those chosen here.
    """
    mode, why = _mode(start, images, asked)
    task = task_of(asked.get("task", images.task))
    count = len(images)
    fewest, most = EPOCHS[mode]
    epochs = asked.get("epochs", min(max(round(SEEN[mode] / count), fewest), most))
    batch = next((size for size in task.batch_sizes if count >= 8 * size), 4)
    found: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "budget": "auto"}
    if images.image_size[1] >= SMALL or not task.keeps_classifier:
        found["augmentation"] = "crop-flip"
    elif asked.get("data") not in SOURCES:
        found["augmentation"] = "shift-flip"
    if not task.keeps_classifier:
        found |= {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
        found |= {"layer_decay": 0.8} if mode == "finetune" else {}
        found |= {"warmup_epochs": max(1, round(epochs / 20)), "budget": "auto"}
    elif mode == "retrofit":
        found |= {"freeze_backbone": True, "num_exits": 2, "placement": [0.4, 0.7], "distillation": 0.9}
        found |= {"warmup_epochs": 0.25, "learning_rate": 0.1 * batch / 64}
    elif mode == "finetune":
        found |= {"optimizer": "adamw", "learning_rate": 1e-3 * batch / 64, "weight_decay": 0.05}
        found |= {"layer_decay": 0.8, "label_smoothing": 0.1, "distillation": 0.5}
        found |= {"warmup_epochs": max(1, round(epochs / 10))}
    else:
        found |= {"learning_rate": 0.1 * batch / 128, "warmup_epochs": max(1, round(epochs / 20))}
        found |= {"label_smoothing": 0.1}
    if "num_exits" in asked and "placement" not in asked:
        found["placement"] = "linear"
    found |= number_of_places(asked)
    if "objective" in asked:  # none but `joint` has these
        for name in ("distillation", "label_smoothing"):
            found.pop(name, None)
    return Chosen({**found, **asked}, f"{mode}: {why}")


def _mode(start: Start, images: Images, asked: Mapping[str, Any]) -> tuple[Mode, str]:
    classes = len(images.class_names)
    if start.trained and not task_of(asked.get("task", images.task)).keeps_classifier:
        return "finetune", f"{start.given} is trained on, with a decoder and exits"
    if not start.trained:
        return "scratch", f"{start.given} starts from random weights, which take long to train"
    known = start.num_classes == classes and not asked.get("new_classifier")
    pruned = asked.get("prune") is not None
    frozen = asked.get("freeze_backbone", known and asked.get("num_exits", 1) > 0 and not pruned)
    if frozen:
        kept = f"{start.given} knows {classes} classes already"
        return "retrofit", f"{kept}, so its weights stay as they are, and exits are trained"
    if known and pruned:
        return "finetune", f"{start.given} is pruned, and trained on"
    if known:
        return "finetune", f"{start.given} is trained on, with exits"
    return "finetune", f"{start.given} knows other classes; it gets a new classifier, and all is finetuned"


def _that_fit(config: TrainConfig, start: Start, images: Images) -> dict[str, Any]:
    """As many of the exits as a backbone with few cuts has room for; at least one."""
    cuts = [
        (cut.name, cut.fraction)
        for cut in trace(backbone_for(config, images, start)[0], images.image_size).cuts
    ]
    tried = [
        (config.num_exits, config.placement),
        (2, "linear"),
        (1, "linear"),
        (1, [cuts[0][0]] if cuts else []),
    ]
    for num_exits, placement in tried:
        with suppress(ValueError):
            place(cuts, num_exits, placement)
            return {"num_exits": num_exits, "placement": placement}
    return {}


def complete(
    settings: Mapping[str, Any], network: EENet | None, images: Mapping[str, Images] | None, *, plain: bool
) -> dict[str, Any]:
    """The settings that were given for a run without a recipe, if they are enough for one.

    Raises:
        ValueError: data or model is missing, or a name is unknown.
    """
    check_known(list(settings))
    if network is not None:
        raise ValueError(
            "a network that has exits already is trained by a recipe, or a TrainConfig; give one"
        )
    found = {**({"data": "images"} if images is not None else {}), **settings}
    if missing := [name for name in ("data", "model") if name not in found]:
        raise ValueError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: give a recipe (see "
            "`eenet list`), or your data and a model, as in `eenet train --data photos --model resnet18`"
        )
    return {**found, **({"num_exits": 0} if plain else {})}


def default_directory(settings: Mapping[str, Any]) -> str:
    """Where a run without a recipe writes to: runs/DATA-MODEL, with the seed if one was asked for."""
    model = str(settings["model"]).rstrip("/").replace("torchvision:", "")
    name = f"{Path(settings['data']).resolve().name}-{re.split(r'[/:]', model)[-1]}"
    kind = "-pruned" if settings.get("prune") is not None else ""
    kind += "-plain" if settings.get("num_exits") == 0 else ""
    return f"runs/{name}{kind}" + (f"-seed{settings['seed']}" if settings.get("seed") else "")


def chosen_run(
    settings: Mapping[str, Any],
    module: nn.Module | None,
    images: Mapping[str, Images] | None,
    *,
    shown: bool,
) -> tuple[TrainConfig, Start, Mapping[str, Images]]:
    """Configuration, start and images of a run without a recipe; what was chosen is printed if `shown`.

    Raises:
        FileNotFoundError, ValueError: as `start_of` and `load_images`; weights for other classes.
    """
    first = TrainConfig(**settings)
    start = start_of(first, module)
    notes: list[str] = []
    if images is None:
        images, notes = load_for(first, start)
    if "train" not in images:
        raise ValueError(f"images has no 'train'; give {', '.join(SPLITS)}")
    check_start(first, start, images["train"])
    chosen = choose(start, images["train"], settings)
    if not {"num_exits", "placement"} & settings.keys():
        chosen.settings.update(_that_fit(TrainConfig(**chosen.settings), start, images["train"]))
    _, height, width = images["train"].image_size
    found = {**chosen.settings}
    if height == width and not start.fixed_size:
        found["image_size"] = height
    config = TrainConfig(**found)
    if shown:
        names = [name for name in chosen.settings if name not in ("data", "model", "weights", "model_args")]
        listed = ", ".join(f"{name} {getattr(config, name)}" for name in names)
        lines = [*notes, chosen.why, wrapped(f"settings (change with --set key=value): {listed}")]
        say("\n".join(lines))
    return config, start, images
