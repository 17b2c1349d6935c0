"""Exit heads: a confidence branch and a classification branch on a stage's feature map."""

import difflib
from collections.abc import Callable

from torch import Tensor, nn

FeatureSize = tuple[int, int, int]


class ExitHead(nn.Module):
    """A shared trunk, then one linear layer per branch.

    `features [B, C, H, W]` → class logits [B, N] and the confidence logit [B] (the
    confidence is its sigmoid).
    """

    def __init__(self, trunk: nn.Module, width: int, num_classes: int) -> None:
        """`trunk` maps features [B, C, H, W] to [B, width]."""
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(width, num_classes)
        self.confidence = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.trunk(features)
        return self.classifier(shared), self.confidence(shared).squeeze(1)


class GlobalPool(nn.Module):
    """Mean over height and width."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def pool(size: FeatureSize, num_classes: int) -> ExitHead:
    """Global average pooling: the paper's default. Demir & Akbas 2024, section 3."""
    return ExitHead(GlobalPool(), size[0], num_classes)


def bnpool(size: FeatureSize, num_classes: int) -> ExitHead:
    """Batch normalisation, then global average pooling. Demir & Akbas 2024, section 3."""
    return ExitHead(nn.Sequential(nn.BatchNorm2d(size[0]), GlobalPool()), size[0], num_classes)


def plain(size: FeatureSize, num_classes: int) -> ExitHead:
    """Linear layers on all features, for one input size. Demir & Akbas 2024, section 3."""
    return ExitHead(nn.Flatten(), size[0] * size[1] * size[2], num_classes)


def conv(size: FeatureSize, num_classes: int) -> ExitHead:
    """A 3×3 convolution with stride 2, norm and activation, then global average pooling."""
    channels = size[0]
    reduce = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    trunk = nn.Sequential(reduce, nn.BatchNorm2d(channels), nn.ReLU(), GlobalPool())
    return ExitHead(trunk, channels, num_classes)


def deep(size: FeatureSize, num_classes: int) -> ExitHead:
    """Two 3×3 convolutions with stride 2 that double the channels, then global average pooling.

    For features that weren't trained with exits, as those of a frozen backbone.
    """
    channels = size[0]
    layers: list[nn.Module] = []
    for narrow in (channels, 2 * channels):
        layers.append(nn.Conv2d(narrow, 2 * narrow, 3, stride=2, padding=1, bias=False))
        layers += [nn.BatchNorm2d(2 * narrow), nn.ReLU()]
    return ExitHead(nn.Sequential(*layers, GlobalPool()), 4 * channels, num_classes)


def mlp(size: FeatureSize, num_classes: int) -> ExitHead:
    """Global average pooling, then a hidden layer of twice the channels."""
    channels = size[0]
    trunk = nn.Sequential(GlobalPool(), nn.Linear(channels, 2 * channels), nn.ReLU())
    return ExitHead(trunk, 2 * channels, num_classes)


HEADS: dict[str, Callable[[FeatureSize, int], ExitHead]] = {
    "pool": pool,
    "bnpool": bnpool,
    "plain": plain,
    "conv": conv,
    "deep": deep,
    "mlp": mlp,
}


def create_head(name: str, size: FeatureSize, num_classes: int) -> ExitHead:
    """Build an exit head for features of this size (C, H, W).

    Raises:
        ValueError: there is no head of this name.
    """
    if name not in HEADS:
        near = difflib.get_close_matches(name, HEADS, n=1)
        raise ValueError(f"unknown exit head {name!r}; choose from {', '.join(near or HEADS)}")
    return HEADS[name](size, num_classes)
