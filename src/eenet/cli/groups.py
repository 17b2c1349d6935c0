"""Parameters that several verbs share, each group said once: what to run, on which data, by which policy."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

Json = Annotated[
    bool, FlagCreatePairsOff, arg(name="json", help="Print one JSON object, and nothing else, on stdout.")
]
Flag = Annotated[bool, FlagCreatePairsOff]

_A_CHECKPOINT = "checkpoint directory, a shipped name (see `eenet list`), or a model on the Hugging Face hub"
Checkpoint = Annotated[str, Positional, arg(metavar="CKPT", help=f"A {_A_CHECKPOINT}.")]
Checkpoints = Annotated[
    tuple[str, ...], Positional, arg(metavar="CKPT", help=f"One or several: a {_A_CHECKPOINT}.")
]
Recipe = Annotated[str, Positional, arg(metavar="RECIPE", help="Name of the recipe, see `eenet list`.")]

_A_DATA_SET = "Data set: a known name, a folder, or owner/name on the Hugging Face hub."
Data = Annotated[str, arg(help=_A_DATA_SET)]


@dataclass(frozen=True)
class WhichPolicy:
    """By which policy images leave."""

    budget: float | None = None
    """Wanted mean relative cost. Default: the policy of the checkpoint."""
    policy: str | None = None
    """Name of a policy of the checkpoint, see `eenet calibrate --name`."""


@dataclass(frozen=True)
class Damage:
    """Also on damaged images."""

    corruptions: tuple[str, ...] = ()
    """Kinds of damage: all, or names such as gaussian_noise, jpeg, fog."""
    severities: tuple[int, ...] = (1, 3, 5)
    """Of the damage, 1 to 5."""


@dataclass(frozen=True)
class Settings:
    """What shall be other than in the recipe."""

    seed: int | None = None
    """Of the weights, the order of the images and their augmentation."""
    data: str | None = None
    """Data set: a known name, a folder, or owner/name on the Hugging Face hub."""
    model: str | None = None
    """timm name of the backbone, or a checkpoint whose trained backbone is taken."""
    budget: float | None = None
    """Wanted mean relative cost."""
    epochs: int | None = None
    """Passes over the training images."""


def given(group: Any) -> dict[str, Any]:
    """The parameters of a group that were given."""
    found = {field.name: getattr(group, field.name) for field in fields(group)}
    return {name: value for name, value in found.items() if value is not None}
