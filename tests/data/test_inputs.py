"""What users name on the command line: files, folders with folders in them, globs."""

from pathlib import Path

import pytest

from eenet.data import find_images

FILES = ["a.png", "z.JPG", "sub/b.jpeg", "sub/deep/c.webp", "sub/1.tif", "other/d.bmp"]
LITTER = [
    "._a.png", ".hidden.png", "__MACOSX/a.png", "__MACOSX/._a.png", "sub/.ipynb_checkpoints/b-checkpoint.png",
    "sub/@eaDir/b.jpeg", "lost+found/x.png", "$RECYCLE.BIN/y.png", "Thumbs.db", "sub/desktop.ini",
    ".DS_Store", "notes.txt", "labels.csv",
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*FILES, *LITTER, "empty/notes.txt", ".cache/e.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ["a.png", "z.JPG", "other/d.bmp", "sub/1.tif", "sub/b.jpeg", "sub/deep/c.webp"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["."], ALL),
        (["sub"], ALL[3:]),
        (["sub", "a.png", "a.png"], [*ALL[3:], "a.png", "a.png"]),
        (["*"], ["a.png", "other/d.bmp", *ALL[3:], "z.JPG"]),
        (["**/*.jp*"], ["sub/b.jpeg"]),
        (["**"], ["a.png", "other/d.bmp", "sub/1.tif", "sub/b.jpeg", "sub/deep/c.webp", "z.JPG"]),
        (["**/*.png"], ["a.png"]),
        (["sub/*"], ["sub/1.tif", "sub/b.jpeg", "sub/deep/c.webp"]),
        (["*.txt"], ["notes.txt"]),
        ([".cache/*"], [".cache/e.png"]),
        ([".cache"], [".cache/e.png"]),
        (["._a.png", "missing.png"], ["._a.png", "missing.png"]),
    ],
)
def test_what_is_meant(given: list[str], expected: list[str], photos: Path) -> None:
    found = [file.as_posix() for file in find_images(given)]
    assert sorted(found) == sorted(expected)
    assert find_images([photos / name for name in given]) == [photos / name for name in found]


def test_folders_are_in_order(photos: Path) -> None:
    assert [str(file) for file in find_images(["."])] == ALL
    (photos / "sub" / "around").symlink_to(photos)
    assert [str(file) for file in find_images(["."])] == ALL


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "give at least one image file"),
        (["empty"], FileNotFoundError, "no image in the directory empty, nor below it"),
        (["*.gif"], FileNotFoundError, r"no file matches \*.gif"),
        (["__MAC*/*"], FileNotFoundError, "no file matches"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_refusals(given: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_images(given)


def test_a_name_with_brackets(photos: Path) -> None:
    (photos / "a [1].png").touch()
    assert find_images(["a [1].png"]) == [Path("a [1].png")]
