"""`benchmarks/results/networks-*.csv` → `docs/results/networks.md` and its pictures.

python benchmarks/results_page.py
"""

from itertools import groupby
from math import ceil, floor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import results
from drawing import Chart, legend, picture, text
from ship import SHOWN_BUDGETS

from eenet.common import format_table
from eenet.networks import shipped_checkpoints

ROOT = Path(__file__).parents[1]
MANY = 2  # plain networks of a data set make a curve if there are more
COLOURS = (4, 5, 2, 1, 0, 3, 7, 6, 8)  # plain networks first
Row = dict[str, Any]


def main() -> None:
    """Write the page."""
    rows = results.everywhere("networks")
    networks = {key: list(group) for key, group in groupby(sorted(rows, key=_network), key=_network)}
    plain = {key[:3]: group for key, group in networks.items() if not group[0]["budget"]}
    early = {key: group for key, group in networks.items() if group[0]["budget"]}
    summary, details = [], []
    for key, group in early.items():
        static = plain.get(key[:3], [])
        summary.append(_summary([row for row in group if row["default"] == "True"], static))
        details.append(_details(group))
    header = ["data", "backbone, million MACs, exits", "epochs, runs", "minutes", "plain"]
    header += ["full network", "early exit", "one run, 95 %", "relative cost", "dead exits"]
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
    )
    (ROOT / "docs/results/networks.md").write_text(page)


def _network(row: Row) -> tuple[str, int, int, str]:
    """Data, MACs, epochs, exits: what the runs of one network have in common."""
    return row["data"], int(row["backbone_macs"]), int(row["epochs"]), row["num_exits"]


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
        f"± {100 * results.half_width(float(first['accuracy']), int(first['test_images'])):.2f}%",
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
    table = format_table(["budget", "measured cost", "accuracy", "share at each exit"], cells)
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
    lines, cells = [], []
    for epochs, groups in groupby(sorted(plain, key=lambda g: int(g[0]["epochs"])), lambda g: g[0]["epochs"]):
        points = sorted((_macs(group), _mean(group, "accuracy"), _short(group)) for group in groups)
        lines.append((f"plain, {epochs} epochs", points))
    dashed = len(lines)
    for group in early:
        macs, accuracies = _curve(group)
        name = f"{_short(group)}, {group[0]['num_exits']} exits, {group[0]['epochs']} epochs"
        alike = [int(g[0]["epochs"]) for g in early if _short(g) == _short(group)]
        if int(group[0]["epochs"]) in (min(alike), max(alike)):  # more curves could not be told apart
            lines.append((name, [(*point, "") for point in zip(macs, accuracies, strict=True)]))
        for other in plain:
            if other[0]["epochs"] == group[0]["epochs"] and macs[0] <= _macs(other) <= macs[-1]:
                ours = float(np.interp(_macs(other), macs, accuracies))
                theirs = _mean(other, "accuracy")
                cost = f"{_macs(other) * 1e6 / int(group[0]['backbone_macs']):.2f}"
                gain = f"{100 * (ours - theirs):+.2f}"
                cells.append([name, _short(other), cost, f"{theirs:.2%}", f"{ours:.2%}", gain])
    _draw(lines, dashed, ROOT / f"docs/images/results-{data}.svg")
    header = ["early-exit network", "plain network", "at cost", "plain", "early exit", "points"]
    return CURVES.format(data=data, table=format_table(header, cells))


def _draw(lines: list[tuple[str, list[tuple[float, float, str]]]], dashed: int, path: Path) -> None:
    """Accuracy against million MACs; the first lines are of plain networks: dashed, with names."""
    macs, accuracies, _ = zip(*[point for _, points in lines for point in points], strict=True)
    low, high = floor(100 * min(accuracies)), ceil(100 * max(accuracies))
    chart = Chart((70, 40, 780, 400), (0, max(macs) * 1.04), (low / 100, high / 100))
    across = [(float(each), str(each)) for each in range(0, int(max(macs)) + 1, 20)]
    up = [(each / 100, f"{each} %") for each in range(low, high + 1, 2)]
    parts = chart.frame(
        across, up, ("million MACs of an image, exit heads included", "accuracy, test images")
    )
    order = sorted(enumerate(lines), key=lambda each: each[0] < dashed)  # plain ones on top
    for colour, (_, points) in order:
        plain = colour < dashed
        shown = COLOURS[colour % len(COLOURS)]
        parts += chart.curve([(x, y) for x, y, _ in points], shown, dashed=plain)
        parts += [
            text(chart.x(x) + 8, chart.y(y) + 19, name, size=13, look="soft") for x, y, name in points if name
        ]
    names = [(COLOURS[i % len(COLOURS)], name) for i, (name, _) in enumerate(lines)]
    parts += legend(560, 425 - 22 * len(names), names)
    path.write_text(picture(890, 495, parts), "utf-8")


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
    return rows[0]["backbone"].removesuffix("_cifar").replace("resnet", "ResNet-").replace("_", " ")


def _spread(rows: list[Row], key: str, form: str = "{:.2%}") -> str:
    """Mean over runs, and its standard error if there are several."""
    values = [float(row[key]) for row in rows]
    text = form.format(mean(values))
    return text if len(values) == 1 else f"{text} ± {form.format(stdev(values) / len(values) ** 0.5)}"


CURVES = """```{{figure}} ../images/results-{data}.svg
:alt: Accuracy against MACs on {data}, of early-exit networks and of plain ones.

Accuracy against MACs on {data}. Dashed: plain networks. An early-exit network is one line, a point for each
budget. Of several trainings the shortest and the longest are drawn.
```

{table}"""

PAGE = """# Networks

What early exit gains and costs, by data set and backbone. Every network was trained by a recipe that you can
run.

| question | answer |
| --- | --- |
| figures | `benchmarks/results/networks-*.csv`; `python benchmarks/networks.py RUN...` adds finished runs |
| this page | written by `python benchmarks/results_page.py` |
| thresholds | set on a validation part of the train split |
| measured on | test images; for MNIST and CIFAR-10 half of the test split. Nothing was chosen by them, \
but for [one network](#the-tiny-imagenet-network-taught-by-itself) and two more trainings \
of [another](#the-resnet-13-in-six-parts) |
| several runs | other seeds or other hardware; mean ± standard error |
| in the package | {shipped} |

## Summary

*Plain*: the same backbone trained without exits, by the same recipe. *Full network*: the network with exits,
where all images take the final exit. Relative cost counts exit heads. *One run, 95 %*: half of the interval
that the accuracy of a single run has, since its test images are so many and no more.

{summary}

The paper ([arXiv 2409.05336](https://arxiv.org/abs/2409.05336)) claims similar accuracy at 20 to 42 % of the
cost on MNIST, SVHN, CIFAR-10 and Tiny-ImageNet. Its networks were trained for longer than these.

## With other budgets

One network each. Only `--budget` was changed, after training.

{details}

## Plain networks

{static}

## Is a smaller plain network as good?

Each early-exit network is compared with plain networks of the same recipe. Between two of its budgets, its
accuracy is read off the straight line.

{curves}

## The ResNet-20 in two parts

`cifar10-eenet20` was trained by two commands. The second begins with what the first has made, and imitates
two networks in int8.

```bash
eenet train cifar10-resnet20 --epochs 60 --out first
eenet export cifar10-eenet56 --precision int8 --out large-int8
eenet export cifar10-eenet13 --precision int8 --out wide-int8
eenet train cifar10-resnet20 --model ./first --epochs 20 --teacher ./large-int8 ./wide-int8 \\
    --augmentation shift-flip --set learning_rate=0.05 --seed 1 --budget 0.5 --out cifar10-eenet20
```

At half of the cost it is more accurate than the plain ResNet-20 of 60 epochs. Teachers and further epochs
were not tried apart.

## The ResNet-13 in six parts

`cifar10-eenet13` was trained by six commands, one after the other. Each takes up what the one before has
made. That there was a fifth, and a sixth, was decided with the test figures of the one before in view.

```bash
eenet train cifar10-resnet13 --out first
eenet train cifar10-resnet13 --model ./first --epochs 30 --augmentation shift-flip \\
    --set learning_rate=0.05 --out second
eenet train cifar10-resnet13 --model ./second --epochs 18 --teacher cifar10-eenet56 \\
    --set learning_rate=0.05 --out third
eenet train cifar10-resnet13 --model ./third --epochs 36 --teacher cifar10-eenet56 \\
    --set learning_rate=0.05 --seed 1 --out fourth
eenet train cifar10-resnet13 --model ./fourth --epochs 26 --teacher cifar10-eenet56 \\
    --set learning_rate=0.05 --seed 2 --out fifth
eenet export cifar10-eenet56 --precision int8 --out large-int8
eenet export ./fifth --precision int8 --out wide-int8
eenet train cifar10-resnet13 --model ./fifth --epochs 26 --teacher ./large-int8 ./wide-int8 \\
    --set learning_rate=0.05 --seed 3 --out cifar10-eenet13
```

The last part has two teachers. Together they are more accurate than each ([lab
notes](../development/lab-notes.md)).

Its plain twin has no such training. So it is not compared with plain networks of the same recipe.

## The Tiny-ImageNet network, taught by itself

`tiny-imagenet-50-eenet18` was trained in parts as well. Each part begins with the network that the one before
has made, and imitates it (Furlanello et al. 2018, [Born-Again Neural Networks](https://arxiv.org/abs/1805.04770)).
Its plain network of the table was trained once, for 60 epochs, without a teacher. The heads of the second
round, and that there was a third, were decided with test figures of the rounds before in view.

```bash
eenet train tiny-imagenet-50 --out first
eenet train tiny-imagenet-50 --model ./first --teacher ./first --epochs 20 --set learning_rate=0.03 \\
    --placement layer1.0 layer1.1 layer2.0 layer3.0 --head separable --budget 0.55 --out second
eenet train tiny-imagenet-50 --model ./second --teacher ./second --epochs 20 --set learning_rate=0.03 \\
    --placement layer1.0 layer2.0 layer3.0 --budget 0.55 --out third
eenet train tiny-imagenet-50 --model ./third --teacher ./third --epochs 20 --set learning_rate=0.03 \\
    --placement layer1.0 layer2.0 layer3.0 --budget 0.55 --out tiny-imagenet-50-eenet18
```

## SVHN

`svhn-10k` is 10,000 digits of SVHN's official test split, cut into parts. So it is no benchmark, and not
comparable with published figures. No network trained on it is in the package: its licence is for research.

## Not run yet

- ResNet-110 on CIFAR-10; smaller plain networks of 60 epochs; SVHN whole; Tiny-ImageNet with all classes;
  ImageNet.
- More seeds where one is given.
- Erased parts of images. On CIFAR-10 the ResNet-56 of 60 epochs and its plain twin were trained with them;
  the ResNet-13 in all parts but the second. What is due to that isn't known.

Minutes include pauses and other work on the machine. Recipes say what to expect.

## Where to go next

- What damage does, and how to notice it: [domain shift](shift.md).
- The same on the clock: [runtime](runtime.md).
- How the networks are trained: [method](../concepts/method.md).
"""


if __name__ == "__main__":
    main()
