"""Damaged images: what corruptions do to pixels, and what a policy does on them."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit

from eenet import data
from eenet.cli import main
from eenet.data.corruptions import CORRUPTIONS, corrupt
from eenet.data.pixels import Pixels
from eenet.evaluation.evaluating import collect
from eenet.evaluation.shift import describe
from eenet.networks.network import EENet
from eenet.tasks.classification.diagnostics import expected_calibration_error


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """Smooth colour images of 32 × 32."""
    coarse = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8).numpy()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity_and_is_the_same_every_time(name: str, photos: Pixels) -> None:
    distances = []
    for severity in (1, 3, 5):
        damaged = corrupt(photos, name, severity)
        assert damaged.shape == photos.shape
        assert damaged.dtype == np.uint8
        assert np.array_equal(damaged, corrupt(photos, name, severity))
        distances.append(np.abs(damaged.astype(float) - photos).mean())
    assert 0 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 24)])
def test_damage_takes_any_image(name: str, size: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(3, *size), dtype=np.uint8)
    before = pixels.copy()
    for severity in (1, 5):
        assert corrupt(pixels, name, severity).shape == pixels.shape
    assert np.array_equal(pixels, before)


def test_random_damage_differs_between_seeds(photos: Pixels) -> None:
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "fog", "occlusion"):
        assert not np.array_equal(corrupt(photos, name, 3), corrupt(photos, name, 3, seed=1))


def test_what_is_described_is_counted_right() -> None:
    network = EENet.from_pretrained("digits-eenet8")
    policy = network.config.exit_policy()
    records = collect(network, data.load("digits", "test"))
    found = describe(records, policy)
    right = other = 0
    answers_KBN, answers, lefts = records.answers(), [], [0, 0, 0]
    for i in range(len(records)):
        left = next(
            (k for k in range(2) if expit(records.confidence_logits_KB[k, i]) > policy.thresholds[k]), 2
        )
        lefts[left] += 1
        answers.append(answers_KBN[left, i])
        right += int(answers[-1].argmax() == records.labels_B[i])
        other += int(answers[-1].argmax() != answers_KBN[2, i].argmax())
    full = records.correct()[2].mean()
    assert found.accuracy == pytest.approx(right / len(records))
    assert found.disagreement == pytest.approx(other / len(records))
    assert found.excess_error == pytest.approx(full - right / len(records))
    assert found.exit_shares == pytest.approx([n / len(records) for n in lefts])
    given = np.stack(answers)
    expected = expected_calibration_error(given, given.argmax(1) == records.labels_B)
    assert found.calibration_error == pytest.approx(expected)


def test_eval_under_corruptions(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "digits-eenet8", "--data", "digits", "--corruptions", "gaussian_noise", "contrast"]
    assert main([*words, "--severities", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        ("none", 0),
        ("gaussian_noise", 5),
        ("contrast", 5),
    ]
    assert rows[0]["accuracy"] > rows[1]["accuracy"] > rows[2]["accuracy"]
    assert rows[0]["relative_cost"] < rows[1]["relative_cost"]  # the unsure run on
    assert main([*words, "--severities", "5"]) == 0
    assert "gaussian_noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["fogg"], "did you mean fog?"), (["fog", "--severities", "6"], "severity is 6; give 1 to 5")],
)
def test_unknown_damage_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "digits-eenet8", "--data", "digits", "--corruptions", *words]) == 2
    assert message in capsys.readouterr().err
