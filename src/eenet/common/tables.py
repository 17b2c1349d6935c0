"""Markdown tables and lists of keys and values, readable as plain text too."""

from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *map(list, rows)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def lines(found: dict[str, Any]) -> str:
    """A key and its value a line; numbers to four digits."""
    return "\n".join(f"{key:<16} {_brief(value)}" for key, value in found.items())


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(held)}" for key, held in value.items())
    if isinstance(value, list):
        return ", ".join(map(_brief, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
