"""`benchmarks/results/networks-*.csv` → `docs/results/networks.md` and its pictures, which Chromium takes.

python benchmarks/results_page.py
"""

import csv
import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from ship import SHOWN_BUDGETS

from eenet.common import format_table
from eenet.networks import shipped_checkpoints

ROOT = Path(__file__).parents[1]
MANY = 2  # plain networks of a data set make a curve if there are more
SEVERITIES = ("1", "3", "5")
Row = dict[str, Any]


def main() -> None:
    """Write the page."""
    rows = _rows("networks")
    shift, drift = (groupby(_rows(kind), key=itemgetter("checkpoint")) for kind in ("shift", "drift"))
    alarms = {name: list(group) for name, group in drift}
    networks = {key: list(group) for key, group in groupby(sorted(rows, key=_network), key=_network)}
    plain = {key[:3]: group for key, group in networks.items() if not group[0]["budget"]}
    early = {key: group for key, group in networks.items() if group[0]["budget"]}
    summary, details = [], []
    for key, group in early.items():
        static = plain.get(key[:3], [])
        summary.append(_summary([row for row in group if row["default"] == "True"], static))
        details.append(_details(group))
    header = ["data", "backbone, million MACs, exits", "epochs, runs", "minutes", "plain"]
    header += ["never leaving early", "leaving early", "relative cost", "dead exits"]
    statics = [_static(group) for group in plain.values()]
    pictures = [
        _against_static(data, [group for key, group in early.items() if key[0] == data], smaller)
        for data in dict.fromkeys(key[0] for key in early)
        if len(smaller := [group for key, group in plain.items() if key[0] == data]) > MANY
    ]
    page = PAGE.format(
        shipped=", ".join(f"`{name}`" for name in shipped_checkpoints()),
        summary=format_table(header, summary),
        details="\n\n".join(details),
        static=format_table(["data", "backbone", "epochs, runs", "MACs", "accuracy"], statics),
        curves="\n\n".join(pictures),
        damage="\n\n".join(_damage(name, list(group), alarms[name]) for name, group in shift),
    )
    (ROOT / "docs/results/networks.md").write_text(page)


def _rows(kind: str) -> list[Row]:
    """Of all tables of a kind."""
    rows: list[Row] = []
    for path in sorted((ROOT / "benchmarks/results").glob(f"{kind}-*.csv")):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def _network(row: Row) -> tuple[str, int, str, str]:
    """Data, MACs, epochs, exits: what the runs of one network have in common."""
    return row["data"], int(row["backbone_macs"]), row["epochs"], row["num_exits"]


def _summary(rows: list[Row], static: list[Row]) -> list[str]:
    first = rows[0]
    return [
        first["data"],
        f"{first['backbone']}, {_macs(rows):.3g}, {first['num_exits']}",
        f"{first['epochs']}, {len(rows)}",
        _spread(rows, "minutes", "{:.0f}"),
        _spread(static, "accuracy") if static else "not run",
        _spread(rows, "full_accuracy"),
        _spread(rows, "accuracy"),
        _spread(rows, "relative_cost", "{:.3f}"),
        " ".join(row["dead_exits"] for row in rows if row["dead_exits"]) or "none",
    ]


def _details(rows: list[Row]) -> str:
    """What one network does with other budgets."""
    first, cells = rows[0], []
    for budget in SHOWN_BUDGETS:
        group = [row for row in rows if row["budget"] == budget]
        if group:
            columns = zip(*[map(float, row["exit_shares"].split()) for row in group], strict=True)
            shares = " / ".join(f"{mean(column):.0%}" for column in columns)
            cells.append(
                [budget, _spread(group, "relative_cost", "{:.3f}"), _spread(group, "accuracy"), shares]
            )
    table = format_table(["budget", "measured cost", "accuracy", "leave at each exit"], cells)
    return (
        f"### {first['backbone']} on {first['data']}, {first['epochs']} epochs\n\n"
        f"`{first['command']}`; {int(first['test_images']):,} test images; {first['hardware']}, "
        f"torch {first['torch']}.\n\n{table}"
    )


def _static(rows: list[Row]) -> list[str]:
    first = rows[0]
    runs = f"{first['epochs']}, {len(rows)}"
    return [
        first["data"],
        first["backbone"],
        runs,
        f"{int(first['backbone_macs']):,}",
        _spread(rows, "accuracy"),
    ]


def _against_static(data: str, early: list[list[Row]], plain: list[list[Row]]) -> str:
    """Is a smaller plain network as good? A picture, and a table at the cost of each plain network."""
    figure, cells = go.Figure(), []
    for epochs, groups in groupby(sorted(plain, key=lambda g: int(g[0]["epochs"])), lambda g: g[0]["epochs"]):
        points = [(_macs(group), _mean(group, "accuracy"), _short(group)) for group in groups]
        macs, accuracies, names = zip(*sorted(points), strict=True)
        figure.add_scatter(
            x=macs, y=accuracies, text=names, name=f"plain, {epochs} epochs", mode="lines+markers+text"
        )
    for group in early:
        macs, accuracies = _curve(group)
        name = f"{_short(group)}, {group[0]['num_exits']} exits, {group[0]['epochs']} epochs"
        figure.add_scatter(x=macs, y=accuracies, name=name, mode="lines+markers")
        for other in plain:
            if other[0]["epochs"] == group[0]["epochs"] and macs[0] <= _macs(other) <= macs[-1]:
                ours = float(np.interp(_macs(other), macs, accuracies))
                theirs = _mean(other, "accuracy")
                cost = f"{_macs(other) * 1e6 / int(group[0]['backbone_macs']):.2f}"
                gain = f"{100 * (ours - theirs):+.2f}"
                cells.append([name, _short(other), cost, f"{theirs:.2%}", f"{ours:.2%}", gain])
    figure.update_traces(textposition="bottom right", cliponaxis=False)  # the last label may stick out
    figure.update_layout(
        xaxis={"title": "million MACs per image, exit heads included", "rangemode": "tozero"},
        yaxis={"title": "accuracy on test images", "tickformat": ".0%"},
        template="plotly_white",
        legend={"x": 0.98, "y": 0.02, "xanchor": "right", "yanchor": "bottom"},
        margin={"t": 20, "r": 70},
    )
    _photograph(figure, ROOT / f"docs/images/results-{data}.png")
    header = ["early-exit network", "plain network", "at cost", "plain", "early exit", "points"]
    return f"![{data}](../images/results-{data}.png)\n\n{format_table(header, cells)}"


def _curve(rows: list[Row]) -> tuple[list[float], list[float]]:
    """Million MACs and accuracy at every budget, from cheap to dear, means over runs."""
    points = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        group = [row for row in rows if row["budget"] == budget]
        points.append((_mean(group, "relative_cost") * _macs(rows), _mean(group, "accuracy")))
    macs, accuracies = zip(*sorted(points), strict=True)
    return list(macs), list(accuracies)


def _macs(rows: list[Row]) -> float:
    return int(rows[0]["backbone_macs"]) / 1e6


def _mean(rows: list[Row], key: str) -> float:
    return mean(float(row[key]) for row in rows)


def _short(rows: list[Row]) -> str:
    return rows[0]["backbone"].removesuffix("_cifar").replace("resnet", "ResNet-")


def _photograph(figure: go.Figure, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 560})
        page.set_content(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
        page.wait_for_selector(".xtitle")
        page.screenshot(path=path)
        browser.close()


def _damage(name: str, rows: list[Row], alarms: list[Row]) -> str:
    """One network on damaged test images, and after how many the drift alarm is raised."""
    found = {(row["corruption"], row["severity"]): row for row in rows}
    delays = {(row["corruption"], row["severity"]): row for row in alarms}
    clean, watched, cells = found["none", "0"], delays["none", "0"], []
    for kind in dict.fromkeys(row["corruption"] for row in rows if row["severity"] != "0"):
        told = [_told(found[kind, severity]) for severity in SEVERITIES]
        images, most = (float(delays[kind, "5"][key]) for key in ("median_images", "length"))
        alarm = f"{images:.0f}" if images <= most else f"> {most:.0f}"
        cells.append([kind.replace("_", " "), *told, alarm])
    header = ["damage", *(f"severity {severity}" for severity in SEVERITIES), "alarm after, severity 5"]
    return (
        f"### `{name}`\n\nClean: {_told(clean)}. False alarms on clean images: {watched['alarms']} in "
        f"{watched['streams']} streams of {int(watched['length']):,}.\n\n{format_table(header, cells)}"
    )


def _told(row: Row) -> str:
    accuracy, full = float(row["learned_accuracy"]), float(row["full_accuracy"])
    return f"{accuracy:.1%} ({full:.1%}) at {float(row['learned_relative_cost']):.2f}"


def _spread(rows: list[Row], key: str, form: str = "{:.2%}") -> str:
    """Mean over runs, and its standard error if there are several."""
    values = [float(row[key]) for row in rows]
    text = form.format(mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format(stdev(values) / len(values) ** 0.5)}"


PAGE = """# Results

Made by `python benchmarks/results_page.py` from `benchmarks/results/networks-*.csv`, to which
`python benchmarks/networks.py RUN...` adds finished runs. Gates and thresholds were set on a validation part
of the train split; everything is measured on test images that nothing was chosen by (one half of the official
test split for MNIST and CIFAR-10). Relative cost counts exit heads. Several runs, with
other seeds or on other hardware: mean ± standard error.
In the box: {shipped}.

{summary}

*Plain*: the same backbone trained without exits by the same recipe. The paper (Demir & Akbas, arXiv
2409.05336) claims similar accuracy at 20 to 42 % of the cost on MNIST, SVHN, CIFAR-10 and Tiny-ImageNet, with
networks trained for longer than these.

## With other budgets

Each network's `--budget` turned after training.

{details}

## Plain networks

{static}

## Is a smaller plain network as good?

Accuracy of early exit between two of its budgets is read off the straight line between them.

{curves}

## On damaged images

2,000 test images under each corruption, the checkpoint's own policy: accuracy (of the full network) at the
cost measured, and the median number of images of 20 streams until the drift alarm.
`python benchmarks/shift.py CHECKPOINT`; more in [shift.md](../how-to/shift.md).

{damage}

## Not run yet

ResNet-110 on CIFAR-10; smaller plain networks of 60 epochs; SVHN, Tiny-ImageNet with all classes and
ImageNet; more seeds where one is given. Only the ResNet-56 of 60 epochs and its plain twin, of the networks
on CIFAR-10, were trained with erased parts of images; what of their lead is due to that isn't known.
Minutes include pauses and other work on the machine: recipes say what to expect.
"""


if __name__ == "__main__":
    main()
