"""Checkpoints and exports in the light installation: every verb that only runs a network, without torch."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from light import run_light
from PIL import Image

import eenet
from eenet import EENet, Predictor, collect, data
from eenet.cli import main
from eenet.policies import decide, recorded_scores

CHECKPOINT = "digits-eenet8"
CLI = "from eenet.cli import main; sys.exit(main(sys.argv[1:]))"
GUARD = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as class folders, with the splits of the data set."""
    root = tmp_path_factory.mktemp("digits")
    for split in data.SPLITS:
        images = data.load("digits", split)
        for i, label in enumerate(images.labels_B.tolist()):
            path = root / split / str(label) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.pixels([i])[0, 0]).save(path)
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "digits"
    eenet.export(CHECKPOINT, out)
    return out


@pytest.fixture(params=["checkpoint", "export"])
def name(request: pytest.FixtureRequest, exported: Path) -> str:
    return CHECKPOINT if request.param == "checkpoint" else str(exported)


def test_predict(name: str, folder: Path) -> None:
    rows = json.loads(run_light(CLI, "predict", name, str(folder / "test"), "--json"))
    files = sorted((folder / "test").rglob("*.png"))
    wanted = list(Predictor(CHECKPOINT, backend="torch").predict_many(files))
    assert [Path(row["file"]) for row in rows] == files
    assert [(row["label"], row["exit"]) for row in rows] == [(w.label, w.exit) for w in wanted]
    np.testing.assert_allclose(
        [row["probability"] for row in rows], [w.probability for w in wanted], atol=1e-5
    )


def test_eval(name: str, folder: Path) -> None:
    found = json.loads(run_light(CLI, "eval", name, "--data", str(folder), "--json"))
    wanted = eenet.evaluate(EENet.from_pretrained(CHECKPOINT), data=str(folder)).to_dict()
    assert found["exit_counts"] == wanted["exit_counts"]
    assert found["accuracy"] == wanted["accuracy"]
    assert found["auroc"] == pytest.approx(wanted["auroc"], abs=1e-4)


def test_calibrate(name: str, folder: Path, tmp_path: Path) -> None:
    """The same thresholds as of the checkpoint, and other programs get them too."""
    words = ["--data", str(folder), "--budget", "0.6"]
    told = json.loads(run_light(CLI, "calibrate", name, *words, "--out", str(tmp_path / "new"), "--json"))
    network = EENet.from_pretrained(CHECKPOINT)
    wanted = eenet.calibrate(network, data=str(folder), budget=0.6)
    assert told["thresholds"] == pytest.approx(wanted.thresholds, abs=2e-6)
    assert told["enabled"] == wanted.enabled
    assert told["relative_cost"] == wanted.relative_cost
    policy = eenet.info(tmp_path / "new").to_dict()["policy"]
    assert policy["thresholds"] == tuple(told["thresholds"])
    if name != CHECKPOINT:
        manifest = json.loads((tmp_path / "new/eenet.json").read_text())
        thresholds = [stage["threshold"] for stage in manifest["stages"][:-1]]
        assert thresholds == told["thresholds"]
        assert list(Predictor(tmp_path / "new").policy.thresholds) == thresholds


def test_report_bench_and_info(name: str, folder: Path, tmp_path: Path) -> None:
    words = ["--data", str(folder), "--out", str(tmp_path / "report.html")]
    run_light(CLI, "report", name, *words)
    assert "digits" in (tmp_path / "report.html").read_text()
    words = ["--data", str(folder), "--repeats", "1", "--batch-sizes", "1", "--json"]
    (row,) = json.loads(run_light(CLI, "bench", name, *words))["rows"]
    assert row["backend"] == "onnxruntime"
    assert json.loads(run_light(CLI, "info", name, "--json"))["exits"] == ["layer1.0", "layer2.0"]


SERVE = """
from pathlib import Path
from fastapi.testclient import TestClient
from eenet.serving.app import create_app
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServeOptions
from eenet.serving.models import Models

metrics = Metrics()
models = Models({"digits": sys.argv[1]}, ServeOptions(), metrics)
with TestClient(create_app(models, metrics)) as client:
    print(client.post("/classify", content=Path(sys.argv[2]).read_bytes()).text)
    assert client.get("/v2/models/digits/ready").status_code == 200
models.close()
"""


def test_serve(name: str, folder: Path) -> None:
    image = next((folder / "test/7").iterdir())
    (found,) = json.loads(run_light(SERVE, name, str(image)))["predictions"]
    wanted = Predictor(CHECKPOINT, backend="torch").predict(image)
    assert (found["label"], found["exit"]) == (wanted.label, wanted.exit)


def test_what_is_missing_is_named(folder: Path) -> None:
    code = "from eenet.cli import main; sys.stderr = sys.stdout; print(main(sys.argv[1:]))"
    for words, library in (
        (["train", "digits"], "torch"),
        (["export", CHECKPOINT, "--out", "exported"], "torch"),
        (["predict", CHECKPOINT, str(folder), "--backend", "torch"], "torch"),
        (["info", "resnet18"], "torch"),
        (["calibrate", CHECKPOINT, "--data", str(folder), "--risk", "0.2", "--out", "new"], "scipy"),
    ):
        told = run_light(code, *words).splitlines()
        assert told[-1] == "2", words
        (line,) = [line for line in told if line.startswith("eenet: ")]
        assert library in line
        assert "pip install 'eenet[train]'" in line


def test_all_answers_are_those_of_torch() -> None:
    """On every test image: the same exit, unless a score lies at its threshold."""
    for name in ("digits-eenet8", "mnist-eenet8"):
        network = EENet.from_pretrained(name)
        source = network.config.provenance["train_config"]["data"]
        try:
            images = data.load(source, "test")
        except FileNotFoundError:
            continue
        records = collect(network, images)
        policy = network.config.exit_policy()
        answers = Predictor(name).run(images.pixels(slice(None)))
        scores_KB = recorded_scores(records, policy.score)
        distances_KB = np.abs(scores_KB - np.array(policy.thresholds)[:, None])
        sure_B = distances_KB[list(policy.enabled)].min(0) > GUARD
        assert sure_B.mean() > 0.98
        np.testing.assert_array_equal(answers.exits_B[sure_B], decide(records, policy)[sure_B])


def test_a_checkpoint_without_a_graph_asks_for_torch(tmp_path: Path) -> None:
    source = Path(eenet.__file__).parent / "pretrained" / CHECKPOINT
    directory = shutil.copytree(source, tmp_path / "old")
    (directory / "graph.onnx").unlink()
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "hashes": {}}))
    assert main(["info", str(directory)]) == 0
    code = "from eenet.cli import main; sys.stderr = sys.stdout; main(sys.argv[1:])"
    told = run_light(code, "eval", str(directory), "--data", "digits")
    assert "has no graph.onnx" in told
    assert "pip install 'eenet[train]'" in told
    assert Predictor(directory).backend.name == "onnxruntime"
