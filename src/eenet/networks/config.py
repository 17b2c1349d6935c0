"""What a checkpoint says beside its weights, and every check before that is trusted."""

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eenet.common import blaming, write_atomically
from eenet.networks.directories import CONFIG_FILE
from eenet.policies import LARGEST, ExitPolicy, relative_costs
from eenet.tasks import TASKS, refuse, task_of

FORMAT_VERSION = 3
READABLE = (2, 3)
NOT_IN_A_CASCADE = {
    "pruning": "prune its networks, and join them",
    "starting from a trained checkpoint": "train its networks, and join them",
    **dict.fromkeys(("batch", "serving by stage", "format aoti", "format executorch"), ""),
    "backend torch-compile": "choose another one",
    "a cascade": "give the networks that it is made of",
}
"""Verbs and options that a cascade has not got, and what to do instead."""


@dataclass
class Config:
    """All that a checkpoint says beside its weights. Written to `config.json`."""

    backbone: str | None
    """timm name, `torchvision:NAME` or `factory:package.module:function`; none for a network that has no
    name."""
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
    """How answers are joined with those of exits before, see `eenet.policies.ensemble`; none: they aren't."""
    mean: list[float] | None = None
    std: list[float] | None = None
    class_names: list[str] | None = None
    backbone_widths: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Layers of a pruned backbone that are narrower than its name says, see `eenet.backbones.set_widths`."""
    head_widths: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same for exit heads; names begin with the number of the exit."""
    policy: dict[str, Any] | None = None
    """What is used unless something else is asked for."""
    budgets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Policies for other budgets, such as "0.500"."""
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Policies that a user has named."""
    timings: list[dict[str, Any]] = field(default_factory=list)
    """Measured times of stages and heads, see `eenet.runtime.stage_times`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    proved_with: dict[str, str] = field(default_factory=dict)
    """Versions of torch and timm with which the division was proved exact."""
    plugins: list[str] = field(default_factory=list)
    """Modules of users' own heads, gates, backbones and scores that the network needs."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the graph, if there is one beside the weights, and of the files that hold its weights."""
    task: str = "classification"
    """What the exits answer, see `eenet.tasks`."""
    task_settings: dict[str, Any] = field(default_factory=dict)
    """Of the task, such as the width of a decoder."""
    parts: "list[Config]" = field(default_factory=list)
    """Of a cascade: the configurations of its networks as they were, see `eenet.networks.cascading`."""
    format_version: int = FORMAT_VERSION

    @property
    def named_classes(self) -> list[str]:
        """The names of the classes, or their numbers where nobody named them."""
        return self.class_names or [str(n) for n in range(self.num_classes)]

    @property
    def has_state(self) -> bool:
        """Whether something is carried from stage to stage beside the features."""
        return bool(self.parts) or len(task_of(self.task).carried) > 1

    def must_support(self, verb: str) -> None:
        """Refuse a verb that this kind of network has none of.

        Raises:
            ValueError: it hasn't.
        """
        task_of(self.task).must_support(verb)
        if self.parts:
            refuse(verb, NOT_IN_A_CASCADE, "a cascade")

    def started_at(self, stage: int) -> int:
        """The first stage of the network that a stage belongs to: 0 but in a cascade."""
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + len(part.stage_macs))
        return max((start for start in starts if start <= stage), default=0)

    @property
    def effort(self) -> tuple[int, float]:
        """Epochs and seconds of training in all, with those of the network whose weights it began with."""
        if self.parts:
            spent = [part.effort for part in self.parts]
            return sum(epochs for epochs, _ in spent), sum(seconds for _, seconds in spent)
        made = self.provenance
        parts = (made.get("before", {}), {**made, **made.get("train_config", {})})
        epochs, seconds = ([part.get(key, 0) for part in parts] for key in ("epochs", "train_seconds"))
        return sum(epochs), sum(seconds)

    def exit_policy(self, budget: float | None = None, name: ExitPolicy | str | None = None) -> ExitPolicy:
        """The policy to run, or the one made for the largest budget that is not above this one, or by name.

        A policy itself, as the verbs also take, stays as it is.

        Raises:
            ValueError: there is none for a budget this small, or none of this name; or both are given.
        """
        if isinstance(name, ExitPolicy):
            return name
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

    def costs(self, enabled: Sequence[bool] | None = None) -> list[float]:
        """Relative cost of leaving at each exit when only the `enabled` early exits are on. Default: all."""
        return relative_costs(self.stage_macs, self.head_macs, self.backbone_macs, enabled)

    def normalization(self, name: str = "the network") -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training images, by channel, on a scale of 0 to 1.

        Raises:
            ValueError: the network, called `name` in the message, has none.
        """
        if self.mean is None or self.std is None:
            raise ValueError(f"{name} has no mean and std in its config, so images can't be normalised")
        return self.mean, self.std

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


def _is_weights(value: Any) -> bool:
    return _list_of(value, [int, float], 2) and all(0 <= v <= LARGEST for v in value)


def _per_channel(value: Any, values: Mapping[str, Any]) -> bool:
    """Numbers that survive in float32, so no NaN either."""
    return _list_of(value, [int, float], values["input_size"][0]) and all(abs(v) < 1e30 for v in value)


# What each key of `config.json` must hold, in an order in which later checks may rely on earlier ones.
_CONFIG_CHECKS: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "task": (f"one of {', '.join(TASKS)}", lambda v, _: isinstance(v, str) and v in TASKS),
    "task_settings": ("an object", lambda v, _: isinstance(v, dict)),
    "backbone": ("the name of a backbone, or null", lambda v, _: v is None or isinstance(v, str)),
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
    "backbone_widths": ("an object of layers and their widths", lambda v, _: _is_widths(v)),
    "head_widths": ("an object of layers and their widths", lambda v, _: _is_widths(v)),
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
    "proved_with": (
        "an object of versions",
        lambda v, _: isinstance(v, dict) and all(isinstance(each, str) for each in v.values()),
    ),
    "plugins": ("a list of modules", lambda v, _: _list_of(v, [str])),
    "hashes": (
        "an object of SHA-256 sums by file",
        lambda v, _: isinstance(v, dict) and all(isinstance(each, str) for each in v.values()),
    ),
    "provenance": ("an object", lambda v, _: isinstance(v, dict)),
    "parts": ("a list of two objects or more, or of none", lambda v, _: _is_parts(v)),
}


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
    return _checked(values, path)


def _checked(values: dict[str, Any], path: Path | str) -> Config:
    """A configuration from what `path` holds."""
    version = values.get("format_version")
    if version not in READABLE:
        raise ValueError(
            f"{path}: 'format_version' is {version!r}; this eenet reads version "
            f"{' and '.join(map(str, READABLE))}"
        )
    if version == 2:
        values = {"proved_with": {}, "plugins": [], "hashes": {}, **values}
    values = {"task": "classification", "task_settings": {}, **values}
    values = {"backbone_widths": {}, "head_widths": {}, "parts": [], **values}
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
        with blaming(path, "'policy'"), asking_for(values["plugins"]):
            ExitPolicy.from_dict(values["policy"], len(values["exits"]))
    for key in ("budgets", "policies"):
        for name, policy in values[key].items():
            with blaming(path, f"{key!r}, {name}"), asking_for(values["plugins"]):
                ExitPolicy.from_dict(policy, len(values["exits"]))
    values["input_size"] = tuple(values["input_size"])
    values["parts"] = [_checked(part, f"{path}: 'parts', {i}") for i, part in enumerate(values["parts"])]
    return Config(**values)


def write_config(config: Config, directory: Path) -> None:
    """Write `config.json`."""
    write_atomically(directory / CONFIG_FILE, (json.dumps(asdict(config), indent=2) + "\n").encode())


def _list_of(value: Any, kinds: Sequence[type], count: int | None = None) -> bool:
    """Exactly of these types: to Python, `true` is an `int` as well."""
    return isinstance(value, list) and all(type(v) in kinds for v in value) and count in (None, len(value))


def _is_budget(key: str) -> bool:
    return re.fullmatch(r"\d\.\d+", key) is not None


def _macs(value: Any, count: int) -> bool:
    return _list_of(value, [int], count) and all(v >= 0 for v in value)


def _is_widths(value: Any) -> bool:
    """Layers, of each some sizes: whole numbers above 0, or lists of these."""
    if not isinstance(value, dict) or not all(isinstance(each, dict) and each for each in value.values()):
        return False
    given = [size for layer in value.values() for size in layer.values()]
    sizes = [size if isinstance(size, list) else [size] for size in given]
    return all(_list_of(size, [int]) and size and min(size) > 0 for size in sizes)


def _is_ensemble(value: Any, exits: int) -> bool:
    whole = _list_of(value, [list], exits) and all(_list_of(row, [list], k) for k, row in enumerate(value))
    return whole and all(_is_weights(pair) for row in value for pair in row)


def _is_parts(value: Any) -> bool:
    """None, or networks of a cascade, none of which is one itself."""
    return _list_of(value, [dict]) and len(value) != 1 and not any(part.get("parts") for part in value)


def versions() -> dict[str, str]:
    """Of what a division depends on."""
    return {name: version(name) for name in ("torch", "timm")}


@contextmanager
def asking_for(plugins: Sequence[str]) -> Iterator[None]:
    """Say where a user's own parts came from, if they can't be found."""
    try:
        yield
    except ValueError as error:
        missing = [module for module in plugins if module not in sys.modules]
        if not missing:
            raise
        words = " ".join(f"--import {module}" for module in missing)
        raise ValueError(f"{error}; it was made with {', '.join(missing)}: add {words}") from error
