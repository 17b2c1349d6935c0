"""Classification as a task: one label an image."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eenet.policies import ExitPolicy, Records, decide
from eenet.tasks.classification.diagnostics import DiagnosedEvaluation, diagnose
from eenet.tasks.classification.metrics import Evaluation, loss_of, measure
from eenet.tasks.measured import Loss
from eenet.tasks.task import Parts, Task

if TYPE_CHECKING:
    from torch import Tensor

    from eenet.backbones import TracedBackbone


class Classification(Task):
    """The final exit is the backbone's own classifier; a record keeps the class logits of every exit."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = Evaluation.metric
    head: ClassVar[str] = "deep"
    gate: ClassVar[str] = "answer"
    keeps_classifier: ClassVar[bool] = True
    works_unlabelled: ClassVar[bool] = True
    any_size: ClassVar[bool] = False

    def load(self, name: str, split: str, **options: Any) -> Any:
        from eenet.data import load

        if options.pop("standardise", False):
            raise ValueError("standardise doesn't work for classification yet; give mean and std")
        return load(name, split, **options)

    def batches(self, images: Any, batch_size: int, augmentation: Any, **which: Any) -> Iterator[Any]:
        from eenet.data import batches

        return batches(images, batch_size, augmentation, **which)

    def varied(self, batch: Any, augmentation: Any, device: Any) -> "tuple[Tensor, Tensor]":
        from eenet.data import augment

        batch = batch._replace(pixels_BCHW=batch.pixels_BCHW.to(device, non_blocking=True))
        labels_B = batch.labels_B.to(device, non_blocking=True)
        return augment(batch, augmentation), labels_B

    def parts(
        self,
        traced: "TracedBackbone",
        chosen: Sequence[int],
        *,
        num_classes: int | None,  # noqa: ARG002
        head: str,
        gate: str,
        settings: dict[str, Any],  # noqa: ARG002
        prove: bool,
    ) -> Parts:
        import torch

        from eenet.backbones import count_macs, divide, example_tensor, mutates_input
        from eenet.tasks.classification.heads import create_head

        stages = divide(traced, chosen, prove=prove)
        sizes = [traced.cuts[i].feature_size for i in chosen]
        example = example_tensor(traced.backbone)
        heads = [create_head(head, size, traced.num_classes, gate).to(example) for size in sizes]
        copies = [
            mutates_input(stage, torch.zeros(2, *size).to(example))
            for stage, size in zip(stages[1:], sizes, strict=True)
        ]
        ends = [*(traced.cuts[i].macs for i in chosen), traced.macs]
        stage_macs = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        head_macs = [count_macs(each, (1, *size)) for each, size in zip(heads, sizes, strict=True)]
        return Parts(stages, heads, stage_macs, head_macs, traced.macs, copies)

    def targets(self, truth: "Tensor", logits: "Tensor") -> "Tensor":  # noqa: ARG002
        return truth

    def collect(self, network: Any, images: Any, batch_size: int, advance: Callable[[int], Any]) -> Records:
        from eenet.data import in_order

        logits, confidences, config = [], [], network.config
        for pixels_BCHW in in_order(images, batch_size):
            said = network.answers(np.asarray(pixels_BCHW))
            logits.append(said[0])
            confidences.append(said[1])
            advance(len(pixels_BCHW))
        return Records(
            np.concatenate(logits, 1),
            np.concatenate(confidences, 1),
            np.asarray(images.labels_B),
            config.stage_macs,
            config.head_macs,
            config.backbone_macs,
            config.ensemble,
        )

    def measure(self, records: Records, policy: ExitPolicy) -> Evaluation:
        return measure(records, policy)

    def evaluate(self, records: Records, policy: ExitPolicy) -> DiagnosedEvaluation:
        found = vars(measure(records, policy)) | vars(diagnose(records, policy))
        return DiagnosedEvaluation(**found)

    def intervals(self, records: Records, policy: ExitPolicy) -> dict[str, tuple[float, float]]:
        found = diagnose(records, policy).intervals
        return {name: found[name] for name in ("accuracy", "relative_cost")}

    def loss(self, records: Records, policy: ExitPolicy) -> Loss:
        return loss_of(records, policy)

    def by_class(self, records: Records, policy: ExitPolicy, class_names: Sequence[str]) -> dict[str, float]:
        labels_B, exits_B = np.asarray(records.labels_B), np.asarray(decide(records, policy))
        right_B = np.asarray(records.correct(policy.enabled))[exits_B, np.arange(len(records))]
        return {
            name: float(right_B[labels_B == n].mean())
            for n, name in enumerate(class_names)
            if (labels_B == n).any()
        }
