"""The command line: parse, call one function, print; mistakes in one line."""

import contextlib
import difflib
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import tyro

from eenet.cli.measuring import bench, evaluate, report
from eenet.cli.training import calibrate, sweep, train
from eenet.cli.using import export, info, list_names, predict, serve
from eenet.common import import_plugin

ABOUT = (
    "Early-exit convolutional networks: train, measure and use them. With --import MODULE, every verb knows "
    "the heads, scores, objectives, policies and backbones that a module of your own registers."
)
VERBS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "calibrate": calibrate,
    "bench": bench,
    "export": export,
    "sweep": sweep,
    "report": report,
    "serve": serve,
    "info": info,
    "list": list_names,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake prints one line and returns 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"eenet {version('eenet')}")
        return 0
    try:
        for module in _taken(arguments, "--import"):
            import_plugin(module)
        code = _parse_and_run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"eenet: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"eenet: interrupted; {stopped}".rstrip("; "), file=sys.stderr)
        return 130


def _taken(arguments: list[str], flag: str) -> list[str]:
    """The values of a flag that every verb has, taken out of the arguments."""
    values = []
    while (at := next((i for i, a in enumerate(arguments) if a.split("=")[0] == flag), None)) is not None:
        word = arguments.pop(at)
        if "=" not in word and at == len(arguments):
            raise ValueError(f"{flag} needs the name of a module")
        values.append(word.partition("=")[2] if "=" in word else arguments.pop(at))
    return values


def _parse_and_run(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(VERBS)}"
        raise ValueError(f"unknown verb {arguments[0]!r}; {hint}")
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            action = tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(verb) for name, verb in VERBS.items()},
                prog="eenet",
                description=ABOUT,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:  # --help, or a box with the mistake
        if stop.code:
            raise ValueError(_unboxed(boxed.getvalue())) from None
        return 0
    return action()


def _deferred(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """tyro calls what it has parsed; run it later, when its mistakes are no longer parsing mistakes."""

    @functools.wraps(verb)
    def parsed(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return parsed


def _unboxed(text: str) -> str:
    """tyro's boxed message as one line, without its last section, the hint at --help."""
    lines = [line.strip("│╭╮╰╯|+ ") for line in text.splitlines()[1:]]
    sections = re.split(r"[─-]{4,}", " ".join(line for line in lines if line))
    kept = [" ".join(section.split()) for section in sections if "full helptext" not in section]
    return "; ".join(section for section in kept if section) + " (see --help)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
