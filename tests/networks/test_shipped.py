"""The trained networks in the package: they load, answer, and do what their cards say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eenet import Predictor, data
from eenet.cli import main
from eenet.networks.directories import CARD_FILE, SHIPPED, checkpoint_directory, shipped_checkpoints
from eenet.networks.network import EENet

NAMES = shipped_checkpoints()


def test_they_are_small_enough_to_come_along() -> None:
    assert "digits-eenet8" in NAMES
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) <= 20e6


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_answers_with_what_it_says(name: str) -> None:
    network = EENet.from_pretrained(name)
    assert all(p.dtype == torch.float32 for p in network.parameters())
    image = torch.randint(0, 256, network.config.input_size, dtype=torch.uint8)
    by_torch, by_graph = (
        Predictor(name, backend=backend).predict(image) for backend in ("torch", "onnxruntime")
    )
    assert by_torch.label in (network.config.class_names or [])
    assert (by_graph.label, by_graph.exit) == (by_torch.label, by_torch.exit)


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_how_it_was_made(name: str) -> None:
    card = (checkpoint_directory(name) / CARD_FILE).read_text()
    config = EENet.from_pretrained(name).config
    run = config.provenance["train_config"]
    for expected in (config.provenance["command"], run["data"], f"{config.backbone_macs:,}", "## Limits"):
        assert str(expected) in card
    assert "dead exits: none" in card


def test_its_card_tells_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    card = (checkpoint_directory("digits-eenet8") / CARD_FILE).read_text()
    found = re.search(r"accuracy ([\d.]+)% at relative cost ([\d.]+) on (\d+) images", card)
    assert found
    assert main(["eval", "digits-eenet8", "--data", "digits", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    shown = f"{measured['accuracy']:.2%}", f"{measured['relative_cost']:.3f}", str(measured["num_examples"])
    assert shown == (found[1] + "%", found[2], found[3])


def test_list_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["checkpoints"]) == NAMES


@pytest.mark.parametrize("verb", ["info", "eval"])
def test_a_misspelt_name_is_corrected(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--data", "digits"] if verb == "eval" else []
    assert main([verb, "digits-eenet88", *more]) == 2
    assert "did you mean digits-eenet8, " in capsys.readouterr().err


def test_it_is_not_changed_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (checkpoint_directory("digits-eenet8") / "config.json").read_bytes()
    command = ["calibrate", "digits-eenet8", "--data", "digits", "--budget", "0.6"]
    assert main(command) == 2
    assert "give --out" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "mine")]) == 0
    assert (checkpoint_directory("digits-eenet8") / "config.json").read_bytes() == before
    assert EENet.from_pretrained(tmp_path / "mine").config.policy != json.loads(before)["policy"]


def test_predict_labels_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = data.load("digits", "test")
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    for file, pixels_CHW in zip(files, images.pixels(list(range(4))), strict=True):
        Image.fromarray(np.asarray(pixels_CHW[0])).save(file)
    assert main(["predict", "digits-eenet8", *files, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in rows] == [str(label) for label in images.labels_B[:4].tolist()]
