"""The exact division of a backbone into stages, and the proof that nothing has changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from eenet.backbones.accepting import WAY_OUT, NoLogitsError, check_logits, describe, first_line, no_logits
from eenet.backbones.cost import eval_mode, example_tensor, seeded, state_kept
from eenet.backbones.cuts import Cut, TracedBackbone, trace


def divide(traced: TracedBackbone, chosen: Sequence[int], *, prove: bool = True) -> list[fx.GraphModule]:
    """Divide a backbone after the chosen cuts and prove the division exact.

    The stages in sequence must reproduce the backbone bit for bit on random images, in
    eval and in train mode: outputs, BatchNorm statistics and the way gradients flow.

    Args:
        traced: from `trace`.
        chosen: increasing indices into `traced.cuts`; none gives one stage, the whole backbone.
        prove: left out for a division that was proved before, with the same versions of torch and timm.

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
    if prove:
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
                raise no_logits(backbone, logits, mode, 2)
            buffers = [buffer.clone() for buffer in backbone.buffers()]
            return [logits.detach(), *buffers, torch.tensor(sums)], _backward_steps(logits)

    with eval_mode(backbone):
        for training in (False, True):
            mode = "train" if training else "eval"
            for part in (backbone, *stages):
                part.train(training)
            try:
                whole, steps = run(backbone, mode)
                if not training:
                    check_logits(backbone, traced.graph_module, traced.input_size, whole[0])
                divided, steps_divided = run(nn.Sequential(*stages), mode)
            except NoLogitsError:
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
