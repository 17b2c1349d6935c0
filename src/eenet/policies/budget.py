"""Records → the most accurate policy found that keeps a budget."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from eenet.common import Registry
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import AnyRecords, first_above, recorded_scores
from eenet.policies.scores import SCORES, looks_back, score_for_budgets

PRICES = (1e-4, 1e2)  # of cost, in accuracy: from "cost doesn't matter" to "nothing else does"
TIE = -1e-7  # a price that only decides between equal accuracies: the budget may be used
PRICE_STEPS = 12  # halvings, of the logarithm, in the search for the right one
MANY = 10_000  # inputs, above which a price is first looked for on a sample
NEAR, NEAR_STEPS = 1.3, 7  # around that price: a factor, and halvings
SWEEPS = 6  # over the exits, for one price, at most
ROUNDS = 2  # in which a metric that is no mean over inputs is taken as linear near the policy before
DEAD_SHARE = 0.005  # under which an exit is dead
IDLE_SHARE = 2 * DEAD_SHARE  # with a margin, so that an exit is not dead on other images
IDLE_PRICE = 0.002  # in accuracy, for keeping one
MOST_EXITS = 6  # for which every choice of exits is tried
MOST_CHOICES = 5000  # for which every choice of so many exits is tried
BUDGET_STEP = 0.025  # between the policies of a checkpoint


Rule = Callable[[AnyRecords, float], ExitPolicy]
RULES: Registry[Rule] = Registry("policy", "way to set thresholds for a budget")
"""Users' own. The name of a score is one as well: `policy_for_budget` on that score."""


def policy_by_rule(records: AnyRecords, budget: float, rule: str = "confidence") -> ExitPolicy:
    """A policy for a budget by the name of a score, see `policy_for_budget`, or of a way of a user's own.

    Raises:
        ValueError: unknown name, or as `policy_for_budget`.
    """
    if rule in RULES:
        return RULES[rule](records, budget)
    if rule not in SCORES:
        raise ValueError(
            f"unknown {RULES.noun} {rule!r}; choose from {', '.join([*SCORES, *RULES])} "
            "(one of your own: --import its module, see docs/how-to/extend.md)"
        )
    return policy_for_budget(records, budget, scores=(rule,))


def policies_for_budgets(
    records: AnyRecords, *, score: str = "confidence", any_exits: bool = False
) -> dict[str, ExitPolicy]:
    """A policy for every 0.025 from the cheapest budget to 1, by budget; see `policy_for_budget`.

    All are on this score, if it suits budgets: see `score_for_budgets`.
    """
    first = math.ceil(records.costs()[0] / BUDGET_STEP)
    steps = range(first, round(1 / BUDGET_STEP) + 1)
    budgets = [round(step * BUDGET_STEP, 3) for step in steps] if records.head_macs else []
    score = score_for_budgets(score)
    return {
        f"{budget:.3f}": policy_for_budget(records, budget, scores=[score], any_exits=any_exits)
        for budget in budgets
    }


def policy_for_budget(
    records: AnyRecords,
    budget: float,
    *,
    scores: Sequence[str] = ("confidence",),
    any_exits: bool = False,
    exits: Collection[int] | None = None,
) -> ExitPolicy:
    """The most accurate policy found on these inputs whose mean cost keeps the budget.

    All exits share one threshold, as high as the budget allows. For the learned confidence
    that is all: it says at every exit the same thing, what leaving is expected to lose.
    For other scores each exit then gets its own: where going on gains no more accuracy than
    its cost is worth, at the price that keeps the budget; what is left of the budget is spent
    then, even if that gains nothing on these images: the safe side on others. An exit where
    hardly anyone leaves is switched off, which saves its head, and the others are set again.

    Args:
        records: of held-out inputs, not those trained on.
        budget: wanted mean relative cost.
        scores: what to compare with thresholds, see `eenet.policies.scores`; the best one is taken.
        any_exits: also try to switch exits off where images would leave: with up to 6 exits every
            choice, else all but one at a time. For costs that heads have a large part in.
        exits: these are on, even where hardly anyone leaves, and no others. See `exits_for_budget`.

    Raises:
        ValueError: the budget is below the cheapest exit's cost, there are no inputs, or no such exits.
    """
    if not len(records):
        raise ValueError("there are no inputs to calibrate on")
    count = len(records.head_macs)
    if exits is not None and not (exits and set(exits) <= set(range(count))):
        raise ValueError(f"exits are {sorted(exits)}; the network has the early exits 0 to {count - 1}")
    on = tuple(exits is None or k in exits for k in range(count))
    cheapest = records.costs(on)[min(exits or [0])]
    if not budget >= cheapest:
        raise ValueError(
            f"budget {budget} is impossible: leaving at the first exit already costs {cheapest:.3f}"
        )
    starts = _choices(count) if any_exits and exits is None else [on]
    policy = _best(records, budget, scores, starts, drop=exits is None)
    for _ in range(ROUNDS):
        if (nearer := records.around(policy)) is None:
            break
        policy = _best(nearer, budget, scores, starts, drop=exits is None)
    return policy


def _best(
    records: AnyRecords,
    budget: float,
    scores: Sequence[str],
    starts: Sequence[Sequence[bool]],
    *,
    drop: bool,
) -> ExitPolicy:

    def worth(candidate: tuple[str, _Exits, list[float]]) -> tuple[float, float]:
        """Accuracy, of which an exit that is run in vain must earn some; then the one that computes more."""
        _, exits, thresholds = candidate
        accuracy, cost = exits.measure(thresholds)
        return accuracy - IDLE_PRICE * int((exits.shares(thresholds)[:-1] < IDLE_SHARE).sum()), cost

    best, rows = [], _sample(len(records))
    for score in scores:
        some = records if rows is None else records.subset(rows)
        tried = [c for start in starts for c in _candidates(some, budget, score, start, drop=drop)]
        if rows is not None:  # which exits are worth having, some of the inputs can tell
            chosen = max(tried, key=worth)[1].enabled
            tried = list(_candidates(records, budget, score, chosen, drop=False))
        best.append(max(tried, key=worth))
    score, exits, thresholds = max(best, key=worth)
    return exits.policy(score, thresholds)


def _sample(count: int) -> NDArray[np.int64] | None:
    """Some of so many inputs, the same every time; none if all can be looked at."""
    if count <= MANY:
        return None
    return np.random.default_rng(0).permutation(count)[:MANY]


def _choices(num_exits: int) -> list[tuple[bool, ...]]:
    """Which exits to start with: always all, and never none."""
    if num_exits <= MOST_EXITS:
        return [on for on in product((True, False), repeat=num_exits) if any(on)]
    return [(True,) * num_exits, *(tuple(k != off for k in range(num_exits)) for off in range(num_exits))]


def _candidates(
    records: AnyRecords, budget: float, score: str, start: Sequence[bool], *, drop: bool = True
) -> Iterator[tuple[str, "_Exits", list[float]]]:
    """With these exits on: a shared threshold, then own ones; without the idlest, ..., until none is idle."""
    scores_KB = recorded_scores(records, score)
    enabled = list(start)
    while any(enabled):
        if looks_back(score):  # it sees the exits that are on
            scores_KB = recorded_scores(records, score, enabled)
        exits = _Exits(records, scores_KB, enabled)
        thresholds: list[float] | None = [exits.shared(budget)] * len(exits.on)
        if exits.measure(thresholds)[1] > budget:  # the exits that are left come too late
            return
        yield score, exits, thresholds
        if score != "confidence":
            thresholds = exits.within(budget, thresholds[0])
            if thresholds is None:
                return
            yield score, exits, thresholds
        shares = exits.shares(thresholds)
        idlest = int(shares[:-1].argmin())
        if not drop or shares[idlest] >= IDLE_SHARE:
            return
        enabled[exits.on[idlest]] = False


def exits_for_budget(records: AnyRecords, num_exits: int, budget: float) -> list[int]:
    """The exits that, alone, give the best accuracy within a budget; one threshold on the confidence.

    For a network trained with many exits, to find out where to put few. Every choice is tried if
    there are at most 5,000; else exits are dropped one after the other, each time the one that is
    missed least.

    Args:
        records: of held-out inputs, from the network with many exits.
        num_exits: how many to choose.
        budget: mean relative cost; the heads of those not chosen cost nothing.

    Raises:
        ValueError: there are fewer exits, or no choice keeps the budget.
    """
    scores_KB, count = recorded_scores(records, "confidence"), len(records.head_macs)
    if not 1 <= num_exits <= count:
        raise ValueError(f"num_exits is {num_exits}; the network has {count} early exits to choose from")

    def worth(chosen: Sequence[int]) -> float:
        exits = _Exits(records, scores_KB, [k in chosen for k in range(count)])
        accuracy, cost = exits.measure([exits.shared(budget)] * len(exits.on))
        return accuracy if cost <= budget else -cost

    if math.comb(count, num_exits) <= MOST_CHOICES:
        best = max(combinations(range(count), num_exits), key=worth)
    else:
        best = tuple(range(count))
        while len(best) > num_exits:
            best = max(combinations(best, len(best) - 1), key=worth)
    if worth(best) < 0:
        raise ValueError(
            f"no {num_exits} exits keep a budget of {budget}; the cheapest is {records.costs()[0]:.3f}"
        )
    return list(best)


class _Exits:
    """The exits that are switched on, and what thresholds at them lead to on recorded inputs."""

    def __init__(self, records: AnyRecords, scores_KB: NDArray[np.float32], enabled: Sequence[bool]) -> None:
        self._given = records, scores_KB
        self.enabled = tuple(enabled)
        self.on = [k for k, on in enumerate(enabled) if on]
        rows = [*self.on, len(enabled)]
        self.scores_KB = scores_KB[self.on]
        self.order_KB = np.argsort(-self.scores_KB, 1, kind="stable")
        self.correct_KB = records.worth(self.enabled)[rows]
        self.costs_K = np.array(records.costs(self.enabled))[rows]

    def sample(self) -> "_Exits | None":
        """The same on some of the inputs, if there are many."""
        records, scores_KB = self._given
        if (rows := _sample(len(records))) is None:
            return None
        return _Exits(records.subset(rows), scores_KB[:, rows], self.enabled)

    def taken(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """The exit at which each input leaves, among those that are on."""
        return first_above(self.scores_KB, np.array(thresholds)[:, None])

    def shares(self, thresholds: Sequence[float]) -> NDArray[np.float64]:
        """Part of the inputs that leaves at each exit that is on, and at the final one."""
        exits_B = self.taken(thresholds)
        return np.bincount(exits_B, minlength=len(thresholds) + 1) / len(exits_B)

    def measure(self, thresholds: Sequence[float]) -> tuple[float, float]:
        """Accuracy and mean relative cost."""
        exits_B = self.taken(thresholds)
        correct_B = self.correct_KB[exits_B, np.arange(len(exits_B))]
        return float(correct_B.mean()), float(self.costs_K[exits_B].mean())

    def shared(self, budget: float) -> float:
        """The highest threshold for all exits that keeps the budget.

        Mean cost grows with the threshold and changes only at recorded scores, so a binary
        search over these finds it.
        """
        scores = np.unique(self.scores_KB)[::-1]
        low, high = 0, len(scores)  # how many of them are above the threshold
        while low < high:
            middle = (low + high) // 2
            if self.measure([_threshold(scores, middle)] * len(self.on))[1] <= budget:
                high = middle
            else:
                low = middle + 1
        return _threshold(scores, low)

    def within(self, budget: float, start: float) -> list[float] | None:
        """Thresholds that keep the budget and use it; none if that can't be.

        Of many inputs a sample says about where the price lies, and all of them the rest.
        """
        thresholds, prices, steps = [start] * len(self.on), PRICES, PRICE_STEPS
        sample = self.sample()
        if sample is not None and (roughly := sample._priced(budget, thresholds, prices, steps)):
            price, thresholds = roughly
            if near := self._priced(budget, thresholds, (price / NEAR, price * NEAR), NEAR_STEPS):
                return self._settled(near[1], price=TIE, budget=budget)
        found = self._priced(budget, thresholds, prices, steps)
        return self._settled(found[1], price=TIE, budget=budget) if found else None

    def _priced(
        self, budget: float, start: list[float], prices: tuple[float, float], steps: int
    ) -> tuple[float, list[float]] | None:
        """By halving: the most accurate thresholds met that keep the budget, and the price they are for."""
        (low, high), best = prices, None
        for _ in range(steps):
            price = (low * high) ** 0.5
            thresholds = self._settled(start, price=price)
            accuracy, cost = self.measure(thresholds)
            if cost > budget:
                low = price
                continue
            high = price
            if best is None or accuracy > best[0]:
                best = accuracy, price, thresholds
        return best[1:] if best else None

    def _settled(self, start: list[float], *, price: float, budget: float = math.inf) -> list[float]:
        """Thresholds of which none alone can be improved: in accuracy minus price times cost."""
        thresholds = list(start)
        for _ in range(SWEEPS):
            before = list(thresholds)
            for k in reversed(range(len(thresholds))):
                thresholds[k] = self._best_threshold(k, thresholds, price, budget)
            if thresholds == before:
                break
        return thresholds

    def _best_threshold(self, k: int, thresholds: Sequence[float], price: float, budget: float) -> float:
        others = [t if i != k else math.inf for i, t in enumerate(thresholds)]
        onward_B = self.taken(others)  # where inputs go that don't leave here
        here_B = onward_B > k  # the others left before
        right_B = (self.correct_KB[k] - self.correct_KB[onward_B, np.arange(len(onward_B))]) * here_B
        cost_B = (self.costs_K[k] - self.costs_K[onward_B]) * here_B
        order_B = self.order_KB[k]
        scores_B = self.scores_KB[k, order_B]
        # what is gained and spent if the surest 0, 1, 2, ... inputs leave here
        gains = np.append(0.0, (right_B - price * cost_B)[order_B].cumsum())
        spent = np.append(0.0, cost_B[order_B].cumsum()) + self.costs_K[onward_B].sum()
        gains[1:-1][scores_B[:-1] == scores_B[1:]] = -math.inf  # equal scores leave together
        gains[spent > budget * len(scores_B)] = -math.inf
        if gains.max() == -math.inf:
            return thresholds[k]
        count = int(gains.argmax())
        return _threshold(scores_B, count)

    def policy(self, score: str, thresholds: Sequence[float]) -> ExitPolicy:
        """As a policy for all exits; those switched off get a threshold that doesn't count."""
        every = [1.0] * len(self.enabled)
        for k, threshold in zip(self.on, thresholds, strict=True):
            every[k] = threshold
        return ExitPolicy(score, tuple(every), self.enabled)


def _threshold(descending: NDArray[np.float32], count: int) -> float:
    """Above it lie the first `count` scores: halfway to the next, so that rounding can't flip an input."""
    if not count:
        return float(descending[0])
    if count == len(descending):
        return float(descending[-1]) - 1e-6
    return (float(descending[count - 1]) + float(descending[count])) / 2
