"""What the API reference is made from: every parameter and every error is told, and examples run."""

import ast
import doctest
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import eenet

SOURCE = Path(__file__).parents[1] / "src"
EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text("utf-8"))


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, and every public method written by us."""
    for name in eenet.__all__:
        value = getattr(eenet, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                function = getattr(member, "__func__", member)
                ours = inspect.isfunction(function) and Path(function.__code__.co_filename).exists()
                if ours and (key == "__init__" or not key.startswith("_")):
                    yield f"{name}.{key}", function


PUBLIC = dict(public())


def raised(function: Callable[..., Any]) -> set[str]:
    """Kinds of errors that a function raises itself, or by a function of its module that it calls."""
    called = {node.func.id for node in nodes(function, ast.Call) if isinstance(node.func, ast.Name)}
    near = [function.__globals__.get(name) for name in called]
    ours = [each for each in near if inspect.isfunction(each) and each.__module__ == function.__module__]
    errors = [node.exc for each in [function, *ours] for node in nodes(each, ast.Raise)]
    names = {ast.unparse(error.func) for error in errors if isinstance(error, ast.Call)}
    return names & {"ValueError", "FileNotFoundError", "FileExistsError"}


def nodes(function: Callable[..., Any], kind: type[Any]) -> Iterator[Any]:
    """The nodes of one kind in a function's source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return (node for node in ast.walk(tree) if isinstance(node, kind))


@pytest.mark.parametrize("name", PUBLIC)
def test_parameters_and_errors_are_told(name: str) -> None:
    told = inspect.getdoc(PUBLIC[name]) or ""
    assert re.search(r"[.:)]$", told.partition("\n\n")[0]), "begins with a sentence"
    parameters = [each for each in inspect.signature(PUBLIC[name]).parameters if each not in ("self", "cls")]
    described = told.partition("Args:")[2].partition("\n\n")[0]
    unsaid = [each for each in parameters if not re.search(rf"\b{each}\b.*:", described)]
    assert not unsaid or (len(parameters) == 1 and f"`{unsaid[0]}`" in told), (
        "a single one may stand in a sentence"
    )
    errors = told.partition("Raises:")[2].partition("\n\n")[0]
    assert not [each for each in raised(PUBLIC[name]) if each not in errors]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path: Path) -> None:
    words = path.relative_to(SOURCE).with_suffix("").parts
    module = import_module(".".join(word for word in words if word != "__init__"))
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed
