"""The pictures of the concepts page: `python benchmarks/pictures.py`.

Draws `docs/images/architecture.svg`, and `docs/images/exits.png`: test images by the exit where a network in
the box lets them leave. CIFAR-10 is looked for under `$EENET_DATA`.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import eenet
from eenet.data import load

IMAGES = Path(__file__).parents[1] / "docs/images"
NETWORK, DATA, SIDE, A_ROW, SHOWN = "cifar10-eenet56", "cifar10", 32, 12, 2000
COLOURS = ["#2c6596", "#3f8f6f", "#b07f1e", "#c0311a", "#5d6975"]


def architecture() -> str:
    """Stages in a row, a head below each but the last, which is followed by the classifier."""
    width, gap, top = 130, 60, 60
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 330" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5d6975"/></marker></defs>',
        '<rect width="900" height="330" fill="#fff"/>',
        _text(10, top + 45, "image", "start"),
    ]
    for k in range(4):
        x = 80 + k * (width + gap)
        parts += [_arrow(x - (22 if k == 0 else gap), top + 40, x - 2, top + 40)]
        parts += [_box(x, top, width, 80, "#e8eef4", f"stage {k}")]
        if k < 3:
            middle = x + width / 2
            parts += [
                _arrow(middle, top + 80, middle, top + 108),
                _box(x, top + 110, width, 74, COLOURS[k], ""),
            ]
            parts += [_text(middle, top + 135, f"exit {k}", colour="#fff", weight="bold")]
            parts += [_text(middle, top + 156, "class probabilities", colour="#fff", size=12)]
            parts += [_text(middle, top + 174, "confidence", colour="#fff", size=12)]
            parts += [_arrow(middle, top + 184, middle, top + 216)]
            parts += [_text(middle, top + 236, "sure: leave here", size=14)]
            parts += [_text(x + width + gap / 2, top + 28, "else", size=12)]
    x = 80 + 3 * (width + gap) + width
    parts += [_arrow(x, top + 40, x + 28, top + 40), _text(x + 34, top + 38, "final", "start", size=14)]
    parts += [_text(x + 34, top + 56, "exit", "start", size=14), "</svg>"]
    return "\n".join(parts) + "\n"


def _box(x: float, y: float, width: float, height: float, colour: str, name: str) -> str:
    box = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}"/>'
    return box + (_text(x + width / 2, y + height / 2 + 5, name) if name else "")


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    ends = f'x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}"'
    return f'<line {ends} stroke="#5d6975" stroke-width="2" marker-end="url(#tip)"/>'


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "middle",
    *,
    colour: str = "#1d2733",
    size: int = 16,
    weight: str = "normal",
) -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


def by_exit() -> Image.Image:
    """A row for each exit: the first test images that leave there."""
    pixels_BCHW = np.asarray(load(DATA, "test").pixels(list(range(SHOWN))))
    with eenet.Predictor(NETWORK, budget=0.4) as predictor:
        exits_B = predictor.run(pixels_BCHW).exits_B
    rows, scale, left = int(exits_B.max()) + 1, 2, 190
    sheet = Image.new("RGB", (left + A_ROW * (SIDE * scale + 6), rows * (SIDE * scale + 12)), "#ffffff")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for k in range(rows):
        here = np.flatnonzero(exits_B == k)
        name = "final exit" if k == rows - 1 else f"exit {k}"
        draw.text((8, k * (SIDE * scale + 12) + 20), f"{name}: {len(here) / SHOWN:.0%}", COLOURS[k], font)
        for column, i in enumerate(here[:A_ROW].tolist()):
            picture = Image.fromarray(pixels_BCHW[i].transpose(1, 2, 0))
            place = (left + column * (SIDE * scale + 6), k * (SIDE * scale + 12) + 4)
            sheet.paste(picture.resize((SIDE * scale, SIDE * scale), Image.Resampling.NEAREST), place)
    return sheet


if __name__ == "__main__":
    (IMAGES / "architecture.svg").write_text(architecture())
    by_exit().save(IMAGES / "exits.png", optimize=True)
