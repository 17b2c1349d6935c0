"""Networks that are trained already, one behind the other: no training, only thresholds."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from eenet.common import hardware, say
from eenet.data import SPLITS, data_options, describe_splits
from eenet.evaluation import as_images
from eenet.networks import EENet, in_cascade, name_of
from eenet.training import TrainConfig, TrainResult, conclude, prepare


def cascade(
    checkpoints: Sequence[EENet | str | Path],
    out: str | Path | None = None,
    *,
    data: str,
    budget: float | Literal["auto"] = "auto",
    max_drop: float | None = None,
    skip_damaged: bool = False,
) -> TrainResult:
    """Join trained networks into one that leaves early: what one isn't sure about goes on to the next.

    Nothing is trained. On validation images it is found out how answers are best joined, when an image may
    stop, and the thresholds. What is written is a checkpoint like any other; it can't be trained further.
    Costs are relative to the last network without exits. See `eenet.networks.in_cascade`.

    Args:
        checkpoints: two networks or more, the cheapest first: directories, shipped names, hub ids, networks;
            with early exits or without. They must be for images of the same size and the same classes.
        out: directory for checkpoint, records and report. Default: runs/DATA-cascade.
        data: whose validation images thresholds are set on, and whose test images it is measured on. None of
            the networks may have been trained on these.
        budget: wanted mean cost. `auto`: the cheapest that loses no accuracy beyond noise.
        max_drop: instead of a budget: the cheapest that loses at most so many points of accuracy.
        skip_damaged: go on without image files that can't be read.

    Raises:
        FileExistsError: `out` holds a run already.
        FileNotFoundError, ValueError: networks or data can't be read, or don't fit each other.
    """
    names = [name_of(each) for each in checkpoints]
    told = " → ".join(Path(name).name for name in names)
    config = TrainConfig(data=data, model=told, budget=budget, max_drop=max_drop, skip_damaged=skip_damaged)
    opened = [each if isinstance(each, EENet) else EENet.from_pretrained(each) for each in checkpoints]
    network = in_cascade(opened)
    last = opened[-1].config
    images = {split: as_images(data, last, split, skip_damaged=skip_damaged) for split in SPLITS}
    network.config.class_names = network.config.class_names or images["validation"].class_names
    out = Path(out or f"runs/{Path(data).name}-cascade")
    prepare(out, resume=False)
    splits = describe_splits(images)
    say(splits)
    asked = ["--budget", str(budget)] if budget != "auto" else []
    asked += ["--max-drop", str(max_drop)] if max_drop is not None else []
    command = shlex.join(["eenet", "cascade", *names, "--data", data, *asked])
    made = {
        "command": command,
        "networks": names,
        "train_config": {**data_options(last.provenance.get("train_config", {})), "data": data},
        "train_seconds": network.config.effort[1],
        "splits": splits,
        "notes": [],
        "hardware": hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("eenet", "torch", "timm")},
    }
    return conclude(network, images, config, out, made, f"```\n{command}\n```\n")
