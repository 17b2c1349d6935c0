"""Records of held-out images → the policy of a run: for a budget, for a drop, or as cheap as is free."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eenet import policies
from eenet.policies import ExitPolicy, Fitted, Records, decide, probabilities
from eenet.training.objectives import trains_confidence
from eenet.training.planning.settings import TrainConfig

WIDE = 1.96  # standard errors: half of a 95 % interval


@dataclass(frozen=True)
class Loss:
    """Accuracy that a policy loses against the full network, on the same images; in points."""

    points: float
    """By the labels."""
    error: float
    """Its standard error."""
    expected: float
    """By the full network's probabilities, without labels: far less noisy, and as good as they are."""
    interval: tuple[float, float]
    """95 %."""

    @property
    def within_noise(self) -> bool:
        """Whether it is at most one standard error."""
        return self.at_most(self.error)

    def at_most(self, points: float) -> bool:
        """By the labels and by what is expected: of few images the labels alone let much pass by luck."""
        return max(self.points, self.expected) <= points + 1e-9

    def __str__(self) -> str:
        low, high = self.interval
        told = f"{self.points:.2f} points lost (95 % interval {low:.2f} to {high:.2f})"
        return f"{told}, {self.expected:.2f} expected by the full network's probabilities"


def loss_of(records: Records, policy: ExitPolicy) -> Loss:
    """What a policy loses on recorded images, by those on which it and the full network differ.

    Half an image more in each cell of the table of both being right or wrong makes error and interval honest
    where few differ: Agresti & Min 2005.
    """
    count = len(records)
    rows_B, labels_B = np.arange(count), records.labels_B
    answer_B = records.answers(policy.enabled)[decide(records, policy), rows_B].argmax(1)
    full_BN = probabilities(records.answers()[-1].astype(np.float64))
    ours_B, full_B = answer_B == labels_B, full_BN.argmax(1) == labels_B
    expected = 100 * float((full_BN.max(1) - full_BN[rows_B, answer_B]).mean())
    lost, won = int((full_B & ~ours_B).sum()), int((ours_B & ~full_B).sum())
    points, middle = 100 * (lost - won) / count, 100 * (lost - won) / (count + 2)
    error = 100 * (lost + won + 1 - (lost - won) ** 2 / (count + 2)) ** 0.5 / (count + 2)
    return Loss(points, error, expected, (middle - WIDE * error, middle + WIDE * error))


def fit_for(records: Records, config: TrainConfig, *, gate: str) -> tuple[Fitted, str]:
    """Everything a network is to know about leaving, and how thresholds were set, in words.

    Args:
        records: of held-out images.
        config: its `objective`, `budget` and `max_drop` count.
        gate: the network's kind of gate.

    Raises:
        ValueError: the budget is below the cheapest exit.
    """
    if trains_confidence(config.objective):
        told = f"thresholds at 0.5, for which objective {config.objective} trains confidences"
        return policies.fit(records, None, gate=gate), told
    if (budget := wanted_budget(config)) is not None:
        return policies.fit(records, budget, gate=gate), f"thresholds set for budget {budget}"
    highest = max(1.0, *records.costs()) if records.head_macs else 1.0
    fitted = policies.fit(records, highest, gate=gate)
    if not records.head_macs:
        return fitted, ""
    policy, told = cheapest(fitted.records, fitted.budgets, config.max_drop)
    return replace(fitted, policy=policy), told


def cheapest(
    records: Records, budgets: Mapping[str, ExitPolicy], max_drop: float | None
) -> tuple[ExitPolicy, str]:
    """The last policy, from careful to bold, before one loses too much; and what that is, in words.

    The boldest of all that pass would be cheaper and wrong: with many tries some pass by luck.

    Args:
        records: of held-out images.
        budgets: a policy for each budget.
        max_drop: points of accuracy that may be lost, by the labels and as expected. None: one standard
            error of what is lost.
    """
    chosen: tuple[str, Loss] | None = None
    for budget in sorted(budgets, key=float, reverse=True):
        loss = loss_of(records, budgets[budget])
        if not (loss.within_noise if max_drop is None else loss.at_most(max_drop)):
            break
        chosen = budget, loss
    asked = "the least cost within noise" if max_drop is None else f"a drop of at most {max_drop:g} points"
    if chosen is None:
        count = len(records.head_macs)
        told = f"thresholds set for {asked}: no exit keeps it, so all are switched off"
        return ExitPolicy("confidence", (1.0,) * count, (False,) * count), told
    return budgets[chosen[0]], f"thresholds set for {asked}, budget {chosen[0]}: {chosen[1]}"


def wanted_budget(config: TrainConfig) -> float | None:
    """The budget as a number; none if it is found by what is lost."""
    found = config.budget
    return None if isinstance(found, str) or config.max_drop is not None else found
