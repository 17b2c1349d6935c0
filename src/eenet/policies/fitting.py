"""The one door to deciding: records of held-out images → everything a checkpoint keeps about leaving."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from eenet.policies.budget import policies_for_budgets, policy_by_rule
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import AnyRecords, Records
from eenet.policies.scores import SCORES

FITTED = ("answer", "gain")
"""Kinds of gates that are fitted on held-out inputs; others were trained with the network."""

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Fitted:
    """What a network is to know about leaving, see `EENet.adopt`."""

    policy: ExitPolicy
    """For the budget that was asked for."""
    budgets: dict[str, ExitPolicy]
    """For others, such as "0.500"."""
    ensemble: list[list[list[float]]] | None
    """How exits answer together; none: each alone."""
    gates: list[Any]
    """One for each early exit; none where the gates are not fitted but trained."""
    task_settings: dict[str, Any]
    """Of the task, that are fitted too."""
    records: Any
    """Those it was fitted on, with the joined answers and the confidences that follow."""


def fit(
    records: AnyRecords,
    budget: float | None,
    *,
    gate: str = "answer",
    rule: str = "confidence",
    joined: bool = True,
) -> Fitted:
    """Fit joined answers, then gates to these answers, then a policy for every budget.

    Args:
        records: of held-out inputs with labels.
        budget: wanted mean relative cost. None: confidences were trained to be compared with 0.5, and
            exits answer alone, as in Demir & Akbas 2024.
        gate: the network's kind of gate; see `FITTED`.
        rule: how thresholds are set for the budget, see `policy_by_rule`. Those for other budgets are on the
            same score, if it is one, see `policies_for_budgets`.
        joined: let exits answer together. If not, each answers alone, which takes fewer operations.

    Raises:
        ValueError: there are no inputs to fit on, or the budget is below the cheapest exit.
    """
    if not len(records):
        raise ValueError("there are no inputs to fit on")
    if not records.head_macs:
        return Fitted(ExitPolicy("confidence", ()), {}, None, [], {}, records)
    gates = []
    ensemble = None
    if budget is None:
        policy = ExitPolicy("confidence", (0.5,) * len(records.head_macs))
    else:
        records = records.joined() if joined else replace(cast(Any, records), ensemble=None)
        ensemble = cast(list[list[list[float]]] | None, records.ensemble)
        if gate in FITTED:
            gates, records = records.gated()
        policy = policy_by_rule(records, budget, rule)
    budgets = policies_for_budgets(records, score=rule if rule in SCORES else "confidence")
    return Fitted(policy, budgets, ensemble, gates, records.task_settings, records)


def with_gates(records: Records) -> "tuple[list[nn.Module], Records]":
    """Gates fitted to the joined answers, and the confidences they give. Labels are not used."""
    import torch

    from eenet.policies.gates import AnswerGate, accuracy_kept

    gates, confidences, answers_KBN = [], [], torch.from_numpy(records.answers()).double()
    for k in range(len(records.head_macs)):
        logits_BN = torch.from_numpy(records.logits_KBN[k])
        gate = AnswerGate(0, logits_BN.shape[1])
        gate.fit(logits_BN, accuracy_kept(answers_KBN[k], answers_KBN[-1]))
        with torch.no_grad():
            confidences.append(gate.judge(logits_BN.to(gate.hidden.weight)))
        gates.append(gate)
    return gates, replace(records, confidence_logits_KB=torch.stack(confidences).numpy())
