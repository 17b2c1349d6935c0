"""The README and the layout keep their word."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eenet.cli import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ORDER = [
    "console", "cost", "backbones", "tracing", "stages", "placement", "gates", "heads", "ensemble",
    "policies", "checkpoint", "network", "objectives", "images", "image_sets", "corruptions", "loading",
    "readers", "data", "records", "evaluation", "diagnostics", "shift", "monitor", "calibration", "risk",
    "training_state", "training", "recipes", "runtime", "quantize", "formats", "export", "report",
    "tables", "pipeline", "sweep", "thresholds", "verbs", "serving", "cli",
]  # fmt: skip


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


@pytest.mark.parametrize("path", sorted((ROOT / "src/eenet").rglob("*.py")), ids=lambda p: p.name)
def test_imports_go_one_way(path: Path) -> None:
    """A module imports only from those before it in `ORDER`; within runtime/ anything goes."""
    parts = path.relative_to(ROOT / "src/eenet").with_suffix("").parts
    if parts[-1] in ("__init__", "__main__"):
        return
    own = ORDER.index(parts[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "eenet":
            below = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            for name in below:
                assert ORDER.index(name) < own or name == parts[0], f"{path.name} imports {name}"
