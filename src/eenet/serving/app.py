"""The server's routes: Open Inference Protocol v2, images as they are, metrics, a page."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from eenet.data import open_image
from eenet.serving.answering import Desk, File, asked, images_of, together
from eenet.serving.guard import INTERNAL_ERROR, App, Guard, Limits, Receive, Scope, Send
from eenet.serving.metrics import Metrics
from eenet.serving.models import Models
from eenet.serving.protocol.describing import EXTENSIONS, VERSION, absent
from eenet.serving.protocol.requests import JSON_LENGTH, decompress, parse_object, parse_request
from eenet.serving.protocol.responses import write_response
from eenet.serving.protocol.tensors import parameters_of
from eenet.serving.schemas import (
    ERRORS,
    INFER,
    PIXELS,
    Budget,
    Classified,
    Deadline,
    Metadata,
    Policy,
    Predicted,
    ServerMetadata,
    TopK,
    found_by,
    output_of,
    predicted,
)

SMALL_BODY = 100_000  # bytes of JSON that are parsed without a thread of their own
LATE: dict[int | str, dict[str, Any]] = {503: ERRORS[503], 504: ERRORS[504]}


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
    desk = Desk(models, metrics, limits)
    _describe(app, models, metrics, desk)

    @app.post("/v2/models/{name}/infer", responses=LATE, openapi_extra=INFER, response_class=Response)
    @app.post(
        "/v2/models/{name}/versions/{wanted}/infer",
        responses=LATE,
        openapi_extra=INFER,
        response_class=Response,
    )
    async def infer(request: Request, name: str, wanted: str = VERSION) -> Response:
        """Answers for pixels of the network's size or encoded images, as JSON or binary tensors."""
        served = desk.with_room(name, wanted)
        length = request.headers.get(JSON_LENGTH)
        with asked():
            encoding = request.headers.get("content-encoding")
            body = decompress(await request.body(), encoding, limits.body_bytes)
            given = (body, length, served.takes)
            small = len(body) <= SMALL_BODY or length is not None  # of binary tensors only the head is parsed
            wish = parse_request(*given) if small else await asyncio.to_thread(parse_request, *given)
            if isinstance(wish.images, list):
                sent = [File(None, one) for one in wish.images]
                pixels, size = together(await desk.decode(sent, served))
            else:
                pixels, size = wish.images, (wish.images.shape[2], wish.images.shape[3])
        wishes = wish.parameters
        model, setting, answers, _ = await desk.answer(
            request,
            name,
            pixels,
            lambda model: model.setting(wishes.get("budget"), wishes.get("policy")),
            wishes.get("deadline_ms"),
        )
        values = {output: output_of(model, answers, output, size) for output in wish.outputs}
        told = {"model": name, "version": VERSION, "parameters": {"policy": setting.name}}
        text, json_length = write_response(wish, values, model.takes.outputs, **told)
        if json_length is None:
            return Response(text, media_type="application/json")
        headers = {JSON_LENGTH: str(json_length)}
        return Response(text, media_type="application/octet-stream", headers=headers)

    @app.post("/classify", responses=LATE, openapi_extra=PIXELS)
    async def classify(
        request: Request,
        model: str | None = None,
        budget: Budget = None,
        policy: Policy = None,
        deadline_ms: Deadline = None,
        top_k: TopK = None,
    ) -> Classified:
        """Labels for image files: one as the body, or several as multipart form data."""
        start = time.perf_counter()
        served = desk.with_room(model)
        if not served.labels:
            raise HTTPException(
                400, f"{served.name} gives {', '.join(served.task.outputs)}; POST to /predict"
            )
        with asked():
            sent = await images_of(request)
            batch = together(await desk.decode(sent, served))
        served, setting, answers, seconds = await desk.answer(
            request, model, batch.pixels_BCHW, lambda served: served.setting(budget, policy), deadline_ms
        )
        return Classified(
            model=served.name,
            policy=setting.name,
            thresholds=setting.thresholds,
            network_milliseconds=round(1e3 * seconds, 3),
            predictions=found_by(served, answers, [file.name for file in sent], top_k),
            milliseconds=round(1e3 * (time.perf_counter() - start), 3),
        )

    @app.post("/detect", responses=LATE, openapi_extra=PIXELS, include_in_schema=False)
    @app.post("/predict", responses=LATE, openapi_extra=PIXELS)
    async def predict(
        request: Request,
        model: str | None = None,
        budget: Budget = None,
        policy: Policy = None,
        deadline_ms: Deadline = None,
        pictures: bool = False,
    ) -> Predicted:
        """Answers of any task for image files of any size; with `pictures` also as pictures to look at."""
        start = time.perf_counter()
        served = desk.with_room(model)
        with asked():
            sent = await images_of(request)
            seen = await desk.decode(sent, served)
        found, spent, setting = [], 0.0, served.own
        for file, one in zip(sent, seen, strict=True):
            served, setting, answers, seconds = await desk.answer(
                request,
                model,
                one.pixels_CHW[None],
                lambda served: served.setting(budget, policy),
                deadline_ms,
            )
            spent += seconds
            image = open_image(file.content) if pictures else None
            found.append(await asyncio.to_thread(predicted, served, answers, file.name, one.size, image))
        return Predicted(
            model=served.name,
            policy=setting.name,
            thresholds=setting.thresholds,
            network_milliseconds=round(1e3 * spent, 3),
            predictions=found,
            milliseconds=round(1e3 * (time.perf_counter() - start), 3),
        )

    for path, asset in {"/": "serve.html", "/page.js": "serve.js", "/page.css": "serve.css"}.items():
        app.add_api_route(path, _page(asset), include_in_schema=False)
    direct = _Direct(app, [r for r in app.routes if isinstance(r, APIRoute) and r.endpoint is infer])
    return Guard(direct, limits, token, metrics)


def _describe(app: FastAPI, models: Models, metrics: Metrics, desk: Desk) -> None:
    """Routes that tell what is served and how it does, and load it again."""

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
        return ServerMetadata(name="eenet", version=version("eenet"), extensions=EXTENSIONS)

    @app.get("/v2/models/stats")
    async def all_statistics() -> dict[str, Any]:
        """What every model did so far, in Triton's shape."""
        return {"model_stats": [models[name].statistics() for name in models]}

    @app.get("/v2/models/{name}/stats")
    @app.get("/v2/models/{name}/versions/{wanted}/stats")
    async def statistics(name: str, wanted: str = VERSION) -> dict[str, Any]:
        """What a model did so far, in Triton's shape."""
        return {"model_stats": [desk.named(name, wanted).statistics()]}

    @app.get("/v2/models/{name}/config")
    @app.get("/v2/models/{name}/versions/{wanted}/config")
    async def configuration(name: str, wanted: str = VERSION) -> dict[str, Any]:
        """A model's configuration, in Triton's shape."""
        return desk.named(name, wanted).configuration()

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{wanted}")
    async def metadata(name: str, wanted: str = VERSION) -> Metadata:
        """Inputs and outputs of a model."""
        return Metadata(**desk.named(name, wanted).metadata())

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{wanted}/ready")
    async def model_ready(name: str, wanted: str = VERSION) -> dict[str, Any]:
        """Whether a model takes requests."""
        return {"name": desk.named(name, wanted).name, "ready": True}

    @app.post("/v2/repository/index")
    async def index() -> list[dict[str, str]]:
        """All models."""
        return [{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in models]

    @app.post("/v2/repository/models/{name}/load")
    async def load(request: Request, name: str) -> dict[str, str]:
        """Load a model again from where it came from; no request is lost."""
        desk.named(name)
        with asked():
            given = parameters_of(parse_object(await request.body() or b"{}"))
        if given:
            raise HTTPException(400, f"load takes no {', '.join(given)}: a model comes as its checkpoint is")
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


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"error": said}, 400)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    status, said, path = error.status_code, str(error.detail), request.url.path
    if status in (404, 405) and said == HTTPStatus(status).phrase:  # the router's, which found no endpoint
        if why := absent(path):
            status, said = 501, why
        elif status == 404:
            said = f"nothing is served at {path}; GET /openapi.json lists what is"
        else:
            allowed = (error.headers or {}).get("Allow", "another method")
            said = f"{path} doesn't take {request.method}; use {allowed}"
    return JSONResponse({"error": said}, status, error.headers)


async def _broken(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    return JSONResponse({"error": INTERNAL_ERROR}, 500)
