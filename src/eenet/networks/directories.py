"""Where a checkpoint is, and what its files are called."""

import difflib
import json
from pathlib import Path
from typing import Any

from eenet.common import require

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
GRAPH_FILE = "graph.onnx"
"""The network as ONNX Runtime and OpenVINO take it; its weights stay in `WEIGHTS_FILE`."""
SHIPPED = Path(__file__).parents[1] / "pretrained"


def shipped_checkpoints() -> list[str]:
    """Names of the trained networks that come with this package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}"))


def about_shipped(name: str) -> str:
    """What a shipped network is, in a line."""
    config = json.loads((SHIPPED / name / CONFIG_FILE).read_text())
    data = config["provenance"]["train_config"]["data"]
    return f"{config['backbone']} with {len(config['exits'])} early exits, trained on {data}"


def checkpoint_directory(name: str | Path) -> Path:
    """The local directory of a checkpoint: a directory, a shipped name, or the id of a model on the hub.

    Raises:
        FileNotFoundError: none of these.
    """
    directory = Path(name)
    if directory.is_dir():
        return directory
    if str(name) in (shipped := shipped_checkpoints()):
        return SHIPPED / name
    if directory.exists():
        raise FileNotFoundError(f"{name} is a file; a checkpoint is a directory with {CONFIG_FILE}")
    hint = f"no checkpoint directory {name}"
    if near := difflib.get_close_matches(str(name), shipped, n=3):
        raise FileNotFoundError(f"{hint}; did you mean {', '.join(near)}?")
    if len(directory.parts) != 2 or directory.is_absolute() or str(name).startswith("."):
        raise FileNotFoundError(
            f"{hint}; make one with `eenet train`, or give a hub id (owner/name), or one of "
            f"{', '.join(shipped)}"
        )
    hub: Any = require("huggingface_hub", "a network of the hub")  # takes half a second to import
    errors: Any = require("huggingface_hub.errors", "a network of the hub")

    try:
        allowed = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, GRAPH_FILE]
        return Path(hub.snapshot_download(str(name), allow_patterns=allowed))
    except (OSError, errors.HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(f"{hint}, and the hub has no such model or can't be reached") from error
