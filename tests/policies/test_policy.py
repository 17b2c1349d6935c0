"""Scores and decisions against one input at a time, in plain Python."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eenet.policies.policy import ExitPolicy
from eenet.policies.scores import SCORES, graph_scores

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])


def test_scores_by_hand() -> None:
    p = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in LOGITS.tolist()]
    confidence = torch.tensor([0.0, math.log(3)])
    expected = {
        "max_softmax": [max(row) for row in p],
        "confidence": [0.5, 0.75],
        "entropy": [sum(q * math.log(q) for q in row) for row in p],
        "margin": [sorted(row)[-1] - sorted(row)[-2] for row in p],
    }
    for name, score in ((name, SCORES[name]) for name in SCORES):
        if name in expected:  # the others look back
            assert score([LOGITS], [confidence]).tolist() == pytest.approx(expected[name], abs=1e-6)


def test_patience_counts_exits_that_agree() -> None:
    """Against counting backwards, whichever exits are on."""
    logits_KBN = list(torch.randn(5, 40, 3))
    confidences_KB = list(torch.zeros(4, 40))
    for enabled in ((True,) * 4, (True, False, True, True)):
        policy = ExitPolicy("patience", (0.5,) * 4, enabled)
        for b, exit_index in enumerate(policy.decide(logits_KBN, confidences_KB).tolist()):
            said = [int(logits_KBN[k][b].argmax()) for k in range(4) if enabled[k]]
            agreed = next((k for k in range(1, len(said)) if said[k] == said[k - 1]), None)
            on = [k for k in range(4) if enabled[k]]
            assert exit_index == (4 if agreed is None else on[agreed])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_leaves_at_the_first_enabled_exit_above_its_threshold(data: Any) -> None:
    K, B, N = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), 3
    score = data.draw(st.sampled_from(graph_scores()))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    logits, confidence = torch.randn(K, B, N) * 2, torch.randn(K - 1, B)
    thresholds = data.draw(st.lists(st.floats(-1, 1), min_size=K - 1, max_size=K - 1))
    enabled = data.draw(st.lists(st.booleans(), min_size=K - 1, max_size=K - 1))
    policy = ExitPolicy(score, tuple(thresholds), tuple(enabled))
    for b, decided in enumerate(policy.decide(list(logits), list(confidence)).tolist()):
        scores = [SCORES[score]([logits[k, b : b + 1]], [confidence[k, b : b + 1]]) for k in range(K - 1)]
        leaving = [k for k in range(K - 1) if enabled[k] and scores[k] > thresholds[k]]
        assert decided == (leaving[0] if leaving else K - 1)


def test_round_trip_and_default() -> None:
    policy = ExitPolicy("margin", (0.25, 0.5), (True, False))
    assert ExitPolicy.from_dict(policy.to_dict(), 2) == policy
    assert ExitPolicy.from_dict(None, 2) == ExitPolicy("confidence", (0.5, 0.5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score": "luck", "thresholds": [1, 1], "enabled": [True, True]}, "unknown score 'luck'"),
        ({"score": "margin", "thresholds": [1, 1]}, "damaged"),
        ({"score": "margin", "thresholds": [1], "enabled": [True]}, "1 thresholds, the network 2"),
        ({"score": "margin", "thresholds": [1, 1], "enabled": [True]}, "1 on/off flags"),
        ({"score": "margin", "thresholds": [1, math.nan], "enabled": [True, True]}, "NaN"),
    ],
)
def test_damaged_policies(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitPolicy.from_dict(values, 2)


def test_policy_of_another_network() -> None:
    with pytest.raises(ValueError, match="2 early exits, the network has 1"):
        ExitPolicy("margin", (0.1, 0.2)).decide([LOGITS, LOGITS], [torch.zeros(2)])
