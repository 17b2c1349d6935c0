"""`race-*.csv` and `ingredients*.csv` in `benchmarks/results` → `docs/results/race-parts.md`."""

from collections.abc import Iterator

import results
from race import CASCADES, SHORT, TAUGHT
from race_parts_words import BRIEFLY, PAGE, TRAINING
from race_rows import CLOCKS, Row
from race_tables import PAGES, apart, beside_the_reference, clocks, listed

from eenet.common import format_table

MULTIPLES = [
    f"pruned-0.5-exits{by}{budget}"
    for by in ("", "-by-2")
    for budget in ("", ", budget 0.3", ", budget 0.4", ", budget 0.5", ", budget 0.6")
]  # the same network, with channels in multiples of 16 and 2
SIDE_BY_SIDE = {"": "never early", "0.300": "budget 0.3", "0.400": "budget 0.4", "0.500": "budget 0.5"}
LEVELS = (0.80, 0.82, 0.84, 0.86, 0.87)  # accuracies, after short trainings


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


def fastest(rows: list[Row]) -> str:
    """By each clock the fastest that is so accurate, static or not, with its time."""
    table = []
    for least in LEVELS:
        if fits := [row for row in rows if row.accuracy >= least]:
            best = [(key, min(fits, key=lambda row: row.ratios[key])) for key in CLOCKS]
            table.append([f"{least:.0%}", *(f"{row.told}: {row.ratios[key]:.2f}" for key, row in best)])
    return format_table(["at least", *clocks()], table)


def surely_lost(left_out: str) -> str:
    """How often leaving an ingredient out loses points beyond noise."""
    highs = [float(row["high"]) for row in results.read_found("ingredients") if row["left_out"] == left_out]
    return f"{sum(high < 0 for high in highs)} of {len(highs)}"


def write(by_macs: list[Row]) -> None:
    """Write the page."""
    short = beside_the_reference("race-short")
    page = PAGE.format(
        cascades=listed([row for row in by_macs if row.name in CASCADES]),
        taught=format_table(["network", *SIDE_BY_SIDE.values()], [*taught(by_macs), *taught(short)]),
        short=SHORT,
        multiples=listed([row for row in by_macs if row.told in MULTIPLES]),
        joined=surely_lost("joined answers"),
        gates=surely_lost("learned gates"),
        ingredients=ingredients(results.read_found("ingredients"), "network"),
        training=of_training(),
        briefly=apart(
            "race-short", BRIEFLY, ("0.400", "0.500", "0.600"), epochs=SHORT, fastest=fastest(short)
        ),
    )
    PAGES.joinpath("race-parts.md").write_text(page)
