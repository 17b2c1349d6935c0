"""Exit heads: a confidence branch and a classification branch on a stage's feature map."""

from collections.abc import Callable

from torch import Tensor, nn


class PoolHead(nn.Module):
    """Global average pooling, then one linear layer per branch: the paper's default head.

    Demir & Akbas 2024, section 3. `features [B, C, H, W]` → class logits [B, N] and the
    confidence logit [B] (the confidence is its sigmoid).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)
        self.confidence = nn.Linear(channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        pooled = features.mean((2, 3))
        return self.classifier(pooled), self.confidence(pooled).squeeze(1)


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"pool": PoolHead}


def create_head(name: str, channels: int, num_classes: int) -> nn.Module:
    """Build an exit head by name.

    Raises:
        ValueError: there is no head of this name.
    """
    if name not in HEADS:
        raise ValueError(f"unknown exit head {name!r}; choose from {', '.join(HEADS)}")
    return HEADS[name](channels, num_classes)
