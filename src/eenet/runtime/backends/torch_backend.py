"""PyTorch as a backend: eager, with BatchNorm folded."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from eenet.backbones import seeded
from eenet.networks import EENet, normalization
from eenet.policies import SCORES
from eenet.runtime.backends.backend import Backend, Outputs
from eenet.runtime.graphs.segments import Segment
from eenet.tasks import task_of

FOLDING_ERROR = 1e-3  # relative to the largest value: rounding, not another function


class TorchBackend(Backend):
    """Eager PyTorch on the network's device, in its faster layout. Features are tensors there."""

    name = "torch"

    def __init__(
        self, network: EENet, segments: Sequence[Segment], score: str, *, precision: str = "f32"
    ) -> None:
        self.segments = list(segments)
        self._device = next(network.parameters()).device
        self._layout = network.memory_format  # not always channels last: see there
        self._bf16 = precision == "bf16"
        self._modules = folded_segments(network, segments, score)

    def run(self, index: int, features: Any) -> Outputs:
        features = each(self._tensor(features), lambda part: part.contiguous(memory_format=self._layout))
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, self._bf16):
            features, probabilities_BN, score_B = self._call(index, features)
        if probabilities_BN is None:
            return Outputs(features, None, None)
        if score_B is None:
            return Outputs(None, probabilities_BN.cpu().numpy(), None)
        if probabilities_BN.ndim > 2:
            return Outputs(features, probabilities_BN.cpu().numpy(), score_B.cpu().numpy())
        # one transfer, so one wait for the device
        answers = torch.cat([probabilities_BN, score_B[:, None]], 1).cpu().numpy()
        return Outputs(features, answers[:, :-1], answers[:, -1])

    def _call(self, index: int, features: Any) -> tuple[Any, Tensor | None, Tensor | None]:
        return self._modules[index](features)

    def shrink(self, features: Any, rows: NDArray[np.intp]) -> Any:
        return self.take(features, rows)

    def take(self, features: Any, rows: NDArray[np.intp]) -> Any:
        chosen = torch.from_numpy(rows).to(self._device)
        return each(self._tensor(features), lambda part: part[chosen])

    def join(self, parts: Sequence[Any]) -> Any:
        tensors = [self._tensor(part) for part in parts]
        if isinstance(tensors[0], tuple):
            return tuple(map(torch.cat, zip(*tensors, strict=True)))
        return torch.cat(tensors)

    def _tensor(self, features: Any) -> Any:
        return torch.from_numpy(features).to(self._device) if isinstance(features, np.ndarray) else features


def each(features: Any, work: Callable[[Tensor], Tensor]) -> Any:
    """What is done to all that is carried from segment to segment: one tensor, or several."""
    return tuple(map(work, features)) if isinstance(features, tuple) else work(features)


class SegmentModule(nn.Module):
    """A segment as a module, which shares the network's weights; the first one takes uint8 pixels."""

    def __init__(self, network: EENet, segment: Segment, score: str) -> None:
        super().__init__()
        # in a cascade, the networks before the one that answers are not asked
        first = max(segment.first, network.config.started_at(segment.last))
        stages: list[nn.Module] = [network.stages[k] for k in range(first, segment.last + 1)]
        if segment.first == 0:
            stages.insert(0, normalization(network))
        self.stages: nn.Module = nn.Sequential(*stages)
        self.final = segment.exit == network.num_exits
        self.head = network.heads[segment.exit] if segment.exit is not None and not self.final else None
        self.score, self.task = SCORES[score], task_of(network.config.task)
        self.eval()

    def forward(self, features: Any) -> tuple[Any, Tensor | None, Tensor | None]:
        """What the next segment is given, class probabilities [B, N], score [B], as far as there are any."""
        features = self.stages(features)
        if self.final:
            return None, self.task.answered(features.float()), None
        if self.head is None:
            return features, None, None
        logits_BN, confidence_logits_B = self.head(features)
        logits_BN = logits_BN.float()
        score_B = self.score([logits_BN], [confidence_logits_B.float()])
        return features, self.task.answered(logits_BN), score_B


def folded_segments(network: EENet, segments: Sequence[Segment], score: str) -> list[SegmentModule]:
    """Segments as modules with BatchNorm folded; the network stays as it is."""
    return [
        _with_folded_norms(SegmentModule(network, segment, score), example)
        for segment, example in zip(segments, examples(network, segments), strict=True)
    ]


def examples(network: EENet, segments: Sequence[Segment], batch_size: int = 2) -> list[Any]:
    """Something for each segment to run on: random pixels, and the features they give."""
    found: list[Any] = []
    with torch.no_grad(), seeded(network):
        size = (batch_size, *network.config.input_size)
        pixels = torch.randint(256, size, dtype=torch.uint8, device=next(network.parameters()).device)
        for segment in segments:
            before = SegmentModule(network, Segment(0, segment.first - 1, None), "max_softmax")
            found.append(each(before(pixels)[0], torch.clone) if segment.first else pixels)
    return found


def _with_folded_norms(module: SegmentModule, example: Any) -> SegmentModule:
    """The segment's stages and the foldable part of its head; what lies behind may be hard to trace."""
    with torch.no_grad():  # inference tensors as weights couldn't be exported
        features = module.stages(each(example, torch.clone))
        module.stages = _folded(module.stages, example)
        if module.head is not None:
            head: Any = copy.copy(module.head)  # the network's own stays as it is
            part = head.foldable
            head._modules = {**head._modules, part: _folded(head.get_submodule(part), head.seen(features))}
            module.head = head
    return module


def _folded(module: nn.Module, example: Any) -> nn.Module:
    """With BatchNorm folded into convolutions; as it is, where it can't be traced through."""
    if isinstance(module, nn.Sequential) and any(hasattr(part, "folded") for part in module):
        found: list[Any] = list(module)
        for i, part in enumerate(module):
            if hasattr(part, "folded"):
                found[i] = found[i].folded(_folded, example)
            example = part(each(example, torch.clone))
        return nn.Sequential(*found)
    wanted = module(example.clone())
    try:
        fast = fuse(module)
        given = fast(example.clone())
    except Exception:  # whatever tracing may raise
        return module
    return fast if (given - wanted).abs().max() <= FOLDING_ERROR * wanted.abs().max() else module
