"""A backbone with exits: how it is made, what it is configured by, and how it is saved and found again."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.networks.building import convert, create_model, name_backbone, per_channel, without_exits
    from eenet.networks.checkpoint import as_network, name_of, trained_backbone
    from eenet.networks.config import Config, read_config
    from eenet.networks.describing import BackboneInfo, CheckpointInfo, info
    from eenet.networks.directories import (
        CARD_FILE,
        CONFIG_FILE,
        SHIPPED,
        WEIGHTS_FILE,
        about_shipped,
        checkpoint_directory,
        shipped_checkpoints,
    )
    from eenet.networks.heads import HEADS
    from eenet.networks.network import EENet, ExitOutputs

__getattr__, __dir__ = lazy_names(__name__)
