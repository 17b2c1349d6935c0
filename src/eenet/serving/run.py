"""Start the server: listen, load the models meanwhile, drain on SIGTERM, load again on SIGHUP.

What takes seconds to import is imported while the server already says that it lives.
"""

import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from eenet.networks import checkpoint_directory
from eenet.serving.guard import App, Guard, Limits, Receive, Scope, Send, impatient, log, log_as_json
from eenet.serving.metrics import Metrics

if TYPE_CHECKING:
    from eenet.serving.models import Models

TOKEN_VARIABLE = "EENET_TOKEN"
DRAIN_SECONDS = 60
SWITCH_SECONDS = 1e-4  # in which a batch that is done gets Python's lock; by default 5 ms


def serve(
    checkpoints: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: str | None = None,
    providers: Sequence[str] = (),
    batch_size: int = 32,
    most_waiting: int = 256,
    data: str | None = None,
    skip_damaged: bool = False,
    accuracy_floor: float | None = None,
    timeout: float = 30.0,
    max_megabytes: int = 32,
    token_file: str | Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then every request that was accepted is answered first.

    Args:
        checkpoints: directories or names, or directories of checkpoints.
        host: address to listen on; 0.0.0.0 for all of this machine's.
        port: 0 for any that is free.
        backend: see `eenet.Predictor`. Default: ONNX Runtime if it is installed, else torch.
        providers: of ONNX Runtime, see `eenet.Predictor`.
        batch_size: images that run together, at most.
        most_waiting: images accepted and not answered yet; more get 503.
        data: whose validation images tell accuracies and what images look like. Default: records that
            training left.
        skip_damaged: go on without image files of `data` that can't be read.
        accuracy_floor: while many wait, give way to cheaper budgets, down to this accuracy.
        timeout: seconds for a request to arrive, and to be answered.
        max_megabytes: of a request.
        token_file: holds the token that clients must bring. Default: the variable EENET_TOKEN, if it is set.

    Raises:
        FileNotFoundError, ValueError: a checkpoint can't be loaded; the token file is empty.
        OSError: the port is taken.
    """
    if isinstance(checkpoints, str | Path):
        checkpoints = [checkpoints]
    named = named_checkpoints(list(map(str, checkpoints)))
    for checkpoint in named.values():
        checkpoint_directory(checkpoint)  # a name that is wrong is told at once
    options = {
        "backend": backend,
        "providers": tuple(providers),
        "batch_size": batch_size,
        "most_waiting": most_waiting,
        "data": data,
        "skip_damaged": skip_damaged,
        "accuracy_floor": accuracy_floor,
    }
    limits = Limits(body_bytes=max_megabytes * 2**20, body_seconds=timeout, answer_seconds=timeout)
    token_file = Path(token_file) if token_file else None
    token = (token_file.read_text() if token_file else os.environ.get(TOKEN_VARIABLE, "")).strip() or None
    if token_file and not token:
        raise ValueError(f"{token_file} holds no token")
    sys.setswitchinterval(SWITCH_SECONDS)
    with _bound(host, port) as listening:
        listening.listen()
        address = f"{host}:{listening.getsockname()[1]}"
        print(f"listening on {address}, loading {', '.join(named)}", file=sys.stderr, flush=True)
        metrics = Metrics()
        door = _Door(Guard(_starting, limits, token, metrics))
        config = uvicorn.Config(
            door,
            http=impatient(limits.body_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        server = uvicorn.Server(config)
        loading = _Loading(server, door, partial(_load, named, options, metrics, limits, token), address)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=loading.again).start())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has drained
        try:
            loading.start()
            server.run(sockets=[listening])
        finally:
            loading.end()
        if loading.error is not None:
            raise loading.error


def named_checkpoints(given: list[str]) -> dict[str, str | Path]:
    """Names for what is to be served: a checkpoint by its last part, a directory of checkpoints by theirs.

    Raises:
        ValueError: nothing given, or two of the same name.
    """
    found: list[tuple[str, str | Path]] = []
    for one in given:
        inside = sorted(Path(one).glob("*/config.json")) if not (Path(one) / "config.json").exists() else []
        found += [(path.parent.name, path.parent) for path in inside] or [(Path(one).resolve().name, one)]
    names = [name for name, _ in found]
    if not names:
        raise ValueError("give at least one checkpoint to serve")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two checkpoints are named {', '.join(sorted(twice))}; rename a directory")
    return dict(found)


def _load(
    named: dict[str, str | Path],
    options: dict[str, Any],
    metrics: Metrics,
    limits: Limits,
    token: str | None,
    wanted: Callable[[], bool],
) -> "tuple[Models, App]":
    gc.disable()  # looking for garbage among what is imported takes half a second
    try:
        from eenet.serving.app import create_app
        from eenet.serving.model import ServeOptions
        from eenet.serving.models import Models
    finally:
        gc.enable()
        gc.freeze()
    models = Models(named, ServeOptions(**options), metrics, wanted=wanted)
    return models, create_app(models, metrics, limits, token)


class _Door:
    """An ASGI application behind which another one can be put."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def _starting(scope: Scope, _: Receive, send: Send) -> None:
    """What is said while models load: alive, but not ready."""
    answers = {"/v2/health/live": (200, {"live": True}), "/v2/health/ready": (503, {"ready": False})}
    status, said = answers.get(scope["path"], (503, {"error": "the models are being loaded; try again"}))
    text = json.dumps(said).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    headers += [(b"retry-after", b"1")] if status == 503 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class _Loading:
    """Loads the models in a thread of its own and opens the door, or stops the server."""

    def __init__(
        self,
        server: uvicorn.Server,
        door: _Door,
        load: "Callable[[Callable[[], bool]], tuple[Models, App]]",
        address: str,
    ) -> None:
        self.error: Exception | None = None
        self._server, self._door, self._load, self._address = server, door, load, address
        self._models: Models | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._models, app = self._load(lambda: not self._server.should_exit)
        except Exception as error:  # raised where `serve` was called
            self.error, self._server.should_exit = error, True
            return
        if not self._server.should_exit:
            log_as_json()
            self._door.app = app
            print(f"{', '.join(self._models.names)} at http://{self._address}", file=sys.stderr, flush=True)

    def again(self) -> None:
        """Load all models again; one that can't be loaded stays as it is."""
        for name in self._models.names if self._models else ():
            assert self._models is not None
            try:
                self._models.load(name)
                log.info("loaded again", extra={"model": name})
            except (OSError, ValueError) as error:
                log.error(
                    "can't be loaded again; the old one stays", extra={"model": name, "error": str(error)}
                )

    def end(self) -> None:
        """Finish what is inside."""
        self._thread.join()
        if self._models is not None:
            self._models.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket with the address, found to be free before a model is loaded."""
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        listening.close()
        raise OSError(f"can't listen on {host}:{port}: {error.strerror}") from error
    return listening
