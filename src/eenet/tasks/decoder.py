"""The decoder of a network for masks or boxes: one state, carried from exit to exit, and a thin head at each.

`state_k = state_{k-1} + up(project(features_k))` at a fixed stride; a head turns the state into logits there.
So what early exits have decoded isn't decoded again. Masks and boxes are only made of what leaves.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eenet.backbones import TracedBackbone, count_macs, divide, example_tensor, mutates_input
from eenet.tasks.handed import Parts

Carried = tuple[Tensor, Tensor]
"""Features of the backbone [B, C, H, W], and the state of the decoder [B, width, h, w]."""
Fold = Callable[[nn.Module, Any], nn.Module]
"""A module and what it is given → the same with norms folded into convolutions."""


class Tap(nn.Sequential):
    """Features of any size and width → what they add to the state."""

    from_scratch: ClassVar[bool] = True

    def __init__(self, channels: int, width: int, *, fits: bool) -> None:
        """`fits`: features have the state's size."""
        super().__init__(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.fits = fits

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]
        projected = super().forward(features)
        return projected if self.fits else F.interpolate(projected, tuple(size), mode="bilinear")


class FoldedTap(nn.Module):
    """A tap whose norm is part of its convolution."""

    def __init__(self, project: nn.Module, *, fits: bool) -> None:
        super().__init__()
        self.project, self.fits = project, fits

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:
        projected = self.project(features)
        return projected if self.fits else F.interpolate(projected, tuple(size), mode="bilinear")


class DenseStage(nn.Module):
    """A part of the backbone in pieces; behind each the decoder takes the features into its state."""

    def __init__(
        self,
        pieces: Sequence[nn.Module],
        taps: Sequence[nn.Module],
        copies: Sequence[bool],
        stride: int | None,
    ) -> None:
        """`copies[i]`: piece i writes into its input. `stride`: of the state, for the stage it starts in."""
        super().__init__()
        self.pieces, self.taps = nn.ModuleList(pieces), nn.ModuleList(taps)
        self.copies, self.stride = list(copies), stride

    def forward(self, carried: Tensor | Carried) -> Carried:
        if isinstance(carried, tuple):
            features, state = carried
            size = state.shape[-2:]
        else:
            assert self.stride is not None
            features, state = carried, None
            size = [(side + self.stride - 1) // self.stride for side in carried.shape[-2:]]
        for piece, tap, copied in zip(self.pieces, self.taps, self.copies, strict=True):
            features = piece(features.clone() if copied else features)
            added = tap(features, size)
            state = added if state is None else state + added
            size = state.shape[-2:]
        assert state is not None
        return features, state

    def folded(self, fold: Fold, carried: Any) -> "DenseStage":
        """The same with the norms of its parts folded, as `fold` does it."""
        features = carried[0] if isinstance(carried, tuple) else carried
        pieces, taps = [], []
        for piece, tap in zip(self.pieces, self.taps, strict=True):
            pieces.append(fold(piece, features))
            features = piece(features.clone())
            taps.append(FoldedTap(fold(nn.Sequential(*tap.children()), features), fits=bool(tap.fits)))
        return DenseStage(pieces, taps, self.copies, self.stride)


class Answer(nn.Sequential):
    """State → logits [B, channels, h, w]: depthwise separable blocks and a 1×1 layer."""

    from_scratch: ClassVar[bool] = True

    def __init__(self, width: int, channels: int, *, blocks: int = 1) -> None:
        found: list[nn.Module] = []
        for _ in range(blocks):
            found += [
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        super().__init__(*found, nn.Conv2d(width, channels, 1))


class DenseHead(nn.Module):
    """What an early exit says: logits [B, N, h, w] and the confidence logit [B]."""

    def __init__(self, answer: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.answer, self.confidence = answer, gate

    foldable = "answer"
    """The part whose norms can be folded into convolutions, for speed."""

    def seen(self, carried: Carried) -> Tensor:
        """What that part is given: the state."""
        return carried[1]

    def forward(self, carried: Carried) -> tuple[Tensor, Tensor]:
        logits = self.answer(self.seen(carried))
        return logits, self.confidence(logits.detach())


class FinalStage(nn.Module):
    """The last stage, and the logits of the final exit."""

    def __init__(self, stage: DenseStage, answer: nn.Module) -> None:
        super().__init__()
        self.stage, self.answer = stage, answer

    def forward(self, carried: Tensor | Carried) -> Tensor:
        return self.answer(self.stage(carried)[1])

    def folded(self, fold: Fold, carried: Any) -> "FinalStage":
        """The same with the norms of its parts folded, as `fold` does it."""
        state = self.stage(carried)[1]
        return FinalStage(self.stage.folded(fold, carried), fold(self.answer, state))


def dense_parts(
    traced: TracedBackbone,
    chosen: Sequence[int],
    *,
    answer: Callable[[], nn.Module],
    gate: Callable[[], nn.Module],
    gate_macs: int,
    width: int,
    finest: int,
    prove: bool,
) -> Parts:
    """A backbone with a decoder and exits behind the chosen cuts.

    The decoder takes features at every exit, and where a resolution of the backbone ends.

    Args:
        traced: the backbone; its classifier is left out.
        chosen: increasing indices into its cuts.
        answer: makes what turns the state into logits.
        gate: makes what turns these into the confidence logit.
        gate_macs: of that.
        width: channels of the decoder's state.
        finest: stride of the state, unless the backbone starts coarser.
        prove: that the division is exact.
    """
    dense = traced.without_classifier()
    last = len(dense.cuts) - 1
    if chosen and chosen[-1] >= last:
        raise ValueError(
            f"nothing is left behind {traced.cuts[chosen[-1]].name!r}; put the last exit earlier"
        )
    ends = _ends_of_resolutions(dense, finest)
    tapped = sorted({*ends, *chosen})
    stride = max(finest, 2 ** round(math.log2(_stride(dense, tapped[0]))))
    size = [-(-side // stride) for side in dense.input_size[1:]]
    example = example_tensor(dense.backbone)
    pieces = divide(dense, tapped, prove=prove)[:-1]
    sizes = [dense.cuts[i].feature_size for i in tapped]
    copies = [False] + [
        mutates_input(piece, torch.zeros(2, *before).to(example))
        for piece, before in zip(pieces[1:], sizes, strict=False)
    ]
    fitting = [each[1:] == sizes[0][1:] == tuple(size) for each in sizes]  # for images of any size, then
    taps = [Tap(each[0], width, fits=fits).to(example) for each, fits in zip(sizes, fitting, strict=True)]
    tap_macs = [count_macs(tap[0], (1, *each)) for tap, each in zip(taps, sizes, strict=True)]
    answer_macs = count_macs(answer(), (1, width, *size))

    stages: list[nn.Module] = []
    stage_macs = []
    starts = [0, *(tapped.index(i) + 1 for i in chosen), len(tapped)]
    for first, end in pairwise(starts):
        part = slice(first, end)
        own = DenseStage(pieces[part], taps[part], copies[part], None if first else stride)
        before = dense.cuts[tapped[first - 1]].macs if first else 0
        stages.append(own)
        stage_macs.append(dense.cuts[tapped[end - 1]].macs - before + sum(tap_macs[part]))
    stages[-1] = FinalStage(stages[-1], answer().to(example))  # type: ignore[arg-type]
    stage_macs[-1] += answer_macs
    spared = sum(macs for i, macs in zip(tapped, tap_macs, strict=True) if i not in ends)
    return Parts(
        stages=stages,
        heads=[DenseHead(answer(), gate()).to(example) for _ in chosen],
        stage_macs=stage_macs,
        head_macs=[answer_macs + gate_macs] * len(chosen),
        plain_macs=sum(stage_macs) - spared,
        copies=[False] * len(chosen),
    )


def _stride(dense: TracedBackbone, index: int) -> float:
    """How many pixels of the image one of the features at a cut stands for, along a side."""
    return dense.input_size[1] / dense.cuts[index].feature_size[1]


def _ends_of_resolutions(dense: TracedBackbone, finest: int) -> list[int]:
    """The last cut of every size of features from the finest stride of a state on, and the end."""
    found = {}
    for i, cut in enumerate(dense.cuts):
        if _stride(dense, i) >= finest - 0.5:
            found[cut.feature_size[1:]] = i
    return sorted({*found.values(), len(dense.cuts) - 1})
