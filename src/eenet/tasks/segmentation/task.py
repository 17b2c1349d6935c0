"""Semantic segmentation as a task: a class for every pixel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.policies import ExitPolicy, graph_scores, logarithm, score_of, softmax_parts
from eenet.tasks.dense import TOGETHER, DenseTask
from eenet.tasks.handed import Parts, Seen, width_in
from eenet.tasks.measured import Loss
from eenet.tasks.pages import data_uri, png_uri
from eenet.tasks.segmentation.maps import class_map
from eenet.tasks.segmentation.metrics import (
    SegmentationEvaluation,
    bootstrap,
    iou_by_class,
    loss_of_masks,
    measure_masks,
)
from eenet.tasks.segmentation.prediction import MaskPrediction
from eenet.tasks.segmentation.records import (
    RECORDED,
    STATISTICS,
    SegmentationRecords,
    confusion,
    near_boundaries,
)
from eenet.tasks.segmentation.showing import exits_shown, masks_shown, policy_shown

if TYPE_CHECKING:
    from torch import Tensor

    from eenet.backbones import TracedBackbone

FINEST = 4  # stride of the decoder's state, unless the backbone starts coarser
IGNORED = -100  # the target of pixels without a class
SHOWN = 480  # pixels of a picture's longer side on a page


class Segmentation(DenseTask):
    """The backbone's classifier gives way to a decoder; a record keeps a confusion matrix of every exit."""

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = SegmentationEvaluation.metric
    head: ClassVar[str] = "separable"
    outputs: ClassVar[Mapping[str, str]] = {"mask": "UINT8"}
    counted: ClassVar[str] = "pixels"
    pictured: ClassVar[str] = "Left: the answer, right: the truth. Per cent: mIoU of the image's own classes."
    settings: ClassVar[Sequence[str]] = ("width", "standardise")
    truths: ClassVar[str] = "masks lie in the column mask, or in a folder"

    def load(self, name: str, split: str, **options: Any) -> Any:
        from eenet.data import load_masks

        return load_masks(name, split, **self.without_columns(options))

    def images_alone(self, directory: Path, class_names: Sequence[str], **how: Any) -> Any | None:
        from eenet.data import images_without_masks

        return images_without_masks(directory, class_names, side=min(how.pop("size")), **how)

    def batches(self, images: Any, batch_size: int, augmentation: Any, **which: Any) -> Iterator[Any]:
        from eenet.data import mask_batches

        return mask_batches(images, batch_size, augmentation, **which)

    def parts(
        self,
        traced: "TracedBackbone",
        chosen: Sequence[int],
        *,
        num_classes: int | None,
        head: str,
        gate: str,
        settings: dict[str, Any],
        prove: bool,
    ) -> Parts:
        from eenet.tasks.decoder import Answer, dense_parts
        from eenet.tasks.gain import GainGate

        if num_classes is None:
            raise ValueError("give num_classes: how many classes a pixel may have, background included")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; masks have at least 2, background included")
        self.must_have(head, gate)
        width = width_in(settings)
        return dense_parts(
            traced,
            chosen,
            answer=lambda: Answer(width, num_classes),
            gate=lambda: GainGate(STATISTICS, "max_softmax"),
            gate_macs=len(STATISTICS),
            width=width,
            finest=FINEST,
            prove=prove,
        )

    def scores(self) -> list[str]:
        return graph_scores(dense=True)

    def answered(self, logits: "Tensor") -> "Tensor":
        """Class probabilities, from what the scores need as well."""
        _, parts_BNhw, whole_Bhw = softmax_parts(logits)
        return parts_BNhw / whole_Bhw[:, None]

    def targets(self, truth: "Tensor", logits: "Tensor") -> "Tensor":
        from torch.nn.functional import interpolate

        from eenet.data import NO_CLASS

        size = tuple(logits.shape[-2:])
        small = interpolate(truth[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        return small.masked_fill(small == NO_CLASS, IGNORED)

    def read(self, image: Any, config: Any) -> Seen:
        from eenet.data import scaled_to, size_for

        pixels_CHW, size = self.read_large(image, config)
        return Seen(scaled_to(pixels_CHW, size_for(size, min(config.input_size[1:]))), size)

    def prediction_of_tiles(
        self,
        probabilities: NDArray[np.float32],
        exits: list[list[int]],
        cost: float,
        size: tuple[int, int],
        config: Any,
    ) -> MaskPrediction:
        deepest = max(map(max, exits))
        return replace(self.prediction(probabilities, deepest, cost, size, config), tile_exits=exits)

    def explained(self, config: Any) -> dict[str, str]:
        resize = f"scale, antialiased, until the shorter side is {min(config.input_size[1:])}; keep the shape"
        return {
            "resize": self.steps(config, resize),
            "answer": "probabilities [B, N, h, w] of the classes, coarser than the image: bring their "
            "logarithms to its size bilinearly; the largest is the pixel's class",
        }

    def prediction(
        self,
        probabilities: NDArray[np.float32],
        exit_index: int,
        cost: float,
        size: tuple[int, int],
        config: Any,
    ) -> MaskPrediction:
        names = config.named_classes
        return MaskPrediction(exit_index, cost, size, probabilities, names)

    def output_shapes(self, config: Any) -> dict[str, list[int]]:  # noqa: ARG002
        return {"mask": [-1, -1]}

    def output(
        self,
        name: str,  # noqa: ARG002
        answers: NDArray[np.float32],
        exits_B: NDArray[np.integer],  # noqa: ARG002
        size: tuple[int, int],
        config: Any,  # noqa: ARG002
    ) -> NDArray[Any] | list[str]:
        return np.stack([class_map(logarithm(answer_Nhw), size) for answer_Nhw in answers])

    def told(self, found: MaskPrediction, image: Any = None) -> dict[str, Any]:
        said = {"shares": found.shares, "mask": png_uri(found.picture())}
        return said if image is None else {**said, "picture": data_uri(found.overlay(image), thumbnail=SHOWN)}

    def row(self, found: MaskPrediction, likeliest: int) -> dict[str, Any]:  # noqa: ARG002
        return {"exit": found.exit, "relative_cost": found.relative_cost, "shares": found.shares}

    def draw(self, found: MaskPrediction, image: Any, target: Path) -> dict[str, Any]:
        mask, shown = (target.with_name(target.name + ending) for ending in (".png", "-overlay.jpg"))
        found.picture().save(mask)
        found.overlay(image).save(shown, quality=90)
        return {"mask": str(mask), "overlay": str(shown)}

    def columns(self, likeliest: int) -> list[str]:  # noqa: ARG002
        return ["file", "exit", "relative_cost", "mask", "overlay", "error"]

    def collect(
        self, network: Any, images: Any, batch_size: int, advance: Callable[[int], Any]
    ) -> SegmentationRecords:
        config, exits = network.config, network.num_exits
        classes, count = config.num_classes, len(images)
        confusion_KBNN = np.zeros((exits + 1, count, classes, classes), np.uint32)
        near_KB2 = np.zeros((exits + 1, count, 2), np.uint32)
        scores_SKB = np.zeros((len(RECORDED), exits, count), np.float32)
        agreement_KKB = np.zeros((exits, exits, count), np.float32)
        confidence_logits_KB = np.zeros((exits, count), np.float32)
        for rows, pixels_BCHW, masks in images.buckets(min(batch_size, TOGETHER)):
            logits_KBNhw, said_KB = network.answers(pixels_BCHW)
            confidence_logits_KB[:, rows] = said_KB
            for k in range(exits):
                for s, score in enumerate(RECORDED):
                    scores_SKB[s, k, rows] = score_of(score, logits_KBNhw[k : k + 1], said_KB[k : k + 1])
                for j in range(k):
                    seen = [j, k]
                    agreement_KKB[k, j, rows] = score_of("agreement", [*logits_KBNhw[seen]], [*said_KB[seen]])
            for i, (row, mask_HW) in enumerate(zip(rows, masks, strict=True)):
                if not images.labelled:  # then the final exit says what is true
                    mask_HW = class_map(logits_KBNhw[-1][i], mask_HW.shape)
                near_HW = near_boundaries(mask_HW, classes)
                for k, logits_BNhw in enumerate(logits_KBNhw):
                    answer_HW = class_map(logits_BNhw[i], mask_HW.shape)
                    confusion_KBNN[k, row] = confusion(mask_HW, answer_HW, classes)
                    near_KB2[k, row] = (near_HW & (answer_HW != mask_HW)).sum(), near_HW.sum()
            advance(len(rows))
        return SegmentationRecords(
            confusion_KBNN,
            scores_SKB,
            agreement_KKB,
            confidence_logits_KB,
            config.stage_macs,
            config.head_macs,
            config.backbone_macs,
            config.class_names or images.class_names,
            near_KB2,
            images.form.block,
        )

    def measure(self, records: SegmentationRecords, policy: ExitPolicy) -> SegmentationEvaluation:
        return measure_masks(records, policy)

    def evaluate(self, records: SegmentationRecords, policy: ExitPolicy) -> SegmentationEvaluation:
        return measure_masks(records, policy, sure=True)

    def intervals(self, records: SegmentationRecords, policy: ExitPolicy) -> dict[str, tuple[float, float]]:
        found = bootstrap(records, policy)
        return {name: found[name] for name in ("miou", "relative_cost")}

    def loss(self, records: SegmentationRecords, policy: ExitPolicy) -> Loss:
        return loss_of_masks(records, policy)

    def by_class(
        self, records: SegmentationRecords, policy: ExitPolicy, class_names: Sequence[str]
    ) -> dict[str, float]:
        return iou_by_class(records, policy, class_names)

    def load_records(self, path: Path) -> SegmentationRecords:
        return SegmentationRecords.load(path)

    def kept_records(self, path: Path, images: Any) -> SegmentationRecords | None:
        records = SegmentationRecords.load(path)
        pixels_N = records.confusion_KBNN[-1].sum((0, 2))
        same = len(records) == len(images) and np.array_equal(pixels_N, images.class_counts())
        return records if same else None

    def exits_shown(self, records: SegmentationRecords, policy: ExitPolicy) -> dict[str, Any]:  # noqa: ARG002
        return exits_shown(records)

    def policy_shown(self, records: SegmentationRecords, policy: ExitPolicy) -> dict[str, Any]:
        return policy_shown(records, policy)

    def figures(
        self,
        records: SegmentationRecords,
        policy: ExitPolicy,
        images: Any,
        members: Sequence[int],
        network: Any,
    ) -> list[dict[str, Any]]:
        return masks_shown(records, policy, images, members, network)
