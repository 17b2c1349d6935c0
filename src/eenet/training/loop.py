"""The training loop: one stage, interruptible at any moment, resumed to the same weights."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eenet.common import training_progress
from eenet.data import AUGMENTATIONS, Augmentation, Images, batches
from eenet.evaluation import check_fit, collect, measure
from eenet.networks import EENet
from eenet.policies import ExitPolicy, Records, policy_for_budget
from eenet.training.objectives import trains_confidence
from eenet.training.recipes import TrainConfig
from eenet.training.state import STATE_FILE, TrainingState, stop_signals
from eenet.training.trainer import Trainer

LOG_EVERY = 10  # steps between looks at the loss: each look waits for the device


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
        trainer = Trainer(network, config, augmentation, steps)
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
                        "validation": measure(records, policy).to_dict(),
                    }
                trainer.wait()
                run.end_epoch(policy, line)
        trainer.finish()
    return run.seconds


def _policy_so_far(network: EENet, records: Records, config: TrainConfig) -> ExitPolicy:
    """While training goes on: gates aren't fitted yet, so by what the answers themselves say."""
    if not network.num_exits or trains_confidence(config.objective):
        return ExitPolicy("confidence", (0.5,) * network.num_exits)
    return policy_for_budget(records, config.budget, scores=("max_softmax", "margin"))


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
