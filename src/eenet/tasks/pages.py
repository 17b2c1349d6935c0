"""What a report shows of answers, as far as tasks have it in common: tables of classes, small pictures."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MATRIX_UP_TO = 25  # classes; a list of the most frequent confusions above
MOST_CONFUSIONS = 15  # in that list
WIDE = 1.4  # times as wide as high
EXACT_UP_TO, THUMBNAIL = 32, 96  # pixels: small images are kept whole, others made smaller


def confusions(counts_NN: NDArray[Any]) -> list[list[int]]:
    """Rows of class, answer, count: all that occur, or the most frequent mistakes if classes are many."""
    rows, columns = np.nonzero(counts_NN)
    found = np.column_stack([rows, columns, counts_NN[rows, columns]]).astype(int)
    if len(counts_NN) <= MATRIX_UP_TO:
        return found.tolist()
    wrong = found[found[:, 0] != found[:, 1]]
    return wrong[np.argsort(-wrong[:, 2], kind="stable")][:MOST_CONFUSIONS].tolist()


def worst_classes(
    counts_N: NDArray[Any], ours_N: NDArray[Any], full_N: NDArray[Any]
) -> list[list[int | float]]:
    """Rows of class, count, metric, and that of never leaving early; the worst first. Without empty ones."""
    there = np.flatnonzero((counts_N > 0) & np.isfinite(ours_N))
    order = there[np.argsort(ours_N[there], kind="stable")][:MATRIX_UP_TO].tolist()
    return [[n, int(counts_N[n]), float(ours_N[n]), float(full_N[n])] for n in order]


def data_uri(picture: Image.Image, *, thumbnail: int = THUMBNAIL) -> str:
    """A picture inside a page: small ones as they are, large ones as small ones."""
    picture, buffer = picture.copy(), io.BytesIO()
    exact = max(picture.size) <= EXACT_UP_TO
    picture.thumbnail((thumbnail, thumbnail))
    picture.save(buffer, "webp", **({"lossless": True, "method": 6} if exact else {"quality": 75}))
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def png_uri(picture: Image.Image) -> str:
    """A picture as it is, as data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(picture: Image.Image, caption: str, *, wrong: bool = False, **options: Any) -> dict[str, Any]:
    """A picture on a page, with a frame if its answer is wrong."""
    wide = picture.width > picture.height * WIDE
    return {"src": data_uri(picture, **options), "caption": caption, "wrong": wrong, "wide": wide}


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height side by side."""
    whole = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    for i, each in enumerate(pictures):
        whole.paste(each, (sum(other.width for other in pictures[:i]), 0))
    return whole
