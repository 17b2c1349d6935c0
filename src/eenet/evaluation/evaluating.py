"""A network on a data set: records of what its exits say, and what its policy makes of them."""

from pathlib import Path

import torch
from torch import Tensor

from eenet.backbones import eval_mode
from eenet.common import progress, say
from eenet.data import Images, in_order, load, normalize
from eenet.evaluation.diagnostics import DiagnosedEvaluation, diagnose
from eenet.evaluation.metrics import Evaluation, measure
from eenet.networks import Config, EENet, as_network
from eenet.policies import ExitPolicy, Records


def collect(
    network: EENet,
    images: Images,
    *,
    batch_size: int = 256,
    show_progress: bool = False,
) -> Records:
    """Run all exits of `network` on every image, in eval mode and float32.

    Args:
        network: its `config` must hold the `mean` and `std` of its training images.
        images: of the network's input size.
        batch_size: images at a time.
        show_progress: with a bar on the terminal.

    Raises:
        ValueError: image size or number of classes don't fit the network.
    """
    check_fit(network.config, images)
    config = network.config
    assert config.mean is not None
    assert config.std is not None
    parameter, layout = next(network.parameters()), network.memory_format
    logits, confidences = [], []
    shown = progress("evaluating", len(images), shown=show_progress)
    with eval_mode(network), torch.inference_mode(), shown as advance:
        for chunk in in_order(images, batch_size):
            pixels = chunk.to(parameter.device)
            inputs = normalize(pixels, config.mean, config.std)
            outputs = network(inputs.contiguous(memory_format=layout))
            logits.append(torch.stack(outputs.logits_KBN).float().cpu())
            confidences.append(_stack(outputs.confidence_logits_KB, len(pixels)))
            advance(len(pixels))
    return Records(
        torch.cat(logits, 1).clone(),
        torch.cat(confidences, 1).clone(),
        images.labels_B,
        config.stage_macs,
        config.head_macs,
        config.backbone_macs,
        config.ensemble,
    )


def check_fit(config: Config, images: Images) -> None:
    """Whether images and labels are what the network was made for, else a `ValueError`."""
    if images.image_size != tuple(config.input_size):
        raise ValueError(
            f"the network takes images of size {tuple(config.input_size)} (C, H, W), "
            f"the data set has {images.image_size}"
        )
    if len(images.class_names) != config.num_classes:
        raise ValueError(
            f"the network has {config.num_classes} classes, the data set {len(images.class_names)}"
        )
    known, given = config.class_names or images.class_names, images.class_names
    if known != given and sorted(known) == sorted(given):
        raise ValueError(
            f"the network's classes are {known}, the data set has them in another order: {given}"
        )
    if config.mean is None or config.std is None:
        raise ValueError("the network's config has no mean and std; set them from its training images")


def _stack(confidences: list[Tensor], count: int) -> Tensor:
    return torch.stack(confidences).float().cpu() if confidences else torch.empty(0, count)


def evaluate(
    source: EENet | Records | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | Images | None = None,
    split: str = "test",
    budget: float | None = None,
) -> Evaluation:
    """What a policy does on labelled images.

    Args:
        source: records; or a network, a checkpoint directory, a shipped name or a hub id, which is run on
            `data`.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        data: name or folder of a data set, or images.
        split: of a named data set: train, validation or test.
        budget: wanted mean relative cost, for which the checkpoint has a policy.

    Returns:
        The evaluation; of a network, with a diagnosis.

    Raises:
        FileNotFoundError, ValueError: network or data can't be read or don't fit each other; records without
            a policy.
    """
    if isinstance(source, Records):
        if not isinstance(policy, ExitPolicy) or data is not None or budget is not None:
            raise ValueError("records are evaluated under an ExitPolicy, and need no data and no budget")
        return measure(source, policy)
    network = as_network(source)
    chosen = network.config.exit_policy(budget, policy)
    records = collect(network, as_images(data, network.config, split), show_progress=True)
    found = vars(measure(records, chosen)) | vars(diagnose(records, chosen))
    return DiagnosedEvaluation(**found)


def as_images(data: str | Images | None, config: Config, split: str) -> Images:
    """Images of a data set at the size that a network takes; what are images already stays as it is.

    Damaged files of the data that the network was trained on are left out, and counted, if they were then.

    Raises:
        FileNotFoundError, ValueError: no such data set or split; none named, and the checkpoint doesn't say
            what it was trained on.
    """
    if data is not None and not isinstance(data, str):
        return data
    trained = config.provenance.get("train_config", {})
    name = data or trained.get("data")
    if name is None:
        raise ValueError("the checkpoint doesn't say what it was trained on; name a data set (--data)")
    skip = name == trained.get("data") and trained.get("skip_damaged", False)
    images = load(name, split, size=config.input_size, skip_damaged=skip)
    if skip and images.notes:
        say("; ".join(images.notes))
    return images
