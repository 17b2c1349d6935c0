"""The house keeps its order: imports go one way, through front doors, and files stay small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eenet

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/eenet"
ORDER = [
    "common", "data", "backbones", "policies", "tasks", "networks", "runtime", "evaluation", "exporting",
    "compress", "training", "optimizing", "serving", "scale", "cli",
]  # fmt: skip
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
LONGEST, MOST_FILES = 350, 8


def name_of(path: Path) -> str:
    return ".".join(("eenet", *path.relative_to(SOURCE).with_suffix("").parts))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Modules of eenet that a file imports from, anywhere in it, and the names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "eenet":
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.split(".")[0] == "eenet")


def front_door(package: str) -> set[str]:
    tree = ast.parse((SOURCE / package / "__init__.py").read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in found for alias in node.names}


def test_nothing_lies_beside_the_packages() -> None:
    found = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert found == {"__init__.py", "__main__.py", "py.typed", "assets", "pretrained", *ORDER}


@pytest.mark.parametrize(
    "package",
    [
        *ORDER,
        "backbones/given",
        "data/boxes",
        "data/masks",
        "data/paired",
        "data/readers",
        "runtime/backends",
        "runtime/graphs",
        "scale/bulk",
        "serving/protocol",
        "tasks/classification",
        "tasks/detection",
        "tasks/segmentation",
        "training/planning",
    ],
)
def test_a_package_is_a_handful_of_files_that_tests_mirror(package: str) -> None:
    files = [path for path in (SOURCE / package).glob("*.py") if path.name != "__init__.py"]
    assert 3 <= len(files) <= MOST_FILES
    assert (ROOT / "tests" / package.split("/")[0]).is_dir()
    names = front_door(package)
    assert not names & {path.stem for path in files}, "a module would hide the name"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way_through_front_doors(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0]
    for module, names in imports(path):
        parts = module.split(".")
        everything = [] if own == "cli" else ["everything"]  # only the command line may `import eenet`
        below = parts[1:2] or names or everything
        for package in below:
            if package == own:
                continue
            assert package in ORDER, f"{name_of(path)} imports {package}"
            assert ORDER.index(package) < ORDER.index(own), f"{name_of(path)} imports {package}"
            if len(parts) > 1:
                assert len(parts) == 2, f"{name_of(path)} goes into {package} by the window"
                assert set(names) <= front_door(package)


def test_no_module_imports_itself_through_others() -> None:
    """Within packages too; imports inside functions don't count, they are there to be late."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        found = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        graph[name_of(path)] = {module for module in found if module.startswith("eenet.")}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"{' → '.join([*above, module])}"
        if module not in done:
            for below in sorted(graph.get(module, ())):
                visit(below, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_short_and_say_what_they_own(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text))


def test_the_public_page_is_complete() -> None:
    assert sorted(eenet.__all__) == sorted(set(eenet.__all__))
    for name in eenet.__all__:
        assert getattr(eenet, name).__doc__
    verbs = ["train", "evaluate", "predict", "calibrate", "bench", "export", "report", "sweep"]
    verbs += ["optimize", "cascade", "serve", "info", "batch"]
    assert set(verbs) <= set(eenet.__all__)
    assert eenet.__doc__
    assert all(verb in eenet.__doc__ for verb in verbs)
    assert set(eenet.__all__) <= set(dir(eenet))


@pytest.mark.parametrize("words", ["--help", "--version", "list", "train --help"])
def test_what_needs_no_torch_imports_none(words: str) -> None:
    code = (
        "import sys; from eenet.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'timm', 'torchvision'} & {name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy = done.stdout.splitlines()[-1]
    assert heavy == "[]"
