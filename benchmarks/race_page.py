"""`benchmarks/results/race-*.csv`, `networks-*.csv` and `optimize-photos-*.csv` → `docs/results/race.md`.

    python benchmarks/race_page.py

Says which static network is best within a number of MACs, which one with exits, and what leaving early adds.
"""

from collections.abc import Iterator
from pathlib import Path

import results
from race import CASCADES, EQUAL, PHOTOS, SHORT, TAUGHT
from race_photos import photos
from race_picture import LOWEST, Line, draw
from race_rows import CLOCKS, EPOCHS, REFERENCE, Row, over, raced, trained_before
from race_words import BRIEFLY, ON_PHOTOS, PAGE, TRAINING

from eenet.common import format_table
from eenet.optimizing.halving import Point, pareto

FILE = Path(__file__).parents[1] / "docs/results/race.md"
PICTURE = FILE.parents[1] / "images/race-cifar10.svg"
DRAWN = {f"onnxruntime_{size}": f"ONNX Runtime, batch {size}" for size in (1, 64)}
FASTEST = ["clock", "network", "times as fast", "accuracy"]
MULTIPLES = [
    f"pruned-0.5-exits{by}{budget}"
    for by in ("", "-by-2")
    for budget in ("", ", budget 0.3", ", budget 0.4", ", budget 0.5", ", budget 0.6")
]  # the same network, with channels in multiples of 16 and 2
NOT_DRAWN = (TAUGHT, "-by-2", "resnet13-pruned")  # ends of names: there are as many colours as others
SIDE_BY_SIDE = {"": "never early", "0.300": "budget 0.3", "0.400": "budget 0.4", "0.500": "budget 0.5"}
BOUNDS = (15, 20, 25, 35, 50, 63)  # million MACs; the last is half a ResNet-56
LEVELS = (0.80, 0.82, 0.84, 0.86, 0.87)  # accuracies, after short trainings


def cells(row: Row) -> list[str]:
    """Of the table of all."""
    worth = f"{100 * row.accuracy:.2f} ± {100 * row.half_width:.2f}"
    times = [f"{row.ratios[key]:.2f}" if key in row.ratios else "–" for key in CLOCKS]
    return [row.told, worth, f"{row.macs / 1e6:.1f}", *times]


def drawn(rows: list[Row]) -> Iterator[Line]:
    """The networks that were timed, for the picture."""
    for name, precision in dict.fromkeys((row.name, row.precision) for row in rows):
        own = [row for row in rows if (row.name, row.precision) == (name, precision)]
        if name.endswith(NOT_DRAWN) or max(row.accuracy for row in own) < LOWEST:
            continue
        early, static = (
            {key: [(row.ratios[key], row.accuracy) for row in own if row.exits is leaves] for key in DRAWN}
            for leaves in (True, False)
        )
        yield Line(name, precision, early, static)


def within(rows: list[Row]) -> str:
    """The best static network and the best with exits, by MACs alone."""
    table = []
    for bound in BOUNDS:
        fits = [row for row in rows if row.macs <= 1e6 * bound and row.precision == "fp32"]
        static, early = (
            max((row for row in fits if row.exits == exits), key=lambda row: row.accuracy)
            for exits in (False, True)
        )
        told = [f"{row.told}: {100 * row.accuracy:.2f}" for row in (static, early)]
        table.append([str(bound), *told, over(early, static)])
    return format_table(["at most", "static", "with exits", "gain"], table)


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
            timed = (row for row in equal if key in row.ratios)
            best = min(timed, key=lambda row: row.ratios[key], default=None)
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
        best = min((row for row in fits if key in row.ratios), key=lambda row: row.ratios[key])
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


def taught(rows: list[Row]) -> Iterator[list[str]]:
    """Accuracy without teachers and with them, in float32, of networks that are the same but for these."""
    found = {(row.name, row.budget): row for row in rows if row.precision == "fp32"}
    for name in dict.fromkeys(name for name, _ in found):
        pairs = [(found.get((name, key)), found.get((name + TAUGHT, key))) for key in SIDE_BY_SIDE]
        whole, other = pairs[0]
        if whole and other and whole.macs == other.macs:
            both = (f"{100 * a.accuracy:.2f} → {100 * b.accuracy:.2f}" if a and b else "–" for a, b in pairs)
            yield [name, *both]


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
    rows = results.read_found("ingredients-of-training-svhn-10k")
    if not rows:
        return ""
    return TRAINING.format(**rows[0], table=ingredients(rows, "recipe"))


def beside_the_reference(table: str) -> list[Row]:
    """A table's networks but for the one that gives the unit of time."""
    return [row for row in raced(table) if row.name != REFERENCE and not row.clock]


def apart(table: str, section: str, budgets: tuple[str, ...] = (), **told: object) -> str:
    """A section about a table of networks of its own; nothing where none was measured.

    `budgets`: of the rows that are listed, beside those that don't leave early. Default: all, cuts too.
    """
    rows = beside_the_reference(table)
    if not rows:
        return ""
    shown = [row for row in rows if not budgets or row.budget in ("", *budgets)]
    by_macs = sorted(shown, key=lambda row: (row.name, row.precision, row.macs))
    return section.format(machine=machine(table), all=listed(by_macs), **told)


def fastest(rows: list[Row]) -> str:
    """By each clock the fastest that is so accurate, static or not, with its time."""
    table = []
    for least in LEVELS:
        if fits := [row for row in rows if row.accuracy >= least]:
            best = [(key, min(fits, key=lambda row: row.ratios[key])) for key in CLOCKS]
            table.append([f"{least:.0%}", *(f"{row.told}: {row.ratios[key]:.2f}" for key, row in best)])
    return format_table(["at least", *clocks()], table)


def listed(rows: list[Row]) -> str:
    """A table of networks, as ordered."""
    return format_table(["network", "accuracy", "million MACs", *clocks()], [cells(row) for row in rows])


def machine(table: str) -> str:
    """What a table was measured on, with the processor's instructions."""
    told = sorted({row["instructions"] for row in results.read_found(table)})
    return f"{results.hardware_of(table)} with {' and '.join(told)}"


def clocks() -> list[str]:
    """Columns of times."""
    return [f"{told}, {size}" for told, size in CLOCKS.values()]


def surely_lost(left_out: str) -> str:
    """How often leaving an ingredient out loses points beyond noise."""
    highs = [float(row["high"]) for row in results.read_found("ingredients") if row["left_out"] == left_out]
    return f"{sum(high < 0 for high in highs)} of {len(highs)}"


def main() -> None:
    """Write the page."""
    timed = raced()
    by_budget = [row for row in timed if not row.clock]
    rows = [*by_budget, *trained_before(by_budget)]
    by_macs = sorted(rows, key=lambda row: (row.macs, row.precision))
    equal, names = equally_good(timed)
    page = PAGE.format(
        reference=REFERENCE,
        epochs=EPOCHS,
        machine=machine("race-cifar10"),
        all=listed(by_macs),
        within=within(rows),
        quickest=equal,
        names=names,
        multiples=listed([row for row in by_macs if row.told in MULTIPLES]),
        cascades=listed([row for row in by_macs if row.name in CASCADES]),
        most=BOUNDS[-1],
        compound=format_table(FASTEST, list(compound(timed))),
        kept_on=machine("race-efficiency"),
        efficiency=format_table(
            [
                *("network", "where", "accuracy", "times as fast", "efficiency"),
                *("clock: accuracy", "clock: times as fast", "clock: efficiency", "clock: exits on, answers"),
            ],
            list(efficiency()),
        ),
        taught=format_table(
            ["network", *SIDE_BY_SIDE.values()],
            [*taught(rows), *taught(beside_the_reference("race-short"))],
        ),
        short=SHORT,
        joined=surely_lost("joined answers"),
        gates=surely_lost("learned gates"),
        ingredients=ingredients(results.read_found("ingredients"), "network"),
        training=of_training(),
        briefly=apart(
            "race-short",
            BRIEFLY,
            ("0.400", "0.500", "0.600"),
            epochs=SHORT,
            fastest=fastest(beside_the_reference("race-short")),
        ),
        on_photos=apart("race-photos", ON_PHOTOS, size=PHOTOS["image_size"], epochs=PHOTOS["epochs"]),
        photos=photos(),
    )
    FILE.write_text(page)
    PICTURE.write_text(draw(list(drawn(by_budget)), DRAWN), "utf-8")


if __name__ == "__main__":
    main()
