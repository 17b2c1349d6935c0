"""Classification as a task: one label an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.policies import ExitPolicy, Records
from eenet.tasks.classification.diagnostics import DiagnosedEvaluation, diagnose
from eenet.tasks.classification.metrics import Evaluation, loss_of, measure
from eenet.tasks.classification.prediction import Prediction
from eenet.tasks.classification.showing import exits_shown, labels_shown, policy_shown
from eenet.tasks.handed import Parts, Pixels, Seen
from eenet.tasks.measured import Loss
from eenet.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from eenet.backbones import TracedBackbone


SAME = 1e-3  # within which two runs give the same probability, whatever the backend


class Classification(Task):
    """The final exit is the backbone's own classifier; a record keeps the class logits of every exit."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = Evaluation.metric
    head: ClassVar[str] = "deep"
    gate: ClassVar[str] = "answer"
    keeps_classifier: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[str, str]] = {"--tile": ""}
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "FP32", "label": "BYTES"}

    def load(self, name: str, split: str, **options: Any) -> Any:
        from eenet.data import load

        if options.pop("standardise", False):
            raise ValueError("standardise doesn't work for classification yet; give mean and std")
        return load(name, split, **options)

    def heads(self) -> list[str]:
        from eenet.tasks.classification.heads import HEADS

        return list(HEADS)

    def survey(self, name: str, **options: Any) -> Any:
        from eenet.data import survey

        return survey(name, **options)

    def sample(self, images: Any, count: int) -> Pixels:
        from eenet.data import sample

        return sample(images, count)

    def batches(self, images: Any, batch_size: int, augmentation: Any, **which: Any) -> Iterator[Any]:
        from eenet.data import batches

        return batches(images, batch_size, augmentation, **which)

    def without_truth(self, directory: Path, config: Any) -> Any | None:
        from eenet.data import unlabelled

        return unlabelled(directory, config.named_classes, config.input_size)

    def by_itself(self, records: Records) -> Records:
        return replace(records, labels_B=records.answers()[-1].argmax(1))

    def varied(self, batch: Any, augmentation: Any, device: Any) -> "tuple[Tensor, Tensor]":
        from eenet.data import augment, recoloured

        batch = batch._replace(pixels_BCHW=batch.pixels_BCHW.to(device, non_blocking=True))
        labels_B = batch.labels_B.to(device, non_blocking=True)
        return recoloured(augment(batch, augmentation), augmentation.colour), labels_B

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

    def read(self, image: Any, config: Any) -> Seen:
        from eenet.data import to_pixels

        return Seen(to_pixels(image, config.input_size), config.input_size[1:])

    def explained(self, config: Any) -> dict[str, str]:  # noqa: ARG002
        return {
            "resize": "scale until height and width are covered, antialiased; take the centre",
            "answer": "probabilities [B, N] of the classes",
        }

    def prediction(
        self,
        probabilities: NDArray[np.float32],
        exit_index: int,
        cost: float,
        size: tuple[int, int],  # noqa: ARG002
        config: Any,
    ) -> Prediction:
        names = config.named_classes
        best = int(probabilities.argmax())
        return Prediction(
            label=names[best],
            class_index=best,
            probability=float(probabilities[best]),
            exit=exit_index,
            relative_cost=cost,
            probabilities_N=probabilities,
            class_names=names,
        )

    def output_shapes(self, config: Any) -> dict[str, list[int]]:
        return {"probabilities": [config.num_classes], "label": []}

    def output(
        self,
        name: str,
        answers: NDArray[np.float32],
        exits_B: NDArray[np.integer],  # noqa: ARG002
        size: tuple[int, int],  # noqa: ARG002
        config: Any,
    ) -> NDArray[Any] | list[str]:
        if name == "probabilities":
            return answers
        names = config.named_classes
        return [names[best] for best in answers.argmax(1).tolist()]

    def told(self, found: Prediction, image: Any = None) -> dict[str, Any]:  # noqa: ARG002
        return {
            name: getattr(found, name) for name in ("label", "class_index", "probability", "probabilities")
        }

    def places(self, out: Path | None) -> tuple[Path | None, Path | None]:
        return out, None

    def row(self, found: Prediction, likeliest: int) -> dict[str, Any]:
        probabilities = found.probabilities
        if likeliest < len(probabilities):
            kept = sorted(probabilities, key=lambda name: -probabilities[name])[:likeliest]
            probabilities = {name: probabilities[name] for name in kept}
        names = ("label", "class_index", "probability", "exit", "relative_cost")
        return {**{name: getattr(found, name) for name in names}, "probabilities": probabilities}

    def draw(self, found: Prediction, image: Path, target: Path) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def columns(self, likeliest: int) -> list[str]:
        """With probabilities of the likeliest classes, a pair for each."""
        more = [f"{kind}_{k}" for k in range(1, likeliest + 1) for kind in ("label", "probability")]
        return ["file", "label", "class_index", "probability", "exit", "relative_cost", *more, "error"]

    def same(self, row: Mapping[str, Any], found: Prediction) -> str | None:
        before = str(row["label"]), int(row["exit"])
        if (found.label, found.exit) == before and abs(found.probability - float(row["probability"])) <= SAME:
            return None
        return f"{before[0]} at exit {before[1]}, now it is {found.label} at exit {found.exit}"

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
        labels_B, right_B = records.labels_B, records.right(policy)
        return {
            name: float(right_B[labels_B == n].mean())
            for n, name in enumerate(class_names)
            if (labels_B == n).any()
        }

    def load_records(self, path: Path) -> Records:
        return Records.load(path)

    def kept_records(self, path: Path, images: Any) -> Records | None:
        records = Records.load(path)
        return records if np.array_equal(records.labels_B, images.labels_B) else None

    def exits_shown(self, records: Records, policy: ExitPolicy) -> dict[str, Any]:
        return exits_shown(records, policy)

    def policy_shown(self, records: Records, policy: ExitPolicy) -> dict[str, Any]:
        return policy_shown(records, policy)

    def figures(
        self,
        records: Records,
        policy: ExitPolicy,
        images: Any,
        members: Sequence[int],
        network: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        return labels_shown(records, policy, images, members)
