"""Diagnostics against counting in plain Python."""

from dataclasses import replace

import pytest
import torch
from record_cases import make_records

from eenet.evaluation.diagnostics import bootstrap_interval, diagnose, expected_calibration_error
from eenet.evaluation.evaluating import evaluate
from eenet.evaluation.metrics import measure
from eenet.policies.policy import ExitPolicy

POLICY = ExitPolicy("max_softmax", (0.8, 0.7, 0.6))


def test_against_counting() -> None:
    records = make_records()
    found = diagnose(records, POLICY)
    right = records.correct().tolist()
    for k in range(3):
        pairs = list(zip(right[k], right[3], strict=True))
        assert found.right_then_wrong[k] == pairs.count((True, False))
        assert found.wrong_then_right[k] == pairs.count((False, True))
        scores = records.logits_KBN[k].softmax(1).amax(1).tolist()
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


def test_calibration_error_by_hand() -> None:
    """Two inputs in one bin, at 0.9 and both right: off by 0.1; one at 0.6 and wrong: off by 0.6."""
    p_BN = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    right_B = torch.tensor([True, True, False])
    assert expected_calibration_error(p_BN.log(), right_B) == pytest.approx((2 * 0.1 + 0.6) / 3)


def test_area_under_the_curve() -> None:
    """If every exit is as good as any, all of the curve lies at one accuracy."""
    records = make_records()
    same = replace(records, logits_KBN=records.logits_KBN[-1:].expand(4, -1, -1).clone())
    accuracy = evaluate(same, POLICY).full_accuracy
    assert diagnose(same, POLICY).curve_area == pytest.approx(accuracy)
    areas = [
        diagnose(replace(records, labels_B=labels), POLICY).curve_area
        for labels in (records.labels_B, records.logits_KBN[-1].argmax(1))
    ]
    assert areas[0] < areas[1] < 1


def test_intervals() -> None:
    """Near the normal one; that of the drop is paired, and zero where the policy never leaves early."""
    values_B = (torch.arange(1000) < 300).double()
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
    says = torch.nn.functional.one_hot(records.labels_B, 5).float()
    perfect = replace(records, logits_KBN=says.expand(4, -1, -1))
    assert diagnose(perfect, POLICY).auroc == [None] * 3
    plain = replace(records, logits_KBN=says[None], confidence_logits_KB=torch.empty(0, 200), head_macs=[])
    plain = replace(plain, stage_macs=[400])
    assert diagnose(plain, ExitPolicy("max_softmax", ())).curve_area == 1
