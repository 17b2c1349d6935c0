"""Imports that wait: names on first use, and libraries that the light installation lacks."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose `__init__` imports under `if TYPE_CHECKING:`.

    Those imports are the one list of its names: type checkers read them, and so does this, from the source.

    Args:
        package: `__name__` of the package.
    """
    homes = _homes(package)

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__


DISTRIBUTIONS = {"sklearn": "scikit-learn", "torch_pruning": "torch-pruning"}
"""What to install, where it is called otherwise than what is imported."""


def require(module: str, purpose: str, extra: str = "train") -> Any:
    """A module of a library that may not be installed.

    >>> require("json", "an example").dumps([1])
    '[1]'

    Args:
        module: as it is imported, such as `sklearn.datasets`.
        purpose: what it is needed for, as the beginning of a sentence.
        extra: of eenet, that brings it.

    Raises:
        ValueError: it isn't installed; the message says what to install.
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        name = DISTRIBUTIONS.get(library, library)
        raise ValueError(f"{purpose} needs {name}; pip install 'eenet[{extra}]'") from error


def _homes(package: str) -> dict[str, str]:
    """The module of each name that the package's source imports under `if TYPE_CHECKING:`."""
    spec = sys.modules[package].__spec__ or find_spec(package)
    loader: Any = spec.loader if spec else None
    source = loader.get_source(package)
    assert source is not None, f"{package} is read from its source"
    blocks = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
