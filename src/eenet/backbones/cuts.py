"""Where a backbone can be cut: behind a node of its graph whose output is the only live value.

Only the root, plain `nn.Sequential`s and modules that hold repeated blocks are opened, and blocks
that hide a whole network.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, fx, nn

from eenet.backbones.accepting import (
    StageList,
    as_module,
    check_classes,
    describe,
    does_not_run,
    kind_of,
    no_logits,
)
from eenet.backbones.cost import trace_costs
from eenet.backbones.tracing import Opening, trace_graphs

LEAST_REMAINING = 0.01  # a cut with less of the MACs behind it saves nothing
NEARLY_ALL = 0.9  # of the MACs in one block: an exit before or behind it is worth nothing
MOST = 0.5


@dataclass(frozen=True)
class Cut:
    """A place where exactly one feature map is alive."""

    name: str
    """The block it follows, as in `backbone.get_submodule(name)`, or the traced operation;
    `name:2` for a block that runs a second time.
    A norm, activation or pooling right behind the block lies before the cut."""
    macs: int
    """MACs of the backbone up to here, per image."""
    fraction: float
    """`macs` / MACs of the whole backbone."""
    feature_size: tuple[int, int, int]
    """Channels, height, width of the feature map."""


@dataclass(frozen=True)
class TracedBackbone:
    """A backbone, its traced graph and the places where it can be cut."""

    backbone: nn.Module
    graph_module: fx.GraphModule
    cuts: list[Cut]
    cut_nodes: list[fx.Node]
    macs: int
    """MACs of the whole plain backbone, per image."""
    num_classes: int
    input_size: tuple[int, int, int]
    tokens: bool
    """Whether most of the MACs are spent on tokens [B, N, C], not on feature maps [B, C, H, W]."""
    hiding: nn.Module | None
    """The block that does the work of the network and so may be a network itself."""
    end: tuple[Cut, fx.Node] | None = None
    """Where the feature maps end and the classifier begins; none: there are none of
    more than one pixel."""

    def without_classifier(self) -> "TracedBackbone":
        """The same with one more cut, the last: all that lies behind it is the classifier.

        Raises:
            ValueError: there are no feature maps of more than one pixel.
        """
        if self.end is None:
            seen = "×".join(map(str, self.input_size[1:]))
            raise ValueError(
                f"{describe(self.backbone)} has no feature map of more than one pixel for images of {seen}; "
                "give larger images, or a convolutional network"
            )
        cut, node = self.end
        kept = sum(each.macs < cut.macs for each in self.cuts)
        return replace(self, cuts=[*self.cuts[:kept], cut], cut_nodes=[*self.cut_nodes[:kept], node])


def trace(
    backbone: nn.Module | Sequence[nn.Module], input_size: Sequence[int], named: Collection[object] = ()
) -> TracedBackbone:
    """Trace a backbone and find its cuts: as many as can be, or those that are named.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N]; or a list of its stages, which
            are not traced and between which it is cut.
        input_size: (C, H, W).
        named: names of cuts. What is opened decides which there are.

    Raises:
        ValueError: the network can't be traced, doesn't take such images, or doesn't
            return logits of shape [B, N].
    """
    module, size = as_module(backbone), checked_input_size(input_size)

    def best(traces: Iterable[TracedBackbone]) -> TracedBackbone:
        return max(traces, key=lambda t: ({*named} <= {cut.name for cut in t.cuts}, len(t.cuts), t.tokens))

    def opening(opened: Sequence[nn.Module]) -> TracedBackbone:
        graphs = trace_graphs(module, size, _openings(module, opened))
        return best([_measure(graph, module, size) for graph in graphs])

    traced, opened = opening([]), []
    deepest = traced
    while deepest.hiding and not isinstance(module, StageList):  # a network in one that normalises, say
        opened.append(deepest.hiding)
        try:
            deepest = opening(opened)
        except ValueError:  # it can't be traced
            break
        traced = best([traced, deepest])
    return traced


def checked_input_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width), or a `ValueError`."""
    size = tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(
            f"input_size is {input_size}; expected the size of an image, (channels, height, width), all ≥ 1"
        )
    return cast(tuple[int, int, int], size)


# What is opened ----------------------------------------------------------------------


def _openings(backbone: nn.Module, opened: Collection[nn.Module]) -> list[Opening]:
    """Plain containers opened, and, where there are any, repeated blocks besides; `opened` always.

    Neither is always the better one: ConvNeXt's stages must be opened, GhostNet's blocks must not.
    """
    if isinstance(backbone, StageList):
        return [lambda _: False]
    inner = [m for m in backbone.modules() if m is not backbone and not _is_plain_container(m)]
    openings: list[Opening] = [lambda m: _is_plain_container(m) or m in opened]
    if any(map(_holds_repeated_blocks, inner)):
        openings.append(lambda m: _is_plain_container(m) or m in opened or _holds_repeated_blocks(m))
    return openings


def _is_plain_container(module: nn.Module) -> bool:
    return type(module) is nn.Sequential


def _holds_repeated_blocks(module: nn.Module) -> bool:
    """Such as ConvNeXt's and RegNet's stages: at least two blocks of one class inside."""
    classes = [type(child) for child in _children_through_containers(module) if _is_block(child)]
    return len(classes) > len(set(classes))


def _children_through_containers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _children_through_containers(child)
        else:
            yield child


def _is_block(module: nn.Module) -> bool:
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return len(layers) >= 2


def _hiding_block(
    graph_module: fx.GraphModule, seen: dict[fx.Node, tuple[int, Any]], least: float
) -> nn.Module | None:
    """The heaviest block, if it has these MACs and is a user's own module with others inside."""
    node = max(seen, key=lambda node: seen[node][0])
    if node.op != "call_module" or seen[node][0] < least:
        return None
    block = graph_module.get_submodule(str(node.target))
    inner = any(True for _ in block.children()) and not type(block).__module__.startswith("torch.nn")
    return block if inner else None


# Cuts --------------------------------------------------------------------------------


def _measure(graph_module: fx.GraphModule, backbone: nn.Module, size: tuple[int, int, int]) -> TracedBackbone:
    try:
        seen = trace_costs(graph_module, (1, *size))
    except Exception as error:  # whatever the network's own code raises
        raise does_not_run(backbone, size, error) from error
    logits = seen[next(n for n in graph_module.graph.nodes if n.op == "output")][1]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise no_logits(backbone, logits, "eval", 1)
    total = sum(macs for macs, _ in seen.values())
    if not total:
        raise ValueError(f"{describe(backbone)} has no convolution or linear layer to save")
    check_classes(backbone, graph_module, seen, int(logits.shape[1]))
    found = _find_cuts(graph_module, seen, total)
    end = next((each for each in reversed(found) if each[0].feature_size[1:] != (1, 1)), None)
    found = [(cut, node) for cut, node in found if cut.macs <= (1 - LEAST_REMAINING) * total]
    tokens = sum(macs for macs, v in seen.values() if isinstance(v, Tensor) and v.ndim == 3) > MOST * total
    if tokens:  # the first that computes something only embeds patches
        embedding = next(macs for macs, _ in seen.values() if macs)
        found = [(cut, node) for cut, node in found if cut.macs > embedding]
    least = (NEARLY_ALL if found else MOST) * total
    return TracedBackbone(
        backbone,
        graph_module,
        [cut for cut, _ in found],
        [node for _, node in found],
        total,
        int(logits.shape[1]),
        size,
        tokens,
        _hiding_block(graph_module, seen, least),
        end,
    )


def _find_cuts(
    graph_module: fx.GraphModule, seen: dict[fx.Node, tuple[int, Any]], total: int
) -> list[tuple[Cut, fx.Node]]:
    """All cuts up to the classifier, each with the node whose output is the one feature map alive."""
    found: list[tuple[Cut, fx.Node]] = []
    calls: Counter[str] = Counter()
    spent = 0
    for node, alive in _live_values(graph_module.graph):
        macs, value = seen[node]
        if _is_global_pool(graph_module, node, seen):
            break
        spent += macs
        name = str(node.target) if node.op == "call_module" else node.name
        calls[name] += 1
        if calls[name] > 1:  # one block, called again: its weights are shared
            name = f"{name}:{calls[name]}"
        if node.op in ("placeholder", "output") or alive != {node} or not spent:
            continue
        if not isinstance(value, Tensor) or value.ndim != 4:
            continue
        if found and found[-1][0].macs == spent:  # a norm, activation or pooling
            name = found.pop()[0].name
        _, channels, height, width = value.shape
        found.append((Cut(name, spent, spent / total, (channels, height, width)), node))
    return found


def _live_values(graph: fx.Graph) -> Iterator[tuple[fx.Node, set[fx.Node]]]:
    """Every node with the values that are still needed once it has run."""
    last_user = {value: user for user in graph.nodes for value in user.all_input_nodes}
    alive: set[fx.Node] = set()
    for node in graph.nodes:
        if node in last_user and node.op != "get_attr":  # parameters are no activations
            alive.add(node)
        alive -= {value for value in node.all_input_nodes if last_user[value] is node}
        yield node, set(alive)


def _is_global_pool(
    graph_module: fx.GraphModule, node: fx.Node, seen: dict[fx.Node, tuple[int, Any]]
) -> bool:
    """Whether the classifier starts here: pooling to 1×1, or the feature map is flattened."""
    macs, value = seen[node]
    if macs or node.op in ("placeholder", "get_attr", "output") or not isinstance(value, Tensor):
        return False
    if "adaptive" in kind_of(graph_module, node).lower():
        return tuple(value.shape[2:]) in ((), (1, 1))
    inputs = [seen[n][1] for n in node.all_input_nodes]
    spatial = [v.shape[2:] for v in inputs if isinstance(v, Tensor) and v.ndim == 4]
    if len(spatial) != 1 or len(node.all_input_nodes) != 1:
        return False
    return value.ndim == 2 or (tuple(value.shape[2:]) == (1, 1) and spatial[0].numel() > 1)
