"""A network on a data set: records of what its exits say, and what its policy makes of them."""

from pathlib import Path
from typing import Any

from eenet.common import progress, say
from eenet.data import GIVEN_IMAGES, AnyImages, data_options
from eenet.networks import Config, Network, open_network
from eenet.policies import AnyRecords, ExitPolicy
from eenet.tasks import measure, task_of


def collect(
    network: Network,
    images: AnyImages,
    *,
    batch_size: int = 256,
    show_progress: bool = False,
) -> Any:
    """Run all exits of `network` on every image, in eval mode and float32.

    Args:
        network: its `config` must hold the `mean` and `std` of its training images.
        images: of the network's input size.
        batch_size: images at a time.
        show_progress: with a bar on the terminal.

    Returns:
        `Records`, or those of the network's task.

    Raises:
        ValueError: image size or number of classes don't fit the network.
    """
    check_fit(network.config, images)
    with progress("evaluating", len(images), shown=show_progress) as advance:
        return task_of(network.config.task).collect(network, images, batch_size, advance)


def check_fit(config: Config, images: AnyImages) -> None:
    """Whether images and labels are what the network was made for, else a `ValueError`."""
    task = task_of(config.task)
    if images.task != task.name:
        raise ValueError(f"the network is for {task.name}, the data set for {images.task}")
    if not task.any_size and images.image_size != tuple(config.input_size):
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
    source: Network | AnyRecords | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | AnyImages | None = None,
    split: str = "test",
    budget: float | None = None,
    skip_damaged: bool = False,
) -> Any:
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
        The evaluation: `Evaluation`, of a network with a diagnosis; of masks
            `SegmentationEvaluation`, of boxes `DetectionEvaluation`.

    Raises:
        FileNotFoundError, ValueError: network or data can't be read or don't fit each other; records without
            a policy.
    """
    if isinstance(source, AnyRecords):
        if not isinstance(policy, ExitPolicy) or data is not None or budget is not None:
            raise ValueError("records are evaluated under an ExitPolicy, and need no data and no budget")
        return measure(source, policy)
    network = open_network(source)
    chosen = network.config.exit_policy(budget, policy)
    records = collect(
        network, as_images(data, network.config, split, skip_damaged=skip_damaged), show_progress=True
    )
    return task_of(records.task).evaluate(records, chosen)


def as_images(data: str | AnyImages | None, config: Config, split: str, *, skip_damaged: bool = False) -> Any:
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
        options.pop("skip_damaged", None)
        usual = options.pop("label_column", None), options.pop("file_column", None)
        options |= {"usual_columns": usual} if any(usual) else {}
    options["skip_damaged"] = skip_damaged or options.get("skip_damaged", False)
    images = task_of(config.task).load(name, split, size=config.input_size, **options)
    if options["skip_damaged"] and images.notes:
        say("; ".join(images.notes))
    return images
