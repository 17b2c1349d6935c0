"""Settings of a training run in words of the command line, and in a file."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from eenet.common import write_atomically
from eenet.training.planning.settings import TrainConfig, changed, check_known

RUN_FILE = "run.toml"
_TOLD = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a table",
    list[float]: "a list of numbers",
    list[str]: "a list of names",
}


def parsed(words: Sequence[str], what: str = "--set") -> dict[str, Any]:
    """`key=value` words → values as TOML has them; what isn't TOML is text.

    Raises:
        ValueError: not of that form.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{what} {word!r} is not of the form key=value")
        try:
            found[key.replace("-", "_")] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.replace("-", "_")] = {"True": True, "False": False, "None": None}.get(text, text)
    return found


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from words or a file, as `TrainConfig` takes them.

    Raises:
        ValueError: unknown names, or a value of another type.
    """
    check_known(list(settings))
    kinds, found = get_type_hints(TrainConfig), {}
    for name, value in settings.items():
        if value == "none" and name != "augmentation" and type(None) in get_args(kinds[name]):
            value = None
        if isinstance(value, int) and not isinstance(value, bool) and not _fits(value, kinds[name]):
            value = next((v for v in (str(value), float(value)) if _fits(v, kinds[name])), value)
        if name != "placement" and not _fits(value, kinds[name]):
            raise ValueError(f"{name} is {value!r}; expected {_shown(kinds[name])}")
        found[name] = value
    return found


def read_run(file: str | Path) -> tuple[dict[str, Any], bool]:
    """The settings in a file, and whether they are all of a run, as `write_run` left them.

    Raises:
        FileNotFoundError, ValueError: no such file; it isn't TOML, or holds something else than settings.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no file of settings {file}")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid TOML: {error}") from error
    complete = values.pop("complete", False)
    try:
        found = typed(values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return found, bool(complete)


def write_run(config: TrainConfig, directory: Path) -> None:
    """All settings of a run as `run.toml`, by which `eenet train --config` repeats it."""
    lines = [
        "# The settings of a run: eenet train --config run.toml --out ANOTHER_DIRECTORY",
        "complete = true # what isn't here is as in eenet.TrainConfig",
        "",
    ]
    lines += [f"{name} = {_toml(value)}" for name, value in changed(config).items()]
    write_atomically(directory / RUN_FILE, ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is list:
        each_is = (int, float) if get_args(kind) == (float,) else get_args(kind)
        return isinstance(value, list) and all(type(each) in each_is for each in value)
    return type(value) is (get_origin(kind) or kind)


def _shown(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("none" if each is type(None) else _shown(each) for each in get_args(kind))
    return _TOLD[kind if kind in _TOLD else get_origin(kind)]
