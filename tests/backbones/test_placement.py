"""Placements: the paper's formulas, and the rule of the first free cut."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eenet.backbones.placement import PLACEMENTS, place

CUTS = [(f"block{i}", i / 10) for i in range(1, 10)]


def test_formulas() -> None:
    phi = (1 + math.sqrt(5)) / 2
    expected = {
        "linear": [0.25, 0.5, 0.75],
        "pareto": [0.2, 0.36, 0.488],
        "golden": [phi**-3, phi**-2, phi**-1],
        "fine": [0.05, 0.0975, 0.142625],
    }
    assert {name: rule(3) for name, rule in PLACEMENTS.items()} == {
        name: pytest.approx(values) for name, values in expected.items()
    }


@given(
    st.lists(st.floats(0.001, 0.99), min_size=1, max_size=12, unique=True),
    st.sampled_from(sorted(PLACEMENTS)),
    st.integers(1, 12),
)
def test_first_free_cut_at_or_after(fractions: list[float], placement: str, num_exits: int) -> None:
    """Against the rule told in words: for each wanted fraction, scan for the first free cut."""
    cuts = [(f"b{i}", fraction) for i, fraction in enumerate(sorted(fractions))]
    free, expected = list(range(len(cuts))), []
    for wanted in PLACEMENTS[placement](num_exits):
        after = [i for i in free if cuts[i][1] >= wanted and (not expected or i > expected[-1])]
        expected += after[:1]
        free = [i for i in free if i not in expected]
    if len(expected) == num_exits:
        assert place(cuts, num_exits, placement) == expected
    else:
        with pytest.raises(ValueError, match="at most") as refused:
            place(cuts, num_exits, placement)
        most = int(str(refused.value).split("at most ")[1].split()[0])
        assert most < num_exits
        assert ("can name any of its cuts: b0" in str(refused.value)) == (num_exits <= len(cuts))
        if most:
            assert len(place(cuts, most, placement)) == most
        with pytest.raises(ValueError, match="too many"):
            place(cuts, most + 1, placement)


def test_explicit_fractions_and_names() -> None:
    assert place(CUTS, None, [0.65, 0.15]) == [1, 6]
    assert place(CUTS, 2, [0.35, 0.31]) == [3, 4]
    assert place(CUTS, None, ["block7", "block2"]) == [1, 6]


@pytest.mark.parametrize(
    ("num_exits", "placement", "message"),
    [
        (0, "linear", "num_exits is 0"),
        (-1, "linear", "at least 1"),
        (None, "linear", "needs num_exits"),
        (2, "linaer", "unknown placement"),
        (3, [0.5], "lists 1 places"),
        (None, [], "empty"),
        (None, [0.5, 1.5], "between 0 and 1"),
        (None, [0.95], "no free cut"),
        (None, ["block22"], "did you mean block2"),
        (None, ["block2", "block2"], "twice"),
        (None, ["block2", 0.5], "not both"),
    ],
)
def test_refusals(num_exits: int | None, placement: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(CUTS, num_exits, placement)  # pyright: ignore[reportArgumentType]


def test_no_cuts() -> None:
    with pytest.raises(ValueError, match="no cut"):
        place([], 1)
