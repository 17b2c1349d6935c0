"""From a recipe to a checkpoint: objectives, the loop, its state, the run, sweeps, calibration."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.training.calibrating import Calibration, calibrate
    from eenet.training.objectives import OBJECTIVES
    from eenet.training.planning.choosing import default_directory
    from eenet.training.planning.seeds import SeedsResult, train_seeds
    from eenet.training.planning.settings import TrainConfig
    from eenet.training.planning.starting import start_of
    from eenet.training.planning.wording import RUN_FILE, parsed, read_run, typed
    from eenet.training.recipes import RECIPES, Names, get_recipe, list_names, retrofit
    from eenet.training.run import TrainResult, conclude, train
    from eenet.training.state import STATE_FILE, prepare
    from eenet.training.sweeping import (
        PICTURE_FILE,
        TABLE_FILE,
        Space,
        SweepRow,
        sweep,
        sweep_directory,
        sweep_table,
    )
    from eenet.training.trainer import process_state

__getattr__, __dir__ = lazy_names(__name__)
