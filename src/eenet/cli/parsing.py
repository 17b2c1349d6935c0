"""The command line: parse, call one function, print; mistakes in one line."""

import contextlib
import difflib
import functools
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, get_type_hints

import tyro

from eenet.cli.groups import readable
from eenet.cli.many import batch
from eenet.cli.measuring import bench, evaluate, report
from eenet.cli.optimizing import cascade, optimize
from eenet.cli.training import calibrate, sweep, train
from eenet.cli.using import export, info, list_names, predict, serve
from eenet.common import import_plugin

ABOUT = (
    "Early-exit convolutional networks: train, measure and use them. With --import MODULE, every verb knows "
    "the heads, scores, objectives, policies and backbones that a module of your own registers; with --model "
    "PACKAGE.MODULE:FUNCTION or --trust-model-code, checkpoints of networks that a function of yours makes."
)
TAKE_MODELS = ("train", "sweep", "optimize")
VERBS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "batch": batch,
    "calibrate": calibrate,
    "bench": bench,
    "export": export,
    "sweep": sweep,
    "optimize": optimize,
    "cascade": cascade,
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
        _trust(arguments)
        code = _parse_and_run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "eenet"):
            raise
        extra = {"serve": "serve", "batch": "scale"}.get(arguments[0], "train")
        print(f"eenet: this needs {package}; pip install 'eenet[{extra}]'", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"eenet: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"eenet: interrupted; {stopped}".rstrip("; "), file=sys.stderr)
        return 130


def _trust(arguments: list[str]) -> None:
    """Which functions of a user's own may make networks: those named, by verbs that read checkpoints too."""
    from eenet.backbones import trust_all, trusted_name

    if "--trust-model-code" in arguments:
        arguments.remove("--trust-model-code")
        trust_all()
    if arguments and arguments[0] not in TAKE_MODELS:
        for name in _taken(arguments, "--model"):
            if trusted_name(name) == name:
                raise ValueError(
                    f"--model {name}: here it names the function that made the network of a checkpoint"
                )


def _taken(arguments: list[str], flag: str) -> list[str]:
    """The values of a flag that every verb has, taken out of the arguments."""
    values = []
    while (at := next((i for i, a in enumerate(arguments) if a.split("=")[0] == flag), None)) is not None:
        word = arguments.pop(at)
        if "=" not in word and at == len(arguments):
            raise ValueError(f"{flag} needs the name of a module or function")
        values.append(word.partition("=")[2] if "=" in word else arguments.pop(at))
    return values


def _parse_and_run(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(VERBS)}"
        raise ValueError(f"unknown verb {arguments[0]!r}; {hint}")
    helped, boxed = io.StringIO(), io.StringIO()
    settings: dict[str, Any] = {"config": (tyro.conf.OmitArgPrefixes,)}
    try:
        with contextlib.redirect_stdout(helped), contextlib.redirect_stderr(boxed):
            if arguments and arguments[0] in VERBS:  # alone, so that no other verb's flags are suggested
                verb, words = arguments[0], arguments[1:]
                action = tyro.cli(_deferred(VERBS[verb]), prog=f"eenet {verb}", args=words, **settings)
            else:
                verbs = {name: _deferred(verb) for name, verb in VERBS.items()}
                action = tyro.extras.subcommand_cli_from_dict(
                    verbs, prog="eenet", description=ABOUT, args=arguments, **settings
                )
    except SystemExit as stop:  # --help, or a box with the mistake
        if stop.code:
            raise ValueError(_unboxed(boxed.getvalue())) from None
        print(_within_the_terminal(helped.getvalue()))
        return 0
    return action()


def _deferred(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """tyro calls what it has parsed; run it later, when its mistakes are no longer parsing mistakes."""

    @functools.wraps(verb)
    def parsed(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    del parsed.__wrapped__  # whose types tyro would read
    signature, kinds = inspect.signature(verb), get_type_hints(verb, include_extras=True)
    parameters = [p.replace(annotation=readable(kinds[name])) for name, p in signature.parameters.items()]
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {p.name: p.annotation for p in parameters}
    return parsed


def _within_the_terminal(text: str) -> str:
    """tyro wraps what is in its boxes; the description above them is wrapped here."""
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width) if len(line) > width else line.rstrip() for line in text.splitlines()
    )


def _unboxed(text: str) -> str:
    """tyro's boxed message as one line, without its last section, the hint at --help."""
    lines = [line.strip("│╭╮╰╯|+ ") for line in text.splitlines()[1:]]
    sections = re.split(r"[─-]{4,}", " ".join(line for line in lines if line))
    kept = [" ".join(section.split()) for section in sections if "full helptext" not in section]
    return "; ".join(section for section in kept if section) + " (see --help)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
