"""One pass over a data set: what every exit says about every image, and the label."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from eenet import cost
from eenet.checkpoint import Config, write_atomically
from eenet.ensemble import Ensemble, chain, join
from eenet.image_sets import Images
from eenet.images import normalize
from eenet.loading import in_order
from eenet.network import EENet

RECORDS_FILE = "records-{split}.safetensors"
"""What training leaves beside a checkpoint, of the validation and the test split."""
_TENSORS = ("logits_KBN", "confidence_logits_KB", "labels_B")
_COSTS = ("stage_macs", "head_macs", "backbone_macs")


@dataclass(frozen=True)
class Records:
    """The outputs of K exits on B labelled images, with what each exit costs."""

    logits_KBN: Tensor
    confidence_logits_KB: Tensor
    """K - 1 rows."""
    labels_B: Tensor
    stage_macs: list[int]
    head_macs: list[int]
    backbone_macs: int
    ensemble: Ensemble | None = None
    """How answers are joined, see `eenet.ensemble`."""

    def __len__(self) -> int:
        return len(self.labels_B)

    def answers(self, enabled: Sequence[bool] | None = None) -> Tensor:
        """What is answered at each exit, joined with those of the exits before that are on: logits [K, B, N].

        At an exit that is switched off: its own answer.

        Args:
            enabled: for each early exit. Default: all on.
        """
        return self.logits_KBN if self.ensemble is None else torch.stack(list(self._answers(enabled)))

    def correct(self, enabled: Sequence[bool] | None = None) -> Tensor:
        """Whether the answer at each exit is right, see `answers`: bool [K, B]."""
        return torch.stack([logits_BN.argmax(1) == self.labels_B for logits_BN in self._answers(enabled)])

    def _answers(self, enabled: Sequence[bool] | None) -> Iterator[Tensor]:
        """One exit after the other, since all at once may need much memory."""
        joined_BN = None
        weights_K = chain(self.ensemble, enabled or [True] * len(self.head_macs))
        for logits_BN, weights in zip(self.logits_KBN, weights_K, strict=True):
            if weights is None:
                yield logits_BN
            else:
                joined_BN = join(logits_BN.softmax(1).numpy(), joined_BN, weights)
                yield torch.from_numpy(joined_BN)

    @cached_property
    def full_accuracy(self) -> float:
        """Of the final exit on all inputs, with all exits on."""
        return self.correct()[-1].double().mean().item()

    def subset(self, rows: Tensor) -> "Records":
        """Those of some inputs, by index."""
        return replace(
            self,
            logits_KBN=self.logits_KBN[:, rows],
            confidence_logits_KB=self.confidence_logits_KB[:, rows],
            labels_B=self.labels_B[rows],
        )

    def costs(self, enabled: tuple[bool, ...] | None = None) -> list[float]:
        """Relative cost of leaving at each exit."""
        return cost.relative_costs(self.stage_macs, self.head_macs, self.backbone_macs, enabled)


def collect(
    network: EENet,
    images: Images,
    *,
    batch_size: int = 256,
    on_progress: Callable[[int], None] | None = None,
) -> Records:
    """Run all exits of `network` on every image, in eval mode and float32.

    Args:
        network: its `config` must hold the `mean` and `std` of its training images.
        images: of the network's input size.
        batch_size: images at a time.
        on_progress: called with the number of images done since its last call.

    Raises:
        ValueError: image size or number of classes don't fit the network.
    """
    check_fit(network.config, images)
    config = network.config
    assert config.mean is not None
    assert config.std is not None
    parameter, layout = next(network.parameters()), network.memory_format
    logits, confidences = [], []
    with cost.eval_mode(network), torch.inference_mode():
        for chunk in in_order(images, batch_size):
            pixels = chunk.to(parameter.device)
            inputs = normalize(pixels, config.mean, config.std)
            outputs = network(inputs.contiguous(memory_format=layout))
            logits.append(torch.stack(outputs.logits_KBN).float().cpu())
            confidences.append(_stack(outputs.confidence_logits_KB, len(pixels)))
            if on_progress is not None:
                on_progress(len(pixels))
    return Records(
        torch.cat(logits, 1).clone(),
        torch.cat(confidences, 1).clone(),
        images.labels_B,
        config.stage_macs,
        config.head_macs,
        config.backbone_macs,
        config.ensemble,
    )


def check_fit(config: Config, images: Images) -> None:
    """Whether images and labels are what the network was made for, else a `ValueError`."""
    if images.image_size != tuple(config.input_size):
        raise ValueError(
            f"the network takes images of size {tuple(config.input_size)} (C, H, W), "
            f"the data set has {images.image_size}"
        )
    if len(images.class_names) != config.num_classes:
        raise ValueError(
            f"the network has {config.num_classes} classes, the data set {len(images.class_names)}"
        )
    known, given = config.class_names or images.class_names, images.class_names
    if known != given and sorted(known) == sorted(given):
        raise ValueError(
            f"the network's classes are {known}, the data set has them in another order: {given}"
        )
    if config.mean is None or config.std is None:
        raise ValueError("the network's config has no mean and std; set them from its training images")


def _stack(confidences: list[Tensor], count: int) -> Tensor:
    return torch.stack(confidences).float().cpu() if confidences else torch.empty(0, count)


def save(records: Records, path: Path) -> None:
    """Write records as one safetensors file."""
    tensors = {name: getattr(records, name).contiguous() for name in _TENSORS}
    costs = {name: getattr(records, name) for name in _COSTS}
    about = {"costs": json.dumps(costs), "ensemble": json.dumps(records.ensemble)}
    write_atomically(path, safetensors.torch.save(tensors, about))


def load(path: str | Path) -> Records:
    """Read records written by `save`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of records.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no records file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            about = file.metadata()
            ensemble = json.loads(about.get("ensemble", "null"))
            return Records(**tensors, **json.loads(about["costs"]), ensemble=ensemble)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of records: {error}") from error
