"""Structured pruning: a trained network → a narrower one that costs a wanted share of its MACs."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from eenet.backbones import (
    as_module,
    count_macs,
    eval_mode,
    example_tensor,
    joined,
    note_widths,
    noted_widths,
    state_kept,
    widths_between,
)
from eenet.common import Result, say, working
from eenet.compress.channels import Sparsity, prune_channels
from eenet.compress.exits import with_widths
from eenet.networks import EENet

HOW = ("uniform", "global")
ROUND_TO = (16, 8, 4, 2, 1)  # channels: with AVX-512 12 take as long as 16
CLOSE = 0.1  # of the wanted share: as near as the reached one is to be
EXACT = 0.01  # of it: nearer is not looked for
FAR = 1.5  # times: then it is refused
STEPS = 8
MOST = 0.98  # of the channels, that may go
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Pruning(Result):
    """What pruning has reached."""

    macs: int
    """Of an image through all that is left, exit heads included."""
    macs_before: int
    how: str
    round_to: int
    """Channels are multiples of this."""

    @property
    def share(self) -> float:
        """Of the MACs, that is left."""
        return self.macs / self.macs_before

    def __str__(self) -> str:
        return (
            f"pruned to {self.share:.3f} of the MACs ({self.macs:,} of {self.macs_before:,}), {self.how}, "
            f"channels in multiples of {self.round_to}"
        )


def prune(
    network: nn.Module | Sequence[nn.Module],
    keep: float = 0.5,
    input_size: Sequence[int] | None = None,
    *,
    how: str = "uniform",
    round_to: int | None = None,
) -> nn.Module:
    """Take whole channels out of a trained network, those of the smallest weights; then train it on.

    Whoever gives a network with exits gets one back: the exits stay where they are, heads are pruned too, and
    thresholds are to be set anew. The outputs of classifiers are never pruned.

    Args:
        network: an `EENet`, or what `eenet.convert` takes. It stays as it is.
        keep: wanted share of its MACs, above 0 and below 1. What is reached is printed.
        input_size: (channels, height, width) of its images. Default: that of an `EENet`.
        how: `uniform`, the same share of the channels of every layer; `global`, those that count least in the
            whole network.
        round_to: channels are multiples of this. Default: the largest of 16, 8, 4, 2 and 1 with which the
            share is within a tenth of what is wanted.

    Returns:
        A network of the same kind. `convert` takes it, and checkpoints keep its widths.

    Raises:
        ValueError: arguments out of range, Torch-Pruning is missing or can't follow this network, or the
            share can't be reached.
    """
    found, pruning = pruned(network, keep, input_size, how=how, round_to=round_to)
    say(str(pruning))
    return found


def pruned(
    network: nn.Module | Sequence[nn.Module],
    keep: float,
    input_size: Sequence[int] | None = None,
    *,
    how: str = "uniform",
    round_to: int | None = None,
) -> tuple[nn.Module, Pruning]:
    """The same, and what was reached."""
    if not 0 < keep < 1:
        raise ValueError(f"keep is {keep}; give the share of the MACs that is to be left, such as 0.5")
    if how not in HOW:
        raise ValueError(f"how is {how!r}; choose from {', '.join(HOW)}")
    if round_to is not None and round_to < 1:
        raise ValueError(f"round_to is {round_to}; it must be at least 1")
    module = network if isinstance(network, EENet) else as_module(network)
    if isinstance(module, EENet):
        module.config.must_support("pruning")
    if input_size is None:
        if not isinstance(module, EENet):
            raise ValueError("give input_size, (channels, height, width), with a network that has no exits")
        input_size = module.config.input_size
    shape, kind = (1, *input_size), type(module).__name__
    with working("pruning"):
        positions = _positions(module, shape)
        units = ROUND_TO if round_to is None else (round_to,)
        share, unit, made = _searched(module, keep, shape, positions, how, units)
        if share == 1:
            raise ValueError(f"this {kind} has nothing that can be pruned")
        if not keep / FAR <= share <= keep * FAR:
            raise ValueError(f"this {kind} can't be pruned to {keep} of its MACs; the nearest is {share:.3f}")
        _check(module, made, shape)
        if isinstance(module, EENet) and isinstance(made, EENet):
            made = with_widths(made, module)
        else:
            note_widths(made, joined(noted_widths(module), widths_between(module, made)))
        macs, macs_before = count_macs(made, shape), count_macs(module, shape)
    return made, Pruning(macs=macs, macs_before=macs_before, how=how, round_to=unit)


def sparsity_of(network: EENet, weight: float) -> Sparsity:
    """A penalty that makes whole channels small in training, those that pruning could take out.

    Args:
        network: to be trained, and to be pruned later.
        weight: of the penalty, such as 1e-4.

    Raises:
        ValueError: the task can't be pruned, or Torch-Pruning is missing or can't follow this network.
    """
    network.config.must_support("pruning")
    image_1CHW = torch.zeros((1, *network.config.input_size)).to(example_tensor(network))
    try:
        with eval_mode(network), torch.enable_grad():
            return Sparsity(network, image_1CHW, weight, _kept(network))
    except ValueError:
        raise
    except Exception as error:  # whatever the library raises
        raise _lost(network, error) from error


def _kept(module: nn.Module) -> list[nn.Module]:
    """Whose layers are never pruned."""
    return [head.get_submodule("confidence") for head in module.heads] if isinstance(module, EENet) else []


def _searched(
    module: nn.Module,
    keep: float,
    shape: Sequence[int],
    positions: Mapping[str, int],
    how: str,
    units: Sequence[int],
) -> tuple[float, int, nn.Module]:
    """Of networks pruned by other shares of the channels, the one nearest to the wanted share of the MACs.

    The distance is halved; with multiples of fewer channels if it stays large. The share, the multiple, and
    the network.
    """
    before, best = _spent(module, positions), (1.0, units[0], module)
    for unit in units:
        low, high = 0.0, MOST
        for _ in range(STEPS):
            ratio = (low + high) / 2
            made = _once(module, ratio, shape, how, unit)
            share = _spent(made, positions) / before
            best = min(best, (share, unit, made), key=lambda each: abs(each[0] - keep))
            if abs(share - keep) <= EXACT * keep:
                return best
            low, high = (ratio, high) if share > keep else (low, ratio)
        if abs(best[0] - keep) <= CLOSE * keep:
            break
    return best


def _positions(module: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """How often an image meets each weight of the layers that cost MACs, which pruning leaves as it is."""
    found: dict[str, int] = {}
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):

            def note(layer: Any, _: Any, out: torch.Tensor, name: str = name) -> None:
                width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
                found[name] = found.get(name, 0) + out.numel() // width

            handles.append(layer.register_forward_hook(note))
    with eval_mode(module), state_kept(module), torch.no_grad():
        module(torch.zeros(tuple(shape)).to(example_tensor(module)))
    for handle in handles:
        handle.remove()
    return found


def _spent(module: nn.Module, positions: Mapping[str, int]) -> int:
    """MACs of its convolutions and linear layers; counting all takes a hundred times as long."""
    layers: dict[str, Any] = dict(module.named_modules())
    return sum(count * layers[name].weight.numel() for name, count in positions.items())


def _once(module: Module, ratio: float, shape: Sequence[int], how: str, round_to: int) -> Module:
    """A pruned copy."""
    made = copy.deepcopy(module)
    image_1CHW = torch.zeros(tuple(shape)).to(example_tensor(module))
    trained = {name: parameter.requires_grad for name, parameter in made.named_parameters()}
    made.requires_grad_(True)
    try:
        with eval_mode(made), torch.enable_grad():
            prune_channels(made, image_1CHW, ratio, how=how, round_to=round_to, kept=_kept(made))
    except ValueError:
        raise
    except Exception as error:  # whatever the library raises
        raise _lost(module, error) from error
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(trained[name])
    return made


def _check(module: nn.Module, made: nn.Module, shape: Sequence[int]) -> None:
    """Whether the pruned network gives outputs of the same sizes."""
    image_1CHW = torch.zeros(tuple(shape)).to(example_tensor(module))
    try:
        with eval_mode(module), eval_mode(made), torch.no_grad():
            answers = [network(image_1CHW) for network in (module, made)]
    except Exception as error:  # whatever the network's own code raises
        raise _lost(module, error) from error
    before, after = ([tuple(out.shape) for out in _tensors(answer)] for answer in answers)
    if before != after:
        raise _lost(module, f"its outputs would be {after}, not {before}")


def _lost(module: nn.Module, why: object) -> ValueError:
    told = (str(why).strip() or type(why).__name__).splitlines()[0]
    return ValueError(f"Torch-Pruning can't follow this {type(module).__name__}: {told}")


def _tensors(answer: object) -> list[torch.Tensor]:
    """What a network puts out, flat."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    return (
        [tensor for part in answer for tensor in _tensors(part)] if isinstance(answer, list | tuple) else []
    )
