"""A network on a data set: records, metrics, diagnosis, shift, drift, times, the report."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.evaluation.benching import Bench, bench, pace
    from eenet.evaluation.drift import DriftMonitor, depth, depths_of
    from eenet.evaluation.evaluating import as_images, check_fit, collect, evaluate
    from eenet.evaluation.page import EXIT_COLOURS, PLOTLY, asset, build_report, document
    from eenet.evaluation.reporting import Report, about_run, report, report_entry
    from eenet.evaluation.shift import ShiftRow, evaluate_under_corruptions, shift_table
    from eenet.tasks import (
        DiagnosedEvaluation,
        Diagnosis,
        Evaluation,
        Measured,
        accuracy_cost_curve,
        diagnose,
        measure,
        named_exits,
    )

__getattr__, __dir__ = lazy_names(__name__)
