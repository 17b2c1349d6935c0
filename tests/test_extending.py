"""The page on parts of one's own, executed: every example, every command, and the entry point."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eenet import data

PAGE = (Path(__file__).parents[1] / "docs/how-to/extend.md").read_text()
PARTS = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).splitlines()


def eenet(directory: Path, *words: str, plugin: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path[:0] = sys.argv.pop(1).split(); from eenet.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, str(plugin or ""), *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the commands of the page were run."""
    home = tmp_path_factory.mktemp("extending")
    (home / "my_parts.py").write_text(PARTS)
    for command in COMMANDS:
        done = eenet(home, *command.split()[1:])
        assert done.returncode == 0, f"{command}: {done.stderr}"
    pixels = data.load("digits", "test").pixels(list(range(40)))
    (home / "images").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(np.asarray(image[0])).save(home / "images" / f"{i:02}.png")
    return home


@pytest.mark.parametrize("policy", ["by-energy", "by-agreement"])
def test_predict_uses_own_policies_on_every_backend(home: Path, policy: str) -> None:
    words = ["predict", "mine", "images", "--policy", policy, "--json", "--import=my_parts"]
    answers = [eenet(home, *words, "--backend", backend) for backend in ("torch", "onnxruntime")]
    assert [a.returncode for a in answers] == [0, 0], answers[-1].stderr
    exits = [re.findall(r'"exit": (\d)', answer.stdout) for answer in answers]
    assert exits[0] == exits[1]
    assert len(set(exits[0])) > 1


def test_a_checkpoint_names_what_it_needs(home: Path) -> None:
    done = eenet(home, "predict", "mine", "images")
    assert done.returncode == 2
    assert "--import my_parts" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_score_that_looks_back_is_not_exported(home: Path) -> None:
    words = ["export", "mine", "--out", "files", "--import", "my_parts", "--policy"]
    done = eenet(home, *words, "by-agreement")
    assert done.returncode == 2
    assert "looks back" in done.stderr
    assert eenet(home, *words, "by-energy").returncode == 0


def test_an_installed_plugin_is_found_by_itself(home: Path, tmp_path: Path) -> None:
    about = tmp_path / "my_parts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[eenet.plugins]\nmy_parts = my_parts\n")
    (tmp_path / "my_parts.py").write_text(PARTS)
    done = eenet(home, "predict", "mine", "images", plugin=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "my_parts.py").write_text("raise RuntimeError('broken')")
    done = eenet(home, "predict", "mine", "images", plugin=tmp_path)
    assert done.returncode == 2
    assert "the plugin my_parts (my_parts) can't be loaded: broken" in done.stderr
