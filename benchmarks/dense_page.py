"""`benchmarks/results/{dense,peers,tiles}-*.csv` → `docs/results/dense.md`.

python benchmarks/dense_page.py

Each table is that of this hardware; where there is none, that of other hardware.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import results

from eenet.common import format_table

FILE = Path(__file__).parents[1] / "docs/results/dense.md"
SETS = {
    "nuclei": "Cell nuclei",
    "camvid": "Street scenes",
    "bccd": "Blood cells",
    "aquarium": "Animals in water",
    "stream": "A stream, half of it empty",
}
ABOUT = {
    "nuclei": "`nuclei`: nuclei under the microscope, 99 test images, mIoU of nucleus and background.",
    "camvid": "`camvid`: frames of videos taken from a car, 11 classes, 113 test images. Frames in a row are "
    "alike, so intervals draw them in blocks.",
    "bccd": "`bccd`: blood cells of three kinds, 54 test images, mAP.",
    "aquarium": "`aquarium`: seven kinds of animals, 95 test images, mAP. Leaving early loses nothing beyond "
    "noise here. But a smaller static network that was trained for longer before is more accurate, for fewer "
    "MACs: see the last table.",
    "stream": "2,000 frames of 128 × 128 pixels out of `nuclei`; half of them show background alone. mAP.",
}


def mean_and_error(values: list[float], digits: int = 2) -> str:
    """Over seeds; a single one has no error."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def over(rows: list[dict[str, str]], name: str) -> str:
    """Points more, and the mean ends of its intervals."""
    found = [[float(row[f"over_{name}{end}"]) for row in rows] for end in ("", "_low", "_high")]
    middle, low, high = map(mean, found)
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def compared(rows: list[dict[str, str]]) -> str:
    """A row for each budget, over seeds."""
    header = ["thresholds set on", "budget", "cost", "metric", "static"]
    header += ["over static", "over chance", "over the best cut"]
    boxes = "ap50" in rows[0]
    table = []
    for set_on, budget in sorted({(row["thresholds"], row["budget"]) for row in rows}):
        some = [row for row in rows if (row["thresholds"], row["budget"]) == (set_on, budget)]
        numbers = {
            key: [float(row[key]) for row in some]
            for key in ("cost", "metric", "static", *(("ap50", "static_ap50") if boxes else ()))
        }
        cells = [set_on, f"{float(budget):g}", mean_and_error(numbers["cost"], 3)]
        cells += [mean_and_error(numbers[key]) for key in ("metric", "static")]
        cells += [over(some, name) for name in ("static", "chance")]
        cells.append(over(some, "cut") if all(row["over_cut"] for row in some) else "–")
        cells += [mean_and_error(numbers[key]) for key in ("ap50", "static_ap50") if boxes]
        table.append(cells)
    return format_table(header + (["AP50", "static AP50"] if boxes else []), table)


def machines(names: Sequence[str]) -> str:
    """Where tables were made."""
    return " and ".join(dict.fromkeys(on for name in names if (on := results.hardware_of(name))))


def table_of(rows: list[dict[str, str]]) -> str:
    """A table of a CSV as it is."""
    keys = [key for key in rows[0] if any(row[key] for row in rows)]
    return format_table([key.replace("_", " ") for key in keys], [[row[key] for key in keys] for row in rows])


def sections() -> Iterator[str]:
    """What was measured, a data set after the other."""
    for name, title in SETS.items():
        if not (rows := results.read_found(f"dense-{name}")):
            continue
        seeds = len({row["seed"] for row in rows})
        dead = [
            f"exit {row['dead']} (seed {row['seed']}, budget {float(row['budget']):g}, {row['thresholds']})"
            for row in rows
            if row["dead"]
        ]
        made = machines([f"dense-{name}", *(f"{kind}-{name}" for kind in KINDS)])
        yield f"## {title}\n\n{ABOUT[name]} Measured on {made}."
        networks = "1 network" if seeds == 1 else f"{seeds} networks of other seeds"
        yield f":::{{table}} With exits, {networks}\n\n{compared(rows)}\n\n:::"
        yield f"Dead exits: {', '.join(dead) or 'none'}."
        for kind, told in KINDS.items():
            if rows := results.read_found(f"{kind}-{name}"):
                yield f":::{{table}} {told}\n\n{table_of(rows)}\n\n:::"


KINDS = {
    "dense-dial": "Mean cost of test images minus the budget, by what thresholds were set on",
    "dense-agree": "Engines against the slow reference, on parts of images of odd sizes",
    "dense-missed": "Images with objects that leave as empty: what was allowed, how often that was kept on "
    "the other half of the images, and how many of the empty images leave",
    "dense-times": "Time and MACs as a part of the static network's",
    "dense-served": "Behind `eenet serve`: images a second, and time as a part of the static network's",
    "peers": "Other static networks, trained by the same recipe: of segmentation-models-pytorch, and our own",
    "tiles": "Enlarged images, whole and in tiles of so many pixels + halo; time as a part of the first",
}
STARTED = "--model runs/start --placement"
AS_START = "--augmentation crop-flip-colour --set model_args={}"
COMMANDS = {
    "a start for the others": "tiny-imagenet-50-resnet34 --plain --out runs/start",
    "nuclei": "nuclei",
    "street scenes": f"camvid {STARTED} layer3.3 layer3.5",
    "blood cells": f"bccd {STARTED} layer3.1 layer3.3 layer3.5 {AS_START}",
    "a shorter start (***)": "tiny-imagenet-50 --model resnet34 --plain --epochs 16 "
    "--set 'model_args={channels=[16,48,128,320]}' --out runs/start-16",
    "animals in water (***)": f"aquarium {STARTED.replace('start', 'start-16')} layer3.1 layer3.3 layer3.5 "
    f"{AS_START} --epochs 32",
    "a static peer of it (***)": f"aquarium --model tiny-imagenet-50-eenet18 {AS_START} --epochs 40 --plain",
    "a stream (*)": f"nuclei-boxes {STARTED} layer1.2 layer2.3 {AS_START} --set standardise=false "
    "--data runs/stream --image-size 128 --epochs 30 --budget 0.5",
    "tiles of street scenes (**)": f"camvid {STARTED} layer2.3 layer3.1 layer3.4 --data runs/tiles "
    "--image-size 288 --epochs 15",
}
PAGE = """# Masks and boxes

What leaving early is worth in segmentation and detection. Made by `python benchmarks/dense_page.py` from CSVs
in `benchmarks/results`.

How to read the tables of networks with exits:

| column | holds |
| --- | --- |
| cost | mean MACs on test images, as a part of the static network's |
| metric | mIoU or mAP, in percent; mean over seeds ± standard error |
| static | the same backbone and decoder, trained without exits |
| over static | points more than that network |
| over chance | points more than as many images at each exit, but chosen by chance |
| over the best cut | points more than all images at one exit that costs no more |

In brackets stand 95 % intervals, drawn over the test images.

Thresholds are set on validation images. `eenet calibrate` can set them again, on images without masks or
boxes. Here *unlabelled* is that: set on one half of the test images without their truth, measured on the
other half. Where a table says how far the cost is from the budget, it has the mean and the spread (standard
deviation) over 20 random halves.

How the networks were trained, with `--seed 0`, `1` and `2`, once as it stands and once with `--plain`:

| data | command |
| --- | --- |
{commands}

(*) One seed. `python benchmarks/stream.py nuclei runs/stream --side 128` makes the stream.
(**) One seed, with exits only. `python benchmarks/tile_set.py camvid runs/tiles` makes the tiles.
(***) One seed. The peer is a smaller network that began from longer training on Tiny-ImageNet-50.

{sections}

## Where to go next

- How to train such networks: [segmentation](../tutorials/segment.md), [detection](../tutorials/detect.md).
- [Other results](index.md).
"""


if __name__ == "__main__":
    commands = "\n".join(f"| {data} | `eenet train {command}` |" for data, command in COMMANDS.items())
    page = PAGE.format(commands=commands, sections="\n\n".join(sections()))
    FILE.write_text(page)
