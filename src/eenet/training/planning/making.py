"""The network of a run before training: the backbone it starts with, made for the images, with exits."""

import copy
from typing import Any

import torch
from torch import nn

from eenet.backbones import (
    classifier_name,
    create_backbone,
    noted_widths,
    preprocessing_of,
    recognised,
    replace_classifier,
    set_widths,
)
from eenet.compress import Pruning, pruned
from eenet.data import Images
from eenet.networks import EENet, convert, name_backbone, per_channel, without_exits
from eenet.tasks import task_of
from eenet.training.objectives import trains_confidence
from eenet.training.planning.settings import TrainConfig
from eenet.training.planning.starting import Start, start_of

NEW = "; for a new last layer, trained on these images: --new-classifier, new_classifier=True"


def build(config: TrainConfig, images: Images, start: Start | None = None) -> EENet:
    """The network of a configuration before training, made for these images; the seed sets new weights.

    Args:
        config: of the run.
        images: to be trained on.
        start: what `start_of` found. Default: it is looked for.

    Raises:
        ValueError: unknown names; a backbone to be frozen that isn't trained, or is for other images.
    """
    start = start or start_of(config)
    torch.manual_seed(config.seed)
    backbone, args, pruning = pruned_backbone(config, images, start)
    exits: dict[str, Any] = {"num_exits": config.num_exits, "placement": config.placement}
    kinds: dict[str, Any] = {
        "head": config.head,
        "gate": "features" if trains_confidence(config.objective) else None,
    }
    settings = {**config.task_settings, **({"standardise": True} if config.standardise else {})}
    answers: dict[str, Any] = {"task": config.task, "num_classes": len(images.class_names)}
    answers["task_settings"] = settings
    named = (start.name, args) if start.name else recognised(backbone, images.image_size)
    if config.num_exits:
        network = convert(backbone, images.image_size, **exits, **kinds, **answers, recognise=False)
    else:
        network = without_exits(backbone, images.image_size, **answers)
    if named:
        name_backbone(network, *named)
    if not config.new_classifier:
        for name, head in start.heads_for(network).items():
            network.heads[network.config.exits.index(name)].load_state_dict(head.state_dict())
    if pruning is not None:
        network.config.provenance = {"pruning": pruning.to_dict()}
    channels = images.image_size[0]
    mean, std = start.mean, start.std
    if config.pretrained and mean is None and start.name and (suits := preprocessing_of(start.name)):
        mean, std = suits.mean, suits.std
    if mean is not None and std is not None:
        network.config.mean, network.config.std = per_channel(mean, channels), per_channel(std, channels)
    return for_images(network, images, config)


def pruned_backbone(
    config: TrainConfig, images: Images, start: Start
) -> tuple[nn.Module, dict[str, Any], Pruning | None]:
    """The backbone of a run, the arguments that it was made with, and how it was pruned, if it was."""
    backbone, args = backbone_for(config, images, start)
    if config.prune is None:
        return backbone, args, None
    task_of(config.task).must_support("pruning")
    backbone, pruning = pruned(backbone, config.prune, images.image_size, how=config.prune_how)
    return backbone, args, pruning


def pruned_for(network: EENet, config: TrainConfig) -> EENet:
    """A network with exits, pruned as a configuration says."""
    assert config.prune is not None
    found, pruning = pruned(network, config.prune, how=config.prune_how)
    assert isinstance(found, EENet)
    found.config.provenance = {**found.config.provenance, "pruning": pruning.to_dict()}
    return found


def for_images(network: EENet, images: Images, config: TrainConfig) -> EENet:
    """With the classes of these images, and their mean and standard deviation if nothing else is said."""
    if config.mean is not None and config.std is not None:
        for name in ("mean", "std"):
            if len(getattr(config, name)) not in (1, images.image_size[0]):
                raise ValueError(
                    f"{name} is {getattr(config, name)}; the images have {images.image_size[0]} channels"
                )
        channels = images.image_size[0]
        network.config.mean = per_channel(config.mean, channels)
        network.config.std = per_channel(config.std, channels)
    elif network.config.mean is None:
        network.config.mean, network.config.std = images.mean_std()
    network.config.class_names = images.class_names
    return network


def backbone_for(
    config: TrainConfig, images: Images, start: Start | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone of a configuration, made for these images, and the arguments that it was made with.

    Raises:
        ValueError: as `build`.
    """
    start = start or start_of(config)
    classes, channels = len(images.class_names), images.image_size[0]
    check_start(config, start, images)
    if not task_of(config.task).keeps_classifier:
        if start.module is not None:
            return start.module, start.args if start.name else {}
        made_for = {**start.args, "in_chans": channels}
        return create_backbone(start.name or "", made_for, pretrained=config.pretrained), made_for
    if start.weights is None:
        made_for = {**start.args, "num_classes": classes, "in_chans": channels}
        module = create_backbone(start.name or "", made_for, pretrained=config.pretrained)
        return module, made_for
    assert start.module is not None
    args = {**start.args, **({"num_classes": classes} if start.num_classes is not None else {})}
    if start.num_classes == classes and not config.new_classifier:
        return start.module, start.args if start.name else {}
    if start.name is None:
        module = copy.deepcopy(start.module)
    else:
        module = set_widths(create_backbone(start.name, args), noted_widths(start.module))
    module = replace_classifier(module, classes)
    start.weights.load_into(module, keep_classifier=False)
    if config.new_classifier and start.name is None:
        last: Any = module.get_submodule(classifier_name(module))
        last.reset_parameters()
    return module, args


def check_start(config: TrainConfig, start: Start, images: Images) -> None:
    """Whether trained weights and images belong together."""
    classes, size = len(images.class_names), images.image_size
    if not task_of(config.task).keeps_classifier:
        if start.channels not in (None, size[0]):
            raise _other_channels(start, size[0])
        if config.freeze_backbone or config.new_classifier:
            raise ValueError(
                f"{config.task} trains the whole network and has no classifier to keep or replace; leave out "
                "freeze_backbone and new_classifier"
            )
        return
    other = start.num_classes is not None and start.num_classes != classes and not config.new_classifier
    if start.fixed_size and start.input_size is not None and (size != start.input_size or other):
        raise ValueError(
            f"{start.given} takes images of size {start.input_size} (C, H, W) in {start.num_classes} "
            f"classes, the data set has {size} in {classes}{NEW * (size == start.input_size)}"
        )
    if config.freeze_backbone and not start.trained:
        raise ValueError(
            f"freeze_backbone needs a trained backbone, and {config.model} starts from random weights; "
            "give a checkpoint directory as model, weights, or pretrained"
        )
    if config.prune is not None and not start.trained:
        raise ValueError(
            f"prune takes out channels of small weights, and {config.model} starts from random ones; "
            "give weights, pretrained, or a checkpoint as model"
        )
    if config.freeze_backbone and config.new_classifier:
        raise ValueError("freeze_backbone keeps the classifier, new_classifier replaces it; give one of them")
    if config.freeze_backbone and other and start.weights is None:
        raise ValueError(
            f"freeze_backbone keeps the classifier of {start.given}, which knows {start.num_classes} "
            f"classes; the data set has {classes}. Train the backbone on it first (--plain)"
        )
    if other and start.weights is not None:
        raise ValueError(
            f"{start.given} knows {start.num_classes} classes, the data set has {classes}"
            f"{_names(images.class_names)}{NEW}"
        )
    if start.channels not in (None, size[0]):
        raise _other_channels(start, size[0])


def _other_channels(start: Start, channels: int) -> ValueError:
    return ValueError(f"{start.given} takes images of {start.channels} channels, the data set has {channels}")


def _names(class_names: list[str]) -> str:
    return f" ({', '.join(class_names[:3])}{', …' * (len(class_names) > 3)})"
