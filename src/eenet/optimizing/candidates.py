"""What runs in the race beside the network that was given: pruned ones, and smaller backbones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eenet.backbones import count_macs, create_backbone
from eenet.networks import Config

GIVEN = "given"
SHARES = (0.7, 0.5, 0.35, 0.25)
"""Of the MACs, that pruning leaves."""
SMALL_IMAGES = 48  # pixels: up to here networks without strides at the start
FOR_SMALL = ("resnet44_cifar", "resnet32_cifar", "resnet20_cifar")
FOR_OTHERS = ("resnet18", "mobilenetv3_large_100", "mobilenetv4_conv_small", "efficientnet_lite0")
SAME = (
    "data",
    "mean",
    "std",
    "image_size",
    "seed",
    "teacher",
    "aim",
    "backend",
    "at_once",
)  # settings of all networks
WORTH_IT = 0.9  # of the given network's MACs: nothing larger is tried


@dataclass(frozen=True)
class Candidate:
    """A network to be trained, with exits."""

    name: str
    settings: dict[str, Any]
    """For `eenet.train`, beside those that all have."""
    macs: int
    """Of its backbone, about."""

    @property
    def from_scratch(self) -> bool:
        """Whether it begins with random weights."""
        return not (self.settings.keys() & {"prune", "freeze_backbone", "pretrained"})


def candidates(
    asked: Mapping[str, Any], config: Config, shares: Sequence[float], backbones: Sequence[str] | None
) -> list[Candidate]:
    """All but the given one.

    Args:
        asked: settings of the given one: model, weights and the like.
        config: of the given one with exits.
        shares: of its MACs, to which it is pruned.
        backbones: names of others. Default: some that suit the images.
    """
    found = [
        Candidate(f"pruned to {share:g}", {**asked, "prune": share}, round(share * config.backbone_macs))
        for share in shares
    ]
    small = max(config.input_size[1:]) <= SMALL_IMAGES
    names = (FOR_SMALL if small else FOR_OTHERS) if backbones is None else backbones
    made_for = {"num_classes": config.num_classes, "in_chans": config.input_size[0]}
    for name in names:
        if name == config.backbone:
            continue
        macs = count_macs(create_backbone(name, made_for), (1, *config.input_size))
        if backbones is not None or macs <= WORTH_IT * config.backbone_macs:
            pretrained = {"pretrained": True} if asked.get("pretrained") else {}
            same = {key: asked[key] for key in SAME if key in asked}
            found.append(Candidate(name, {**same, "model": name, **pretrained}, macs))
    return found
