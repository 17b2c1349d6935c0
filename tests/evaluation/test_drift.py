"""The drift alarm: how often it is false, how soon it comes, and what it is told."""

import math

import numpy as np
import pytest
from scipy.special import expit

from eenet import data
from eenet.data.corruptions import corrupt
from eenet.data.image_sets import ImageSet
from eenet.evaluation import drift as monitoring
from eenet.evaluation.drift import DriftMonitor, depths_of
from eenet.evaluation.evaluating import collect
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import Records


def test_false_alarms_are_as_rare_as_stated() -> None:
    """New calibration images and a new stream from the same distribution, 200 times; alpha is 0.1.

    With a true rate of 0.1, more than 33 alarms in 200 have a probability under 0.2 %.
    """
    random = np.random.default_rng(0)
    alarms = 0
    for seed in range(200):
        depths = random.choice([0.0, 1.0, 2.0], 1500, p=[0.6, 0.3, 0.1]) - random.beta(5, 2, 1500)
        monitor = DriftMonitor(depths[:500].tolist(), alpha=0.1, seed=seed)
        for depth in depths[500:].tolist():
            monitor.update(depth)
        alarms += monitor.alarm
    assert alarms <= 33


@pytest.mark.parametrize("quiet", [0, 1000])
def test_a_shift_is_found_soon_also_after_a_quiet_time(quiet: int) -> None:
    random = np.random.default_rng(1)
    found = []
    for seed in range(20):
        calibration, before = random.normal(0, 1, 2000), random.normal(0, 1, quiet)
        monitor = DriftMonitor(calibration.tolist(), alpha=0.01, seed=seed)
        for depth in before.tolist():
            monitor.update(depth)
        assert not monitor.alarm
        for depth in random.normal(1.0, 1, 500).tolist():
            monitor.update(depth)
        assert monitor.alarm_at is not None
        found.append(monitor.alarm_at - quiet)
    assert np.median(found) < 150


def test_evidence_starts_at_one_and_stays_a_fair_game() -> None:
    """Over many streams without drift the mean of the money stays what it was."""
    random = np.random.default_rng(2)
    money = []
    for seed in range(1000):
        monitor = DriftMonitor(random.normal(0, 1, 100).tolist(), seed=seed)
        for depth in random.normal(0, 1, 8).tolist():
            monitor.update(depth)
        money.append(monitor.evidence)
    first = 6 / math.pi**2  # of the money is on the first bet
    assert np.mean(money) == pytest.approx(first, abs=4 * np.std(money) / 1000**0.5)


def test_begins_anew_and_still_finds_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it needs no more room; the evidence needed grows, since all watches share one alpha."""
    monkeypatch.setattr(monitoring, "EPOCH", 300)
    random = np.random.default_rng(3)
    monitor = DriftMonitor(random.normal(0, 1, 1000).tolist(), alpha=0.1)
    for depth in random.normal(0, 1, 900).tolist():
        monitor.update(depth)
    assert not monitor.alarm
    monitor.update(0.0)
    assert monitor.evidence == pytest.approx(6 / math.pi**2, rel=0.01)  # the first bet's, hardly moved
    for depth in random.normal(1.5, 1, 250).tolist():
        monitor.update(depth)
    assert monitor.alarm
    assert monitor.alarm_at is not None
    assert monitor.alarm_at > 900


def test_damaged_digits_are_noticed_and_clean_ones_are_not() -> None:
    network = EENet.from_pretrained("digits-eenet8")
    policy = network.config.exit_policy()
    held_out, test = data.load("digits", "validation"), data.load("digits", "test")
    calibration = depths_of(collect(network, held_out), policy).tolist()
    pixels = test.pixels(list(range(len(test))))
    for name, alarmed in (("none", False), ("contrast", True), ("impulse_noise", True)):
        seen = pixels if name == "none" else corrupt(pixels, name, 5)
        records = collect(network, ImageSet(seen, test.labels_B, test.class_names))
        monitor = DriftMonitor(calibration)
        for depth in depths_of(records, policy).tolist():
            monitor.update(depth)
        assert monitor.alarm is alarmed


def test_depth_is_the_exit_minus_the_score() -> None:
    logits_KBN = np.zeros((3, 4, 2), np.float32)
    gates_KB = np.array([[3, -1, -1, 1], [0, 2, -2, 0]], np.float32)
    records = Records(logits_KBN, gates_KB, np.zeros(4, np.int64), [1, 1, 1], [1, 1], 3)
    depths = depths_of(records, ExitPolicy("confidence", (0.6, 0.6)))

    def squashed(logit: float) -> float:
        return float(expit(expit(logit)))

    expected = [0 - squashed(3), 1 - squashed(2), 2 - squashed(-2), 0 - squashed(1)]
    assert depths.tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="no exit is on"):
        depths_of(records, ExitPolicy("confidence", (0.6, 0.6), (False, False)))


@pytest.mark.parametrize(
    ("depths", "alpha", "message"),
    [
        ([0.5] * 99, 0.01, "at least 100"),
        ([0.5] * 200, 0.0, "between 0 and 1"),
        ([0.5] * 200, 1.5, "between 0 and 1"),
        ([math.nan] * 200, 0.01, "NaN"),
    ],
)
def test_mistakes_are_named(depths: list[float], alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftMonitor(depths, alpha=alpha)


def test_constant_depths_raise_no_alarm() -> None:
    monitor = DriftMonitor([0.5] * 200)
    assert not any(monitor.update(0.5) for _ in range(1000))
