"""Sweeps, run as a user runs them, and the search for exits against trying every choice."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from record_cases import make_records
from scipy.special import expit

from eenet import EENet
from eenet.cli import main
from eenet.policies.budget import exits_for_budget
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import decide
from eenet.training import run as pipeline
from eenet.training.sweeping import SweepRow, sweep_table

WORDS = ["sweep", "digits", "--model", "resnet8_w2_cifar", "--epochs", "1", "--budget", "0.9"]
SPACE = ["--placements", "linear", "searched", "fine", "--nums-exits", "1", "--heads", "pool"]


def test_a_sweep_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second training; what is finished is not trained again."""
    trained: list[str] = []
    really = pipeline.fit

    def counted(*arguments: object, **options: object) -> float:
        trained.append(Path(str(arguments[4])).name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return really(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "fit", counted)
    words = [*WORDS, *SPACE, "--out", str(tmp_path / "s"), "--json"]
    assert main(words) == 130
    assert len(list(csv.DictReader((tmp_path / "s/sweep.csv").read_text().splitlines()))) == 1
    capsys.readouterr()
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(trained) == 1 + len(set(trained))  # one of them twice
    assert "pool-0-1-2" in trained  # an exit at every cut, for the search
    assert {Path(row["checkpoint"]).name for row in rows} <= set(trained)
    assert [row["validation_accuracy"] for row in rows] == sorted(
        (row["validation_accuracy"] for row in rows), reverse=True
    )
    assert {row["placement"] for row in rows} == {"linear", "searched", "fine"}
    assert all(len(row["exits"]) == 1 for row in rows)
    assert all(row["validation_cost"] <= 0.9 for row in rows)
    card = (Path(rows[0]["checkpoint"]) / "README.md").read_text()
    settings = "--model resnet8_w2_cifar --budget 0.9 --epochs 1"
    assert f"\neenet sweep digits {settings} {' '.join(SPACE)}\n" in card
    assert (tmp_path / "s/sweep.html").read_text().count("1 exit, pool") >= 3
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is left to do
    assert main([*words[:-1], "--trials", "2"]) == 0
    assert main([*WORDS, "--seed", "1", *SPACE, "--out", str(tmp_path / "s")]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_weights_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a recipe: the backbone that is swept over is the trained one, to the bit."""
    weights = timm.create_model("resnet8_w2_cifar", num_classes=10, in_chans=1).state_dict()
    torch.save(weights, tmp_path / "mine.pth")
    own = ["--data", "digits", "--model", "resnet8_w2_cifar", "--weights", str(tmp_path / "mine.pth")]
    words = ["sweep", *own, "--epochs", "1", "--placements", "linear", "--nums-exits", "1"]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "give it as a number" in capsys.readouterr().err
    assert main([*words, "--budget", "0.9", "--heads", "pool"]) == 0
    assert "runs/digits-resnet8_w2_cifar-sweep/sweep.csv" in capsys.readouterr().out
    (row,) = csv.DictReader(Path("runs/digits-resnet8_w2_cifar-sweep/sweep.csv").read_text().splitlines())
    kept = EENet.from_pretrained(row["checkpoint"]).state_dict().values()
    for name, tensor in weights.items():
        assert any(torch.equal(tensor, other) for other in kept), name


def test_what_cannot_be_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--placements", "linear", "--nums-exits", "40", "--out", str(tmp_path), "--json"]
    assert main([*WORDS, *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "40 exits are too many" in row["error"]
    table, told = sweep_table([SweepRow(**row)]).split("\n\n")
    assert " ".join(told.split()).startswith("linear, 40 exits, deep: 40 exits are too many")
    assert "too many" not in table  # whose columns would be as wide


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--placements", "random"], "unknown placement 'random'"),
        (["--heads", "big"], "unknown exit head 'big'"),
        (["--trials", "0"], "trials is 0"),
    ],
)
def test_refusals(words: list[str], wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, *words, "--out", str(tmp_path / "s")]) == 2
    assert wrong in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_exits_for_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every choice with every threshold, in plain Python."""
    records, budget = make_records(100, exits=5), 0.6

    def best(chosen: tuple[int, ...]) -> float:
        flags = tuple(k in chosen for k in range(4))
        costs = records.costs(flags)
        thresholds = [-1.0, *expit(records.confidence_logits_KB).flatten().tolist()]
        for threshold in sorted(thresholds, reverse=True):
            exits_B = decide(records, ExitPolicy("confidence", (threshold,) * 4, flags))
            if sum(costs[k] for k in exits_B.tolist()) / 100 <= budget:  # the highest that keeps the budget
                return float(records.correct()[exits_B, np.arange(100)].mean())
        return -1.0

    for count in (1, 2, 3):
        chosen = exits_for_budget(records, count, budget)
        assert best(tuple(chosen)) == max(map(best, itertools.combinations(range(4), count))) > 0
    monkeypatch.setattr("eenet.policies.budget.MOST_CHOICES", 0)
    assert len(exits_for_budget(records, 2, budget)) == 2
    with pytest.raises(ValueError, match="has 4 early exits to choose from"):
        exits_for_budget(records, 5, budget)
    with pytest.raises(ValueError, match="the cheapest is"):
        exits_for_budget(records, 1, 0.01)
