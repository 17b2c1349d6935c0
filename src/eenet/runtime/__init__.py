"""A network → answers that really skip work: segments, backends, engines, and how long they take."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.runtime.backends.backend import Backend, Outputs
    from eenet.runtime.backends.choice import BACKENDS, create_backend, default_backend, installed, options_of
    from eenet.runtime.backends.exported import load_exported
    from eenet.runtime.backends.onnx_backend import session_of
    from eenet.runtime.backends.openvino_backend import read_openvino
    from eenet.runtime.backends.torch_backend import SegmentModule, examples, folded_segments
    from eenet.runtime.compacting import Answers, Carried, Parted, part, run_batch, run_segment
    from eenet.runtime.graphs.cutting import Cutter, inputs_and_outputs
    from eenet.runtime.graphs.nesting import nest, threshold_name
    from eenet.runtime.graphs.segments import Segment, segments_of
    from eenet.runtime.predicting import FilePrediction, predict, predict_each, prediction_lines
    from eenet.runtime.predictor import Predictor
    from eenet.runtime.queued import QueuedEngine
    from eenet.runtime.reference import run_one
    from eenet.runtime.requests import Awaited, Engine, EngineClosedError, Promise
    from eenet.runtime.timing import (
        BenchRow,
        Contender,
        StageTimes,
        mean_ms,
        spread,
        stage_times,
        time_network,
        timed,
        times_in_turn,
    )
    from eenet.tasks import Prediction

__getattr__, __dir__ = lazy_names(__name__)
