"""`benchmarks/results/optimize-photos-*.csv` and `race-photos-*.csv` → `docs/results/race-photos.md`."""

from collections.abc import Iterator

import results
from race import PHOTOS
from race_tables import PAGES, apart

from eenet.common import format_table

PAGE = """# The race on photos

Static networks against those that leave early, on Imagenette. [The race on CIFAR-10](race.md) is longer, and
says what the names mean.

{on_photos}## What `eenet optimize` finds

`eenet optimize resnet18 --weights mine.pth --data photos/ --set image_size=128 --max-drop 0.5 --minutes 30`,
killed after 12 minutes and started again. The photos are 2,000 of Imagenette, 400 of them for validation. The
given ResNet-18 was trained on the others by plain PyTorch, from random weights, for 12 epochs. Measured on
{machine}.

:::{{table}} What was tried, the fastest first. Accuracy in percent and points lost, on validation images

{table}

:::

:::{{table}} The winner, on test images: its exits by themselves

{exits}

:::

How to read this:

- The given network is weak, since its training images are few. So its first exit alone is nearly as accurate.
  That is a smaller static network, found by training exits.
- Training the exits took a third of the time. All others had one or two epochs. For networks with random
  weights that is far too few. So nothing here says that MobileNet or EfficientNet are worse.
- The rows of int8 with early exit are from before that was made faster ([export](export.md#int8-with-exits)).
- 400 validation images can't tell half a point. `eenet optimize` says so, with the interval.

## Where to go next

- The same for your photos: [`eenet optimize`](../how-to/optimize.md).
- [Your own photos](own-photos.md): exits for a trained network, and few photos.
"""
ON_PHOTOS = """## Static and with exits

A ResNet-18 on Imagenette, 3,150 training photos of {size} pixels, {epochs} epochs from random weights: once
with exits and once without, by one recipe. 1,250 test photos. Measured on {machine}.

:::{{table}} Accuracy in percent, MACs of a photo, and time as a part of the plain ResNet-18's in float32

{all}

:::

The plain network is the least accurate. There are few photos, and the losses of early exits help then. The
strongest static rival is the network with exits, cut behind its second one. Leaving early is faster than that
at equal accuracy, and hardly so in int8.

"""


def optimized() -> Iterator[list[str]]:
    """What `eenet optimize` tried on photos."""
    for row in results.read_found("optimize-photos"):
        drop = f"{float(row['drop']):+.2f}"
        cut = f", cut behind exit {row['cut']}" if row.get("cut") else ""
        told = f"{row['name']}, {row['precision']}{', early exit' if row['early_exit'] == 'True' else cut}"
        test = f"{100 * float(row['test_accuracy']):.2f}" if row["test_accuracy"] else "–"
        worth = [f"{100 * float(row['accuracy']):.2f}", drop, test]
        yield [
            told,
            row["epochs"],
            *worth,
            f"{float(row['relative_cost']):.2f}",
            f"{float(row['speedup']):.2f}",
        ]


def exits_alone() -> str:
    """Of the winner on photos."""
    rows = results.read_found("optimize-photos-exits")
    table = [
        [str(i), f"{float(row['cost']):.3f}", f"{float(row['share']):.1%}", f"{float(row['accuracy']):.2%}"]
        for i, row in enumerate(rows)
    ]
    return format_table(["exit", "cost", "images that leave here", "accuracy, if all left here"], table)


def write() -> None:
    """Write the page."""
    tried = ["network", "epochs", "accuracy", "lost", "on test images", "MACs", "times as fast"]
    page = PAGE.format(
        on_photos=apart("race-photos", ON_PHOTOS, size=PHOTOS["image_size"], epochs=PHOTOS["epochs"]),
        table=format_table(tried, list(optimized())),
        exits=exits_alone(),
        machine=results.hardware_of("optimize-photos"),
    )
    PAGES.joinpath("race-photos.md").write_text(page)
