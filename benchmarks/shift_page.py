"""`benchmarks/results/shift-*.csv` and `drift-*.csv` → `docs/results/shift.md`.

python benchmarks/shift_page.py
"""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import mean

import results
from shift import ALPHA, CLEAN_LENGTH, DELTA, LENGTH, RISK, STREAMS

from eenet.common import format_table
from eenet.networks import open_network, shipped_checkpoints
from eenet.policies.risk import inputs_needed

FILE = Path(__file__).parents[1] / "docs/results/shift.md"
SEVERITIES = ("1", "3", "5")
Row = dict[str, str]


def main() -> None:
    """Write the page."""
    shift, drift = (by_network(results.everywhere(kind)) for kind in ("shift", "drift"))
    FILE.write_text(
        PAGE.format(
            missing=", ".join(f"`{name}`" for name in shipped_checkpoints() if name not in shift) or "none",
            needed=inputs_needed(RISK, DELTA),
            clean=CLEAN_LENGTH,
            length=LENGTH,
            streams=STREAMS,
            risk=RISK,
            delta=DELTA,
            alpha=ALPHA,
            damage="\n\n".join(means(name, rows) for name, rows in shift.items()),
            exits=format_table(
                ["network", "mean", "most", "where"],
                [[f"`{name}`", *lost(rows)] for name, rows in shift.items()],
            ),
            calibration=format_table(
                ["network", "clean", *(f"severity {severity}" for severity in SEVERITIES)],
                [[f"`{name}`", *trusted(rows)] for name, rows in shift.items()],
            ),
            alarms=format_table(
                ["network", "false alarms", *(f"severity {severity}" for severity in reversed(SEVERITIES))],
                [[f"`{name}`", *alarms(rows)] for name, rows in drift.items()],
            ),
            each="\n\n".join(kinds(name, rows, drift[name]) for name, rows in shift.items()),
        )
    )


def by_network(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each network, by its name."""
    return {name: list(group) for name, group in groupby(rows, key=itemgetter("checkpoint"))}


def means(name: str, rows: list[Row]) -> str:
    """Means over the kinds of damage, by severity."""
    budget = open_network(name).config.provenance["train_config"]["budget"]
    cells = []
    for severity in ("0", *SEVERITIES):
        some = at(rows, severity)
        broken = sum(float(row["guarantee_excess_error"]) > RISK for row in some)
        cells.append(
            [
                f"severity {severity}" if severity != "0" else "clean",
                share(some, "full_accuracy"),
                *(f"{share(some, f'{p}_accuracy')}, {cost(some, p)}" for p in ("learned", "max_softmax")),
                f"{share(some, 'guarantee_excess_error')}, {cost(some, 'guarantee')}",
                f"{broken} of {len(some)}" if severity != "0" else "–",
            ]
        )
    header = ["images", "full network", "learned, at cost", "max softmax, at cost"]
    header += ["guaranteed: excess error, at cost", f"above {RISK} in"]
    return f":::{{table}} `{name}`, budget {budget}\n\n{format_table(header, cells)}\n\n:::"


def lost(rows: list[Row]) -> list[str]:
    """By leaving early, against the full network: the mean at the highest severity, and the worst case."""
    worst = max(rows, key=less)
    where = f"{worst['corruption'].replace('_', ' ')}, severity {worst['severity']}"
    told = f"{float(worst['learned_accuracy']):.1%} instead of {float(worst['full_accuracy']):.1%}"
    return [f"{mean(map(less, at(rows, '5'))):.1f}", f"{less(worst):.1f}", f"{where}: {told}"]


def less(row: Row) -> float:
    """Points that the full network has more."""
    return 100 * (float(row["full_accuracy"]) - float(row["learned_accuracy"]))


def trusted(rows: list[Row]) -> list[str]:
    """Calibration errors."""
    return [
        f"{mean(float(row['learned_calibration_error']) for row in at(rows, severity)):.3f}"
        for severity in ("0", *SEVERITIES)
    ]


def alarms(rows: list[Row]) -> list[str]:
    """False ones, then how many kinds were noticed, and after how many images."""
    clean = at(rows, "0")[0]
    cells = [f"{clean['alarms']} of {clean['streams']}"]
    for severity in reversed(SEVERITIES):
        some = at(rows, severity)
        found = [float(row["median_images"]) for row in some if is_noticed(row)]
        after = f", after {min(found):.0f} to {max(found):.0f}" if found else ""
        cells.append(f"{len(found)} of {len(some)}{after}")
    return cells


def is_noticed(row: Row) -> bool:
    """In half of the streams or more."""
    return float(row["median_images"]) <= float(row["length"])


def kinds(name: str, rows: list[Row], drift: list[Row]) -> str:
    """Each kind of damage."""
    delays = {(row["corruption"], row["severity"]): row for row in drift}
    found = {(row["corruption"], row["severity"]): row for row in rows}
    cells = []
    for kind in dict.fromkeys(row["corruption"] for row in at(rows, "5")):
        watched = delays[kind, "5"]
        alarm = f"{float(watched['median_images']):.0f}" if is_noticed(watched) else f"> {watched['length']}"
        cells.append([kind.replace("_", " "), *(cell(found[kind, each]) for each in SEVERITIES), alarm])
    header = ["damage", *(f"severity {severity}" for severity in SEVERITIES), "alarm after, severity 5"]
    return f"### `{name}`\n\nClean images: {cell(at(rows, '0')[0])}.\n\n{format_table(header, cells)}"


def cell(row: Row) -> str:
    """Accuracy, that of the full network, and cost."""
    accuracy, full = float(row["learned_accuracy"]), float(row["full_accuracy"])
    return f"{accuracy:.1%} ({full:.1%}) at {float(row['learned_relative_cost']):.2f}"


def at(rows: list[Row], severity: str) -> list[Row]:
    """Rows of a severity; 0 is no damage."""
    return [row for row in rows if row["severity"] == severity]


def share(rows: list[Row], key: str) -> str:
    """The mean, in percent."""
    return f"{mean(float(row[key]) for row in rows):.2%}"


def cost(rows: list[Row], policy: str) -> str:
    """The mean relative cost."""
    return f"{mean(float(row[f'{policy}_relative_cost']) for row in rows):.3f}"


PAGE = """# Domain shift, measured

What damage does to accuracy, cost and guarantees, and how soon the drift alarm comes. How to measure your own
network stands in [the guide](../how-to/shift.md).

| question | answer |
| --- | --- |
| figures | `python benchmarks/shift.py CHECKPOINT` |
| shipped, and not measured | {missing} |
| this page | written by `python benchmarks/shift_page.py` |
| images | 2,000 test images, or two thirds of smaller sets; fifteen kinds of damage, five severities |
| learned | the checkpoint's own policy |
| max softmax | thresholds set for the same budget on the same validation images, by that score |
| guaranteed | `--risk {risk} --delta {delta}`, calibrated on the other test images; {needed} or more |

## By severity

Means over the fifteen kinds. A guarantee promises an excess error of at most {risk}.

{damage}

**Cost rises with damage**, because images that the network is unsure of run on. **A guarantee need not hold
under shift**: it is for images like those that it was calibrated on. The last column says how many kinds
break it.

## What early exits lose

How many points of accuracy the full network has more than the network that leaves early.

:::{{table}} Points: the mean at severity 5, and the most of any kind and severity

{exits}

:::

## Is the confidence still right?

A calibration error is the mean distance between what the answers' probabilities promise and how many answers
are right. Under damage it grows: damaged images are judged as if they were clean.

:::{{table}} Calibration error of the learned policy, mean over kinds

{calibration}

:::

## Drift alarm

`alpha` is {alpha}, and the depths of validation images are the calibration. A false alarm is one on clean
test images, drawn with replacement, {clean:,} in a stream. A kind of damage counts as noticed if the alarm
comes within {length} images in half of {streams} streams.

:::{{table}} False alarms among streams; kinds noticed, and after how many images (median)

{alarms}

:::

At severity 1 accuracy often doesn't fall either.

## Every kind of damage

The checkpoint's own policy. A cell holds the accuracy, in brackets that of the full network, and the measured
cost. The last column is the median number of images until the alarm.

{each}

## Where to go next

- How to use the alarm: [domain shift](../how-to/shift.md).
- Guarantees on images of the same kind: [thresholds, measured](thresholds.md).
"""


if __name__ == "__main__":
    main()
