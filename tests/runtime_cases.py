"""What the tests of the runtime share: mock segments, cases for them, and thresholds for a real network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from eenet.data.batching import normalize
from eenet.data.image_sets import ImageSet
from eenet.networks.network import EENet, ExitOutputs
from eenet.policies.policy import ExitPolicy
from eenet.policies.scores import looks_back, score_of
from eenet.runtime.backends.backend import Backend, Outputs
from eenet.runtime.graphs.segments import segments_of


def images_of(network: EENet, pixels_BCHW: Any) -> torch.Tensor:
    mean, std = network.config.mean, network.config.std
    assert mean is not None
    assert std is not None
    return normalize(torch.as_tensor(pixels_BCHW), mean, std)


def policy_with_shares(network: EENet, images: ImageSet, score: str, enabled: Sequence[bool]) -> ExitPolicy:
    """Thresholds at the median score of each exit."""
    inputs = images_of(network, images.pixels_BCHW)
    with torch.inference_mode():
        outputs = network(inputs)
    thresholds = [
        max(middle, 1) - 0.5 if looks_back(score) else middle + 1e-6
        for middle in (float(lower_median(score_B)) for score_B in scores_of(outputs, score, enabled))
    ]
    return ExitPolicy(score, tuple(thresholds), tuple(enabled))


def scores_of(outputs: ExitOutputs, score: str, enabled: Sequence[bool]) -> list[NDArray[np.float32]]:
    """Of every early exit, from those that are on."""
    found = []
    for k in range(len(enabled)):
        seen = [i for i in range(k) if enabled[i]] + [k]
        given = (outputs.logits_KBN, outputs.confidence_logits_KB)
        parts = ([part[i].numpy() for i in seen] for part in given)
        found.append(score_of(score, *parts))
    return found


def lower_median(values: NDArray[Any]) -> Any:
    """A value that is there, along the last axis: the middle one, or the lower of the two."""
    return np.quantile(values, 0.5, axis=-1, method="lower")


class Mock(Backend):
    """Features are the images' own numbers; scores are given in a table."""

    name = "mock"

    def __init__(self, scores_KB: NDArray[np.float32], policy: ExitPolicy) -> None:
        self.segments = segments_of(policy, None)
        self.scores_KB = scores_KB
        self.ran: list[int] = []

    def run(self, index: int, features: Any) -> Outputs:
        numbers_B = np.asarray(features).reshape(-1).astype(int)
        self.ran.append(len(numbers_B))
        exit_index = self.segments[index].exit
        probabilities_BN = np.stack([numbers_B, np.full(len(numbers_B), exit_index)], 1).astype(np.float32)
        if index == len(self.segments) - 1:
            return Outputs(None, probabilities_BN, None)
        assert exit_index is not None
        return Outputs(numbers_B, probabilities_BN, self.scores_KB[exit_index, numbers_B])


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], ExitPolicy]:
    exits, count = draw(st.integers(0, 5)), draw(st.integers(0, 12))
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    scores = draw(st.lists(st.lists(value, min_size=count, max_size=count), min_size=exits, max_size=exits))
    thresholds = draw(st.lists(value, min_size=exits, max_size=exits))
    enabled = draw(st.lists(st.booleans(), min_size=exits, max_size=exits))
    table = np.array(scores, np.float32).reshape(exits, count)
    return table, ExitPolicy("confidence", tuple(thresholds), tuple(enabled))


def expected_exits(scores_KB: NDArray[np.float32], policy: ExitPolicy) -> list[int]:
    """One image at a time: the first exit, switched on, whose score is above its threshold."""
    final = len(policy.thresholds)
    return [
        next((k for k in range(final) if policy.enabled[k] and column[k] > policy.thresholds[k]), final)
        for column in scores_KB.T
    ]
