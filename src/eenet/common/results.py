"""What verbs return: frozen dataclasses that print as tables and turn into JSON."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any


class Result:
    """Base of results. Fields that don't apply are None."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; optional fields that don't apply are left out."""
        found = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                found[field.name] = _plain(value)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
