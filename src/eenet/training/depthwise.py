"""Depthwise convolutions that a processor trains faster in float32 than in bf16."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

WIDE = 5  # kernels of so many pixels or more


def float32_where_faster(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """A context for a forward pass under autocast that has a backward pass; it changes a CPU's bf16 only.

    oneDNN has a fast backward pass in bf16 for plain depthwise convolutions only: small kernels, no strides,
    no dilation, as many channels out as in. The others take 1.3 to 20 times as long as in float32 (torch
    2.14.1, AVX512-BF16). Within the context these run in float32, and their answers are cast to bf16.

    Args:
        device: its type, as "cpu".
        bf16: whether autocast is on.
    """
    return _Float32() if bf16 and device == "cpu" else nullcontext()


class _Float32(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return (_conv2d if func is F.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    depthwise = groups > 1 and weight.shape[1] == 1
    steps = (each if isinstance(each, int) else max(each) for each in (stride, dilation))
    plain = max(steps) == 1 and groups == len(weight) and max(weight.shape[2:]) < WIDE
    how = (weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled("cpu") and depthwise and not plain:
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(input.float(), *how).bfloat16()
    return F.conv2d(input, *how)
