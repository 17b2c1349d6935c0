"""Which test images a network of the race gets right, kept so that two networks are compared image by image.

Two networks fail on much the same images. So the interval of their difference is narrower than that of two
networks which were measured on different ones.
"""

import base64
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import results
from numpy.typing import NDArray

KEY = ("network", "precision", "budget", "clock")


def packed(right_B: NDArray[np.bool_]) -> str:
    """Bits of [B] in letters, to be written into a table."""
    return base64.b85encode(zlib.compress(np.packbits(right_B).tobytes(), 9)).decode()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """What was `packed`, `count` bits of it."""
    bits = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def write(table: str, found: Iterable[tuple[dict[str, Any], NDArray[np.bool_]]]) -> None:
    """Keep a table's rows' answers [B] beside those of networks that are not among them."""
    rows = [{**{key: row[key] for key in KEY}, "right": packed(right_B)} for row, right_B in found]
    name = f"{table}-answers"
    results.write(name, results.renewed(results.read(name), rows))


def read(table: str) -> dict[tuple[str, ...], str]:
    """By `KEY`, what was written; packed."""
    return {tuple(row[key] for key in KEY): row["right"] for row in results.read_found(f"{table}-answers")}


def half_width(values_B: NDArray[np.floating]) -> float:
    """Half of the 95 % interval of a mean: of an accuracy, or of how far two lie apart on the same images."""
    return float(results.WIDE * values_B.std() / np.sqrt(len(values_B)))
