"""Exit heads: a confidence branch and a classification branch on a stage's feature map."""

from collections.abc import Callable
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
    return _pooled_first(size, lambda *step: [_reducing(*step)])


@HEADS.add()
def separable(size: FeatureSize) -> Trunk:
    """As `deep`, with each convolution split: one of every channel by itself, and one of 1×1 pixels.

    Howard et al. 2017 (MobileNets). A fifth to an eighth of the MACs and weights of `deep`. For a single
    image weights are what takes time: they are fetched from memory for it alone.
    """
    return _pooled_first(
        size,
        lambda narrow, wide, kernel: [
            _reducing(narrow, narrow, kernel, groups=narrow),
            nn.Conv2d(narrow, wide, 1, bias=False),
        ],
    )


def _pooled_first(size: FeatureSize, convolution: Callable[[int, int, int], list[nn.Module]]) -> Trunk:
    """The trunk of `deep`; a convolution is made of the channels given and wanted, and the kernel."""
    channels, sides = size[0], list(size[1:])
    widths = [min(2 * channels, DEEP_WIDTH), min(4 * channels, 2 * DEEP_WIDTH)]
    odd = any(n % 2 for n in size[1:])  # ceil_mode is slow where runtimes have no fast kernel for it
    layers: list[nn.Module] = [nn.AvgPool2d(2, ceil_mode=odd)]
    for narrow, wide in pairwise([channels, *widths]):
        sides = [(side + 1) // 2 for side in sides]
        kernel = min(3, sides[0]) if sides[0] == sides[1] else 3
        layers += [*convolution(narrow, wide, kernel), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, GlobalPool()), widths[-1]


def _reducing(narrow: int, wide: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    padding = int(kernel == 3)
    return nn.Conv2d(narrow, wide, kernel, stride=2, padding=padding, groups=groups, bias=False)


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
