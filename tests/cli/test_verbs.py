"""calibrate and bench, run as a user runs them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import in_memory
from PIL import Image

from eenet import data
from eenet.cli import main
from eenet.evaluation.evaluating import collect
from eenet.evaluation.reporting import about_run
from eenet.networks.building import create_model
from eenet.networks.config import read_config
from eenet.networks.network import EENet
from eenet.runtime.predictor import Predictor
from eenet.training.calibrating import doubts


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verbs") / "run"
    words = ["train", "digits", "--model", "resnet8_w4_cifar", "--num-exits", "2", "--epochs", "3"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture
def checkpoint(run_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_directory, tmp_path / "copy"))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1  # one object and nothing else
    return json.loads(captured.out)


def test_calibrate_for_macs(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "calibrate", str(checkpoint), "--data", "digits", "--budget", "0.8")
    assert found["num_examples"] == 144  # the other half
    assert found["relative_cost"] == pytest.approx(0.8, abs=0.1)
    policy = read_config(checkpoint).policy
    assert policy is not None
    assert list(policy["thresholds"]) == found["thresholds"]
    card = (checkpoint / "README.md").read_text()
    assert "Policy set again" in card
    low, high = found["intervals"]["relative_cost"]
    assert low < found["relative_cost"] < high
    assert f"relative cost {low:.3f} to {high:.3f}" in card


def test_the_policy_that_is_replaced_is_kept(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = read_config(checkpoint).policy
    words = ["calibrate", str(checkpoint), "--data", "digits", "--budget"]
    found = run(capsys, *words, "0.8")
    assert found["previous"] == "before"
    assert "the policy that was there is kept as 'before' (--policy before)" in found["notes"]
    second = read_config(checkpoint).policy
    assert run(capsys, *words, "0.9")["previous"] == "before-2"
    assert "previous" not in run(capsys, *words, "0.9")  # the same again
    assert read_config(checkpoint).policies == {"before": first, "before-2": second}
    evaluated = ["eval", str(checkpoint), "--data", "digits"]
    kept, own = run(capsys, *evaluated, "--policy", "before"), run(capsys, *evaluated)
    assert kept["relative_cost"] < own["relative_cost"]
    assert "thresholds set on" in about_run(read_config(checkpoint))
    assert "for budget 0.9 in MACs, on one half of the validation split of digits" in about_run(
        read_config(checkpoint)
    )
    assert main(["calibrate", str(checkpoint), "--data", "digits", "--budget", "0.8"]) == 0
    printed = capsys.readouterr().out
    assert "95 % intervals: accuracy " in printed
    assert re.search(r"^dead_exits +(none|exit \d(, exit \d)*)$", printed, re.MULTILINE)
    assert "note: the policy that was there is kept as 'before-3'" in " ".join(printed.split())


def test_few_images_are_doubted(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 18 images, nine set the thresholds and nine measure them."""
    photos, digits = checkpoint / "photos", data.load("digits", "test")
    photos.mkdir()
    for i, pixels_CHW in enumerate(digits.pixels(slice(18))):
        Image.fromarray(pixels_CHW[0]).save(photos / f"{i:03}.png")
    found = run(capsys, "calibrate", str(checkpoint), "--data", str(photos), "--budget", "0.8")
    assert found["num_examples"] == 9
    assert found["intervals"].keys() == {"agreement", "relative_cost"}
    assert found["notes"][0].startswith("9 images are too few to tell the cost to ± 0.03: its 95 % interval")
    assert found["notes"][0] in (checkpoint / "README.md").read_text()


def test_a_backbone_without_cuts_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "test_vit"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "No cuts: nowhere is a feature map [channels, height, width] alone alive." in said
    assert "| cut" not in said


def test_missing_classes_are_named(checkpoint: Path) -> None:
    network = EENet.from_pretrained(checkpoint)
    digits = in_memory("digits", "test")
    records = collect(network, digits.subset((digits.labels_B != 3) & (digits.labels_B != 8)))
    (note,) = doubts(records, network.config.exit_policy(), network.config)[-1:]
    assert note == "none of the images that thresholds were set on is of class 3, 8"


def test_calibrate_for_a_drop_and_a_risk(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kept under names; the checkpoint's own policy stays as it is."""
    before = read_config(checkpoint).policy
    where = [str(checkpoint), "--data", "digits", "--split", "test", "--name"]
    bold = run(capsys, "calibrate", *where, "bold", "--max-drop", "100")
    assert bold["relative_cost"] == pytest.approx(EENet.from_pretrained(checkpoint).costs_K[0])
    words = ["--risk", "0.3", "--delta", "0.2", "--risk-of", "disagreement"]
    safe = run(capsys, "calibrate", *where, "safe", *words)
    promise = safe["guarantee"]
    assert (promise["risk"], promise["limit"], promise["delta"]) == ("disagreement", 0.3, 0.2)
    assert promise["num_examples"] == 180
    assert promise["measured"] <= 0.3
    assert "guarantee" in run(capsys, "calibrate", *where, "mean", "--risk", "0.3", "--on-average")
    config = read_config(checkpoint)
    assert config.policy == before
    assert list(config.policies) == ["bold", "safe", "mean"]
    assert "Policy 'bold' set" in (checkpoint / "README.md").read_text()
    measured = run(capsys, "eval", str(checkpoint), "--data", "digits", "--policy", "bold")
    assert measured["exit_counts"][0] == 360
    assert Predictor(checkpoint, policy="safe", backend="torch").policy.thresholds == tuple(
        config.policies["safe"]["thresholds"]
    )


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_calibrate_for_latency(
    checkpoint: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (checkpoint / "config.json").read_bytes()
    words = [
        "--objective",
        "latency",
        "--backend",
        backend,
        "--batch-size",
        "8",
        "--out",
        str(tmp_path / "b"),
    ]
    found = run(capsys, "calibrate", str(checkpoint), "--data", "digits", "--budget", "1000", *words)
    assert found["relative_time"] > 0
    low, high = found["intervals"]["relative_time"]
    assert low <= found["relative_time"] <= high
    timings = found["timings"]
    assert len(timings["stage_ms"]) == 3
    assert len(timings["head_ms"]) == 2
    assert min(timings["stage_ms"]) > 0
    assert (checkpoint / "config.json").read_bytes() == before
    (stored,) = read_config(tmp_path / "b").timings
    assert stored["backend"] == backend
    assert stored["stage_ms"] == timings["stage_ms"]
    assert main(["eval", str(tmp_path / "b"), "--data", "digits"]) == 0


def test_bench(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", str(checkpoint), "--out", str(tmp_path / "files"), "--format", "onnx-single")
    words = ["--batch-sizes", "1", "16", "--repeats", "2", "--against", str(checkpoint)]
    words += ["--exported", str(tmp_path / "files")]
    found = run(capsys, "bench", str(checkpoint), *words)
    assert [(r["backend"], r["batch_size"]) for r in found["rows"]] == [
        (backend, size) for backend in ("torch", "onnxruntime", "openvino") for size in (1, 16)
    ]
    costs = create_model("resnet8_w4_cifar", num_exits=2, num_classes=10, input_size=(1, 8, 8)).costs_K
    for row in found["rows"]:
        assert sum(row["exit_shares"]) == pytest.approx(1)
        cost = sum(share * cost for share, cost in zip(row["exit_shares"], costs, strict=True))
        assert row["mac_speedup"] == pytest.approx(1 / cost)
        assert row["realised"] == pytest.approx(row["speedup"] / row["mac_speedup"])
        assert row["plain_p50_ms"] <= row["plain_p95_ms"] <= row["plain_p99_ms"]
        speed = 1000 * row["batch_size"] / row["early_exit_ms"]
        assert row["early_exit_images_per_second"] == pytest.approx(speed)
        assert row["against_ms"] > 0
        assert row["exported_ms"] > 0
    assert main(["bench", str(checkpoint), "--backends", "torch", "--repeats", "1"]) == 0
    assert "early exit" in capsys.readouterr().out


def test_calibrate_without_labels(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a directory of images; what needs no labels comes out as with them."""
    photos, digits = checkpoint / "photos", data.load("digits", "test")
    photos.mkdir()
    for i, pixels_CHW in enumerate(digits.pixels(slice(None))):
        Image.fromarray(pixels_CHW[0]).save(photos / f"{i:03}.png")
    disagreement = ["--risk", "0.3", "--risk-of", "disagreement", "--name"]
    labelled = run(
        capsys, "calibrate", str(checkpoint), "--data", "digits", "--split", "test", *disagreement, "a"
    )
    found = run(capsys, "calibrate", str(checkpoint), "--data", str(photos), *disagreement, "b")
    assert found["agreement"] >= 0.6
    assert "accuracy" not in found
    same = ("thresholds", "guarantee", "relative_cost", "num_examples")
    assert [found[key] for key in same] == [labelled[key] for key in same]
    budget = run(capsys, "calibrate", str(checkpoint), "--data", str(photos), "--budget", "0.8")
    assert budget["relative_cost"] == pytest.approx(0.8, abs=0.1)
    assert "against the full network's answers" in (checkpoint / "README.md").read_text()
    for words in (["--risk", "0.3"], ["--max-drop", "0.1"]):
        assert main(["calibrate", str(checkpoint), "--data", str(photos), *words]) == 2
        assert "holds images without labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["bench", "CKPT", "--backends", "tvm"], "unknown backend 'tvm'"),
        (["bench", "CKPT", "--batch-sizes", "0"], "batch_size 0"),
        (["calibrate", "CKPT", "--data", "digits", "--budget", "0.01"], "budget 0.01 is impossible"),
        (["calibrate", "CKPT", "--data", "digits", "--budget", "0.5", "--objective", "watts"], "watts"),
        (["calibrate", "CKPT", "--data", "digits"], "one of budget, max drop and risk"),
        (["calibrate", "CKPT", "--data", "digits", "--budget", "0.5", "--risk", "0.1"], "one of budget,"),
        (
            ["calibrate", "CKPT", "--data", "digits", "--risk", "0.1"],
            "needs images that were not used before",
        ),
        (["calibrate", "CKPT", "--data", "digits", "--split", "test", "--risk", "0.001"], "are needed"),
        (["eval", "CKPT", "--data", "digits", "--policy", "fast"], "has no policy 'fast'"),
        (["eval", "CKPT", "--data", "digits", "--policy", "fast", "--budget", "0.5"], "not both"),
        (["predict", "CKPT", "CKPT/README.md", "--backend", "tvm"], "unknown backend 'tvm'"),
    ],
)
def test_refusals(checkpoint: Path, words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.replace("CKPT", str(checkpoint)) for word in words]) == 2
    assert wrong in capsys.readouterr().err
