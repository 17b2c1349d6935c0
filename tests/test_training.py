"""Training: it learns, it can be interrupted and resumed to the same weights, it stops on NaN."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import in_memory

from eenet import data, training
from eenet.image_sets import ImageSet
from eenet.network import EENet
from eenet.pipeline import build
from eenet.training import METRICS_FILE, STATE_FILE, TrainConfig, fit

CONFIG = TrainConfig(
    "digits", "resnet8_w4_cifar", num_exits=2, epochs=3, batch_size=16, learning_rate=0.05, warmup_epochs=0.5
)
TRAIN, VALIDATION = in_memory("digits", "train"), in_memory("digits", "validation")


def run(out: Path, config: TrainConfig = CONFIG, *, resume: bool = False) -> EENet:
    network = build(config, TRAIN)
    fit(
        network,
        TRAIN,
        VALIDATION,
        config,
        out,
        augmentation=data.source_of("digits").augmentation,
        resume=resume,
    )
    return network


def weights(network: EENet) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[EENet, list[dict]]:
    out = tmp_path_factory.mktemp("unbroken")
    network = run(out)
    return network, [json.loads(line) for line in (out / METRICS_FILE).read_text().splitlines()]


def test_it_learns(unbroken: tuple[EENet, list[dict]]) -> None:
    _, lines = unbroken
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["validation"]["full_accuracy"] > 0.4  # chance is 0.1
    assert {"learning_rate", "images_per_second", "train_seconds"} <= lines[0].keys()


@pytest.mark.parametrize("stop_at", [1, 40, 71, 150])
def test_interrupted_and_resumed_equals_unbroken(
    stop_at: int, unbroken: tuple[EENet, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of an epoch (71 steps each) and at its end."""
    taken = 0

    def interrupted(self: training.TrainingState) -> None:
        nonlocal taken
        advance(self)
        taken += 1
        if taken == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    advance = training.TrainingState.advance
    monkeypatch.setattr(training.TrainingState, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(tmp_path)
    monkeypatch.undo()
    torch.manual_seed(123)
    resumed, (expected, lines) = run(tmp_path, resume=True), unbroken
    assert all(torch.equal(value, weights(expected)[key]) for key, value in weights(resumed).items())
    again = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["validation"] for line in again] == [line["validation"] for line in lines]


def test_seed_decides(unbroken: tuple[EENet, list[dict]], tmp_path: Path) -> None:
    other = run(tmp_path, replace(CONFIG, seed=1, epochs=1))
    key = "stages.0.conv1.weight"
    assert not torch.equal(weights(other)[key], weights(unbroken[0])[key])


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run(tmp_path, resume=True)
    run(tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(ValueError, match="epochs was 1, is 3"):
        run(tmp_path, resume=True)


def test_damaged_state(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"PK not a state")
    with pytest.raises(ValueError, match=STATE_FILE):
        run(tmp_path, resume=True)


def test_nan_stops_with_advice(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        run(tmp_path, replace(CONFIG, learning_rate=1e12, warmup_epochs=0))
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.parametrize("objective", ["v1", "v2"])
def test_the_papers_objectives_train(objective: str, tmp_path: Path) -> None:
    network = run(tmp_path, replace(CONFIG, objective=objective, epochs=1))
    assert all(value.isfinite().all() for value in weights(network).values())


def test_plain_backbone(tmp_path: Path) -> None:
    network = run(tmp_path, replace(CONFIG, num_exits=0, epochs=1))
    assert network.num_exits == 0
    assert network.costs_K == [1.0]


def test_bf16(tmp_path: Path) -> None:
    network = run(tmp_path, replace(CONFIG, precision="bf16", epochs=1))
    assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"num_exits": -1}, "num_exits is -1"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"objective": "v9"}, "unknown objective"),
    ],
)
def test_bad_configuration(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_bad_data(tmp_path: Path) -> None:
    network = build(CONFIG, TRAIN)
    with pytest.raises(ValueError, match="fewer than one batch"):
        fit(network, TRAIN.subset(range(9)), VALIDATION, CONFIG, tmp_path)
    wide = ImageSet(TRAIN.pixels_BCHW.repeat(1, 1, 1, 2), TRAIN.labels_B, TRAIN.class_names)
    with pytest.raises(ValueError, match=r"the data set has \(1, 8, 16\)"):
        fit(network, wide, VALIDATION, CONFIG, tmp_path)
    fewer = ImageSet(TRAIN.pixels_BCHW, TRAIN.labels_B, TRAIN.class_names[:5])
    with pytest.raises(ValueError, match="10 classes, the data set 5"):
        fit(network, fewer, VALIDATION, CONFIG, tmp_path)
