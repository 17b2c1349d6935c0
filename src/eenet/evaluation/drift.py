"""Drift: whether the images that arrive still look, to the exits, like those of calibration."""

import bisect
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.policies import AnyRecords, ExitPolicy, decide, recorded_scores, sigmoid

BINS = 10  # of p-values
RESTART = 50  # images after which a new bet is opened
MOST_BETS = 40  # kept open; the poorest is closed
EPOCH = 100_000  # images after which the watch begins anew, so that it needs no more room


class DriftMonitor:
    """Watches the exit each image takes and its score there; alarms at most with probability `alpha`, ever.

    Each image becomes a number, its depth: the exit it took minus its score there. If it comes from
    where the calibration images came from, its rank among these and all images since is uniform, whatever
    their distribution (a conformal p-value, Vovk et al. 2005). A bet against that is a fair game: it
    multiplies its money by an estimate, from the p-values before, of their density where the next one
    falls. New bets are opened as time goes on, to be quick after a long quiet time, with starting
    money that adds up to 1; so the money of all together exceeds 1/alpha with probability alpha at
    most, over any length of time (Ville's inequality). The alarm is raised then, and stays.
    After every `EPOCH` images the watch begins anew, with its share of alpha: 6/(πi)² of it the i-th time.
    """

    def __init__(self, depths: Sequence[float], *, alpha: float = 0.01, seed: int = 0) -> None:
        """A monitor that has seen no image yet.

        Args:
            depths: of calibration images, see `depths_of`.
            alpha: the probability that it ever alarms by mistake.
            seed: equal depths are put in a random order.

        Raises:
            ValueError: too few images, or an alpha that is no probability.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
        if len(depths) < 100:
            raise ValueError(f"{len(depths)} calibration images are too few; give at least 100")
        if any(math.isnan(depth) for depth in depths):
            raise ValueError("the depths hold a NaN")
        self.alpha, self.seen, self.alarm_at = alpha, 0, None
        self._calibration = sorted(depths)
        self._random = random.Random(seed)
        self._begin()

    def _begin(self) -> None:
        self._sorted, self._bets = list(self._calibration), list[_Bet]()

    def update(self, depth: float) -> bool:
        """Take in one image; returns whether the alarm is raised, now or before.

        Args:
            depth: of that image, see `depths_of`.
        """
        epoch, within = divmod(self.seen, EPOCH)
        if self.seen and not within and not self.alarm:
            self._begin()
        if within % RESTART == 0:
            number = within // RESTART + 1
            self._bets.append(_Bet(math.log(_share(number))))
            if len(self._bets) > MOST_BETS:
                self._bets.remove(min(self._bets, key=lambda bet: bet.log_money))
        low, high = bisect.bisect_left(self._sorted, depth), bisect.bisect_right(self._sorted, depth)
        drawn = self._random.random()
        p = (low + drawn * (high - low + 1)) / (len(self._sorted) + 1)
        self._sorted.insert(low, depth)
        self.seen += 1
        for bet in self._bets:
            bet.place(min(int(p * BINS), BINS - 1))
        if self.alarm_at is None and self.evidence >= 1 / (self.alpha * _share(epoch + 1)):
            self.alarm_at = self.seen
        return self.alarm

    @property
    def alarm(self) -> bool:
        """Whether drift was found."""
        return self.alarm_at is not None

    @property
    def evidence(self) -> float:
        """All money together: 1 at the start, about or below 1 without drift, 1/alpha at the alarm."""
        return math.fsum(math.exp(min(bet.log_money, 700.0)) for bet in self._bets)


def _share(number: int) -> float:
    """Shares that add up to 1."""
    return 6 / (math.pi * number) ** 2


class _Bet:
    """Money on the density of p-values being what it was so far: a histogram, at first flat."""

    def __init__(self, log_money: float) -> None:
        self.log_money = log_money
        self._counts = [2.0] * BINS

    def place(self, bin_index: int) -> None:
        self.log_money += math.log(BINS * self._counts[bin_index] / sum(self._counts))
        self._counts[bin_index] += 1


def depths_of(records: AnyRecords, policy: ExitPolicy) -> NDArray[np.float64]:
    """How deep recorded inputs go: the exit each takes minus its score there, squashed to (0, 1): [B].

    At the final exit, which has no score, that of the last early exit that is on counts.
    """
    exits_B = decide(records, policy)
    on = [k for k, enabled in enumerate(policy.enabled) if enabled]
    if not on:
        raise ValueError("no exit is on, so there is nothing to be watched")
    scores_KB = recorded_scores(records, policy.score)
    asked_B = np.minimum(exits_B, on[-1])
    return depth(exits_B, scores_KB[asked_B, np.arange(len(records))])


def depth(exits_B: Any, scores_B: Any) -> Any:
    """The exit minus the score asked for last, squashed to (0, 1); of one image or several."""
    return exits_B - sigmoid(np.asarray(scores_B, np.float64))
