"""What users get wrong is one line on stderr; what only looks odd works. Pickles are never opened."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from eenet import data
from eenet.cli import main
from eenet.networks.building import create_model
from eenet.networks.network import EENet

ARRAY = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
PICTURE = Image.fromarray(ARRAY)
POLICY = {"score": "margin", "thresholds": [0.1, 0.2, 0.3], "enabled": [True, False, True]}


@pytest.fixture
def checkpoint(network: EENet, tmp_path: Path) -> Path:
    network.config.policy = POLICY
    return network.save_pretrained(tmp_path / "checkpoint")


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("eenet: ")
    assert captured.err.count("\n") == 1
    return captured.err


# Images ------------------------------------------------------------------------------


def write(path: Path, image: Image.Image = PICTURE, **how: Any) -> Path:
    image.save(path, **how)
    return path


def rotated(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return write(path, Image.fromarray(np.rot90(ARRAY).copy()), exif=exif)


def exactly(directory: Path, picture: Image.Image = PICTURE) -> Path:
    return write(directory / "plain.png", picture)


SHAPES = {
    "one-pixel.png": Image.new("L", (1, 1), 99),
    "one-colour-pixel.png": Image.new("RGB", (1, 1), "red"),
    "wide.png": Image.new("RGB", (2000, 1), "red"),
    "tall.png": Image.new("RGB", (1, 2000), "red"),
    "palette.png": PICTURE.quantize(),
    "transparent.png": PICTURE.convert("RGBA"),
    "sixteen-bit.png": Image.fromarray(ARRAY[:, :, 0].astype(np.uint16) * 257),
    "black-and-white.png": PICTURE.convert("1"),
    "cmyk.jpg": PICTURE.convert("CMYK"),
    "UPPER.JPG": PICTURE,
    "white space.png": PICTURE,
    "ünïcødé ✓.png": PICTURE,
    "quo'te\"d.png": PICTURE,
    "[set].png": PICTURE,
}


@pytest.mark.parametrize("channels", [1, 3], ids=["grey network", "colour network"])
def test_odd_images_work(
    channels: int, network: EENet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if channels == 3:
        network = create_model("resnet8_w2_cifar", num_classes=10, num_exits=1, input_size=(3, 8, 8))
        network.config.mean, network.config.std = [0.5] * 3, [0.2] * 3
    network.save_pretrained(tmp_path / "checkpoint")
    images = tmp_path / "images"
    images.mkdir()
    for name, picture in SHAPES.items():
        write(images / name, picture)
    write(images / "progressive.jpeg", progressive=True)
    rotated(images / "turned.jpg")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    write(images / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    expected = sorted(str(path) for path in images.iterdir())
    (images / "notes.txt").write_text("no image, left alone")
    (images / "directory.png").mkdir()
    assert main(["predict", str(tmp_path / "checkpoint"), str(images), "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [row["file"] for row in rows] == expected
    assert all(0 < row["probability"] <= 1 for row in rows)
    assert captured.err == ""


@pytest.mark.parametrize(
    ("make", "picture"),
    [
        (lambda d: write(d / "palette.png", PICTURE.quantize(64, dither=Image.Dither.NONE)), None),
        (lambda d: write(d / "opaque.png", PICTURE.convert("RGBA")), PICTURE),
        (lambda d: rotated(d / "turned.png"), PICTURE),
        (
            lambda d: write(
                d / "a.gif", Image.new("RGB", (8, 8), "red"), save_all=True, append_images=[PICTURE]
            ),
            Image.new("RGB", (8, 8), "red"),
        ),
        (
            lambda d: write(d / "deep.png", Image.fromarray(ARRAY[:, :, 0].astype(np.uint16) * 257)),
            Image.fromarray(ARRAY[:, :, 0]),
        ),
    ],
    ids=["palette", "opaque alpha", "EXIF rotation", "first frame", "16 bit"],
)
def test_odd_images_say_the_same_as_plain_ones(
    make: Callable[[Path], Path],
    picture: Image.Image | None,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = make(tmp_path)
    plain = exactly(tmp_path, picture or Image.open(odd).convert("RGB"))
    assert main(["predict", str(checkpoint), str(odd), str(plain), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first | {"file": ""} == second | {"file": ""}


def test_file_names_as_they_come(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("-dash.png"))
    write(Path("[ab].png"))
    for names in (["./-dash.png"], ["--", "-dash.png"], ["[ab].png"], ["[ab].png", "[ab].png"]):
        given = [name for name in names if name != "--"]
        assert main(["predict", "--json", str(checkpoint), *names]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [Path(row["file"]) for row in rows] == [Path(name) for name in given]


def bad_image(name: str, path: Path) -> None:
    if name == "text.png":
        path.write_text("not an image")
    elif name == "empty.png":
        path.touch()
    elif name == "bomb.png":
        Image.new("1", (15000, 15000)).save(path)
    elif name == "header.ppm":
        path.write_bytes(b"P6\n3x 4\n255\n")
    else:
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.png", "not an image"),
        ("empty.png", "not an image"),
        ("cut.jpg", "damaged"),
        ("bomb.png", "too many pixels"),
        ("header.ppm", "damaged"),
    ],
)
def test_a_bad_image_among_good_ones_is_named(
    name: str, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for good in ("a.png", "z.png"):
        write(images / good)
    bad_image(name, images / name)
    assert main(["predict", str(checkpoint), str(images), "--json"]) == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["file"] for row in rows if "label" in row] == [
        str(images / good) for good in ("a.png", "z.png")
    ]
    (bad,) = [row for row in rows if "error" in row]
    assert message in bad["error"]
    assert str(images / name) in bad["error"]
    assert "1 of 3 files can't be read" in said.err


def test_damaged_metadata_is_no_reason_to_refuse(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    assert main(["predict", str(checkpoint), str(path), "--json"]) == 0
    assert capsys.readouterr().err == ""


# Checkpoints -------------------------------------------------------------------------


def edited(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone", 3, "expected the name of a backbone, or null"),
        ("backbone", "resnet8_w5_cifar", "did you mean"),
        ("backbone_args", [], "expected an object"),
        ("backbone_args", {"num_classes": "ten"}, "can't build backbone"),
        ("exits", "conv1", "expected a list of cut names"),
        ("exits", [1, 2, 3], "expected a list of cut names"),
        ("exits", ["conv1", "layer1.0", "layer9.0"], "no cut named 'layer9.0'"),
        ("head", None, "expected the name of an exit head"),
        ("head", "foot", "unknown exit head 'foot'"),
        ("num_classes", "ten", '"ten"; expected a whole number'),
        ("num_classes", True, "expected a whole number"),
        ("num_classes", 0, "above 0"),
        ("input_size", ["1", "8", "8"], "expected [channels, height, width]"),
        ("input_size", [1, 8], "expected [channels, height, width]"),
        ("input_size", [1, 8, -8], "all above 0"),
        ("backbone_macs", 0, "above 0"),
        ("stage_macs", 7, "expected a whole number per stage"),
        ("stage_macs", [1, 2], "expected a whole number per stage"),
        ("head_macs", [1.5, 2, 3], "expected a whole number per early exit"),
        ("ensemble", [[], [[1, 1]]], "expected for each exit two numbers from 0 to 1000 per exit before it"),
        ("ensemble", [[], [[1, -2]], [[1, 1]] * 2, [[1, 1]] * 3], "two numbers from 0 to 1000"),
        ("ensemble", [[], [[1, float("nan")]], [[1, 1]] * 2, [[1, 1]] * 3], "two numbers from 0 to 1000"),
        ("ensemble", [[], [[1]], [[1, 1]] * 2, [[1, 1]] * 3], "two numbers from 0 to 1000"),
        ("mean", None, "expected a number per channel"),
        ("mean", [], "expected a number per channel"),
        ("mean", ["0"], "expected a number per channel"),
        ("mean", [float("nan")], "expected a number per channel"),
        ("mean", [10**400], "expected a number per channel"),
        ("std", [0.0], "expected a number above 0 per channel"),
        ("std", [0.1, 0.1], "expected a number above 0 per channel"),
        ("class_names", ["zero", "one"], "expected a name per class"),
        ("class_names", list(range(10)), "expected a name per class"),
        ("gate", 7, "expected the name of a gate"),
        ("gate", "vestibule", "unknown gate 'vestibule'"),
        ("budgets", {"cheap": POLICY}, "expected an object of objects with budgets as keys"),
        ("budgets", {"0.500": POLICY | {"score": "guess"}}, "'budgets', 0.500: unknown score 'guess'"),
        ("policy", [], "expected an object, or null"),
        ("policy", {}, "damaged: KeyError('score')"),
        ("policy", POLICY | {"score": "guess"}, "unknown score 'guess'"),
        ("policy", POLICY | {"score": ["margin"]}, "damaged"),
        ("policy", POLICY | {"thresholds": [0.1]}, "1 thresholds, but 3 on/off flags"),
        ("policy", {"score": "margin", "thresholds": [0.1], "enabled": [True]}, "3 early exits"),
        ("policy", POLICY | {"thresholds": [0.1, 0.2, float("nan")]}, "NaN"),
        ("policy", POLICY | {"thresholds": ["0.1", "0.2", "0.3"]}, "must be numbers"),
        ("policy", POLICY | {"enabled": ["yes"] * 3}, "true or false"),
        ("provenance", "mine", "expected an object"),
        ("format_version", 1, "this eenet reads version 2"),
    ],
)
def test_wrong_values_in_the_config(
    key: str, value: Any, message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(checkpoint, **{key: value})
    image = write(checkpoint / "a.png")
    for arguments in (
        ["predict", str(checkpoint), str(image)],
        ["eval", str(checkpoint), "--data", "digits"],
    ):
        error = refusal(arguments, capsys)
        assert str(checkpoint / "config.json") in error
        assert key in error
        assert message in error


def test_config_that_is_no_json_at_all(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"[" * 100_000, b"\xff\xfe", b"", b"null"):
        (checkpoint / "config.json").write_bytes(content)
        assert "config.json" in refusal(["info", str(checkpoint)], capsys)


def test_config_without_mean_and_std(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(checkpoint, mean=None, std=None)
    write(checkpoint / "a.png")
    words = ["predict", str(checkpoint), str(checkpoint / "a.png"), "--out", str(checkpoint / "a.csv")]
    error = refusal(words, capsys)
    assert f"{checkpoint} has no mean and std in its config" in error
    assert not (checkpoint / "a.csv").exists()


KEY = "stages.0.conv1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(KEY), f"tensor '{KEY}' is missing"),
        (lambda w: w.update({KEY: torch.ones(2)}), "has shape (2,), expected (4, 1, 3, 3)"),
        (lambda w: w.update({KEY: w[KEY].to(torch.int32)}), "is torch.int32, expected torch.float32"),
        (lambda w: w.update({KEY: w[KEY].half().fill_(torch.inf)}), "NaN or infinity"),
        (lambda w: w[KEY].fill_(torch.nan), "NaN or infinity"),
    ],
    ids=["missing", "shape", "type", "infinite", "NaN"],
)
def test_wrong_weights(
    change: Callable[[dict[str, Tensor]], object],
    message: str,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, checkpoint / "model.safetensors")
    error = refusal(["eval", str(checkpoint), "--data", "digits"], capsys)
    assert str(checkpoint / "model.safetensors") in error
    assert KEY in error
    assert message in error


# Pickles -----------------------------------------------------------------------------


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trap),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Shown to work, and armed again."""
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Malicious(trap)))
    trap.rmdir()
    return trap


PICKLES = ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "last.ckpt", "training_state.pt"]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_beside_the_weights_is_left_alone(name: str, checkpoint: Path, trap: Path) -> None:
    torch.save(Malicious(trap), checkpoint / name)
    image = write(checkpoint / "a.png")
    for arguments in (
        ["eval", str(checkpoint), "--data", "digits"],
        ["predict", str(checkpoint), str(image)],
        ["info", str(checkpoint)],
    ):
        assert main(arguments) == 0
    assert not trap.exists()


@pytest.mark.parametrize("name", PICKLES[:-1])
def test_a_pickle_instead_of_the_weights_is_refused(
    name: str, checkpoint: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save(Malicious(trap), checkpoint / name)
    error = refusal(["eval", str(checkpoint), "--data", "digits"], capsys)
    assert f"model.safetensors is missing: {name} is pickled" in error
    assert "safetensors.torch.save_file" in error
    assert not trap.exists()


def test_a_pickle_named_like_the_weights(
    checkpoint: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Malicious(trap), checkpoint / "model.safetensors")
    assert "not a readable safetensors" in refusal(["eval", str(checkpoint), "--data", "digits"], capsys)
    assert not trap.exists()


def test_a_pickle_the_config_points_to(
    checkpoint: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm would load it while it builds the backbone."""
    torch.save(Malicious(trap), checkpoint / "model.pth")
    args = {"num_classes": 10, "in_chans": 1, "checkpoint_path": str(checkpoint / "model.pth")}
    edited(checkpoint, backbone_args=args)
    error = refusal(["eval", str(checkpoint), "--data", "digits"], capsys)
    assert "checkpoint_path is not taken" in error
    assert not trap.exists()


@pytest.mark.parametrize("content", ["malicious", "raw pickle", "list", "no keys", "no configuration"])
def test_a_training_state_that_is_none(
    content: str, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    if content == "raw pickle":
        (out / "training_state.pt").write_bytes(pickle.dumps(Malicious(trap)))
    else:
        states = {
            "malicious": Malicious(trap),
            "list": [1],
            "no keys": {},
            "no configuration": {"config": "{"},
        }
        torch.save(states[content], out / "training_state.pt")
    tiny = ["--model", "resnet8_w4_cifar", "--num-exits", "2", "--epochs", "1"]
    error = refusal(["train", "digits", *tiny, "--out", str(out), "--resume"], capsys)
    assert "training_state.pt is not a training state" in error
    assert "weights_only" not in error  # torch's own advice is to switch the safety off
    assert not trap.exists()


def test_grey_digits_become_colour_for_a_network_of_colour(tmp_path: Path) -> None:
    network = create_model("resnet8_w2_cifar", num_classes=10, num_exits=1, input_size=(3, 8, 8))
    network.config.mean, network.config.std = [0.5] * 3, [0.5] * 3
    network.save_pretrained(tmp_path)
    assert main(["eval", str(tmp_path), "--data", "digits"]) == 0
    grey, colour = data.load("digits", "test"), data.load("digits", "test", size=(3, 8, 8))
    assert (grey.pixels([0])[0] == colour.pixels([0])[0]).all()
    assert colour.image_size == (3, 8, 8)
