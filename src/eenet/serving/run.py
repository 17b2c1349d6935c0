"""Start the server: load the models, listen, drain on SIGTERM, load again on SIGHUP."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from eenet.serving.app import create_app
from eenet.serving.guard import Limits, impatient, log, log_as_json
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServeOptions
from eenet.serving.models import Models, named_checkpoints

TOKEN_VARIABLE = "EENET_TOKEN"
DRAIN_SECONDS = 60
SWITCH_SECONDS = 1e-4  # in which a batch that is done gets Python's lock; by default 5 ms


def serve(
    checkpoints: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: str | None = None,
    batch_size: int = 32,
    most_waiting: int = 256,
    data: str | None = None,
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
        batch_size: images that run together, at most.
        most_waiting: images accepted and not answered yet; more get 503.
        data: whose validation images tell accuracies and what images look like. Default: records that
            training left.
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
    options = ServeOptions(
        backend=backend,
        batch_size=batch_size,
        most_waiting=most_waiting,
        data=data,
        accuracy_floor=accuracy_floor,
    )
    limits = Limits(body_bytes=max_megabytes * 2**20, body_seconds=timeout, answer_seconds=timeout)
    token_file = Path(token_file) if token_file else None
    token = (token_file.read_text() if token_file else os.environ.get(TOKEN_VARIABLE, "")).strip() or None
    if token_file and not token:
        raise ValueError(f"{token_file} holds no token")
    sys.setswitchinterval(SWITCH_SECONDS)
    with _bound(host, port) as listening:
        metrics = Metrics()
        models = Models(named_checkpoints(list(map(str, checkpoints))), options, metrics)
        log_as_json()
        config = uvicorn.Config(
            create_app(models, metrics, limits, token),
            http=impatient(limits.body_seconds),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        address = f"http://{host}:{listening.getsockname()[1]}"
        print(f"{', '.join(models.names)} at {address}", file=sys.stderr, flush=True)
        if hasattr(signal, "SIGHUP"):
            signal.signal(
                signal.SIGHUP, lambda *_: threading.Thread(target=_load_all, args=(models,)).start()
            )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has drained
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            models.close()


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


def _load_all(models: Models) -> None:
    for name in models.names:
        try:
            models.load(name)
            log.info("loaded again", extra={"model": name})
        except (OSError, ValueError) as error:
            log.error("can't be loaded again; the old one stays", extra={"model": name, "error": str(error)})
