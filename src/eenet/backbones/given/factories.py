"""Functions of a user's own that make networks: `package.module:function`, imported only if named."""

import inspect
import re
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from eenet.common import import_plugin

if TYPE_CHECKING:
    from torch import nn

FACTORY = "factory:"
"""In front of the name of one, as checkpoints hold it. It is imported only if a user has named it too."""
_trusted: set[str] = set()
_EVERY = "every"


def trusted_name(name: str) -> str:
    """A backbone's name as a user types it → as checkpoints hold it; a factory may be imported from now on.

    Args:
        name: `package.module:function` or any other name, which stays as it is.

    Raises:
        ValueError: a file name instead of a module's.
    """
    module, colon, function = name.partition(":")
    if not colon or name.startswith(("torchvision:", FACTORY)):
        return name
    if module.endswith(".py"):
        module = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{name!r}: give the module, not its file: {module}:{function}")
    if not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise ValueError(f"{name!r} is no network; one of your own is named package.module:function")
    _trusted.add(name)
    return FACTORY + name


def trust_all() -> None:
    """Run whatever function a checkpoint names."""
    _trusted.add(_EVERY)


def make(name: str, args: Mapping[str, Any]) -> "nn.Module":
    """The network of a factory that a user has named.

    Args:
        name: as checkpoints hold it.
        args: passed on; `num_classes` and `in_chans` only if it takes them.

    Raises:
        ValueError: nobody has named it here, it can't be imported, or it makes no network.
    """
    from torch import nn

    own = name.removeprefix(FACTORY)
    if not _trusted & {own, _EVERY}:
        raise ValueError(
            f"the network is made by {own}, which is a user's own code and is not run unasked: name it "
            f"again (--model {own}), or say that you trust it (--trust-model-code, trust_model_code=True)"
        )
    module, _, path = own.partition(":")
    if not all(map(str.isidentifier, [*module.split("."), *path.split(".")])):
        raise ValueError(f"{own!r} is not of the form package.module:function")
    try:
        factory = reduce(getattr, path.split("."), import_plugin(module))
    except AttributeError as error:
        raise ValueError(f"{own}: {error}") from error
    if not callable(factory):
        raise ValueError(f"{own} is of type {type(factory).__name__}; expected a function or class")
    given = {key: value for key, value in args.items() if key not in _OURS or _takes(factory, key)}
    try:
        made = factory(**given)
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"{own} fails with {given}: {error!r}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{own} returns {type(made).__name__}; expected a network (torch.nn.Module)")
    return made


_OURS = ("num_classes", "in_chans")


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
