"""The README and the layout keep their word."""

import re
import subprocess
import sys
from pathlib import Path

from eenet.cli import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example_runs(tmp_path: Path) -> None:
    for code in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_shell_commands_exist() -> None:
    """`make demo` and `make test` are run by hand and by CI; the eenet commands must parse."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in "".join(blocks("bash")).splitlines():
        if line.startswith("make "):
            assert line.split()[1] in targets
        elif "eenet " in line:
            verb = line.split("eenet ")[1].split()[0]
            assert verb in VERBS


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 45
