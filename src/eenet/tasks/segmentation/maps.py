"""From class logits at the decoder's stride to a class for every pixel of an image of any size."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def class_map(logits_Nhw: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.uint8]:
    """The likeliest class of every pixel: uint8 [H, W].

    Logits are brought to (H, W) bilinearly, as torch's `interpolate` does, and compared class after class.
    """
    rows_Hh, columns_wW = _weights(logits_Nhw.shape[1], size[0]), _weights(logits_Nhw.shape[2], size[1]).T
    best_HW = rows_Hh @ (logits_Nhw[0] @ columns_wW)
    found_HW = np.zeros(best_HW.shape, np.uint8)
    for n in range(1, len(logits_Nhw)):
        other_HW = rows_Hh @ (logits_Nhw[n] @ columns_wW)
        better_HW = other_HW > best_HW
        np.copyto(best_HW, other_HW, where=better_HW)
        found_HW[better_HW] = n
    return found_HW


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> NDArray[np.float32]:
    """How much each of `old` values counts for each of `new` ones: [new, old]."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(places.astype(int), max(old - 2, 0))
    weights, rows = np.zeros((new, old), np.float32), np.arange(new)
    weights[rows, low] = 1 - (places - low)
    weights[rows, np.minimum(low + 1, old - 1)] += places - low
    return weights
