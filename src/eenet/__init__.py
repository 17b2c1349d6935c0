"""Early-exit convolutional networks: any CNN in, a trained early-exit network out.

    >>> import eenet
    >>> network = eenet.create_model("resnet20_cifar", num_classes=10, in_chans=3, num_exits=3)
    >>> len(network.costs_K)  # three early exits and the final one
    4
    >>> found = eenet.evaluate("digits-eenet8", data="digits", budget=0.5)
    >>> found.num_examples
    360

With a network and photos of your own:

    network = eenet.convert(my_cnn, (3, 224, 224), num_exits=4)
    eenet.train(data="photos", model=my_cnn, out="runs/photos")  # exits; the network stays as it is
    eenet.Predictor("runs/photos", budget=0.5).predict("cat.jpg")

Every verb of the command line is a function here, with the same name and the same inputs. Where a verb takes
a checkpoint, the function also takes a network in memory: `train` (`train_seeds`), `evaluate` (`eenet eval`),
`predict`, `batch`, `calibrate`, `bench`, `cascade`, `export`, `report`, `sweep`, `optimize`, `serve`, `info`,
`list_names` (`eenet list`). What they return prints as a table, and has `to_dict`, which is what `--json`
prints.

Records are what every exit said about every image: `collect` a network's, then `evaluate(records, policy)`
as often as you like, `records.to_numpy()`, `records.to_pandas()`, `policies.fit(records, budget)`. Parts of
your own are added with `register`. What isn't named here is private.

After "Early-exit Convolutional Neural Networks", Demir & Akbas, arXiv 2409.05336.
"""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:  # imported on first use: torch and timm take seconds, and `eenet --help` needs neither
    from eenet.backbones import Cut, check_backbone
    from eenet.common import register
    from eenet.compress import prune
    from eenet.data import DataInfo, Images, from_dataset
    from eenet.evaluation import (
        Bench,
        DiagnosedEvaluation,
        Diagnosis,
        DriftMonitor,
        Evaluation,
        Report,
        ShiftRow,
        accuracy_cost_curve,
        bench,
        collect,
        diagnose,
        evaluate,
        evaluate_under_corruptions,
        report,
        shift_table,
    )
    from eenet.exporting import Export, export
    from eenet.networks import BackboneInfo, CheckpointInfo, EENet, ExitOutputs, convert, create_model, info
    from eenet.optimizing import Optimized, OptimizedRow, cascade, optimize
    from eenet.policies import (
        ExitPolicy,
        Fitted,
        Guarantee,
        Records,
        policy_for_budget,
        policy_for_drop,
        policy_for_risk,
    )
    from eenet.runtime import BenchRow, FilePrediction, Prediction, Predictor, predict, predict_each
    from eenet.scale import BatchResult, batch
    from eenet.serving import serve
    from eenet.tasks import (
        BoxPrediction,
        DetectionEvaluation,
        DetectionRecords,
        MaskPrediction,
        SegmentationEvaluation,
        SegmentationRecords,
    )
    from eenet.training import (
        Calibration,
        Names,
        SeedsResult,
        SweepRow,
        TrainConfig,
        TrainResult,
        calibrate,
        get_recipe,
        list_names,
        sweep,
        train,
        train_seeds,
    )

__all__ = [
    # verbs
    "batch",
    "bench",
    "calibrate",
    "cascade",
    "evaluate",
    "evaluate_under_corruptions",
    "export",
    "info",
    "list_names",
    "optimize",
    "predict",
    "predict_each",
    "report",
    "serve",
    "sweep",
    "train",
    "train_seeds",
    # networks
    "Cut",
    "EENet",
    "ExitOutputs",
    "Predictor",
    "check_backbone",
    "convert",
    "create_model",
    "prune",
    # data and runs
    "Images",
    "TrainConfig",
    "from_dataset",
    "get_recipe",
    # records and policies
    "DriftMonitor",
    "ExitPolicy",
    "Fitted",
    "Guarantee",
    "Records",
    "accuracy_cost_curve",
    "collect",
    "diagnose",
    "policy_for_budget",
    "policy_for_drop",
    "policy_for_risk",
    # extension
    "register",
    # results
    "BackboneInfo",
    "BatchResult",
    "Bench",
    "BenchRow",
    "BoxPrediction",
    "Calibration",
    "CheckpointInfo",
    "DataInfo",
    "DetectionEvaluation",
    "DetectionRecords",
    "DiagnosedEvaluation",
    "Diagnosis",
    "Evaluation",
    "Export",
    "FilePrediction",
    "MaskPrediction",
    "Names",
    "Optimized",
    "OptimizedRow",
    "Prediction",
    "Report",
    "SeedsResult",
    "SegmentationEvaluation",
    "SegmentationRecords",
    "ShiftRow",
    "SweepRow",
    "TrainResult",
    "shift_table",
]

__getattr__, __dir__ = lazy_names(__name__)
