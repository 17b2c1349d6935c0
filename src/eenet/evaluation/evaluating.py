"""A network on a data set: records of what its exits say, and what its policy makes of them."""

from pathlib import Path

import numpy as np

from eenet.common import progress, say
from eenet.data import GIVEN_IMAGES, Images, data_options, in_order, load
from eenet.evaluation.diagnostics import DiagnosedEvaluation, diagnose
from eenet.evaluation.metrics import Evaluation, measure
from eenet.networks import Config, Network, open_network
from eenet.policies import ExitPolicy, Records


def collect(
    network: Network,
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
    logits, confidences = [], []
    with progress("evaluating", len(images), shown=show_progress) as advance:
        for pixels_BCHW in in_order(images, batch_size):
            said = network.answers(np.asarray(pixels_BCHW))
            logits.append(said[0])
            confidences.append(said[1])
            advance(len(pixels_BCHW))
    return Records(
        np.concatenate(logits, 1),
        np.concatenate(confidences, 1),
        np.asarray(images.labels_B),
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


def evaluate(
    source: Network | Records | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | Images | None = None,
    split: str = "test",
    budget: float | None = None,
    skip_damaged: bool = False,
) -> Evaluation:
    """What a policy does on labelled images.

    Args:
        source: records; or a network, a checkpoint directory, a shipped name or a hub id, which is run on
            `data`.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        data: name or folder of a data set, or images.
        split: of a named data set: train, validation or test.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        skip_damaged: go on without image files that can't be read.

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
    network = open_network(source)
    chosen = network.config.exit_policy(budget, policy)
    records = collect(
        network, as_images(data, network.config, split, skip_damaged=skip_damaged), show_progress=True
    )
    found = vars(measure(records, chosen)) | vars(diagnose(records, chosen))
    return DiagnosedEvaluation(**found)


def as_images(data: str | Images | None, config: Config, split: str, *, skip_damaged: bool = False) -> Images:
    """Images of a data set at the size that a network takes; what are images already stays as it is.

    The data that the network was trained on are read as they were then: by the same columns, and without
    damaged files, which are counted, if they were left out. With `skip_damaged` they always are. Other
    tables are read by the same columns too, where they have them.

    Raises:
        FileNotFoundError, ValueError: no such data set or split; none named, and the checkpoint doesn't say
            what it was trained on.
    """
    if data is not None and not isinstance(data, str):
        return data
    trained = config.provenance.get("train_config", {})
    name = data or trained.get("data")
    if name in (None, GIVEN_IMAGES):
        raise ValueError("the checkpoint doesn't say what it was trained on; name a data set (--data)")
    options = data_options(trained)
    if name != trained.get("data"):
        options = {"usual_columns": (options.get("label_column"), options.get("file_column"))}
    options["skip_damaged"] = skip_damaged or options.get("skip_damaged", False)
    images = load(name, split, size=config.input_size, **options)
    if options["skip_damaged"] and images.notes:
        say("; ".join(images.notes))
    return images
