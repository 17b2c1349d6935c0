"""`eenet train`, `sweep` and `calibrate`: what makes or changes a checkpoint."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from eenet.cli.groups import Checkpoint, Data, Flag, Json, Recipe, Settings, given, group
from eenet.cli.output import show


@group
class TrainSettings(Settings):
    """What shall be other than in the recipe."""

    num_exits: int | None = None
    """Number of early exits."""
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
    """none, shift, shift-flip, shift-flip-erase or crop-flip."""
    objective: str | None = None
    """Training loss: joint (the default), the paper's v1 to v4, or one that a plugin registers."""
    head: str | None = None
    """Kind of exit head: deep (the default), pool, residual, …, or one that a plugin registers."""


def _typed(verb: str, recipe: str, asked: Mapping[str, Any]) -> str:
    """The command by which a run is repeated."""
    words = ["eenet", verb, recipe]
    for name, value in asked.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def train(
    recipe: Recipe,
    /,
    *,
    settings: TrainSettings,
    pretrained: Flag = False,
    freeze_backbone: Flag = False,
    skip_damaged: Flag = False,
    plain: Flag = False,
    out: Path | None = None,
    resume: Flag = False,
    as_json: Json = False,
) -> int:
    """Train by a recipe, evaluate, and write a checkpoint directory with report.html.

    Args:
        pretrained: Start from timm's pretrained weights.
        freeze_backbone: Train the exit heads only, on a trained backbone that stays as it is.
        skip_damaged: Go on without the image files that can't be read; the card counts them.
        plain: Train the backbone without exits, for comparison.
        out: Directory for all that is written. Default: runs/RECIPE-seedS.
        resume: Continue an interrupted run.
    """
    import eenet
    from eenet.common import keep_freed_memory
    from eenet.training import process_state

    asked = given(settings)
    asked |= {"pretrained": True} if pretrained else {}
    asked |= {"freeze_backbone": True} if freeze_backbone else {}
    asked |= {"skip_damaged": True} if skip_damaged else {}
    command = _typed("train", recipe, ({"plain": True} if plain else {}) | asked)
    keep_freed_memory()
    result = eenet.train(recipe, out, plain=plain, resume=resume, command=command, **asked)
    return show(result, as_json) if process_state().is_main_process else 0


def sweep(
    recipe: Recipe,
    /,
    *,
    settings: Settings,
    placements: tuple[str, ...] = ("linear", "pareto", "golden", "fine", "searched"),
    nums_exits: tuple[int, ...] = (3,),
    heads: tuple[str, ...] = ("deep",),
    trials: int | None = None,
    skip_damaged: Flag = False,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Train a recipe with exits in different places and compare at its budget; the same command goes on.

    Args:
        placements: linear, pareto, golden, fine, searched (the best of a network with an exit at every cut).
        nums_exits: Numbers of early exits.
        heads: Kinds of exit heads.
        trials: So many combinations, chosen by Optuna's TPE. Default: all.
        skip_damaged: Go on without the image files that can't be read.
        out: Directory for networks, table and picture. Default: runs/RECIPE-sweep.
    """
    import eenet
    from eenet.common import keep_freed_memory
    from eenet.training import PICTURE_FILE, TABLE_FILE, Space, sweep_table

    out = out or Path("runs") / f"{recipe}-sweep"
    space = Space(placements, nums_exits, heads)
    asked = given(settings) | ({"skip_damaged": True} if skip_damaged else {})
    varied = {"placements": placements, "nums_exits": nums_exits, "heads": heads}
    command = _typed("sweep", recipe, asked | varied | ({"trials": trials} if trials else {}))
    keep_freed_memory()
    rows = eenet.sweep(recipe, out, space, trials=trials, command=command, **asked)
    files = f"table   {out / TABLE_FILE}\npicture {out / PICTURE_FILE}"
    return show(rows, as_json, text=lambda: f"{sweep_table(rows)}\n\n{files}")


def calibrate(
    checkpoint: Checkpoint,
    /,
    *,
    data: Data,
    budget: float | None = None,
    max_drop: float | None = None,
    risk: float | None = None,
    delta: float = 0.1,
    on_average: Flag = False,
    risk_of: Literal["excess_error", "disagreement"] = "excess_error",
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
        max_drop: The cheapest that loses at most so much accuracy: 0.01 is one point.
        risk: The cheapest that is shown to keep this risk on new images as well.
        delta: How likely that guarantee may fail.
        on_average: Guarantee the risk on average over calibrations, without a delta.
        risk_of: More errors than the full network, or another answer than its (needs no labels).
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
