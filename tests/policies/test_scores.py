"""Scores by hand, in plain Python, and of numpy's arrays against torch's tensors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import make_records
from scipy import special
from torch import Tensor

import eenet
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import recorded_scores
from eenet.policies.scores import SCORES, graph_scores, logit, score_of_answers, sigmoid
from eenet.tasks.classification.metrics import measure

BUILT_IN = [name for name in SCORES if not SCORES.mark(name, "boxes")]
LOGITS = [[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


def test_scores_by_hand() -> None:
    p = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in LOGITS]
    confidence_B = np.array([0.0, math.log(3)], np.float32)
    expected = {
        "max_softmax": [max(row) for row in p],
        "confidence": [0.5, 0.75],
        "entropy": [sum(q * math.log(q) for q in row) for row in p],
        "margin": [sorted(row)[-1] - sorted(row)[-2] for row in p],
    }
    assert set(expected) == set(BUILT_IN) & set(graph_scores())
    for name, values in expected.items():
        found_B = SCORES[name]([np.array(LOGITS, np.float32)], [confidence_B])
        assert found_B.tolist() == pytest.approx(values, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(BUILT_IN),
    exits=st.integers(1, 5),
    count=st.integers(0, 7),
    classes=st.sampled_from([1, 2, 3, 10, 1000]),
    scale=st.sampled_from([0.0, 1.0, 30.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_the_same_on_arrays_and_on_tensors(
    name: str, exits: int, count: int, classes: int, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits_KBN = list(np.float32(scale) * random.standard_normal((exits, count, classes), np.float32))
    gates_KB = list(np.float32(scale) * random.standard_normal((exits, count), np.float32))
    found_B = SCORES[name](logits_KBN, gates_KB)
    wanted_B = SCORES[name](*(list(map(torch.from_numpy, of)) for of in (logits_KBN, gates_KB)))
    assert found_B.dtype == np.float32
    assert wanted_B.dtype == torch.float32
    assert found_B.shape == (count,)
    np.testing.assert_allclose(found_B, wanted_B.numpy(), rtol=1e-6, atol=1e-6)


def test_patience_counts_exits_that_agree() -> None:
    """Against counting backwards, whichever exits are on."""
    logits_KBN = np.random.default_rng(0).standard_normal((5, 40, 3), np.float32)
    for enabled in ((True,) * 4, (True, False, True, True)):
        policy = ExitPolicy("patience", (0.5,) * 4, enabled)
        for b, exit_index in enumerate(policy.decide(list(logits_KBN), [np.zeros(40)] * 4).tolist()):
            said = [int(logits_KBN[k][b].argmax()) for k in range(4) if enabled[k]]
            agreed = next((k for k in range(1, len(said)) if said[k] == said[k - 1]), None)
            on = [k for k in range(4) if enabled[k]]
            assert exit_index == (4 if agreed is None else on[agreed])


@pytest.fixture
def _own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores of a user's own, in torch, as from a script."""
    for name in ("_values", "_marks"):  # to be forgotten afterwards
        monkeypatch.setattr(SCORES, name, dict(getattr(SCORES, name)))

    def energy(logits_KBN: list[Tensor], confidence_logits_KB: list[Tensor]) -> Tensor:  # noqa: ARG001
        assert len(logits_KBN) == 1
        return torch.logsumexp(logits_KBN[-1], 1)

    def steady(logits_KBN: list[Tensor], confidence_logits_KB: list[Tensor]) -> Tensor:
        assert len(logits_KBN) == len(confidence_logits_KB)
        return torch.stack(logits_KBN).exp().mean(0).amax(1)

    energy.__module__ = steady.__module__ = "__main__"
    eenet.register("score")(energy)
    eenet.register("score", looks_back=True)(steady)


@pytest.mark.usefixtures("_own_scores")
def test_own_scores_written_in_torch_work_on_records() -> None:
    records = make_records(50)
    logits_KBN = records.logits_KBN.astype(np.float64)
    p_KBN = np.exp(logits_KBN) / np.exp(logits_KBN).sum(2, keepdims=True)
    expected = {
        "energy": np.log(np.exp(logits_KBN[:3]).sum(2)),
        "steady": np.stack([p_KBN[: k + 1].mean(0).max(1) for k in range(3)]),
    }
    for name, wanted_KB in expected.items():
        found_KB = recorded_scores(records, name)
        np.testing.assert_allclose(found_KB, wanted_KB, rtol=1e-5)
        threshold = float(np.median(wanted_KB))
        counts = measure(records, ExitPolicy(name, (threshold,) * 3)).exit_counts
        left_B = np.concatenate([wanted_KB > threshold, np.ones((1, 50), bool)]).argmax(0)
        assert counts == np.bincount(left_B, minlength=4).tolist()


def test_answers_give_the_score_that_logits_give() -> None:
    """Of a score that looks back, from probabilities; also of such as are zero or one."""
    certain_BN, doubts_BN = np.eye(2, dtype=np.float32), np.full((2, 2), 0.5, np.float32)
    gates_B = np.array([0.0, 1.0], np.float32)
    said = [(certain_BN, gates_B), (certain_BN[:, ::-1].copy(), gates_B), (doubts_BN, gates_B)]
    assert score_of_answers("patience", said[:1]).tolist() == [0, 0]
    assert score_of_answers("patience", said[:2]).tolist() == [0, 0]
    assert score_of_answers("patience", said).tolist() == [0, 1]  # of two equal ones the first is said
    assert score_of_answers("patience", said).dtype == np.float32


def test_sigmoid_and_back() -> None:
    """Against scipy, without a warning at the ends."""
    x = np.array([-1e30, -100, -20, -1, 0, 1, 20, 100, 1e30], np.float32)
    assert sigmoid(x).dtype == np.float32
    np.testing.assert_allclose(sigmoid(x), special.expit(x), rtol=1e-6, atol=1e-40)
    p = np.array([0, 1e-30, 1e-3, 0.5, 0.999, 1], np.float32)
    np.testing.assert_allclose(logit(p), special.logit(p.astype(np.float64)), rtol=1e-6)
    np.testing.assert_allclose(sigmoid(logit(p)), p, rtol=1e-6)
