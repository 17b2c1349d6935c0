"""Diagnostics against counting in plain Python."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import make_records, one_hot
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from eenet.evaluation.evaluating import evaluate
from eenet.policies.policy import ExitPolicy
from eenet.tasks.classification.diagnostics import (
    auroc,
    bootstrap_interval,
    diagnose,
    expected_calibration_error,
)
from eenet.tasks.classification.metrics import measure

POLICY = ExitPolicy("max_softmax", (0.8, 0.7, 0.6))


def test_against_counting() -> None:
    records = make_records()
    found = diagnose(records, POLICY)
    right = records.correct().tolist()
    for k in range(3):
        pairs = list(zip(right[k], right[3], strict=True))
        assert found.right_then_wrong[k] == pairs.count((True, False))
        assert found.wrong_then_right[k] == pairs.count((False, True))
        scores = softmax(records.logits_KBN[k], 1).max(1).tolist()
        won = [
            (a > b) + 0.5 * (a == b)
            for a, yes in zip(scores, right[k], strict=True)
            for b, no in zip(scores, right[k], strict=True)
            if yes and not no
        ]
        assert found.auroc[k] == pytest.approx(sum(won) / len(won))
    costs = records.costs()
    for last, (cost, accuracy) in enumerate(found.oracle):
        firsts = [next((k for k in range(last + 1) if right[k][b]), None) for b in range(200)]
        assert accuracy == pytest.approx(sum(k is not None for k in firsts) / 200)
        assert cost == pytest.approx(sum(costs[k or 0] for k in firsts) / 200)
    assert found.oracle[-1][1] >= max(map(sum, right)) / 200


@settings(max_examples=300, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.booleans(), st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=2
    ),
    decimals=st.sampled_from([0, 1, None]),
)
def test_area_under_the_roc_curve(pairs: list[tuple[bool, float]], decimals: int | None) -> None:
    """Against scikit-learn; rounded scores are tied."""
    right_B = np.array([True, False, *(right for right, _ in pairs[2:])])
    score_B = np.array([score for _, score in pairs], np.float32)
    score_B = score_B if decimals is None else np.tanh(score_B).round(decimals)
    assert auroc(right_B, score_B) == pytest.approx(roc_auc_score(right_B, score_B))


def test_the_light_installation_is_enough() -> None:
    """For thresholds, metrics and diagnosis: without torch, scikit-learn and scipy."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'sklearn', 'scipy')))\n"
        "from record_cases import make_records\n"
        "from eenet.evaluation import diagnose, measure\n"
        "from eenet.policies import policy_for_budget\n"
        "records = make_records(); policy = policy_for_budget(records, 0.6)\n"
        "print(diagnose(records, policy), measure(records, policy))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "AUROC" in done.stdout


def test_calibration_error_by_hand() -> None:
    """Two inputs in one bin, at 0.9 and both right: off by 0.1; one at 0.6 and wrong: off by 0.6."""
    p_BN = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], np.float32)
    right_B = np.array([True, True, False])
    assert expected_calibration_error(np.log(p_BN), right_B) == pytest.approx((2 * 0.1 + 0.6) / 3)


def test_area_under_the_curve() -> None:
    """If every exit is as good as any, all of the curve lies at one accuracy."""
    records = make_records()
    same = replace(records, logits_KBN=records.logits_KBN[[-1] * 4])
    accuracy = evaluate(same, POLICY).full_accuracy
    assert diagnose(same, POLICY).curve_area == pytest.approx(accuracy)
    areas = [
        diagnose(replace(records, labels_B=labels), POLICY).curve_area
        for labels in (records.labels_B, records.logits_KBN[-1].argmax(1))
    ]
    assert areas[0] < areas[1] < 1


def test_intervals() -> None:
    """Near the normal one; that of the drop is paired, and zero where the policy never leaves early."""
    values_B = np.arange(1000) < 300
    low, high = bootstrap_interval(values_B)
    assert (low, high) == pytest.approx((0.3 - 0.0284, 0.3 + 0.0284), abs=0.004)
    intervals = diagnose(make_records(), ExitPolicy("max_softmax", (2.0, 2.0, 2.0))).intervals
    assert intervals["drop"] == (0, 0)
    measured = measure(make_records(), POLICY)
    found = diagnose(make_records(), POLICY).intervals
    for name in ("accuracy", "relative_cost", "full_accuracy"):
        assert found[name][0] < getattr(measured, name) < found[name][1]


def test_sentences_keep_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    told = str(diagnose(make_records(), POLICY)).split("\n\n")[1]
    assert "mean accuracy over all costs" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 70


def test_one_sided_and_plain_records() -> None:
    records = make_records()
    says_BN = one_hot(records.labels_B, 5)
    perfect = replace(records, logits_KBN=np.stack([says_BN] * 4))
    assert diagnose(perfect, POLICY).auroc == [None] * 3
    plain = replace(records, logits_KBN=says_BN[None], stage_macs=[400], head_macs=[])
    plain = replace(plain, confidence_logits_KB=np.empty((0, 200), np.float32))
    assert diagnose(plain, ExitPolicy("max_softmax", ())).curve_area == 1
