"""Limits before anything is read: size and time of bodies, the token, a line in the log for each request."""

import asyncio
import hmac
import itertools
import json
import logging
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eenet.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/", "/page.js", "/page.css")  # no token needed
BODIES_AT_ONCE = 8  # times the largest body that is taken, held in memory at the same time
LINGER_SECONDS = 5.0  # that a refused body is let run out
LINGER_PAUSE = 1.0  # within that, if nothing comes
INTERNAL_ERROR = "internal error; the log has it under this request's id"

log = logging.getLogger("eenet.serving")


@dataclass(frozen=True)
class Limits:
    """What a client may do."""

    body_bytes: int = 32 * 2**20
    body_seconds: float = 30.0
    """For a request to arrive in full, head and body each."""
    answer_seconds: float = 30.0
    """For a request to be answered once it is here."""
    image_pixels: int = 25_000_000
    """Of an image to be decoded."""


class Guard:
    """ASGI middleware: hands a request on when it is allowed and all of it is here."""

    def __init__(self, app: App, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else f"Bearer {token}".encode()
        self._held = 0
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        scope.setdefault("state", {})["id"] = request_id = f"{self._prefix}-{next(self._numbers)}"

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._admit(scope, receive, noting)
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id})
            if not status:
                await _refuse(noting, _Refusal(500, INTERNAL_ERROR))
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._metrics.request(path, status)
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            fields |= {"ms": round(1e3 * (time.perf_counter() - start), 2), "request_id": request_id}
            log.info("request", extra=fields | scope["state"].get("said", {}))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._token):
                ask = ((b"www-authenticate", b"Bearer"),)
                refusal = _Refusal(401, "give the token: Authorization: Bearer ...", ask)
                await _refuse(send, refusal, receive)
                return
        most = self._limits.body_bytes
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > most:
            text = f"the body has {int(announced)} bytes; the most is {most}"
            await _refuse(send, _Refusal(413, text), receive)
            return
        body = bytearray()
        try:
            if await self._read(body, receive, send):
                await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    async def _read(self, body: bytearray, receive: Receive, send: Send) -> bool:
        """Whether all of the body came; if not, the client was told why or is gone."""
        most, seconds, more = self._limits.body_bytes, self._limits.body_seconds, True
        try:
            async with asyncio.timeout(seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    part, more = message.get("body", b""), message.get("more_body", False)
                    self._held += len(part)
                    body += part
                    if len(body) > most:
                        refusal = _Refusal(413, f"the body has more than {most} bytes")
                        break
                    if more and self._held > BODIES_AT_ONCE * most:
                        retry = ((b"retry-after", b"1"),)
                        refusal = _Refusal(503, "too many large requests at once", retry)
                        break
                else:
                    return True
        except TimeoutError:
            refusal = _Refusal(408, f"the body wasn't here after {seconds:g} seconds")
        self._held -= len(body)
        body.clear()  # not to be held while the client is told
        await _refuse(send, refusal, receive if more else None)
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body already read, then what comes after."""
    given = False

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


class _Refusal(NamedTuple):
    status: int
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def _refuse(send: Send, refusal: _Refusal, rest: Receive | None = None) -> None:
    """An error, after which the connection is closed.

    `rest`: gives what of the body may still be on its way. It is thrown away for a while before
    closing: a socket closed with bytes unread is reset, and the client may never see the answer
    (RFC 9112, section 9.6).
    """
    text = json.dumps({"error": refusal.message}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    head += [(b"connection", b"close"), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": text, "more_body": True})
    if rest is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                # false behind the end, and when the client is gone
                while (await asyncio.wait_for(rest(), LINGER_PAUSE)).get("more_body", False):
                    pass
    await send({"type": "http.response.body"})


def impatient(seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, closing connections whose request head isn't complete after so many seconds."""

    class Impatient(HttpToolsProtocol):
        _give_up: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._give_up = self.loop.call_later(seconds, transport.close)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._stop()
            self._give_up = self.loop.call_later(seconds, self.transport.close)

        def on_headers_complete(self) -> None:
            self._stop()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _stop(self) -> None:
            if self._give_up is not None:
                self._give_up.cancel()
                self._give_up = None

    return Impatient


class JsonLines(logging.Formatter):
    """A log record as a line of JSON."""

    _encode = json.JSONEncoder(default=str).encode
    _own = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        found |= {key: value for key, value in record.__dict__.items() if key not in self._own}
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return self._encode(found)


def log_as_json() -> None:
    """Everything to stderr, a line of JSON each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("eenet.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
