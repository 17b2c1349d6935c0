"""A race on digits, seconds long: killed and resumed, who wins, what is written, what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eenet.cli import main
from eenet.data import load
from eenet.evaluation import collect
from eenet.evaluation.evaluating import evaluate
from eenet.networks.network import EENet
from eenet.optimizing.halving import Point, pareto
from eenet.optimizing.journal import Journal
from eenet.optimizing.measuring import plain_right, policies_of
from eenet.optimizing.results import OptimizedRow, ranked
from eenet.optimizing.search import optimize
from eenet.policies.policy import ExitPolicy

WORDS = [
    "optimize",
    "digits-eenet8",
    "--data",
    "digits",
    "--max-drop",
    "4",
    "--epochs",
    "1",
    "--shares",
    "0.6",
]
WORDS += ["--backbones", "resnet8_w2_cifar", "--batch-size", "64"]


def lines_of(out: Path) -> list[dict[str, Any]]:
    path = out / "race.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_race_that_is_killed_goes_on_and_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "race"
    words = [*WORDS, "--out", str(out), "--json"]
    running = subprocess.Popen([sys.executable, "-m", "eenet", *words], stdout=subprocess.DEVNULL)
    while len(lines_of(out)) < 3 and running.poll() is None:
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = lines_of(out)
    assert main(words) == 0
    found, after = json.loads(capsys.readouterr().out), lines_of(out)
    assert after[: len(before)] == before
    steps = [line["step"] for line in after]
    assert len(steps) == len(set(steps))

    rows, best = found["rows"], found["chosen"]
    assert {row["name"] for row in rows} == {"given", "pruned to 0.6", "resnet8_w2_cifar"}
    assert {row["precision"] for row in rows} == {"fp32", "int8"}
    assert best["within"]
    assert best["drop"] <= 4
    assert best["ms"] == min(row["ms"] for row in rows if row["within"])
    front = pareto([Point(row["accuracy"], row["ms"]) for row in rows])
    assert [row["on_front"] for row in rows] == front
    plain = next(row for row in rows if row["speedup"] == 1 and not row["early_exit"])
    assert "cut" not in plain
    cut = [row for row in rows if "cut" in row]
    assert not any(row["early_exit"] for row in cut)
    assert all(row["within"] for row in cut)
    assert plain["name"] == "given"
    assert plain["drop"] == 0
    validation = evaluate(out / "checkpoint", data="digits", split="validation")
    if best["precision"] == "fp32":
        assert validation.accuracy == pytest.approx(best["accuracy"], abs=0.011)
    assert EENet.from_pretrained(out / "checkpoint").config.policy is not None
    assert main(["predict", str(out / "artifact"), str(picture(tmp_path)), "--json"]) == 0
    with (out / "candidates.csv").open() as file:
        assert [row["cut"] for row in csv.DictReader(file)] == [str(row.get("cut", "")) for row in rows]
    page = (out / "race.html").read_text()
    assert ("Nothing faster" if best == plain else "The winner") in page
    capsys.readouterr()

    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == found
    assert lines_of(out) == after
    assert main([*words, "--batch-size", "1"]) == 2
    assert "holds a race with another question (batch_size was 64, is 1)" in capsys.readouterr().err


@pytest.mark.parametrize("max_drop", [0.0, 1.0, 3.0, 50.0])
def test_a_network_may_be_cut_behind_its_first_exit_that_is_good_enough(max_drop: float) -> None:
    network = EENet.from_pretrained("digits-eenet8")
    records = collect(network, load("digits", "validation"))
    plain_B = plain_right(records)
    alone = [(np.asarray(records.logits_KBN[k]).argmax(1) == records.labels_B).mean() for k in range(2)]
    good = [k for k in range(2) if 100 * (plain_B.mean() - alone[k]) <= max_drop]
    found = policies_of(network, records, plain_B, max_drop)
    assert found[0].only_exit == 2
    assert [policy.only_exit for policy in found[1:] if policy.only_exit is not None] == good[:1]


def picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "seven.png"
    Image.effect_noise((8, 8), 50).save(path)
    return path


def test_no_step_begins_that_would_not_fit(tmp_path: Path) -> None:
    found = optimize(
        "digits-eenet8", data="digits", epochs=1, minutes=0.001, out=tmp_path / "race", max_drop=10
    )
    assert {row.name for row in found.rows} == {"given"}
    assert any("no time was left" in note for note in found.notes)
    assert found.chosen.name == "given"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["resnet8_w4_cifar"],
            "optimize starts from a trained network, and resnet8_w4_cifar has random weights",
        ),
        (["digits-eenet8", "--max-drop", "-1"], "max_drop is -1.0; it is in points"),
        (["digits-eenet8", "--minutes", "0"], "minutes is 0.0; it must be above 0"),
        (["digits-eenet8", "--shares", "2"], "shares has 2.0; each must be above 0 and below 1"),
        (["digits-eenet8", "--backend", "abacus"], "unknown backend 'abacus'"),
        (["digits-eenet8", "--objective", "beauty"], "objective"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *words, "--data", "digits", "--out", str(tmp_path / "race")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "race").exists()


def row(
    name: str, accuracy: float, ms: float, *, within: bool = True, early_exit: bool = False
) -> OptimizedRow:
    return OptimizedRow(
        name=name,
        precision="fp32",
        early_exit=early_exit,
        epochs=1,
        accuracy=accuracy,
        drop=0.0,
        drop_interval=(-1.0, 1.0),
        within=within,
        macs=int(1000 - ms),
        relative_cost=1.0,
        ms=ms,
        speedup=10 / ms,
        checkpoint="",
        policy=ExitPolicy("confidence", ()).to_dict(),
    )


def test_the_cheapest_within_the_drop_wins_by_what_is_asked_for() -> None:
    rows = [
        row("given", 0.9, 10),
        row("fast", 0.9, 4),
        row("bad", 0.5, 1, within=False),
        row("slow", 0.8, 12),
    ]
    marked, best = ranked(rows, "latency")
    assert best.name == "fast"
    assert [each.name for each in marked] == ["bad", "fast", "given", "slow"]
    assert [each.name for each in marked if each.on_front] == ["bad", "fast"]
    assert ranked(rows, "macs")[1].name == "slow"


def test_what_is_no_race_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a race"):
        Journal(tmp_path, {})
    race = tmp_path / "race"
    Journal(race, {"a": 1}).once("one", lambda: [1])
    assert Journal(race, {"a": 1}).found("one") == [1]
    (race / "race.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"race.jsonl is damaged"):
        Journal(race, {"a": 1})
