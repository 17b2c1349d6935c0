"""Metrics and thresholds from records: against counting in plain Python."""

import numpy as np
import pytest
from record_cases import make_records
from scipy.special import softmax

from eenet.policies.budget import policy_for_budget
from eenet.policies.policy import ExitPolicy
from eenet.tasks.classification.metrics import accuracy_cost_curve, measure


def test_evaluate_against_counting() -> None:
    records, policy = make_records(), ExitPolicy("max_softmax", (0.8, 0.7, 0.6), (True, False, True))
    measured = measure(records, policy)
    right, spent, counts = 0, 0.0, [0] * 4
    for b in range(len(records)):
        left = 3
        for k in (0, 2):
            if softmax(records.logits_KBN[k, b]).max() > policy.thresholds[k]:
                left = k
                break
        right += int(records.logits_KBN[left, b].argmax() == records.labels_B[b])
        counts[left] += 1
        spent += [103, 203, 306, 406][left] / 400  # the head of exit 1 is switched off
    assert measured.accuracy == pytest.approx(right / 200)
    assert measured.relative_cost == pytest.approx(spent / 200)
    assert measured.exit_counts == counts
    assert measured.full_accuracy == measured.exit_accuracy[-1]
    assert measured.leaving_accuracy[1] is None
    left_right = [a * c for a, c in zip(measured.leaving_accuracy, counts, strict=True) if a is not None]
    assert sum(left_right) == pytest.approx(right)


def test_dead_exits() -> None:
    records = make_records(1000)
    never = measure(records, ExitPolicy("max_softmax", (2.0, 0.0, 0.0)))
    assert str(never).endswith("; dead exits: exit 0, exit 2")  # 0, 2 alone would read like counts
    assert never.dead_exits == [0, 2]  # 0: nobody leaves; 2: everybody has left at 1
    # Exit 0 is at chance, though inputs leave there.
    records.logits_KBN[0] = np.random.default_rng(0).standard_normal((1000, 5))
    assert measure(records, ExitPolicy("max_softmax", (0.5, 0.5, 0.5))).dead_exits == [0]
    switched_off = ExitPolicy("max_softmax", (0.5, 0.5, 0.5), (False, True, True))
    assert measure(records, switched_off).dead_exits == []


def test_no_inputs() -> None:
    with pytest.raises(ValueError, match="no inputs"):
        measure(make_records(0), ExitPolicy("max_softmax", (0.5,) * 3))
    with pytest.raises(ValueError, match="no inputs"):
        policy_for_budget(make_records(0), 0.5)


def test_curve_is_the_policy_at_every_threshold() -> None:
    records = make_records()
    curve = accuracy_cost_curve(records, "margin", points=20)
    for threshold, cost, accuracy in curve[1:]:
        measured = measure(records, ExitPolicy("margin", (threshold,) * 3))
        assert (cost, accuracy) == pytest.approx((measured.relative_cost, measured.accuracy))
    costs = [cost for _, cost, _ in curve]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(records.costs()[0])
    assert costs[-1] == pytest.approx(records.costs()[-1])
