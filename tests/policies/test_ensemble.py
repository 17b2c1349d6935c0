"""Exits that answer together: the mean, its weights, and that every engine carries answers along."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtime_cases import Mock, cases, expected_exits

from eenet.networks.building import create_model
from eenet.policies.ensemble import ALONE, PENALTY, Ensemble, Weights, fit_ensemble, join, probabilities
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import Records
from eenet.runtime.backends.backend import Outputs
from eenet.runtime.backends.choice import create_backend
from eenet.runtime.compacting import run_batch
from eenet.runtime.graphs.segments import segments_of
from eenet.runtime.queued import QueuedEngine
from eenet.runtime.reference import run_one


def by_hand(own_KN: list[list[float]], weights: list[Weights]) -> list[float]:
    """A product of powers, normalised."""
    product = np.array(own_KN[0])
    for own_N, (own, before) in zip(own_KN[1:], weights[1:], strict=True):
        product = np.array(own_N) ** own * product**before
    return list(product / product.sum())


def between(ensemble: Ensemble, on: list[int]) -> list[Weights]:
    """The weights of each exit, given which spoke before it."""
    return [ALONE, *(Weights(*ensemble[k][j]) for j, k in pairwise(on))]


def softmax_of(logits: NDArray[Any]) -> NDArray[Any]:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def noisy_exits(seed: int, noise: list[float], count: int = 3000, classes: int = 5) -> tuple[list, NDArray]:
    """Calibrated answers of exits that each see the label through noise of their own."""
    rng = np.random.default_rng(seed)
    labels_B = rng.integers(classes, size=count)
    seen = [np.eye(classes)[labels_B] + s * rng.standard_normal((count, classes)) for s in noise]
    return [softmax_of(x / s**2) for x, s in zip(seen, noise, strict=True)], labels_B


def test_join_by_hand() -> None:
    weights = [ALONE, Weights(0.5, 2.0), Weights(1.5, 0.25)]
    own_KN = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.45, 0.45]]
    joined_BN = None
    for own_N, w in zip(own_KN, weights, strict=True):
        joined_BN = join(np.array([own_N]), joined_BN, w)
    assert joined_BN is not None
    np.testing.assert_allclose(probabilities(joined_BN)[0], by_hand(own_KN, weights), rtol=1e-9)


def test_impossible_classes_stay_numbers() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    joined_BN = join(certain, join(certain[::-1], None, ALONE), Weights(1.0, 1.0))
    np.testing.assert_allclose(probabilities(joined_BN), 0.5)


def test_weights_are_the_best_of_a_grid() -> None:
    own_KBN, labels_B = noisy_exits(0, [1.0, 0.7])
    found = fit_ensemble(own_KBN, labels_B)
    assert found[0] == []

    def loss(w: Weights) -> float:
        p_BN = probabilities(join(own_KBN[1], join(own_KBN[0], None, ALONE), w))
        distance = (w.own - 1) ** 2 + w.before**2
        return -np.log(p_BN[np.arange(len(labels_B)), labels_B]).mean() + PENALTY * distance

    grid = [Weights(a, b) for a in np.linspace(0, 2, 41) for b in np.linspace(0, 2, 41)]
    assert loss(Weights(*found[1][0])) <= min(map(loss, grid))
    np.testing.assert_allclose(found[1][0], (1, 1), atol=0.1)  # independent evidence multiplies


def test_joined_answers_are_right_more_often_on_other_images() -> None:
    """Whichever exits are on: the more, the better."""
    ensemble = fit_ensemble(*noisy_exits(0, [0.8, 0.8, 0.8]))
    own_KBN, labels_B = noisy_exits(1, [0.8, 0.8, 0.8])

    def right(*on: int) -> float:
        joined_BN = None
        for k, w in zip(on, between(ensemble, list(on)), strict=True):
            joined_BN = join(own_KBN[k], joined_BN, w)
        assert joined_BN is not None
        return (joined_BN.argmax(1) == labels_B).mean()

    assert right(2) + 0.05 < right(0, 2) < right(0, 1, 2) - 0.02
    assert right(2) + 0.05 < right(1, 2) < right(0, 1, 2) - 0.02


def test_an_exit_that_knows_nothing_gets_no_say() -> None:
    (good_BN, _), labels_B = noisy_exits(0, [0.5, 0.5])
    noise_BN = softmax_of(3 * np.random.default_rng(2).standard_normal(good_BN.shape))
    own, before = fit_ensemble([noise_BN, good_BN], labels_B)[1][0]
    assert own > 0.9
    assert before < 0.05
    assert fit_ensemble([good_BN[:1], good_BN[:1]], labels_B[:1])[1][0][0] > 0  # one image is enough to go on


@pytest.mark.parametrize("enabled", [None, (True, True), (False, True), (True, False), (False, False)])
def test_records_join_the_exits_that_are_on(enabled: tuple[bool, ...] | None) -> None:
    logits_KBN = np.random.default_rng(0).standard_normal((3, 4, 5), np.float32)
    ensemble = [[], [[0.5, 2.0]], [[1.5, 0.25], [0.75, 0.5]]]
    labels_B, gates_KB = np.arange(4), np.zeros((2, 4), np.float32)
    records = Records(logits_KBN, gates_KB, labels_B, [1, 1, 1], [0, 0], 3, ensemble)
    own_KBN = softmax_of(logits_KBN).tolist()
    on = [k for k in range(3) if enabled is None or k == 2 or enabled[k]]
    answers_KBN, right_KB = softmax_of(records.answers(enabled)), records.correct(enabled)
    for b in range(4):
        for k in range(3):
            there = [j for j in on if j <= k] if k in on else [k]
            wanted_N = by_hand([own_KBN[j][b] for j in there], between(ensemble, there))
            np.testing.assert_allclose(answers_KBN[k, b], wanted_N, rtol=1e-4)
            assert right_KB[k, b] == (np.argmax(wanted_N) == b)
    policy = ExitPolicy("max_softmax", (0.45, 0.4), enabled or ())
    left_B = policy.decide(list(logits_KBN), list(gates_KB))
    assert records.right(policy).tolist() == [bool(right_KB[k, b]) for b, k in enumerate(left_B)]
    alone = Records(logits_KBN, gates_KB, labels_B, [1, 1, 1], [0, 0], 3)
    np.testing.assert_array_equal(alone.answers(enabled), logits_KBN)


class Speaking(Mock):
    """With answers from a table [K, B, N]."""

    def __init__(
        self,
        scores_KB: NDArray[np.float32],
        policy: ExitPolicy,
        own_KBN: NDArray[np.float32],
        ensemble: Ensemble,
    ) -> None:
        super().__init__(scores_KB, policy)
        self.segments, self.own_KBN = segments_of(policy, ensemble), own_KBN

    def run(self, index: int, features: object) -> Outputs:
        outputs = super().run(index, features)
        assert outputs.probabilities_BN is not None
        numbers_B = outputs.probabilities_BN[:, 0].astype(int)
        return outputs._replace(probabilities_BN=self.own_KBN[self.segments[index].exit or 0, numbers_B])


@given(cases(), st.integers(0, 1000), st.integers(1, 5), st.data())
@settings(max_examples=1000, deadline=None)
def test_engines_carry_answers_along(
    case: tuple[NDArray[np.float32], ExitPolicy], seed: int, batch_size: int, data: st.DataObject
) -> None:
    """Compacting and queued, the latter also under another policy than its own: as one image at a time."""
    scores_KB, policy = case
    rng = np.random.default_rng(seed)
    exits, count = len(policy.thresholds) + 1, scores_KB.shape[1]
    own_KBN = rng.dirichlet([0.5] * 3, (exits, count)).clip(1e-6).astype(np.float32)
    ensemble = [rng.uniform(0, 1.5, (k, 2)).tolist() for k in range(exits)]
    backend = Speaking(scores_KB, policy, own_KBN, ensemble)

    def check(policy: ExitPolicy, found_BN: NDArray[np.float32], exits_B: NDArray[np.intp]) -> None:
        assert exits_B.tolist() == expected_exits(scores_KB, policy)
        for b, last in enumerate(exits_B.tolist()):
            on = [k for k in range(last + 1) if k == exits - 1 or policy.enabled[k]]
            wanted_N = by_hand([own_KBN[k, b].tolist() for k in on], between(ensemble, on))
            np.testing.assert_allclose(found_BN[b], wanted_N, rtol=1e-3, atol=1e-6)

    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None]
    alone = run_batch(backend, policy, pixels)
    check(policy, alone.probabilities_BN, alone.exits_B)
    fewer = tuple(on and data.draw(st.booleans()) for on in policy.enabled)
    other = ExitPolicy(policy.score, policy.thresholds[::-1], fewer)
    with QueuedEngine(backend, policy, ensemble=ensemble, batch_size=batch_size) as engine:
        futures = [(asked, engine.submit(pixels, policy=asked)) for asked in (policy, other, policy)]
        for asked, future in futures:
            answers = future.result(10)
            check(asked, answers.probabilities_BN, answers.exits_B)


@pytest.mark.parametrize("count", [1, 6])
def test_a_graph_joins_answers_as_the_reference_does(count: int) -> None:
    """In one call, for one image and for several."""
    network = create_model("resnet8_w4_cifar", num_exits=2, num_classes=3, input_size=(3, 8, 8)).eval()
    network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    network.config.ensemble = [[], [[0.7, 0.5]], [[0.6, 0.4], [0.8, 0.3]]]
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8)
    for thresholds in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        policy = ExitPolicy("max_softmax", thresholds)
        segments = segments_of(policy, network.config.ensemble)
        backend = create_backend("onnxruntime", network, segments, policy.score)
        found = backend.run_through(pixels, policy.thresholds)
        assert found is not None
        images = (torch.from_numpy(pixels) / 255 - 0.5) / 0.25
        for b, (probabilities_N, left) in enumerate(zip(*found, strict=True)):
            wanted_N, at = run_one(network, policy, images[b])
            assert left == at
            np.testing.assert_allclose(probabilities_N, wanted_N, rtol=1e-4, atol=1e-6)
