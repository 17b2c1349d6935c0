"""Many files: the same answers whatever runs them, a row for what can't be read, nothing lost."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from conftest import in_memory
from PIL import Image

import eenet
from eenet.cli import main
from eenet.networks import EENet
from eenet.runtime import Predictor, predicting, prediction_lines

CHECKPOINT = "digits-eenet8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy images in two folders, and two files that are none."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for i, image in enumerate(in_memory("digits", "test").pixels_BCHW[:70]):
        Image.fromarray(np.asarray(image[0])).save(folder / ("sub" if i % 2 else ".") / f"{i:02}.png")
    (folder / "05-broken.png").write_bytes((folder / "00.png").read_bytes()[:60])
    (folder / "69-text.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def network() -> EENet:
    return EENet.from_pretrained(CHECKPOINT)


def test_a_bad_file_is_a_row(folder: Path, network: EENet) -> None:
    rows = eenet.predict(network, folder)
    assert len(rows) == 72
    bad = [row for row in rows if row.error is not None]
    assert [Path(row.file).name for row in bad] == ["05-broken.png", "69-text.jpg"]
    assert all(row.label is row.exit is row.probabilities is None for row in bad)
    assert [row.file for row in rows] == sorted(row.file for row in rows)
    single = Predictor(network)
    for row in rows:
        if row.error is None:
            alone = single.predict(row.file)
            assert (row.label, row.exit, row.class_index) == (alone.label, alone.exit, alone.class_index)
            assert row.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
            assert sum(alone.probabilities.values()) == pytest.approx(1)
            assert row.probability == pytest.approx(max(alone.probabilities.values()), abs=1e-5)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_the_way_for_many_gives_the_same(
    folder: Path, network: EENet, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = eenet.predict(network, folder, backend=backend)
    monkeypatch.setattr(predicting, "FEW_IMAGES", 10)
    many = eenet.predict(network, folder, backend=backend)
    assert [(r.file, r.label, r.exit, r.error) for r in few] == [
        (r.file, r.label, r.exit, r.error) for r in many
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_images_come_in_order_and_are_not_read_ahead_without_end(network: EENet, workers: int) -> None:
    pixels_BCHW = np.asarray(in_memory("digits", "test").pixels_BCHW[:300])
    pixels_BHW = pixels_BCHW[:, 0]
    taken = 0

    def images() -> Any:
        nonlocal taken
        for image in pixels_BHW:
            taken += 1
            yield image

    with Predictor(network, batch_size=8, workers=workers) as predictor:
        wanted = predictor.run(pixels_BCHW).exits_B.tolist()
        found = predictor.predict_many(images())
        first = next(found)
        assert taken <= 8 * 2 * 8 + 16
        assert [first.exit, *(p.exit for p in found)] == wanted
    broken = [*pixels_BHW[:40], "none.png", *pixels_BHW[40:80]]
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        list(predictor.predict_many(broken))
    assert [i for i, p in enumerate(predictor.try_many(broken)) if isinstance(p, OSError)] == [40]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Equal but for last digits of probabilities: on some processors these depend on the batch."""
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            if "probabilit" in key and value not in (None, ""):
                assert float(row[key]) == pytest.approx(float(value), rel=1e-6)
            else:
                assert row[key] == value


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_answers_in_a_file_and_gone_on_from(
    folder: Path, network: EENet, suffix: str, tmp_path: Path
) -> None:
    """Stopped after 40 rows, with a line cut off, then resumed: as unbroken."""
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    rows = eenet.predict(network, folder, out=whole, top_k=2)
    assert [row["file"] for row in read(whole)] == [row.file for row in rows]
    assert all(len(row.probabilities) == 2 for row in rows if row.probabilities is not None)
    one = read(whole)[1]
    assert one["label"] == one["label_1"] == rows[1].label
    assert float(one["probability_1"]) >= float(one["probability_2"])
    with pytest.raises(FileExistsError, match="--resume"):
        eenet.predict(network, folder, out=whole)
    running = eenet.predict_each(network, folder, out=broken, top_k=2)
    for _ in range(40):
        next(running)
    running.close()  # as when interrupted
    assert len(read(broken)) == 40
    if suffix != ".parquet":
        broken.write_bytes(broken.read_bytes() + b"/tmp/cut o")
    again = eenet.predict(network, folder, out=broken, top_k=2, resume=True)
    assert len(again) == 32
    assert_same(read(broken), read(whole))
    with pytest.raises(ValueError, match="has the columns"):
        eenet.predict(network, folder, out=broken, resume=True)
    never = eenet.ExitPolicy("confidence", (2.0, 2.0))
    with pytest.raises(ValueError, match="answers of another network or policy"):
        eenet.predict(network, folder, out=broken, top_k=2, resume=True, policy=never)
    assert_same(read(broken), read(whole))


def test_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.csv"
    assert main(["predict", CHECKPOINT, str(folder)]) == 1
    assert re.search(r"69-text\.jpg +\| error: not an image in a known format ", capsys.readouterr().out)
    assert main(["predict", CHECKPOINT, str(folder), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "72 answers in" in said.err
    assert "2 of 72 files can't be read" in said.err
    assert main(["predict", CHECKPOINT, str(folder), "--strict"]) == 2
    assert "damaged image" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder / '00.png'}\n{folder / 'sub'}\n\n"))
    assert main(["predict", CHECKPOINT, "-", "--json", "--top-k", "3"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 36
    assert all(len(row["probabilities"]) == 3 for row in rows)
    for mistake, words in (
        ("--top-k 0", "top_k is 0"),
        ("--out a.txt", ".csv, .jsonl"),
        ("--resume", "--out"),
    ):
        assert main(["predict", CHECKPOINT, str(folder), *mistake.split()]) == 2
        assert words in capsys.readouterr().err


def test_lines_come_before_the_end(folder: Path, network: EENet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "FIRST_ROWS", 5)
    given: list[str] = []

    def rows() -> Any:
        for row in eenet.predict_each(network, folder):
            given.append(row.file)
            yield row

    lines = prediction_lines(rows())
    assert next(lines).count("\n") == 6  # header, rule and five rows
    assert len(given) == 5
    rest = list(lines)
    assert len(rest) == 67
    assert sum("error: " in line for line in rest) >= 1


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    """A real process, stopped by the signal in the middle of many images."""
    (tmp_path / "many").mkdir()
    for i in range(3000):
        Image.fromarray(np.full((8, 8), i % 256, np.uint8)).save(tmp_path / "many" / f"{i:04}.png")
    out = tmp_path / "answers.jsonl"
    words = ["predict", CHECKPOINT, str(tmp_path / "many"), "--backend", "torch", "--out", str(out)]
    code = (  # a process started in the background would ignore the signal
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from eenet.runtime.predictor import Predictor; run = Predictor.run\n"
        "def slow(self, pixels):\n    time.sleep(0.2)\n    return run(self, pixels)\n"
        "Predictor.run = slow\nfrom eenet.cli import main; sys.exit(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    count = len(read(out))
    assert 0 < count < 3000
    assert f"{count} answers are in {out}; go on with --resume" in errors
    assert "Traceback" not in errors
