"""The trained network whose answers a run imitates."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eenet.data import Images, normalize
from eenet.networks import EENet, StoredNetwork, open_network
from eenet.policies import FLOOR, ExitPolicy
from eenet.runtime import Backend, create_backend, default_backend, segments_of
from eenet.training.planning.settings import TrainConfig


class Teacher(nn.Module):
    """A trained network as it answers without leaving early. It stays as it is."""

    def __init__(self, network: EENet, fast: Backend | None = None) -> None:
        """Make it of a network.

        Args:
            network: in eval mode.
            fast: the same network without leaving early, asked instead on a CPU in float32.
        """
        super().__init__()
        self.stages = network.stages.requires_grad_(False)
        self.mean, self.std = network.config.mean or [], network.config.std or []
        self._fast = fast

    def train(self, mode: bool = True) -> "Teacher":  # noqa: ARG002
        """Always in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 pixels → logits [B, N] of the final exit, up to a constant for each image."""
        device = pixels_BCHW.device.type
        if self._fast is not None and device == "cpu" and not torch.is_autocast_enabled(device):
            answers = self._fast.run(0, np.ascontiguousarray(pixels_BCHW.numpy())).probabilities_BN
            return torch.from_numpy(answers).clamp_min(FLOOR).log()
        features: Any = normalize(pixels_BCHW, self.mean, self.std)
        for stage in self.stages:
            features = stage(features)
        return features


def teacher_of(config: TrainConfig, images: Images) -> Teacher | None:
    """The teacher that a configuration names, if any.

    Args:
        config: its `teacher` counts.
        images: that it is to teach on.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or it is for other images or classes.
    """
    if config.teacher is None:
        return None
    network = EENet.from_pretrained(config.teacher)
    known, size = network.config.class_names, network.config.input_size
    if size != images.image_size:
        raise ValueError(
            f"teacher {config.teacher} takes images of size {tuple(size)} (C, H, W), the data set has "
            f"{tuple(images.image_size)}"
        )
    if network.config.num_classes != len(images.class_names) or (known and known != images.class_names):
        raise ValueError(f"teacher {config.teacher} knows other classes than the data set; give one of these")
    return Teacher(network.eval(), _fast(config.teacher))


def _fast(checkpoint: str) -> Backend | None:
    """A checkpoint's graph on the fastest backend, without leaving early; None where there is none."""
    stored, backend = open_network(checkpoint), default_backend()
    if backend == "torch" or not isinstance(stored, StoredNetwork):
        return None
    count = stored.num_exits
    segments = segments_of(ExitPolicy.all_at(count, count), None)
    return create_backend(backend, stored, segments, "confidence", threads=torch.get_num_threads())
