"""Accuracy against measured time: networks that leave early as lines, static ones as squares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from drawing import Chart, Points, box, legend, picture, text

SIDE = 3.5  # half of a square's
LOWEST = 0.88  # accuracy shown; what lies below is in the table
COLOURS = (1, 0, 2, 5, 3, 6, 7, 4)


@dataclass(frozen=True)
class Line:
    """A network in one precision."""

    name: str
    precision: str
    early: Mapping[str, Points]
    """By clock: (time, accuracy) at each budget, from cheap to dear."""
    static: Mapping[str, Points]
    """By clock: as it is, and cut behind an exit."""


def draw(lines: Sequence[Line], clocks: Mapping[str, str]) -> str:
    """One SVG, a frame for each clock, side by side.

    Args:
        lines: those in int8 are dashed or hollow, and have the colour of the same network in float32.
        clocks: of which points there are, and their titles.
    """
    names = list(dict.fromkeys(line.name for line in lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    points = [
        point
        for line in lines
        for kind in (line.early, line.static)
        for clock in clocks
        for point in shown(kind[clock])
    ]
    high = ceil(100 * max(accuracy for _, accuracy in points))
    longest = ceil(10 * max(time for time, _ in points)) / 10
    parts: list[str] = []
    for i, (clock, title) in enumerate(clocks.items()):
        chart = Chart((70 + 440 * i, 40, 360, 330), (0, longest), (LOWEST, high / 100))
        across = [(step / 5, f"{step / 5:g}") for step in range(floor(5 * longest) + 1)]
        up = [(each / 100, f"{each} %") for each in range(round(100 * LOWEST), high + 1)]
        parts += chart.frame(across, up, (f"time, {title}", "accuracy, test images"))
        for line in lines:
            colour, int8 = colours[line.name], line.precision == "int8"
            parts += chart.curve(shown(line.early[clock]), colour, dashed=int8)
            look = f"wire s{colour}" if int8 else f"c{colour}"
            for time, accuracy in shown(line.static[clock]):
                x, y = chart.x(time) - SIDE, chart.y(accuracy) - SIDE
                parts.append(box(x, y, 2 * SIDE, 2 * SIDE, look, round_by=0))
    parts += legend(70, 450, [(colours[name], name) for name in names])
    notes = (
        "circle: leaves early, one for each budget",
        "square: static, also cut behind an exit",
        "dashed or hollow: int8",
        "time: as a part of the plain ResNet-56's",
    )
    parts += [text(510, 451 + 22 * row, note, size=14) for row, note in enumerate(notes)]
    return picture(900, 460 + 22 * max(len(names), len(notes)), parts)


def shown(points: Points) -> list[tuple[float, float]]:
    """What is not too bad to be drawn."""
    return [point for point in points if point[1] >= LOWEST]
