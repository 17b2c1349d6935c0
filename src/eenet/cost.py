"""What a network costs: multiply–accumulates (MACs) of a module or of every node of a traced graph.

1 MAC = 2 FLOPs. Only matrix products and convolutions count, as in
`torch.utils.flop_counter`, whose formulas are used here. Nothing is computed:
the network runs once on fake tensors, in eval mode, so weights and BatchNorm
statistics stay as they are.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode and give every submodule its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _fake_tensors() -> Iterator[None]:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True  # it prints a traceback for what we report in a line
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    finally:
        logger.disabled = disabled


def count_macs(module: nn.Module, *input_shapes: Sequence[int]) -> int:
    """MACs of one call of `module` on inputs of these shapes, batch dimension included."""
    with eval_mode(module), _fake_tensors():
        inputs = [torch.empty(tuple(shape), device=_device(module)) for shape in input_shapes]
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    return counter.get_total_flops() // 2


def trace_costs(traced: fx.GraphModule, input_shape: Sequence[int]) -> dict[fx.Node, tuple[int, Any]]:
    """For every node of a traced network: its own MACs and the value (fake tensors) it puts out."""
    with eval_mode(traced), _fake_tensors(), FlopCounterMode(display=False) as counter:
        recorder = _Recorder(traced, counter)
        recorder.run(torch.empty(tuple(input_shape), device=_device(traced)))
    return recorder.seen


def relative_costs(
    stage_macs: Sequence[int],
    head_macs: Sequence[int],
    backbone_macs: int,
    enabled: Sequence[bool] | None = None,
) -> list[float]:
    """Cost of leaving at each exit, relative to the plain backbone.

    Args:
        stage_macs: K entries, in running order.
        head_macs: K - 1 entries, one per early exit.
        backbone_macs: the plain backbone's MACs.
        enabled: K - 1 flags; the head of an exit that is switched off is never run
            and costs nothing. Default: all on.
    """
    switched_on = [True] * len(head_macs) if enabled is None else list(enabled)
    spent, costs = 0, []
    for k, macs in enumerate(stage_macs):
        spent += macs
        if k < len(head_macs) and switched_on[k]:
            spent += head_macs[k]
        costs.append(spent / backbone_macs)
    return costs


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


class _Recorder(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(traced)
        self.counter = counter
        self.seen: dict[fx.Node, tuple[int, Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.seen[n] = ((self.counter.get_total_flops() - before) // 2, _snapshot(value))
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The interpreter hands out immutable lists; HRNet's stages write into theirs.
        return super().call_module(target, tuple(_mutable(a) for a in args), kwargs)


def _mutable(value: Any) -> Any:
    return [_mutable(v) for v in value] if isinstance(value, list) else value


def _snapshot(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
