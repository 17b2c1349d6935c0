"""Decisions against one input at a time, in plain Python."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eenet.policies.policy import ExitPolicy
from eenet.policies.scores import SCORES, graph_scores


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_leaves_at_the_first_enabled_exit_above_its_threshold(data: Any) -> None:
    K, B, N = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), 3
    score = data.draw(st.sampled_from(graph_scores()))
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    logits, confidence = (random.standard_normal(of, np.float32) for of in ((K, B, N), (K - 1, B)))
    thresholds = data.draw(st.lists(st.floats(-1, 1), min_size=K - 1, max_size=K - 1))
    enabled = data.draw(st.lists(st.booleans(), min_size=K - 1, max_size=K - 1))
    policy = ExitPolicy(score, tuple(thresholds), tuple(enabled))
    for b, decided in enumerate(policy.decide(list(logits), list(confidence)).tolist()):
        scores = [SCORES[score]([logits[k, b : b + 1]], [confidence[k, b : b + 1]]) for k in range(K - 1)]
        leaving = [k for k in range(K - 1) if enabled[k] and scores[k] > thresholds[k]]
        assert decided == (leaving[0] if leaving else K - 1)


@pytest.mark.parametrize("exit_index", range(4))
def test_all_at_one_exit(exit_index: int) -> None:
    random = np.random.default_rng(exit_index)
    logits, confidence = list(random.standard_normal((4, 9, 3))), list(100 * random.standard_normal((3, 9)))
    policy = ExitPolicy.all_at(exit_index, 3)
    assert policy.decide(logits, confidence).tolist() == [exit_index] * 9
    assert policy.only_exit == exit_index
    assert ExitPolicy("confidence", (0.0, 0.5, 0.5)).only_exit is None
    assert ExitPolicy("margin", (-0.5, 0.5, 0.5)).only_exit is None


@pytest.mark.parametrize("exit_index", [-1, 4])
def test_all_at_an_exit_that_is_not_there(exit_index: int) -> None:
    with pytest.raises(ValueError, match=f"exit {exit_index} is not one of 0 to 3"):
        ExitPolicy.all_at(exit_index, 3)


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
        ExitPolicy("margin", (0.1, 0.2)).decide(list(np.zeros((2, 2, 3))), [np.zeros(2)])
