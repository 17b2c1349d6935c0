"""One way to add a head, a score, an objective, a policy or a backbone of your own, found by every verb."""

import difflib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

GROUP = "eenet.plugins"
Value = TypeVar("Value", bound=Callable[..., Any])
Added = TypeVar("Added", bound=Callable[..., Any])
_REGISTRIES: dict[str, "Registry[Any]"] = {}
_loaded: list[str] = []


class Registry(Generic[Value]):
    """Functions of one kind by name. A name that isn't there is looked for in installed plugins first."""

    def __init__(self, kind: str, noun: str) -> None:
        """`kind`: as `register` is given it; `noun`: as messages call it."""
        self.kind, self.noun = kind, noun
        self._values: dict[str, Value] = {}
        self._marks: dict[str, dict[str, Any]] = {}
        _REGISTRIES[kind] = self

    def add(self, name: str | None = None, **marks: Any) -> Callable[[Added], Added]:
        """A decorator that adds a function, by its own name unless another is given.

        Args:
            name: must be free, or belong to the function of the same name in the same module.
            marks: what is to be known of it, see `mark`.
        """

        def decorate(value: Added) -> Added:
            known = name or value.__name__
            before = self._values.get(known)
            if before is not None and _origin(before) != _origin(value):
                raise ValueError(f"{self.noun} {known!r} is taken by {before.__module__}")
            function: Any = value
            self._values[known], self._marks[known] = function, marks
            return value

        return decorate

    def mark(self, name: str, mark: str) -> bool:
        """Whether a function was added with this mark."""
        self[name]
        return bool(self._marks[name].get(mark, False))

    def origin(self, name: str) -> str | None:
        """The module of a user's own function; none for one of eenet's, or an unknown name."""
        value = self._values.get(name)
        module = value.__module__ if value is not None else "eenet"
        return None if module.partition(".")[0] in ("eenet", "__main__") else module

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            load_plugins()
        if name in self._values:
            return self._values[name]
        near = difflib.get_close_matches(name, self._values, n=3)
        raise ValueError(
            f"unknown {self.noun} {name!r}; choose from {', '.join(near or self._values)} "
            "(one of your own: --import its module, see docs/how-to/extend.md)"
        )

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            load_plugins()
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def register(kind: str, name: str | None = None, **marks: Any) -> Callable[[Added], Added]:
    """A decorator that makes a function of your own known by a name, in every verb and every setting.

    >>> import eenet
    >>> from torch import nn
    >>> @eenet.register("head")
    ... def narrow(size):  # used with head="narrow"
    ...     return nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), size[0] * (size[1] // 2) * (size[2] // 2)

    Args:
        kind: `head`: feature size (C, H, W) → (trunk, its width), see `eenet.tasks.classification.heads`;
            `score`: (logits_KBN, confidence_logits_KB) of the exits so far → score_B, see
            `eenet.policies.scores`; `objective`: (outputs, targets_B, costs_K) → loss, see
            `eenet.training.objectives`; `policy`: (records, budget) → `ExitPolicy`;
            `backbone`: (keyword arguments) → `nn.Module` that maps images to logits.
        name: by which it is found. Default: the function's own.
        marks: `looks_back=True` for a score that needs the exits before, `arrays=True` for one that takes
            numpy's arrays as well as tensors; `trains_confidence=True` for an objective that trains the
            gates itself, `evens_gradients=True` for one with which each stage learns from the mean of
            the losses behind it, not from their sum.

    Raises:
        ValueError: unknown kind, or the name is taken.
    """
    for module in (
        "tasks.classification.heads",
        "policies.scores",
        "policies.budget",
        "training.objectives",
        "backbones.names",
    ):
        import_module(f"eenet.{module}")  # where the registries are
    if kind not in _REGISTRIES:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(_REGISTRIES)}")
    return _REGISTRIES[kind].add(name, **marks)


def load_plugins() -> None:
    """Import what installed packages announce as entry points `eenet.plugins`; once."""
    if GROUP in _loaded:
        return
    _loaded.append(GROUP)
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # whatever the plugin's own code raises
            raise ValueError(f"the plugin {point.name} ({point.value}) can't be loaded: {error}") from error


def import_plugin(module: str) -> ModuleType:
    """Import a module of a user's own, also from the directory one is in.

    Raises:
        ValueError: there is no such module, or it fails.
    """
    if "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(module)
    except Exception as error:  # whatever the plugin's own code raises
        raise ValueError(f"can't import {module!r}: {error}") from error


def _origin(value: Callable[..., Any]) -> tuple[str, str]:
    return value.__module__, value.__qualname__
