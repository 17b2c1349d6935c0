"""Markdown tables and lists of keys and values, readable as plain text too."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *map(list, rows)]
    return "\n".join(format_row(line, widths) for line in lines)


def format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of such a table."""
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def lines(found: dict[str, Any]) -> str:
    """A key and its value a line, as wide as the terminal; numbers to four digits."""
    return "\n".join(_indented(f"{key:<16} {_brief(value)}") for key, value in found.items())


def wrapped(text: str, indent: int = 0) -> str:
    """A paragraph as wide as the terminal; lines after the first are indented."""
    width = max(shutil.get_terminal_size((110, 24)).columns, 40)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_long_words=False)


def counted(number: int, noun: str) -> str:
    """Such as `1 epoch` and `2 epochs`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _indented(line: str) -> str:
    return line if "\n" in line else wrapped(line, 17)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(held)}" for key, held in value.items())
    if isinstance(value, list):
        return ", ".join(map(_brief, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
