"""Scores: what a policy compares with a threshold; larger means surer.

A score is a function of what the exits so far said, the exit in question last: class logits [B, N] and
confidence logits [B] of each. One that doesn't look back is given that one exit only: it becomes part of the
network's graph, so it is called with torch's tensors. One that does (`looks_back`) is computed by the
engines, from log-probabilities of the exits that are on. Ours are written once, for tensors and for numpy's
arrays, and marked so (`arrays`); any other is always given tensors.

Where an exit answers for every pixel, logits are [B, N, H, W], and a score is one number for the image; those
that are only meant for that are marked `dense`. Where it answers with boxes, logits are [B, N + 4, H, W]: of
classes, and logarithms of distances to the sides of a box; scores of these are marked `boxes`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import Registry, require

Floats = Any
"""torch's tensors, or numpy's arrays."""
Score = Callable[[Sequence[Floats], Sequence[Floats]], Floats]
SCORES: Registry[Score] = Registry("score", "score")
SURE = 0.9
"""The class probability from which on a pixel is called sure."""
ONE_IN = 20
"""Of an image's pixels, the least sure ones, `low_quantile` leaves out."""


@SCORES.add(arrays=True)
def max_softmax(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Largest class probability; of an image of pixels the mean."""
    return _pooled(_highest(logits_KBN[-1]))


@SCORES.add(arrays=True)
def confidence(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """The learned confidence, in (0, 1)."""
    return _library(confidence_logits_KB).sigmoid(confidence_logits_KB[-1])


@SCORES.add(arrays=True)
def entropy(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Negative entropy of the class probabilities, in nats. BranchyNet, Teerapittayanon et al. 2016."""
    of, logits = _library(logits_KBN), logits_KBN[-1]
    if logits.ndim > 2:
        below, parts, whole = softmax_parts(logits)
        return _pooled((parts * below).sum(1) / whole - of.log(whole))
    log_p = of.log_softmax(logits, 1)
    return (of.exp(log_p) * log_p).sum(1)


@SCORES.add(arrays=True)
def margin(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Largest minus second largest class probability."""
    of, logits_BN = _library(logits_KBN), logits_KBN[-1]
    top, _ = of.topk(of.softmax(logits_BN, 1), min(2, logits_BN.shape[1]), 1)
    return _pooled(top[:, 0] - top[:, 1:].sum(1))  # nothing to take away where there is one class only


@SCORES.add(arrays=True, dense=True)
def sure_share(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Part of the pixels whose largest class probability is above 0.9."""
    of = _library(logits_KBN)
    top = _highest(logits_KBN[-1])
    return _pooled((top > SURE) * of.ones_like(top))


@SCORES.add(arrays=True, dense=True)
def low_quantile(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """The largest class probability of the pixel than which 5 % are less sure."""
    of = _library(logits_KBN)
    top = _highest(logits_KBN[-1])
    top = top.reshape(top.shape[0], math.prod(top.shape[1:]))
    least, _ = of.topk(1 - top, (top.shape[1] + ONE_IN - 1) // ONE_IN, 1)
    return 1 - least[:, -1]


@SCORES.add(arrays=True, dense=True, looks_back=True)
def agreement(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:
    """Part of the pixels that the exit before gave the same class; none at the first exit."""
    of = _library(logits_KBN)
    if len(logits_KBN) == 1:
        return 0 * confidence_logits_KB[-1]
    before, now = (logits_BN.argmax(1) for logits_BN in logits_KBN[-2:])
    return _pooled((before == now) * of.ones_like(of.amax(logits_KBN[-1], 1)))


@SCORES.add(arrays=True, boxes=True)
def emptiness(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """How sure it is that an image holds no object: 1 minus the highest class probability anywhere."""
    of = _library(logits_KBN)
    return 1 - of.sigmoid(of.amax(logits_KBN[-1][:, :-4], (1, 2, 3)))


@SCORES.add(arrays=True, boxes=True)
def clearness(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Minus the logarithm of 1 plus the variance of how many places belong to objects: 0 without doubt."""
    of = _library(logits_KBN)
    p_Bhw = of.sigmoid(of.amax(logits_KBN[-1][:, :-4], 1))
    return -of.log(1 + (p_Bhw * (1 - p_Bhw)).sum((1, 2)))


@SCORES.add(arrays=True, boxes=True)
def largeness(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:  # noqa: ARG001
    """Mean logarithm of the distances to the sides of boxes, in cells, weighted by how likely these are."""
    of, logits = _library(logits_KBN), logits_KBN[-1]
    p_Bhw = of.sigmoid(of.amax(logits[:, :-4], 1))
    return (p_Bhw * logits[:, -4:].mean(1)).sum((1, 2)) / (p_Bhw.sum((1, 2)) + 1e-6)


@SCORES.add(arrays=True, looks_back=True)
def patience(logits_KBN: Sequence[Floats], confidence_logits_KB: Sequence[Floats]) -> Floats:
    """How many exits in a row, up to this one, gave the same class, minus one. PABEE, Zhou et al. 2020."""
    of = _library(logits_KBN)
    said_KB = of.stack([logits_BN.argmax(1) for logits_BN in logits_KBN])
    agree_KB = of.flip(said_KB == said_KB[-1], (0,)) * of.ones_like(confidence_logits_KB[-1])
    return of.cumprod(agree_KB, 0).sum(0) - 1


def looks_back(score: str) -> bool:
    """Whether a score needs what earlier exits said."""
    return SCORES.mark(score, "looks_back")


def score_for_budgets(score: str) -> str:
    """The same; or the learned confidence, if it looks back, since few budgets can be kept then."""
    return "confidence" if looks_back(score) else score


def plain_scores() -> list[str]:
    """The scores that aren't meant for pixels or boxes only."""
    return [name for name in SCORES if not (SCORES.mark(name, "dense") or SCORES.mark(name, "boxes"))]


def graph_scores(*, dense: bool = False) -> list[str]:
    """The scores of one exit alone, which exported graphs hold; with those for pixels if it is `dense`."""
    known = [*plain_scores(), *(name for name in SCORES if dense and SCORES.mark(name, "dense"))]
    return [name for name in SCORES if name in known and not looks_back(name)]


def box_scores() -> list[str]:
    """The scores of answers with boxes, and the confidence."""
    return ["confidence", *(name for name in SCORES if SCORES.mark(name, "boxes"))]


def softmax_parts(logits: Floats) -> tuple[Floats, Floats, Floats]:
    """Logits [B, N, ...] below the highest one; the exponentials of these; their sum [B, ...].

    For pixels, where runtimes do a softmax slowly, since it goes across rows.
    """
    of = _library([logits])
    below = logits - of.amax(logits, 1)[:, None]
    parts = of.exp(below)
    return below, parts, parts.sum(1)


def _highest(logits: Floats) -> Floats:
    """The largest class probability."""
    if logits.ndim > 2:
        return 1 / softmax_parts(logits)[2]
    of = _library([logits])
    return of.amax(of.softmax(logits, 1), 1)


def _pooled(values: Floats) -> Floats:
    """One number for each image: the mean over its pixels, if it has any."""
    return values if values.ndim == 1 else values.reshape(values.shape[0], -1).mean(1)


def score_of(
    score: str, logits_KBN: Sequence[NDArray[Any]], confidence_logits_KB: Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    """A score [B] at the last of these exits, from the outputs of all that are on up to there."""
    if looks_back(score):
        logits_KBN = [_Arrays.log_softmax(logits_BN, 1) for logits_BN in logits_KBN]
    else:
        logits_KBN, confidence_logits_KB = logits_KBN[-1:], confidence_logits_KB[-1:]
    if SCORES.mark(score, "arrays"):
        return SCORES[score](logits_KBN, confidence_logits_KB)
    torch: Any = require("torch", f"the score {score!r}")
    given = ([torch.from_numpy(np.array(part)) for part in of] for of in (logits_KBN, confidence_logits_KB))
    return SCORES[score](*given).numpy()


def score_of_answers(
    score: str, said: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """The same for a score that looks back, from class probabilities [B, N] and confidences [B] in (0, 1)."""
    return score_of(score, [logarithm(p_BN) for p_BN, _ in said], [logit(h_B) for _, h_B in said])


def logarithm(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of probabilities, as logits that give them again; finite."""
    return np.log(np.maximum(p, np.finfo(np.float32).tiny))


def logit(p: NDArray[np.floating]) -> NDArray[np.float32]:
    """What `sigmoid` makes p of."""
    with np.errstate(divide="ignore"):  # of 0 and 1: infinite
        exact = p.astype(np.float64)
        return (np.log(exact) - np.log1p(-exact)).astype(np.float32)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + e^-x), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


class _Arrays:
    """What scores use of torch, for numpy's arrays."""

    exp, stack, flip, cumprod, amax, ones_like = np.exp, np.stack, np.flip, np.cumprod, np.max, np.ones_like
    log = np.log
    sigmoid = staticmethod(sigmoid)

    @staticmethod
    def log_softmax(x: NDArray[Any], dim: int) -> NDArray[Any]:
        x = x - x.max(dim, keepdims=True)
        return x - np.log(np.exp(x).sum(dim, keepdims=True))

    @staticmethod
    def softmax(x: NDArray[Any], dim: int) -> NDArray[Any]:
        powers = np.exp(x - x.max(dim, keepdims=True))
        return powers / powers.sum(dim, keepdims=True)

    @staticmethod
    def topk(x: NDArray[Any], k: int, dim: int) -> tuple[NDArray[Any], None]:
        return np.flip(np.sort(x, dim).take(np.arange(-k, 0), dim), dim), None


def _library(of: Sequence[Floats]) -> Any:
    """numpy for arrays, torch for its tensors."""
    return _Arrays if isinstance(of[-1], np.ndarray | np.generic) else require("torch", "a tensor")
