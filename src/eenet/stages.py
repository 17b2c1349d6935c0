"""Where a backbone can be cut, and its exact division into stages.

After a node of the traced graph whose output is the only live value, the network can
be cut. Stage modules *are* the backbone's modules: weights, train/eval behaviour and
parameter names stay in place.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from eenet.cost import eval_mode, example_tensor, seeded, state_kept, trace_costs
from eenet.tracing import WAY_OUT, as_module, describe, first_line, trace_graphs

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


def divide(traced: TracedBackbone, chosen: Sequence[int]) -> list[fx.GraphModule]:
    """Divide a backbone after the chosen cuts and prove the division exact.

    The stages in sequence must reproduce the backbone bit for bit on random images, in
    eval and in train mode: outputs, BatchNorm statistics and the way gradients flow.

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
    _prove_exact(traced, stages)
    own = set(traced.backbone.modules())
    for wrapper in {part for stage in stages for part in stage.modules()} - own:
        wrapper.training = traced.backbone.training
    return stages


def check_backbone(backbone: nn.Module | Sequence[nn.Module], input_size: Sequence[int]) -> list[Cut]:
    """Whether a network of your own can be given exits: trace it, cut it everywhere, prove it exact.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N]; or a list of its stages, if it
            can't be traced.
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
    """Whether a stage writes into its features, as with an in-place activation or dropout first."""
    with eval_mode(stage), torch.no_grad():
        for training in (False, True):
            stage.train(training)
            with state_kept(stage), seeded(stage):
                before = features._version
                stage(features)
                if features._version != before:
                    return True
    return False


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
        raise _no_logits(backbone, logits, "eval", 1)
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


def _prove_exact(traced: TracedBackbone, stages: Sequence[nn.Module]) -> None:
    backbone, example = traced.backbone, example_tensor(traced.backbone)
    called = {str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"}
    blocks = [block for name, block in backbone.named_modules() if name in called]

    def run(forward: Callable[[Tensor], Any], mode: str) -> tuple[list[Tensor], list[tuple[str, int]]]:
        with state_kept(backbone), seeded(backbone), torch.enable_grad(), _inputs_summed(blocks) as sums:
            logits = forward(torch.randn(2, *traced.input_size).to(example))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
                raise _no_logits(backbone, logits, mode, 2)
            buffers = [buffer.clone() for buffer in backbone.buffers()]
            return [logits.detach(), *buffers, torch.tensor(sums)], _backward_steps(logits)

    with eval_mode(backbone):
        for training in (False, True):
            mode = "train" if training else "eval"
            for part in (backbone, *stages):
                part.train(training)
            try:
                whole, steps = run(backbone, mode)
                divided, steps_divided = run(nn.Sequential(*stages), mode)
            except _NoLogitsError:
                raise
            except Exception as error:  # whatever the network's own code raises
                raise ValueError(
                    f"{describe(backbone)} does not run on two images in {mode} mode: {first_line(error)}"
                ) from error
            if not all(map(_equal, whole, divided)) or steps != steps_divided:
                what = "its outputs" if steps == steps_divided else "the gradients through it"
                raise ValueError(
                    f"{describe(backbone)} can't be divided exactly: in {mode} mode its stages in sequence "
                    f"do not reproduce {what}. Its outermost forward may depend on the mode, or use no_grad "
                    f"or autocast; {WAY_OUT}"
                )


@contextmanager
def _inputs_summed(blocks: Sequence[nn.Module]) -> Iterator[list[float]]:
    """Sums of what every block is given: a classifier of zeros, as at the start, hides all before it."""
    sums: list[float] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        sums.extend(float(x.detach().double().sum()) for x in inputs if isinstance(x, Tensor))

    handles = [block.register_forward_pre_hook(note) for block in blocks]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _backward_steps(logits: Tensor) -> list[tuple[str, int]]:
    """The operations that gradients flow back through, each with its parameter, if it has one.

    Equal outputs don't tell whether a part ran under `no_grad`, which tracing forgets.
    """
    steps, waiting, seen = [], [logits.grad_fn], set()
    while waiting:
        step = waiting.pop()
        if step is not None and step not in seen:
            seen.add(step)
            steps.append((step.name(), id(getattr(step, "variable", None))))
            waiting += [following for following, _ in step.next_functions]
    return steps


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


class _NoLogitsError(ValueError):
    """The network returns something else."""


def _no_logits(backbone: nn.Module, value: object, mode: str, batch: int) -> _NoLogitsError:
    kind = type(value).__name__.removeprefix("immutable_")  # as fx calls its lists and dictionaries
    shown = tuple(value.shape) if isinstance(value, Tensor) else f"a {kind}"
    return _NoLogitsError(
        f"{describe(backbone)} must return logits of shape [batch, classes], for {batch} image"
        f"{'s' * (batch > 1)} in {mode} mode not {shown}; give it a classifier, return one tensor, and "
        "switch auxiliary outputs off (in torchvision: aux_logits=False)"
    )
