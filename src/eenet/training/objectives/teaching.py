"""The trained networks whose answers a run imitates."""

from collections.abc import Sequence
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

    def __init__(self, network: EENet | None, fast: Backend | None = None) -> None:
        """Make it of a network.

        Args:
            network: in eval mode; None if there is only `fast`, which then answers always, on a CPU.
            fast: the same network without leaving early, asked instead on a CPU in float32.
        """
        super().__init__()
        self.stages = network.stages.requires_grad_(False) if network else None
        self.mean, self.std = (network.config.mean or [], network.config.std or []) if network else ([], [])
        self._fast = fast

    def train(self, mode: bool = True) -> "Teacher":  # noqa: ARG002
        """Always in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 pixels → logits [B, N] of the final exit, up to a constant for each image."""
        device = pixels_BCHW.device.type
        in_float32 = device == "cpu" and not torch.is_autocast_enabled(device)
        if self._fast is not None and (in_float32 or self.stages is None):
            answers = self._fast.run(0, np.ascontiguousarray(pixels_BCHW.cpu().numpy())).probabilities_BN
            return torch.from_numpy(answers).to(pixels_BCHW.device).clamp_min(FLOOR).log()
        features: Any = normalize(pixels_BCHW, self.mean, self.std)
        for stage in self.stages or []:
            features = stage(features)
        return features


class Teachers(nn.Module):
    """Several teachers as one: the normalised geometric mean of their answers.

    It is mostly more accurate than the best of them. Hinton et al. 2015, arXiv 1503.02531.
    """

    def __init__(self, each: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(each)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 pixels → logits [B, N], up to a constant for each image."""
        return torch.stack([one(pixels_BCHW).float().log_softmax(1) for one in self.each]).mean(0)


def teacher_of(config: TrainConfig, images: Images) -> Teacher | Teachers | None:
    """The teacher that a configuration names, if any: a checkpoint, or an exported network by its graph.

    Args:
        config: its `teacher` counts.
        images: that it is to teach on.

    Raises:
        FileNotFoundError, ValueError: no such network, or it is for other images or classes.
    """
    if config.teacher is None:
        return None
    if isinstance(config.teacher, str):
        return _opened(config.teacher, images)
    return Teachers([_opened(each, images) for each in config.teacher])


def _opened(name: str, images: Images) -> Teacher:
    network = open_network(name)
    known, size = network.config.class_names, network.config.input_size
    if size != images.image_size:
        raise ValueError(
            f"teacher {name} takes images of size {tuple(size)} (C, H, W), the data set has "
            f"{tuple(images.image_size)}"
        )
    if network.config.num_classes != len(images.class_names) or (known and known != images.class_names):
        raise ValueError(f"teacher {name} knows other classes than the data set; give one of these")
    if not isinstance(network, StoredNetwork):
        return Teacher(network.eval())
    modules = network.to_torch().eval() if network.has_modules else None
    fast = modules is None or default_backend() == "onnxruntime"
    return Teacher(modules, _without_leaving(network) if fast else None)


def _without_leaving(network: StoredNetwork) -> Backend:
    """A network's graph up to its final exit."""
    count = network.num_exits
    segments = segments_of(ExitPolicy.all_at(count, count), None)
    return create_backend("onnxruntime", network, segments, "confidence", threads=torch.get_num_threads())
