"""Tables of networks, as the pages of the race show them."""

from pathlib import Path

import results
from race_rows import CLOCKS, REFERENCE, Row, raced

from eenet.common import format_table

PAGES = Path(__file__).parents[1] / "docs/results"


def clocks() -> list[str]:
    """Columns of times."""
    return [f"{told}, {size}" for told, size in CLOCKS.values()]


def cells(row: Row) -> list[str]:
    """Of the table of all."""
    worth = f"{100 * row.accuracy:.2f} ± {100 * row.half_width:.2f}"
    times = [f"{row.ratios[key]:.2f}" if key in row.ratios else "–" for key in CLOCKS]
    return [row.told, worth, f"{row.macs / 1e6:.1f}", *times]


def listed(rows: list[Row]) -> str:
    """A table of networks, as ordered."""
    return format_table(["network", "accuracy", "million MACs", *clocks()], [cells(row) for row in rows])


def machine(table: str) -> str:
    """What a table was measured on, with the processor's instructions."""
    told = sorted({row["instructions"] for row in results.read_found(table)})
    return f"{results.hardware_of(table)} with {' and '.join(told)}"


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
