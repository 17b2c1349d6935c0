"""Who is better than whom when accuracy and cost both count, and who goes on to the next round."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """Something measured."""

    accuracy: float
    cost: float
    """Milliseconds or MACs: less is better."""


def dominates(one: Point, other: Point) -> bool:
    """Whether it is at least as good in both, and better in one."""
    return one.accuracy >= other.accuracy and one.cost <= other.cost and one != other


def pareto(points: Sequence[Point]) -> list[bool]:
    """For each point, whether no other dominates it."""
    return [not any(dominates(other, point) for other in points) for point in points]


def survivors(points: Mapping[str, Sequence[Point]], keep: int) -> list[str]:
    """The names of those who go on: by how many others' points dominate their best one, then by accuracy.

    Args:
        points: of each name, whatever it can be used as.
        keep: how many go on.
    """

    def rank(name: str) -> tuple[int, float]:
        others = [point for other, found in points.items() if other != name for point in found]
        return min((sum(dominates(o, p) for o in others), -p.accuracy) for p in points[name])

    return sorted(points, key=lambda name: (rank(name), name))[:keep]


def rounds(epochs: int, count: int) -> list[tuple[int, int]]:
    """How many epochs each round takes, and with how many it begins: both halve or double, to `epochs`.

    >>> rounds(12, 6)
    [(3, 6), (6, 3), (12, 2)]

    Hyperband's successive halving, Jamieson & Talwalkar 2016, with every training from its start.
    """
    number = min(max(1, math.ceil(math.log2(max(count, 1)))), 3)
    found, left = [], count
    for i in reversed(range(number)):
        found.append((max(1, round(epochs / 2**i)), left))
        left = math.ceil(left / 2)
    return found


def within(time: float, epochs: int, count: int, around: float = 0.0) -> int:
    """The most epochs, up to `epochs` and at least one, whose rounds take no more than so much in all.

    A round of as many epochs as the one before trains nothing again.

    >>> within(40, 12, 6), sum(passes * running for passes, running in rounds(8, 6))
    (8, 40)

    Args:
        time: that there is, in epochs of one network.
        epochs: wanted.
        count: networks that begin.
        around: what a training takes beside its epochs, in epochs of one network.
    """

    def needed(most: int) -> float:
        field = dict(reversed(rounds(most, count)))
        return sum((passes + around) * running for passes, running in field.items())

    return max((most for most in range(1, epochs + 1) if needed(most) <= time), default=1)
