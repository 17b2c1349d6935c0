"""What a race has found: its rows, the winner in words, a table, a page."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from eenet.common import Result, format_table, wrapped, write_atomically
from eenet.evaluation import EXIT_COLOURS, PLOTLY, asset, document
from eenet.optimizing.candidates import GIVEN
from eenet.optimizing.halving import Point, pareto

TABLE_FILE, PAGE_FILE = "candidates.csv", "race.html"
HEADER = [
    "network",
    "precision",
    "leaves early",
    "accuracy",
    "points lost",
    "MACs",
    "ms",
    "times as fast",
    "",
]


@dataclass(frozen=True, kw_only=True)
class OptimizedRow(Result):
    """A network as it is, cut, or leaving early; on validation images."""

    name: str
    precision: str
    early_exit: bool
    epochs: int
    """That it was trained in the last round it was in."""
    accuracy: float
    drop: float
    """Points of accuracy lost against the given network, on the same images."""
    drop_interval: tuple[float, float]
    """95 %."""
    within: bool
    """Whether that is at most what may be lost."""
    macs: int
    """Of an image, on average."""
    relative_cost: float
    """Against the given network."""
    ms: float
    """Of a batch, on this machine."""
    speedup: float
    """Over the given network in the same runs."""
    checkpoint: str
    policy: dict[str, Any]
    cut: int | None = None
    """The exit at which all images leave: a smaller static network."""
    on_front: bool = False
    """Whether none is at least as accurate and as cheap, and better in one."""

    def __str__(self) -> str:
        cut = f", cut behind exit {self.cut}" if self.cut is not None else ""
        return f"{self.name}, {self.precision}{', leaving early' if self.early_exit else cut}"

    def cost(self, objective: str) -> float:
        """What is made small.

        Args:
            objective: `latency` for milliseconds of an image, `macs` for its MACs.
        """
        return self.ms if objective == "latency" else self.macs


@dataclass(frozen=True, kw_only=True)
class Optimized(Result):
    """The race, the fastest first."""

    rows: list[OptimizedRow]
    chosen: OptimizedRow
    checkpoint: str
    """Of the winner."""
    artifact: str
    """The winner as files, see `eenet.export`."""
    objective: str
    backend: str
    batch_size: int
    max_drop: float
    epochs: int
    """The training budget of each, in passes over the training images; losers got less."""
    images: int
    """Validation images that all were judged by."""
    seconds: float
    """Of all steps, over all resumed parts."""
    hardware: str
    notes: list[str]

    def __str__(self) -> str:
        said = "\n".join(wrapped(f"- {sentence}", 2) for sentence in self.sentences())
        where = f"checkpoint {self.checkpoint}\nartifact   {self.artifact}"
        return f"{format_table(HEADER, [_cells(row, self.chosen) for row in self.rows])}\n\n{said}\n\n{where}"

    def sentences(self) -> list[str]:
        """What it means."""
        best, (low, high) = self.chosen, self.chosen.drop_interval
        plain = (row for row in self.rows if row.name == GIVEN and row.precision == "fp32")
        given = next(row for row in plain if not row.early_exit and row.cut is None)
        clock = f"for a batch of {self.batch_size} on {self.backend}"
        judged = f"{best.drop:.2f} points lost on {self.images} validation images"
        found = [
            f"The winner: {best}. {best.speedup:.3g} times as fast as the given network "
            f"({best.ms:.4g} against {given.ms:.4g} ms {clock}), at {best.relative_cost:.3f} of its MACs; "
            f"{judged} (95 % interval {low:.2f} to {high:.2f}, at most {self.max_drop:g} allowed)."
        ]
        if best == given:
            found = [f"Nothing faster than the given network ({given.ms:.4g} ms {clock}) was found."]
        if not best.early_exit:
            found.append("Early exit is not part of the winner: " + self._why_not())
        if high > self.max_drop:
            found.append("The interval reaches beyond what may be lost; more validation images would tell.")
        found.append(
            f"Each network had at most {self.epochs} passes over the training images; those that fell behind "
            "stopped earlier. Measured on validation images, by which thresholds are set as well: evaluate "
            "the winner on test images."
        )
        return [*found, *self.notes]

    def _why_not(self) -> str:
        leaving = [row for row in self.rows if row.early_exit and row.within]
        if not leaving:
            return "no network that leaves early stays within the drop."
        best = min(leaving, key=lambda row: row.cost(self.objective))
        unit = "ms" if self.objective == "latency" else "MACs"
        return (
            f"the best that leaves early ({best}) takes {best.cost(self.objective):.4g} {unit}, the winner "
            f"{self.chosen.cost(self.objective):.4g}."
        )


def ranked(rows: Sequence[OptimizedRow], objective: str) -> tuple[list[OptimizedRow], OptimizedRow]:
    """Rows from the cheapest on, with those of the Pareto front marked, and the cheapest within the drop."""
    front = pareto([Point(row.accuracy, row.cost(objective)) for row in rows])
    marked = [OptimizedRow(**{**vars(row), "on_front": best}) for row, best in zip(rows, front, strict=True)]
    marked.sort(key=lambda row: row.cost(objective))
    return marked, next(row for row in marked if row.within)


def write_table(rows: Sequence[OptimizedRow], out: Path) -> None:
    """`candidates.csv`."""
    text = io.StringIO()
    columns = [field.name for field in fields(OptimizedRow) if field.name != "policy"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row.to_dict() for row in rows)
    write_atomically(out / TABLE_FILE, text.getvalue().encode())


def write_page(found: Optimized, out: Path) -> None:
    """`race.html`: accuracy against time, what it means, the table; it needs no network access."""
    figure, names = go.Figure(), list(dict.fromkeys(row.name for row in found.rows))
    for i, name in enumerate(names):
        rows = [row for row in found.rows if row.name == name]
        figure.add_scatter(
            x=[row.cost(found.objective) for row in rows],
            y=[row.accuracy for row in rows],
            text=[str(row) for row in rows],
            name=name,
            mode="markers",
            marker={
                "size": [16 if row == found.chosen else 10 for row in rows],
                "color": EXIT_COLOURS[i % len(EXIT_COLOURS)],
                "symbol": ["circle" if row.early_exit else "square" for row in rows],
            },
        )
    front = [row for row in found.rows if row.on_front]
    figure.add_scatter(
        x=[row.cost(found.objective) for row in front],
        y=[row.accuracy for row in front],
        name="best at their cost",
        mode="lines",
        line={"color": "#56626e", "dash": "dot", "shape": "hv"},
    )
    unit = f"ms for a batch of {found.batch_size}" if found.objective == "latency" else "MACs of an image"
    figure.update_layout(
        xaxis_title=unit,
        yaxis={"title": "accuracy", "tickformat": ".1%"},
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1},
        margin={"l": 60, "r": 10, "t": 10},
    )
    head = "".join(f"<th>{html.escape(each)}</th>" for each in HEADER)
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(r, found.chosen)) for r in found.rows]
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found.sentences())
    drawn = figure.to_html(include_plotlyjs=False, full_html=False, config={"responsive": True})
    body = (
        f"<ul>{said}</ul><p class='soft'>Accuracy on validation images; round: leaving early, square: as "
        f"it is or cut, large: the winner.</p><script>{asset(PLOTLY)}</script><div class='plot'>{drawn}</div>"
        f"<div class='scroll' tabindex='0'><table><tr>{head}</tr>"
        f"{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"
        f"<p class='soft'>{html.escape(found.hardware)}</p>"
    )
    page = document(f"The fastest network within {found.max_drop:g} points", body, "")
    write_atomically(out / PAGE_FILE, page.encode())


def _cells(row: OptimizedRow, chosen: OptimizedRow) -> list[str]:
    marks = ["winner"] * (row == chosen) + ["front"] * row.on_front + ["loses too much"] * (not row.within)
    return [
        row.name,
        row.precision,
        ("yes" if row.early_exit else "no") if row.cut is None else f"all at exit {row.cut}",
        f"{row.accuracy:.2%}",
        f"{row.drop:.2f}",
        f"{row.macs:,}",
        f"{row.ms:.4g}",
        f"{row.speedup:.3g}",
        ", ".join(marks),
    ]
