"""Gates of exits that answer for places: what they learn from held-out images."""

import numpy as np
import pytest
import torch

from eenet.tasks.gain import GainGate, fit_gates

NAMES = ("sure_share", "entropy", "max_softmax")


def made(*either_way: str) -> GainGate:
    return GainGate(NAMES, "max_softmax", either_way)


def weights(gates: list[GainGate]) -> np.ndarray:
    return torch.stack([gate.gain.weight[0] for gate in gates]).detach().numpy()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_surer_leave_first_even_if_held_out_images_say_otherwise(sign: int) -> None:
    """A gain that rises with all scores is taken for no relation: but for a little, the usual one decides."""
    random = np.random.default_rng(0)
    statistics_KBS = random.normal(size=(2, 60, 3)).astype(np.float32)
    gains_KB = sign * statistics_KBS.sum(2) + random.normal(size=(2, 60))
    gates, confidences_KB = fit_gates(made, statistics_KBS, gains_KB)
    found_KS = weights(gates)
    assert (found_KS >= -1e-6).all()
    assert (found_KS[:, 2] > 0).all()
    if sign > 0:
        assert np.allclose(found_KS[:, :2], 0, atol=1e-5)
        for confidences_B, statistics_BS in zip(confidences_KB, statistics_KBS, strict=True):
            assert (confidences_B.argsort() == statistics_BS[:, 2].argsort()).all()
    else:
        assert (found_KS > 0.2).all()


def test_a_statistic_that_may_go_either_way_keeps_its_sign() -> None:
    random = np.random.default_rng(1)
    statistics_KBS = random.normal(size=(1, 80, 3)).astype(np.float32)
    gains_KB = statistics_KBS[:, :, 0] - statistics_KBS[:, :, 1]
    bound = weights(fit_gates(made, statistics_KBS, gains_KB)[0])[0]
    free = weights(fit_gates(lambda: made("sure_share"), statistics_KBS, gains_KB)[0])[0]
    assert abs(bound[0]) < 1e-5 < bound[1]
    assert free[0] < -0.5
    assert free[1] > 0.5


def test_confidences_are_predicted_gains_in_one_unit() -> None:
    """Minus the gain, in standard deviations over all exits: against least squares without bounds."""
    random = np.random.default_rng(2)
    statistics_KBS = random.normal(size=(2, 200, 3)).astype(np.float32)
    gains_KB = -np.array([[1.0], [3.0]]) * statistics_KBS.mean(2) + np.array([[0.5], [0.0]])
    _, confidences_KB = fit_gates(made, statistics_KBS, gains_KB)
    assert np.abs(-confidences_KB * gains_KB.std() - gains_KB).mean() < 0.05 * gains_KB.std()
