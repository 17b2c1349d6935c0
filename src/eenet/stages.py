"""Where a backbone can be cut, and its exact division into stages.

The network is traced with `torch.fx`, blocks kept as leaves: only the root, plain
`nn.Sequential`s and modules that hold repeated blocks are opened. After a node whose
output is the only live value, the network can be cut. Stage modules *are* the
backbone's modules: weights, train/eval behaviour and parameter names stay in place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from eenet.cost import eval_mode, trace_costs

LEAST_REMAINING = 0.01  # a cut with less of the MACs behind it saves nothing


@dataclass(frozen=True)
class Cut:
    """A place where exactly one feature map is alive."""

    name: str
    """The block it follows, as in `backbone.get_submodule(name)`, or the traced operation
    (so for a block that runs more than once, from the second time on).
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


def trace(backbone: nn.Module, input_size: Sequence[int]) -> TracedBackbone:
    """Trace a backbone and find its cuts.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N].
        input_size: (C, H, W).

    Raises:
        ValueError: the network can't be traced, doesn't take such images, or doesn't
            return logits of shape [B, N].
    """
    size = checked_input_size(input_size)
    traces = [_measure(graph_module, backbone, size) for graph_module in _trace_graphs(backbone)]
    return max(traces, key=lambda traced: len(traced.cuts))


def divide(traced: TracedBackbone, chosen: Sequence[int]) -> list[fx.GraphModule]:
    """Divide a backbone after the chosen cuts and prove the division exact.

    The stages in sequence must reproduce the backbone bit for bit on random images, in
    eval and in train mode (outputs and BatchNorm statistics).

    Args:
        traced: from `trace`.
        chosen: increasing indices into `traced.cuts`; none gives one stage, the whole backbone.

    Returns:
        `len(chosen) + 1` stages; each but the last maps features to features [B, C, H, W].

    Raises:
        ValueError: the division is not exact for this network.
    """
    nodes = list(traced.graph_module.graph.nodes)
    ends = [nodes.index(traced.cut_nodes[i]) for i in chosen]
    stages = [
        _stage(traced.graph_module, nodes, start, end)
        for start, end in zip([None, *ends], [*ends, len(nodes) - 1], strict=True)
    ]
    _prove_exact(traced.backbone, stages, traced.input_size)
    own = set(traced.backbone.modules())
    for wrapper in {part for stage in stages for part in stage.modules()} - own:
        wrapper.training = traced.backbone.training
    return stages


def check_backbone(backbone: nn.Module, input_size: Sequence[int]) -> list[Cut]:
    """Whether a network of your own can be given exits: trace it, cut it everywhere, prove it exact.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N].
        input_size: (channels, height, width).

    Returns:
        Every place where an exit can go: its name, cumulative MACs and feature size.

    Raises:
        ValueError: the network can't be cut, with the reason and a way out.
    """
    traced = trace(backbone, input_size)
    divide(traced, range(len(traced.cuts)))
    return traced.cuts


def mutates_input(stage: nn.Module, features: Tensor) -> bool:
    """Whether a stage writes into the features it is given (an in-place activation comes first)."""
    with eval_mode(stage), torch.no_grad():
        before = features._version
        stage(features)
        return features._version != before


def checked_input_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width), or a `ValueError`."""
    size = tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"input_size is {input_size}; expected (channels, height, width), all ≥ 1")
    return cast(tuple[int, int, int], size)


# Tracing -----------------------------------------------------------------------------


class _BlockTracer(fx.Tracer):
    """Keeps blocks as leaves and opens the modules for which `opens` is true."""

    def __init__(self, opens: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.opens = opens

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return not self.opens(m)


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


def _trace_graphs(backbone: nn.Module) -> list[fx.GraphModule]:
    """Trace with plain containers opened, and, where there are any, with repeated blocks opened.

    Neither is always the better one: ConvNeXt's stages must be opened, GhostNet's blocks must not.
    """
    inner = [m for m in backbone.modules() if m is not backbone and not _is_plain_container(m)]
    openings: list[Callable[[nn.Module], bool]] = [_is_plain_container]
    if any(map(_holds_repeated_blocks, inner)):
        openings.append(lambda m: _is_plain_container(m) or _holds_repeated_blocks(m))
    traces, problem = [], None
    for opens in openings:
        with eval_mode(backbone):
            try:
                graph_module = fx.GraphModule(backbone, _BlockTracer(opens).trace(backbone))
            except Exception as error:  # whatever the network's own code raises on a proxy
                problem = problem or error
                continue
        _replace_functional_dropout(graph_module)
        traces.append(graph_module)
    if not traces:
        assert problem is not None
        raise ValueError(
            f"{_name(backbone)} can't be traced: {_first_line(problem)}. Its outermost forward must "
            "not branch on values; as a way out, give the network as an nn.Sequential of its stages"
        ) from problem
    return traces


def _replace_functional_dropout(graph_module: fx.GraphModule) -> None:
    """Tracing bakes `training=` into a functional dropout; a module follows train() and eval()."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target is not nn.functional.dropout:
            continue
        named = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
        if named.get("training", True):
            continue  # traced in eval mode: the author wants it always on
        name = f"functional_{node.name}"
        graph_module.add_submodule(name, nn.Dropout(named.get("p", 0.5), named.get("inplace", False)))
        with graph_module.graph.inserting_after(node):
            module = graph_module.graph.call_module(name, (named["input"],))
        node.replace_all_uses_with(module)
        graph_module.graph.erase_node(node)
    graph_module.recompile()


# Cuts --------------------------------------------------------------------------------


def _measure(graph_module: fx.GraphModule, backbone: nn.Module, size: tuple[int, int, int]) -> TracedBackbone:
    try:
        seen = trace_costs(graph_module, (1, *size))
    except Exception as error:
        raise ValueError(
            f"{_name(backbone)} does not run on an input of size {size} (C, H, W): {_first_line(error)}"
        ) from error
    logits = seen[next(n for n in graph_module.graph.nodes if n.op == "output")][1]
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"{_name(backbone)} must return logits of shape [batch, classes], not {shown}; "
            "give it a classifier, and switch auxiliary outputs off"
        )
    total = sum(macs for macs, _ in seen.values())
    if not total:
        raise ValueError(f"{_name(backbone)} has no convolution or linear layer to save")
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
    spent = 0
    for node, alive in _live_values(graph_module.graph):
        macs, value = seen[node]
        if _is_global_pool(graph_module, node, seen):
            break
        spent += macs
        if node.op in ("placeholder", "output") or alive != {node} or not spent:
            continue
        if not isinstance(value, Tensor) or value.ndim != 4 or spent > (1 - LEAST_REMAINING) * total:
            continue
        name = str(node.target) if node.op == "call_module" else node.name
        if found and found[-1][0].macs == spent:  # a norm, activation or pooling
            name = found.pop()[0].name
        elif any(cut.name == name for cut, _ in found):  # the same module, run once more
            name = node.name
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


def _stage(
    graph_module: fx.GraphModule, nodes: Sequence[fx.Node], start: int | None, end: int
) -> fx.GraphModule:
    """The nodes after `start` up to and with `end`; from the input if there is no `start`."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    first = 0
    if start is not None:
        copies[nodes[start]] = graph.placeholder("features")
        first = start + 1

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            assert node.op == "get_attr", f"{node} crosses a cut"
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes[first : end + 1]:
        if node.op == "output":
            copies[node] = graph.output(fx.map_arg(node.args[0], copy))
        elif node.op != "get_attr":
            copies[node] = graph.node_copy(node, copy)
    if nodes[end].op != "output":
        graph.output(copies[nodes[end]])
    return fx.GraphModule(graph_module, graph, class_name="Stage")


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    saved = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def _prove_exact(backbone: nn.Module, stages: Sequence[nn.Module], input_size: tuple[int, int, int]) -> None:
    parameter = next(backbone.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []

    def run(forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with _buffers_kept(backbone), torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            images = torch.randn(2, *input_size, device=parameter.device, dtype=parameter.dtype)
            logits = forward(images)
            return [logits, *(buffer.clone() for buffer in backbone.buffers())]

    with eval_mode(backbone):
        for training in (False, True):
            backbone.train(training)
            for stage in stages:
                stage.train(training)
            try:
                whole = run(backbone)
            except ValueError:  # BatchNorm in train mode refuses a single value per channel
                assert training
                continue
            divided = run(nn.Sequential(*stages))
            if not isinstance(whole[0], Tensor) or not all(map(_equal, whole, divided)):
                raise ValueError(
                    f"{_name(backbone)} can't be divided exactly: in {'train' if training else 'eval'} "
                    "mode its stages in sequence do not reproduce it. Switch auxiliary outputs off, "
                    "or give the network as an nn.Sequential of its stages"
                )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


def _name(module: nn.Module) -> str:
    return f"this {type(module).__name__}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
