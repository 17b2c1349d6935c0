"""Runs code as the light installation would: with everything that only training needs out of reach."""

import os
import subprocess
import sys
from pathlib import Path

HEAVY = (
    "torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub", "datasets", "pyarrow",
    "pandas", "sklearn", "scipy", "plotly", "optuna", "onnx", "onnxscript", "onnx_ir", "ml_dtypes",
    "openvino",
)  # fmt: skip
BLOCK = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
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
