"""What a network costs: multiply–accumulates (MACs) of a module or of every node of a traced graph.

1 MAC = 2 FLOPs. Only matrix products and convolutions count, as in
`torch.utils.flop_counter`, whose formulas are used here. Nothing is computed:
the network runs once on fake tensors, in eval mode, so weights and BatchNorm
statistics stay as they are. Only a network that looks at values is really run.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Measured = TypeVar("Measured")


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
def state_kept(module: nn.Module) -> Iterator[None]:
    """Undo what runs inside do to a module: buffers, and tensors it stores as attributes.

    LeViT caches its attention biases in a dictionary, an old-style weight norm sets the weight
    before every call; a fake tensor that stays there would break the network.
    """
    attributes = [(part, dict(vars(part))) for part in module.modules()]
    contents = [(v, v.copy()) for _, named in attributes for v in named.values() if type(v) in (dict, list)]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for part, named in attributes:
            vars(part).clear()
            vars(part).update(named)
        for holder, content in contents:
            holder.clear()
            holder.extend(content) if isinstance(holder, list) else holder.update(content)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # a write would spoil a backward pass that is waiting
                    buffer.copy_(value)


@contextmanager
def seeded(module: nn.Module) -> Iterator[None]:
    """The same random numbers every time, on the module's device; the caller's stay as they were."""
    device = example_tensor(module).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def example_tensor(module: nn.Module) -> Tensor:
    """A tensor of the device and floating-point type the module computes in."""
    held = chain(module.parameters(), module.buffers())
    return next((t.detach() for t in held if t.is_floating_point()), torch.empty(0))


@contextmanager
def countable_attention() -> Iterator[None]:
    """Attention as plain matrix products: torch counts nothing for its fused CPU kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_macs(module: nn.Module, *input_shapes: Sequence[int]) -> int:
    """MACs of one call of `module` on inputs of these shapes, batch dimension included."""

    def run(inputs: list[Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
        return counter.get_total_flops() // 2

    return _measure(module, input_shapes, run)


def trace_costs(traced: fx.GraphModule, input_shape: Sequence[int]) -> dict[fx.Node, tuple[int, Any]]:
    """For every node of a traced network: its own MACs and the value it puts out.

    Values are fake tensors, real ones where the network can't run without.
    """

    def run(inputs: list[Tensor]) -> dict[fx.Node, tuple[int, Any]]:
        with FlopCounterMode(display=False) as counter:
            recorder = _Recorder(traced, counter)
            recorder.run(*inputs)
        return recorder.seen

    return _measure(traced, [input_shape], run)


def _measure(
    module: nn.Module, shapes: Sequence[Sequence[int]], run: Callable[[list[Tensor]], Measured]
) -> Measured:
    """On fake tensors; if that fails, on random ones: a block may branch on values or leave torch."""
    example = example_tensor(module)
    with eval_mode(module), torch.no_grad(), countable_attention():
        try:
            with state_kept(module), _fake_tensors():
                return run([torch.empty(tuple(shape)).to(example) for shape in shapes])
        except Exception:  # the real run says it better: a wrong size fails there too
            with state_kept(module), seeded(module):
                return run([torch.randn(tuple(shape)).to(example) for shape in shapes])


@contextmanager
def _fake_tensors() -> Iterator[None]:
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors print a traceback for what is reported in a line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


class _Recorder(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # errors as the network raised them
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
