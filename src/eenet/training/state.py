"""Where a training run is, its directory, its state on disk, and the signals that ask it to stop."""

import io
import json
import pickle
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from eenet.common import say, write_atomically
from eenet.networks import CONFIG_FILE, WEIGHTS_FILE, EENet
from eenet.training.planning.settings import with_defaults

STATE_FILE, METRICS_FILE = "training_state.pt", "metrics.jsonl"
REPORT_BYTES = 10e6  # most of it is the plotting library
_MAY_CHANGE = {"save_every", "workers"}  # settings that don't touch the weights


class TrainingState:
    """Epoch, step and all that has to survive: weights, optimiser, metrics so far.

    Nothing random is kept: every step draws from its own seed.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        settings: dict[str, Any],
        out: Path,
        *,
        writes: bool,
        processes: int = 1,
    ) -> None:
        """`parts`: what has a `state_dict()`, by name. Only one of the `processes` `writes`."""
        self.parts, self.out, self.writes, self.processes = parts, out, writes, processes
        self.settings = json.loads(json.dumps(settings))
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.lines: list[dict[str, Any]] = []
        self.loss_sum, self.losses = torch.zeros(()), 0
        self.clock = self.saved = time.perf_counter()

    def advance(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        self.step += 1

    def add_loss(self, loss: Tensor) -> None:
        """Of a step; it stays on its device, as each look waits for that."""
        self.loss_sum, self.losses = self.loss_sum.to(loss) + loss, self.losses + 1

    def mean_loss(self) -> Tensor:
        """Over the steps of the epoch so far."""
        return self.loss_sum / max(self.losses, 1)

    def end_epoch(self, line: dict[str, Any]) -> None:
        """An epoch is done: save, with its line in `metrics.jsonl`."""
        self.lines.append(line)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum, self.losses = torch.zeros(()), 0
        if self.writes:
            text = "".join(json.dumps(entry) + "\n" for entry in self.lines)
            write_atomically(self.out / METRICS_FILE, text.encode())
        self.save()  # after the metrics: a run killed in between writes them again
        self.clock = time.perf_counter()

    def save_if_due(self) -> None:
        """Save if the last time is longer ago than `save_every` seconds."""
        if time.perf_counter() - self.saved > self.settings["save_every"]:
            self.save()

    def save(self) -> None:
        """Write everything under a temporary name and rename it, so that a kill leaves a whole state."""
        self.saved = time.perf_counter()
        if not self.writes:
            return
        buffer = io.BytesIO()
        progress = {
            "settings": json.dumps(self.settings),
            "epoch": self.epoch,
            "step": self.step,
            "processes": self.processes,
            "seconds": self.seconds,
            "losses": [self.loss_sum.item(), self.losses],
            "lines": json.dumps(self.lines),
        }
        torch.save(progress | {name: part.state_dict() for name, part in self.parts.items()}, buffer)
        write_atomically(self.out / STATE_FILE, buffer.getvalue())

    def load(self) -> None:
        """Go on from the state on disk; the process that writes hands it to the others, wherever they are.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of a run with other settings.
        """
        path = self.out / STATE_FILE
        (content,) = broadcast_object_list([path.read_bytes() if self.writes and path.is_file() else None])
        if content is None:
            raise FileNotFoundError(f"nothing to resume: {path} does not exist")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused or read below
                state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            before = with_defaults(json.loads(state["settings"]))
        except pickle.UnpicklingError as error:  # torch's own message says how to run it anyway
            raise ValueError(
                f"{path} is not a training state: damaged, or it pickles more than tensors and numbers, "
                "which is not loaded because it can run any code"
            ) from error
        except Exception as error:  # a damaged file makes torch.load raise errors of many kinds
            raise ValueError(f"{path} is not a training state: {error!r}") from error
        changed = [k for k in self.settings if k not in _MAY_CHANGE and before.get(k) != self.settings[k]]
        if changed:
            told = ", ".join(f"{k} was {before.get(k)}, is {self.settings[k]}" for k in changed)
            raise ValueError(f"can't resume {path} with another configuration: {told}")
        if (shared := state.get("processes", self.processes)) != self.processes and self.writes:
            say(
                f"the number of processes was {shared}, is {self.processes}: batches are as large as before, "
                "but batch norms and dropout see other parts of them, so the weights won't be quite those of "
                "an unbroken run"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        loss_sum, self.losses = state.get("losses", [0.0, 0])
        self.loss_sum = torch.tensor(loss_sum)
        self.lines = json.loads(state["lines"])
        self.clock = time.perf_counter()


def prepare(out: Path, resume: bool) -> None:
    """Find out before hours are spent whether the run may and can write to its directory."""
    taken = [name for name in (STATE_FILE, CONFIG_FILE, WEIGHTS_FILE) if (out / name).exists()]
    if taken and not resume:
        raise FileExistsError(
            f"{out} already holds a run ({taken[0]}); continue it with --resume, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / ".writable", b"")
        (out / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error


def check_room(out: Path, network: EENet, recorded: int) -> None:
    """A full disk is found before hours are spent: state twice while it is replaced, records, report."""
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    records = 4 * recorded * (network.num_exits + 1) * (network.config.num_classes + 1)
    needed = 8 * weights + records + REPORT_BYTES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OSError(
            f"the disk of {out} has {free / 1e6:.0f} MB left; this run needs up to {needed / 1e6:.0f} MB"
        )


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came: a step is finished first, so that the state is whole.

    Asked again after two seconds, it stops at once; sooner, a launcher only passes on
    what the terminal has sent already.
    """
    asked: float | None = None

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        if asked is not None and time.monotonic() - asked > 2:
            raise KeyboardInterrupt
        asked = asked or time.monotonic()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
