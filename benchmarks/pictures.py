"""The pictures of the site, drawn from our own runs: `python benchmarks/pictures.py [NAME...]`.

Each is a function, and a file of its name in `docs/images`. Test images of CIFAR-10 are looked for under
`$EENET_DATA`; all else comes from the package, and from tables in `benchmarks/results`. `optimize-digits` is
the `candidates.csv` of

    eenet train digits --plain --epochs 15 --out runs/plain
    eenet optimize runs/plain --data digits --epochs 20 --objective macs --shares 0.5 0.35 \\
        --backbones resnet8_cifar resnet14_cifar
"""

import sys
from collections.abc import Callable
from functools import cache
from math import ceil, floor
from pathlib import Path

import numpy as np
import results
from drawing import Chart, arrow, box, image, legend, line, picture, text
from PIL import Image

import eenet
from eenet.data import Images, load
from eenet.networks import open_network

IMAGES = Path(__file__).parents[1] / "docs/images"
NETWORK, DATA, BUDGET, SHOWN = "cifar10-eenet56", "cifar10", 0.4, 2000
HARDWARE = "2 cores of Intel Xeon"
STAGES = 4
COLOURS = (0, 1, 2, 4)  # of three early exits, and of the final one


def architecture() -> str:
    """Stages in a row, a head below each but the last, which is followed by the classifier."""
    width, gap, top, parts = 130, 60, 26, []
    parts.append(text(4, top + 45, "image"))
    for k in range(STAGES):
        x = 80 + k * (width + gap)
        parts.append(arrow(x - (22 if k == 0 else gap), top + 40, x - 2, top + 40))
        parts += [
            box(x, top, width, 80, "panel"),
            text(x + width / 2, top + 45, f"stage {k}", "middle", size=16),
        ]
        if k < STAGES - 1:
            middle = x + width / 2
            parts += [
                arrow(middle, top + 80, middle, top + 108),
                box(x, top + 110, width, 74, f"c{k}"),
                text(middle, top + 135, f"exit {k}", "middle", size=16, look="light bold"),
                text(middle, top + 156, "class probabilities", "middle", size=13, look="light"),
                text(middle, top + 174, "confidence", "middle", size=13, look="light"),
                arrow(middle, top + 184, middle, top + 214),
                text(middle, top + 234, "sure: leave here", "middle"),
                text(x + width + gap / 2, top + 30, "else", "middle", size=14),
            ]
    x = 80 + (STAGES - 1) * (width + gap) + width
    parts += [
        arrow(x, top + 40, x + 28, top + 40),
        text(x + 36, top + 38, "final"),
        text(x + 36, top + 56, "exit"),
    ]
    return picture(900, 280, parts)


@cache
def _tested() -> Images:
    return load(DATA, "test").subset(range(SHOWN))


@cache
def _records() -> eenet.Records:
    records = eenet.collect(open_network(NETWORK), _tested())
    assert isinstance(records, eenet.Records)
    return records


def exits() -> str:
    """A row for each exit: the first test images that leave there."""
    pixels_BCHW = np.asarray(_tested().pixels(list(range(SHOWN))))
    with eenet.Predictor(NETWORK, budget=BUDGET) as predictor:
        exits_B = predictor.run(pixels_BCHW).exits_B
    last, side, left, in_a_row, parts = int(exits_B.max()), 62, 150, 11, []
    for k in range(last + 1):
        here, y = np.flatnonzero(exits_B == k), k * (side + 8) + 8
        parts.append(text(14, y + 28, "final exit" if k == last else f"exit {k}", size=18, look=f"c{k} bold"))
        parts.append(text(14, y + 49, f"{len(here) / SHOWN:.0%} of images", look="soft"))
        for column, i in enumerate(here[:in_a_row].tolist()):
            shown = Image.fromarray(pixels_BCHW[i].transpose(1, 2, 0))
            parts.append(image(left + column * (side + 6), y, side, shown))
    return picture(left + in_a_row * (side + 6) + 6, (last + 1) * (side + 8) + 8, parts)


def way() -> str:
    """An easy, a harder and a hard image: what each exit said, and how sure it was."""
    records, config = _records(), open_network(NETWORK).config
    names = config.class_names or []
    policy = config.exit_policy(BUDGET)
    confidences_KB = 1 / (1 + np.exp(-np.asarray(records.confidence_logits_KB)))
    answers_KB = records.answers().argmax(2)
    exits_B = np.argmax(np.vstack([confidences_KB > np.array(policy.thresholds)[:, None], np.ones(SHOWN)]), 0)
    right_B = records.correct()[exits_B, np.arange(SHOWN)]
    early_wrong_B = answers_KB[0] != records.labels_B
    last = len(records.head_macs)
    chosen = [np.flatnonzero((exits_B == k) & right_B & (early_wrong_B | (k == 0)))[0] for k in (0, 2, last)]
    parts, cell, left, high = [], 148, 110, 96
    for k in range(last + 1):
        name = "final exit" if k == last else f"exit {k}"
        parts.append(text(left + k * cell + 60, 26, name, "middle", size=16, look=f"c{k} bold"))
    for row, i in enumerate(chosen):
        y = 40 + row * high
        shown = Image.fromarray(np.asarray(_tested().pixels([int(i)]))[0].transpose(1, 2, 0))
        parts.append(image(14, y, 72, shown))
        for k in range(exits_B[i] + 1):
            x = left + k * cell
            parts.append(text(x + 60, y + 22, names[answers_KB[k, i]], "middle", size=15))
            if k < last:
                sure, least = float(confidences_KB[k, i]), policy.thresholds[k]
                parts += [box(x, y + 34, 120, 14, "panel", round_by=3)]
                parts += [box(x, y + 34, 120 * sure, 14, f"c{k}", round_by=3)]
                parts += [line(x + 120 * least, y + 30, x + 120 * least, y + 52, more='stroke-width="2"')]
                told = "leaves" if k == exits_B[i] else "goes on"
                parts += [text(x + 60, y + 68, f"{sure:.2f}: {told}", "middle", size=13, look="soft")]
            else:
                parts += [text(x + 60, y + 48, "always leaves here", "middle", size=13, look="soft")]
    told = f"Bar: confidence. Line: the threshold, {policy.thresholds[0]:.2f}."
    parts.append(text(14, 40 + len(chosen) * high + 16, told, size=14, look="soft"))
    return picture(left + (last + 1) * cell, 40 + len(chosen) * high + 30, parts)


def threshold() -> str:
    """Mean cost and accuracy as one threshold for all exits rises; the budget picks a threshold."""
    records = _records()
    confidences_KB = 1 / (1 + np.exp(-np.asarray(records.confidence_logits_KB)))
    costs_K, right_KB = np.array(records.costs()), records.correct()
    # logits spread thresholds that crowd near 1
    logits = np.linspace(-1.5, 7, 60)
    points = []
    for logit in logits:
        above_KB = np.vstack([confidences_KB > 1 / (1 + np.exp(-logit)), np.ones(SHOWN)])
        exits_B = above_KB.argmax(0)
        points.append((float(costs_K[exits_B].mean()), float(right_KB[exits_B, np.arange(SHOWN)].mean())))
    chosen = float(np.interp(BUDGET, [cost for cost, _ in points], logits))
    marks = (0.2, 0.5, 0.9, 0.99, 0.999)
    ticks = [(float(np.log(mark / (1 - mark))), f"{mark:g}") for mark in marks]
    span = (float(logits[0]), float(logits[-1]))
    cost = Chart((60, 50, 340, 230), span, (0, 1.1))
    parts = cost.frame(ticks, [(v / 5, f"{v / 5:g}") for v in range(6)], ("threshold", "mean relative cost"))
    parts += cost.curve([(x, c) for x, (c, _) in zip(logits, points, strict=True)], 0, dots=False)
    at = cost.y(BUDGET)
    parts += [line(cost.left, at, cost.x(chosen), at, "wire s3", more='stroke-dasharray="6 5"')]
    parts += [arrow(cost.x(chosen), at, cost.x(chosen), cost.top + cost.height - 3)]
    parts += [text(cost.left + 8, at - 8, f"budget {BUDGET}", size=14, look="c3 bold")]
    worth = Chart((490, 50, 340, 230), span, (0.8, 0.95))
    percents = [(v / 100, f"{v} %") for v in range(80, 96, 5)]
    parts += worth.frame(ticks, percents, ("threshold", "accuracy"))
    parts += worth.curve([(x, a) for x, (_, a) in zip(logits, points, strict=True)], 1, dots=False)
    met = float(np.interp(chosen, logits, [accuracy for _, accuracy in points]))
    parts += worth.curve([(chosen, met)], 3)
    parts += [text(worth.x(chosen) + 10, worth.y(met) + 20, f"{met:.1%}", size=14, look="c3 bold")]
    return picture(860, 335, parts)


def collapse() -> str:
    """Where images leave: for every λ of the published loss, and for every budget of one network of ours."""
    rows = results.read("collapse-digits", HARDWARE)
    parts, left = [], 60
    for trained, title, across in (
        ("v2", "published loss: a network for every λ", "λ, the weight of cost"),
        ("ours", "one network of ours, its budget changed", "budget"),
    ):
        mine = [row for row in rows if row["trained"] == trained]
        chart = Chart((left, 50, 370, 210), (-0.7, len(mine) - 0.3), (0, 1))
        ticks = [(i, row["setting"].split()[-1]) for i, row in enumerate(mine) if i % 2 == 0]
        parts += chart.frame(ticks, [(v / 4, f"{v * 25} %") for v in range(5)], (across, ""))
        parts.append(text(left - 8, 26, title, size=16, look="bold"))
        for i, row in enumerate(mine):
            low = 0.0
            for k, share in enumerate(float(each.strip(" %")) / 100 for each in row["exits"].split("/")):
                parts.append(chart.bar(i, 20, low, min(low + share, 1), COLOURS[k]))
                low += share
        left += 430
    names = list(zip(COLOURS, ("exit 0", "exit 1", "exit 2", "final exit"), strict=True))
    for i, name in enumerate(names):
        parts += legend(240 + i * 110, 332, [name])
    return picture(890, 350, parts)


def latency() -> str:
    """Milliseconds of an image by batch size, with early exits and without, ONNX Runtime."""
    rows = [row for row in results.read("runtime-backends", HARDWARE) if row["backend"] == "onnxruntime"]
    parts, left = [], 60
    shown = {
        "resnet20_cifar, trained": "ResNet-20",
        "resnet56_cifar": "ResNet-56",
        "resnet110_cifar": "ResNet-110",
    }
    for network, name in (shown | {"resnet50": "ResNet-50, 224 px"}).items():
        mine = [row for row in rows if row["network"] == network]
        each = [
            tuple(float(row[key]) / int(row["batch_size"]) for key in ("plain_ms", "early_exit_ms"))
            for row in mine
        ]
        most = max(plain for plain, _ in each) * 1.12
        chart = Chart((left, 60, 150, 200), (-0.6, len(mine) - 0.4), (0, most))
        step = next(size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if most / size < 6)
        up = [(step * i, f"{step * i:g}") for i in range(int(most / step) + 1)]
        parts += chart.frame([(i, row["batch_size"]) for i, row in enumerate(mine)], up, ("batch size", ""))
        parts.append(text(left - 8, 30, name, size=15, look="bold"))
        for i, (plain, early) in enumerate(each):
            parts += [chart.bar(i - 0.19, 17, 0, plain, 4), chart.bar(i + 0.19, 17, 0, early, 0)]
            parts += [text(chart.x(i), chart.y(plain) - 6, f"{plain / early:.1f} ×", "middle", size=13)]
        left += 210
    parts += legend(300, 332, [(4, "plain network")]) + legend(450, 332, [(0, "early exit")])
    return picture(890, 350, parts)


def race() -> str:
    """Accuracy against MACs of all that `eenet optimize` tried: as it is, and with early exit."""
    rows = [row for row in results.read("optimize-digits", HARDWARE) if row["precision"] == "fp32"]
    worth = [float(row["accuracy"]) for row in rows]
    low, high = floor(100 * min(worth)), ceil(100 * max(worth))
    most = max(int(row["macs"]) for row in rows) / 1e6
    chart = Chart((70, 40, 640, 330), (0, most * 1.08), (low / 100, high / 100))
    up = [(each / 100, f"{each} %") for each in range(low, high + 1)]
    across = [(each / 2, f"{each / 2:g}") for each in range(int(2 * most) + 1)]
    parts = chart.frame(across, up, ("million MACs of an image", "accuracy, validation images"))
    for i, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        mine = {
            row["early_exit"]: (int(row["macs"]) / 1e6, float(row["accuracy"]))
            for row in rows
            if row["name"] == name and not row.get("cut")
        }
        (plain_x, plain_y), (x, y) = ((chart.x(x), chart.y(y)) for x, y in (mine["False"], mine["True"]))
        parts += [line(plain_x, plain_y, x, y, f"s{i}", more='stroke-width="2.5" stroke-dasharray="3 5"')]
        parts += [box(plain_x - 6, plain_y - 6, 12, 12, f"c{i}", round_by=1)]
        parts += [f'<circle class="c{i}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>']
        parts += legend(735, 120 + 24 * i, [(i, name.replace("_cifar", ""))])
    parts += [text(735, 60, "square: plain", size=14), text(735, 80, "circle: early exit", size=14)]
    return picture(890, 425, parts)


PICTURES: list[Callable[[], str]] = [architecture, exits, way, threshold, collapse, latency, race]

if __name__ == "__main__":
    for draw in PICTURES:
        if not sys.argv[1:] or draw.__name__ in sys.argv[1:]:
            (IMAGES / f"{draw.__name__}.svg").write_text(draw(), "utf-8")
