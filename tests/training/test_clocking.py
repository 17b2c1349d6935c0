"""Exits by the clock: the choice against brute force, a run for latency from end to end."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import eenet
from eenet import EENet, Records
from eenet.data.image_sets import ImageSet
from eenet.evaluation import measure
from eenet.networks import read_config
from eenet.policies import fit
from eenet.runtime import StageTimes, timed
from eenet.training import get_recipe
from eenet.training.planning import clocking
from eenet.training.planning.clocking import LEAVING, TIMED_HEADS, least_time


def by_images(stage_ms, head_ms, fractions, chosen, count=20_000) -> float:
    """The same by following images one by one: where each leaves, and what it has run by then."""
    hardness_B = (np.arange(count) + 0.5) / count  # an image leaves behind the share of easier ones
    total, spent = sum(stage_ms), 0.0
    for hardness in hardness_B:
        passed = 0.0
        for i in chosen:
            passed += head_ms[i]
            if hardness < fractions[i] ** LEAVING:
                spent += sum(stage_ms[: i + 1]) + passed
                break
        else:
            spent += total + passed
    return spent / count / total


def test_the_choice_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    stage_ms, head_ms = rng.uniform(1, 3, 6).tolist(), rng.uniform(0.05, 1, 5).tolist()
    fractions = (np.cumsum(stage_ms)[:-1] / sum(stage_ms)).tolist()
    chosen, expected = least_time(stage_ms, head_ms, fractions)
    assert expected == pytest.approx(by_images(stage_ms, head_ms, fractions, chosen), abs=1e-3)
    others = [each for count in range(1, 5) for each in combinations(range(5), count)]
    best = min(by_images(stage_ms, head_ms, fractions, each, 2_000) for each in others)
    assert expected <= best + 2e-3


def test_a_head_that_takes_longer_than_it_saves_is_left_out() -> None:
    stage_ms, fractions = [1.0] * 5, [0.2, 0.4, 0.6, 0.8]
    cheap, _ = least_time(stage_ms, [0.01] * 4, fractions)
    assert cheap == [0, 1, 2, 3]
    dear, _ = least_time(stage_ms, [2.0, 2.0, 0.01, 2.0], fractions)
    assert dear == [2]
    asked, _ = least_time(stage_ms, [2.0, 2.0, 0.01, 2.0], fractions, 2)
    assert len(asked) == 2
    with pytest.raises(ValueError, match="num_exits is 5, but there are 4 places"):
        least_time(stage_ms, [0.01] * 4, fractions, 5)


def test_training_for_latency(tmp_path: Path) -> None:
    """Places and thresholds follow times taken here; a resumed run keeps them."""
    out = tmp_path / "run"
    settings = {"model": "resnet8_w4_cifar", "epochs": 1, "aim": "latency", "backend": "torch", "at_once": 8}
    done = eenet.train("digits-resnet8", out, budget="auto", **settings)
    config = read_config(out)
    clock = json.loads((out / "clock.json").read_text())
    assert config.exits == clock["placement"]
    assert clock["times"]["batch_size"] == 8
    assert config.head == clock["head"]
    assert set(clock["heads"]) == set(TIMED_HEADS)
    assert clock["expected"] == clock["heads"][clock["head"]] == min(clock["heads"].values())
    (timing,) = config.timings
    assert (timing["backend"], timing["batch_size"]) == ("torch", 8)
    assert any("of the plain network's (torch, batches of 8)" in note for note in done.notes)
    other = [name for name in clock["names"] if name not in clock["placement"]][:1] or clock["names"][:1]
    (out / "clock.json").write_text(json.dumps({**clock, "placement": other}))
    with pytest.raises(ValueError, match="another configuration"):  # so the file is what is gone by
        eenet.train("digits-resnet8", out, budget="auto", resume=True, **settings)


@pytest.mark.parametrize(
    ("agreeing", "times", "alone"),
    [(True, [2.0, 1.0], True), (True, [1.0, 2.0], False), (False, [2.0, 1.0], False)],
)
def test_exits_answer_alone_where_that_is_quicker_and_as_good(
    network: EENet,
    digits: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    agreeing: bool,
    times: list[float],
    alone: bool,
) -> None:
    """Exits that err together have nothing to add to each other; those that err apart have."""
    rng = np.random.default_rng(0)
    labels_B = rng.integers(0, 10, 2000)
    errors_KBN = rng.normal(size=(4, 2000, 10))
    if agreeing:
        errors_KBN[:] = errors_KBN[0]
    logits_KBN = (2 * np.eye(10)[labels_B] + errors_KBN).astype(np.float32)
    records = Records(logits_KBN, np.zeros((3, 2000), np.float32), labels_B, [10] * 4, [1] * 3, 40)
    config = replace(get_recipe("digits-resnet8"), aim="latency", budget=0.9, backend="torch")
    measured = StageTimes(backend="torch", batch_size=1, stage_ms=[1.0] * 4, head_ms=[0.1] * 3, plain_ms=4.0)
    monkeypatch.setattr(clocking, "_times", lambda *_: times)
    found, told = clocking.in_time(network, fit(records, 0.9), digits, config, measured)
    assert (found.ensemble is None) == alone
    assert found.policy.score == ("margin" if alone else "confidence")
    assert {policy.score for policy in found.budgets.values()} == {found.policy.score}
    assert ("answers alone, in 0.50 of the time" in told) == alone
    spent = measure(timed(found.records, measured.to_dict()), found.policy)
    assert spent.relative_cost <= 0.9


def test_heads_that_are_named_stay(tmp_path: Path) -> None:
    settings = {"epochs": 1, "aim": "latency", "backend": "torch", "head": "pool"}
    eenet.train("digits-resnet8", tmp_path / "run", **settings)
    assert read_config(tmp_path / "run").head == "pool"
    assert list(json.loads((tmp_path / "run/clock.json").read_text())["heads"]) == ["pool"]


def test_places_that_are_named_stay(tmp_path: Path) -> None:
    settings = {"epochs": 1, "aim": "latency", "backend": "torch", "placement": ["layer2.0"], "num_exits": 1}
    eenet.train("digits-resnet8", tmp_path / "run", **settings)
    assert read_config(tmp_path / "run").exits == ["layer2.0"]
