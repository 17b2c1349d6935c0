"""Depthwise convolutions of a training in bf16 that run in float32, and those that don't."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eenet.training.depthwise import float32_where_faster


def gradients(layer: nn.Module, images: Tensor, *, bf16: bool, context: bool) -> tuple[torch.dtype, Tensor]:
    """The format of a layer's answers, and the gradient of its weights."""
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), float32_where_faster("cpu", context):
        answers = layer(images)
    answers.backward(torch.ones_like(answers))
    (weight,) = layer.parameters()
    assert weight.grad is not None
    return answers.dtype, weight.grad.clone()


@pytest.mark.parametrize(
    ("layer", "in_float32"),
    [
        (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False), True),
        (nn.Conv2d(8, 16, 3, stride=(1, 2), padding="valid", groups=8, bias=False), True),
        (nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False), True),
        (nn.Conv2d(8, 8, 3, dilation=2, groups=8, bias=False), True),
        (nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False), True),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), False),
        (nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False), False),
        (nn.Conv2d(8, 8, 5, stride=2, bias=False), False),
    ],
)
def test_only_what_is_slow_in_bf16_runs_in_float32(layer: nn.Conv2d, in_float32: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 8, 12, 12)
    _, exact = gradients(layer, images, bf16=False, context=False)
    dtype, rounded = gradients(layer, images, bf16=True, context=False)
    assert dtype == torch.bfloat16
    assert not torch.equal(rounded, exact)
    dtype, found = gradients(layer, images, bf16=True, context=True)
    assert dtype == torch.bfloat16
    assert torch.equal(found, rounded) != in_float32
    if in_float32:
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_without_autocast_nothing_is_cast() -> None:
    images, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 3, 3)
    with float32_where_faster("cpu", True):
        answers = F.conv2d(input=images, weight=weight, stride=[2, 2], groups=8)
    assert answers.dtype == torch.float32
    assert torch.equal(answers, F.conv2d(images, weight, stride=2, groups=8))
