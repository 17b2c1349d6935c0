"""Where the exits go: fractions of the backbone's MACs at which an early exit is placed."""

import difflib
import textwrap
from collections.abc import Callable, Sequence


def linear(num_exits: int) -> list[float]:
    """Evenly spaced: `k / (num_exits + 1)`. Demir & Akbas 2024, section 3."""
    return [k / (num_exits + 1) for k in range(1, num_exits + 1)]


def pareto(num_exits: int) -> list[float]:
    """80/20 principle: `1 - 0.8^k`. Demir & Akbas 2024, section 3."""
    return [1 - 0.8**k for k in range(1, num_exits + 1)]


def golden(num_exits: int) -> list[float]:
    """Golden ratio: `phi^(k - num_exits - 1)`. Demir & Akbas 2024, section 3."""
    phi = (1 + 5**0.5) / 2
    return [phi ** (k - num_exits - 1) for k in range(1, num_exits + 1)]


def fine(num_exits: int) -> list[float]:
    """Finer than pareto, more exits early on: `1 - 0.95^k`. Demir & Akbas 2024, section 3."""
    return [1 - 0.95**k for k in range(1, num_exits + 1)]


PLACEMENTS: dict[str, Callable[[int], list[float]]] = {
    "linear": linear,
    "pareto": pareto,
    "golden": golden,
    "fine": fine,
}

Placement = str | Sequence[float] | Sequence[str]


def place(
    cuts: Sequence[tuple[str, float]], num_exits: int | None = None, placement: Placement = "linear"
) -> list[int]:
    """Choose the cuts that get an early exit.

    Each wanted fraction takes the first free cut at or after it.

    Args:
        cuts: name and fraction of the backbone's MACs of every cut, in running order.
        num_exits: how many early exits. May be left out when `placement` is a list.
        placement: one of `PLACEMENTS`, a list of fractions in (0, 1), or a list of cut names.

    Returns:
        Increasing indices into `cuts`.

    Raises:
        ValueError: unknown placement or cut name, or more exits than the backbone can take.
    """
    if not cuts:
        raise ValueError(
            "the backbone has no cut, a place where a single feature map is alive, so no exit fits; "
            "if one block hides its stages, give the network as a list of them, [stage0, ..., classifier]"
        )
    if num_exits is not None and num_exits < 1:
        raise ValueError(
            f"num_exits is {num_exits}; an early-exit network needs at least 1 "
            f"(this backbone can take up to {len(cuts)})"
        )
    if isinstance(placement, str):
        if placement not in PLACEMENTS:
            raise ValueError(
                f"unknown placement {placement!r}; choose from {', '.join(PLACEMENTS)}, "
                "or give a list of fractions or of block names"
            )
        if num_exits is None:
            raise ValueError(f"placement {placement!r} needs num_exits")
        rule = PLACEMENTS[placement]
        chosen = _first_free(cuts, rule(num_exits))
        if chosen is None:
            most = max((n for n in range(1, len(cuts) + 1) if _first_free(cuts, rule(n))), default=0)
            names = textwrap.shorten(", ".join(name for name, _ in cuts), 120, placeholder=" …")
            hint = (
                f"; as a list, placement can name any of its cuts: {names}" if num_exits <= len(cuts) else ""
            )
            raise ValueError(
                f"{num_exits} exits are too many for this backbone with placement {placement!r}: "
                f"it can take at most {most} (it has {len(cuts)} cuts){hint}"
            )
        return chosen
    wanted = list(placement)
    if not wanted:
        raise ValueError("placement is an empty list; give at least one fraction or block name")
    if num_exits is not None and num_exits != len(wanted):
        raise ValueError(f"num_exits is {num_exits}, but placement lists {len(wanted)} places")
    names = [w for w in wanted if isinstance(w, str)]
    if len(names) == len(wanted):
        return _by_name(cuts, names)
    fractions = [w for w in wanted if not isinstance(w, str)]
    if names or not all(0 < f < 1 for f in fractions):
        raise ValueError(f"placement {wanted} must hold fractions between 0 and 1, or block names, not both")
    chosen = _first_free(cuts, sorted(fractions))
    if chosen is None:
        raise ValueError(
            f"placement {wanted} asks for exits where no free cut is left; "
            f"the cuts lie at {', '.join(f'{fraction:.2f}' for _, fraction in cuts)}"
        )
    return chosen


def _first_free(cuts: Sequence[tuple[str, float]], fractions: Sequence[float]) -> list[int] | None:
    chosen: list[int] = []
    for wanted in fractions:
        start = chosen[-1] + 1 if chosen else 0
        free = (i for i in range(start, len(cuts)) if cuts[i][1] >= wanted)
        index = next(free, None)
        if index is None:
            return None
        chosen.append(index)
    return chosen


def _by_name(cuts: Sequence[tuple[str, float]], wanted: Sequence[str]) -> list[int]:
    order = [name for name, _ in cuts]
    for name in wanted:
        if name not in order:
            near = difflib.get_close_matches(name, order, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"the cuts are {', '.join(order)}"
            raise ValueError(f"no cut named {name!r} in this backbone; {hint}")
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"placement {list(wanted)} names a block twice")
    return sorted(order.index(name) for name in wanted)
