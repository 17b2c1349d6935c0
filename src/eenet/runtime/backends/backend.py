"""What a backend is: it runs segments, keeps nothing between calls, and serves several threads."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.runtime.graphs.segments import Segment


class Outputs(NamedTuple):
    """What a segment gives."""

    features: Any
    """For the next segment, in the backend's own form and layout, inputs along the first axis."""
    probabilities_BN: NDArray[np.float32] | None
    """Of the exit's head, or of the final exit; none for a bare part of the backbone."""
    score_B: NDArray[np.float32] | None
    """What the policy compares with a threshold; none where there is no early exit."""


ThroughAll = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Probabilities [B, N] and exits [B]."""


def packed(segment: Segment, arrays: Sequence[Any]) -> Outputs:
    """Outputs from the arrays there are: all, or what a segment without a head or the last one gives.

    What is carried on comes first: features alone, or with a state.
    """
    if segment.exit is None:
        return Outputs(_carried(arrays), None, None)
    return (
        Outputs(None, arrays[0], None) if len(arrays) == 1 else Outputs(_carried(arrays[:-2]), *arrays[-2:])
    )


def _carried(arrays: Sequence[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


class Backend(ABC):
    """Runs the segments of one network. Made for a list of segments and a kind of score.

    Features are only valid until the same thread runs the same segment again.
    """

    name: ClassVar[str]
    segments: Sequence[Segment]
    one_at_a_time: ClassVar[bool] = False
    """Takes single images only."""

    @abstractmethod
    def run(self, index: int, features: Any) -> Outputs:
        """Run a segment on the features of the one before, or on uint8 pixels [B, C, H, W]."""

    def run_through(
        self,
        pixels_BCHW: NDArray[np.uint8],  # noqa: ARG002
        thresholds: Sequence[float],  # noqa: ARG002
    ) -> ThroughAll | None:
        """A batch through all segments in one call, those that leave on the way left behind.

        Args:
            pixels_BCHW: at least one image.
            thresholds: one for each segment but the last.

        Returns:
            Nothing, if the backend knows no better way than segment by segment.
        """
        return None

    def shrink(self, features: Any, rows: NDArray[np.intp]) -> Any:
        """Some of the inputs, in ascending order. The others are overwritten.

        Large new arrays cost more than the copying: the system has to map and clear their pages.
        """
        if isinstance(features, tuple):
            return tuple(self.shrink(part, rows) for part in features)
        for to, row in enumerate(rows.tolist()):
            if to != row:
                features[to] = features[row]
        return features[: len(rows)]

    def take(self, features: Any, rows: NDArray[np.intp]) -> Any:
        """Some of the inputs, copied, so that they stay."""
        if isinstance(features, tuple):
            return tuple(part[rows] for part in features)
        return features[rows]

    def join(self, parts: Sequence[Any]) -> Any:
        """Inputs of several batches as one."""
        if isinstance(parts[0], tuple):
            return tuple(map(np.concatenate, zip(*parts, strict=True)))
        return np.concatenate(parts)
