"""Images and data sets in the light installation, which has no torch, no scikit-learn and no pandas."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from light import run_light
from PIL import Image

from eenet import data

LOAD = """
import sys
import numpy as np
from eenet import data
images = data.load(sys.argv[1], sys.argv[2])
assert isinstance(images.labels_B, np.ndarray)
chunks = list(data.in_order(images, 7))
print(images.class_names, images.labels_B.tolist(), int(np.concatenate(chunks).sum()), images.mean_std())
"""
REFUSED = """
import sys
from eenet import data
try:
    data.load(sys.argv[1], sys.argv[2])
except ValueError as error:
    print(error)
"""


def write(folder: Path, count: int = 20) -> list[str]:
    """Pictures by their names."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((9, 7), 20 + i).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def expected(where: Path, split: str) -> str:
    images = data.load(str(where), split)
    total = int(images.pixels(slice(None)).sum())
    return f"{images.class_names} {images.labels_B.tolist()} {total} {images.mean_std()}\n"


def test_an_image(tmp_path: Path) -> None:
    Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / "a.jpg")
    code = """
import sys, io
import numpy as np
from PIL import Image
from eenet.data import open_image, to_pixels
path = sys.argv[1]
content = open(path, "rb").read()
array = np.asarray(Image.open(path))
for given in (path, content, io.BytesIO(content), open_image(path), array, array / 255):
    pixels = to_pixels(given, (3, 16, 16))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    print(int(pixels.sum()))
"""
    wanted = int(data.to_pixels(tmp_path / "a.jpg", (3, 16, 16)).sum())
    assert run_light(code, str(tmp_path / "a.jpg")).split() == [str(wanted)] * 6


@pytest.mark.parametrize("split", ["validation", "test"])
def test_class_folders(split: str, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("été", "two words"):
            write(tmp_path / part / name)
    assert run_light(LOAD, str(tmp_path), split) == expected(tmp_path, split)


def test_a_table(tmp_path: Path) -> None:
    names = write(tmp_path / "images")
    rows = [f"{name},{'ab'[i % 2]},{'test' if i > 9 else 'train'}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    assert run_light(LOAD, str(tmp_path), "test") == expected(tmp_path, "test")


def test_looking_at_everything(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            write(tmp_path / part / name, 10)
    code = "import sys; from eenet.data import survey; print(survey(sys.argv[1], out=sys.argv[2]))"
    told = run_light(code, str(tmp_path), str(tmp_path / "sheet.png"))
    assert told == f"{data.survey(str(tmp_path), out=tmp_path / 'sheet.png')}\n"


def test_idx_files(tmp_path: Path) -> None:
    for word in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(20, dtype=np.uint8) % 4)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            content = gzip.compress(header + array.tobytes())
            (tmp_path / f"{word}-{kind}-ubyte.gz").write_bytes(content)
    assert run_light(LOAD, str(tmp_path), "test") == expected(tmp_path, "test")


def test_what_is_missing_is_said_in_a_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "folders" / name)
    write(tmp_path / "mat" / "x")
    (tmp_path / "mat" / "test_32x32.mat").write_bytes(b"")
    write(tmp_path / "rows" / "x")
    (tmp_path / "rows" / "train.parquet").write_bytes(b"")
    for where, library in (
        (tmp_path / "folders", "scikit-learn"),
        ("digits", "scikit-learn"),
        (tmp_path / "mat", "scipy"),
        (tmp_path / "rows", "pyarrow"),
        ("owner/name", "datasets"),
    ):
        told = run_light(REFUSED, str(where), "test")
        assert told.endswith(f" needs {library}; pip install 'eenet[train]'\n"), told
        assert told.count("\n") == 1
