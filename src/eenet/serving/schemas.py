"""What requests and responses look like, for FastAPI and its OpenAPI page."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Query
from numpy.typing import NDArray
from pydantic import BaseModel

from eenet.runtime import Answers
from eenet.serving.model import ServedModel
from eenet.serving.protocol.tensors import DATATYPES, INPUT, OUTPUTS
from eenet.tasks import TASKS

MOST_TOLD, FEW = 100, 5  # with more classes, without `top_k`, only the probabilities of the few likeliest


class Problem(BaseModel):
    """What went wrong."""

    error: str


class Found(BaseModel):
    """The answer for one image."""

    file: str | None
    """Its name in the form; none for an image that is the body."""
    label: str
    class_index: int
    probability: float
    exit: int
    """Number of the exit the image left at, from 0."""
    relative_cost: float
    """MACs spent / MACs of the plain backbone."""
    confidences: list[float]
    """What was compared with a threshold at every exit that was on its way."""
    probabilities: dict[str, float]
    """By class, in the order of the classes; with `top_k`, or of many classes, the likeliest first."""


class Classified(BaseModel):
    """Answers in the order of the images."""

    model: str
    policy: str
    """Whose thresholds were used: own, a budget, or a name."""
    thresholds: list[float | None]
    """By early exit; none: no image leaves there."""
    milliseconds: float
    """In the server, of all images together: from the whole request to its answer, decoding included."""
    network_milliseconds: float
    """Of those, in the network, waiting for others included."""
    predictions: list[Found]


class Predicted(BaseModel):
    """Answers of any task, in the order of the images."""

    model: str
    policy: str
    """Whose thresholds were used: own, a budget, or a name."""
    thresholds: list[float | None]
    """By early exit; none: no image leaves there."""
    milliseconds: float
    """In the server, of all images together: from the whole request to its answer, decoding included."""
    network_milliseconds: float
    """Of those, in the network, waiting for others included."""
    predictions: list[dict[str, Any]]
    """`file`, `exit`, `relative_cost`, `confidences` as of `/classify`, and what the task answers: of masks
    `shares` of the pixels by class, and the `mask`, a PNG as data URI; of boxes `objects`, each with `label`,
    `score` and `box`, and `counts` by class."""


class Metadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


class ServerMetadata(BaseModel):
    """The server's."""

    name: str
    version: str
    extensions: list[str]


Budget = Annotated[float | None, Query(description="wanted mean relative cost", gt=0, le=10)]
Policy = Annotated[str | None, Query(description="name of a policy of the checkpoint, or own")]
TopK = Annotated[
    int | None,
    Query(
        description="probabilities of so many of the likeliest classes; "
        f"by default of all, of {FEW} if there are more than {MOST_TOLD}",
        ge=1,
    ),
]
Deadline = Annotated[float | None, Query(description="milliseconds", gt=0, le=1e7)]

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "bad request",
        401: "no token",
        404: "no such model",
        408: "too slow",
        413: "too large",
        503: "no room, try again",
        504: "not done in time",
    }.items()
}
PIXELS = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                    "required": ["image"],
                }
            },
        },
    }
}
OUTPUT_NAMES = [name for outputs in (*(task.outputs for task in TASKS.values()), OUTPUTS) for name in outputs]
INFER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "budget": {"type": "number"},
                                "policy": {"type": "string"},
                                "deadline_ms": {"type": "number"},
                                "normalized": {"type": "boolean"},
                                "binary_data_output": {"type": "boolean"},
                            },
                        },
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape"],
                                "properties": {
                                    "name": {"const": INPUT},
                                    "datatype": {
                                        "enum": list(DATATYPES),
                                        "description": "; ".join(
                                            f"{name}: {meaning}" for name, meaning in DATATYPES.items()
                                        ),
                                    },
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": OUTPUT_NAMES}},
                            },
                        },
                    },
                }
            }
        },
    }
}


def _confidences(model: ServedModel, answers: Answers) -> NDArray[np.float32]:
    """At the exit that was taken; 1 at the final one."""
    assert answers.scores_BK is not None
    final = len(model.costs) - 1
    padded = np.concatenate([answers.scores_BK, np.ones((len(answers.exits_B), 1), np.float32)], axis=1)
    assert padded.shape[1] == final + 1
    return padded[np.arange(len(padded)), answers.exits_B]


def output_of(model: ServedModel, answers: Answers, name: str, size: tuple[int, int]) -> Any:
    """An output tensor for images that were of this (height, width); of BYTES a list of strings."""
    if name in OUTPUT_VALUES:
        return OUTPUT_VALUES[name](model, answers)
    return model.task.output(name, answers.probabilities_BN, answers.exits_B, size, model.config)


OUTPUT_VALUES: dict[str, Callable[[ServedModel, Answers], Any]] = {
    "exit_index": lambda _, answers: answers.exits_B,
    "confidence": _confidences,
    "relative_cost": lambda model, answers: np.array(
        [model.costs[k] for k in answers.exits_B.tolist()], np.float32
    ),
}


def found_by(
    model: ServedModel, answers: Answers, files: Sequence[str | None], top_k: int | None
) -> list[Found]:
    """Answers as they are told; `files` are the names of the images."""
    assert answers.scores_BK is not None
    if top_k is None and len(model.class_names) > MOST_TOLD:
        top_k = FEW
    found = []
    for file, values_N, scores_K, exit_index in zip(
        files, answers.probabilities_BN, answers.scores_BK, answers.exits_B.tolist(), strict=True
    ):
        best = int(values_N.argmax())
        told = (
            range(len(values_N)) if top_k is None else np.argsort(-values_N, kind="stable")[:top_k].tolist()
        )
        found.append(
            Found(
                file=file,
                label=model.class_names[best],
                class_index=best,
                probability=float(values_N[best]),
                exit=exit_index,
                relative_cost=model.costs[exit_index],
                confidences=[float(score) for score in scores_K if not math.isnan(score)],
                probabilities={model.class_names[n]: float(values_N[n]) for n in told},
            )
        )
    return found


def predicted(
    model: ServedModel, answers: Answers, file: str | None, size: tuple[int, int], image: Any
) -> dict[str, Any]:
    """The answer for one image that was of this (height, width), of any task."""
    assert answers.scores_BK is not None
    exit_index = int(answers.exits_B[0])
    cost = model.costs[exit_index]
    found = model.task.prediction(answers.probabilities_BN[0], exit_index, cost, size, model.config)
    confidences = [float(score) for score in answers.scores_BK[0] if not math.isnan(score)]
    told = {"file": file, "exit": exit_index, "relative_cost": cost, "confidences": confidences}
    return {**told, **model.task.told(found, image)}
