"""Which test images a network of the race gets right, kept so that two networks are compared image by image.

Two networks fail on much the same images. So the interval of their difference is narrower than that of two
networks which were measured on different ones.
"""

import base64
import zlib
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


def write(table: str, rows: list[dict[str, Any]]) -> None:
    """Keep the answers of a table's rows, which hold them as `right_B`, beside those of networks not in it.

    They are taken out of the rows.
    """
    mine = [{**{key: row[key] for key in KEY}, "right": packed(row.pop("right_B"))} for row in rows]
    measured = {row["network"] for row in mine}
    kept = [row for row in results.read(f"{table}-answers") if row["network"] not in measured]
    results.write(f"{table}-answers", kept + mine)


def read(table: str) -> dict[tuple[str, ...], str]:
    """By `KEY`, what was written; packed."""
    return {tuple(row[key] for key in KEY): row["right"] for row in results.read_found(f"{table}-answers")}


def half_width(right_B: NDArray[np.bool_], other_B: NDArray[np.bool_]) -> float:
    """Half of the 95 % interval of the difference of two accuracies on the same images."""
    apart_B = right_B.astype(np.float64) - other_B
    return float(1.96 * apart_B.std() / np.sqrt(len(apart_B)))
