"""The section about photos of `docs/results/race.md`, from `benchmarks/results/optimize-photos-*.csv`."""

from collections.abc import Iterator

import results

from eenet.common import format_table

SECTION = """## Photos

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
- 400 validation images can't tell half a point. `eenet optimize` says so, with the interval."""


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


def photos() -> str:
    """The section."""
    tried = ["network", "epochs", "accuracy", "lost", "on test images", "MACs", "times as fast"]
    return SECTION.format(
        table=format_table(tried, list(optimized())),
        exits=exits_alone(),
        machine=results.hardware_of("optimize-photos"),
    )
