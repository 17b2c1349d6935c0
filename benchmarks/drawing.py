"""Pictures as SVG that suit a light and a dark page: boxes, arrows, text, and charts of lines or bars.

Colours are classes of one style sheet inside each picture. A browser takes the dark ones on a dark page.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

STYLE = """
text{font-family:system-ui,sans-serif;fill:#1d2733}.soft{fill:#5d6975}.light{fill:#fff}
.line,.axis{stroke:#5d6975;fill:none}.grid{stroke:#d8dee5}.panel{fill:#e8eef4}.back{fill:#fff}
.c0{fill:#2c6596}.c1{fill:#2e8163}.c2{fill:#a8761a}.c3{fill:#b8452f}.c4{fill:#6c7885}.c5{fill:#7b4fa3}
.c6{fill:#b0447e}.c7{fill:#1b8296}.s6{stroke:#b0447e}.s7{stroke:#1b8296}.c8{fill:#33312e}.s8{stroke:#33312e}
.s0{stroke:#2c6596}.s1{stroke:#2e8163}.s2{stroke:#a8761a}.s3{stroke:#b8452f}.s4{stroke:#6c7885}.s5{stroke:#7b4fa3}
.wire{fill:none;stroke-width:2.5}
@media (prefers-color-scheme: dark){
text{fill:#e6ebf0}.soft{fill:#a5b0bb}.light{fill:#fff}
.line,.axis{stroke:#a5b0bb}.grid{stroke:#333d47}.panel{fill:#2a343e}.back{fill:#14181e}
.c0{fill:#4f8fc4}.c1{fill:#3f9f7c}.c2{fill:#c48f32}.c3{fill:#d5644e}.c4{fill:#8894a0}.c5{fill:#a57bd0}
.c6{fill:#d671a8}.c7{fill:#3fa9bd}.s6{stroke:#e088b9}.s7{stroke:#5cc3d6}.c8{fill:#e9e4da}.s8{stroke:#e9e4da}
.s0{stroke:#6aa7da}.s1{stroke:#52b792}.s2{stroke:#d5a34a}.s3{stroke:#e27d68}.s4{stroke:#a5b0bb}.s5{stroke:#b793dd}}
""".replace("\n", "")
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" orient="auto">'
    '<path class="soft" d="M0 0L8 4L0 8z"/></marker></defs>'
)
Points = Sequence[tuple[float, float]]


def picture(width: float, height: float, parts: Sequence[str]) -> str:
    """One SVG file, `width` × `height` units."""
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">'
    ground = f'<rect class="back" width="{width:g}" height="{height:g}" rx="6"/>'
    return "\n".join([begin, f"<style>{STYLE}</style>", TIP, ground, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str = "start", *, size: float = 15, look: str = "") -> str:
    """`look`: classes, and `bold`."""
    weight = ' font-weight="600"' if "bold" in look else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}"{weight}'
    return f'<text class="{look}" {place}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, look: str, *, round_by: float = 8) -> str:
    return (
        f'<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{round_by:g}"/>'
    )


def line(x: float, y: float, to_x: float, to_y: float, look: str = "line", *, more: str = "") -> str:
    return f'<line class="{look}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {more}/>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return line(x, y, to_x, to_y, more='stroke-width="2" marker-end="url(#tip)"')


def image(x: float, y: float, side: float, pixels: Image.Image) -> str:
    """A picture with hard pixels, stored inside the file."""
    file = io.BytesIO()
    pixels.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    height = side * pixels.height / pixels.width
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{height:.1f}" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


class Chart:
    """A frame with two axes, into which points are put by their values."""

    def __init__(
        self,
        place: tuple[float, float, float, float],
        across: tuple[float, float],
        up: tuple[float, float],
    ) -> None:
        """`place`: left, top, width, height of the frame; `across`, `up`: what its sides stand for."""
        (self.left, self.top, self.width, self.height), self.across, self.up = place, across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        low, high = self.up
        return self.top + self.height - (value - low) / (high - low) * self.height

    def frame(
        self,
        across: Sequence[tuple[float, str]],
        up: Sequence[tuple[float, str]],
        titles: tuple[str, str] = ("", ""),
    ) -> list[str]:
        """Axes with ticks (value, label); the title of the upright one stands above it."""
        right, bottom = self.left + self.width, self.top + self.height
        parts = [line(self.left, self.y(value), right, self.y(value), "grid") for value, _ in up]
        parts += [
            text(self.left - 8, self.y(value) + 5, told, "end", size=13, look="soft") for value, told in up
        ]
        parts += [line(self.left, bottom, right, bottom, "axis")]
        parts += [
            text(self.x(value), bottom + 19, told, "middle", size=13, look="soft") for value, told in across
        ]
        middle = self.left + self.width / 2
        parts += [text(middle, bottom + 40, titles[0], "middle", size=14)] if titles[0] else []
        return parts + ([text(self.left - 30, self.top - 12, titles[1], size=14)] if titles[1] else [])

    def curve(self, points: Points, colour: int, *, dots: bool = True, dashed: bool = False) -> list[str]:
        """A line through points."""
        places = [(self.x(x), self.y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        parts = [f'<polyline class="wire s{colour}" points="{path}"{dash}/>']
        marks = [f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
        return parts + (marks if dots else [])

    def bar(self, middle: float, wide: float, low: float, high: float, colour: int) -> str:
        """An upright bar from `low` to `high`; `wide` in units of the picture."""
        top = self.y(high)
        return box(self.x(middle) - wide / 2, top, wide, self.y(low) - top, f"c{colour}", round_by=1)


def legend(x: float, y: float, names: Sequence[tuple[int, str]], *, step: float = 22) -> list[str]:
    """Colours with their names, one below the other."""
    parts: list[str] = []
    for row, (colour, name) in enumerate(names):
        parts.append(box(x, y + row * step - 11, 14, 14, f"c{colour}", round_by=3))
        parts.append(text(x + 21, y + row * step + 1, name, size=14))
    return parts
