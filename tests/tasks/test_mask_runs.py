"""A data set of masks from the command line to a checkpoint: trained, measured, calibrated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_cases import NAMES, write_folders

import eenet
from eenet.cli import main
from eenet.data import load_masks
from eenet.tasks import SegmentationRecords, task_of

WORDS = ("--model", "resnet8_w4_cifar", "--task", "segmentation", "--num-exits", "2", "--epochs", "15")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("masks") / "my")


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "run"
    assert main(["train", "--data", str(data), *WORDS, "--out", str(out)]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_run_leaves(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "eval", str(checkpoint), "--data", str(data))
    assert {"miou", "full_miou", "class_iou", "relative_cost", "exit_counts", "dead_exits"} <= found.keys()
    assert [*found["class_iou"]] == NAMES
    assert found["full_miou"] > 0.4  # to call all pixels ground gives less than 0.3
    assert sum(found["exit_counts"]) == found["num_examples"] == 12
    low, high = found["intervals"]["miou"]
    assert low <= found["miou"] <= high
    network = eenet.EENet.from_pretrained(checkpoint)
    assert network.config.task == "segmentation"
    assert network.config.input_size == (3, 32, 32)
    kept = SegmentationRecords.load(checkpoint / "records-test.safetensors")
    fresh = eenet.collect(network, load_masks(str(data), "test", size=(3, 32, 32)))
    assert (kept.confusion_KBNN == fresh.confusion_KBNN).all()
    assert kept.block == fresh.block == 3
    assert 0 < found["boundary_error"] < 1
    assert "mIoU" in (checkpoint / "README.md").read_text()
    assert "image-segmentation" in (checkpoint / "README.md").read_text()


def test_every_budget_is_kept_where_it_was_set(checkpoint: Path, data: Path) -> None:
    network = eenet.EENet.from_pretrained(checkpoint)
    records = eenet.collect(network, load_masks(str(data), "validation", size=(3, 32, 32)))
    assert network.config.budgets
    for budget in network.config.budgets:
        found = eenet.evaluate(records, network.config.exit_policy(float(budget)))
        assert found.relative_cost <= float(budget) + 1e-6


def test_calibrate(checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("calibrate", str(checkpoint), "--data", str(data), "--out")
    dropped = said(capsys, *words, str(tmp_path / "drop"), "--max-drop", "100")
    assert dropped["relative_cost"] == pytest.approx(eenet.info(checkpoint).costs[0])  # type: ignore[union-attr]
    assert {"miou", "full_miou"} <= dropped.keys()
    assert "accuracy" not in dropped
    budget = said(capsys, *words, str(tmp_path / "budget"), "--budget", "1", "--rule", "sure_share")
    assert budget["relative_cost"] <= 1.3
    for extra, message in (
        (("--budget", "1", "--objective", "latency"), "a budget in time doesn't work for segmentation yet"),
        (("--risk", "0.1", "--split", "test"), "6 inputs can't show a risk of 0.1 with delta 0.1"),
        (("--budget", "1", "--rule", "patience"), "'patience' is not recorded of masks"),
    ):
        assert main([*words, str(tmp_path / "x"), *extra]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_calibrate_on_images_without_masks(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is true is then what the final exit says; nothing but the budget can be asked for."""
    images = next(path for path in data.rglob("images") if path.is_dir())
    words = ("calibrate", str(checkpoint), "--data", str(images), "--out", str(tmp_path / "c"))
    found = said(capsys, *words, "--budget", "1")
    assert found["relative_cost"] <= 1.3
    assert 0 < found["agreement"] <= 1
    assert "miou" not in found
    network = eenet.EENet.from_pretrained(checkpoint)
    images_alone = task_of("segmentation").without_truth(images, network.config)
    assert images_alone is not None
    records = eenet.collect(network, images_alone)
    off_diagonal = records.confusion_KBNN[-1].sum(0) * (1 - np.eye(records.num_classes))
    assert off_diagonal.sum() == 0
    assert records.confusion_KBNN[0].sum() == records.confusion_KBNN[-1].sum()
    assert main([*words[:-1], str(tmp_path / "d"), "--max-drop", "0.5"]) == 2
    assert "holds images without labels" in capsys.readouterr().err


def test_data_of_another_task(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(checkpoint), "--data", "digits"]) == 2
    assert "no folder digits with images and masks" in capsys.readouterr().err
    images = load_masks(str(data), "test")
    with pytest.raises(ValueError, match="the network is for classification, the data set for segmentation"):
        eenet.evaluate("digits-eenet8", data=images)
    assert main(["train", str(checkpoint), "--data", str(data)]) == 2


def test_the_same_network_without_exits(data: Path, tmp_path: Path) -> None:
    words = ["--model", "resnet8_w4_cifar", "--task", "segmentation", "--epochs", "1", "--plain"]
    assert main(["train", "--data", str(data), *words, "--out", str(tmp_path / "plain")]) == 0
    network = eenet.EENet.from_pretrained(tmp_path / "plain")
    assert network.costs_K == [1.0]


def test_a_trained_classifier_lends_its_backbone(data: Path, tmp_path: Path) -> None:
    classifier = eenet.create_model("resnet8_w4_cifar", num_classes=7, input_size=(3, 16, 16), num_exits=1)
    classifier.config.mean, classifier.config.std = [0.5] * 3, [0.25] * 3
    classifier.save_pretrained(tmp_path / "classifier", graph=False)
    done = eenet.train(
        out=tmp_path / "run",
        data=str(data),
        model=str(tmp_path / "classifier"),
        task="segmentation",
        epochs=1,
    )
    assert done.num_examples == 12
    assert done.to_dict()["full_miou"] == done.full_miou


@pytest.mark.parametrize("name", ["camvid", "nuclei"])
def test_recipes(name: str) -> None:
    config = eenet.get_recipe(name)
    assert config.task == "segmentation"
    assert config.data == name


def test_a_sweep(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--data", str(data), "--model", "resnet8_w4_cifar", "--set", "task=segmentation"]
    words += ["--epochs", "1", "--budget", "1.1", "--nums-exits", "1"]
    (row,) = list(said(capsys, *words, "--placements", "linear", "--out", str(tmp_path / "s")))
    found: dict[str, Any] = row  # type: ignore[assignment]
    assert found["metric"] == "mIoU"
    assert found["head"] == "separable"
    kept = SegmentationRecords.load(Path(found["checkpoint"]) / "records-test.safetensors")
    assert found["full_accuracy"] == pytest.approx(kept.quality(eenet.ExitPolicy("confidence", (2.0,))))
    assert "mIoU against cost" in (tmp_path / "s" / "sweep.html").read_text()
    assert main([*words, "--heads", "deep", "--out", str(tmp_path / "t")]) == 2
    assert "unknown exit head 'deep'; choose from separable" in capsys.readouterr().err
