"""Videos: a row for each frame, as if the frames were images."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import eenet
from eenet.data import count_frames, frames

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of other sizes and shades."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as video:
        stream: Any = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(FRAMES):
            pixels = np.full((48, 64, 3), 255 - 20 * n, np.uint8)
            pixels[4 : 8 + 3 * n, 4 : 8 + 3 * n] = 10 * n
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())
    return path


def test_a_row_for_each_frame(clip: Path) -> None:
    rows = eenet.predict("digits-eenet8", clip)
    assert [row.file for row in rows] == [f"{clip}#{n}" for n in range(FRAMES)]
    with eenet.Predictor("digits-eenet8") as predictor:
        for row, image in zip(rows, frames(clip), strict=True):
            found = predictor.predict(image)
            assert (row.label, row.exit) == (found.label, found.exit)
            assert row.probability == pytest.approx(found.probability, abs=1e-5)
    assert count_frames(clip) == FRAMES


def test_resumed_in_the_middle(clip: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    eenet.predict("digits-eenet8", clip, out=whole)
    lines = whole.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:5]))
    found = eenet.predict("digits-eenet8", clip, out=part, resume=True)
    assert [row.file for row in found] == [f"{clip}#{n}" for n in range(5, FRAMES)]
    kept, all_rows = (
        [json.loads(line)["file"] for line in p.read_text().splitlines()] for p in (part, whole)
    )
    assert kept == all_rows
    first = json.loads(lines[0])
    part.write_text(json.dumps(first | {"label": "other", "exit": 1 - min(first["exit"], 1)}) + "\n")
    with pytest.raises(ValueError, match="another network or policy"):
        eenet.predict("digits-eenet8", clip, out=part, resume=True)


def test_pictures_of_frames(clip: Path, tmp_path: Path) -> None:
    network = eenet.create_model(
        "resnet8_cifar", task="detection", num_classes=2, num_exits=1, input_size=(3, 32, 32)
    )
    network.config.mean, network.config.std = [0.4] * 3, [0.3] * 3
    rows = eenet.predict(network.eval(), clip, out=tmp_path / "boxes")
    assert [Path(str(row.picture)).name for row in rows] == [f"clip-{n:06}-boxes.jpg" for n in range(FRAMES)]
    assert all(Path(str(row.picture)).is_file() for row in rows)


def test_what_is_no_video(clip: Path, tmp_path: Path) -> None:
    damaged, text = tmp_path / "damaged.mp4", tmp_path / "text.mp4"
    damaged.write_bytes(clip.read_bytes()[:300])
    text.write_text("no video")
    for path in (damaged, text):
        with pytest.raises(ValueError, match=f"{path} "):
            eenet.predict("digits-eenet8", path)
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        eenet.predict("digits-eenet8", tmp_path / "missing.mp4")


def test_on_the_command_line(clip: Path) -> None:
    command = [sys.executable, "-m", "eenet", "predict", "digits-eenet8", str(clip), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["file"] for row in json.loads(done.stdout)] == [f"{clip}#{n}" for n in range(FRAMES)]


def test_without_its_library(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"needs av; pip install 'eenet\[video\]'"):
        eenet.predict("digits-eenet8", clip)
