"""A self-contained HTML report: the accuracy–cost curve, where inputs left, and which."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor

from eenet.evaluation import accuracy_cost_curve, decide, evaluate, recorded_scores
from eenet.image_sets import Images
from eenet.policies import ExitPolicy
from eenet.records import Records

IMAGES_PER_EXIT = 12
EXIT_COLOURS = ("#1b9e77", "#66a61e", "#d9a400", "#d95f02", "#c2378b", "#7570b3", "#3f7fbf", "#8a6d3b")

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #66727f; --paper: #fff; --line: #d8dee5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa7b4; --paper: #12181f; --line: #2c3743; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.tile { flex: 1 1 9rem; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
.tile b { display: block; font-size: 1.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.strip { display: flex; flex-wrap: wrap; gap: .6rem; margin: .5rem 0 1rem; }
figure { margin: 0; width: 4.6rem; text-align: center; }
figure img { width: 4rem; height: 4rem; image-rendering: pixelated; border: 3px solid var(--line);
  border-radius: .3rem; object-fit: contain; background: #888; }
figure.wrong img { border-color: #d4351c; } figcaption { font-size: .75rem; line-height: 1.2; }
pre { background: color-mix(in srgb, var(--ink) 8%, var(--paper)); padding: .6rem; overflow-x: auto; }
"""


@dataclass(frozen=True)
class Shown:
    """What a report says beside the records."""

    title: str
    subtitle: str
    command: str
    """How to make the network again."""


def build_report(records: Records, policy: ExitPolicy, images: Images, shown: Shown) -> str:
    """The page as one string of HTML, scripts included; it needs no network access.

    Args:
        records: of `images`, in the same order, not used for training or calibration.
        policy: decides where inputs leave.
        images: shown by exit.
        shown: title and the like.
    """
    if len(records) != len(images):
        raise ValueError(f"{len(records)} records, but {len(images)} images")
    measured = evaluate(records, policy)
    plots = [_curve(records, policy, measured), _shares(measured)]
    parts = [
        f"<h1>{html.escape(shown.title)}</h1><p class=soft>{html.escape(shown.subtitle)}</p>",
        _tiles(measured),
        "<h2>Accuracy against cost</h2><p class=soft>Every point of the curve is one threshold, shared by "
        "all early exits; this policy may have one for each. Relative cost: MACs spent per image, exit "
        "heads included, divided by those of the plain backbone.</p>",
        _plot(plots[0], first=True),
        "<h2>Where images left</h2>",
        _plot(plots[1]),
        _table(measured),
        "<h2>Easy and hard images</h2><p class=soft>Per exit, the images it is surest of; for the final "
        "exit, those the exit before was least sure of. A red frame: wrong answer.</p>",
        _strips(records, policy, images),
        f"<h2>How to reproduce</h2><pre>{html.escape(shown.command)}</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(shown.title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _tiles(measured: dict[str, Any]) -> str:
    dead = measured["dead_exits"]
    tiles = [
        (f"{measured['accuracy']:.2%}", "accuracy, leaving early"),
        (f"{measured['relative_cost']:.3f}", "mean relative cost"),
        (f"{measured['full_accuracy']:.2%}", "accuracy, never leaving early"),
        (", ".join(map(str, dead)) or "none", "dead exits"),
        (f"{measured['num_examples']:,}", "test images"),
    ]
    cells = "".join(f"<div class=tile><b>{value}</b>{name}</div>" for value, name in tiles)
    return f"<div class=tiles>{cells}</div>"


def _curve(records: Records, policy: ExitPolicy, measured: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    if records.confidence_logits_KB.numel():
        curve = accuracy_cost_curve(records, policy.score)
        figure.add_scatter(
            x=[spent for _, spent, _ in curve],
            y=[accuracy for _, _, accuracy in curve],
            customdata=[threshold for threshold, _, _ in curve],
            hovertemplate="cost %{x:.3f}<br>accuracy %{y:.2%}<br>threshold %{customdata:.4f}",
            mode="lines",
            line={"color": "#3f7fbf", "width": 3},
            name=f"early exit, over thresholds on {policy.score.replace('_', ' ')}",
        )
        figure.add_scatter(
            x=measured["costs"][:-1],
            y=measured["exit_accuracy"][:-1],
            mode="markers+text",
            text=[f"exit {k}" for k in range(len(measured["costs"]) - 1)],
            textposition="bottom center",
            marker={"size": 9, "color": "#8795a3"},
            name="everything leaves at this exit",
        )
    figure.add_scatter(
        x=[1.0],
        y=[measured["full_accuracy"]],
        mode="markers",
        marker={"size": 13, "color": "#d95f02", "symbol": "square"},
        name="plain network: the same weights, no exits",
    )
    figure.add_scatter(
        x=[measured["relative_cost"]],
        y=[measured["accuracy"]],
        mode="markers",
        marker={"size": 16, "color": "#1b9e77", "symbol": "star"},
        name="this policy",
    )
    figure.update_xaxes(title="mean relative cost", rangemode="tozero")
    figure.update_yaxes(title={"text": "accuracy", "standoff": 12}, tickformat=".1%")
    return _styled(figure, height=430)


def _shares(measured: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    total, last = measured["num_examples"], len(measured["exit_counts"]) - 1
    for k, count in enumerate(measured["exit_counts"]):
        name = "final exit" if k == last else f"exit {k}"
        figure.add_bar(
            x=[count / total],
            y=["images"],
            orientation="h",
            name=f"{name} (cost {measured['costs'][k]:.2f})",
            text=[f"{count / total:.0%}"],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": "white"},
            marker={"color": EXIT_COLOURS[k % len(EXIT_COLOURS)]},
            hovertemplate=f"{name}: {count} images",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(visible=False)
    return _styled(figure, height=170)


def _styled(figure: go.Figure, *, height: int) -> go.Figure:
    grey = "#7d8894"
    figure.update_layout(
        height=height,
        margin={"l": 75, "r": 15, "t": 10, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": grey, "size": 13},
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "traceorder": "normal"},
        template="none",
    )
    figure.update_xaxes(gridcolor="rgba(125,136,148,.25)", zerolinecolor="rgba(125,136,148,.5)")
    figure.update_yaxes(gridcolor="rgba(125,136,148,.25)", zerolinecolor="rgba(125,136,148,.5)")
    return figure


def _plot(figure: go.Figure, *, first: bool = False) -> str:
    script = f"<script>{get_plotlyjs()}</script>" if first else ""
    config = {"responsive": True, "displayModeBar": False}
    return script + figure.to_html(full_html=False, include_plotlyjs=False, config=config)


def _table(measured: dict[str, Any]) -> str:
    rows = []
    for k, count in enumerate(measured["exit_counts"]):
        left = measured["leaving_accuracy"][k]
        cells = (
            "final" if k == len(measured["exit_counts"]) - 1 else f"{k}",
            f"{measured['costs'][k]:.3f}",
            "off" if k in measured["switched_off"] else f"{count} ({count / measured['num_examples']:.1%})",
            "–" if left is None else f"{left:.2%}",
            f"{measured['exit_accuracy'][k]:.2%}",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>exit<th>relative cost<th>images<th>accuracy of these<th>accuracy on all images</tr>"
    return f"<div class=scroll><table>{head}{''.join(rows)}</table></div>"


def _strips(records: Records, policy: ExitPolicy, images: Images) -> str:
    exits_B = decide(records, policy)
    answers_B = records.logits_KBN.argmax(2).gather(0, exits_B[None])[0]
    scores_KB = recorded_scores(records, policy.score) if len(policy.thresholds) else None
    parts, final = [], len(policy.thresholds)
    for k in range(final + 1):
        members = (exits_B == k).nonzero()[:, 0]
        if scores_KB is not None and len(members):
            surest = scores_KB[min(k, final - 1), members].argsort(descending=k < final)
            members = members[surest]
        name = "Final exit" if k == final else f"Exit {k}"
        parts.append(f"<p><b>{name}</b> <span class=soft>{len(members)} images</span></p>")
        parts.append(f"<div class=strip>{_figures(members[:IMAGES_PER_EXIT], answers_B, images)}</div>")
    return "".join(parts)


def _figures(members: Tensor, answers_B: Tensor, images: Images) -> str:
    names = images.class_names
    figures = []
    for i, pixels_CHW in zip(members.tolist(), images.pixels(members), strict=True):
        said, true = names[int(answers_B[i])], names[int(images.labels_B[i])]
        caption = html.escape(said if said == true else f"{said}, is {true}")
        wrong = "" if said == true else " class=wrong"
        figures.append(
            f'<figure{wrong}><img alt="{caption}" src="{_data_uri(pixels_CHW)}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return "".join(figures) or "<span class=soft>no image left here</span>"


def _data_uri(pixels_CHW: Tensor) -> str:
    array = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(array.to(torch.uint8).numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, readable as plain text too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *map(list, rows)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def shift_table(rows: list[dict[str, Any]]) -> str:
    """Rows of `eenet.shift.under_corruptions` as text."""
    percents = ("accuracy", "full_accuracy", "excess_error", "disagreement")
    cells = [
        [
            row["corruption"],
            str(row["severity"] or "–"),
            *(f"{row[key]:.2%}" for key in percents),
            f"{row['relative_cost']:.3f}",
            " / ".join(f"{share:.0%}" for share in row["exit_shares"]),
            f"{row['calibration_error']:.3f}",
        ]
        for row in rows
    ]
    header = ["corruption", "severity", "accuracy", "full network", "excess error", "disagreement"]
    header += ["cost", "leave at each exit", "calibration error"]
    return f"{format_table(header, cells)}\n\n{rows[0]['num_examples']} images"


def diagnosis_table(found: dict[str, Any]) -> str:
    """What `eenet.diagnostics.diagnose` found as text, an exit a line."""
    rows = []
    for k, ((cost, accuracy), error) in enumerate(
        zip(found["oracle"], found["calibration_error"], strict=True)
    ):
        early = k < len(found["auroc"])
        auroc = found["auroc"][k] if early else None
        counts = [str(found[key][k]) if early else "–" for key in ("right_then_wrong", "wrong_then_right")]
        rows.append(
            [
                str(k) if early else "final",
                f"{error:.3f}",
                "–" if auroc is None else f"{auroc:.3f}",
                *counts,
                f"{accuracy:.2%} at {cost:.3f}",
            ]
        )
    header = ["exit", "calibration error", "AUROC", "right, then wrong", "wrong, then right", "oracle"]
    shown = {name: [f"{100 * v:.2f}" for v in pair] for name, pair in found["intervals"].items()}
    low, high = found["intervals"]["relative_cost"]
    return (
        f"{format_table(header, rows)}\n\n95 % intervals: accuracy {' to '.join(shown['accuracy'])} %, "
        f"cost {low:.3f} to {high:.3f}, drop against the full network {' to '.join(shown['drop'])} points; "
        f"mean accuracy over all costs {found['curve_area']:.2%}"
    )
