"""The training loop: one stage, interruptible at any moment, resumed to the same weights."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from eenet.calibration import fit_ensemble, fit_gates, policy_for_budget
from eenet.console import training_progress
from eenet.evaluation import evaluate
from eenet.image_sets import Images
from eenet.images import normalize
from eenet.loading import AUGMENTATIONS, Augmentation, Batch, augment, batches, derived_seed
from eenet.network import EENet
from eenet.objectives import TRAIN_CONFIDENCE, get_objective
from eenet.placement import Placement
from eenet.policies import ExitPolicy
from eenet.records import Records, check_fit, collect
from eenet.training_state import METRICS_FILE, STATE_FILE, TrainingState, stop_signals

__all__ = ["METRICS_FILE", "STATE_FILE", "TrainConfig", "calibrate", "fit", "process_state"]

LOG_EVERY = 10  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    data: str
    """Data set, see `eenet.data.load`."""
    model: str
    """timm name of the backbone, or a checkpoint whose trained backbone is taken."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    freeze_backbone: bool = False
    """Train the exit heads only; the backbone, already trained, stays as it is to the bit."""
    num_exits: int = 3
    """Number of early exits; 0 trains the plain backbone, for comparison."""
    placement: Placement = "linear"
    """Where the exits go, see `eenet.create_model`."""
    head: str = "deep"
    """Kind of exit head."""
    budget: float = 0.6
    """Wanted mean relative cost; sets the exit threshold, on the validation split."""
    objective: str = "joint"
    """Training loss, see `eenet.objectives`."""
    cost_weight: float = 1.0
    """λ, the weight of cost in the paper's objectives and some rivals; `joint` has none."""
    early_weight: float = 1.0
    """Weight of each early exit's loss in the objective `joint`."""
    distillation: float = 0.0
    """Share of the early exits' loss in `joint` that imitates the final exit."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step, over all processes."""
    accumulate: int = 1
    """Parts that a process divides its images into, for less memory; gradients are summed up."""
    learning_rate: float = 0.1
    """Peak of the one warm-up and cosine decay."""
    warmup_epochs: float = 1
    """Epochs of linear warm-up."""
    weight_decay: float = 5e-4
    """Not applied to biases and norms."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    ema: float | None = None
    """Decay of the weights' moving average, such as 0.999, which is then what is kept."""
    image_size: int | None = None
    """Height and width that images are brought to. Default: their own."""
    augmentation: str | None = None
    """A name from `eenet.loading.AUGMENTATIONS`. Default: what suits the named data set."""
    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the hardware computes in it."""
    save_every: float = 300
    """Seconds between saves of the training state within an epoch."""
    workers: int | None = None
    """Processes that decode images ahead, see `eenet.loading.batches`."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passed on to `timm.create_model`."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.num_exits < 0:
            raise ValueError(f"num_exits is {self.num_exits}; it must not be negative")
        for name in ("early_weight", "cost_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation is {self.distillation}; it must lie between 0 and 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must lie between 0 and 1, such as 0.999")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 1")
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation is {self.augmentation!r}; choose from {known}")
        if self.freeze_backbone and not self.num_exits:
            raise ValueError("freeze_backbone without early exits leaves nothing to train")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; choose from auto, fp32, bf16")
        get_objective(self.objective)


def fit(
    network: EENet,
    train: Images,
    validation: Images,
    config: TrainConfig,
    out: Path,
    *,
    augmentation: Augmentation | None = None,
    resume: bool = False,
) -> float:
    """Train `network` in place.

    Every epoch ends with a look at the validation images, written to `metrics.jsonl`,
    and with a save of the training state. Ctrl-C and SIGTERM save it too. Under
    `torchrun` or `accelerate launch`, the processes share every batch.

    Args:
        network: with `mean` and `std` in its `config`.
        train, validation: of the network's input size.
        config: `data`, `model`, `placement` and `head` are taken as done.
        out: directory for state and metrics; must exist.
        augmentation: how training images are varied. Default: as `config` says, else not at all.
        resume: go on from the state in `out`, to the same weights as an unbroken run.

    Returns:
        Seconds spent training, over all resumed parts.

    Raises:
        ValueError: data that don't fit the network, a budget below the cheapest exit, or a
            state of another configuration.
        FloatingPointError: the loss became NaN or infinite.
        KeyboardInterrupt: stopped by a signal, the state saved.
    """
    steps = _check(network, train, validation, config)
    if config.augmentation is not None:
        augmentation = AUGMENTATIONS[config.augmentation]
    augmentation = augmentation or AUGMENTATIONS["none"]
    with _frozen(network.stages if config.freeze_backbone else None):
        trainer = _Trainer(network, config, augmentation, steps)
        run = TrainingState(trainer.parts(), asdict(config), out, writes=trainer.first)
        if resume:
            run.load(network.num_exits)
        with training_progress(config.epochs, steps, shown=trainer.first) as show, stop_signals() as asked:
            while run.epoch < config.epochs:
                trainer.to_train_mode()
                watch = _Watch(network, run.policy)
                steps_before, began = run.step, time.perf_counter()
                for batch in batches(
                    train,
                    config.batch_size,
                    augmentation,
                    seed=config.seed,
                    epoch=run.epoch,
                    start=run.step,
                    part=trainer.part,
                    workers=config.workers,
                ):
                    outputs, labels_B, loss = trainer.step(batch, run.epoch, run.step)
                    run.advance()
                    at_look = run.step % LOG_EVERY == 0 or run.step == steps
                    if at_look:
                        mean_loss = trainer.mean_of_processes(loss)
                        _check_finite(mean_loss, run, config)
                        watch.look(outputs, labels_B, mean_loss)
                        show(run.epoch, run.step, watch.text())
                        run.save_if_due()
                    if trainer.all_stop(asked(), at_look):
                        run.save()
                        raise KeyboardInterrupt(f"the state is saved in {out}; continue with --resume")
                seconds = time.perf_counter() - began
                policy, line = None, {}
                if trainer.first:
                    records = collect(trainer.judged, validation)
                    policy = _policy_so_far(network, records, config)
                    line = {
                        "epoch": run.epoch + 1,
                        "learning_rate": trainer.optimizer.param_groups[0]["lr"],
                        "loss": watch.loss,
                        "images_per_second": (run.step - steps_before) * config.batch_size / seconds,
                        "train_seconds": run.seconds,
                        "validation": evaluate(records, policy),
                    }
                trainer.wait()
                run.end_epoch(policy, line)
        trainer.finish()
    return run.seconds


class _Trainer:
    """What a step needs: model, optimiser, schedule, and how processes share the work."""

    def __init__(self, network: EENet, config: TrainConfig, augmentation: Augmentation, steps: int) -> None:
        # confidence branches that an objective doesn't use get no gradient: don't wait for it
        parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = accelerator = Accelerator(cpu=_on_cpu(), kwargs_handlers=[parallel])
        processes = accelerator.num_processes
        if config.batch_size % (processes * config.accumulate):
            raise ValueError(
                f"batch_size {config.batch_size} can't be shared evenly by {processes} processes "
                f"× {config.accumulate} accumulated parts"
            )
        self.network, self.config, self.augmentation, self.steps = network, config, augmentation, steps
        self.part = (accelerator.process_index, processes)
        self.first = accelerator.is_main_process
        self.use_bf16 = _use_bf16(config.precision)
        network.to(accelerator.device)
        self.layout = network.memory_format
        network.to(memory_format=self.layout)  # type: ignore[call-overload]
        optimizer = create_optimizer_v2(
            network,
            opt="sgd",
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        self.average = ModelEmaV3(network, decay=config.ema, use_warmup=True) if config.ema else None
        self.judged = self.average.module if self.average else network
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.schedule = CosineLRScheduler(
            self.optimizer.optimizer,
            t_initial=config.epochs * steps,
            warmup_t=round(config.warmup_epochs * steps),
            warmup_lr_init=0.0,
            t_in_epochs=False,
        )
        self.objective = get_objective(
            config.objective,
            early_weight=config.early_weight,
            distillation=config.distillation,
            cost_weight=config.cost_weight,
        )
        self.costs_K = network.costs_K
        self.mean, self.std = network.config.mean or [], network.config.std or []

    def parts(self) -> dict[str, Any]:
        """What a resumed run needs back."""
        parts = {"network": self.network, "optimizer": self.optimizer.optimizer}
        return parts | ({"average": self.average.module} if self.average else {})

    def to_train_mode(self) -> None:
        self.network.train()
        if self.config.freeze_backbone:
            self.network.stages.eval()

    def step(self, whole: Batch, epoch: int, step: int) -> tuple[Any, Tensor, Tensor]:
        """One update; returns outputs and labels of its last part, and the loss over all parts."""
        device, count = self.accelerator.device, self.config.accumulate
        rank, update = self.part[0], epoch * self.steps + step
        torch.manual_seed(derived_seed(self.config.seed, epoch, step, 1 + rank))  # dropout and the like
        losses, outputs, labels_B = [], None, whole.labels_B
        for i, share in enumerate(zip(*(tensor.chunk(count) for tensor in whole), strict=True)):
            batch = Batch(*share)
            batch = batch._replace(pixels_BCHW=batch.pixels_BCHW.to(device, non_blocking=True))
            labels_B = batch.labels_B.to(device, non_blocking=True)
            images = normalize(augment(batch, self.augmentation), self.mean, self.std)
            with nullcontext() if i + 1 == count else self.accelerator.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.use_bf16):
                    outputs = self.model(images.contiguous(memory_format=self.layout))
                loss = self.objective(outputs, labels_B, self.costs_K) / count
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        self.schedule.step_update(update)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.network, step=update + 1)
        return outputs, labels_B, torch.stack(losses).sum()

    def mean_of_processes(self, value: Tensor) -> float:
        reduced: Any = self.accelerator.reduce(value, "mean")
        return reduced.item()

    def all_stop(self, asked: bool, may_ask: bool) -> bool:
        """All processes must stop after the same step, or they would wait for each other."""
        if self.part[1] == 1:
            return asked
        return (
            may_ask and self.mean_of_processes(torch.tensor(float(asked), device=self.accelerator.device)) > 0
        )

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        if self.average:
            self.network.load_state_dict(self.average.module.state_dict())
        self.network.eval()


def process_state() -> PartialState:
    """This process among those that a launcher started, joined with them on the first call."""
    return PartialState(cpu=_on_cpu())


def _on_cpu() -> bool:
    """accelerate joins processes on a CPU only if told so; torchrun doesn't tell it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.cuda.is_available())


def _policy_so_far(network: EENet, records: Records, config: TrainConfig) -> ExitPolicy:
    """While training goes on: gates aren't fitted yet, so by what the answers themselves say."""
    if config.objective in TRAIN_CONFIDENCE or not network.num_exits:
        return calibrate(network, records, config)[0]
    return policy_for_budget(records, config.budget, scores=("max_softmax", "margin"))


def calibrate(network: EENet, records: Records, config: TrainConfig) -> tuple[ExitPolicy, Records]:
    """Fit what is fitted on the validation images: how exits answer together, gates, thresholds.

    Returns:
        The run's policy, and the records with what was fitted.
    """
    if not network.num_exits:
        return ExitPolicy("confidence", ()), records
    if config.objective in TRAIN_CONFIDENCE:
        return ExitPolicy("confidence", (0.5,) * network.num_exits), records
    records = fit_gates(network, fit_ensemble(network, records))
    return policy_for_budget(records, config.budget), records


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


def _check(network: EENet, train: Images, validation: Images, config: TrainConfig) -> int:
    """Steps of an epoch, if data, network and budget fit together."""
    check_fit(network.config, train)
    check_fit(network.config, validation)
    if len(train) < config.batch_size:
        raise ValueError(f"{len(train)} training images are fewer than one batch of {config.batch_size}")
    if network.num_exits and config.budget < network.costs_K[0]:
        raise ValueError(
            f"budget {config.budget} is impossible: leaving at the first exit already costs "
            f"{network.costs_K[0]:.3f}; give a larger budget, more exits so that the first comes earlier, "
            "or a cheaper head such as pool"
        )
    return len(train) // config.batch_size


@contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
    """Without gradients for a module's parameters; afterwards each has what it had."""
    before = [(p, p.requires_grad) for p in module.parameters()] if module is not None else []
    try:
        if module is not None:
            module.requires_grad_(False)
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def _check_finite(loss: float, run: TrainingState, config: TrainConfig) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in epoch {run.epoch + 1}, step {run.step}; the state saved last in "
            f"{run.out / STATE_FILE} is from before. Try a smaller learning rate than "
            f"{config.learning_rate}, a longer warm-up, or precision fp32"
        )


def _use_bf16(precision: str) -> bool:
    """bf16 pays only where the hardware has it: elsewhere it is emulated, ten times slower."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
