"""Pages that are written from the code: every verb's help, and every public name's docstring."""

import os
import re
import subprocess
import sys
from inspect import isfunction
from pathlib import Path

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
PUBLIC = DOCS.parent / "src/eenet/__init__.py"

GROUPS = {
    "verbs": "Every verb of the command line is a function of the same name.",
    "networks": "Early-exit networks: made, run, and cut.",
    "data and runs": "Images to train on, and the settings of a run.",
    "records and policies": "What every exit said about every image, and when an image leaves.",
    "extension": "Parts of your own.",
    "results": "What verbs return. All print as a table and have `to_dict()`.",
}


def write_all() -> None:
    """All generated pages; a file is touched only if its text is another."""
    _write(REFERENCE / "cli.md", _commands())
    for name, names in _groups().items():
        _write(REFERENCE / f"python-{name.replace(' ', '-')}.md", _page(name, names))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def _commands() -> str:
    from eenet.cli import VERBS

    parts = [
        "# Command line",
        "Every verb with its options, as `eenet VERB --help` prints them. "
        "How verbs work together: [tutorials](../tutorials/index.md).",
    ]
    for verb in VERBS:
        parts += [f"## eenet {verb}", f"```text\n{_help(verb)}\n```"]
    parts += ["## Where to go next", "- One example for each task: [commands by task](commands.md)."]
    return "\n\n".join(parts) + "\n"


def _help(verb: str) -> str:
    plain = {**os.environ, "COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb"}
    told = subprocess.run(
        [sys.executable, "-m", "eenet", verb, "--help"], env=plain, capture_output=True, text=True, check=True
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", told.stdout).strip()


def _groups() -> dict[str, list[str]]:
    """The names in `__all__`, by the comments between them."""
    listed = PUBLIC.read_text("utf-8").split("__all__ = [", 1)[1].split("]", 1)[0]
    groups: dict[str, list[str]] = {}
    names: list[str] = []
    for line in map(str.strip, listed.splitlines()):
        if line.startswith("# "):
            names = groups.setdefault(line[2:], [])
        elif line:
            names.append(line.strip('",'))
    return groups


def _page(group: str, names: list[str]) -> str:
    import eenet

    parts = [f"# Python: {group}", GROUPS[group]]
    for name in names:
        value = getattr(eenet, name)
        kind = "class" if isinstance(value, type) else "function" if isfunction(value) else "data"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. auto{kind}:: eenet.{name}\n```")
    parts += ["## Where to go next", "- How they are used together: [eenet in Python](../how-to/python.md)."]
    return "\n\n".join(parts) + "\n"
