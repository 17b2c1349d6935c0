"""What training does from end to end: train → gates and thresholds → records → report → checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn

from eenet.backbones import BACKBONES
from eenet.common import Registry, Result, counted, hardware, say, wrapped, write_atomically
from eenet.compress import Pruning
from eenet.data import GIVEN_IMAGES, SPLITS, Images, describe_splits, source_of
from eenet.evaluation import Measured, about_run, build_report, collect, measure, report_entry
from eenet.networks import HEADS, Config, EENet
from eenet.policies import RECORDS_FILE
from eenet.runtime import timed
from eenet.tasks import task_of
from eenet.training.calibrating import doubts, keep_times, told_intervals
from eenet.training.loop import fit, on_validation
from eenet.training.objectives import OBJECTIVES, trains_confidence, unused
from eenet.training.planning.budgeting import fit_for, wanted_budget
from eenet.training.planning.choosing import chosen_run, complete, default_directory
from eenet.training.planning.clocking import by_the_clock, in_time, measured_times
from eenet.training.planning.making import build, for_images, pruned_for
from eenet.training.planning.settings import TrainConfig, changed
from eenet.training.planning.starting import is_checkpoint, load_images, start_of, told_at_start
from eenet.training.planning.wording import write_run
from eenet.training.recipes import configured, how_to_repeat
from eenet.training.state import check_room, prepare
from eenet.training.trainer import process_state

REPORT_FILE = "report.html"
OWN_NETWORK = "own network"  # the model of a run whose network was given without a name
WORST = 10  # classes that a result names


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """What a run wrote, and its evaluation on the test split, whose fields are this one's as well."""

    evaluation: Measured
    checkpoint: str
    """The directory."""
    report: str | None
    """The page, if the task has one."""
    train_seconds: float
    intervals: dict[str, tuple[float, float]]
    """95 %, of `accuracy` and `relative_cost`, by bootstrap over the test images."""
    notes: list[str]
    """What of the settings did nothing, and what of the result is uncertain."""
    class_accuracy: dict[str, float]
    """Of the policy on the images of each class that has any; of a segmentation IoU, of a detection AP."""

    def __getattr__(self, name: str) -> Any:
        """What was measured."""
        if name.startswith("_") or name == "evaluation":  # as when it is unpickled
            raise AttributeError(name)
        return getattr(self.evaluation, name)

    def to_dict(self) -> dict[str, Any]:
        """All that was measured, and where it is written."""
        own = super().to_dict()
        return {**own.pop("evaluation"), **own}

    def __str__(self) -> str:
        worst = sorted(self.class_accuracy.items(), key=lambda item: item[1])[:WORST]
        which = "classes" if len(worst) == len(self.class_accuracy) else f"the {WORST} worst classes"
        metric = self.evaluation.class_metric
        classes = f"{metric} of {which}: {', '.join(f'{name} {right:.1%}' for name, right in worst)}"
        told = [told_intervals(self.intervals), classes, *(f"note: {note}" for note in self.notes)]
        where = f"checkpoint {self.checkpoint}" + (f"\nreport     {self.report}" if self.report else "")
        return f"{self.evaluation}\n\n{chr(10).join(map(wrapped, told))}\n\n{where}"


def train(
    recipe: str | TrainConfig | None = None,
    out: str | Path | None = None,
    *,
    model: str | nn.Module | None = None,
    plain: bool = False,
    resume: bool = False,
    network: EENet | None = None,
    images: Mapping[str, Images] | None = None,
    command: str | None = None,
    **settings: Any,
) -> TrainResult:
    """Train, calibrate, evaluate on the test split, and write a checkpoint with its report.

    Without a recipe, what is done is chosen by data and network, and printed: exits only, if the network's
    weights know these classes; finetuning, if they are pretrained or know others; training from scratch.

    Args:
        recipe: name of a recipe, or a configuration of your own. Default: chosen for `data` and `model`.
        out: directory for everything the run writes. Default: runs/RECIPE-seedS, or runs/DATA-MODEL.
        model: name of a backbone, a checkpoint, or a network in memory, which maps images to logits.
        plain: train the backbone without exits, for comparison.
        resume: go on from the state in `out`.
        network: of your own with exits, from `eenet.convert`. Default: `model` with exits.
        images: data of your own for `train`, `validation` and `test`, see
            `eenet.from_dataset`. Default: the data set that the recipe or `data` names.
        command: how the run was started, for card and report.
        settings: fields of `TrainConfig` that shall be others than in the recipe, or than chosen. With
            `freeze_backbone=True` a recipe becomes one for the exits of a trained backbone, see
            `eenet.training.retrofit`.

    Returns:
        What was measured; the same in all processes, if a launcher started several.

    Raises:
        FileExistsError: `out` holds a run already, and `resume` isn't given.
        FileNotFoundError, ValueError: bad names, data, weights or configuration.
        OSError: `out` can't be written to, or its disk has too little room.
    """
    module = model if isinstance(model, nn.Module) else None
    if module is not None and network is not None:
        raise ValueError("give a network with exits (network) or one without (model), not both")
    if model is not None:
        settings["model"] = type(module).__name__ if module is not None else model
    in_memory = {"network": network, "model": module, "images": images}
    given = [name for name, value in in_memory.items() if value is not None]
    first = process_state().is_main_process
    if recipe is None:
        settings = complete(settings, network, images, plain=plain)
        out = Path(out or default_directory(settings))
        if first:
            prepare(out, resume)
        config, start, images = chosen_run(settings, module, images, shown=first)
        asked = {*settings}
    else:
        config = configured(recipe, plain=plain, **settings)
        if out is None:
            kind = "-plain" if plain else "-heads" if config.freeze_backbone else ""
            name = recipe if isinstance(recipe, str) else f"{config.data}-{config.model}".replace("/", "-")
            out = f"runs/{name}{kind}-seed{config.seed}"
        out = Path(out)
        asked = {*settings, *(changed(recipe) if isinstance(recipe, TrainConfig) else ())}
        if first:
            prepare(out, resume)
        start = None
    varied = source_of(config.data).augmentation
    config, notes = _used(config, network, images if "images" in given else None, asked)
    size = network.config.input_size if network is not None else None
    images = load_images(config, size) if images is None else images
    if missing := [split for split in SPLITS if split not in images]:
        raise ValueError(f"images has no {missing[0]!r}; give {', '.join(SPLITS)}")
    if network is not None:
        epochs, before = network.config.effort
        network = for_images(network, images["train"], config)
        if config.prune is not None:
            network = pruned_for(network, config)
    else:
        start = start or start_of(config, module)
        epochs, before = start.effort
        if config.aim == "latency" and config.num_exits:
            config = by_the_clock(config, images["train"], start, out, asked=asked, resume=resume)
        network = build(config, images["train"], start)
    pruning: Any = network.config.provenance.get("pruning")
    if first and config.prune is not None:
        say(str(Pruning(**pruning)))
    if start is not None:
        notes += told_at_start(network, images["validation"], config, start, shown=first)
    if first:
        check_room(out, network, len(images["validation"]) + len(images["test"]))
        write_run(config, out)
    splits = describe_splits(images)
    seconds = fit(
        network,
        images["train"],
        images["validation"],
        config,
        out,
        augmentation=varied,
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
        **({"pruning": pruning} if pruning else {}),
        **({"before": {"epochs": epochs, "train_seconds": before}} if epochs else {}),
    }
    result = conclude(network, images, config, out, made, how) if first else None
    (result,) = broadcast_object_list([result])
    assert isinstance(result, TrainResult)
    return result


def conclude(
    network: EENet,
    images: Mapping[str, Images],
    config: TrainConfig,
    out: Path,
    made: dict[str, Any],
    how: str,
) -> TrainResult:
    """Calibrate and evaluate a trained network; write checkpoint, records and report.

    Args:
        network: as it was trained.
        images: of the splits.
        config: of the run.
        out: directory for everything.
        made: its provenance.
        how: the card's section about repeating that.
    """
    notes = [*dict.fromkeys(note for split in SPLITS for note in images[split].notes), *made["notes"]]
    held_out = images["validation"]
    fitted, how_set = fit_for(collect(network, held_out), config, gate=network.config.gate)
    network.adopt(fitted)
    if config.aim == "latency" and network.num_exits and not trains_confidence(config.objective):
        times = measured_times(network, held_out, config)
        fitted, how_set = in_time(network, fitted, held_out, config, times)
        network.adopt(fitted)
        keep_times(network, times)
        spent = measure(timed(fitted.records, times.to_dict()), fitted.policy).relative_cost
        where = f"{times.backend}, batches of {times.batch_size}"
        notes.append(f"expected time {spent:.3f} of the plain network's ({where})")
    if network.num_exits and trains_confidence(config.objective):
        made["thresholds"] = how_set
    elif network.num_exits:
        say(f"fitted  {on_validation(measure(fitted.records, fitted.policy))}")
        if wanted_budget(config) is None:
            say(how_set)
        doubted = doubts(fitted.records, fitted.policy, network.config)
        set_on = f"{how_set} on {counted(len(held_out), 'validation image')}"
        made["thresholds"] = "; ".join([set_on, *doubted])
        notes += doubted
    tested = collect(network, images["test"])
    for split, records in (("validation", fitted.records), ("test", tested)):
        records.save(out / RECORDS_FILE.format(split=split))
    network.config.provenance = made
    task = task_of(network.config.task)
    result = TrainResult(
        evaluation=measure(tested, fitted.policy),
        checkpoint=str(out),
        report=None if "report" in task.unsupported else str(out / REPORT_FILE),
        train_seconds=made["train_seconds"],
        intervals=task.intervals(tested, fitted.policy),
        notes=notes,
        class_accuracy=task.by_class(tested, fitted.policy, images["test"].class_names),
    )
    exits = f" with {counted(network.num_exits, 'early exit')}" if network.num_exits else ""
    title = f"{network.config.backbone or config.model}{exits} on {config.data}"
    network.save_pretrained(out, card=_card(network.config, title, result, how))
    if result.report is not None:
        entry = report_entry(out.name, network.config, tested, fitted.policy, network=network)
        page = build_report([entry], images["test"], title=title, data_name=config.data)
        write_atomically(out / REPORT_FILE, page.encode())
    return result


def _used(
    config: TrainConfig, network: EENet | None, images: Mapping[str, Images] | None, asked: Collection[str]
) -> tuple[TrainConfig, list[str]]:
    """The configuration as far as it comes to bear beside what is given, and notes on the rest."""
    used, why = config, []
    if network is not None:
        exits = {"num_exits": network.num_exits, "placement": list(network.config.exits)}
        known = network.config.backbone or (config.model if "model" in asked else OWN_NETWORK)
        own = {"model": known, "head": network.config.head, "pretrained": False, "model_args": {}}
        used = replace(used, **exits, **own)
        why.append(("the network was given", [*exits, *own]))
    elif is_checkpoint(config.model):
        used = replace(used, pretrained=False, model_args={})
        why.append((f"the backbone is that of {config.model}", ["pretrained", "model_args"]))
    if images is not None:
        used = replace(used, image_size=None, skip_damaged=False, label_column=None, file_column=None)
        reading = ["image_size", "skip_damaged", "label_column", "file_column"]
        why.append(("the images were given", reading))
        used = used if "data" in asked else replace(used, data=GIVEN_IMAGES)
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
    parts: list[tuple[Registry[Any], str]] = [(OBJECTIVES, config.objective), (HEADS, network.config.head)]
    parts += [(BACKBONES, config.model)]
    return sorted(modules), [
        f"the {registry.noun} {name}, which the program that trained registered itself"
        for registry, name in parts
        if name in registry and registry[name].__module__ == "__main__"
    ]


def _card(config: Config, title: str, measured: TrainResult, how: str) -> str:
    return (
        f"---\nlibrary_name: eenet\ntags: [early-exit, image-{config.task}]\n---\n\n"
        f"# {title}\n\n{about_run(config)}\n\n"
        f"## Measured on the test split\n\n{measured.evaluation}\n\n"
        f"{told_intervals(measured.intervals)}.\n\n"
        f"Relative cost is MACs spent per image, exit heads included, divided by those of the plain "
        f"backbone.\n\n## How to reproduce\n\n{how}"
    )
