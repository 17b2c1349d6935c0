"""What goes in and out of a task: images as networks take them, parts of networks, answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Pixels = NDArray[np.uint8]
WIDTH = 64  # channels of a decoder's state


class Parts(NamedTuple):
    """What an early-exit network is assembled from."""

    stages: "Sequence[nn.Module]"
    """K; each maps what is carried along to the next, the last one to logits."""
    heads: "Sequence[nn.Module]"
    """K - 1; each maps what is carried along to logits and the confidence logit [B]."""
    stage_macs: list[int]
    """Of an image, by stage."""
    head_macs: list[int]
    plain_macs: int
    """Of the network without exits."""
    copies: list[bool]
    """Whether the stage after each exit writes into what it is given."""


class Seen(NamedTuple):
    """An image as a network takes it."""

    pixels_CHW: Pixels
    size: tuple[int, int]
    """(height, width) of the image as it was."""


class AnyPrediction(Protocol):
    """The answer for one image, whatever the task."""

    @property
    def exit(self) -> int: ...

    @property
    def relative_cost(self) -> float: ...

    def to_dict(self) -> dict[str, Any]: ...


def refuse(verb: str, unsupported: Mapping[str, str], what: str) -> None:
    """Refuse a verb that something has none of.

    Args:
        verb: or an option.
        unsupported: those that it hasn't, each with what to do instead, if there is anything.
        what: has none.

    Raises:
        ValueError: it is one of these.
    """
    if verb in unsupported:
        way_out = unsupported[verb]
        raise ValueError(f"{verb} doesn't work for {what}{'; ' * bool(way_out)}{way_out}")


def width_in(settings: dict[str, Any]) -> int:
    """Channels of a decoder's state by a task's settings, filled in if they aren't there.

    Raises:
        ValueError: no whole number above 0.
    """
    width = settings.setdefault("width", WIDTH)
    if type(width) is not int or width < 1:
        raise ValueError(f"width is {width!r}; the decoder's channels are a whole number above 0")
    return width
