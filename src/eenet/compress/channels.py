"""Which channels of a network belong together, and how the least important of them are taken out."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eenet.common import require

LEAST = 0.1  # of the channels of a layer, that stay in it


@dataclass(frozen=True)
class _Group:
    """Channels of several layers that can only go together: those that are added, or normalised."""

    layer: nn.Module
    """Whose outputs they are, the first of these."""
    cut_out: Any
    """How Torch-Pruning takes channels out of it."""
    scores_P: Tensor
    """Importance of each position, the mean over `parts`."""
    made_by: list[nn.Module]
    """All layers whose outputs they are."""
    parts: int
    """Groups of channels in a grouped convolution or norm, which all lose the same positions."""


def prune_channels(
    module: nn.Module, image_1CHW: Tensor, ratio: float, *, how: str, round_to: int, kept: Sequence[nn.Module]
) -> None:
    """Take a share of the channels out of every layer whose outputs aren't the network's; in place.

    By the norm of all weights that a channel has anywhere, as DepGraph (Fang et al. 2023) groups them.

    Args:
        module: the network; all parameters must take gradients.
        image_1CHW: that it takes.
        ratio: share of the channels that goes, 0 to 1.
        how: `uniform`, the same share of every layer; `global`, whatever counts least anywhere.
        round_to: the number of channels that stays in a layer is a multiple of this.
        kept: modules whose layers keep all their outputs.
    """
    library = require("torch_pruning", "pruning", extra="compress")
    graph = _graph(library, module, image_1CHW)
    groups = list(_groups(library, graph, {part for each in kept for part in each.modules()}))
    if not groups:
        return
    scores = torch.cat([group.scores_P for group in groups])
    threshold = float(scores.sort().values[min(int(ratio * len(scores)), len(scores) - 1)])
    for group in groups:
        positions = len(group.scores_P)
        left = (1 - ratio) * positions if how == "uniform" else int((group.scores_P >= threshold).sum())
        left = _rounded(left, positions, max(1, round_to // math.gcd(round_to, group.parts)))
        worst = group.scores_P.argsort()[: positions - left]
        if len(worst):
            indices = [int(i) + part * positions for part in range(group.parts) for i in worst]
            graph.get_pruning_group(group.layer, group.cut_out, indices).prune()


class Sparsity:
    """A penalty in training that makes whole channels small, so that pruning loses less.

    Group sparsity of Fang et al. 2023, as Torch-Pruning has it: it pulls at all weights of a channel
    together, at those of the least important channels most.
    """

    def __init__(
        self, module: nn.Module, image_1CHW: Tensor, weight: float, kept: Sequence[nn.Module] = ()
    ) -> None:
        """Find the channels that belong together.

        Args:
            module: the network.
            image_1CHW: that it takes.
            weight: of the penalty, such as 1e-4.
            kept: modules whose outputs are never pruned.

        Raises:
            ValueError: Torch-Pruning is missing.
        """
        library = require("torch_pruning", "sparse training", extra="compress")
        fixed = {part for each in kept for part in each.modules()}
        groups = _groups(library, _graph(library, module, image_1CHW), fixed)
        taken = {layer for group in groups for layer in group.made_by}
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        self.module = module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pruner = library.pruner.GroupNormPruner(
                module,
                image_1CHW,
                importance=library.importance.GroupMagnitudeImportance(normalizer=None),
                reg=weight,
                ignored_layers=[layer for layer in layers if layer not in taken],
            )

    def add_gradient(self) -> None:
        """Add that of the penalty to the gradients that there are; call it before a step."""
        self.pruner.regularize(self.module)


def _graph(library: Any, module: nn.Module, image_1CHW: Tensor) -> Any:
    """Which layers depend on which."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers, which are pruned too
        return library.DependencyGraph().build_dependency(module, example_inputs=image_1CHW, verbose=False)


def _rounded(left: float, positions: int, unit: int) -> int:
    """The number of positions that stay: a multiple of the unit, some of them, at most all."""
    least = max(1, math.ceil(LEAST * positions / unit)) * unit
    return min(positions, max(least, round(left / unit) * unit))


def _groups(library: Any, graph: Any, kept: set[nn.Module]) -> Iterator[_Group]:
    """All channels that may go."""
    importance = library.importance.GroupMagnitudeImportance()
    output, parameter = library.ops.OPTYPE.OUTPUT, library.ops.OPTYPE.PARAMETER
    for group in graph.get_all_groups():
        made = [item.dep.target for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]
        ends = any(node.type == output or not node.outputs for node in made if node.type != parameter)
        if ends or any(node.module in kept for node in made):
            continue
        with torch.no_grad():
            scores = importance(group)
        if scores is None:
            continue
        parts = max(_parts(item.dep.target.module) for item in group)
        if len(scores) % parts:
            continue
        scores_P = scores.cpu().view(parts, -1).mean(0)
        first = group[0].dep
        modules = [node.module for node in made]
        yield _Group(first.target.module, first.handler, scores_P, modules, parts)


def _parts(layer: Any) -> int:
    """Groups of channels, but for a depthwise convolution, whose channels go one by one."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups != layer.out_channels:
        return layer.groups
    return 1
