"""Runs code as the light installation would: with everything that only training needs out of reach."""

import os
import subprocess
import sys
from pathlib import Path

HEAVY = (
    "torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub", "datasets", "pyarrow",
    "pandas", "sklearn", "scipy", "plotly", "optuna",
)  # fmt: skip
BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_light(code: str, *words: str, lacking: tuple[str, ...] = HEAVY) -> str:
    """What code prints in a process that can't import these libraries; `words` are its `sys.argv[1:]`.

    Raises:
        AssertionError: it fails; what it said is in the message.
    """
    command = [sys.executable, "-c", BLOCK.format(names=lacking) + code, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
