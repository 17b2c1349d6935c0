"""How a verb's result is printed: as text, or as JSON."""

import json
from collections.abc import Callable
from typing import Any


def show(found: Any, as_json: bool, *, text: Callable[[], str] | None = None) -> int:
    """Print a result or a list of them, and return the exit code 0.

    Args:
        found: `Result`s.
        as_json: one JSON object and nothing else.
        text: what to print otherwise. Default: what the result says of itself.
    """
    if as_json:
        values = [row.to_dict() for row in found] if isinstance(found, list) else found.to_dict()
        print(json.dumps(values))
    else:
        print(text() if text else found)
    return 0
