"""Results turn into plain values: what doesn't apply is left out, what is empty stays."""

from dataclasses import dataclass

from eenet.common.results import Result


@dataclass(frozen=True, kw_only=True)
class Row(Result):
    name: str
    values: list[float | None]
    nothing: float | None
    optional: float | None = None


def test_optional_fields_are_left_out() -> None:
    row = Row(name="a", values=[None, 1.0], nothing=None)
    assert row.to_dict() == {"name": "a", "values": [None, 1.0], "nothing": None}
    assert Row(name="a", values=[], nothing=1.0, optional=0.0).to_dict()["optional"] == 0.0


@dataclass(frozen=True, kw_only=True)
class Table(Result):
    rows: list[Row]
    best: Row


def test_results_inside_results_do_the_same() -> None:
    row = Row(name="a", values=[], nothing=None)
    assert Table(rows=[row], best=row).to_dict() == {"rows": [row.to_dict()], "best": row.to_dict()}
