"""Networks by name: all of timm, the paper's names, the CIFAR ResNets that timm lacks, and a user's own."""

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from eenet.common import Registry

if TYPE_CHECKING:
    from torch import nn

CIFAR_RESNETS = (
    *(f"resnet{depth}_cifar" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"resnet8_w{width}_cifar" for width in (2, 4)),
)
ALIASES = (
    {"eenet8": "resnet8_w4_cifar"}
    | {f"eenet{depth}": f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110)}
    | {f"eenet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
)
"""The paper's names. Demir & Akbas 2024, section 4."""
BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", "backbone")
"""Users' own."""


def is_backbone(name: str) -> bool:
    """Whether `create_backbone` knows this name."""
    timm = _timm()
    return name in BACKBONES or timm.is_model(ALIASES.get(name, name))


def create_backbone(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> "nn.Module":
    """A user's own network that was registered, or a timm model, also by one of the paper's names.

    Args:
        name: see above.
        args: passed on, such as `num_classes` and `in_chans`.
        pretrained: with timm's weights, or handed to a user's own function as `pretrained=True`.

    Raises:
        ValueError: unknown name, with near ones suggested, or the model can't be built with `args`.
    """
    name, timm = ALIASES.get(name, name), _timm()
    own = name in BACKBONES
    if not own and not timm.is_model(name):
        near = difflib.get_close_matches(name, [*timm.list_models(), *BACKBONES], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"unknown backbone {name!r}; {hint}")
    if "checkpoint_path" in args:
        raise ValueError(
            "checkpoint_path is not taken: timm would unpickle that file, which can run any code"
        )
    try:
        if own:
            return BACKBONES[name](**args, **({"pretrained": True} if pretrained else {}))
        return timm.create_model(name, pretrained=pretrained, **args)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(f"can't build backbone {name!r} with {dict(args)}: {error}") from error


def default_input_size(module: "nn.Module") -> tuple[int, int, int]:
    """(channels, height, width) that a timm model is configured for.

    Raises:
        ValueError: it is not a timm model, so nobody knows.
    """
    configured: Any = getattr(module, "pretrained_cfg", None)
    if not configured or "input_size" not in configured:
        raise ValueError(f"{type(module).__name__} doesn't say for which images it is made; give input_size")
    channels, height, width = configured["input_size"]
    return channels, height, width


def _timm() -> Any:
    """timm, with the CIFAR ResNets registered."""
    import_module("eenet.backbones.cifar")
    return import_module("timm")
