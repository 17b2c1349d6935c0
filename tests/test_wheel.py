"""The wheel: what is in it, and that it works on its own, installed and far from the source tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, run without what this process has on its path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the source tree stays clean."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "src", place / "source/src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(place)]
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=place / "source")
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of commands of a fresh environment that holds the wheel, and sees our dependencies."""
    place = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(place, symlinks=True)
    paths = {"base": str(place), "platbase": str(place)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--prefix", str(place)]
    run(sys.executable, "-m", "pip", "install", "--ignore-installed", *options, wheel, cwd=place)
    # A plain line is a directory to search, after the wheel's; our own .pth files are not read from there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Path(sysconfig.get_path("scripts", "venv", vars=paths))


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src/eenet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "eenet/py.typed" in source
    assert {name for name in names if ".dist-info/" not in name} == source
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in described
    assert "Requires-Dist: torch>=" in described


def test_it_works_from_anywhere(installed: Path, tmp_path: Path) -> None:
    code = "import json, eenet; print(json.dumps([eenet.__file__, eenet.__all__]))"
    file, names = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert Path(file).is_relative_to(installed.parent)
    assert "create_model" in names
    assert run(installed / "eenet", "--version", cwd=tmp_path).startswith("eenet ")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (row,) = json.loads(
        run(installed / "eenet", "predict", "digits-eenet8", "black.png", "--json", cwd=tmp_path)
    )
    assert row["label"] in map(str, range(10))
    out = tmp_path / "out"
    demo = ["train", "digits", "--epochs", "1", "--out", str(out), "--json"]
    trained = json.loads(run(installed / "eenet", *demo, cwd=tmp_path))
    assert trained["num_examples"] == 360
    assert (out / "model.safetensors").exists()
    assert (out / "report.html").exists()
