"""Names of a package that are imported on first use: torch and timm take seconds, and much needs neither."""

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
