"""The training loop: one stage, interruptible at any moment, resumed to the same weights."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eenet.common import counted, say, training_progress
from eenet.data import AUGMENTATIONS, Augmentation, Images
from eenet.evaluation import Measured, check_fit, collect, measure
from eenet.networks import EENet
from eenet.policies import AnyRecords, ExitPolicy, policies_for_budgets, policy_for_budget
from eenet.tasks import task_of
from eenet.training.objectives import trains_confidence
from eenet.training.objectives.teaching import teacher_of
from eenet.training.planning.budgeting import cheapest, wanted_budget
from eenet.training.planning.settings import TrainConfig
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
    heading: str | None = None,
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
        heading: a line to show once it is known that the run can begin.

    Returns:
        Seconds spent training, over all resumed parts.

    Raises:
        ValueError: data that don't fit the network, a budget below the cheapest exit, or a
            state of another configuration.
        FloatingPointError: the loss became NaN or infinite.
        KeyboardInterrupt: stopped by a signal, the state saved.
    """
    steps, task = _check(network, train, validation, config), task_of(network.config.task)
    if config.augmentation is not None:
        augmentation = AUGMENTATIONS[config.augmentation]
    augmentation = augmentation or AUGMENTATIONS["none"]
    with _frozen(network.stages if config.freeze_backbone else None):
        weights_N = class_weights(train) if config.class_weights else None
        teacher = teacher_of(config, train)
        trainer = Trainer(
            network, config, augmentation, steps, out=out, class_weights_N=weights_N, teacher=teacher
        )
        run = TrainingState(
            trainer.parts(), asdict(config), out, writes=trainer.first, processes=trainer.part[1]
        )
        if resume:
            run.load()
        if heading and trainer.first:
            say(heading)
        shown = training_progress(config.epochs, steps, shown=trainer.first)
        with shown as (show, end), stop_signals() as asked:
            while run.epoch < config.epochs:
                trainer.to_train_mode()
                steps_before, began = run.step, time.perf_counter()
                for batch in task.batches(
                    balanced(train, config.seed, run.epoch) if config.balanced else train,
                    config.batch_size,
                    augmentation,
                    seed=config.seed,
                    epoch=run.epoch,
                    start=run.step,
                    part=trainer.part,
                    workers=config.workers,
                ):
                    run.add_loss(trainer.step(batch, run.epoch, run.step))
                    run.advance()
                    at_look = run.step % LOG_EVERY == 0 or run.step == steps
                    if at_look:
                        loss = trainer.mean_of_processes(run.mean_loss())
                        _check_finite(loss, run, config)
                        show(run.epoch, run.step, f"training loss {loss:.3f}")
                        run.save_if_due()
                    if trainer.all_stop(asked(), at_look):
                        run.save()
                        raise KeyboardInterrupt(f"the state is saved in {out}; continue with --resume")
                seconds = time.perf_counter() - began
                line, loss = {}, trainer.mean_of_processes(run.mean_loss())
                if trainer.first:
                    records = collect(trainer.judged, validation)
                    found = _as_if_fitted(network, records, config)
                    end(run.epoch, f"training loss {loss:.3f} · {on_validation(found)}")
                    line = {
                        "epoch": run.epoch + 1,
                        "learning_rate": trainer.optimizer.param_groups[0]["lr"],
                        "loss": loss,
                        "images_per_second": (run.step - steps_before) * config.batch_size / seconds,
                        "train_seconds": run.seconds,
                        "validation": found.to_dict(),
                    }
                    trainer.track(line)
                trainer.wait()
                run.end_epoch(line)
        trainer.finish()
    return run.seconds


def _as_if_fitted(network: EENet, records: AnyRecords, config: TrainConfig) -> Measured:
    """What the network would do now: as `eenet.policies.fit` has it, without the seconds that gates take."""
    if not network.num_exits or trains_confidence(config.objective):
        return measure(records, ExitPolicy("confidence", (0.5,) * network.num_exits))
    records = records.joined()
    if (budget := wanted_budget(config)) is None:
        return measure(records, cheapest(records, policies_for_budgets(records), config.max_drop)[0])
    return measure(records, policy_for_budget(records, budget))


def on_validation(found: Measured) -> str:
    """What a policy does on the validation images, in a line."""
    text = f"validation: {found.metric} {100 * found.quality:.1f} %"
    if len(found.costs) == 1:
        return text
    shares = "/".join(f"{100 * count / found.num_examples:.0f}" for count in found.exit_counts)
    return (
        f"{text} (full network {100 * found.full_quality:.1f} %) at cost {found.relative_cost:.3f}, "
        f"exits {shares} %"
    )


def _check(network: EENet, train: Images, validation: Images, config: TrainConfig) -> int:
    """Steps of an epoch, if data, network and budget fit together."""
    check_fit(network.config, train)
    check_fit(network.config, validation)
    if len(train) < config.batch_size:
        raise ValueError(
            f"{counted(len(train), 'training image')} make no batch of {config.batch_size}; give a "
            f"batch_size (--batch-size) of at most {len(train)}"
        )
    budget = None if trains_confidence(config.objective) else wanted_budget(config)
    if network.num_exits and budget is not None and budget < network.costs_K[0]:
        raise ValueError(
            f"budget {budget} is impossible: leaving at the first exit already costs "
            f"{network.costs_K[0]:.3f}; give a larger budget, more exits so that the first comes earlier, "
            "or a cheaper head such as pool"
        )
    return len(train) // config.batch_size


def class_weights(images: Images) -> Tensor:
    """How much an image, or pixel, of each class counts if all are to count the same: [N], 1 on average."""
    counts_N = images.class_counts()
    return torch.tensor(counts_N.sum() / (len(counts_N) * np.maximum(counts_N, 1)), dtype=torch.float32)


def balanced(images: Images, seed: int, epoch: int) -> Images:
    """As many images, all classes equally often: of rare ones repeatedly the same, of frequent ones some."""
    labels_B = np.asarray(images.labels_B)
    random = np.random.default_rng([seed, epoch])
    each, drawn = -(-len(labels_B) // len(images.class_names)), []
    for n in np.unique(labels_B):
        members = np.flatnonzero(labels_B == n)
        rounds = -(-each // len(members))
        drawn.append(np.concatenate([random.permutation(members) for _ in range(rounds)])[:each])
    return images.subset(random.permutation(np.concatenate(drawn))[: len(labels_B)])


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
