"""What verbs return: frozen dataclasses that print as tables and turn into JSON."""

from dataclasses import asdict, fields
from typing import Any


class Result:
    """Base of results. Fields that don't apply are None."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; optional fields that don't apply are left out."""
        left_out = {
            field.name
            for field in fields(self)  # type: ignore[arg-type]
            if field.default is None and getattr(self, field.name) is None
        }
        return {key: value for key, value in asdict(self).items() if key not in left_out}  # type: ignore[call-overload]
