"""A checkpoint directory: its files, the configuration in it, and every check before it is trusted."""

import difflib
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor

from eenet.ensemble import LARGEST
from eenet.policies import ExitPolicy

FORMAT_VERSION = 2
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
SHIPPED = Path(__file__).parent / "pretrained"
PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


@dataclass
class Config:
    """All that a checkpoint says beside its weights. Written to `config.json`."""

    backbone: str | None
    """timm name; none for a network of a user's own class."""
    backbone_args: dict[str, Any]
    exits: list[str]
    """The names of the cuts behind which the early exits sit."""
    head: str
    gate: str
    num_classes: int
    input_size: tuple[int, int, int]
    """Channels, height, width."""
    backbone_macs: int
    stage_macs: list[int]
    head_macs: list[int]
    ensemble: list[list[list[float]]] | None = None
    """How answers are joined with those of exits before, see `eenet.ensemble`; none: they aren't."""
    mean: list[float] | None = None
    std: list[float] | None = None
    class_names: list[str] | None = None
    policy: dict[str, Any] | None = None
    """What is used unless something else is asked for."""
    budgets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Policies for other budgets, such as "0.500"."""
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Policies that a user has named."""
    timings: list[dict[str, Any]] = field(default_factory=list)
    """Measured times of stages and heads, see `eenet.runtime.timing.stage_times`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def exit_policy(self, budget: float | None = None, name: str | None = None) -> ExitPolicy:
        """The policy to run, or the one made for the largest budget that is not above this one, or by name.

        Raises:
            ValueError: there is none for a budget this small, or none of this name; or both are given.
        """
        if name is not None:
            if budget is not None:
                raise ValueError(f"give a budget or the name of a policy, not both ({budget}, {name!r})")
            if name not in self.policies:
                known = f"it has {', '.join(self.policies)}" if self.policies else "it has none with a name"
                raise ValueError(f"the checkpoint has no policy {name!r}: {known}")
            return ExitPolicy.from_dict(self.policies[name], len(self.exits))
        if budget is None:
            return ExitPolicy.from_dict(self.policy, len(self.exits))
        return ExitPolicy.from_dict(self.budgets[self.budget_within(budget)], len(self.exits))

    def budget_within(self, budget: float) -> str:
        """The key of the largest of `budgets` that is not above this one.

        Raises:
            ValueError: there is none this small.
        """
        kept = [key for key in self.budgets if float(key) <= budget + 1e-9]
        if not kept:
            known = f"the smallest is {min(self.budgets, key=float)}" if self.budgets else "it has none"
            raise ValueError(f"the checkpoint has no policy for budget {budget}: {known}")
        return max(kept, key=float)


def shipped_checkpoints() -> list[str]:
    """Names of the trained networks that come with this package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}"))


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
    try:
        allowed = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
        return Path(snapshot_download(str(name), allow_patterns=allowed))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(f"{hint}, and the hub has no such model or can't be reached") from error


def read_config(directory: Path) -> Config:
    """Read and check a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is not JSON, of an unknown version, or a key is missing, unknown or
            holds something else than it should.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {directory} is not a checkpoint")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(values).__name__}")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: 'format_version' is {version!r}; this eenet reads version {FORMAT_VERSION}"
        )
    known = {f.name for f in fields(Config)}
    for key in sorted(known - values.keys()):
        raise ValueError(f"{path}: key {key!r} is missing")
    for key in sorted(values.keys() - known):
        raise ValueError(f"{path}: unknown key {key!r}")
    for key, (wanted, fits) in _CONFIG_CHECKS.items():
        if not fits(values[key], values):
            shown = textwrap.shorten(json.dumps(values[key]), 80, placeholder=" …")
            raise ValueError(f"{path}: {key!r} is {shown}; expected {wanted}")
    if values["policy"] is not None:
        with blaming(path, "'policy'"):
            ExitPolicy.from_dict(values["policy"], len(values["exits"]))
    for key in ("budgets", "policies"):
        for name, policy in values[key].items():
            with blaming(path, f"{key!r}, {name}"):
                ExitPolicy.from_dict(policy, len(values["exits"]))
    values["input_size"] = tuple(values["input_size"])
    return Config(**values)


@contextmanager
def blaming(path: Path, keys: str) -> Iterator[None]:
    """Name file and keys in a mistake found below."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {keys}: {error}") from error


def _list_of(value: Any, kinds: Sequence[type], count: int | None = None) -> bool:
    """Exactly of these types: to Python, `true` is an `int` as well."""
    return isinstance(value, list) and all(type(v) in kinds for v in value) and count in (None, len(value))


def _is_budget(key: str) -> bool:
    return re.fullmatch(r"\d\.\d+", key) is not None


def _macs(value: Any, count: int) -> bool:
    return _list_of(value, [int], count) and all(v >= 0 for v in value)


def _is_ensemble(value: Any, exits: int) -> bool:
    whole = _list_of(value, [list], exits) and all(_list_of(row, [list], k) for k, row in enumerate(value))
    return whole and all(_is_weights(pair) for row in value for pair in row)


def _is_weights(value: Any) -> bool:
    return _list_of(value, [int, float], 2) and all(0 <= v <= LARGEST for v in value)


def _per_channel(value: Any, values: Mapping[str, Any]) -> bool:
    """Numbers that survive in float32, so no NaN either."""
    return _list_of(value, [int, float], values["input_size"][0]) and all(abs(v) < 1e30 for v in value)


# What each key of `config.json` must hold, in an order in which later checks may rely on earlier ones.
_CONFIG_CHECKS: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "backbone": ("a timm name, or null", lambda v, _: v is None or isinstance(v, str)),
    "backbone_args": ("an object", lambda v, _: isinstance(v, dict)),
    "exits": ("a list of cut names", lambda v, _: _list_of(v, [str])),
    "head": ("the name of an exit head", lambda v, _: isinstance(v, str)),
    "gate": ("the name of a gate", lambda v, _: isinstance(v, str)),
    "num_classes": ("a whole number above 0", lambda v, _: type(v) is int and v > 0),
    "input_size": (
        "[channels, height, width], all above 0",
        lambda v, _: _list_of(v, [int], 3) and min(v) > 0,
    ),
    "backbone_macs": ("a whole number above 0", lambda v, _: type(v) is int and v > 0),
    "stage_macs": ("a whole number per stage", lambda v, c: _macs(v, len(c["exits"]) + 1)),
    "head_macs": ("a whole number per early exit", lambda v, c: _macs(v, len(c["exits"]))),
    "ensemble": (
        f"for each exit two numbers from 0 to {LARGEST:g} per exit before it, or null",
        lambda v, c: v is None or _is_ensemble(v, len(c["exits"]) + 1),
    ),
    "mean": ("a number per channel", lambda v, c: _per_channel(v, c) or v is c["std"] is None),
    "std": (
        "a number above 0 per channel",
        lambda v, c: (_per_channel(v, c) and min(v) > 0) or v is c["mean"] is None,
    ),
    "class_names": (
        "a name per class, or null",
        lambda v, c: v is None or _list_of(v, [str], c["num_classes"]),
    ),
    "budgets": (
        "an object of objects with budgets as keys",
        lambda v, _: isinstance(v, dict) and all(_is_budget(k) and isinstance(p, dict) for k, p in v.items()),
    ),
    "policies": (
        "an object of objects",
        lambda v, _: isinstance(v, dict) and all(isinstance(p, dict) for p in v.values()),
    ),
    "policy": ("an object, or null", lambda v, _: v is None or isinstance(v, dict)),
    "timings": ("a list of objects", lambda v, _: _list_of(v, [dict])),
    "provenance": ("an object", lambda v, _: isinstance(v, dict)),
}


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Nothing is ever unpickled.

    Raises:
        FileNotFoundError: `model.safetensors` is missing.
        ValueError: it is damaged.
    """
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_why_no_weights(directory)}")
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def check_weights(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Whether tensors fit a network and are finite, else a `ValueError` that names the first that doesn't."""
    for key in sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{path}: tensor {key!r} is missing")
    for key in sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path}: unknown tensor {key!r}")
    for key, tensor in found.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{path}: tensor {key!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[key].shape)}"
            )
        if tensor.is_floating_point() != wanted[key].is_floating_point():
            raise ValueError(f"{path}: tensor {key!r} is {tensor.dtype}, expected {wanted[key].dtype}")
        if not tensor.to(wanted[key].dtype).isfinite().all():
            raise ValueError(f"{path}: tensor {key!r} holds NaN or infinity")


def _why_no_weights(directory: Path) -> str:
    files = [path.name for path in sorted(directory.iterdir()) if path.suffix in PICKLE_SUFFIXES]
    pickled = [name for name in files if name != "training_state.pt"]
    if not pickled:
        return f"{directory} is not a complete checkpoint"
    return (
        f"{pickled[0]} is pickled, and is not loaded because unpickling can run any code; if you trust it, "
        f"convert it: safetensors.torch.save_file(torch.load({pickled[0]!r}, weights_only=True), "
        f"{WEIGHTS_FILE!r})"
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that a file is never half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"can't write {path}: {error.strerror or error}") from error
