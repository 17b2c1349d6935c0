"""`eenet optimize`: the fastest network within a drop of accuracy."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from eenet.cli.groups import Data, Flag, Json, KeyValues
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
