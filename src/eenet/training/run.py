"""What training does from end to end: train → gates and thresholds → records → report → checkpoint."""

import difflib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from timm import get_pretrained_cfg_value
from torch import nn

from eenet import policies
from eenet.backbones import ALIASES, create_backbone
from eenet.common import hardware, write_atomically
from eenet.data import SPLITS, Images, load, source_of
from eenet.evaluation import Evaluation, about_run, build_report, collect, measure, report_entry
from eenet.networks import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Config,
    EENet,
    convert,
    create_model,
    name_backbone,
    read_config,
    trained_backbone,
    without_exits,
)
from eenet.policies import RECORDS_FILE
from eenet.training.loop import fit
from eenet.training.objectives import trains_confidence
from eenet.training.recipes import TrainConfig, get_recipe, retrofit
from eenet.training.state import STATE_FILE
from eenet.training.trainer import process_state

REPORT_FILE = "report.html"

REPORT_BYTES = 10e6  # most of it is the plotting library


@dataclass(frozen=True, kw_only=True)
class TrainResult(Evaluation):
    """What a run wrote, and its evaluation on the test split."""

    checkpoint: str
    """The directory."""
    report: str
    """The page."""
    train_seconds: float

    def __str__(self) -> str:
        return f"{super().__str__()}\n\ncheckpoint {self.checkpoint}\nreport     {self.report}"


def train(
    recipe: str | TrainConfig,
    out: str | Path | None = None,
    *,
    plain: bool = False,
    resume: bool = False,
    network: EENet | None = None,
    images: Mapping[str, Images] | None = None,
    command: str | None = None,
    **settings: Any,
) -> TrainResult:
    """Train, calibrate, evaluate on the test split, and write a checkpoint with its report.

    Args:
        recipe: name of a recipe, or a configuration of your own.
        out: directory for everything the run writes. Default: runs/RECIPE-seedS.
        plain: train the backbone without exits, for comparison.
        resume: go on from the state in `out`.
        network: of your own, from `eenet.convert`. Default: the one that the recipe describes.
        images: data of your own for `train`, `validation` and `test`, see
            `eenet.from_dataset`. Default: the data set that the recipe names.
        command: how the run was started, for card and report.
        settings: fields of `TrainConfig` that shall be others than in the recipe. With
            `freeze_backbone=True` a recipe becomes one for the exits of a trained backbone, see
            `eenet.training.retrofit`.

    Returns:
        What was measured; the same in all processes, if a launcher started several.

    Raises:
        FileExistsError: `out` holds a run already, and `resume` isn't given.
        FileNotFoundError, ValueError: bad names, data or configuration.
        OSError: `out` can't be written to, or its disk has too little room.
    """
    config = configured(recipe, plain=plain, **settings)
    if out is None:
        kind = "-plain" if plain else "-heads" if config.freeze_backbone else ""
        name = recipe if isinstance(recipe, str) else f"{config.data}-{config.model}".replace("/", "-")
        out = f"runs/{name}{kind}-seed{config.seed}"
    out = Path(out)
    if first := process_state().is_main_process:
        _prepare(out, resume)
    images = load_images(config) if images is None else images
    network = _for_images(network, images["train"]) if network else build(config, images["train"])
    if first:
        _check_room(out, network, len(images["validation"]) + len(images["test"]))
    seconds = fit(
        network,
        images["train"],
        images["validation"],
        config,
        out,
        augmentation=source_of(config.data).augmentation,
        resume=resume,
    )
    result = _conclude(network, images, config, out, seconds, command) if first else None
    (result,) = broadcast_object_list([result])
    assert isinstance(result, TrainResult)
    return result


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


def load_images(config: TrainConfig) -> dict[str, Images]:
    """The splits of a configuration's data set, at the size it wants."""
    size = _image_size(config)
    return {split: load(config.data, split, size=size) for split in SPLITS}


def _conclude(
    network: EENet,
    images: Mapping[str, Images],
    config: TrainConfig,
    out: Path,
    seconds: float,
    command: str | None,
) -> TrainResult:
    """Calibrate and evaluate a trained network; write checkpoint, records and report."""
    budget = None if trains_confidence(config.objective) else config.budget
    fitted = policies.fit(collect(network, images["validation"]), budget, gate=network.config.gate)
    network.adopt(fitted)
    tested = collect(network, images["test"])
    for split, records in (("validation", fitted.records), ("test", tested)):
        records.save(out / RECORDS_FILE.format(split=split))
    measured = measure(tested, fitted.policy)
    network.config.provenance = _provenance(config, seconds, command)
    name = network.config.backbone or config.model
    title = f"{name} with {network.num_exits} early exits on {config.data}"
    network.save_pretrained(out, card=_card(network.config, title, measured))
    entry = report_entry(out.name, network.config, tested, fitted.policy)
    page = build_report([entry], images["test"], title=title, data_name=config.data)
    write_atomically(out / REPORT_FILE, page.encode())
    return TrainResult(
        checkpoint=str(out), report=str(out / REPORT_FILE), train_seconds=seconds, **vars(measured)
    )


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
        name_backbone(network, config.model, args)
    return _for_images(network, images)


def plain_backbone(config: TrainConfig, images: Images) -> tuple[nn.Module, dict[str, Any]]:
    """The timm network of a configuration, made for these images, and what it was made with."""
    args = {**config.model_args, "num_classes": len(images.class_names), "in_chans": images.image_size[0]}
    return create_backbone(config.model, args, pretrained=config.pretrained), args


def _gate(config: TrainConfig) -> str:
    return "features" if trains_confidence(config.objective) else "answer"


def _for_images(network: EENet, images: Images) -> EENet:
    """With the classes of these images, and their mean and standard deviation if it has none."""
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
    assert before.backbone is not None
    name_backbone(network, before.backbone, before.backbone_args)
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
    if (known := known or get_pretrained_cfg_value(name, "num_classes")) != classes:
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


def _provenance(config: TrainConfig, seconds: float, command: str | None) -> dict[str, Any]:
    return {
        "command": command or f"eenet.train({config})",
        "train_config": asdict(config),
        "train_seconds": round(seconds, 1),
        "hardware": hardware(),
        "processes": process_state().num_processes,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("eenet", "torch", "timm")},
    }


def _card(config: Config, title: str, measured: Evaluation) -> str:
    return (
        f"---\nlibrary_name: eenet\ntags: [early-exit, image-classification]\n---\n\n"
        f"# {title}\n\n{about_run(config)}\n\n"
        f"## Measured on the test split\n\n{measured}\n\n"
        f"Relative cost is MACs spent per image, exit heads included, divided by those of the plain "
        f"backbone.\n\n## How to reproduce\n\n```\n{config.provenance['command']}\n```\n"
    )
