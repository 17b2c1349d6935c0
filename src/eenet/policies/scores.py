"""Scores: what a policy compares with a threshold; larger means surer.

A score is a function of what the exits so far said, the exit in question last: class logits [B, N] and
confidence logits [B] of each. One that doesn't look back is given that one exit only: it becomes part of the
exported graphs. One that does (`looks_back`) is computed by the engines, from log-probabilities of the exits
that are on.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eenet.common import Registry

Score = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
SCORES: Registry[Score] = Registry("score", "score")


@SCORES.add()
def max_softmax(logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    """Largest class probability."""
    return logits_KBN[-1].softmax(1).amax(1)


@SCORES.add()
def confidence(logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    """The learned confidence, in (0, 1)."""
    return confidence_logits_KB[-1].sigmoid()


@SCORES.add()
def entropy(logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    """Negative entropy of the class probabilities, in nats. BranchyNet, Teerapittayanon et al. 2016."""
    log_p = logits_KBN[-1].log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


@SCORES.add()
def margin(logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    """Largest minus second largest class probability."""
    logits_BN = logits_KBN[-1]
    top = logits_BN.softmax(1).topk(min(2, logits_BN.shape[1]), 1).values
    return top[:, 0] - top[:, 1:].sum(1)  # nothing to take away where there is one class only


@SCORES.add(looks_back=True)
def patience(logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:  # noqa: ARG001
    """How many exits in a row, up to this one, gave the same class, minus one. PABEE, Zhou et al. 2020."""
    said_KB = torch.stack([logits_BN.argmax(1) for logits_BN in logits_KBN])
    agree_KB = (said_KB == said_KB[-1]).flip(0).int()
    return agree_KB.cumprod(0).sum(0).float() - 1


def looks_back(score: str) -> bool:
    """Whether a score needs what earlier exits said."""
    return SCORES.mark(score, "looks_back")


def graph_scores() -> list[str]:
    """The scores of one exit alone, which exported graphs hold."""
    return [name for name in SCORES if not looks_back(name)]


def score_of(score: str, logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:
    """A score [B] at the last of these exits, from the outputs of all that are on up to there."""
    if looks_back(score):
        return SCORES[score]([logits_BN.log_softmax(1) for logits_BN in logits_KBN], confidence_logits_KB)
    return SCORES[score](logits_KBN[-1:], confidence_logits_KB[-1:])


def score_of_answers(
    score: str, said: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """The same for a score that looks back, from class probabilities [B, N] and confidences [B] in (0, 1)."""
    tiny = torch.finfo(torch.float32).tiny
    logits_KBN = [torch.from_numpy(p_BN).clamp(min=tiny).log() for p_BN, _ in said]
    confidences_KB = [torch.from_numpy(h_B).double().logit().float() for _, h_B in said]
    return score_of(score, logits_KBN, confidences_KB).numpy()
