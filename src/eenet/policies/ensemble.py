"""Exits that answer together: each joins its own answer with what the exits before it said."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.common import require

FLOOR = 1e-12  # of a probability, before its logarithm is taken
PENALTY = 1e-3  # on squared weights, counted from "own answers only"
LARGEST = 1e3  # weight

Floats = NDArray[Any]


class Weights(NamedTuple):
    """Exponents of a weighted geometric mean of class probabilities."""

    own: float
    """Of the exit's own answer."""
    before: float
    """Of the answer joined so far."""


ALONE = Weights(1.0, 0.0)
Ensemble = Sequence[Sequence[Sequence[float]]]
"""For every exit, the final one last, and each exit before it that may have spoken last, the two weights."""


def chain(ensemble: Ensemble | None, enabled: Sequence[bool]) -> list[Weights | None]:
    """The weights of each exit when these early exits are on; none if off, or without ensemble."""
    found: list[Weights | None] = []
    last = None
    for k, on in enumerate((*enabled, True)):
        if ensemble is None or not on:
            found.append(None)
            continue
        found.append(ALONE if last is None else Weights(*ensemble[k][last]))
        last = k
    return found


def join(own_BN: Floats, before_BN: Floats | None, weights: Weights) -> Floats:
    """Join class probabilities [B, N] with what earlier exits said.

    Geometric ensembling, as in "Zero Time Waste" (Wołczyk et al. 2021), but by two numbers for
    each exit, and from one exit to the next, so that an image carries one vector along.

    Args:
        own_BN: probabilities of this exit.
        before_BN: what `join` gave at the last exit before that was run; none at the first one, whose
            answer stays as it is.
        weights: of this exit.

    Returns:
        Logits [B, N]: `probabilities` makes an answer of them, the next `join` takes them as they are.
    """
    log_own_BN = np.log(np.maximum(own_BN, FLOOR))
    return log_own_BN if before_BN is None else weights.own * log_own_BN + weights.before * before_BN


def probabilities(logits_BN: Floats) -> Floats:
    """Softmax [B, N]."""
    powers_BN = np.exp(logits_BN - logits_BN.max(1, keepdims=True))
    return powers_BN / powers_BN.sum(1, keepdims=True)


def fit_ensemble(own_KBN: Sequence[Floats], labels_B: NDArray[np.int64]) -> list[list[list[float]]]:
    """An ensemble with the least cross-entropy of each exit's joined answer, one exit after the other.

    Args:
        own_KBN: probabilities of every exit, of held-out inputs.
        labels_B: their classes.
    """
    fitted: list[list[list[float]]] = []
    said_KBN: list[Floats] = []  # at each exit, all before it on
    for own_BN in own_KBN:
        log_own_BN = join(own_BN, None, ALONE)
        weights = [_fit(np.stack([log_own_BN, said_BN]).astype(np.float64), labels_B) for said_BN in said_KBN]
        said_KBN.append(join(own_BN, said_KBN[-1], weights[-1]) if weights else log_own_BN)
        fitted.append([list(pair) for pair in weights])
    return fitted


def _fit(parts_PBN: Floats, labels_B: NDArray[np.int64]) -> Weights:
    """Weights of two log-probabilities; the problem is convex."""
    alone_P = np.array(ALONE)
    rows_B = np.arange(len(labels_B))
    true_PB = parts_PBN[:, rows_B, labels_B]

    def loss(weights_P: Floats) -> tuple[float, Floats]:
        p_BN = probabilities(np.tensordot(weights_P, parts_PBN, 1))
        misfit = -np.log(np.maximum(p_BN[rows_B, labels_B], np.finfo(float).tiny)).mean()
        slope_P = (parts_PBN * p_BN).sum(2).mean(1) - true_PB.mean(1)
        away_P = weights_P - alone_P
        return misfit + PENALTY * away_P @ away_P, slope_P + 2 * PENALTY * away_P

    minimize = require("scipy.optimize", "fitting joined answers").minimize

    found = minimize(loss, alone_P, jac=True, method="L-BFGS-B", bounds=[(0, LARGEST)] * 2)
    return Weights(*map(float, found.x))
