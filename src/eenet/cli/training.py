"""`eenet train`, `sweep` and `calibrate`: what makes or changes a checkpoint."""

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from eenet.cli.groups import (
    Checkpoint,
    Data,
    Flag,
    Json,
    KeyValues,
    Recipe,
    Settings,
    SkipDamaged,
    given,
    group,
)
from eenet.cli.output import show


@group
class TrainSettings(Settings):
    """What shall be other than in the recipe, or than chosen."""

    task: str | None = None
    """What the exits answer: classification (the default), segmentation (masks) or detection (boxes)."""
    teacher: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...", help_behavior_hint="")] = None
    """Checkpoint or export of a trained network whose answers all exits imitate; of several, their mean."""
    prune: float | None = None
    """Prune trained weights to this share of the MACs, such as 0.5, before training on."""
    max_drop: float | None = None
    """Instead of a budget: the cheapest that loses at most so many points of accuracy, such as 0.5."""
    aim: Annotated[
        Literal["macs", "latency"] | None,
        arg(aliases=["--for"], metavar="macs|latency", help_behavior_hint=""),
    ] = None
    """What is to be saved; latency: exits where this machine's clock wants them, budgets in time."""
    backend: str | None = None
    """That latency is timed on: onnxruntime (the default), openvino, torch."""
    at_once: int | None = None
    """Images that will arrive together, for latency; 1 by default."""
    num_exits: int | None = None
    """Number of early exits."""
    placement: Annotated[tuple[str, ...] | None, arg(metavar="NAME|FLOAT ...", help_behavior_hint="")] = None
    """Of the exits: linear, pareto, golden, fine, fractions of the MACs, or names of blocks."""
    batch_size: int | None = None
    """Images per step, over all processes."""
    accumulate: int | None = None
    """Parts that a step is divided into, for less memory."""
    image_size: int | None = None
    """Height and width that images are brought to."""
    label_column: str | None = None
    """Of the data set's table: the column of labels."""
    file_column: str | None = None
    """The column of file names."""
    augmentation: str | None = None
    """none, shift, shift-flip, shift-flip-erase, crop-flip or crop-flip-colour."""
    objective: str | None = None
    """Training loss: joint (the default), the paper's v1 to v4, or one that a plugin registers."""
    cost_weight: float | None = None
    """Weight of cost in the paper's objectives."""
    head: str | None = None
    """Kind of exit head: deep (the default), separable, pool, residual, …, or a plugin's."""
    mean: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT ...", help_behavior_hint="")] = None
    """Of each channel, 0 to 1, that the weights expect to be taken out. Default: as pretrained ones do."""
    std: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT ...", help_behavior_hint="")] = None
    """Standard deviation of each channel, likewise."""
    class_weights: Annotated[Literal["auto"] | None, arg(metavar="auto", help_behavior_hint="")] = None
    """auto: all classes weigh the same, however few images one has."""
    track: Annotated[
        Literal["tensorboard", "trackio"] | None, arg(metavar="tensorboard|trackio", help_behavior_hint="")
    ] = None
    """Where else the figures of every epoch go."""


def _settings(
    settings: Settings, model_args: KeyValues, more: KeyValues, config: Path | None = None, **flags: bool
) -> tuple[dict[str, Any], bool]:
    """What was asked for as `eenet.train` takes it, and whether a file holds the rest of it."""
    from eenet.training import parsed, read_run, typed

    found, complete = read_run(config) if config is not None else ({}, False)
    asked = {name: list(v) if isinstance(v, tuple) else v for name, v in given(settings).items()}
    if placement := asked.get("placement"):
        asked["placement"] = _placement(placement)
    if len(asked.get("teacher") or ()) == 1:
        asked["teacher"] = asked["teacher"][0]
    if model_args:
        asked["model_args"] = parsed([word for words in model_args for word in words], "--model-args")
    asked |= typed(parsed([word for words in more for word in words]))
    return {**found, **asked, **{name: True for name, on in flags.items() if on}}, complete


def _placement(words: list[str]) -> str | list[float] | list[str]:
    """A name, numbers, or names of blocks."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return words[0] if len(words) == 1 and words[0].isidentifier() else words


def _typed(verb: str, recipe: str | None, asked: Mapping[str, Any], flags: Collection[str] = ()) -> str:
    """The command by which a run is repeated; what isn't among `flags` is told by --set."""
    words = ["eenet", verb, *([recipe] if recipe else [])]
    for name, value in asked.items():
        if flags and name not in flags:
            words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
            continue
        if isinstance(value, dict):
            words += [f"--{name.replace('_', '-')}", *(f"{key}={_word(v)}" for key, v in value.items())]
            continue
        values = value if isinstance(value, (tuple, list)) else () if value is True else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def train(
    recipe: Recipe = None,
    /,
    *,
    settings: TrainSettings,
    pretrained: Flag = False,
    new_classifier: Flag = False,
    freeze_backbone: Flag = False,
    balanced: Flag = False,
    skip_damaged: SkipDamaged = False,
    plain: Flag = False,
    model_args: KeyValues = (),
    set_: Annotated[KeyValues, arg(name="set")] = (),
    config: Path | None = None,
    seeds: int | None = None,
    out: Path | None = None,
    resume: Flag = False,
    as_json: Json = False,
) -> int:
    """Train, evaluate, and write a checkpoint directory with report.html.

    Without a recipe, --data and --model decide, and what is done is printed: exits only, if the weights know
    these classes; finetuning, if they know others; else training from scratch.

    Args:
        pretrained: Start from the pretrained weights of timm or torchvision.
        new_classifier: Put a new last layer on weights that know other classes.
        freeze_backbone: Train the exit heads only, on a trained backbone that stays as it is.
        balanced: Draw every class equally often.
        plain: Train the backbone without exits, for comparison.
        model_args: Passed on to what makes the backbone.
        set_: Any setting of `eenet.TrainConfig`.
        config: File of settings; every run writes one, run.toml.
        seeds: So many runs, with seeds from --seed on: mean, standard error, one report.
        out: Directory for all that is written. Default: runs/RECIPE-seedS, or runs/DATA-MODEL.
        resume: Continue an interrupted run.
    """
    import eenet
    from eenet.common import keep_freed_memory
    from eenet.training import process_state

    flags = {"pretrained": pretrained, "new_classifier": new_classifier, "balanced": balanced}
    flags |= {"freeze_backbone": freeze_backbone, "skip_damaged": skip_damaged}
    asked, complete = _settings(settings, model_args, set_, config, **flags)
    known = {*flags, *(each.name for each in fields(settings)), "model_args", "plain"}
    command = _typed("train", recipe, ({"plain": True} if plain else {}) | asked, known)
    if complete and recipe:
        raise ValueError(f"{config} holds all settings of a run; give it or the recipe {recipe}, not both")
    start = eenet.TrainConfig(**asked) if complete else recipe
    keep_freed_memory()
    asked = {} if complete else asked
    if seeds is not None:
        command += f" --seeds {seeds}"
        several = eenet.train_seeds(seeds, start, out, plain=plain, command=command, **asked)
        return show(several, as_json) if process_state().is_main_process else 0
    result = eenet.train(start, out, plain=plain, resume=resume, command=command, **asked)
    return show(result, as_json) if process_state().is_main_process else 0


def sweep(
    recipe: Recipe = None,
    /,
    *,
    settings: Settings,
    placements: tuple[str, ...] = ("linear", "pareto", "golden", "fine", "searched"),
    nums_exits: tuple[int, ...] = (3,),
    heads: tuple[str, ...] = (),
    trials: int | None = None,
    skip_damaged: SkipDamaged = False,
    model_args: KeyValues = (),
    set_: Annotated[KeyValues, arg(name="set")] = (),
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Train with exits in different places and compare at one budget; the same command goes on.

    Without a recipe, --data, --model and --budget say what is trained, as for `eenet train`.

    Args:
        placements: linear, pareto, golden, fine, searched (the best of a network with an exit at every cut).
        nums_exits: Numbers of early exits.
        heads: Kinds of exit heads. Default: the task's own.
        trials: So many combinations, chosen by Optuna's TPE. Default: all.
        model_args: Passed on to what makes the backbone.
        set_: Any setting of `eenet.TrainConfig`.
        out: Directory for networks, table and picture. Default: runs/RECIPE-sweep, or runs/DATA-MODEL-sweep.
    """
    import eenet
    from eenet.common import keep_freed_memory
    from eenet.training import PICTURE_FILE, TABLE_FILE, Space, sweep_directory, sweep_table

    space = Space(placements, nums_exits, heads)
    asked, _ = _settings(settings, model_args, set_, skip_damaged=skip_damaged)
    varied = {"placements": placements, "nums_exits": nums_exits, **({"heads": heads} if heads else {})}
    varied |= {"trials": trials} if trials else {}
    known = {*varied, *(each.name for each in fields(settings)), "model_args", "skip_damaged"}
    command = _typed("sweep", recipe, asked | varied, known)
    keep_freed_memory()
    rows = eenet.sweep(recipe, out, space, trials=trials, command=command, **asked)
    out = out or Path(sweep_directory(recipe, asked))
    files = f"table   {out / TABLE_FILE}\npicture {out / PICTURE_FILE}"
    return show(rows, as_json, text=lambda: f"{sweep_table(rows)}\n\n{files}")


def calibrate(
    checkpoint: Checkpoint,
    /,
    *,
    data: Data,
    skip_damaged: SkipDamaged = False,
    budget: float | None = None,
    max_drop: float | None = None,
    risk: float | None = None,
    delta: float = 0.1,
    on_average: Flag = False,
    risk_of: Literal["excess_error", "disagreement", "missed"] = "excess_error",
    rule: str = "confidence",
    split: str = "validation",
    objective: Literal["macs", "latency"] = "macs",
    backend: str | None = None,
    batch_size: int = 1,
    name: str | None = None,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Set a checkpoint's thresholds on one half of a split, and report on the other.

    Give one of --budget, --max-drop and --risk.

    Args:
        data: Data set with images that the network wasn't trained on, or a folder of images without labels.
        budget: Wanted mean cost, relative to the plain backbone.
        max_drop: The cheapest that loses at most so many points of accuracy, such as 0.5.
        risk: The cheapest that is shown to keep this risk on new images as well.
        delta: How likely that guarantee may fail.
        on_average: Guarantee the risk on average over calibrations, without a delta.
        risk_of: More errors than the full network, another answer than its (needs no labels), or, of a
            detection, images with objects that leave as empty.
        rule: How thresholds are set for a budget: confidence, max_softmax, entropy, margin, patience, or one
            that a plugin registers.
        split: train, validation or test.
        objective: What a budget is in: MACs, or time measured on this machine.
        backend: What to time. Default: ONNX Runtime if it is installed, else torch.
        batch_size: Images that arrive together, when timing.
        name: Keep the policy under this name. Default: it replaces the checkpoint's own, which is kept as
            before (before-2, ...).
        out: Directory for a copy with the new policy. Default: the checkpoint is changed.
    """
    import eenet

    found = eenet.calibrate(
        checkpoint,
        data=data,
        skip_damaged=skip_damaged,
        budget=budget,
        max_drop=max_drop,
        risk=risk,
        delta=None if on_average else delta,
        risk_of=risk_of,
        rule=rule,
        split=split,
        objective=objective,
        backend=backend,
        batch_size=batch_size,
        name=name,
        out=out,
    )
    return show(found, as_json)
