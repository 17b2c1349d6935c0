"""Depthwise convolutions that a processor trains faster in float32 than in bf16."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

WIDE = 5  # kernels from here on have slow gradients of their weights


def float32_where_faster(device: str, bf16: bool) -> AbstractContextManager[Any]:
    """A context for a forward pass under autocast; outside a CPU's bf16 it changes nothing.

    oneDNN has no fast backward pass in bf16 for depthwise convolutions with strides or with wide kernels
    (torch 2.14.1, AVX512-BF16: 20 and 3 times slower than float32). Within the context these run in float32.
    Their answers are cast to bf16, as those of the others.

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
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    strided = stride > 1 if isinstance(stride, int) else max(stride) > 1
    depthwise = groups > 1 and weight.shape[1] == 1
    how = (weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled("cpu") and depthwise and (strided or max(weight.shape[2:]) >= WIDE):
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(input.float(), *how).bfloat16()
    return F.conv2d(input, *how)
