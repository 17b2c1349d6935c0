"""Drops and guarantees: the maths against counting, the promise on inputs whose true risk is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from record_cases import make_records, one_hot
from scipy.special import expit, logit
from scipy.stats import binom

from eenet.policies.records import Records
from eenet.policies.risk import (
    Guarantee,
    bounded_p_value,
    inputs_needed,
    p_value,
    policy_for_drop,
    policy_for_risk,
    thresholds_to_try,
)
from eenet.tasks.classification.metrics import measure


def by_counting(surplus: int, count: int, lose: float, win: float) -> float:
    """Probability that losses minus gains are at most `surplus`, over all outcomes."""
    return sum(
        math.comb(count, lost)
        * math.comb(count - lost, won)
        * lose**lost
        * win**won
        * (1 - lose - win) ** rest
        for lost in range(count + 1)
        for won in range(count - lost + 1)
        if lost - won <= surplus and (rest := count - lost - won) >= 0
    )


@pytest.mark.parametrize(("lost", "won", "limit"), [(0, 0, 0.3), (1, 0, 0.4), (2, 3, 0.2), (4, 2, 0.5)])
def test_p_value_of_excess_error(lost: int, won: int, limit: float) -> None:
    """The largest over every rate of gains; a thousandth is paid for leaving out unlikely ones."""
    rates = [i / 400 * (1 - limit) / 2 for i in range(401)]
    largest = max(by_counting(lost - won, 12, rate + limit, rate) for rate in rates)
    assert largest <= p_value(lost, won, 12, limit) <= largest + 1.001e-3


def test_p_value_of_disagreement() -> None:
    assert p_value(3, 0, 50, 0.1, "disagreement") == pytest.approx(binom.cdf(3, 50, 0.1))


@pytest.mark.parametrize(("count", "limit"), [(20, 0.3), (50, 0.1), (200, 0.05)])
def test_p_value_of_losses_between_0_and_1(count: int, limit: float) -> None:
    """Against Hoeffding's bound by its definition, Bentkus' by scipy; never below the chance it bounds."""
    assert bounded_p_value(0, count, limit) == pytest.approx((1 - limit) ** count)
    assert bounded_p_value(limit, count, limit) == 1
    for whole in range(1, math.ceil(count * limit)):
        mean = whole / count
        divergence = mean * math.log(mean / limit) + (1 - mean) * math.log((1 - mean) / (1 - limit))
        exact = float(binom.cdf(whole, count, limit))
        expected = min(math.exp(-count * divergence), math.e * exact)
        assert bounded_p_value(mean, count, limit) == pytest.approx(expected)
        assert expected >= exact


def draw(count: int, seed: int, early: float = 1.0) -> Records:
    """Two early exits and a final one, right on 93 %.

    With confidence u, an early exit keeps a right answer with probability u (to a power), and
    mends one wrong answer in ten.
    """
    random = np.random.default_rng(seed)
    labels_B = random.integers(2, size=count)
    u_KB = random.random((2, count)) ** 0.2
    luck_KB = random.random((2, count))
    final_B = random.random(count) < 0.93
    right_KB = np.where(final_B, luck_KB < u_KB**early, luck_KB < 0.1)
    says_KB = np.where(np.concatenate([right_KB, final_B[None]]), labels_B, 1 - labels_B)
    return Records(5 * one_hot(says_KB, 2), logit(u_KB), labels_B, [10, 10, 10], [1, 1], 30)


def risk_of(records: Records, threshold: float, risk: str) -> float:
    """Of a shared threshold, counted from the definition."""
    answers_KB, h_KB = records.logits_KBN.argmax(2), expit(records.confidence_logits_KB)
    later_B = np.where(h_KB[1] > threshold, *answers_KB[1:])
    answer_B = np.where(h_KB[0] > threshold, answers_KB[0], later_B)
    if risk == "disagreement":
        return (answer_B != answers_KB[2]).mean()
    wrong, full = ((a != records.labels_B).mean() for a in (answer_B, answers_KB[2]))
    return wrong - full


@pytest.mark.parametrize(
    ("risk", "early", "limit"), [("excess_error", 1.0, 0.02), ("disagreement", 1.0, 0.05)]
)
def test_the_promise_with_a_probability(risk: str, early: float, limit: float) -> None:
    """At most a tenth of calibrations may mislead; 300 draws, and five standard errors."""
    truth = draw(400_000, 10**6, early)
    true_risks: dict[float, float] = {}
    broken, bold = 0, 0
    for seed in range(300):
        policy, promise = policy_for_risk(draw(1000, seed, early), limit, delta=0.1, risk=risk)
        threshold = policy.thresholds[0]
        if threshold not in true_risks:
            true_risks[threshold] = risk_of(truth, threshold, risk)
        broken += true_risks[threshold] > limit
        bold += true_risks[threshold] > limit / 5
        assert promise.measured <= limit
    assert broken <= 300 * 0.1 + 5 * (300 * 0.1 * 0.9) ** 0.5
    assert bold > 200  # it is no promise to do nothing


def test_the_promise_on_average() -> None:
    truth, risks = draw(400_000, 10**6), []
    for seed in range(300):
        policy, promise = policy_for_risk(draw(500, seed), 0.05, delta=None)
        assert promise == Guarantee("excess_error", 0.05, None, 500, promise.measured)
        risks.append(risk_of(truth, policy.thresholds[0], "excess_error"))
    assert sum(risks) / 300 <= 0.05
    assert sum(risks) / 300 > 0.005


def one_by_one(lost_at: dict[int, int], count: int = 100) -> Records:
    """One exit; threshold by threshold one more input leaves, and is lost (1) or gained (-1) as said."""
    thresholds = thresholds_to_try("confidence", 2)[150 : 150 + count]
    says_KB = np.zeros((2, count), np.int64)
    for b, sign in lost_at.items():
        says_KB[0 if sign > 0 else 1, b] = 1
    gates_KB = logit(np.array(thresholds)[None] + 1e-6)
    return Records(5 * one_hot(says_KB, 2), gates_KB, np.zeros(count, np.int64), [10, 10], [1], 20)


def leaving(records: Records, drop: float) -> int:
    return measure(records, policy_for_drop(records, drop)).exit_counts[0]


def test_the_last_before_the_first_failure() -> None:
    """Not the first that fails, and not a later one that passes by luck."""
    assert leaving(one_by_one({50: 1}), 0.0) == 50
    assert leaving(one_by_one({50: 1, 60: -1}), 0.0) == 50
    assert leaving(one_by_one({40: -1, 50: 1, 60: 1}), 0.0) == 60
    assert leaving(one_by_one({50: 1, 60: 1}), 0.01) == 60
    assert leaving(one_by_one({}), 0.0) == 100


@pytest.mark.parametrize("score", ["confidence", "max_softmax", "entropy", "margin"])
def test_drop_with_every_score(score: str) -> None:
    records = make_records(2000)
    measured = [measure(records, policy_for_drop(records, drop, score=score)) for drop in (0.0, 0.05, 1.0)]
    assert measured[0].accuracy >= measured[0].full_accuracy
    assert measured[1].accuracy >= measured[1].full_accuracy - 0.05
    assert measured[2].exit_counts[0] == 2000
    assert measured[0].relative_cost >= measured[1].relative_cost >= measured[2].relative_cost


def test_inputs_needed() -> None:
    """Without a loss, just as many: with one fewer the p-value is above delta."""
    assert inputs_needed(0.01, None) == 99
    assert inputs_needed(0.01, 0.1, "disagreement") == math.ceil(math.log(0.1) / math.log(0.99))
    for limit in (0.01, 0.05):
        needed = inputs_needed(limit, 0.1)
        assert p_value(0, 0, needed, limit) <= 0.1 < p_value(0, 0, needed - 1, limit)


def test_refusals() -> None:
    records = make_records(200)
    with pytest.raises(
        ValueError, match=r"200 inputs can't show a risk of 0.01 with delta 0.1; at least \d+ are"
    ):
        policy_for_risk(records, 0.01)
    with pytest.raises(ValueError, match="at least 999 are needed"):
        policy_for_risk(records, 0.001, delta=None)
    with pytest.raises(ValueError, match="risk is 0; it must lie between 0 and 1"):
        policy_for_risk(records, 0)
    with pytest.raises(ValueError, match="unknown risk 'ruin'; choose from excess_error, disagreement"):
        policy_for_risk(records, 0.1, risk="ruin")
    with pytest.raises(ValueError, match="max drop is -1"):
        policy_for_drop(records, -1)
    unlabelled = replace(records, labels_B=np.full(200, -1))
    with pytest.raises(ValueError, match="needs labels"):
        policy_for_risk(unlabelled, 0.1)
    assert policy_for_risk(unlabelled, 0.5, risk="disagreement")[1].measured < 0.5
    with pytest.raises(ValueError, match="without early exits"):
        policy_for_drop(replace(records, head_macs=[]), 0.1)
