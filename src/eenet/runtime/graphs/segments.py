"""What runs between two decisions: the stages up to the next exit that is on, and that exit's head."""

from dataclasses import dataclass

from eenet.policies import Ensemble, ExitPolicy, Weights, chain


@dataclass(frozen=True)
class Segment:
    """Stages `first` to `last`, both included, and the exit behind them."""

    first: int
    last: int
    exit: int | None
    """The exit at its end; none for a bare part of the backbone."""
    weights: Weights | None = None
    """By which its answer is joined with those of the segments before; none: it isn't."""


def segments_of(policy: ExitPolicy, ensemble: Ensemble | None) -> list[Segment]:
    """The segments of a network under a policy. An exit that is switched off divides nothing.

    Args:
        policy: which exits are on.
        ensemble: of the network's `config`.
    """
    on = [k for k, enabled in enumerate(policy.enabled) if enabled]
    firsts = [0, *(k + 1 for k in on)]
    weights = chain(ensemble, policy.enabled)
    ends = [*on, len(policy.enabled)]
    return [Segment(first, k, k, weights[k]) for first, k in zip(firsts, ends, strict=True)]
