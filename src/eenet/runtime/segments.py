"""What runs between two decisions: the stages up to the next exit that is on, and that exit's head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eenet.networks import Config, EENet
from eenet.policies import SCORES, Ensemble, ExitPolicy, Weights, chain


@dataclass(frozen=True)
class Segment:
    """Stages `first` to `last`, both included, and the exit behind them."""

    first: int
    last: int
    exit: int | None
    """The exit at its end; none for a bare part of the backbone."""
    weights: Weights | None = None
    """By which its answer is joined with those of the segments before; none: it isn't."""


def segments_of(policy: ExitPolicy, ensemble: Ensemble | None) -> list[Segment]:
    """The segments of a network under a policy. An exit that is switched off divides nothing.

    Args:
        policy: which exits are on.
        ensemble: of the network's `config`.
    """
    on = [k for k, enabled in enumerate(policy.enabled) if enabled]
    firsts = [0, *(k + 1 for k in on)]
    weights = chain(ensemble, policy.enabled)
    ends = [*on, len(policy.enabled)]
    return [Segment(first, k, k, weights[k]) for first, k in zip(firsts, ends, strict=True)]


class Normalize(nn.Module):
    """uint8 pixels → images with mean and standard deviation taken out, as `eenet.data.normalize`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(mean)[:, None, None] * 255)
        self.register_buffer("scale", torch.tensor(std)[:, None, None] * 255)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return (pixels_BCHW - self.shift) / self.scale


def mean_std(config: Config, where: str = "the network's config") -> tuple[list[float], list[float]]:
    """Of the training images.

    Raises:
        ValueError: `where`, as messages call the configuration, has none.
    """
    if config.mean is None or config.std is None:
        raise ValueError(f"{where} has no mean and std, so images can't be normalised")
    return config.mean, config.std


def normalization(network: EENet) -> Normalize:
    """The network's own.

    Raises:
        ValueError: it has no mean and standard deviation.
    """
    mean, std = mean_std(network.config)
    return Normalize(mean, std).to(next(network.parameters()).device)


class SegmentModule(nn.Module):
    """A segment as a module, which shares the network's weights; the first one takes uint8 pixels."""

    def __init__(self, network: EENet, segment: Segment, score: str) -> None:
        super().__init__()
        stages: list[nn.Module] = [network.stages[k] for k in range(segment.first, segment.last + 1)]
        if segment.first == 0:
            stages.insert(0, normalization(network))
        self.stages: nn.Module = nn.Sequential(*stages)
        self.final = segment.exit == network.num_exits
        self.head = network.heads[segment.exit] if segment.exit is not None and not self.final else None
        self.score = SCORES[score]
        self.eval()

    def forward(self, features: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Features for the next segment, class probabilities [B, N], score [B], as far as there are any."""
        features = self.stages(features)
        if self.final:
            return None, features.float().softmax(1), None
        if self.head is None:
            return features, None, None
        logits_BN, confidence_logits_B = self.head(features)
        logits_BN = logits_BN.float()
        score_B = self.score([logits_BN], [confidence_logits_B.float()])
        return features, logits_BN.softmax(1), score_B
