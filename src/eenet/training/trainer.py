"""One training step: model, optimiser, schedule, and how processes share the work."""

import atexit
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from eenet.compress import sparsity_of
from eenet.data import Augmentation, derived_seed, normalize
from eenet.networks import EENet
from eenet.tasks import task_of
from eenet.training.depthwise import float32_where_faster
from eenet.training.objectives import OBJECTIVES, even_gradients, get_objective
from eenet.training.planning.settings import TrainConfig

LAYER_GROUPS = 12  # of a backbone, for learning rates that fall from layer to layer


class Trainer:
    """What a step needs: model, optimiser, schedule, and how processes share the work."""

    def __init__(
        self,
        network: EENet,
        config: TrainConfig,
        augmentation: Augmentation,
        steps: int,
        *,
        out: Path,
        class_weights_N: Tensor | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        check_tracking(config.track)
        # confidence branches that an objective doesn't use get no gradient: don't wait for it
        parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = accelerator = Accelerator(
            cpu=_on_cpu(), kwargs_handlers=[parallel], log_with=config.track, project_dir=out
        )
        if config.track:
            accelerator.init_trackers(out.name)
        processes = accelerator.num_processes
        if config.batch_size % (processes * config.accumulate):
            raise ValueError(
                f"batch_size {config.batch_size} can't be shared evenly by {processes} processes "
                f"× {config.accumulate} accumulated parts"
            )
        self.network, self.config, self.augmentation, self.steps = network, config, augmentation, steps
        self.part = (accelerator.process_index, processes)
        self.first = accelerator.is_main_process
        self.use_bf16 = uses_bf16(config.precision)
        network.to(accelerator.device)
        self.layout = network.memory_format
        network.to(memory_format=self.layout)  # type: ignore[call-overload]
        decayed = config.layer_decay is not None and not config.freeze_backbone
        momentum: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
        optimizer = create_optimizer_v2(
            layer_groups(network, config.layer_decay or 1, config.weight_decay) if decayed else network,
            opt=config.optimizer,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
            **momentum,
        )
        evened = OBJECTIVES.mark(config.objective, "evens_gradients")
        self._evening = even_gradients(network) if evened else []
        self.average = ModelEmaV3(network, decay=config.ema, use_warmup=True) if config.ema else None
        self.judged = self.average.module if self.average else network
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.teacher: Any = (
            None
            if teacher is None
            else accelerator.prepare_model(
                teacher.eval().to(accelerator.device, memory_format=self.layout),  # type: ignore[call-overload]
                evaluation_mode=True,
            )
        )
        self.schedule = CosineLRScheduler(
            self.optimizer.optimizer,
            t_initial=max(config.epochs * steps, 2),  # of a single step timm warns
            warmup_t=round(config.warmup_epochs * steps),
            warmup_lr_init=0.0,
            t_in_epochs=False,
        )
        self.costs_K, self.task = network.costs_K, task_of(network.config.task)
        self.objective = get_objective(
            config.objective,
            exit_loss=self.task.exit_loss(),
            early_weight=config.early_weight,
            distillation=config.distillation,
            cost_weight=config.cost_weight,
            label_smoothing=config.label_smoothing,
            class_weights_N=class_weights_N.to(accelerator.device) if class_weights_N is not None else None,
        )
        self.sparsity = None if config.sparsity is None else sparsity_of(network, config.sparsity)
        self.mean, self.std = network.config.mean or [], network.config.std or []

    def parts(self) -> dict[str, Any]:
        """What a resumed run needs back."""
        parts = {"network": self.network, "optimizer": self.optimizer.optimizer}
        return parts | ({"average": self.average.module} if self.average else {})

    def to_train_mode(self) -> None:
        self.network.train()
        if self.config.freeze_backbone:
            self.network.stages.eval()

    def step(self, whole: Any, epoch: int, step: int) -> Tensor:
        """One update on a batch, a named tuple of tensors; returns the loss."""
        device, count = self.accelerator.device, self.config.accumulate
        rank, update = self.part[0], epoch * self.steps + step
        torch.manual_seed(derived_seed(self.config.seed, epoch, step, 1 + rank))  # dropout and the like
        losses = []
        for i, share in enumerate(zip(*(tensor.chunk(count) for tensor in whole), strict=True)):
            pixels_BCHW, truth = self.task.varied(type(whole)(*share), self.augmentation, device)
            images = normalize(pixels_BCHW, self.mean, self.std)
            with nullcontext() if i + 1 == count else self.accelerator.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.use_bf16):
                    with float32_where_faster(device.type, self.use_bf16):
                        outputs = self.model(images.contiguous(memory_format=self.layout))
                    taught = {"teacher_BN": self.teacher(pixels_BCHW)} if self.teacher is not None else {}
                targets = self.task.targets(truth, outputs.logits_KBN[-1])
                loss = self.objective(outputs, targets, self.costs_K, **taught) / count
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        self.schedule.step_update(update)
        if self.sparsity is not None:
            self.sparsity.add_gradient()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.network, step=update + 1)
        return torch.stack(losses).sum()

    def mean_of_processes(self, value: Tensor) -> float:
        reduced: Any = self.accelerator.reduce(value.to(self.accelerator.device), "mean")
        return reduced.item()

    def all_stop(self, asked: bool, may_ask: bool) -> bool:
        """All processes must stop after the same step, or they would wait for each other."""
        if self.part[1] == 1:
            return asked
        return (
            may_ask and self.mean_of_processes(torch.tensor(float(asked), device=self.accelerator.device)) > 0
        )

    def track(self, line: Mapping[str, Any]) -> None:
        """Hand the figures of an epoch, numbers of any depth, to the tracker that was asked for."""
        if self.config.track:
            self.accelerator.log(_flat(line), step=line["epoch"])

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        if self.average:
            self.network.load_state_dict(self.average.module.state_dict())
        self.network.eval()
        for handle in self._evening:
            handle.remove()
        for tracker in self.accelerator.trackers:  # `end_training` would part the processes too
            tracker.finish()


def check_tracking(name: str | None) -> None:
    """Whether a tracker is installed, else a `ValueError` that says how to get it."""
    if name is not None and name not in [each.value for each in get_available_trackers()]:
        raise ValueError(f"tracking by {name} needs its package: pip install {name}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found


def layer_groups(network: EENet, factor: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with a learning rate that falls from the classifier to the image.

    The backbone's are divided into `LAYER_GROUPS` of equal numbers, the last layer, what is
    `from_scratch` and the exit heads keep the whole rate. Biases and norms don't decay. Clark et al. 2020,
    Bao et al. 2022.
    """
    last = [part for part in network.stages.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    new = [part for part in network.stages.modules() if getattr(part, "from_scratch", False)]
    own = {id(parameter) for part in (last, *new) for parameter in part.parameters()}
    body = [parameter for parameter in network.stages.parameters() if id(parameter) not in own]
    scales = {
        id(parameter): factor ** (LAYER_GROUPS - i * LAYER_GROUPS // len(body))
        for i, parameter in enumerate(body)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter in network.parameters():
        key = scales.get(id(parameter), 1.0), weight_decay if parameter.ndim > 1 else 0.0
        new = {"params": [], "lr_scale": key[0], "weight_decay": key[1]}
        groups.setdefault(key, new)["params"].append(parameter)
    return list(groups.values())


def process_state() -> PartialState:
    """This process among those that a launcher started, joined with them on the first call."""
    state = PartialState(cpu=_on_cpu())
    if torch.distributed.is_initialized() and not torch.cuda.is_available():
        _part_at_exit()
    return state


@cache
def _part_at_exit() -> None:
    """Threads of Gloo that outlive the interpreter abort the process (pytorch issue 190489).

    NCCL would wait there for processes that failed, so its groups end with their process.
    """
    atexit.register(PartialState().destroy_process_group)


def _on_cpu() -> bool:
    """accelerate joins processes on a CPU only if told so; torchrun doesn't tell it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.cuda.is_available())


def uses_bf16(precision: str) -> bool:
    """bf16 pays only where the hardware has it: elsewhere it is emulated, ten times slower."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
