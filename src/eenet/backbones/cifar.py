"""The paper's backbones that timm lacks, registered with timm: CIFAR ResNets and the tiny ResNet-8.

After the import of this module `timm.create_model("resnet20_cifar")` works like any
other timm model. CIFAR ResNets: He et al. 2016, section 4.2, with projection shortcuts.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

_CFG: dict[str, Any] = {
    "url": "",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "first_conv": "conv1",
    "classifier": "fc",
}
_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
_TINY_WIDTHS = (2, 4)

_NAMES = [
    *(f"resnet{depth}_cifar" for depth in _DEPTHS),
    *(f"resnet8_w{w}_cifar" for w in _TINY_WIDTHS),
    "resnet13_coarse_cifar",
]
default_cfgs = generate_default_cfgs(dict.fromkeys(_NAMES, _CFG))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for small images, widths `width`, `2 * width`, `4 * width`.

    Args:
        blocks: in each of the three layers; or in each of them one number.
        width: channels of the first layer.
        num_classes: 0 for no classifier.
        in_chans: channels of an image.
        coarse: a second convolution before the first layer halves the image, as in networks for photos. So
            the first exits see features of a lower resolution early on, and more channels cost no more.

    Raises:
        ValueError: `blocks` is for another number of layers.
    """

    def __init__(
        self,
        blocks: int | Sequence[int] = 3,
        width: int = 16,
        num_classes: int = 10,
        in_chans: int = 3,
        coarse: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 4 * width
        first = width // 2 if coarse else width
        self.conv1 = nn.Conv2d(in_chans, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.act1 = nn.ReLU(inplace=True)
        self.halving: nn.Module = nn.Identity()
        if coarse:
            halved = nn.Conv2d(first, width, 3, 2, 1, bias=False)
            self.halving = nn.Sequential(halved, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        blocks_3 = [blocks] * 3 if isinstance(blocks, int) else blocks
        if len(blocks_3) != 3:
            raise ValueError(f"blocks is {blocks}; give one number, or one for each of the three layers")
        self.layer1 = _layer(width, width, blocks_3[0], stride=1)
        self.layer2 = _layer(width, 2 * width, blocks_3[1], stride=2)
        self.layer3 = _layer(2 * width, 4 * width, blocks_3[2], stride=2)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4 * width, num_classes) if num_classes else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:  # noqa: ARG002
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.halving(self.act1(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _layer(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    widths = [in_channels, *[channels] * blocks]
    strides = [stride, *[1] * blocks]
    return nn.Sequential(*(BasicBlock(*of) for of in zip(widths, widths[1:], strides, strict=False)))


def _build(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet, variant, pretrained, **kwargs)


@register_model
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-8 for 32×32 images."""
    return _build("resnet8_cifar", pretrained, **dict(kwargs, blocks=1))


@register_model
def resnet14_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-14 for 32×32 images."""
    return _build("resnet14_cifar", pretrained, **dict(kwargs, blocks=2))


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for 32×32 images."""
    return _build("resnet20_cifar", pretrained, **dict(kwargs, blocks=3))


@register_model
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-32 for 32×32 images."""
    return _build("resnet32_cifar", pretrained, **dict(kwargs, blocks=5))


@register_model
def resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-44 for 32×32 images."""
    return _build("resnet44_cifar", pretrained, **dict(kwargs, blocks=7))


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for 32×32 images."""
    return _build("resnet56_cifar", pretrained, **dict(kwargs, blocks=9))


@register_model
def resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-110 for 32×32 images."""
    return _build("resnet110_cifar", pretrained, **dict(kwargs, blocks=18))


@register_model
def resnet8_w2_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The paper's tiny ResNet-8, 2 filters in the first stage."""
    return _build("resnet8_w2_cifar", pretrained, **dict(kwargs, blocks=1, width=2))


@register_model
def resnet8_w4_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The paper's tiny ResNet-8, 4 filters in the first stage."""
    return _build("resnet8_w4_cifar", pretrained, **dict(kwargs, blocks=1, width=4))


@register_model
def resnet13_coarse_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Wide and short, coarse from the second convolution on: for early exits that cost little."""
    own = {"blocks": (1, 2, 2), "width": 48, "coarse": True}
    return _build("resnet13_coarse_cifar", pretrained, **own | kwargs)
