"""Object detection as a task: boxes around objects."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.data import GREY, MULTIPLE
from eenet.policies import ExitPolicy, box_scores, decide, score_of
from eenet.tasks.dense import TOGETHER, WITHOUT, DenseTask
from eenet.tasks.detection.boxes import MOST, SAME_OBJECT, answers_of, boxes_of, logits_of
from eenet.tasks.detection.metrics import (
    DetectionEvaluation,
    ap_by_class,
    bootstrap_boxes,
    loss_of_boxes,
    measure_boxes,
)
from eenet.tasks.detection.precision import SIZES, believed, matched
from eenet.tasks.detection.prediction import SHOWN, BoxPrediction, as_coco
from eenet.tasks.detection.records import STATISTICS, DetectionRecords
from eenet.tasks.detection.showing import answer_and_truth, exits_shown, policy_shown
from eenet.tasks.handed import Parts, Seen, width_in
from eenet.tasks.measured import Loss
from eenet.tasks.pages import data_uri

if TYPE_CHECKING:
    from torch import Tensor

    from eenet.backbones import TracedBackbone

PICTURE = 640  # pixels of a picture's longer side on a page
STRIDE = 8  # of the decoder's state, unless the settings say 4
STRIDES = (4, 8, 16)


class Detection(DenseTask):
    """The backbone's classifier gives way to a decoder; a record keeps which boxes of every exit hit."""

    name: ClassVar[str] = "detection"
    metric: ClassVar[str] = DetectionEvaluation.metric
    head: ClassVar[str] = "boxes"
    cross_entropy: ClassVar[bool] = False
    outputs: ClassVar[Mapping[str, str]] = {"boxes": "FP32", "scores": "FP32", "classes": "INT64"}
    counted: ClassVar[str] = "objects"
    pictured: ClassVar[str] = "Left: the answer, right: the truth."
    settings: ClassVar[Sequence[str]] = ("width", "stride", "most", "scales", "standardise")
    truths: ClassVar[str] = "boxes lie in the column objects, or in files beside images"
    row_suffixes: ClassVar[Sequence[str]] = (*DenseTask.row_suffixes, ".json")
    unsupported: ClassVar[Mapping[str, str]] = dict.fromkeys((*WITHOUT, "--tile", "fp16", "sweep"), "")

    def load(self, name: str, split: str, **options: Any) -> Any:
        from eenet.data import load_boxes

        return load_boxes(name, split, **self.without_columns(options))

    def images_alone(self, directory: Path, class_names: Sequence[str], **how: Any) -> Any | None:
        from eenet.data import images_without_boxes

        return images_without_boxes(directory, class_names, side=max(how.pop("size")), **how)

    def batches(self, images: Any, batch_size: int, augmentation: Any, **which: Any) -> Iterator[Any]:
        from eenet.data import box_batches

        return box_batches(images, batch_size, augmentation, **which)

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
        from eenet.tasks.decoder import dense_parts
        from eenet.tasks.detection.head import BoxAnswer, BoxGate

        if num_classes is None or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give how many kinds of objects there are")
        self.must_have(head, gate)
        width, stride = width_in(settings), settings.setdefault("stride", STRIDE)
        most = settings.setdefault("most", MOST)
        if stride not in STRIDES:
            raise ValueError(f"stride is {stride!r}; boxes are found at one of {str(STRIDES)[1:-1]}")
        if type(most) is not int or most < 1:
            raise ValueError(f"most is {most!r}; boxes of an image are a whole number above 0")
        return dense_parts(
            traced,
            chosen,
            answer=lambda: BoxAnswer(width, num_classes),
            gate=BoxGate,
            gate_macs=len(STATISTICS),
            width=width,
            finest=stride,
            prove=prove,
        )

    def targets(self, truth: "Tensor", logits: "Tensor") -> "Tensor":
        from eenet.tasks.detection.head import assigned

        return assigned(truth, (logits.shape[-2], logits.shape[-1]))

    def exit_loss(self) -> "Callable[[Tensor, Tensor], Tensor]":
        from eenet.tasks.detection.head import detection_loss

        return detection_loss

    def channels(self, num_classes: int) -> int:
        return num_classes + 4

    def answered(self, logits: "Tensor") -> "Tensor":
        from eenet.tasks.detection.head import answered

        return answered(logits)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return answers_of(logits)

    def unanswered(self, answers: NDArray[np.float32]) -> NDArray[np.float32]:
        return logits_of(answers)

    def scores(self) -> list[str]:
        return box_scores()

    def read(self, image: Any, config: Any) -> Seen:
        from eenet.data import letterboxed

        pixels_CHW, size = self.read_large(image, config)
        return Seen(letterboxed(pixels_CHW, max(config.input_size[1:])), size)

    def explained(self, config: Any) -> dict[str, str]:
        resize = (
            f"scale, antialiased, until the longer side is {max(config.input_size[1:])}; keep the shape; add "
            f"grey {GREY} below and on the right up to multiples of {MULTIPLE}"
        )
        return {
            "resize": self.steps(config, resize),
            "answer": "for every place [B, N + 4, h, w] the probabilities of the classes, and the distances "
            "from its middle to the left, top, right and bottom of a box, in places; of boxes of one class "
            f"that overlap by more than {SAME_OBJECT} the surest stays",
        }

    def prediction(
        self,
        probabilities: NDArray[np.float32],
        exit_index: int,
        cost: float,
        size: tuple[int, int],
        config: Any,
    ) -> BoxPrediction:
        names = config.named_classes
        scales = config.task_settings.get("scales")
        return BoxPrediction(
            exit_index,
            cost,
            size,
            probabilities,
            max(config.input_size[1:]),
            names,
            config.task_settings["most"],
            scales[exit_index] if scales else (1.0, 0.0),
        )

    def output_shapes(self, config: Any) -> dict[str, list[int]]:
        most = config.task_settings["most"]
        return {"boxes": [most, 4], "scores": [most], "classes": [most]}

    def output(
        self,
        name: str,
        answers: NDArray[np.float32],
        exits_B: NDArray[np.integer],
        size: tuple[int, int],
        config: Any,
    ) -> NDArray[Any] | list[str]:
        """Filled up to as many as there may be: boxes with zeros, classes with -1."""
        shape = self.output_shapes(config)[name]
        dtype = np.int64 if name == "classes" else np.float32
        filled = np.full((len(answers), *shape), -1 if name == "classes" else 0, dtype)
        for row, answer_Chw, exit_index in zip(filled, answers, exits_B.tolist(), strict=True):
            boxes = self.prediction(answer_Chw, exit_index, 0.0, size, config).boxes
            found = dict(zip(self.outputs, boxes, strict=True))[name]
            row[: len(found)] = found
        return filled

    def told(self, found: BoxPrediction, image: Any = None) -> dict[str, Any]:
        said = {"objects": found.objects, "counts": found.counts}
        return said if image is None else {**said, "picture": data_uri(found.drawn(image), thumbnail=PICTURE)}

    def row(self, found: BoxPrediction, likeliest: int) -> dict[str, Any]:  # noqa: ARG002
        return {**found.to_dict(), "size": [*found.size]}

    def draw(self, found: BoxPrediction, image: Any, target: Path) -> dict[str, Any]:
        picture = target.with_name(f"{target.name}-boxes.jpg")
        found.drawn(image).save(picture, quality=90)
        return {"picture": str(picture)}

    def columns(self, likeliest: int) -> list[str]:  # noqa: ARG002
        return ["file", "exit", "relative_cost", "size", "objects", "picture", "error"]

    def document(self, rows: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
        return as_coco(rows, class_names)

    def collect(
        self, network: Any, images: Any, batch_size: int, advance: Callable[[int], Any]
    ) -> DetectionRecords:
        config, exits, count = network.config, network.num_exits, len(images)
        longer, most = max(config.input_size[1:]), config.task_settings["most"]
        statistics_SKB = np.zeros((len(STATISTICS), exits, count), np.float32)
        confidence_logits_KB = np.zeros((exits, count), np.float32)
        truths_ABN = np.zeros((len(SIZES), count, config.num_classes), np.uint16)
        found: list[list[Any]] = [[None] * count for _ in range(exits + 1)]
        for rows, pixels_BCHW, truths in images.buckets(min(batch_size, TOGETHER)):
            logits_KBChw, said_KB = network.answers(pixels_BCHW)
            confidence_logits_KB[:, rows] = said_KB
            for k in range(exits):
                for s, score in enumerate(STATISTICS):
                    one = logits_KBChw[k : k + 1], said_KB[k : k + 1]
                    statistics_SKB[s, k, rows] = score_of(score, *one)
            sizes = [objects.size for objects in truths]
            boxes_KB = [
                [boxes_of(answer, size, longer, most) for answer, size in zip(answers, sizes, strict=True)]
                for answers in answers_of(logits_KBChw)
            ]
            if not images.labelled:  # then the final exit says what is there
                truths = [
                    believed(boxes.only(boxes.scores_M >= SHOWN), size)
                    for boxes, size in zip(boxes_KB[-1], sizes, strict=True)
                ]
            for k, boxes_B in enumerate(boxes_KB):
                for row, boxes, objects in zip(rows, boxes_B, truths, strict=True):
                    hits = matched(boxes, objects, config.num_classes)
                    truths_ABN[:, row] = hits.truths_AN
                    found[k][row] = boxes.scores_M, boxes.labels_M, hits.hits_AM, hits.idle_AM
            advance(len(rows))
        scores, labels, hit, idle = zip(*(each for of_exit in found for each in of_exit), strict=True)
        counts = np.array([len(each) for each in scores], np.uint16).reshape(exits + 1, count)
        return DetectionRecords(
            counts,
            np.concatenate(scores).astype(np.float32),
            np.concatenate(labels).astype(np.uint16),
            np.concatenate(hit, 1),
            np.concatenate(idle, 1),
            truths_ABN,
            statistics_SKB,
            confidence_logits_KB,
            config.stage_macs,
            config.head_macs,
            config.backbone_macs,
            config.class_names or images.class_names,
            config.task_settings.get("scales"),
        )

    def measure(self, records: DetectionRecords, policy: ExitPolicy) -> DetectionEvaluation:
        return measure_boxes(records, policy)

    def evaluate(self, records: DetectionRecords, policy: ExitPolicy) -> DetectionEvaluation:
        return measure_boxes(records, policy, sure=True)

    def intervals(self, records: DetectionRecords, policy: ExitPolicy) -> dict[str, tuple[float, float]]:
        found = bootstrap_boxes(records, policy)
        return {name: found[name] for name in ("map", "relative_cost")}

    def loss(self, records: DetectionRecords, policy: ExitPolicy) -> Loss:
        return loss_of_boxes(records, policy)

    def by_class(
        self, records: DetectionRecords, policy: ExitPolicy, class_names: Sequence[str]
    ) -> dict[str, float]:
        return ap_by_class(records, policy, class_names)

    def load_records(self, path: Path) -> DetectionRecords:
        return DetectionRecords.load(path)

    def kept_records(self, path: Path, images: Any) -> DetectionRecords | None:
        records = DetectionRecords.load(path)
        return records if len(records) == len(images) else None

    def exits_shown(self, records: DetectionRecords, policy: ExitPolicy) -> dict[str, Any]:  # noqa: ARG002
        return exits_shown(records)

    def policy_shown(self, records: DetectionRecords, policy: ExitPolicy) -> dict[str, Any]:
        return policy_shown(records, policy)

    def figures(
        self,
        records: DetectionRecords,
        policy: ExitPolicy,
        images: Any,
        members: Sequence[int],
        network: Any,
    ) -> list[dict[str, Any]]:
        exits_B, shown = decide(records, policy), []
        for i in members:
            pixels_CHW, objects = images.pair(i)
            logits_KBChw, _ = network.answers(images.scaled(i)[0][None])
            answer_Chw, exit_index = answers_of(logits_KBChw[exits_B[i], 0]), int(exits_B[i])
            found = self.prediction(answer_Chw, exit_index, 0.0, objects.size, network.config)
            image = pixels_CHW.transpose(1, 2, 0)
            shown.append(answer_and_truth(image, found.above(SHOWN), objects, images.class_names))
        return shown
