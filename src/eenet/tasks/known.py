"""The tasks there are, by name."""

import difflib
from typing import overload

from eenet.policies import AnyRecords, ExitPolicy, Records
from eenet.tasks.classification.metrics import Evaluation
from eenet.tasks.classification.task import Classification
from eenet.tasks.detection.task import Detection
from eenet.tasks.measured import Measured
from eenet.tasks.segmentation.task import Segmentation
from eenet.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Segmentation(), Detection())}


def task_of(name: str) -> Task:
    """A task by its name, as a configuration or records hold it.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(near or TASKS)}")
    return TASKS[name]


@overload
def measure(records: Records, policy: ExitPolicy) -> Evaluation: ...


@overload
def measure(records: AnyRecords, policy: ExitPolicy) -> Measured: ...


def measure(records: AnyRecords, policy: ExitPolicy) -> Measured:
    """What a policy does on recorded inputs, in the figures of their task.

    Raises:
        ValueError: there are none, or the policy is for another number of exits.
    """
    return task_of(records.task).measure(records, policy)
