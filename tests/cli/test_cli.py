"""The command line, run as a user runs it."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eenet import data
from eenet.cli import main
from eenet.networks.network import EENet

TINY = ["--model", "resnet8_w4_cifar", "--epochs", "2", "--num-exits", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    test = data.load("digits", "test")
    Image.fromarray(test.pixels(0)[0, 0]).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1  # one object and nothing else
    return json.loads(captured.out)


def test_train_writes_everything(checkpoint: Path) -> None:
    written = {path.name for path in checkpoint.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "metrics.jsonl", "report.html"} <= written
    card = (checkpoint / "README.md").read_text()
    assert f"eenet train digits {' '.join(TINY)}" in card
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["class_names"] == [str(i) for i in range(10)]
    assert config["provenance"]["train_config"]["epochs"] == 2


MEMORABLE = [
    "--placement layer1.0 layer2.0 --mean 0.3 --std 0.25 --model-args width=6 --set learning_rate=0.05",
    "--placement 0.2 0.5 --head separable --balanced --teacher digits-eenet8 digits-eenet8",
]


@pytest.mark.parametrize("asked", MEMORABLE)
def test_the_command_on_a_card_gives_the_same_run(asked: str, tmp_path: Path) -> None:
    """Lists were written as Python shows them."""
    settings: list[dict] = []
    words = f"train digits --model resnet8_w4_cifar --epochs 1 {asked}".split()
    for name in "ab":
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        provenance = json.loads((tmp_path / name / "config.json").read_text())["provenance"]
        settings.append(provenance["train_config"])
        words = shlex.split(provenance["command"])[1:]
    assert settings[0] == settings[1]


def test_report_is_self_contained(checkpoint: Path) -> None:
    page = (checkpoint / "report.html").read_text()
    assert len(page) < 6e6
    assert "data:image/webp;base64," in page
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']?https?:""", outside)
    assert "eenet train digits" in page


def test_eval_agrees_with_train(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(checkpoint), "--data", "digits", "--json"]) == 0
    measured = said(capsys)
    keys = "num_examples accuracy relative_cost exit_counts exit_accuracy full_accuracy dead_exits costs"
    assert set(keys.split()) <= measured.keys()
    assert measured["num_examples"] == sum(measured["exit_counts"]) == 360
    card = (checkpoint / "README.md").read_text()
    assert f"accuracy {measured['accuracy']:.2%} at relative cost {measured['relative_cost']:.3f}" in card


def test_the_budget_is_turned_without_training(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = []
    for budget in ("0.65", "0.8", "1"):
        assert main(["eval", str(checkpoint), "--data", "digits", "--budget", budget, "--json"]) == 0
        measured = said(capsys)
        costs.append(measured["relative_cost"])
        assert measured["relative_cost"] == pytest.approx(float(budget), abs=0.06)  # of 288 images
    assert costs == sorted(set(costs))
    assert main(["predict", str(checkpoint), str(image), "--budget", "0.8"]) == 0
    capsys.readouterr()
    assert main(["predict", str(checkpoint), str(image), "--budget", "0.1"]) == 2
    assert "no policy for budget 0.1: the smallest is 0." in capsys.readouterr().err


def test_predict_files_directories_globs(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [str(image), str(image.parent), str(image.parent / "*.png")]
    assert main(["predict", str(checkpoint), *inputs, "--json"]) == 0
    rows = said(capsys)
    assert len(rows) == 3
    assert all(row == rows[0] for row in rows)
    assert {"file", "label", "probability", "exit", "relative_cost", "probabilities"} <= set(rows[0])
    assert main(["predict", str(checkpoint), str(image)]) == 0
    assert "digit.png" in capsys.readouterr().out


def test_info_and_list(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint), "--json"]) == 0
    assert said(capsys)["backbone"] == "resnet8_w4_cifar"
    assert main(["info", str(checkpoint)]) == 0
    network = EENet.from_pretrained(checkpoint)
    costs = network.costs(network.config.exit_policy().enabled)
    lines = capsys.readouterr().out.splitlines()[2:]
    for line, place, cost in zip(lines[: len(costs)], [*network.config.exits, "–"], costs, strict=True):
        assert line.split()[3] == place
        assert f" {cost:.3f} " in line
    assert main(["info", "resnet18", "--input-size", "3", "64", "64", "--json"]) == 0
    assert [cut["name"] for cut in said(capsys)["cuts"]][:2] == ["conv1", "layer1.0"]
    assert main(["list", "--json"]) == 0
    assert {"digits", "mnist", "cifar10-resnet20"} <= said(capsys)["recipes"].keys()
    for command in (["info", str(checkpoint)], ["info", "resnet8_w2_cifar"], ["info", "eenet20"], ["list"]):
        assert main(command) == 0
        assert capsys.readouterr().out


def test_plain_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "eenet8", "--epochs", "1", "--plain", "--out", str(tmp_path / "plain")]
    assert main(["train", "digits", *arguments, "--json"]) == 0
    measured = said(capsys)
    assert measured["costs"] == [1.0]
    assert measured["accuracy"] == measured["full_accuracy"]


MISTAKES = {
    "trian digits": "did you mean 'train'",
    "frobnicate": "choose from train, eval",
    "train": "recipe",
    "train digts": "did you mean digits",
    "train digits --sede 3": "Perhaps you meant: --seed",
    "train digits --seed many": "invalid literal",
    "train digits --num-exits 0": "at least 1",
    "train digits --num-exits 40": "at most 7",
    "train digits --data dijits": "did you mean digits",
    "train digits --model resnet19_cifar": "did you mean",
    "train digits --epochs 0": "epochs is 0",
    "train digits --resume": "nothing to resume",
    "train digits --out FILE/below": "can't write to",
    "train digits --out CHECKPOINT": "already holds a run",
    "eval CHECKPOINT": "--data",
    "eval CHECKPOINT --data digits --split best": "unknown split 'best'",
    "eval nowhere --data digits": "no checkpoint directory nowhere",
    "predict CHECKPOINT none.png": "no image file none.png",
    "predict CHECKPOINT *.jpeg": "no file matches",
    "predict CHECKPOINT EMPTY": "no image in the directory",
    "predict CHECKPOINT FILE": "not an image",
    "predict EMPTY FILE": "config.json is missing",
    "info resnet19": "did you mean",
    "info cifar10-resnet20x": "or the recipe cifar10-resnet20",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    command: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("text")
    arguments = [str(checkpoint) if word == "CHECKPOINT" else word for word in command.split()]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("eenet: ")
    assert captured.err.count("\n") == 1
    assert MISTAKES[command] in captured.err


def eenet(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from eenet.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def test_a_reader_that_has_seen_enough() -> None:
    """As in `eenet list | head -1`."""
    command = [sys.executable, "-m", "eenet", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_version_and_help() -> None:
    assert eenet("--version").stdout == f"eenet {version('eenet')}\n"
    for verb in ("train", "eval", "predict", "info", "list"):
        helped = eenet(verb, "--help")
        assert helped.returncode == 0
        assert "--json" in helped.stdout


def test_as_a_process(checkpoint: Path, tmp_path: Path) -> None:
    """Exit codes, and progress kept out of stdout."""
    assert eenet("predict", str(checkpoint), str(tmp_path)).returncode == 2
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "zero.png")
    answered = eenet("predict", str(checkpoint), str(tmp_path), "--json")
    assert answered.returncode == 0
    assert len(json.loads(answered.stdout)) == 1


def test_ctrl_c_saves_and_resume_finishes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train", "digits", "--model", "resnet8_w4_cifar", "--num-exits", "2", "--epochs", "40"]
    code = "import sys; from eenet.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--out", str(out)], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors.splitlines()[-1]
    before = len((out / "metrics.jsonl").read_text().splitlines())
    assert 0 < before < 40
    finished = eenet(*command, "--out", str(out), "--resume", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["num_examples"] == 360
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 40
