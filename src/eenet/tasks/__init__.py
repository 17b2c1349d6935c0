"""What an exit answers and how good that is: head, loss, records, metric, answers as labels or masks."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.tasks.classification.diagnostics import (
        DiagnosedEvaluation,
        Diagnosis,
        diagnose,
        expected_calibration_error,
        reliability,
    )
    from eenet.tasks.classification.heads import HEADS, ExitHead, create_head
    from eenet.tasks.classification.metrics import (
        Evaluation,
        accuracy_cost_curve,
        expected_accuracy,
        paired_loss,
    )
    from eenet.tasks.classification.prediction import Prediction
    from eenet.tasks.detection.boxes import BOX_CANDIDATES, SAME_OBJECT
    from eenet.tasks.detection.metrics import DetectionEvaluation
    from eenet.tasks.detection.prediction import BoxPrediction
    from eenet.tasks.detection.records import DetectionRecords
    from eenet.tasks.handed import AnyPrediction, Parts, Seen, refuse
    from eenet.tasks.known import TASKS, measure, task_of
    from eenet.tasks.measured import Loss, Measured, named_exits
    from eenet.tasks.pages import MATRIX_UP_TO
    from eenet.tasks.segmentation.metrics import SegmentationEvaluation, bootstrap
    from eenet.tasks.segmentation.prediction import MaskPrediction
    from eenet.tasks.segmentation.records import SegmentationRecords
    from eenet.tasks.task import Task

__getattr__, __dir__ = lazy_names(__name__)
