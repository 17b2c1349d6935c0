"""Records made up for tests."""

import numpy as np
from numpy.typing import NDArray

from eenet.policies.records import Records


def make_records(count: int = 200, exits: int = 4, classes: int = 5, seed: int = 0) -> Records:
    random = np.random.default_rng(seed)
    labels_B = random.integers(classes, size=count)
    logits_KBN = random.standard_normal((exits, count, classes), np.float32)
    logits_KBN += 2 * one_hot(labels_B, classes) * np.arange(1, exits + 1)[:, None, None] / exits
    confidence_logits_KB = random.standard_normal((exits - 1, count), np.float32)
    return Records(logits_KBN, confidence_logits_KB, labels_B, [100] * exits, [3] * (exits - 1), 100 * exits)


def one_hot(classes_B: NDArray[np.int64], number: int) -> NDArray[np.float32]:
    """One where the class is, zero elsewhere: float32 [..., N]."""
    return np.eye(number, dtype=np.float32)[classes_B]
