"""Training: it learns, it can be interrupted and resumed to the same weights, it stops on NaN."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import in_memory
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

import eenet
from eenet import data
from eenet.common import console
from eenet.data.image_sets import ImageSet
from eenet.networks.building import convert
from eenet.networks.network import EENet
from eenet.training.loop import fit
from eenet.training.objectives import OBJECTIVES
from eenet.training.objectives.teaching import Teacher, teacher_of
from eenet.training.recipes import TrainConfig
from eenet.training.run import build
from eenet.training.state import METRICS_FILE, STATE_FILE, TrainingState

CONFIG = TrainConfig(
    "digits", "resnet8_w4_cifar", num_exits=2, epochs=3, batch_size=16, learning_rate=0.05, warmup_epochs=0.5
)
TRAIN, VALIDATION = in_memory("digits", "train"), in_memory("digits", "validation")


def run(
    out: Path, config: TrainConfig = CONFIG, *, resume: bool = False, heading: str | None = None
) -> EENet:
    network = build(config, TRAIN)
    fit(
        network,
        TRAIN,
        VALIDATION,
        config,
        out,
        augmentation=data.source_of("digits").augmentation,
        resume=resume,
        heading=heading,
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

    def interrupted(self: TrainingState) -> None:
        nonlocal taken
        advance(self)
        taken += 1
        if taken == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    advance = TrainingState.advance
    monkeypatch.setattr(TrainingState, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(tmp_path)
    monkeypatch.undo()
    torch.manual_seed(123)
    resumed, (expected, lines) = run(tmp_path, resume=True), unbroken
    assert all(torch.equal(value, weights(expected)[key]) for key, value in weights(resumed).items())
    again = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["validation"] for line in again] == [line["validation"] for line in lines]
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_an_epoch_ends_with_validation_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `metrics.jsonl`; of single minibatches nothing but the loss is ever shown."""
    run(tmp_path, replace(CONFIG, epochs=2), heading="train 1149")
    heading, *shown = capsys.readouterr().err.splitlines()
    assert heading == "train 1149"
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert len(shown) == len(lines) == 2
    for told, line in zip(shown, lines, strict=True):
        found = line["validation"]
        shares = "/".join(f"{count / 2.88:.0f}" for count in found["exit_counts"])
        assert told == (
            f"epoch {line['epoch']}/2  training loss {line['loss']:.3f} · "
            f"validation: accuracy {100 * found['accuracy']:.1f} % "
            f"(full network {100 * found['full_accuracy']:.1f} %) at cost {found['relative_cost']:.3f}, "
            f"exits {shares} %"
        )


def test_the_bar_shows_the_training_loss_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "Console", partial(Console, force_terminal=True, width=200))
    run(tmp_path, replace(CONFIG, epochs=2))
    drawn = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "epoch " in line]
    assert sum("validation: accuracy" in line for line in drawn) == 2
    bars = [line for line in drawn if "training loss" in line and "validation" not in line]
    assert bars
    assert not any("acc" in line or "exits" in line for line in bars)


def test_a_state_from_before_a_setting_existed(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=1))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    settings = json.loads(state["settings"])
    del settings["skip_damaged"]
    torch.save(state | {"settings": json.dumps(settings)}, tmp_path / STATE_FILE)
    run(tmp_path, replace(CONFIG, epochs=1), resume=True)
    with pytest.raises(ValueError, match="skip_damaged was False, is True"):
        run(tmp_path, replace(CONFIG, epochs=1, skip_damaged=True), resume=True)


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


class NoNorm(nn.Module):
    """BatchNorm's statistics depend on how a batch is divided; without it nothing may."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(i, 8, 3, padding=1), nn.ReLU()) for i in (1, 8, 8))
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(x).mean((2, 3)))


def run_without_norm(out: Path, **changes: Any) -> EENet:
    """In fp32: bfloat16, the default where the processor has it, rounds sums differently."""
    torch.manual_seed(0)
    network = convert(NoNorm(), (1, 8, 8), num_exits=1, head="pool")
    network.config.mean, network.config.std = TRAIN.mean_std()
    config = replace(CONFIG, epochs=1, num_exits=1, budget=0.9, precision="fp32", **changes)
    fit(network, TRAIN, VALIDATION, config, out)
    return network


def test_accumulated_gradients_equal_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = (weights(run_without_norm(tmp_path, accumulate=n)) for n in (1, 4))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-5)


def test_moving_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the mean computed here from the weights after every step; timm warms the decay up."""
    plain = weights(run_without_norm(tmp_path))
    expected: dict[str, torch.Tensor] = {}

    def note(self: TrainingState) -> None:
        now = weights(self.parts["network"])
        decay = min(0.99, 1 - (1 + self.step) ** (-2 / 3)) if self.step else 0.0
        for key, value in now.items():
            expected[key] = value if key not in expected else decay * expected[key] + (1 - decay) * value
        advance(self)

    advance = TrainingState.advance
    monkeypatch.setattr(TrainingState, "advance", note)
    averaged = weights(run_without_norm(tmp_path, ema=0.99))
    for key, value in averaged.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    assert not torch.equal(averaged["stages.0.blocks.0.0.weight"], plain["stages.0.blocks.0.0.weight"])


def test_frozen_backbone(tmp_path: Path) -> None:
    """Nothing of the backbone changes by a bit, BatchNorm statistics included; the heads learn."""
    network = build(CONFIG, TRAIN)
    before, images = weights(network), torch.randn(4, 1, 8, 8)
    final = network.eval()(images).logits_KBN[-1]
    config = replace(CONFIG, freeze_backbone=True, epochs=2)
    fit(network, TRAIN, VALIDATION, config, tmp_path)
    assert torch.equal(network(images).logits_KBN[-1], final)
    for key, value in weights(network).items():
        changed = not torch.equal(value, before[key])
        assert changed == (key.startswith("heads") and "confidence" not in key), key
    assert all(parameter.requires_grad for parameter in network.parameters())


SCRIPT = """
import atexit, os, sys, torch, eenet
def say(text): os.write(1, f"{text}\\n".encode())  # whole lines: two processes share the pipe
atexit.register(lambda: say(f"parted {not torch.distributed.is_initialized()}"))
sizes = {"image_size": 32, "num_exits": 1, "head": "pool", "precision": "fp32"}
config = eenet.TrainConfig("digits", "test_convnext", budget=0.9, epochs=1, **sizes)
say(f"done {eenet.train(config, sys.argv[1]).num_examples}")
"""  # neither backbone nor head has a BatchNorm, whose statistics are those of each process


def processes(out: Path, count: int) -> list[dict]:
    """Train under torch's launcher; returns the lines of metrics.jsonl."""
    script = out.with_suffix(".py")
    script.write_text(SCRIPT)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(script), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == sorted(["", *["done 360", "parted True"] * count])
    assert json.loads((out / "config.json").read_text())["provenance"]["processes"] == count
    return [json.loads(line) for line in (out / METRICS_FILE).read_text().splitlines()]


def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    """The same images and gradients in sum, so the same losses and weights within rounding."""
    one, two = (processes(tmp_path / str(count), count) for count in (1, 2))
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)
    first, second = (load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for key, value in first.items():
        if "confidence" not in key:  # fitted afterwards, by the first process
            torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"joint"}))
def test_the_papers_objectives_train(objective: str, tmp_path: Path) -> None:
    network = run(tmp_path, replace(CONFIG, objective=objective, epochs=1))
    assert all(value.isfinite().all() for value in weights(network).values())


def test_plain_backbone(tmp_path: Path) -> None:
    network = run(tmp_path, replace(CONFIG, num_exits=0, epochs=1))
    assert network.num_exits == 0
    assert network.costs_K == [1.0]


def test_a_teacher_teaches_and_stays_as_it_is(tmp_path: Path) -> None:
    """Without the truth: what is learned comes from the teacher; with few exits or none."""
    config = replace(CONFIG, teacher="digits-eenet8", distillation=1.0, num_exits=0)
    teacher = EENet.from_pretrained("digits-eenet8").eval()
    shuffled = TRAIN.labels_B[torch.randperm(len(TRAIN)).numpy()]
    wrong = ImageSet(TRAIN.pixels_BCHW, shuffled, TRAIN.class_names)
    network = build(config, wrong)
    fit(network, wrong, VALIDATION, config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines[-1]["validation"]["full_accuracy"] > 0.4  # chance is 0.1
    after = EENet.from_pretrained("digits-eenet8").eval()
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), after.parameters(), strict=True))


def test_a_teacher_answers_the_same_by_its_graph() -> None:
    """In float32 on a CPU the graph is asked, under autocast the modules."""
    teacher = teacher_of(replace(CONFIG, teacher="digits-eenet8"), TRAIN)
    alone = Teacher(EENet.from_pretrained("digits-eenet8").eval())
    assert teacher is not None
    pixels_BCHW = torch.from_numpy(TRAIN.pixels_BCHW[:50])
    asked, wanted = ((each(pixels_BCHW) / 2).softmax(1) for each in (teacher, alone))
    torch.testing.assert_close(asked, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.equal(asked, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(pixels_BCHW), alone(pixels_BCHW))
    black_BCHW = torch.zeros_like(pixels_BCHW)
    assert teacher(black_BCHW).isfinite().all()


def test_an_exported_network_teaches_by_its_graph(tmp_path: Path) -> None:
    """In int8 it has no modules, so the graph is asked under autocast too."""
    eenet.export("digits-eenet8", tmp_path / "int8", precision="int8")
    teacher = teacher_of(replace(CONFIG, teacher=str(tmp_path / "int8")), TRAIN)
    alone = Teacher(EENet.from_pretrained("digits-eenet8").eval())
    assert teacher is not None
    pixels_BCHW = torch.from_numpy(TRAIN.pixels_BCHW[:200])
    asked, wanted = (each(pixels_BCHW).softmax(1) for each in (teacher, alone))
    assert (asked - wanted).abs().mean() < 0.01
    assert not torch.equal(asked, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(pixels_BCHW).softmax(1), asked)
    run(tmp_path, replace(CONFIG, teacher=str(tmp_path / "int8"), epochs=1))
    assert (tmp_path / METRICS_FILE).exists()


def test_several_teachers_are_one(tmp_path: Path) -> None:
    """Its answer is the normalised geometric mean of theirs; each may be of another kind."""
    eenet.export("digits-eenet8", tmp_path / "int8", precision="int8")
    small = EENet.from_pretrained("digits-eenet8")
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(0.9)
    small.save_pretrained(tmp_path / "small")
    names = [str(tmp_path / "int8"), str(tmp_path / "small")]
    pixels_BCHW = torch.from_numpy(TRAIN.pixels_BCHW[:50])
    one_BN, other_BN = (
        teacher_of(replace(CONFIG, teacher=name), TRAIN)(pixels_BCHW).double().softmax(1)  # type: ignore[misc]
        for name in names
    )
    assert (one_BN - other_BN).abs().mean() > 0.01
    both = teacher_of(replace(CONFIG, teacher=names), TRAIN)
    assert both is not None
    wanted_BN = (one_BN * other_BN).sqrt()
    wanted_BN /= wanted_BN.sum(1, keepdim=True)
    torch.testing.assert_close(both(pixels_BCHW).double().softmax(1), wanted_BN, atol=1e-6, rtol=1e-4)
    run(tmp_path, replace(CONFIG, teacher=names, epochs=1))
    with pytest.raises(ValueError, match=r"teacher mnist-eenet8 takes images of size"):
        teacher_of(replace(CONFIG, teacher=["digits-eenet8", "mnist-eenet8"]), TRAIN)
    with pytest.raises(ValueError, match="teacher is empty"):
        replace(CONFIG, teacher=[])


def test_a_teacher_for_other_images_is_refused(tmp_path: Path) -> None:
    network = build(CONFIG, TRAIN)
    with pytest.raises(ValueError, match=r"teacher mnist-eenet8 takes images of size \(1, 28, 28\)"):
        fit(network, TRAIN, VALIDATION, replace(CONFIG, teacher="mnist-eenet8"), tmp_path)
    swapped = ImageSet(TRAIN.pixels_BCHW, TRAIN.labels_B, TRAIN.class_names[::-1])
    network.config.class_names = swapped.class_names
    with pytest.raises(ValueError, match="knows other classes"):
        fit(network, swapped, swapped, replace(CONFIG, teacher="digits-eenet8"), tmp_path)
    with pytest.raises(ValueError, match="teacher can't be used with objective v2"):
        replace(CONFIG, teacher="digits-eenet8", objective="v2")


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
        ({"accumulate": 0}, "accumulate is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"augmentation": "flop"}, "choose from none, shift"),
        ({"distillation": 2}, "distillation is 2; it must lie between 0 and 1"),
        ({"cost_weight": -1}, "cost_weight is -1; it must not be negative"),
        ({"freeze_backbone": True, "num_exits": 0}, "nothing to train"),
    ],
)
def test_bad_configuration(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_bad_data(tmp_path: Path) -> None:
    network = build(CONFIG, TRAIN)
    with pytest.raises(ValueError, match=r"batch_size 16 can't be shared evenly by 1 processes × 5"):
        fit(network, TRAIN, VALIDATION, replace(CONFIG, accumulate=5), tmp_path)
    with pytest.raises(ValueError, match=r"make no batch of 16; give a batch_size .* of at most 9"):
        fit(network, TRAIN.subset(range(9)), VALIDATION, CONFIG, tmp_path)
    wide = ImageSet(TRAIN.pixels_BCHW.repeat(2, 3), TRAIN.labels_B, TRAIN.class_names)
    with pytest.raises(ValueError, match=r"the data set has \(1, 8, 16\)"):
        fit(network, wide, VALIDATION, CONFIG, tmp_path)
    swapped = ImageSet(TRAIN.pixels_BCHW, TRAIN.labels_B, TRAIN.class_names[::-1])
    with pytest.raises(ValueError, match="in another order"):
        fit(network, swapped, VALIDATION, CONFIG, tmp_path)
    fewer = ImageSet(TRAIN.pixels_BCHW, TRAIN.labels_B, TRAIN.class_names[:5])
    with pytest.raises(ValueError, match="10 classes, the data set 5"):
        fit(network, fewer, VALIDATION, CONFIG, tmp_path)
