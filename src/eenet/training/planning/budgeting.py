"""Records of held-out images → the policy of a run: for a budget, for a drop, or as cheap as is free."""

from collections.abc import Mapping
from dataclasses import replace

from eenet import policies
from eenet.policies import AnyRecords, ExitPolicy, Fitted
from eenet.tasks import Loss, task_of
from eenet.training.objectives import trains_confidence
from eenet.training.planning.settings import TrainConfig


def fit_for(records: AnyRecords, config: TrainConfig, *, gate: str) -> tuple[Fitted, str]:
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
    records: AnyRecords, budgets: Mapping[str, ExitPolicy], max_drop: float | None
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
        loss = task_of(records.task).loss(records, budgets[budget])
        if not (loss.within_noise if max_drop is None else loss.at_most(max_drop)):
            break
        chosen = budget, loss
    asked = "the least cost within noise" if max_drop is None else f"a drop of at most {max_drop:g} points"
    if chosen is None:
        count = len(records.head_macs)
        told = f"thresholds set for {asked}: no exit keeps it, so all are switched off"
        return ExitPolicy.all_at(count, count), told
    return budgets[chosen[0]], f"thresholds set for {asked}, budget {chosen[0]}: {chosen[1]}"


def wanted_budget(config: TrainConfig, aim: str = "macs") -> float | None:
    """The budget as a number, if it is one of this kind; none if it is found by what is lost."""
    found = config.budget
    return None if isinstance(found, str) or config.max_drop is not None or config.aim != aim else found
