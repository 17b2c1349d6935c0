"""Parameters that several verbs share, each group said once: what to run, on which data, by which policy."""

from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

Json = Annotated[
    bool, FlagCreatePairsOff, arg(name="json", help="Print one JSON object, and nothing else, on stdout.")
]
Group = TypeVar("Group")
SkipDamaged = Annotated[
    bool, FlagCreatePairsOff, arg(help="Go on without the image files that can't be read; they are counted.")
]
Flag = Annotated[bool, FlagCreatePairsOff]
Providers = Annotated[
    tuple[str, ...],
    arg(help="ONNX Runtime's execution providers, such as CUDAExecutionProvider, the most wanted first."),
]

_NAMES = {int: "INT", float: "FLOAT", str: "NAME", Path: "PATH"}


def readable(kind: Any) -> Any:
    """A parameter's type, shown in help as a reader expects: no `{None}|INT (default: None)`."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if any(getattr(mark, "metavar", None) for mark in get_args(kind)[1:] if get_origin(kind) is Annotated):
        return kind
    inner = [each for each in get_args(base) if each not in (NoneType, Ellipsis)]
    optional, several = NoneType in get_args(base), get_origin(base) is tuple
    name = _NAMES.get(inner[0]) if inner and (optional or several) else _NAMES.get(base)
    if several and name:
        name = " ".join([name] * len(inner)) if Ellipsis not in get_args(base) else f"{name} ..."
    return Annotated[kind, arg(metavar=name, help_behavior_hint=_unless_nothing)]


def _unless_nothing(hint: str) -> str:
    """A default that says nothing is left out; the text says what happens then."""
    return "" if hint in ("None", "False", "") else f"(default: {hint})"


@dataclass_transform(frozen_default=True)
def group(kind: type[Group]) -> type[Group]:
    """A frozen dataclass of parameters, readable in help."""
    inherited = dict(get_type_hints(kind, include_extras=True))
    kind.__annotations__ = {name: readable(inherited[name]) for name in kind.__annotations__}
    return dataclass(frozen=True)(kind)


_A_CHECKPOINT = "checkpoint directory, a shipped name (see `eenet list`), or a model on the Hugging Face hub"
Checkpoint = Annotated[str, Positional, arg(metavar="CKPT", help=f"A {_A_CHECKPOINT}.")]
Checkpoints = Annotated[
    tuple[str, ...],
    Positional,
    arg(metavar="CKPT ...", help=f"One or several: a {_A_CHECKPOINT}.", help_behavior_hint="(required)"),
]
Recipe = Annotated[
    str | None,
    Positional,
    arg(
        metavar="[RECIPE]",
        help="Name of the recipe, see `eenet list`. Default: chosen for --data and --model.",
        help_behavior_hint="",
    ),
]
KeyValues = Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE ...")]

_A_DATA_SET = "Data set: a known name, a folder, or owner/name on the Hugging Face hub."
Data = Annotated[str, arg(help=_A_DATA_SET)]


@group
class WhichPolicy:
    """By which policy images leave."""

    budget: float | None = None
    """Wanted mean relative cost. Default: the policy of the checkpoint."""
    policy: str | None = None
    """Name of a policy of the checkpoint, see `eenet calibrate --name`."""


@group
class Damage:
    """Also on damaged images."""

    corruptions: tuple[str, ...] = ()
    """Kinds of damage: all, or names such as gaussian_noise, jpeg, fog."""
    severities: tuple[int, ...] = (1, 3, 5)
    """Of the damage, 1 to 5."""


@group
class Settings:
    """What shall be other than in the recipe, or than chosen."""

    seed: int | None = None
    """Of the weights, the order of the images and their augmentation."""
    data: str | None = None
    """Data set: a known name, a folder, or owner/name on the Hugging Face hub."""
    model: str | None = None
    """Backbone: a name of timm or torchvision, a checkpoint, or package.module:function of your own."""
    budget: Annotated[float | Literal["auto"] | None, arg(metavar="FLOAT|auto", help_behavior_hint="")] = None
    """Wanted mean relative cost, or auto: the cheapest that loses nothing beyond noise."""
    epochs: int | None = None
    """Passes over the training images."""
    weights: str | None = None
    """File with the backbone's trained weights: safetensors, or a state dict saved by torch."""


def given(group: Any) -> dict[str, Any]:
    """The parameters of a group that were given."""
    found = {field.name: getattr(group, field.name) for field in fields(group)}
    return {name: value for name, value in found.items() if value is not None}
