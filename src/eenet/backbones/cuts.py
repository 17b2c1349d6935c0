"""Where a backbone can be cut, and its exact division into stages.

After a node of the traced graph whose output is the only live value, the network can
be cut. Stage modules *are* the backbone's modules: weights, train/eval behaviour and
parameter names stay in place.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx, nn

from eenet.backbones.cost import trace_costs
from eenet.backbones.tracing import as_module, describe, first_line, trace_graphs

LEAST_REMAINING = 0.01  # a cut with less of the MACs behind it saves nothing


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


def trace(backbone: nn.Module | Sequence[nn.Module], input_size: Sequence[int]) -> TracedBackbone:
    """Trace a backbone and find its cuts.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N]; or a list of its stages, which
            are not traced and between which it is cut.
        input_size: (C, H, W).

    Raises:
        ValueError: the network can't be traced, doesn't take such images, or doesn't
            return logits of shape [B, N].
    """
    module, size = as_module(backbone), checked_input_size(input_size)
    traces = [_measure(graph_module, module, size) for graph_module in trace_graphs(module)]
    return max(traces, key=lambda traced: len(traced.cuts))


def checked_input_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width), or a `ValueError`."""
    size = tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(
            f"input_size is {input_size}; expected the size of an image, (channels, height, width), all ≥ 1"
        )
    return cast(tuple[int, int, int], size)


# Cuts --------------------------------------------------------------------------------


def _measure(graph_module: fx.GraphModule, backbone: nn.Module, size: tuple[int, int, int]) -> TracedBackbone:
    try:
        seen = trace_costs(graph_module, (1, *size))
    except Exception as error:  # whatever the network's own code raises
        raise ValueError(
            f"{describe(backbone)} does not run on an input of size {size} (C, H, W): {first_line(error)}"
        ) from error
    logits = seen[next(n for n in graph_module.graph.nodes if n.op == "output")][1]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise no_logits(backbone, logits, "eval", 1)
    total = sum(macs for macs, _ in seen.values())
    if not total:
        raise ValueError(f"{describe(backbone)} has no convolution or linear layer to save")
    found = _find_cuts(graph_module, seen, total)
    return TracedBackbone(
        backbone,
        graph_module,
        [cut for cut, _ in found],
        [node for _, node in found],
        total,
        int(logits.shape[1]),
        size,
    )


def _find_cuts(
    graph_module: fx.GraphModule, seen: dict[fx.Node, tuple[int, Any]], total: int
) -> list[tuple[Cut, fx.Node]]:
    """The cuts, each with the node whose output is the one feature map alive."""
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
        if not isinstance(value, Tensor) or value.ndim != 4 or spent > (1 - LEAST_REMAINING) * total:
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
    if node.op == "call_module":
        kind = type(graph_module.get_submodule(str(node.target))).__name__
    else:
        kind = getattr(node.target, "__name__", str(node.target))
    if "adaptive" in kind.lower():
        return tuple(value.shape[2:]) in ((), (1, 1))
    inputs = [seen[n][1] for n in node.all_input_nodes]
    spatial = [v.shape[2:] for v in inputs if isinstance(v, Tensor) and v.ndim == 4]
    if len(spatial) != 1 or len(node.all_input_nodes) != 1:
        return False
    return value.ndim == 2 or (tuple(value.shape[2:]) == (1, 1) and spatial[0].numel() > 1)


# Division ----------------------------------------------------------------------------


class NoLogitsError(ValueError):
    """The network returns something else."""


def no_logits(backbone: nn.Module, value: object, mode: str, batch: int) -> NoLogitsError:
    kind = type(value).__name__.removeprefix("immutable_")  # as fx calls its lists and dictionaries
    shown = tuple(value.shape) if isinstance(value, Tensor) else f"a {kind}"
    return NoLogitsError(
        f"{describe(backbone)} must return logits of shape [batch, classes], for {batch} image"
        f"{'s' * (batch > 1)} in {mode} mode not {shown}; give it a classifier, return one tensor, and "
        "switch auxiliary outputs off (in torchvision: aux_logits=False)"
    )
