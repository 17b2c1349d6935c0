"""What a run begins with: the backbone that was named or given, its weights, and exits on it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eenet.backbones import (
    TORCHVISION,
    Preprocessing,
    Weights,
    classifier_name,
    create_backbone,
    full_name,
    preprocessing_of,
    read_weights_file,
    trusted_name,
)
from eenet.common import counted, say
from eenet.data import SPLITS, Images, data_options
from eenet.evaluation import collect
from eenet.networks import (
    EENet,
    read_config,
    shipped_checkpoints,
    trained_backbone,
)
from eenet.networks import checkpoint_directory as directory_of
from eenet.tasks import task_of
from eenet.training.planning.settings import TrainConfig

IMAGENET = Preprocessing((3, 224, 224), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""What most networks for photos were trained with."""
NEAR_CHANCE = 0.1  # in accuracy


@dataclass(frozen=True)
class Start:
    """A backbone before it is made for the images."""

    name: str | None
    """By which it is built; none for a network in memory that has none."""
    args: dict[str, Any]
    given: str
    """What messages call it."""
    weights: Weights | None = None
    """Trained ones, of a user's; none: pretrained or new ones."""
    module: nn.Module | None = None
    """A network of the kind that the weights are for."""
    num_classes: int | None = None
    """That the weights know; none if there are none."""
    input_size: tuple[int, int, int] | None = None
    """(channels, height, width) that suit it; none: nobody says."""
    channels: int | None = None
    """That it takes; none: as many as the images have."""
    fixed_size: bool = False
    """Whether it takes no other size."""
    mean: list[float] | None = None
    std: list[float] | None = None
    class_names: list[str] | None = None
    network: EENet | None = None
    """With the exits of a checkpoint that the weights are from."""
    notes: list[str] = field(default_factory=list)
    """What is assumed of the weights."""

    @property
    def trained(self) -> bool:
        """Whether it has weights that know some classes."""
        return self.num_classes is not None

    @property
    def effort(self) -> tuple[int, float]:
        """Epochs and seconds that its weights took, as far as that is known."""
        return self.network.config.effort if self.network is not None else (0, 0.0)

    def heads_for(self, network: EENet) -> dict[str, nn.Module]:
        """The heads of its exits that suit a network's: in the same place, of the same kind and shape.

        Args:
            network: with new heads.

        Returns:
            Heads by the name of the place.
        """
        if self.network is None:
            return {}
        ours, before = network.config, self.network.config
        if (ours.head, ours.gate) != (before.head, before.gate):
            return {}
        new = dict(zip(ours.exits, network.heads, strict=True))
        known = dict(zip(before.exits, self.network.heads, strict=True))
        return {
            name: head for name, head in known.items() if name in new and _shapes(head) == _shapes(new[name])
        }


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def is_checkpoint(name: str) -> bool:
    """Whether a model's name is that of a checkpoint here."""
    return Path(name).is_dir() or name in shipped_checkpoints()


def start_of(config: TrainConfig, module: nn.Module | None = None) -> Start:
    """Where a run with these settings starts.

    Args:
        config: its `model`, `weights`, `pretrained`, `model_args`, `mean` and `std` count.
        module: a network in memory, instead of `model`.

    Raises:
        FileNotFoundError, ValueError: unknown names, a file that can't be read, weights of another network.
    """
    if module is not None:
        return _in_memory(config, module)
    if is_checkpoint(config.model):
        return _of_checkpoint(config)
    name = full_name(trusted_name(config.model))
    suits = preprocessing_of(name)
    if config.weights is not None:
        return _of_file(config, name, suits)
    args = dict(config.model_args)
    size = suits.input_size if suits else None
    channels = 3 if name.startswith(TORCHVISION) else None
    if not config.pretrained:
        return Start(name, args, config.model, input_size=size, channels=channels)
    overlay = args.get("pretrained_cfg_overlay", {})
    known = overlay.get("num_classes") or (suits.num_classes if suits else None)
    channels = args.get("in_chans") or (size[0] if size else channels)
    return Start(name, args, config.model, num_classes=known, input_size=size, channels=channels)


def _in_memory(config: TrainConfig, module: nn.Module) -> Start:
    if config.weights is not None or config.pretrained:
        raise ValueError("a network in memory has its own weights; give weights or pretrained with a name")
    last: Any = module.get_submodule(classifier_name(module))
    kind = type(module).__name__
    known = getattr(module, "pretrained_cfg", None) or {}
    start = Start(
        None,
        {},
        kind,
        weights=Weights(f"this {kind}", module.state_dict()),
        module=module,
        num_classes=int(last.weight.shape[0]),
        input_size=known.get("input_size"),
        channels=Weights("", module.state_dict()).channels(module),
    )
    mean, std, notes = _assumed(config, known.get("mean"), known.get("std"))
    return _replaced(start, mean=mean, std=std, notes=notes)


def _of_checkpoint(config: TrainConfig) -> Start:
    if config.weights is not None:
        raise ValueError(f"{config.model} is a checkpoint with weights of its own; give weights with a name")
    backbone, network = trained_backbone(config.model)
    before = network.config
    assert before.backbone is not None
    return Start(
        before.backbone,
        before.backbone_args,
        config.model,
        weights=Weights(config.model, backbone.state_dict()),
        module=backbone,
        num_classes=before.num_classes,
        input_size=before.input_size,
        fixed_size=not config.new_classifier,  # finetuned, it may be used at another size
        channels=before.input_size[0],
        mean=before.mean,
        std=before.std,
        class_names=before.class_names,
        network=network,
    )


def _of_file(config: TrainConfig, name: str, suits: Preprocessing | None) -> Start:
    assert config.weights is not None
    weights, args = read_weights_file(config.weights), dict(config.model_args)
    with torch.random.fork_rng(devices=[]):
        module = create_backbone(name, args)
        weights = weights.fitted(module)
        classes, channels = weights.num_classes(module), weights.channels(module)
        found = {"num_classes": classes, "in_chans": channels}
        args = {**{key: value for key, value in found.items() if value is not None}, **args}
        module = create_backbone(name, args)
        if not config.new_classifier:
            weights.load_into(module)
    mean, std, notes = _assumed(config, suits and suits.mean, suits and suits.std)
    return Start(
        name,
        args,
        config.weights,
        weights=weights,
        module=module,
        num_classes=classes,
        input_size=suits.input_size if suits else None,
        channels=channels,
        mean=mean,
        std=std,
        notes=notes,
    )


def _assumed(config: TrainConfig, mean: Any, std: Any) -> tuple[list[float], list[float], list[str]]:
    """Mean and standard deviation that weights of a user's own expect, and a note where nobody says."""
    if config.mean is not None or (mean is not None and std is not None):
        return list(config.mean or mean), list(config.std or std), []
    told = (
        "images are taken to be normalised as usual for ImageNet, since nothing says how; else --mean, --std"
    )
    return IMAGENET.mean, IMAGENET.std, [told]


def _replaced(start: Start, **changes: Any) -> Start:
    return Start(**{**vars(start), **changes})


# The images --------------------------------------------------------------------------


def load_images(config: TrainConfig, size: tuple[int, ...] | None = None) -> dict[str, Images]:
    """The splits of a configuration's data set.

    Args:
        config: its `data`, `image_size` and `skip_damaged` count, and its `model` if that is a checkpoint.
        size: (height, width) or (channels, height, width) where nothing else is said. Default: their own.
    """
    task = task_of(config.task)
    if is_checkpoint(config.model) and not task.any_size:
        size = read_config(directory_of(config.model)).input_size
    if config.image_size:
        size = (*(size or ())[:-2], config.image_size, config.image_size)
    options: dict[str, Any] = {**data_options(asdict(config)), "size": size}
    return {split: task.load(config.data, split, **options) for split in SPLITS}


def load_for(config: TrainConfig, start: Start) -> tuple[dict[str, Images], list[str]]:
    """The splits at the size that suits what a run begins with, and a note where nobody says it.

    Pretrained networks get the size that they were trained on; others that of the images if all have the
    same, else the usual one. Trained networks get as many channels as they take.
    """
    if task_of(config.task).any_size:
        return load_images(config), []
    height, width = (start.input_size or IMAGENET.input_size)[1:]
    usual = (height, width) if start.channels is None else (start.channels, height, width)
    if config.image_size or start.fixed_size or config.pretrained:
        return load_images(config, usual), []
    try:
        images = load_images(config)
    except ValueError as error:
        if "differ in size" not in str(error):
            raise
    else:
        size = images["train"].image_size
        if start.channels not in (None, size[0]):
            images = load_images(config, (start.channels, *size[1:]))
        return images, []
    told = f"images differ in size and are brought to {height} × {width}; else --image-size"
    return load_images(config, usual), [told]


def told_at_start(
    network: EENet, validation: Images, config: TrainConfig, start: Start, *, shown: bool
) -> list[str]:
    """Print what is known of the weights that a run begins with, and return what is doubtful about it.

    If they know these classes: their accuracy, before anything is trained.
    """
    notes = list(start.notes)
    done = [f"{start.given}: {note}" for note in start.weights.notes] if start.weights else []
    for note in [*done, *notes] if shown else ():
        say(note)
    if not task_of(config.task).keeps_classifier:
        return notes
    if start.weights is None or start.num_classes != network.config.num_classes or config.new_classifier:
        return notes
    right_B = np.asarray(collect(network, validation).correct()[-1])
    accuracy, count = float(right_B.mean()), len(right_B)
    counts = np.bincount(np.asarray(validation.labels_B))
    chance = float(counts.max()) / count
    if config.prune is not None:
        if shown:
            say(f"pruned: {100 * accuracy:.1f} % on {counted(count, 'validation image')} before training")
        return notes
    if shown:
        say(f"your network: {100 * accuracy:.1f} % on {counted(count, 'validation image')}")
        if kept := start.heads_for(network):
            say(f"its exits are trained on: {', '.join(kept)}")
    if accuracy > chance + NEAR_CHANCE:
        return notes
    doubt = (
        f"{start.given} is right for {100 * accuracy:.1f} % of the validation images, near chance "
        f"({100 * chance:.1f} %): its preprocessing may differ (--mean, --std, --image-size), or the order "
        "of its classes"
    )
    if shown:
        say(f"warning: {doubt}")
    return [*notes, doubt]
