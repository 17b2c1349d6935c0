"""What training does from end to end: train → gates and thresholds → records → report → checkpoint."""

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from eenet import data
from eenet import records as recording
from eenet.backbones import ALIASES
from eenet.calibration import policies_for_budgets
from eenet.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Config,
    read_config,
    write_atomically,
)
from eenet.evaluation import evaluate
from eenet.image_sets import Images
from eenet.network import (
    EENet,
    convert,
    create_model,
    timm_backbone,
    trained_backbone,
    without_exits,
)
from eenet.objectives import TRAIN_CONFIDENCE
from eenet.policies import ExitPolicy
from eenet.records import RECORDS_FILE, Records
from eenet.report import Entry, build_report
from eenet.tables import evaluation_table
from eenet.training import STATE_FILE, TrainConfig, calibrate, fit, process_state

REPORT_FILE = "report.html"

REPORT_BYTES = 10e6  # most of it is the plotting library


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    command: str | None = None,
    network: EENet | None = None,
    images: Mapping[str, Images] | None = None,
) -> dict[str, Any]:
    """Train, calibrate, evaluate on the test split, and write a checkpoint with its report.

    Args:
        config: the run, from `eenet.recipes` or your own.
        out: directory for everything the run writes.
        resume: go on from the state in `out`.
        command: how the run was started, for card and report.
        network: of your own, from `eenet.convert`. Default: the one that `config` describes.
        images: data of your own for `train`, `validation` and `test`, see
            `eenet.readers.from_dataset`. Default: the data set that `config` names.

    Returns:
        `checkpoint`, `report`, `train_seconds` and all of `eenet.evaluation.evaluate`; nothing
        in processes beside the first, if a launcher started several.

    Raises:
        FileExistsError: `out` holds a run already, and `resume` isn't given.
        FileNotFoundError, ValueError: bad names, data or configuration.
        OSError: `out` can't be written to, or its disk has too little room.
    """
    out = Path(out)
    if first := process_state().is_main_process:
        _prepare(out, resume)
    images = load_images(config) if images is None else images
    network = _fitted(network, images["train"]) if network else build(config, images["train"])
    if first:
        _check_room(out, network, len(images["validation"]) + len(images["test"]))
    seconds = fit(
        network,
        images["train"],
        images["validation"],
        config,
        out,
        augmentation=data.source_of(config.data).augmentation,
        resume=resume,
    )
    return _conclude(network, images, config, out, seconds, command) if first else {}


def load_images(config: TrainConfig) -> dict[str, Images]:
    """The splits of a configuration's data set, at the size it wants."""
    size = _image_size(config)
    return {split: data.load(config.data, split, size=size) for split in data.SPLITS}


def _conclude(
    network: EENet,
    images: Mapping[str, Images],
    config: TrainConfig,
    out: Path,
    seconds: float,
    command: str | None,
) -> dict[str, Any]:
    """Calibrate and evaluate a trained network; write checkpoint, records and report."""
    policy, held_out = calibrate(network, recording.collect(network, images["validation"]), config)
    tested = recording.collect(network, images["test"])
    for split, records in (("validation", held_out), ("test", tested)):
        recording.save(records, out / RECORDS_FILE.format(split=split))
    measured = evaluate(tested, policy)
    network.config.policy = policy.to_dict()
    others = policies_for_budgets(held_out)
    network.config.budgets = {budget: other.to_dict() for budget, other in others.items()}
    network.config.provenance = _provenance(config, seconds, command)
    name = network.config.backbone or config.model
    title = f"{name} with {network.num_exits} early exits on {config.data}"
    network.save_pretrained(out, card=_card(network.config, title, measured))
    entry = report_entry(out.name, network.config, tested, policy)
    page = build_report([entry], images["test"], title=title, data_name=config.data)
    write_atomically(out / REPORT_FILE, page.encode())
    return {
        "checkpoint": str(out),
        "report": str(out / REPORT_FILE),
        "train_seconds": seconds,
        **measured,
    }


def build(config: TrainConfig, images: Images) -> EENet:
    """The network of a configuration before training, made for these images; the seed sets new weights.

    Raises:
        ValueError: unknown names; a backbone to be frozen that isn't trained, or is for other images.
    """
    torch.manual_seed(config.seed)
    classes, size = len(images.class_names), images.image_size
    if Path(config.model).is_dir():
        network = _on_trained_backbone(config, images)
    elif config.num_exits:
        network = create_model(
            config.model,
            num_exits=config.num_exits,
            placement=config.placement,
            head=config.head,
            gate=_gate(config),
            num_classes=classes,
            input_size=size,
            pretrained=config.pretrained,
            **config.model_args,
        )
        if config.freeze_backbone:
            _check_is_trained(config, classes)
    else:
        backbone, args = plain_backbone(config, images)
        network = without_exits(backbone, size)
        network.config.backbone, network.config.backbone_args = config.model, args
    return _fitted(network, images)


def plain_backbone(config: TrainConfig, images: Images) -> tuple[nn.Module, dict[str, Any]]:
    """The timm network of a configuration, made for these images, and what it was made with."""
    args = {**config.model_args, "num_classes": len(images.class_names), "in_chans": images.image_size[0]}
    return timm_backbone(config.model, args, pretrained=config.pretrained), args


def _gate(config: TrainConfig) -> str:
    return "features" if config.objective in TRAIN_CONFIDENCE else "answer"


def _fitted(network: EENet, images: Images) -> EENet:
    if network.config.mean is None:
        network.config.mean, network.config.std = images.mean_std()
    network.config.class_names = images.class_names
    return network


def _image_size(config: TrainConfig) -> tuple[int, int] | None:
    if config.image_size is None and Path(config.model).is_dir():
        return read_config(Path(config.model)).input_size[1:]
    return (config.image_size, config.image_size) if config.image_size else None


def _on_trained_backbone(config: TrainConfig, images: Images) -> EENet:
    """New exits on the backbone of a checkpoint, which keeps its weights and its normalisation."""
    backbone, before = trained_backbone(config.model)
    expected, given = (before.input_size, before.num_classes), (images.image_size, len(images.class_names))
    if expected != given:
        raise ValueError(
            f"{config.model} takes images of size {expected[0]} (C, H, W) in {expected[1]} classes, "
            f"the data set has {given[0]} in {given[1]}"
        )
    network = (
        convert(
            backbone,
            before.input_size,
            num_exits=config.num_exits,
            placement=config.placement,
            head=config.head,
            gate=_gate(config),
        )
        if config.num_exits
        else without_exits(backbone, before.input_size)
    )
    network.config.backbone, network.config.backbone_args = before.backbone, before.backbone_args
    network.config.mean, network.config.std = before.mean, before.std
    return network


def _check_is_trained(config: TrainConfig, classes: int) -> None:
    if not config.pretrained:
        raise ValueError(
            f"freeze_backbone needs a trained backbone, and {config.model} starts from random weights; "
            "give a checkpoint directory as model, or pretrained"
        )
    name = ALIASES.get(config.model, config.model)
    known = config.model_args.get("pretrained_cfg_overlay", {}).get("num_classes")
    if (known := known or timm.get_pretrained_cfg_value(name, "num_classes")) != classes:
        raise ValueError(
            f"freeze_backbone keeps the classifier of {config.model}, which knows {known} classes; "
            f"the data set has {classes}. Train the backbone on it first (--plain)"
        )


def _prepare(out: Path, resume: bool) -> None:
    """Find out before hours are spent whether the run may and can write to its directory."""
    taken = [name for name in (STATE_FILE, CONFIG_FILE, WEIGHTS_FILE) if (out / name).exists()]
    if taken and not resume:
        raise FileExistsError(
            f"{out} already holds a run ({taken[0]}); continue it with --resume, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / ".writable", b"")
        (out / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error


def _check_room(out: Path, network: EENet, recorded: int) -> None:
    """A full disk is found before hours are spent: state twice while it is replaced, records, report."""
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    records = 4 * recorded * (network.num_exits + 1) * (network.config.num_classes + 1)
    needed = 8 * weights + records + REPORT_BYTES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OSError(
            f"the disk of {out} has {free / 1e6:.0f} MB left; this run needs up to {needed / 1e6:.0f} MB"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _provenance(config: TrainConfig, seconds: float, command: str | None) -> dict[str, Any]:
    return {
        "command": command or f"eenet.pipeline.train({config})",
        "train_config": asdict(config),
        "train_seconds": round(seconds, 1),
        "hardware": hardware(),
        "processes": process_state().num_processes,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("eenet", "torch", "timm")},
    }


def hardware() -> str:
    """What this runs on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    processor = names.get("cpu_name") or platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {processor}"


def report_entry(name: str, config: Config, records: Records, policy: ExitPolicy, **measured: Any) -> Entry:
    """A trained network for `eenet.report.build_report`; `measured`: its `corruptions` and `timings`."""
    return Entry(
        name,
        records,
        policy,
        about=_about(config),
        command=config.provenance.get("command", ""),
        backbone=config.backbone or "the plain backbone",
        budgets={b: ExitPolicy.from_dict(p, len(config.exits)) for b, p in config.budgets.items()},
        exits=config.exits,
        **measured,
    )


def _about(config: Config) -> str:
    """How a network was made, as a sentence."""
    made = config.provenance
    trained = made.get("train_config", {})
    if not trained:
        return ""
    text = (
        f"{'Exit heads trained' if trained['freeze_backbone'] else 'Trained'} for {trained['epochs']} epochs "
        f"in {_duration(made['train_seconds'])} on {made['hardware']}, seed {trained['seed']}"
    )
    if config.exits:
        text += f", objective {trained['objective']}, budget {trained['budget']}"
        text += "; thresholds set on the validation split"
    return text + "."


def _card(config: Config, title: str, measured: dict[str, Any]) -> str:
    return (
        f"---\nlibrary_name: eenet\ntags: [early-exit, image-classification]\n---\n\n"
        f"# {title}\n\n{_about(config)}\n\n"
        f"## Measured on the test split\n\n{evaluation_table(measured)}\n\n"
        f"Relative cost is MACs spent per image, exit heads included, divided by those of the plain "
        f"backbone.\n\n## How to reproduce\n\n```\n{config.provenance['command']}\n```\n"
    )
