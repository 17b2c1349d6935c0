"""The training loop: one stage, interruptible at any moment, resumed to the same weights."""

import io
import json
import math
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor

from eenet.calibration import policy_for_budget
from eenet.data import ImageSet, Source, augment, batches
from eenet.evaluation import evaluate
from eenet.images import normalize
from eenet.network import EENet, write_atomically
from eenet.objectives import get_objective, joint_cross_entropy
from eenet.placement import Placement
from eenet.policies import ExitPolicy
from eenet.records import Records, check_fit, collect

STATE_FILE, METRICS_FILE = "training_state.pt", "metrics.jsonl"
LOG_EVERY = 10  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    data: str
    """Data set, see `eenet.data.load`."""
    model: str
    """timm name of the backbone."""
    num_exits: int = 3
    """Number of early exits; 0 trains the plain backbone, for comparison."""
    placement: Placement = "linear"
    """Where the exits go, see `eenet.create_model`."""
    head: str = "pool"
    """Kind of exit head."""
    budget: float = 0.6
    """Wanted mean relative cost; sets the exit threshold, on the validation split."""
    objective: str = "joint"
    """Training loss, see `eenet.objectives`."""
    early_weight: float = 1.0
    """Weight of the early exits in the objective `joint`, beside their relative cost."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.1
    """Peak of the one warm-up and cosine decay."""
    warmup_epochs: float = 1
    """Epochs of linear warm-up."""
    weight_decay: float = 5e-4
    """Not applied to biases and norms."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the hardware computes in it."""
    save_every: float = 300
    """Seconds between saves of the training state within an epoch."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passed on to `timm.create_model`."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.num_exits < 0:
            raise ValueError(f"num_exits is {self.num_exits}; it must not be negative")
        if not self.early_weight >= 0:
            raise ValueError(f"early_weight is {self.early_weight}; it must not be negative")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; choose from auto, fp32, bf16")
        get_objective(self.objective)


def fit(
    network: EENet,
    train: ImageSet,
    validation: ImageSet,
    config: TrainConfig,
    out: Path,
    *,
    source: Source | None = None,
    resume: bool = False,
) -> float:
    """Train `network` in place.

    Every epoch ends with a look at the validation images, written to `metrics.jsonl`,
    and with a save of the training state. Ctrl-C and SIGTERM save it too.

    Args:
        network: with `mean` and `std` in its `config`.
        train, validation: of the network's input size.
        config: `data`, `model`, `placement` and `head` are taken as done.
        out: directory for state and metrics; must exist.
        source: how training images may be varied. Default: not at all.
        resume: go on from the state in `out`, to the same weights as an unbroken run.

    Returns:
        Seconds spent training, over all resumed parts.

    Raises:
        ValueError: data that don't fit the network, a budget below the cheapest exit, or a
            state of another configuration.
        FloatingPointError: the loss became NaN or infinite.
        KeyboardInterrupt: stopped by a signal, the state saved.
    """
    check_fit(network.config, train)
    check_fit(network.config, validation)
    steps = len(train) // config.batch_size
    if not steps:
        raise ValueError(f"{len(train)} training images are fewer than one batch of {config.batch_size}")
    if network.num_exits and config.budget < network.costs_K[0]:
        raise ValueError(
            f"budget {config.budget} is impossible: leaving at the first exit already costs "
            f"{network.costs_K[0]:.3f}; give a larger budget, or more exits so that the first comes earlier"
        )
    accelerator = Accelerator()
    use_bf16 = _use_bf16(config.precision)
    network.to(accelerator.device)
    layout = network.memory_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(
        network,
        opt="sgd",
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    model, optimizer = accelerator.prepare(network, optimizer)
    schedule = CosineLRScheduler(
        optimizer.optimizer,
        t_initial=config.epochs * steps,
        warmup_t=round(config.warmup_epochs * steps),
        warmup_lr_init=0.0,
        t_in_epochs=False,
    )
    run = _Run(accelerator.unwrap_model(model), optimizer.optimizer, config, out)
    if resume:
        run.load()
    objective = get_objective(config.objective)
    if config.objective == "joint":
        objective = partial(joint_cross_entropy, early_weight=config.early_weight)
    costs_K = network.costs_K
    mean, std = network.config.mean or [], network.config.std or []

    def step(pixels: Tensor, labels_B: Tensor, generator: torch.Generator, update: int) -> tuple[Any, Tensor]:
        pixels = pixels.to(accelerator.device, non_blocking=True)
        if source is not None:
            pixels = augment(pixels, source, generator)
        images = normalize(pixels, mean, std).contiguous(memory_format=layout)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=use_bf16):
            outputs = model(images)
        loss = objective(outputs, labels_B, costs_K)
        accelerator.backward(loss)
        schedule.step_update(update)
        optimizer.step()
        optimizer.zero_grad()
        return outputs, loss.detach()

    with _progress(config, steps) as show, _stop_signals() as stop_asked:
        while run.epoch < config.epochs:
            network.train()
            watch = _Watch(network, run.policy)
            images_before, began = run.step * config.batch_size, time.perf_counter()
            for pixels, labels, generator in batches(
                train, config.batch_size, seed=config.seed, epoch=run.epoch, start=run.step
            ):
                labels_B = labels.to(accelerator.device, non_blocking=True)
                outputs, loss = step(pixels, labels_B, generator, run.epoch * steps + run.step)
                run.advance()
                if run.step % LOG_EVERY == 0 or run.step == steps:
                    _check_finite(loss.item(), run)
                    watch.look(outputs, labels_B, loss.item())
                    show(run.epoch, run.step, watch.text())
                    run.save_if_due()
                if stop_asked():
                    run.save()
                    raise KeyboardInterrupt(f"the state is saved in {out}; continue with --resume")
            seconds = time.perf_counter() - began
            records = collect(network, validation)
            policy = choose_policy(network, records, config)
            measured = evaluate(records, policy)
            run.end_epoch(
                policy,
                {
                    "epoch": run.epoch + 1,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "loss": watch.loss,
                    "images_per_second": (steps * config.batch_size - images_before) / seconds,
                    "train_seconds": run.seconds,
                    "validation": measured,
                },
            )
    network.eval()
    return run.seconds


def choose_policy(network: EENet, records: Records, config: TrainConfig) -> ExitPolicy:
    """The policy a run ends with, from records of its validation images."""
    if not network.num_exits:
        return ExitPolicy("max_softmax", ())
    if config.objective == "joint":
        return policy_for_budget(records, config.budget)
    return ExitPolicy("confidence", (0.5,) * network.num_exits)


class _Run:
    """Where a run is, and its state on disk."""

    def __init__(
        self, network: EENet, optimizer: torch.optim.Optimizer, config: TrainConfig, out: Path
    ) -> None:
        self.network, self.optimizer, self.config, self.out = network, optimizer, config, out
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.policy: ExitPolicy | None = None
        self.lines: list[dict[str, Any]] = []
        self.clock = self.saved = time.perf_counter()

    def advance(self) -> None:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        self.step += 1

    def end_epoch(self, policy: ExitPolicy, line: dict[str, Any]) -> None:
        self.policy = policy
        self.lines.append(line)
        self.epoch, self.step = self.epoch + 1, 0
        text = "".join(json.dumps(entry) + "\n" for entry in self.lines)
        write_atomically(self.out / METRICS_FILE, text.encode())
        self.save()  # after the metrics: a run killed in between writes them again
        self.clock = time.perf_counter()

    def save_if_due(self) -> None:
        if time.perf_counter() - self.saved > self.config.save_every:
            self.save()

    def save(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "config": json.dumps(asdict(self.config)),
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds,
                "policy": json.dumps(self.policy.to_dict() if self.policy else None),
                "lines": json.dumps(self.lines),
            },
            buffer,
        )
        write_atomically(self.out / STATE_FILE, buffer.getvalue())
        self.saved = time.perf_counter()

    def load(self) -> None:
        path = self.out / STATE_FILE
        if not path.is_file():
            raise FileNotFoundError(f"nothing to resume: {path} does not exist")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused or read below
                state = torch.load(path, weights_only=True, map_location="cpu")
            before = dict(json.loads(state["config"]))
        except pickle.UnpicklingError as error:  # torch's own message says how to run it anyway
            raise ValueError(
                f"{path} is not a training state: damaged, or it pickles more than tensors and numbers, "
                "which is not loaded because it can run any code"
            ) from error
        except Exception as error:  # a damaged file makes torch.load raise errors of many kinds
            raise ValueError(f"{path} is not a training state: {error!r}") from error
        now = json.loads(json.dumps(asdict(self.config)))
        changed = [k for k in now if k != "save_every" and before.get(k) != now[k]]
        if changed:
            told = ", ".join(f"{k} was {before.get(k)}, is {now[k]}" for k in changed)
            raise ValueError(f"can't resume {path} with another configuration: {told}")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        policy = json.loads(state["policy"])
        self.policy = ExitPolicy.from_dict(policy, self.network.num_exits) if policy else None
        self.lines = json.loads(state["lines"])
        self.clock = time.perf_counter()


class _Watch:
    """Running means over the epoch for the progress bar."""

    def __init__(self, network: EENet, policy: ExitPolicy | None) -> None:
        self.costs_K = torch.tensor(network.costs_K)
        self.policy = policy
        self.loss = self.accuracy = 0.0
        self.shares_K = torch.zeros(len(self.costs_K))
        self.looks = 0

    def look(self, outputs: Any, labels_B: Tensor, loss: float) -> None:
        self.looks += 1
        weight = max(1 / self.looks, 0.02)
        final = outputs.logits_KBN[-1].detach()
        right = (final.argmax(1) == labels_B).float().mean().item()
        self.loss += weight * (loss - self.loss)
        self.accuracy += weight * (right - self.accuracy)
        if self.policy is not None:
            detached = [[t.detach() for t in ts] for ts in outputs]
            exits_B = self.policy.decide(*detached).cpu()
            shares_K = torch.bincount(exits_B, minlength=len(self.costs_K)) / len(exits_B)
            self.shares_K += weight * (shares_K - self.shares_K)

    def text(self) -> str:
        text = f"loss {self.loss:.3f}  acc {self.accuracy:.1%}"
        if self.policy is not None and len(self.costs_K) > 1:
            shares = "/".join(f"{100 * share:.0f}" for share in self.shares_K.tolist())
            text += f"  cost {float(self.costs_K @ self.shares_K):.2f}  exits {shares} %"
        return text


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came: a step is finished first, so that the state is whole."""
    asked = False

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(config: TrainConfig, steps: int) -> Iterator[Callable[[int, int, str], None]]:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("", total=config.epochs * steps, epoch=1, epochs=config.epochs)
    printed = -1

    def show(epoch: int, step: int, text: str) -> None:
        nonlocal printed
        bar.update(task, completed=epoch * steps + step, description=text, epoch=epoch + 1)
        if not console.is_terminal and step == steps and epoch != printed:  # a log file: a line an epoch
            printed = epoch
            console.print(f"epoch {epoch + 1}/{config.epochs}  {text}", highlight=False)

    if console.is_terminal:
        with bar:
            yield show
    else:
        yield show


def _check_finite(loss: float, run: _Run) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in epoch {run.epoch + 1}, step {run.step}; the state saved last in "
            f"{run.out / STATE_FILE} is from before. Try a smaller learning rate than "
            f"{run.config.learning_rate}, a longer warm-up, or precision fp32"
        )


def _use_bf16(precision: str) -> bool:
    """bf16 pays only where the hardware has it: elsewhere it is emulated, ten times slower."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
