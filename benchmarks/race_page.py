"""`benchmarks/results/race-*.csv` and others → `race.md` in `docs/results`, and three more pages of the race.

    python benchmarks/race_page.py

Says which static network is best within a number of MACs, which one with exits, and what leaving early adds.
"""

from collections.abc import Iterator

import race_parts
import race_photos
import results
from race import EQUAL, TAUGHT
from race_picture import LOWEST, Line, draw
from race_rows import CLOCKS, EPOCHS, REFERENCE, Row, over, raced, trained_before
from race_tables import PAGES, clocks, listed, machine
from race_words import ALL, PAGE

from eenet.common import format_table
from eenet.optimizing.halving import Point, pareto

PICTURE = PAGES.parent / "images/race-cifar10.svg"
DRAWN = {f"onnxruntime_{size}": f"ONNX Runtime, batch {size}" for size in (1, 64)}
FASTEST = ["clock", "network", "times as fast", "accuracy"]
NOT_DRAWN = (TAUGHT, "-by-2", "resnet13-pruned")  # ends of names: there are as many colours as others
BOUNDS = (15, 20, 25, 35, 50, 63)  # million MACs; the last is half a ResNet-56
LEVELS = (0.88, 0.89, 0.90, 0.91, 0.92, 0.93, 0.935)  # accuracies


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


def within(rows: list[Row]) -> Iterator[list[str]]:
    """The best static network and the best with exits, by MACs alone."""
    for bound in BOUNDS:
        fits = [row for row in rows if row.macs <= 1e6 * bound and row.precision == "fp32"]
        static, early = (
            max((row for row in fits if row.exits == exits), key=lambda row: row.accuracy)
            for exits in (False, True)
        )
        told = [f"{row.told}: {100 * row.accuracy:.2f}" for row in (static, early)]
        yield [str(bound), *told, over(early, static)]


def times_as_fast(rows: list[Row]) -> Iterator[list[str]]:
    """By accuracy and clock: the time of the fastest static network by that of the fastest with exits."""
    for least in LEVELS:
        told = [f"{100 * least:g} %"]
        for key in CLOCKS:
            fits = [row for row in rows if row.accuracy >= least and key in row.ratios]
            static, early = (
                min((row.ratios[key] for row in fits if row.exits is exits), default=None)
                for exits in (False, True)
            )
            told.append(f"{static / early:.2f}" if static and early else "–")
        yield told


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


def main() -> None:
    """Write the pages and the picture."""
    timed = raced()
    by_budget = [row for row in timed if not row.clock]
    rows = [*by_budget, *trained_before(by_budget)]
    by_macs = sorted(rows, key=lambda row: (row.macs, row.precision))
    equal, names = equally_good(timed)
    by_bound = list(within(rows))
    page = PAGE.format(
        short=format_table(["at least", *clocks()], list(times_as_fast(timed))),
        most=BOUNDS[-1],
        gain=by_bound[-1][-1],
        within=format_table(["at most", "static", "with exits", "gain"], by_bound),
        quickest=equal,
        names=names,
        compound=format_table(FASTEST, list(compound(timed))),
        efficiency=format_table(
            [
                *("network", "where", "accuracy", "times as fast", "efficiency"),
                *("clock: accuracy", "clock: times as fast", "clock: efficiency", "clock: exits on, answers"),
            ],
            list(efficiency()),
        ),
        kept_on=machine("race-efficiency"),
        reference=REFERENCE,
        epochs=EPOCHS,
        machine=machine("race-cifar10"),
    )
    PAGES.joinpath("race.md").write_text(page)
    PAGES.joinpath("race-all.md").write_text(ALL.format(all=listed(by_macs)))
    race_parts.write(by_macs)
    race_photos.write()
    PICTURE.write_text(draw(list(drawn(by_budget)), DRAWN), "utf-8")


if __name__ == "__main__":
    main()
