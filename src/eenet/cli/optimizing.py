"""`eenet optimize`: the fastest network within a drop of accuracy; `cascade`: from those that are there."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from eenet.cli.groups import Checkpoints, Data, Flag, Json, KeyValues, SkipDamaged
from eenet.cli.output import show

Model = Annotated[
    str,
    Positional,
    arg(metavar="MODEL", help="A name of timm or torchvision, a checkpoint, or package.module:function."),
]


def optimize(
    model: Model,
    /,
    *,
    data: Data,
    weights: str | None = None,
    pretrained: Flag = False,
    max_drop: float = 0.5,
    objective: Literal["latency", "macs"] = "latency",
    backend: str = "onnxruntime",
    batch_size: int = 1,
    minutes: float | None = None,
    epochs: int | None = None,
    shares: tuple[float, ...] = (0.7, 0.5, 0.35, 0.25),
    backbones: tuple[str, ...] = (),
    set_: Annotated[KeyValues, arg(name="set")] = (),
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Look for the fastest network that loses little: pruned, smaller, int8, early exit, and together.

    All are trained by the same rules and timed here in turns; those that fall behind stop early. The same
    command goes on where it was stopped.

    Args:
        weights: File with the trained weights: safetensors, or a state dict saved by torch.
        pretrained: The model's pretrained weights, which must know these classes.
        max_drop: Points of accuracy that may be lost on validation images.
        objective: What is made small: time on this machine, or MACs.
        backend: What all are timed on.
        batch_size: Images that arrive together, when timing.
        minutes: No training begins that would not fit into so many; epochs are as few as that takes.
        epochs: Passes over the training images that each gets at most. Default: by their number.
        shares: Of the MACs, that pruning leaves.
        backbones: Other networks to try, or none. Default: some that suit the images, if they are smaller.
        set_: Any setting of `eenet.TrainConfig`, for all trainings.
        out: Directory for all that is written. Default: runs/DATA-MODEL-optimized.
    """
    import eenet
    from eenet.common import keep_freed_memory
    from eenet.training import parsed, typed

    settings: dict[str, Any] = typed(parsed([word for words in set_ for word in words]))
    keep_freed_memory()
    found = eenet.optimize(
        model,
        data=data,
        weights=weights,
        max_drop=max_drop,
        objective=objective,
        backend=backend,
        batch_size=batch_size,
        minutes=minutes,
        epochs=epochs,
        shares=shares,
        backbones=[] if backbones == ("none",) else backbones or None,
        out=out,
        **({"pretrained": True} if pretrained else {}),
        **settings,
    )
    return show(found, as_json)


def cascade(
    checkpoints: Checkpoints,
    /,
    *,
    data: Data,
    skip_damaged: SkipDamaged = False,
    budget: float | None = None,
    max_drop: float | None = None,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Join trained networks, the cheapest first: what one isn't sure about goes on to the next.

    Nothing is trained; joined answers, gates and thresholds are set on validation images. What is written is
    a checkpoint like any other. Costs are relative to the last network without exits.

    Args:
        data: Data set of images and classes that all of them know.
        budget: Wanted mean cost. Default: the cheapest that loses no accuracy beyond noise.
        max_drop: The cheapest that loses at most so many points of accuracy, such as 0.5.
        out: Directory for all that is written. Default: runs/DATA-cascade.
    """
    import eenet

    asked = {} if budget is None else {"budget": budget}
    found = eenet.cascade(checkpoints, out, data=data, max_drop=max_drop, skip_damaged=skip_damaged, **asked)
    return show(found, as_json)
