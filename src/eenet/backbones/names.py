"""Networks by name: all of timm and torchvision, the paper's names, the CIFAR ResNets, and a user's own."""

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from eenet.backbones.given.factories import FACTORY, make
from eenet.common import Registry

if TYPE_CHECKING:
    from torch import nn

CIFAR_RESNETS = (
    *(f"resnet{depth}_cifar" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"resnet8_w{width}_cifar" for width in (2, 4)),
    "resnet13_coarse_cifar",
)
ALIASES = (
    {"eenet8": "resnet8_w4_cifar"}
    | {f"eenet{depth}": f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110)}
    | {f"eenet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
)
"""The paper's names. Demir & Akbas 2024, section 4."""
BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", "backbone")
"""Users' own."""
TORCHVISION = "torchvision:"
"""In front of the name of one of torchvision's models; without it timm's model of that name is meant."""


class Preprocessing(NamedTuple):
    """What the pretrained weights of a network expect of images."""

    input_size: tuple[int, int, int]
    """(channels, height, width)."""
    mean: list[float]
    """Per channel, on a scale of 0 to 1."""
    std: list[float]
    num_classes: int = 1000
    """That they know."""


def full_name(name: str) -> str:
    """The one name under which a backbone is kept: the paper's are resolved, torchvision's marked.

    Raises:
        ValueError: unknown name, with near ones suggested.
    """
    name, timm = ALIASES.get(name, name), _timm()
    if name in BACKBONES or timm.is_model(name) or name.startswith(FACTORY):
        return name
    models = import_module("torchvision.models")
    short = name.removeprefix(TORCHVISION)
    if short in models.list_models(module=models):
        return TORCHVISION + short
    theirs = [TORCHVISION * name.startswith(TORCHVISION) + each for each in models.list_models(module=models)]
    known = dict.fromkeys([*timm.list_models(), *theirs, *BACKBONES])
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
    raise ValueError(f"unknown backbone {name!r}; {hint}")


def is_backbone(name: str) -> bool:
    """Whether `create_backbone` knows this name."""
    try:
        full_name(name)
    except ValueError:
        return False
    return True


def create_backbone(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> "nn.Module":
    """A network by its name, see `full_name`.

    Args:
        name: of timm, of torchvision, of the paper, registered by a user, or that of a factory.
        args: passed on, such as `num_classes` and `in_chans`.
        pretrained: with the weights that timm or torchvision has, or handed to a user's own function as
            `pretrained=True`.

    Raises:
        ValueError: unknown name, with near ones suggested, or the model can't be built with `args`.
    """
    name = full_name(name)
    for key in ("checkpoint_path", "weights", "weights_backbone"):
        if key in args:
            raise ValueError(f"{key} is not taken here; weights of your own are given as weights=FILE")
    if name.startswith(FACTORY):
        return make(name, {**args, **({"pretrained": True} if pretrained else {})})
    try:
        if name in BACKBONES:
            return BACKBONES[name](**args, **({"pretrained": True} if pretrained else {}))
        if name.startswith(TORCHVISION):
            return _of_torchvision(name.removeprefix(TORCHVISION), dict(args), pretrained)
        return _timm().create_model(name, pretrained=pretrained, **args)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(f"can't build backbone {name!r} with {dict(args)}: {error}") from error


def _of_torchvision(name: str, args: dict[str, Any], pretrained: bool) -> "nn.Module":
    models = import_module("torchvision.models")
    if (channels := args.pop("in_chans", 3)) != 3:
        raise ValueError(f"it takes images of 3 channels, not {channels}")
    auxiliary = name in ("googlenet", "inception_v3")
    if not pretrained:
        return models.get_model(
            name, **args, **({"aux_logits": False, "init_weights": True} if auxiliary else {})
        )
    if auxiliary:
        raise ValueError("its pretrained weights come with auxiliary outputs; take another, or one of timm's")
    classes = args.pop("num_classes", None)
    made = models.get_model(name, weights="DEFAULT", **args)
    return replace_classifier(made, classes) if classes is not None else made


def replace_classifier(module: "nn.Module", classes: int) -> "nn.Module":
    """A new last layer for another number of classes; the network is changed in place, and returned."""
    from torch import nn

    name = classifier_name(module)
    last: Any = module.get_submodule(name)
    outputs = last.out_channels if isinstance(last, nn.Conv2d) else last.out_features
    if outputs == classes:
        return module
    biased = last.bias is not None
    if isinstance(last, nn.Conv2d):
        new: nn.Module = nn.Conv2d(last.in_channels, classes, 1, bias=biased)
    else:
        new = nn.Linear(last.in_features, classes, bias=biased)
    module.set_submodule(name, new)
    return module


def classifier_name(module: "nn.Module") -> str:
    """Name of the layer that gives the classes: as timm says, else the last linear layer or convolution.

    Raises:
        ValueError: there is none.
    """
    from torch import nn

    configured: Any = getattr(module, "pretrained_cfg", None)
    if configured and isinstance(configured.get("classifier"), str):
        return configured["classifier"]
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(f"this {type(module).__name__} has no linear layer and no convolution")
    return layers[-1]


def preprocessing_of(name: str) -> Preprocessing | None:
    """What the pretrained weights of a network of timm or torchvision expect; none if nobody says."""
    name, timm = full_name(name), _timm()
    if name.startswith(FACTORY) or name in BACKBONES:
        return None
    if name.startswith(TORCHVISION):
        models = import_module("torchvision.models")
        made: Any = models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT.transforms()
        return Preprocessing((3, *(2 * made.crop_size)[:2]), list(made.mean), list(made.std))
    said = timm.get_pretrained_cfg(name)
    if said is None or not said.input_size:
        return None
    return Preprocessing(tuple(said.input_size), list(said.mean), list(said.std), said.num_classes)


def default_input_size(module: "nn.Module", name: str | None = None) -> tuple[int, int, int]:
    """(channels, height, width) that a model is configured for.

    Args:
        module: the network.
        name: under which it was created, if it was.

    Raises:
        ValueError: it is not a model of timm or torchvision, so nobody knows.
    """
    configured: Any = getattr(module, "pretrained_cfg", None)
    if configured and "input_size" in configured:
        channels, height, width = configured["input_size"]
        return channels, height, width
    if name is not None and (known := preprocessing_of(name)):
        return known.input_size
    raise ValueError(f"{type(module).__name__} doesn't say for which images it is made; give input_size")


def _timm() -> Any:
    """timm, with the CIFAR ResNets registered."""
    import_module("eenet.backbones.cifar")
    return import_module("timm")
