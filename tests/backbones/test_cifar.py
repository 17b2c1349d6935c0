"""The registered backbones: sizes known from the literature, and timm's contract."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from eenet.backbones.cifar import default_cfgs
from eenet.backbones.cost import count_macs

NAMES = list(default_cfgs)


@pytest.mark.parametrize(
    ("depth", "million_parameters"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_size_as_in_he_et_al(depth: int, million_parameters: float) -> None:
    """He et al. 2016, table 6; the projection shortcuts add under 1 %."""
    model = timm.create_model(f"resnet{depth}_cifar")
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(million_parameters, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_timm_contract(name: str) -> None:
    model: Any = timm.create_model(name, num_classes=7, in_chans=1).eval()
    images = torch.randn(2, 1, 16, 12)
    assert model(images).shape == (2, 7)
    assert torch.equal(model.forward_head(model.forward_features(images)), model(images))
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


def test_tiny_resnets_differ_in_width() -> None:
    two, four = (count_macs(timm.create_model(f"resnet8_w{w}_cifar"), (1, 3, 32, 32)) for w in (2, 4))
    assert 3 < four / two < 4


@pytest.mark.parametrize("blocks", [(1, 2, 2), (0, 3, 2)])
def test_coarse_resnet(blocks: tuple[int, int, int]) -> None:
    """13 layers with weights; from the second on at half the resolution or less."""
    model: Any = timm.create_model("resnet13_coarse_cifar", blocks=blocks)
    sides: list[int] = []
    layers = [
        m for m in model.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)
    ]
    for layer in layers[:-1]:
        layer.register_forward_hook(lambda _, __, features: sides.append(features.shape[-1]))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert len(layers) == 13
    assert sides == [32, 16, *[16] * 2 * blocks[0], *[8] * 2 * blocks[1], *[4] * 2 * blocks[2]]


def test_blocks_for_another_number_of_layers() -> None:
    with pytest.raises(ValueError, match="one for each of the three layers"):
        timm.create_model("resnet13_coarse_cifar", blocks=(1, 2))


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        timm.create_model("resnet20_cifar", colour=3)
