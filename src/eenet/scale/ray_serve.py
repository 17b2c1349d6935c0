"""The server for Ray Serve: `serve run eenet.scale.ray_serve:app checkpoints=digits-eenet8`."""

import json
import os
import re
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eenet.common import require
from eenet.networks import open_network
from eenet.policies import ExitPolicy
from eenet.runtime import segments_of
from eenet.scale.session import ray_library
from eenet.scale.staged import SegmentServer, StagedEngine
from eenet.serving import (
    DRAIN_SECONDS,
    TOKEN_VARIABLE,
    App,
    Limits,
    Metrics,
    Models,
    Receive,
    Scope,
    Send,
    ServeOptions,
    create_app,
    named_checkpoints,
    served_policy,
)

LOAD = re.compile(r"/v2/repository/models/[^/]+/load")
NO_LOAD = "replicas load models when they start; roll a new checkpoint out with `serve deploy`"


class Arguments(BaseModel):
    """What the application is started with: `name=value` of `serve run`, or `args` of a configuration."""

    model_config = ConfigDict(extra="forbid")

    checkpoints: str
    """Directories or names, separated by commas; they are there on every machine."""
    by: Literal["network", "stage"] = "network"
    """`network`: a replica runs all segments. `stage`: each segment has replicas of its own."""
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    """Of every deployment; as many as requests need."""
    cpus: float = Field(default=1.0, gt=0)
    """Of a replica."""
    batch_size: int = Field(default=32, ge=1)
    """Images that run together, at most; so many requests in a replica ask for another one."""
    most_waiting: int = Field(default=256, ge=1)
    """Images accepted by a replica and not answered yet; more get 503."""
    backend: str | None = None
    """See `eenet.Predictor`; by stage ONNX Runtime."""
    accuracy_floor: float | None = None
    """See `eenet.serve`."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds for a request to arrive, and to be answered."""
    max_megabytes: int = Field(default=32, ge=1)
    """Of a request."""


class Server:
    """A replica: the routes of `eenet serve`. With handles of first segments it runs no network itself."""

    def __init__(self, arguments: dict[str, Any], firsts: dict[str, Any] | None = None) -> None:
        """Load all models; `firsts`: by model, if segments are served apart."""
        given = Arguments(**arguments)
        self._metrics = Metrics()
        options = ServeOptions(
            backend=given.backend,
            batch_size=given.batch_size,
            most_waiting=given.most_waiting,
            workers=max(1, int(given.cpus)),
            accuracy_floor=given.accuracy_floor,
        )
        if firsts is not None:

            def staged(name: str, policy: ExitPolicy) -> StagedEngine:
                return StagedEngine(firsts[name], policy, given.most_waiting)

            options = replace(options, engine=staged)
        self._models = Models(_named(given), options, self._metrics)
        bytes_, seconds = given.max_megabytes * 2**20, given.timeout
        self._limits = Limits(body_bytes=bytes_, body_seconds=seconds, answer_seconds=seconds)

    def __serve_build_asgi_app__(self) -> App:
        token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
        return _Replica(create_app(self._models, self._metrics, self._limits, token))

    def __del__(self) -> None:
        """Ray has waited for the requests; what is inside of the engines is finished."""
        if hasattr(self, "_models"):
            self._models.close()


class _Replica:
    """ASGI middleware: one of several replicas can't load a model for all."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and LOAD.fullmatch(scope["path"]):
            text = json.dumps({"error": NO_LOAD}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
            await send({"type": "http.response.start", "status": 501, "headers": headers})
            await send({"type": "http.response.body", "body": text})
            return
        await self._app(scope, receive, send)


def app(arguments: Arguments) -> Any:
    """The application, to be given to `serve.run` or named in a configuration.

    Raises:
        FileNotFoundError, ValueError: a checkpoint can't be read, or arguments don't fit.
    """
    if arguments.by == "stage" and arguments.backend not in (None, "onnxruntime"):
        raise ValueError(f"by stage networks run on onnxruntime, not {arguments.backend}")
    least, most = arguments.min_replicas, arguments.max_replicas
    if most < least:
        raise ValueError(f"max_replicas is {most}; give at least min_replicas, {least}")
    named = _named(arguments)
    configs = {name: open_network(checkpoint).config for name, checkpoint in named.items()}
    for config in configs.values():
        config.must_support("serving by stage" if arguments.by == "stage" else "serve")
    ray_library()
    serve = require("ray.serve", "serving with Ray", "scale")
    scaled: dict[str, Any] = {
        "max_ongoing_requests": arguments.most_waiting,
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": arguments.batch_size,
        },
        "graceful_shutdown_timeout_s": DRAIN_SECONDS,
        "ray_actor_options": {"num_cpus": arguments.cpus},
    }
    server = serve.deployment(serve.ingress()(Server), name="server", **scaled)
    given = arguments.model_dump()
    if arguments.by == "network":
        return server.bind(given)
    firsts = {}
    for name, checkpoint in named.items():
        following = None
        segments = segments_of(served_policy(configs[name]), configs[name].ensemble)
        for index in reversed(range(len(segments))):
            segment = serve.deployment(SegmentServer, name=f"{name}-segment-{index}", **scaled)
            following = segment.bind(str(checkpoint), index, arguments.batch_size, following)
        firsts[name] = following
    return server.bind(given, firsts)


def _named(arguments: Arguments) -> dict[str, Any]:
    return named_checkpoints([name.strip() for name in arguments.checkpoints.split(",") if name.strip()])
