"""The confidence of an exit that answers for places of an image: what going on is expected to gain."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from eenet.policies import SCORES

PENALTY = 0.03  # on squared weights of standardised statistics, for each image
LEAST = 0.05  # standard deviations of the gain that one of the usual score takes away, whatever was seen
NARROWEST = 1e-3  # standard deviation of a statistic: what hardly varied is not to count for much


class GainGate(nn.Module):
    """One linear layer on scores of an exit's answer: minus the gain expected of going on."""

    def __init__(self, statistics: Sequence[str], usual: str, either_way: Sequence[str] = ()) -> None:
        """What it looks at.

        Args:
            statistics: names of scores. All but some are larger, the surer an answer is.
            usual: the one with which the confidence rises until it is fitted, and a little in any case.
            either_way: those with which the gain may rise or fall.
        """
        super().__init__()
        self.statistics, self.usual, self.either_way = tuple(statistics), usual, tuple(either_way)
        self.gain = nn.Linear(len(statistics), 1)
        with torch.no_grad():
            self.gain.weight.copy_(torch.tensor([[10.0 * (name == usual) for name in statistics]]))
            self.gain.bias.fill_(-5.0)

    def forward(self, logits: Tensor) -> Tensor:
        """Confidence logits [B] of answers [B, N, h, w]."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(self.gain.weight.dtype)
            return self.judge(torch.stack([SCORES[name]([logits], [logits]) for name in self.statistics], 1))

    def judge(self, statistics_BS: Tensor) -> Tensor:
        """Confidence logits [B] from the statistics."""
        return self.gain(statistics_BS).squeeze(1)


Gate = TypeVar("Gate", bound=GainGate)


def fit_gates(
    made: Callable[[], Gate], statistics_KBS: NDArray[np.floating], gains_KB: NDArray[np.floating]
) -> tuple[list[Gate], NDArray[np.float32]]:
    """Gates fitted by least squares with a penalty, and the confidence logits [K - 1, B] that they give.

    The surer an answer, the less is gained by going on: weights have that sign, even if a few held-out
    images say otherwise. Predicted gains of all exits are divided by one number, so that one threshold
    asks the same of each.

    Args:
        made: a new gate.
        statistics_KBS: of every early exit, on held-out images.
        gains_KB: by how much the final answer is worth more than that of the exit.
    """
    gates, confidences, unit = [], [], max(float(gains_KB.std()), 1e-9)
    for statistics_BS, gains_B in zip(statistics_KBS.astype(np.float64), gains_KB, strict=True):
        gate = made()
        mean_S, std_S = statistics_BS.mean(0), np.maximum(statistics_BS.std(0), NARROWEST)
        seen_BS = (statistics_BS - mean_S) / std_S
        least_S = [
            -np.inf if name in gate.either_way else LEAST * gains_B.std() * (name == gate.usual)
            for name in gate.statistics
        ]
        penalty_SS = (PENALTY * len(seen_BS)) ** 0.5 * np.eye(len(std_S))
        wanted = np.concatenate([gains_B.mean() - gains_B, np.zeros(len(std_S))])
        found = lsq_linear(np.vstack([seen_BS, penalty_SS]), wanted, (least_S, np.inf))
        weights_S = found.x / std_S / unit
        with torch.no_grad():
            gate.gain.weight.copy_(torch.from_numpy(weights_S)[None])
            gate.gain.bias.fill_(float(-gains_B.mean() / unit - mean_S @ weights_S))
            confidences.append(gate.judge(torch.from_numpy(statistics_BS).float()).numpy())
        gates.append(gate)
    return gates, np.stack(confidences)
