"""Progress on the terminal, or as plain lines in a log file; always on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 5.0  # between lines in a log file


@contextmanager
def progress(name: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar for work of `total` steps; call what it yields with the number of steps just done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def steady_progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """The same for work of many small steps: on a terminal a bar, elsewhere a line every few seconds."""
    with progress(name, total) as advance:
        done, told, console = 0, time.monotonic(), Console(stderr=True)

        def step(count: int) -> None:
            nonlocal done, told
            done += count
            advance(count)
            if not console.is_terminal and time.monotonic() - told > LINE_SECONDS:
                told = time.monotonic()
                console.print(f"{name} {done}/{total}", highlight=False)

        yield step


@contextmanager
def working(text: str) -> Iterator[None]:
    """A sign of life for work that can't say how far it is; nothing in a log file."""
    console = Console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext():
        yield


def say(text: str) -> None:
    """A line for whoever watches."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def training_progress(
    epochs: int, steps: int, *, shown: bool = True
) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[int, str], None]]]:
    """A bar for a training run, on a terminal, and a line for each epoch that is over.

    Yields two functions: one to call with epoch, steps done in it and a text for the bar; and one
    to call with an epoch that is over, and its text.
    """
    console = Console(stderr=True, quiet=not shown)
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("", total=epochs * steps, epoch=1, epochs=epochs)

    def show(epoch: int, step: int, text: str) -> None:
        bar.update(task, completed=epoch * steps + step, description=text, epoch=epoch + 1)

    def end(epoch: int, text: str) -> None:
        line = f"epoch {epoch + 1}/{epochs}  {text}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with bar if console.is_terminal and shown else nullcontext():
        yield show, end
