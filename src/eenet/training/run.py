"""What training does from end to end: train → gates and thresholds → records → report → checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from timm import get_pretrained_cfg_value
from torch import nn

from eenet import policies
from eenet.backbones import ALIASES, BACKBONES, create_backbone
from eenet.common import Registry, counted, hardware, say, wrapped, write_atomically
from eenet.data import SPLITS, Images, data_options, describe_splits, load, source_of
from eenet.evaluation import Evaluation, about_run, build_report, collect, measure, report_entry
from eenet.networks import (
    HEADS,
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
from eenet.training.calibrating import doubts, intervals, told_intervals
from eenet.training.loop import fit, on_validation
from eenet.training.objectives import OBJECTIVES, trains_confidence, unused
from eenet.training.recipes import TrainConfig, changed, configured, how_to_repeat
from eenet.training.state import check_room, prepare
from eenet.training.trainer import process_state

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class TrainResult(Evaluation):
    """What a run wrote, and its evaluation on the test split."""

    checkpoint: str
    """The directory."""
    report: str
    """The page."""
    train_seconds: float
    intervals: dict[str, tuple[float, float]]
    """95 %, of `accuracy` and `relative_cost`, by bootstrap over the test images."""
    notes: list[str]
    """What of the settings did nothing, and what of the result is uncertain."""

    def __str__(self) -> str:
        told = [told_intervals(self.intervals), *(f"note: {note}" for note in self.notes)]
        where = f"checkpoint {self.checkpoint}\nreport     {self.report}"
        return f"{super().__str__()}\n\n{chr(10).join(map(wrapped, told))}\n\n{where}"


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
    given = [name for name, value in (("network", network), ("images", images)) if value is not None]
    asked = {*settings, *(changed(recipe) if isinstance(recipe, TrainConfig) else ())}
    config, notes = _used(config, network, images, asked)
    if first := process_state().is_main_process:
        prepare(out, resume)
    images = load_images(config) if images is None else images
    if missing := [split for split in SPLITS if split not in images]:
        raise ValueError(f"images has no {missing[0]!r}; give {', '.join(SPLITS)}")
    network = _for_images(network, images["train"]) if network else build(config, images["train"])
    if first:
        check_room(out, network, len(images["validation"]) + len(images["test"]))
    splits = describe_splits(images)
    seconds = fit(
        network,
        images["train"],
        images["validation"],
        config,
        out,
        augmentation=source_of(config.data).augmentation,
        resume=resume,
        heading=splits,
    )
    imports, needs = _own_parts(config, network)
    command, how = how_to_repeat(config, command, given=given, imports=imports, needs=needs)
    made = {
        "command": command,
        "train_config": asdict(config),
        "train_seconds": round(seconds, 1),
        "splits": splits,
        "notes": notes,
        "hardware": hardware(),
        "processes": process_state().num_processes,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("eenet", "torch", "timm")},
    }
    result = _conclude(network, images, config, out, made, how) if first else None
    (result,) = broadcast_object_list([result])
    assert isinstance(result, TrainResult)
    return result


def load_images(config: TrainConfig) -> dict[str, Images]:
    """The splits of a configuration's data set, at the size it wants."""
    size = _image_size(config)
    options = data_options(asdict(config))
    return {split: load(config.data, split, size=size, **options) for split in SPLITS}


def _conclude(
    network: EENet,
    images: Mapping[str, Images],
    config: TrainConfig,
    out: Path,
    made: dict[str, Any],
    how: str,
) -> TrainResult:
    """Calibrate and evaluate a trained network; write checkpoint, records and report.

    `made` becomes its provenance, `how` is the card's section about repeating that.
    """
    notes = [*dict.fromkeys(note for split in SPLITS for note in images[split].notes), *made["notes"]]
    budget = None if trains_confidence(config.objective) else config.budget
    held_out = images["validation"]
    fitted = policies.fit(collect(network, held_out), budget, gate=network.config.gate)
    network.adopt(fitted)
    if network.num_exits and budget is None:
        made["thresholds"] = f"thresholds at 0.5, for which objective {config.objective} trains confidences"
    elif network.num_exits:
        say(f"fitted  {on_validation(measure(fitted.records, fitted.policy))}")
        doubted = doubts(fitted.records, fitted.policy, network.config)
        set_on = f"thresholds set for budget {budget} on {counted(len(held_out), 'validation image')}"
        made["thresholds"] = "; ".join([set_on, *doubted])
        notes += doubted
    tested = collect(network, images["test"])
    for split, records in (("validation", fitted.records), ("test", tested)):
        records.save(out / RECORDS_FILE.format(split=split))
    network.config.provenance = made
    result = TrainResult(
        checkpoint=str(out),
        report=str(out / REPORT_FILE),
        train_seconds=made["train_seconds"],
        intervals=intervals(tested, fitted.policy),
        notes=notes,
        **vars(measure(tested, fitted.policy)),
    )
    exits = f" with {counted(network.num_exits, 'early exit')}" if network.num_exits else ""
    title = f"{network.config.backbone or config.model}{exits} on {config.data}"
    network.save_pretrained(out, card=_card(network.config, title, result, how))
    entry = report_entry(out.name, network.config, tested, fitted.policy)
    page = build_report([entry], images["test"], title=title, data_name=config.data)
    write_atomically(out / REPORT_FILE, page.encode())
    return result


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


def _used(
    config: TrainConfig, network: EENet | None, images: Mapping[str, Images] | None, asked: Collection[str]
) -> tuple[TrainConfig, list[str]]:
    """The configuration as far as it comes to bear beside what is given, and notes on the rest."""
    used, why = config, []
    if network is not None:
        exits = {"num_exits": network.num_exits, "placement": list(network.config.exits)}
        own = {"head": network.config.head, "pretrained": False, "model_args": {}}
        used = replace(used, **exits, **own)
        why.append(("the network was given", [*exits, *own]))
    elif Path(config.model).is_dir():
        used = replace(used, pretrained=False, model_args={})
        why.append((f"the backbone is that of {config.model}", ["pretrained", "model_args"]))
    if images is not None:
        used = replace(used, image_size=None, skip_damaged=False, label_column=None, file_column=None)
        reading = ["image_size", "skip_damaged", "label_column", "file_column"]
        why.append(("the images were given", reading))
    notes = []
    for reason, names in why:
        idle = [name for name in names if name in asked and getattr(config, name) != getattr(used, name)]
        if idle:
            told = ", ".join(f"{name} {getattr(config, name)}" for name in idle)
            notes.append(f"not used: {told}, as {reason}")
    notes += unused(used, asked)
    if network is not None and network.config.gate == "features" and not trains_confidence(config.objective):
        notes.append(
            f"gates of kind features are trained by none but the objectives that train confidences, and "
            f"{config.objective} isn't one: give `convert` gate='answer'"
        )
    return used, notes


def _own_parts(config: TrainConfig, network: EENet) -> tuple[list[str], list[str]]:
    """Modules of a user's own parts, and parts that the program which trains registers itself."""
    objective = OBJECTIVES.origin(config.objective)
    modules = {*network.config.plugins, objective or ""} - {""}
    parts: list[tuple[Registry[Any], str]] = [(OBJECTIVES, config.objective), (HEADS, config.head)]
    parts += [(BACKBONES, config.model)]
    return sorted(modules), [
        f"the {registry.noun} {name}, which the program that trained registered itself"
        for registry, name in parts
        if name in registry and registry[name].__module__ == "__main__"
    ]


def _card(config: Config, title: str, measured: TrainResult, how: str) -> str:
    return (
        f"---\nlibrary_name: eenet\ntags: [early-exit, image-classification]\n---\n\n"
        f"# {title}\n\n{about_run(config)}\n\n"
        f"## Measured on the test split\n\n{Evaluation.__str__(measured)}\n\n"
        f"{told_intervals(measured.intervals)}.\n\n"
        f"Relative cost is MACs spent per image, exit heads included, divided by those of the plain "
        f"backbone.\n\n## How to reproduce\n\n{how}"
    )
