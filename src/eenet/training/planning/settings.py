"""Everything a training run depends on: its settings."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from eenet.backbones import Placement
from eenet.data import AUGMENTATIONS
from eenet.tasks import task_of

TAUGHT = 0.7  # of the loss, imitates a teacher
_CHOICES = {
    "prune_how": ("uniform", "global"),
    "precision": ("auto", "fp32", "bf16"),
    "aim": ("macs", "latency"),
    "optimizer": ("sgd", "adamw"),
    "class_weights": ("auto", None),
    "track": ("tensorboard", "trackio", None),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    data: str
    """Data set, see `eenet.data.load`."""
    model: str
    """Name of the backbone, see `eenet.create_model`, or a checkpoint whose trained backbone is taken."""
    weights: str | None = None
    """File with the backbone's trained weights, see `eenet.backbones.given.weights`."""
    new_classifier: bool = False
    """Put a new last layer on trained weights that know other classes."""
    pretrained: bool = False
    """Start from the pretrained weights of timm or torchvision."""
    freeze_backbone: bool = False
    """Train the exit heads only; the backbone, already trained, stays as it is to the bit."""
    prune: float | None = None
    """Share of the trained backbone's MACs that pruning leaves, such as 0.5, before it is trained on."""
    prune_how: Literal["uniform", "global"] = "uniform"
    """Which channels go, see `eenet.compress.prune`."""
    sparsity: float | None = None
    """Weight of a penalty that makes whole channels small, such as 1e-4, for a network to be pruned later."""
    num_exits: int = 3
    """Number of early exits; 0 trains the plain backbone, for comparison."""
    placement: Placement = "linear"
    """Where the exits go, see `eenet.create_model`."""
    head: str = ""
    """Kind of exit head. Default: as suits the task, `deep` for classification."""
    budget: float | Literal["auto"] = 0.6
    """Wanted mean relative cost; sets the exit threshold, on the validation split. `auto`: the cheapest that
    loses no accuracy beyond noise. Not used by objectives that train confidences, which are compared with
    0.5."""
    max_drop: float | None = None
    """Instead of a budget: the cheapest that loses at most so many points of accuracy, such as 0.5."""
    aim: Literal["macs", "latency"] = "macs"
    """What is to be saved. `latency`: exits go where this machine's clock wants them, budgets are in time."""
    backend: str | None = None
    """That the aim latency is timed on. Default: the fastest that is installed, see `eenet.Predictor`."""
    at_once: int = 1
    """Images that will arrive together, for the aim latency."""
    objective: str = "joint"
    """Training loss, see `eenet.training.objectives`."""
    cost_weight: float = 1.0
    """λ, the weight of cost in the paper's objectives and some rivals; `joint` has none."""
    early_weight: float = 1.0
    """Weight of each early exit's loss in the objective `joint`."""
    distillation: float = 0.0
    """Share of the early exits' loss in `joint` that imitates the final exit; with a teacher, of all exits'
    loss that imitates it, 0.7 by default."""
    teacher: str | list[str] | None = None
    """Checkpoint or export of a trained network for these images, which all exits imitate, in `joint`; of
    several, the geometric mean of their answers."""
    label_smoothing: float = 0.0
    """Part of the truth in `joint` that is spread over all classes."""
    class_weights: Literal["auto"] | None = None
    """`auto`: in `joint` every class weighs the same, however few images it has."""
    balanced: bool = False
    """Every class is drawn equally often in an epoch."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step, over all processes."""
    accumulate: int = 1
    """Parts that a process divides its images into, for less memory; gradients are summed up."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """How weights are updated."""
    layer_decay: float | None = None
    """The learning rate falls by this factor from layer group to layer group, twelve in all, from the
    classifier to the image, such as 0.75: for finetuning."""
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
    mean: list[float] | None = None
    """Of each channel, from 0 to 1, that is taken out of images. Default: that of the trained weights, else
    of the training images."""
    std: list[float] | None = None
    """Standard deviation of each channel, likewise."""
    skip_damaged: bool = False
    """Leave out image files that can't be read, instead of stopping."""
    label_column: str | None = None
    """Of the data set's table, see `eenet.data.load`. Default: by its name."""
    file_column: str | None = None
    """The same for file names."""
    augmentation: str | None = None
    """A name from `eenet.data.AUGMENTATIONS`. Default: what suits the named data set."""
    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the hardware computes in it."""
    save_every: float = 300
    """Seconds between saves of the training state within an epoch."""
    workers: int | None = None
    """Processes that decode images ahead, see `eenet.data.batches`."""
    track: Literal["tensorboard", "trackio"] | None = None
    """Where else the figures of `metrics.jsonl` go."""
    task: str = "classification"
    """What the exits answer, see `eenet.tasks`."""
    task_settings: dict[str, Any] = field(default_factory=dict)
    """Of the task: `width` of a decoder; of detection also its `stride`, and the `most` boxes of an image."""
    standardise: bool = False
    """Bring every image to the same mean and spread first, where they differ a lot, as of microscopes."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passed on to what makes the backbone."""

    def __post_init__(self) -> None:
        task = task_of(self.task)
        if not self.head:
            object.__setattr__(self, "head", task.head)
        if task.objectives is not None and self.objective not in task.objectives:
            known = ", ".join(task.objectives)
            raise ValueError(f"objective is {self.objective!r}; for {self.task} choose from {known}")
        if self.balanced and not task.keeps_classifier:
            raise ValueError(f"balanced draws images by class, which {self.task} hasn't; use class_weights")
        for name in ("distillation", "label_smoothing", "class_weights"):
            if getattr(self, name) and not task.cross_entropy:
                raise ValueError(f"{name} is for cross-entropy, by which {self.task} isn't trained")
        for name in ("epochs", "batch_size", "learning_rate", "accumulate", "at_once"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.num_exits < 0:
            raise ValueError(f"num_exits is {self.num_exits}; it must not be negative")
        for name in ("early_weight", "cost_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if isinstance(self.budget, str) and self.budget != "auto":
            raise ValueError(f"budget is {self.budget!r}; give a number, such as 0.6, or auto")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ValueError(f"max_drop is {self.max_drop}; it is in points of accuracy, from 0 to 100")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be above 0, and at most 1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be from 0 to below 1")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or none")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std is {self.std}; each must be above 0")
        if self.weights is not None and self.pretrained:
            raise ValueError("weights of your own and pretrained ones can't both be taken; give one of them")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                told = ", ".join(str(each) for each in known if each is not None)
                raise ValueError(f"{name} is {value!r}; choose from {told}")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation is {self.distillation}; it must lie between 0 and 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must lie between 0 and 1, such as 0.999")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 1")
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation is {self.augmentation!r}; choose from {known}")
        if self.prune is not None and not 0 < self.prune < 1:
            raise ValueError(
                f"prune is {self.prune}; give the share of the MACs that is to be left, such as 0.5"
            )
        if self.prune is not None and self.freeze_backbone:
            raise ValueError(
                "freeze_backbone keeps the backbone as it is, prune changes it; give one of them"
            )
        if self.sparsity is not None and not self.sparsity > 0:
            raise ValueError(f"sparsity is {self.sparsity}; it must be above 0, such as 1e-4")
        if self.sparsity is not None and self.freeze_backbone:
            raise ValueError(
                "freeze_backbone keeps the backbone as it is, sparsity changes it; give one of them"
            )
        if self.freeze_backbone and not self.num_exits:
            raise ValueError("freeze_backbone without early exits leaves nothing to train")
        if self.teacher is not None:
            if not self.teacher:
                raise ValueError("teacher is empty; give a checkpoint or an export, or several in a list")
            if self.objective != "joint" or not task.keeps_classifier:
                what = f"objective {self.objective}" if task.keeps_classifier else self.task
                raise ValueError(f"teacher can't be used with {what}; use objective joint, for classes")
            if not self.distillation:
                object.__setattr__(self, "distillation", TAUGHT)
        if self.objective != "joint":  # which is known without importing torch
            from eenet.training.objectives import get_objective

            get_objective(self.objective)


def changed(config: TrainConfig) -> dict[str, Any]:
    """What of a configuration isn't as by default."""
    found = {}
    for each in fields(config):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        default = task_of(config.task).head if each.name == "head" else default
        if (value := getattr(config, each.name)) != default:
            found[each.name] = value
    return found


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an older eenet wrote down, with the settings that there are since."""
    later = {each.name: each.default for each in fields(TrainConfig) if each.default is not MISSING}
    return {**later, **settings}


def number_of_places(asked: Mapping[str, Any]) -> dict[str, int]:
    """The number of exits, where places for them are listed and it isn't given."""
    places = asked.get("placement")
    if asked.get("num_exits") is not None or places is None or isinstance(places, str):
        return {}
    return {"num_exits": len(places)}


def check_known(names: Sequence[str]) -> None:
    """Whether all are settings, else a `ValueError` with those that are called alike."""
    known = [each.name for each in fields(TrainConfig)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"unknown setting {name!r}; choose from {', '.join(near or sorted(known))}")
