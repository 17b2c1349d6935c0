"""Exit heads: a confidence branch and a classification branch on a stage's feature map."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from eenet.backbones import BasicBlock
from eenet.common import Registry
from eenet.policies import create_gate

FeatureSize = tuple[int, int, int]
Trunk = tuple[nn.Module, int]
"""Features [B, C, H, W] → [B, width], and that width."""
DEEP_WIDTH = 128
HEADS: Registry[Callable[[FeatureSize], Trunk]] = Registry("head", "exit head")
"""Kinds of trunks by name: each is given the size of the features (C, H, W)."""


class ExitHead(nn.Module):
    """A trunk, a linear classifier on it, and a gate that gives the confidence.

    `features [B, C, H, W]` → class logits [B, N] and the confidence logit [B] (the
    confidence is its sigmoid).
    """

    def __init__(self, trunk: nn.Module, width: int, num_classes: int, gate: str = "answer") -> None:
        """`trunk` maps features [B, C, H, W] to [B, width]; for `gate` see `eenet.policies.gates`."""
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(width, num_classes)
        self.confidence = create_gate(gate, width, num_classes)

    foldable = "trunk"
    """The part whose norms can be folded into convolutions, for speed."""

    def seen(self, features: Tensor) -> Tensor:
        """What that part is given."""
        return features

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.trunk(features)
        logits = self.classifier(shared)
        return logits, self.confidence(shared, logits)


class GlobalPool(nn.Module):
    """Mean over height and width."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


@HEADS.add()
def pool(size: FeatureSize) -> Trunk:
    """Global average pooling: the paper's default. Demir & Akbas 2024, section 3."""
    return GlobalPool(), size[0]


@HEADS.add()
def bnpool(size: FeatureSize) -> Trunk:
    """Batch normalisation, then global average pooling. Demir & Akbas 2024, section 3."""
    return nn.Sequential(nn.BatchNorm2d(size[0]), GlobalPool()), size[0]


@HEADS.add()
def plain(size: FeatureSize) -> Trunk:
    """Linear layers on all features, for one input size. Demir & Akbas 2024, section 3."""
    return nn.Flatten(), size[0] * size[1] * size[2]


@HEADS.add()
def conv(size: FeatureSize) -> Trunk:
    """A 3×3 convolution with stride 2, norm and activation, then global average pooling."""
    channels = size[0]
    reduce = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    trunk = nn.Sequential(reduce, nn.BatchNorm2d(channels), nn.ReLU(), GlobalPool())
    return trunk, channels


@HEADS.add()
def deep(size: FeatureSize) -> Trunk:
    """2×2 mean pooling, two 3×3 convolutions with stride 2 that widen, then global average pooling.

    For features that are not linearly readable: early ones, or those of a backbone that was
    trained without exits. Pooling first makes it cheap; at most `DEEP_WIDTH` channels keep it
    cheap behind wide layers. A map of one pixel gets 1×1 convolutions, and one of 2×2 pixels
    a kernel of its size, since the rest would only see padding.
    """
    odd = any(n % 2 for n in size[1:])  # ceil_mode is slow where runtimes have no fast kernel for it
    layers: list[nn.Module] = [nn.AvgPool2d(2, ceil_mode=odd)]
    steps = _widening(size[0], [(n + 1) // 2 for n in size[1:]])
    for narrow, wide, kernel in steps:
        layers.append(nn.Conv2d(narrow, wide, kernel, stride=2, padding=int(kernel == 3), bias=False))
        layers += [nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, GlobalPool()), steps[-1][1]


@HEADS.add()
def separable(size: FeatureSize) -> Trunk:
    """Two 3×3 convolutions with stride 2 that widen, each split in two, then global average pooling.

    Each is a convolution of every channel by itself and one of 1×1 pixels (Howard et al. 2017,
    MobileNets). Half the MACs of `deep` and an eighth of its weights. For a single image weights
    are what takes time: they are fetched from memory for it alone.
    """
    layers: list[nn.Module] = []
    steps = _widening(size[0], size[1:])
    for narrow, wide, kernel in steps:
        padding = int(kernel == 3)
        layers.append(nn.Conv2d(narrow, narrow, kernel, stride=2, padding=padding, groups=narrow, bias=False))
        layers += [nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, GlobalPool()), steps[-1][1]


def _widening(channels: int, sides: Sequence[int]) -> list[tuple[int, int, int]]:
    """Channels given and made, and the kernel, of two convolutions with stride 2."""
    widths, steps = [channels, min(2 * channels, DEEP_WIDTH), min(4 * channels, 2 * DEEP_WIDTH)], []
    for narrow, wide in pairwise(widths):
        steps.append((narrow, wide, min(3, sides[0]) if sides[0] == sides[1] else 3))
        sides = [(side + 1) // 2 for side in sides]
    return steps


@HEADS.add()
def residual(size: FeatureSize) -> Trunk:
    """Two residual blocks with stride 2 that double the channels, then global average pooling.

    What a ResNet would still do, in the shortest form: a small network of its own behind an
    early exit of a large one. Five times the MACs of `deep`.
    """
    widths = [size[0], min(2 * size[0], DEEP_WIDTH), min(4 * size[0], 2 * DEEP_WIDTH)]
    blocks = [BasicBlock(narrow, wide, stride=2) for narrow, wide in pairwise(widths)]
    return nn.Sequential(*blocks, GlobalPool()), widths[-1]


@HEADS.add()
def mlp(size: FeatureSize) -> Trunk:
    """Global average pooling, then a hidden layer of twice the channels."""
    channels = size[0]
    trunk = nn.Sequential(GlobalPool(), nn.Linear(channels, 2 * channels), nn.ReLU())
    return trunk, 2 * channels


def create_head(name: str, size: FeatureSize, num_classes: int, gate: str = "answer") -> ExitHead:
    """Build an exit head for features of this size (C, H, W).

    Raises:
        ValueError: there is no head, or no gate, of this name.
    """
    return ExitHead(*HEADS[name](size), num_classes, gate)
