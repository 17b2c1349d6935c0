"""Thresholds for a budget: against counting in plain Python and against many other choices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import make_records, one_hot

from eenet.policies.budget import policy_for_budget
from eenet.policies.fitting import fit
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import Records, decide, recorded_scores
from eenet.tasks.classification.metrics import measure


@settings(max_examples=100, deadline=None)
@given(
    budget=st.floats(0.26, 1.2),
    seed=st.integers(0, 1000),
    count=st.integers(1, 30),
    score=st.sampled_from(["max_softmax", "confidence", "entropy", "margin"]),
)
def test_budget_is_kept_and_used(budget: float, seed: int, count: int, score: str) -> None:
    """Against trying every shared threshold: as accurate as the one that uses the budget up."""
    records = make_records(count, seed=seed)
    tried = [-100.0, *recorded_scores(records, score).flatten().tolist()]
    shared = [measure(records, ExitPolicy(score, (t,) * 3)) for t in tried]
    fullest = max((m for m in shared if m.relative_cost <= budget), key=lambda m: m.relative_cost)
    measured = measure(records, policy_for_budget(records, budget, scores=[score]))
    assert measured.relative_cost <= budget + 1e-9
    assert measured.accuracy >= fullest.accuracy


@pytest.mark.parametrize(("rule", "score"), [("margin", "margin"), ("patience", "confidence")])
@pytest.mark.parametrize("joined", [True, False])
def test_policies_for_other_budgets_are_on_the_rule_s_score(rule: str, score: str, joined: bool) -> None:
    """Unless it looks back; each keeps its budget, for answers that are joined or not."""
    found = fit(make_records(200, seed=0), 0.7, rule=rule, joined=joined)
    assert found.policy.score == rule
    assert (found.records.ensemble is None) == (found.ensemble is None) == (not joined)
    assert len(found.budgets) > 20
    for budget, policy in found.budgets.items():
        assert policy.score == score
        assert measure(found.records, policy).relative_cost <= float(budget) + 1e-9


@pytest.mark.parametrize("budget", [0.4, 0.6, 0.8])
def test_hardly_any_thresholds_are_better(budget: float) -> None:
    """Against every combination of thresholds and of exits switched on."""
    regrets = []
    for seed in range(10):
        records = make_records(12, seed=seed)
        scores = recorded_scores(records, "margin").tolist()
        policies = [
            ExitPolicy("margin", thresholds, enabled)
            for enabled in itertools.product((True, False), repeat=3)
            for thresholds in itertools.product(
                *(
                    [-1.0, *row[:: 1 + (seed % 2)]] if on else [1.0]
                    for row, on in zip(scores, enabled, strict=True)
                )
            )
        ]
        outcomes = [quick(records, policy) for policy in policies]
        best = max(accuracy for accuracy, cost in outcomes if cost <= budget)
        regrets.append(best - quick(records, policy_for_budget(records, budget, scores=["margin"]))[0])
    assert sum(regrets) / len(regrets) < 0.05


def quick(records: Records, policy: ExitPolicy) -> tuple[float, float]:
    exits_B = decide(records, policy)
    right_B = records.correct()[exits_B, np.arange(len(records))]
    return right_B.mean(), np.array(records.costs(policy.enabled))[exits_B].mean()


def test_a_useless_exit_is_switched_off() -> None:
    """Exit 0 knows nothing and costs; its head must not be run."""
    records = make_records(400)
    logits_KBN = np.stack([9 * one_hot(records.labels_B, 5)] * 4)
    logits_KBN[0] = np.random.default_rng(0).standard_normal((400, 5))
    useless = replace(records, logits_KBN=logits_KBN)
    policy = policy_for_budget(useless, 0.9, scores=["max_softmax"])
    assert policy.enabled == (False, True, False)
    assert measure(useless, policy).accuracy == 1
    measured = measure(useless, policy)
    assert measured.dead_exits == []
    assert measured.switched_off == [0, 2]
    assert measured.relative_cost <= 0.9
    shown = [line.split("|")[3].strip() for line in str(measured).splitlines()[2:6]]
    assert [shown[0], shown[2]] == ["off", "off"]


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("score", ["max_softmax", "confidence"])
def test_of_many_inputs_a_sample_chooses_the_exits(
    score: str, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hardly less accurate than the search that looks at all of them for everything."""
    records = make_records(3000)
    thorough = quick(records, policy_for_budget(records, budget, scores=[score]))
    monkeypatch.setattr("eenet.policies.budget.MANY", 500)
    accuracy, cost = quick(records, policy_for_budget(records, budget, scores=[score]))
    assert budget - 0.02 < cost <= budget
    assert accuracy >= thorough[0] - 0.01


@pytest.mark.parametrize("on", [[0], [1, 2], [2, 0]])
def test_only_exits_that_are_named_are_on(on: list[int]) -> None:
    """Even idle ones; with the shared threshold that uses the budget up."""
    records = make_records(40, seed=3)
    enabled = tuple(k in on for k in range(3))
    scores = recorded_scores(records, "confidence")[sorted(on)].flatten().tolist()
    policies = [ExitPolicy("confidence", (t,) * 3, enabled) for t in [-100.0, *scores]]
    outcomes = [quick(records, policy) for policy in policies]
    cheapest = records.costs(enabled)[min(on)]
    for budget in (cheapest + 0.01, 0.9, 1.3):
        policy = policy_for_budget(records, budget, exits=on)
        assert policy.enabled == enabled
        assert quick(records, policy)[1] == max(cost for _, cost in outcomes if cost <= budget)
    with pytest.raises(ValueError, match=f"leaving at the first exit already costs {cheapest:.3f}"):
        policy_for_budget(records, cheapest - 0.01, exits=on)


@pytest.mark.parametrize("on", [[], [3], [-1, 0]])
def test_exits_that_are_not_there(on: list[int]) -> None:
    with pytest.raises(ValueError, match="the network has the early exits 0 to 2"):
        policy_for_budget(make_records(10), 0.9, exits=on)


def test_impossible_budget_names_the_cheapest() -> None:
    with pytest.raises(ValueError, match=r"costs 0\.258"):
        policy_for_budget(make_records(), 0.1)
    with pytest.raises(ValueError, match="impossible"):
        policy_for_budget(make_records(), float("nan"))
