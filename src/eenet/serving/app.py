"""The server's routes: Open Inference Protocol v2, images as they are, metrics, a page."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from queue import Full
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException
from starlette.routing import Match

from eenet.data import open_image, to_pixels
from eenet.runtime import Answers, EngineClosedError
from eenet.serving.guard import INTERNAL_ERROR, App, Guard, Limits, Receive, Scope, Send
from eenet.serving.metrics import Metrics
from eenet.serving.model import VERSION, ServedModel, Setting
from eenet.serving.models import Models
from eenet.serving.protocol import JSON_LENGTH, decompress, describe_model, parse_request, write_response
from eenet.serving.schemas import (
    ERRORS,
    INFER,
    OUTPUT_VALUES,
    PIXELS,
    Budget,
    Classified,
    Deadline,
    Metadata,
    Policy,
    ServerMetadata,
    found_by,
)

MOST_FILES = 64  # in one multipart request
SMALL_BODY = 100_000  # bytes of JSON that are parsed without a thread of their own


def create_app(
    models: Models, metrics: Metrics, limits: Limits | None = None, token: str | None = None
) -> App:
    """The ASGI application; the models stay the caller's to close.

    Args:
        models: what is served.
        metrics: what the models count in.
        limits: what clients may do.
        token: that clients must bring. Default: none.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="eenet",
        version=version("eenet"),
        summary="Early-exit networks: easy images are answered first.",
        responses={code: ERRORS[code] for code in (400, 401, 404, 408, 413)},
        redoc_url=None,
    )
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(StarletteHTTPException, _problem)
    app.add_exception_handler(Exception, _broken)  # the guard logs it
    decoding = asyncio.Semaphore(4)

    def named(name: str | None, wanted: str = VERSION) -> ServedModel:
        name = models.names[0] if name is None else name
        if name not in models:
            raise HTTPException(404, f"no model {name!r}; there are {', '.join(models)}")
        if wanted != VERSION:
            raise HTTPException(404, f"{name} has no version {wanted!r}; it has {VERSION}")
        return models[name]

    def with_room(name: str | None, wanted: str = VERSION) -> ServedModel:
        """Refuse before a body is parsed or an image decoded, which would take time from those accepted."""
        model = named(name, wanted)
        if model.engine.inside >= model.most_waiting:
            raise no_room(model, f"{model.most_waiting} images are waiting")
        return model

    def no_room(model: ServedModel, why: object) -> HTTPException:
        metrics.refused(model.name)
        return HTTPException(503, f"no room: {why}", {"Retry-After": "1"})

    async def answer(
        request: Request,
        name: str | None,
        pixels: NDArray[np.uint8],
        ask: Callable[[ServedModel], Setting],
        ms: Any,
    ) -> tuple[ServedModel, Setting, Answers]:
        seconds = limits.answer_seconds
        if ms is not None:
            if type(ms) not in (int, float) or not math.isfinite(ms) or ms <= 0:
                raise HTTPException(400, f"deadline_ms is {ms!r}; give a number above 0")
            seconds = min(seconds, ms / 1e3)
        for _ in range(3):  # a model that was loaded again closes the old one
            model = named(name)
            with _asked():
                setting = ask(model)
            try:
                answers = await model.infer(pixels, setting, seconds)
            except Full as error:
                raise no_room(model, error) from error
            except TimeoutError as error:
                raise HTTPException(504, f"not done within {seconds:g} seconds") from error
            except EngineClosedError:
                continue
            request.state.said = {"model": model.name, "exits": answers.exits_B.tolist()[:64]}
            return model, setting, answers
        raise HTTPException(503, "the model is being loaded", {"Retry-After": "1"})

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether it takes requests."""
        return {"ready": True}

    @app.get("/v2")
    async def server() -> ServerMetadata:
        """Name, version and extensions."""
        extensions = ["binary_tensor_data", "model_repository", "parameters"]
        return ServerMetadata(name="eenet", version=version("eenet"), extensions=extensions)

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{wanted}")
    async def metadata(name: str, wanted: str = VERSION) -> Metadata:
        """Inputs and outputs of a model."""
        config = named(name, wanted).config
        return Metadata(**describe_model(name, VERSION, config.input_size, config.num_classes))

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{wanted}/ready")
    async def model_ready(name: str, wanted: str = VERSION) -> dict[str, Any]:
        """Whether a model takes requests."""
        return {"name": named(name, wanted).name, "ready": True}

    @app.post(
        "/v2/models/{name}/infer",
        responses={503: ERRORS[503], 504: ERRORS[504]},
        openapi_extra=INFER,
        response_class=Response,
    )
    @app.post(
        "/v2/models/{name}/versions/{wanted}/infer",
        responses={503: ERRORS[503], 504: ERRORS[504]},
        openapi_extra=INFER,
        response_class=Response,
    )
    async def infer(request: Request, name: str, wanted: str = VERSION) -> Response:
        """Answers for a batch of pixels of the network's size, as JSON or binary tensors."""
        asked_of = with_room(name, wanted)
        config, most = asked_of.config, asked_of.most_waiting
        length = request.headers.get(JSON_LENGTH)
        with _asked():
            encoding = request.headers.get("content-encoding")
            body = decompress(await request.body(), encoding, limits.body_bytes)
            given = (body, length, config.input_size, most)
            small = len(body) <= SMALL_BODY or length is not None  # of binary tensors only the head is parsed
            asked = parse_request(*given) if small else await asyncio.to_thread(parse_request, *given)
        wishes = asked.parameters
        model, setting, answers = await answer(
            request,
            name,
            asked.pixels_BCHW,
            lambda model: model.setting(wishes.get("budget"), wishes.get("policy")),
            wishes.get("deadline_ms"),
        )
        values = {output: OUTPUT_VALUES[output](model, answers) for output in asked.outputs}
        text, json_length = write_response(
            asked, values, model=name, version=VERSION, parameters={"policy": setting.name}
        )
        if json_length is None:
            return Response(text, media_type="application/json")
        headers = {JSON_LENGTH: str(json_length)}
        return Response(text, media_type="application/octet-stream", headers=headers)

    @app.post("/classify", responses={503: ERRORS[503], 504: ERRORS[504]}, openapi_extra=PIXELS)
    async def classify(
        request: Request,
        model: str | None = None,
        budget: Budget = None,
        policy: Policy = None,
        deadline_ms: Deadline = None,
    ) -> Classified:
        """Labels for image files: one as the body, or several as multipart form data."""
        config = with_room(model).config

        async def decoded(one: bytes) -> NDArray[np.uint8]:
            async with decoding:
                return await asyncio.to_thread(_pixels, one, config.input_size, limits.image_pixels)

        with _asked():
            pixels = np.stack([await decoded(one) for one in await _images_of(request)])
        served, setting, answers = await answer(
            request, model, pixels, lambda served: served.setting(budget, policy), deadline_ms
        )
        return Classified(model=served.name, policy=setting.name, predictions=found_by(served, answers))

    @app.post("/v2/repository/index")
    async def index() -> list[dict[str, str]]:
        """All models."""
        return [{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in models]

    @app.post("/v2/repository/models/{name}/load")
    async def load(name: str) -> dict[str, str]:
        """Load a model again from where it came from; no request is lost."""
        named(name)
        await asyncio.to_thread(models.load, name)
        return {"name": name}

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus."""
        for name in models:
            models[name].refresh()
        text, kind = metrics.text()
        return Response(text, headers={"content-type": kind})

    @app.get("/state")
    async def state() -> list[dict[str, Any]]:
        """What the page shows: models, and what happened lately."""
        return [models[name].describe() for name in models]

    for path, asset in {"/": "serve.html", "/page.js": "serve.js", "/page.css": "serve.css"}.items():
        app.add_api_route(path, _page(asset), include_in_schema=False)
    direct = _Direct(app, [r for r in app.routes if isinstance(r, APIRoute) and r.endpoint is infer])
    return Guard(direct, limits, token, metrics)


class _Direct:
    """ASGI middleware that calls the endpoint of busy routes itself.

    FastAPI's way to an endpoint takes as long as everything else that a small request needs. The
    endpoints take a request and path parameters, and give a response.
    """

    def __init__(self, app: App, busy: Sequence[APIRoute]) -> None:
        self._app, self._busy = app, busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self._busy:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                request = Request(scope, receive)
                try:
                    response = await route.endpoint(request, **scope["path_params"])
                except HTTPException as error:
                    response = await _problem(request, error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _page(asset: str) -> Callable[[], Awaitable[Response]]:
    text = files("eenet").joinpath("assets", asset).read_text()
    kind = {"html": "text/html", "js": "text/javascript", "css": "text/css"}[asset.split(".")[1]]
    policy = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"

    async def page() -> Response:
        return Response(text, media_type=kind, headers={"content-security-policy": policy})

    return page


@contextmanager
def _asked() -> Iterator[None]:
    """A `ValueError` in here is the client's mistake; elsewhere it is ours."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


async def _images_of(request: Request) -> list[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if not body:
            raise ValueError("the body is empty; send an image")
        return [body]
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            sent = [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"the multipart body is damaged: {error}") from error
    if not sent:
        raise ValueError("the form holds no file; send images as files")
    return sent


def _pixels(image: bytes, input_size: Sequence[int], most: int) -> NDArray[np.uint8]:
    return to_pixels(open_image(image, most_pixels=most), input_size).numpy()


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"error": said}, 400)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    return JSONResponse({"error": INTERNAL_ERROR}, 500)
