"""`benchmarks/results/race-*.csv`, `networks-*.csv` and `optimize-photos-*.csv` → `docs/results/race.md`.

    python benchmarks/race_page.py

Says which static network is best within a number of MACs, which one with exits, and what leaving early adds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import results
from race import EQUAL, SHORT
from race_photos import photos
from race_picture import LOWEST, Line, draw

from eenet.common import format_table
from eenet.optimizing.halving import Point, pareto

FILE = Path(__file__).parents[1] / "docs/results/race.md"
PICTURE = FILE.parents[1] / "images/race-cifar10.svg"
DRAWN = {f"onnxruntime_{size}": f"ONNX Runtime, batch {size}" for size in (1, 64)}
EPOCHS = "60"
REFERENCE = "cifar10-eenet56"  # whose plain backbone is the unit of time
CLOCKS = {f"{backend}_{size}": (told, size) for backend, told in
          (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")) for size in (1, 64)}  # fmt: skip
BOUND = 63e6  # MACs, half a ResNet-56


@dataclass(frozen=True)
class Row:
    """A network at a budget."""

    name: str
    precision: str
    budget: str
    accuracy: float
    half_width: float
    macs: float
    ratios: dict[str, float]
    """Time as a part of the reference's."""

    @property
    def exits(self) -> bool:
        """Whether images leave early."""
        return bool(self.budget) and not self.cut

    @property
    def cut(self) -> bool:
        """Whether it ends behind one of its exits, for all images."""
        return self.budget.startswith("exit")

    @property
    def told(self) -> str:
        """In words."""
        told = f"{self.name}{', int8' if self.precision == 'int8' else ''}"
        if self.cut:
            return f"{told}, cut behind {self.budget}"
        return f"{told}, budget {float(self.budget):g}" if self.exits else told


def raced(table: str = "race-cifar10") -> list[Row]:
    """The networks of a table of `race.py`."""
    found = []
    for row in results.read_found(table):
        right, error, macs = (float(row[key]) for key in ("accuracy", "half_width_95", "macs"))
        ratios = {key: float(row[f"{key}_ratio"]) for key in CLOCKS}
        found.append(Row(row["network"], row["precision"], row["budget"], right, error, macs, ratios))
    return found


def trained_before(timed: list[Row]) -> Iterator[Row]:
    """Backbones of the table of networks, trained without exits; their times are those of their equals."""
    plain = {row.name: row for row in timed if not row.budget and row.precision == "fp32"}
    for row in results.everywhere("networks"):
        name = row["backbone"].removesuffix("_cifar")
        twin = plain.get(name.replace("resnet", "cifar10-eenet"))
        if (row["data"], row["epochs"], row["num_exits"]) == ("cifar10", EPOCHS, "0") and twin:
            right, images = float(row["accuracy"]), int(row["test_images"])
            error = 1.96 * (right * (1 - right) / images) ** 0.5
            yield Row(f"{name} (never with exits)", "fp32", "", right, error, twin.macs, twin.ratios)


def cells(row: Row) -> list[str]:
    """Of the table of all."""
    worth = f"{100 * row.accuracy:.2f} ± {100 * row.half_width:.2f}"
    times = [f"{row.ratios[key]:.2f}" if key in row.ratios else "–" for key in CLOCKS]
    return [row.told, worth, f"{row.macs / 1e6:.1f}", *times]


def over(row: Row, other: Row) -> str:
    """How far a row lies above another one, with the interval of a difference."""
    apart = 100 * (row.half_width**2 + other.half_width**2) ** 0.5
    return f"{100 * (row.accuracy - other.accuracy):+.2f} ± {apart:.2f} points"


def drawn(rows: list[Row]) -> Iterator[Line]:
    """The networks that were timed, for the picture."""
    for name, precision in dict.fromkeys((row.name, row.precision) for row in rows):
        own = [row for row in rows if (row.name, row.precision) == (name, precision)]
        early, static = (
            {key: [(row.ratios[key], row.accuracy) for row in own if row.exits is leaves] for key in DRAWN}
            for leaves in (True, False)
        )
        yield Line(name, precision, early, static)


def within(rows: list[Row], bound: float) -> str:
    """The best static network and the best with exits, by MACs alone."""
    table = []
    for told, exits in (("static", False), ("with exits", True)):
        fits = [row for row in rows if row.exits == exits and row.macs <= bound and row.precision == "fp32"]
        table.append([told, *cells(max(fits, key=lambda row: row.accuracy))[:3]])
    return format_table(["kind", "best network", "accuracy, %", "million MACs"], table)


def front(rows: list[Row], key: str) -> list[Row]:
    """By one clock, the static networks that no other static one beats, the fastest first."""
    static = sorted((row for row in rows if not row.exits), key=lambda row: row.ratios[key])
    static = [row for row in static if row.accuracy > LOWEST]
    on_front = pareto([Point(row.accuracy, row.ratios[key]) for row in static])
    return [row for row, best in zip(static, on_front, strict=True) if best]


def quickest(rows: list[Row]) -> Iterator[tuple[Row, list[tuple[Row, float] | None]]]:
    """The best static networks, and by each clock the fastest as accurate one that leaves early.

    With how many times as fast it is; None where another static network beats this one by that clock.
    """
    fronts = {key: [row.told for row in front(rows, key)] for key in CLOCKS}
    on_one = (row for row in rows if any(row.told in told for told in fronts.values()) and not row.exits)
    for static in sorted(on_one, key=lambda row: row.accuracy):
        equal = [row for row in rows if row.exits and row.accuracy >= static.accuracy - EQUAL]
        found: list[tuple[Row, float] | None] = []
        for key in CLOCKS:
            best = min(equal, key=lambda row: row.ratios[key], default=None)
            beside = best and static.told in fronts[key] and (best, static.ratios[key] / best.ratios[key])
            found.append(beside or None)
        yield static, found


def equally_good(rows: list[Row]) -> tuple[str, str]:
    """Two tables of `quickest`: how many times as fast, and which network that is."""
    times, names = [], []
    for static, found in quickest(rows):
        start = [static.told, f"{static.accuracy:.2%}"]
        times.append([*start, *(f"{each[1]:.2f}" if each else "–" for each in found)])
        names.append([static.told, *(each[0].told if each else "–" for each in found)])
    return (
        format_table(["static network", "accuracy", *clocks()], times),
        format_table(["static network", *clocks()], names),
    )


def compound(rows: list[Row]) -> Iterator[list[str]]:
    """For each clock: the fastest that loses at most half a point against the plain reference."""
    plain = next(row for row in rows if (row.name, row.precision, row.budget) == (REFERENCE, "fp32", ""))
    fits = [row for row in rows if row.accuracy >= plain.accuracy - 0.005]
    for key, (told, size) in CLOCKS.items():
        best = min(fits, key=lambda row: row.ratios[key])
        yield [f"{told}, {size}", best.told, f"{1 / best.ratios[key]:.2f}", over(best, plain)]


def efficiency() -> Iterator[list[str]]:
    """Of the shipped networks, from `race.py efficiency`: as they are, and as the clock would have them."""
    rows = results.read_found("race-efficiency")
    for name, clock in dict.fromkeys((row["network"], clock_of(row)) for row in rows):
        mine = {row["set_by"]: row for row in rows if (row["network"], clock_of(row)) == (name, clock)}
        own = mine.pop("MACs")
        quick = min(mine.values(), key=lambda row: float(row["early_exit_ms"]))
        answers = "alone" if "alone" in quick["set_by"] else "together"
        backend, size = CLOCKS[clock]
        yield [
            name,
            f"{backend}, {size}",
            *(cell for row in (own, quick) for cell in speed(row)),
            f"{quick['exits_on'] or 'none'}, {answers}",
        ]


def clock_of(row: dict[str, str]) -> str:
    """As in `CLOCKS`."""
    return f"{row['backend']}_{row['batch_size']}"


def speed(row: dict[str, str]) -> list[str]:
    """Accuracy, times as fast and what MACs promise, efficiency."""
    fast, promised, kept = (float(row[key]) for key in ("speedup", "mac_speedup", "efficiency"))
    return [f"{100 * float(row['accuracy']):.2f}", f"{fast:.2f} ({promised:.2f})", f"{kept:.2f}"]


def ingredients(rows: list[dict[str, str]], network: str) -> str:
    """What is lost without one, from `ingredients.py`; `network` is the column that says of which."""
    budgets = dict.fromkeys(row["budget"] for row in rows)
    table = []
    for name, out in dict.fromkeys((row[network], row["left_out"]) for row in rows if row["left_out"]):
        own = [row for row in rows if (row[network], row["left_out"]) == (name, out)]
        told = ([float(row[key]) for key in ("points", "low", "high")] for row in own)
        cells = (f"{points:+.2f} [{low:+.2f}, {high:+.2f}]" for points, low, high in told)
        table.append([name, out, *cells])
    return format_table([network, "left out", *(f"budget {budget}" for budget in budgets)], table)


def of_training() -> str:
    """The section about ingredients of training; nothing where none was measured."""
    rows = results.read_found("ingredients-of-training")
    if not rows:
        return ""
    return TRAINING.format(epochs=rows[0]["epochs"], table=ingredients(rows, "recipe"))


def trained_briefly() -> str:
    """The section about efficient backbones; nothing where none was measured."""
    rows = [row for row in raced("race-short") if row.name != REFERENCE]
    if not rows:
        return ""
    by_macs = sorted(rows, key=lambda row: (row.name, row.precision, row.macs))
    return BRIEFLY.format(
        epochs=SHORT,
        machine=results.hardware_of("race-short"),
        all=format_table(["network", "accuracy", "million MACs", *clocks()], [cells(row) for row in by_macs]),
    )


def on_newer() -> str:
    """The same of `REFERENCE` alone, on the machine of `trained_briefly`; nothing if it wasn't measured."""
    rows = [row for row in raced("race-short") if row.name == REFERENCE]
    if not rows:
        return ""
    return NEWER.format(table=format_table(FASTEST, list(compound(rows))))


def clocks() -> list[str]:
    """Columns of times."""
    return [f"{told}, {size}" for told, size in CLOCKS.values()]


def surely_lost(left_out: str) -> str:
    """How often leaving an ingredient out loses points beyond noise."""
    highs = [float(row["high"]) for row in results.read_found("ingredients") if row["left_out"] == left_out]
    return f"{sum(high < 0 for high in highs)} of {len(highs)}"


PAGE = """# Against smaller, pruned and int8 networks

Why not simply a smaller network? This page measures that. It is made by `python benchmarks/race_page.py` from
CSVs in `benchmarks/results`.

| what | value |
| --- | --- |
| data | CIFAR-10, 5,000 test images; thresholds are set on validation images |
| `{reference}` | a ResNet-56 with four exits, trained for {epochs} epochs |
| `cifar10-eenet20` | a ResNet-20 with three exits, likewise |
| `cifar10-eenet13` | a wide and short network with three exits, trained for 78 epochs [in three parts]\
(networks.md#the-resnet-13-in-three-parts), 18 of them with `cifar10-eenet56` as teacher |
| `pruned-0.4` | the ResNet-56, pruned to that share of its MACs and finetuned for 8 epochs, without exits |
| never with exits | the backbone alone, trained for {epochs} epochs, from [networks](networks.md) |
| no budget | the same network, where no image leaves early: a static network |
| cut behind exit 0 | the same network up to there, where all images leave: a smaller static network |
| int8 | quantised after training |
| times | {machine}; all in turns on the same batches; as a part of the plain ResNet-56's in float32 |
| commands | `python benchmarks/race.py train --out runs/race`, then `measure` |
| seeds | one. ± is half of a 95 % interval over the test images |

```{{figure}} ../images/race-cifar10.svg
:alt: Accuracy against measured time on CIFAR-10, of networks that leave early and of static ones.

Accuracy against time. Up and to the left is better. Below 88 % nothing is drawn.
```

## Within half of a ResNet-56

:::{{table}} The most accurate in float32, at most 63 million MACs

{within}

:::

## Equal accuracy on the clock

:::{{table}} How many times as fast as a static network the fastest is that is as accurate and leaves early

{quickest}

:::

As accurate is who gets at most 5 of the 5,000 images less. The static networks are those that no other static
one beats, from 88 % on. A dash: by that clock another one does. Below 1 the static network is faster.

:::{{table}} Which network that is

{names}

:::

## Everything together

:::{{table}} The fastest that loses at most 0.5 points against the plain ResNet-56 in float32

{compound}

:::

The interval of a difference takes the two networks for independent. They are measured on the same images, so
it is too wide.

{newer}
## How much of the promise is kept

:::{{table}} Times as fast as the network itself without leaving early, in brackets what MACs promise

{efficiency}

:::

The first three figures are of the network's own budget in MACs. Those of the `clock` are of thresholds for
the least time there, as `--for latency` sets them. On validation images these keep as much, up to 0.1 points,
by the full network's probabilities. Exits that don't pay are off then, and exits answer together or alone.

`efficiency` is ideal by measured time. In ideal time an image costs only its part of the plain network, and
exits cost nothing. `tiny-imagenet-50-eenet18` was measured on a processor with AVX-512, the others with AVX2.

## Which ingredients help

:::{{table}} Points of accuracy against the network with all of them; in brackets the 95 % interval

{ingredients}

:::

Training stays as it is. Left out is what comes after it. Joined answers: exits answer together. Gates: they
learn from validation images when to stop; without them the largest probability decides, or the entropy.
Without joined answers the interval lies below 0 in {joined} cells, without gates in {gates}. Thresholds are
set anew for each. `python benchmarks/ingredients.py after`.

{training}{briefly}## What this can't tell

- Whether pruning is worse. Eight epochs of finetuning are few: the pruned network has not come back to where
  it was. Torch-Pruning's own table has a ResNet-56 of 93.64 % at 0.39 of the MACs, after far more epochs.
  Ours with exits has 93.3 % at 0.41. Against that network nothing is won in MACs.
- Whether MobileNet or EfficientNet are worse after long trainings. A public MobileNetV2 × 0.5 has 92.88 % at
  28 million MACs, after 200 epochs. EfficientNet was not trained.
- What exits on a pruned network add. Its training was not finished.
- What a network as deep as a cut one is worth when it is trained alone. The cut ones were trained together
  with all that lies behind them.
- What a teacher gives. `cifar10-eenet13` had one for 18 epochs, no other network had. Cut behind an exit it
  is among the static networks too, so both sides gain by it.
- Anything about other seeds.

{photos}

## All networks

:::{{table}} Accuracy in percent, MACs of an image, and time by batch size

{all}

:::

## Where to go next

- The same race for your network on your machine: [`eenet optimize`](../how-to/optimize.md).
- [On the clock](runtime.md): where time goes that MACs don't show.
- [Other results](index.md).
"""
TRAINING = """## Which ingredients of training help

:::{{table}} Points of accuracy against the recipe as it is; in brackets the 95 % interval

{table}

:::

Each was trained for {epochs} epochs, from random weights, with one seed. These are short trainings: what
helps late doesn't show. Without joint training the backbone is trained alone for as long. The exits on it are
trained for half as many epochs more, and it stays as it is. Budgets are parts of the backbone's MACs, exits
counted. `python benchmarks/ingredients.py training`.

"""


FASTEST = ["clock", "network", "times as fast", "accuracy"]
NEWER = """The times above are from a processor with AVX2. Integers are faster with AVX-512 VNNI. There only
`cifar10-eenet56` was measured of the shipped networks:

:::{{table}} The same on an AMD EPYC with AVX-512

{table}

:::

"""
BRIEFLY = """## Efficient backbones, after short trainings

Each was trained for {epochs} epochs from random weights, with exits, by one recipe. Measured on {machine}
with AVX-512.

:::{{table}} Accuracy in percent, MACs of an image, and time as a part of the plain ResNet-56's

{all}

:::

After so few epochs the MobileNet is far behind at equal MACs and at equal time. This tells what a short
training gives, not what a long one would: a public MobileNetV2 × 0.5 has 92.88 % after 200 epochs.

"""


def main() -> None:
    """Write the page."""
    rows = raced()
    timed, rows = rows, [*rows, *trained_before(rows)]
    by_macs = sorted(rows, key=lambda row: (row.macs, row.precision))
    equal, names = equally_good(timed)
    page = PAGE.format(
        reference=REFERENCE,
        epochs=EPOCHS,
        machine=results.hardware_of("race-cifar10"),
        all=format_table(["network", "accuracy", "million MACs", *clocks()], [cells(row) for row in by_macs]),
        within=within(rows, BOUND),
        quickest=equal,
        names=names,
        compound=format_table(FASTEST, list(compound(rows))),
        newer=on_newer(),
        efficiency=format_table(
            [
                *("network", "where", "accuracy", "times as fast", "efficiency"),
                *("clock: accuracy", "clock: times as fast", "clock: efficiency", "clock: exits on, answers"),
            ],
            list(efficiency()),
        ),
        joined=surely_lost("joined answers"),
        gates=surely_lost("learned gates"),
        ingredients=ingredients(results.read_found("ingredients"), "network"),
        training=of_training(),
        briefly=trained_briefly(),
        photos=photos(),
    )
    FILE.write_text(page)
    PICTURE.write_text(draw(list(drawn(timed)), DRAWN), "utf-8")


if __name__ == "__main__":
    main()
