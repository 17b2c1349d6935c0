"""Pareto fronts and rounds against brute force."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eenet.optimizing.halving import Point, pareto, rounds, survivors, within

POINTS = st.lists(st.builds(Point, st.integers(0, 4).map(float), st.integers(0, 4).map(float)), max_size=8)


@given(POINTS)
def test_the_front_is_what_nobody_beats(points: list[Point]) -> None:
    for point, on_front in zip(points, pareto(points), strict=True):
        beaten = False
        for other in points:
            no_worse = other.accuracy >= point.accuracy and other.cost <= point.cost
            better = other.accuracy > point.accuracy or other.cost < point.cost
            beaten = beaten or (no_worse and better)
        assert on_front == (not beaten)


@given(
    st.lists(st.lists(st.builds(Point, st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3), max_size=6)
)
def test_who_is_on_the_front_goes_on_before_who_is_not(networks: list[list[Point]]) -> None:
    named = {f"network {i}": points for i, points in enumerate(networks)}
    every = [point for points in networks for point in points]
    leading = {
        name
        for name, points in named.items()
        if any(best and point in points for point, best in zip(every, pareto(every), strict=True))
    }
    for keep in range(len(named) + 1):
        kept = survivors(named, keep)
        assert len(kept) == keep
        assert leading <= set(kept) or set(kept) <= leading


def test_the_order_of_names_does_not_matter() -> None:
    points = {str(i): [Point(i % 3, i % 4)] for i in range(8)}
    shuffled = list(points.items())
    random.Random(0).shuffle(shuffled)
    assert survivors(points, 4) == survivors(dict(shuffled), 4)


@given(
    st.floats(0, 300, allow_nan=False),
    st.integers(1, 12),
    st.integers(1, 8),
    st.floats(0, 5, allow_nan=False),
)
def test_as_many_epochs_as_the_time_allows(time: float, epochs: int, count: int, around: float) -> None:
    """Against a list of all trainings, where one of as many epochs is not repeated."""

    def takes(most: int) -> float:
        done = {(passes, i) for passes, field in rounds(most, count) for i in range(field)}
        return sum(passes + around for passes, _ in done)

    fits = [most for most in range(1, epochs + 1) if takes(most) <= time - 1e-9]
    almost = [most for most in range(1, epochs + 1) if takes(most) <= time + 1e-9]
    assert max(fits, default=1) <= within(time, epochs, count, around) <= max(almost, default=1)


def test_rounds_double_the_epochs_and_halve_the_field() -> None:
    assert rounds(12, 6) == [(3, 6), (6, 3), (12, 2)]
    assert rounds(12, 1) == [(12, 1)]
    assert rounds(1, 8) == [(1, 8), (1, 4), (1, 2)]
    for epochs in (1, 5, 30):
        for count in range(1, 12):
            found = rounds(epochs, count)
            assert found[-1][0] == epochs
            assert found[0][1] == count
            assert all(later <= -(-earlier // 2) for (_, earlier), (_, later) in pairwise(found))
            losers = sum(passes * field for passes, field in found)
            assert losers <= epochs * count * 1.5 + len(found) * count, "halving costs less than training all"


def test_epochs_are_as_many_as_there_is_time_for() -> None:
    for epochs in (1, 7, 24):
        for count in (1, 3, 8):

            def needed(most: int, count: int = count) -> int:
                return sum(passes * running for passes, running in rounds(most, count))

            for time in (0, 5, 40, 100, 10_000):
                most = within(time, epochs, count)
                assert 1 <= most <= epochs
                assert most == 1 or needed(most) <= time
                assert most == epochs or needed(most + 1) > time
