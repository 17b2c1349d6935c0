"""Progress on the terminal, or as plain lines in a log file; always on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(name: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar for work of `total` steps; call what it yields with the number of steps just done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def working(text: str) -> Iterator[None]:
    """A sign of life for work that can't say how far it is; nothing in a log file."""
    console = Console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext():
        yield


@contextmanager
def training_progress(
    epochs: int, steps: int, *, shown: bool = True
) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for a training run; call what it yields with epoch, steps done in it, and a text.

    In a log file it becomes one line per epoch.
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
    printed = -1

    def show(epoch: int, step: int, text: str) -> None:
        nonlocal printed
        bar.update(task, completed=epoch * steps + step, description=text, epoch=epoch + 1)
        if not console.is_terminal and step == steps and epoch != printed:
            printed = epoch
            console.print(f"epoch {epoch + 1}/{epochs}  {text}", highlight=False)

    if console.is_terminal and shown:
        with bar:
            yield show
    else:
        yield show
