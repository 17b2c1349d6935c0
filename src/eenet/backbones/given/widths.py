"""Layers that pruning made narrower: how their widths are written down, and set again in a new network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Widths = dict[str, dict[str, Any]]
"""By the name of a layer: the attributes that are other than in the network as its name builds it, as torch
calls them, such as `out_channels`; of a tensor in no such layer, its shape."""
SIZES: list[tuple[type[nn.Module], tuple[str, ...]]] = [
    (_ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (_NormBase, ("num_features",)),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.GroupNorm, ("num_channels",)),
    (nn.PReLU, ("num_parameters",)),
]
_NOTED = "eenet_widths"


def noted_widths(module: nn.Module) -> Widths:
    """The widths that were set in a network, by pruning or from a checkpoint; none in any other."""
    return getattr(module, _NOTED, {})


def note_widths(module: nn.Module, widths: Widths) -> None:
    """Remember the widths of a network in it."""
    if widths:
        setattr(module, _NOTED, widths)


def widths_between(before: nn.Module, after: nn.Module) -> Widths:
    """What of the layers of `after` is other than in `before`, a network with layers of the same names."""
    found: Widths = {}
    for name, layer in after.named_modules():
        old, new = _sizes(before.get_submodule(name)), _sizes(layer)
        if differing := {key: value for key, value in new.items() if old.get(key) != value}:
            found[name] = differing
    return found


def joined(first: Widths, then: Widths) -> Widths:
    """Of a network that was pruned twice."""
    return {name: {**first.get(name, {}), **then.get(name, {})} for name in {**first, **then}}


def set_widths(module: nn.Module, widths: Widths, *, wider: int = 1) -> nn.Module:
    """Make layers as narrow as is said, with new weights of zeros; changed in place, and returned.

    Args:
        module: as its name builds it.
        widths: see `widths_between`.
        wider: so many times as wide as it was a layer may become.

    Raises:
        ValueError: an unknown layer or attribute, or more than the layer has; says which.
    """
    layers = dict(module.named_modules())
    for name, wanted in widths.items():
        if name not in layers:
            raise ValueError(f"this {type(module).__name__} has no layer {name!r}")
        layer, sizes = layers[name], _sizes(layers[name])
        for key, value in wanted.items():
            _check(name, key, value, sizes, wider)
            if not isinstance(getattr(layer, key), Tensor):
                setattr(layer, key, tuple(value) if isinstance(value, list) else value)
        for key, shape in _shapes(name, layer):
            _replace(layer, key, shape)
        for key, value in wanted.items():
            if isinstance(getattr(layer, key), Tensor):
                _replace(layer, key, value)
    note_widths(module, joined(noted_widths(module), widths))
    return module


def _sizes(layer: nn.Module) -> dict[str, Any]:
    """Attributes that say how wide a layer is, and the shapes of its other tensors."""
    known = _known(layer)
    sizes = {key: getattr(layer, key) for key in known}
    usual = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked") if known else ()
    for key, tensor in _own_tensors(layer):
        if key not in usual:
            sizes[key] = tensor.shape
    return {key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()}


def _known(layer: nn.Module) -> tuple[str, ...]:
    return next((keys for kind, keys in SIZES if isinstance(layer, kind)), ())


def _own_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters(recurse=False)
    yield from layer.named_buffers(recurse=False)


def _check(name: str, key: str, value: Any, sizes: Mapping[str, Any], wider: int) -> None:
    if key not in sizes:
        known = ", ".join(sizes) or "no widths"
        raise ValueError(f"layer {name!r} has no {key!r}, but {known}")
    most = sizes[key]
    most = [wider * each for each in most] if isinstance(most, list) else wider * most
    listed, limits = ([v] if not isinstance(v, list) else v for v in (value, most))
    fits = isinstance(value, list) == isinstance(most, list) and len(listed) == len(limits)
    if not fits or not all(1 <= v <= limit for v, limit in zip(listed, limits, strict=True)):
        raise ValueError(f"layer {name!r}: {key} is {value}; expected at most {most}")


def _shapes(name: str, layer: nn.Module) -> Iterator[tuple[str, Sequence[int]]]:
    """The tensors of a known layer, and the shapes that follow from its attributes."""
    attributes: Any = layer
    if isinstance(layer, _ConvNd):
        ins, outs, groups = attributes.in_channels, attributes.out_channels, attributes.groups
        if ins % groups or outs % groups:
            raise ValueError(
                f"layer {name!r}: {ins} and {outs} channels can't be divided into {groups} groups"
            )
        first, second = (
            (ins, outs // groups) if isinstance(layer, _ConvTransposeNd) else (outs, ins // groups)
        )
        yield "weight", (first, second, *attributes.kernel_size)
        yield "bias", (outs,)
    elif isinstance(layer, nn.Linear):
        yield "weight", (attributes.out_features, attributes.in_features)
        yield "bias", (attributes.out_features,)
    elif keys := _known(layer):
        size = getattr(layer, keys[0])
        for key in ("weight", "bias", "running_mean", "running_var"):
            yield key, size if isinstance(size, tuple) else (size,)


def _replace(layer: nn.Module, key: str, shape: Sequence[int]) -> None:
    before = getattr(layer, key, None)
    if before is None or tuple(before.shape) == tuple(shape):
        return
    after = torch.zeros(tuple(shape), dtype=before.dtype, device=before.device)
    setattr(
        layer, key, nn.Parameter(after, before.requires_grad) if isinstance(before, nn.Parameter) else after
    )
