"""A data set of boxes from the command line to a checkpoint: trained, measured, calibrated."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_cases import NAMES, write_coco

import eenet
from eenet.cli import main
from eenet.data import load_boxes
from eenet.tasks import DetectionRecords, task_of

SETTINGS = ("--set", "task_settings={width=16}", "--set", "learning_rate=0.004")
WORDS = ("--model", "resnet8_w4_cifar", "--task", "detection", "--num-exits", "2", *SETTINGS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("boxes") / "my", {"train": 48, "validation": 24, "test": 24})


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes") / "run"
    assert (
        main(["train", "--data", str(data), *WORDS, "--epochs", "25", "--budget", "0.8", "--out", str(out)])
        == 0
    )
    return out


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_run_leaves(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "eval", str(checkpoint), "--data", str(data))
    wanted = {
        "map",
        "map50",
        "full_map",
        "full_map50",
        "relative_cost",
        "exit_counts",
        "dead_exits",
        "class_ap",
    }
    assert wanted <= found.keys()
    assert {*found["class_ap"]} == {*NAMES}
    assert found["full_map50"] > 0.2  # boxes anywhere get next to nothing
    assert sum(found["exit_counts"]) == found["num_examples"] == 24
    low, high = found["intervals"]["map"]
    assert low <= found["map"] <= high
    network = eenet.EENet.from_pretrained(checkpoint)
    assert network.config.task == "detection"
    assert network.config.input_size == (3, 96, 96)
    assert network.config.task_settings["scales"][-1] == pytest.approx([1, 0])
    kept = DetectionRecords.load(checkpoint / "records-test.safetensors")
    fresh = eenet.collect(network, load_boxes(str(data), "test", size=(3, 96, 96)))
    assert np.array_equal(kept.counts_KB, fresh.counts_KB)
    assert np.array_equal(kept.hits_AD, fresh.hits_AD)
    assert "mAP" in (checkpoint / "README.md").read_text()
    assert "image-detection" in (checkpoint / "README.md").read_text()


def test_what_was_fitted_is_what_the_network_says(checkpoint: Path, data: Path) -> None:
    network = eenet.EENet.from_pretrained(checkpoint)
    kept = DetectionRecords.load(checkpoint / "records-validation.safetensors")
    fresh = eenet.collect(network, load_boxes(str(data), "validation", size=(3, 96, 96)))
    assert np.allclose(kept.confidence_logits_KB, fresh.confidence_logits_KB, atol=1e-3)
    for budget in network.config.budgets:
        policy = network.config.exit_policy(float(budget))
        found = eenet.evaluate(fresh, policy)
        assert found.relative_cost <= float(budget) + 1e-6
        assert found.map == pytest.approx(eenet.evaluate(kept, policy).map, abs=1e-6)


def test_calibrate(checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("calibrate", str(checkpoint), "--data", str(data), "--out")
    dropped = said(capsys, *words, str(tmp_path / "drop"), "--max-drop", "100")
    assert dropped["relative_cost"] == pytest.approx(eenet.info(checkpoint).costs[0])  # type: ignore[union-attr]
    assert {"map", "full_map"} <= dropped.keys()
    assert "accuracy" not in dropped
    budget = said(capsys, *words, str(tmp_path / "budget"), "--budget", "1", "--rule", "clearness")
    assert budget["relative_cost"] <= 1.3
    missed = said(
        capsys, *words, str(tmp_path / "m"), "--risk", "0.4", "--risk-of", "missed", "--split", "test"
    )
    assert missed["guarantee"]["risk"] == "missed"
    assert eenet.EENet.from_pretrained(tmp_path / "m").config.exit_policy().score == "emptiness"
    for extra, message in (
        (("--budget", "1", "--objective", "latency"), "a budget in time doesn't work for detection yet"),
        (("--risk", "0.1", "--split", "test"), "a guaranteed risk doesn't work for detection yet"),
        (("--budget", "1", "--rule", "patience"), "'patience' is not recorded of boxes"),
    ):
        assert main([*words, str(tmp_path / "x"), *extra]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_calibrate_on_images_without_boxes(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is then what the final exit shows; nothing but the budget can be asked for."""
    alone = tmp_path / "images"
    alone.mkdir()
    for path in data.rglob("*.[jp][pn]g"):
        shutil.copy(path, alone)
    words = ("calibrate", str(checkpoint), "--data", str(alone), "--out", str(tmp_path / "c"))
    found = said(capsys, *words, "--budget", "1")
    assert found["relative_cost"] <= 1.3
    assert 0 < found["agreement"] <= 1
    assert "map" not in found
    network = eenet.EENet.from_pretrained(checkpoint)
    images = task_of("detection").without_truth(alone, network.config)
    assert images is not None
    records = eenet.collect(network, images)
    final = eenet.ExitPolicy("confidence", (1.0,) * network.num_exits)
    assert records.truths_ABN[0].any()
    assert eenet.evaluate(records, final).map == pytest.approx(1, abs=1e-6)
    assert task_of("detection").without_truth(data, network.config) is None
    assert main([*words[:-1], str(tmp_path / "d"), "--max-drop", "0.5"]) == 2
    assert "holds images without labels" in capsys.readouterr().err


def test_the_same_network_without_exits(data: Path, tmp_path: Path) -> None:
    words = ["--model", "resnet8_w4_cifar", "--task", "detection", "--epochs", "1", "--plain"]
    words += ["--set", "task_settings={stride=4, most=50}"]
    assert main(["train", "--data", str(data), *words, "--out", str(tmp_path / "plain")]) == 0
    network = eenet.EENet.from_pretrained(tmp_path / "plain")
    assert network.costs_K == [1.0]
    assert network.config.task_settings == {"width": 64, "stride": 4, "most": 50}


@pytest.mark.parametrize(
    "given",
    [{"distillation": 0.5}, {"label_smoothing": 0.1}, {"class_weights": "auto"}, {"objective": "v2"},
     {"balanced": True}, {"teacher": "digits-eenet8"}],
)  # fmt: skip
def test_settings_that_boxes_do_not_have(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        eenet.TrainConfig("x", "resnet18", task="detection", **given)


@pytest.mark.parametrize(
    ("name", "data"), [("bccd", "bccd"), ("aquarium", "aquarium"), ("nuclei-boxes", "nuclei")]
)
def test_recipes(name: str, data: str) -> None:
    config = eenet.get_recipe(name)
    assert config.task == "detection"
    assert config.data == data
