"""Records → the cheapest shared threshold that keeps an accuracy drop, or a risk with a guarantee.

Thresholds come from a grid that is fixed before any data are seen, and are tried from careful
to bold: the one before the first that fails is taken. To take the boldest of all that pass would
be cheaper and wrong: with many tries some pass by luck.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import require
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import AnyRecords, Records, decide, recorded_scores

STEPS, DECADES = 300, 6  # of the grid of thresholds
RISKS = ("excess_error", "disagreement", "missed")
NUISANCE_ERROR = 1e-3  # of the p-value that the rate of gains may cost
NUISANCE_STEPS = 9
MOST_NEEDED = 10**9


@dataclass(frozen=True)
class Guarantee:
    """What is promised about new inputs that are drawn like those calibrated on."""

    risk: str
    """`excess_error`: error rate of the policy minus that of the full network. Of pixels: the part of an
    image that is wrong beyond that of the full network, its mean over images; gains don't count.
    `disagreement`: how often the policy's answer differs from the full network's.
    `missed`: which part of the images with objects leaves early, as if empty."""
    limit: float
    """The risk is at most this ..."""
    delta: float | None
    """... for all but this part of calibrations; none: on average over calibrations."""
    num_examples: int
    """Inputs calibrated on."""
    measured: float
    """The risk on these."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def policy_for_drop(records: AnyRecords, drop: float, *, score: str = "confidence") -> ExitPolicy:
    """The boldest shared threshold before accuracy, or mIoU, on these inputs falls by more than `drop`.

    Without a guarantee for others, see `policy_for_risk`.

    Args:
        records: of held-out inputs, with labels.
        drop: of the metric, against the full network on the same inputs: 0.01 is one point.
        score: what to compare with the threshold, see `eenet.policies.scores`.

    Raises:
        ValueError: `drop` is negative, or labels are missing, or even the most careful threshold loses more.
    """
    if not 0 <= drop <= 1:
        raise ValueError(f"max drop is {drop}; give a part of the metric between 0 and 1")
    if isinstance(records, Records):
        lost_T, won_T, _ = _along_the_grid(records, score, "excess_error")
        kept = _before_first_failure(lambda t: lost_T[t] - won_T[t] <= drop * len(records) + 1e-9)
    else:
        kept = _before_first_failure(lambda t: _drop(records, _policy(records, score, t)) <= drop + 1e-9)
    if kept is None:
        raise ValueError(
            f"even the most careful threshold loses more than {drop} of the metric on these inputs"
        )
    return _policy(records, score, kept)


def _drop(records: AnyRecords, policy: ExitPolicy) -> float:
    """What a policy loses of a metric that is no mean over inputs."""
    never = ExitPolicy(policy.score, policy.thresholds, (False,) * len(policy.thresholds))
    return records.quality(never) - records.quality(policy)


def policy_for_risk(
    records: AnyRecords,
    limit: float,
    *,
    delta: float | None = 0.1,
    risk: str = "excess_error",
    score: str = "confidence",
) -> tuple[ExitPolicy, Guarantee]:
    """The boldest shared threshold that is shown to keep a risk on new inputs.

    With `delta`, the probability that calibration inputs mislead, so that the true risk is above
    the limit, is at most `delta`: learn-then-test with a fixed sequence (Angelopoulos et al.
    2021). The tests are exact: binomial for disagreement; for excess error, trinomial, with the
    rate of gains held in a confidence set (Berger & Boos 1994). Without `delta`, the risk
    keeps the limit on average over calibrations: conformal risk control (Angelopoulos et al.
    2024) on losses made monotone, where an input once lost stays lost; so gains don't count. For early
    exit: Jazbec et al. 2024. Losses of pixels lie between 0 and 1; they are bounded by Hoeffding and Bentkus
    (Bates et al. 2021).

    Args:
        records: of inputs that neither the network nor its gates were fitted on.
        limit: of the risk, in (0, 1).
        delta: in (0, 1), or none.
        risk: see `Guarantee`. `disagreement` needs no labels.
        score: what to compare with the threshold, see `eenet.policies.scores`.

    Raises:
        ValueError: a number is out of range, labels are missing, or there are too few inputs
            (says how many are needed), or even the most careful threshold can't be shown to keep the limit.
    """
    if risk not in RISKS:
        raise ValueError(f"unknown risk {risk!r}; choose from {', '.join(RISKS)}")
    for name, value in (("risk", limit), ("delta", delta)):
        if value is not None and not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
    if risk == "missed":
        return _policy_for_missed(records, limit, delta)
    losses_KB = None if isinstance(records, Records) else records.losses()
    needed = inputs_needed(limit, delta, risk if losses_KB is None else "disagreement")
    if len(records) < needed:
        within = "on average" if delta is None else f"with delta {delta}"
        raise ValueError(
            f"{len(records)} inputs can't show a risk of {limit} {within}; at least {needed} are needed"
        )
    if not isinstance(records, Records):
        assert losses_KB is not None
        return _policy_for_bounded(records, losses_KB, limit, delta, risk, score)
    count = len(records)
    lost_T, won_T, once_lost_T = _along_the_grid(records, score, risk)
    if delta is None:
        kept = _before_first_failure(lambda t: (once_lost_T[t] + 1) / (count + 1) <= limit)
    else:
        kept = _before_first_failure(lambda t: p_value(lost_T[t], won_T[t], count, limit, risk) <= delta)
    if kept is None:
        raise ValueError(f"even the most careful threshold can't be shown to keep a risk of {limit}")
    measured = (lost_T[kept] - won_T[kept]) / count
    return _policy(records, score, kept), Guarantee(risk, limit, delta, len(records), measured)


def _policy_for_bounded(
    records: AnyRecords,
    losses_KB: NDArray[np.floating],
    limit: float,
    delta: float | None,
    risk: str,
    score: str,
) -> tuple[ExitPolicy, Guarantee]:
    """The same for losses between 0 and 1, one for each input and exit."""
    if risk != "excess_error":
        raise ValueError(f"risk {risk!r} isn't known of {records.task}; give excess_error")
    rows_B, count = np.arange(len(records)), len(records)
    lost_T, worst_B, worst_T = [], np.zeros(count), []
    for t in range(STEPS + 1):
        loss_B = losses_KB[decide(records, _policy(records, score, t)), rows_B]
        worst_B = np.maximum(worst_B, loss_B)
        lost_T.append(float(loss_B.mean()))
        worst_T.append(float(worst_B.sum()))
    if delta is None:
        kept = _before_first_failure(lambda t: (worst_T[t] + 1) / (count + 1) <= limit)
    else:
        kept = _before_first_failure(lambda t: bounded_p_value(lost_T[t], count, limit) <= delta)
    if kept is None:
        raise ValueError(f"even the most careful threshold can't be shown to keep a risk of {limit}")
    return _policy(records, score, kept), Guarantee(risk, limit, delta, count, lost_T[kept])


def bounded_p_value(mean: float, count: int, limit: float) -> float:
    """How likely so small a mean of losses between 0 and 1 is, if the true risk is `limit` or more.

    The smaller one of Hoeffding's and Bentkus' bounds. Bates et al. 2021, section 3.1.
    """
    if mean >= limit:
        return 1.0
    rest = (1 - mean) * math.log((1 - mean) / (1 - limit))
    distance = rest + (mean * math.log(mean / limit) if mean > 0 else 0.0)
    bentkus = math.e * float(_special().bdtr(math.ceil(count * mean - 1e-9), count, limit))
    return min(math.exp(-count * distance), bentkus)


def _policy_for_missed(
    records: AnyRecords, limit: float, delta: float | None
) -> tuple[ExitPolicy, Guarantee]:
    """Only images leave early that are surely empty, see `missed_threshold`."""
    if delta is None:
        raise ValueError("missed objects are guaranteed with a delta, not on average")
    holding_B = records.holding()
    highest_B = recorded_scores(records, "emptiness").max(0)[holding_B]
    threshold = missed_threshold(highest_B, limit, delta)
    if threshold is None:
        needed = inputs_needed(limit, delta, "disagreement")
        raise ValueError(
            f"{len(highest_B)} images with objects can't show that at most {limit} of such are missed, with "
            f"delta {delta}; at least {needed} are needed"
        )
    measured = float((highest_B > np.float32(threshold)).mean())
    policy = ExitPolicy("emptiness", (threshold,) * len(records.head_macs))
    return policy, Guarantee("missed", limit, delta, len(highest_B), measured)


def missed_threshold(highest_B: NDArray[np.floating], limit: float, delta: float) -> float | None:
    """The lowest emptiness that at most a part `limit` of images with objects exceeds; none can be shown.

    The probability that it doesn't hold, since these images mislead, is at most `delta`: learn-then-test with
    a fixed sequence (Angelopoulos et al. 2021) and exact binomial tests.

    Args:
        highest_B: of images that hold objects, the highest emptiness at any exit.
        limit, delta: in (0, 1).
    """
    grid = thresholds_to_try("emptiness", 1)
    passing_T = np.count_nonzero(highest_B > np.array(grid, np.float32)[:, None], 1).tolist()
    kept = _before_first_failure(
        lambda t: p_value(passing_T[t], 0, len(highest_B), limit, "disagreement") <= delta
    )
    return None if kept is None else grid[kept]


@lru_cache(100_000)
def p_value(lost: int, won: int, count: int, limit: float, risk: str = "excess_error") -> float:
    """How likely so few losses are if the true risk is `limit` or more.

    Args:
        lost: inputs on which the policy is wrong and the full network right, or on which they disagree.
        won: those where it is the other way round; not used for disagreement.
        count: all inputs.
        limit: of the risk.
        risk: see `Guarantee`.
    """
    if risk == "disagreement":
        return float(_special().bdtr(lost, count, limit))
    most = (1 - limit) / 2  # losses and gains are at most all inputs
    highest = float(_special().betaincinv(won + 1, count - won, 1 - NUISANCE_ERROR)) if won < count else most
    rates = np.linspace(0, min(highest, most), NUISANCE_STEPS)
    return max(_tail(lost - won, count, rate + limit, rate) for rate in rates) + NUISANCE_ERROR


def _tail(surplus: int, count: int, lose: float, win: float) -> float:
    """Probability that losses minus gains are at most `surplus`, at these rates of both."""
    mean, bdtr = count * win, _special().bdtr
    reach = 8 * (mean * (1 - win)) ** 0.5 + 12  # all but 1e-14
    won = np.arange(max(math.floor(mean - reach), 0), min(math.ceil(mean + reach), count) + 1)
    likely = bdtr(won, count, win) - np.where(won > 0, bdtr(won - 1, count, win), 0.0)
    left = count - won
    lost_at_most = bdtr(np.clip(won + surplus, 0, left), left, min(lose / (1 - win), 1.0))
    return float((likely * np.where(won + surplus < 0, 0.0, lost_at_most)).sum())


def _special() -> Any:
    return require("scipy.special", "a guaranteed risk")


def inputs_needed(limit: float, delta: float | None, risk: str = "excess_error") -> int:
    """The fewest inputs that can show this risk: without a single loss."""
    if delta is None:
        return math.ceil(1 / limit - 1e-9) - 1
    if risk == "excess_error" and delta <= NUISANCE_ERROR:
        raise ValueError(f"delta is {delta}; for excess error it must be above {NUISANCE_ERROR}")
    low, high = 0, 1
    while p_value(0, 0, high, limit, risk) > delta:
        low, high = high, 2 * high
        if high > MOST_NEEDED:
            raise ValueError(f"a risk of {limit} is too small to be shown")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(0, 0, middle, limit, risk) <= delta else (middle, high)
    return high


def thresholds_to_try(score: str, num_classes: int) -> list[float]:
    """The grid, from careful to bold: dense where a score is nearly perfect."""
    distances = np.logspace(-DECADES, 0, STEPS + 1)
    if score == "entropy":  # the negative one, from 0 down to -log N
        thresholds = -1.001 * math.log(max(num_classes, 2)) * distances
    else:
        thresholds = 1 - 1.000001 * distances  # the last is below 0, so that all leave
    return thresholds.astype(np.float32).tolist()  # as scores are: no threshold falls between two roundings


def _along_the_grid(records: Records, score: str, risk: str) -> tuple[list[int], list[int], list[int]]:
    """For every threshold how many inputs are lost, how many gained, and how many lost there or before."""
    if not len(records):
        raise ValueError("there are no inputs to calibrate on")
    if not records.head_macs:
        raise ValueError("these are records of a network without early exits")
    if risk == "excess_error" and (records.labels_B < 0).any():
        raise ValueError("excess error needs labels, and some inputs have none; use risk 'disagreement'")
    if risk == "disagreement":
        answers_KB = records.answers().argmax(2)
        losses_KB = (answers_KB[:-1] != answers_KB[-1]).astype(np.int64)
    else:
        right_KB = records.correct().astype(np.int64)
        losses_KB = right_KB[-1] - right_KB[:-1]
    # An input is at exit k from the threshold that one of its scores up to there is above, until
    # the one that a score before is above.
    best_KB = np.maximum.accumulate(recorded_scores(records, score))
    thresholds = np.array(thresholds_to_try(score, records.num_classes), np.float32)
    from_KB = np.searchsorted(-thresholds, -best_KB, side="right")
    until_KB = np.concatenate([np.full_like(from_KB[:1], len(thresholds)), from_KB[:-1]])
    there_KB = from_KB < until_KB

    def count(chosen_KB: NDArray[np.bool_]) -> list[int]:
        enter, leave = (np.bincount(at[chosen_KB], minlength=STEPS + 2) for at in (from_KB, until_KB))
        return (enter - leave).cumsum()[: STEPS + 1].tolist()

    lost_KB = there_KB & (losses_KB == 1)
    first_B = np.where(lost_KB, from_KB, STEPS + 1).min(0)
    once_lost_T = np.bincount(first_B, minlength=STEPS + 2).cumsum()[: STEPS + 1].tolist()
    return count(lost_KB), count(there_KB & (losses_KB == -1)), once_lost_T


def _before_first_failure(passes: Callable[[int], bool]) -> int | None:
    """The last of the thresholds that pass before one doesn't."""
    failed = next((t for t in range(STEPS + 1) if not passes(t)), STEPS + 1)
    return failed - 1 if failed else None


def _policy(records: AnyRecords, score: str, index: int) -> ExitPolicy:
    threshold = thresholds_to_try(score, records.num_classes)[index]
    return ExitPolicy(score, (threshold,) * len(records.head_macs))
