"""From what a request brought to its answers: which model, whether there is room, images decoded, in time."""

import asyncio
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Full
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from eenet.data import open_image, to_pixels
from eenet.runtime import Answers, EngineClosedError
from eenet.serving.guard import Limits
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServedModel, Setting
from eenet.serving.models import Models
from eenet.serving.protocol.describing import VERSION
from eenet.tasks import Seen

MOST_FILES = 64  # in one multipart request
DECODING = 4  # images at once


class Answered(NamedTuple):
    """What came of a request."""

    model: ServedModel
    setting: Setting
    answers: Answers
    seconds: float
    """In the network, waiting for others included."""


class Batch(NamedTuple):
    """Images of one size."""

    pixels_BCHW: NDArray[np.uint8]
    size: tuple[int, int]
    """(height, width) of each as it was."""


def together(seen: Sequence[Seen]) -> Batch:
    """Images as one batch.

    Raises:
        ValueError: their sizes differ.
    """
    sizes = {(one.size, one.pixels_CHW.shape) for one in seen}
    if len(sizes) > 1:
        shown = ", ".join(sorted({f"{width} x {height}" for (height, width), _ in sizes}))
        raise ValueError(f"images of {shown} pixels don't fit into one tensor; send them one by one")
    return Batch(np.stack([one.pixels_CHW for one in seen]), seen[0].size)


class File(NamedTuple):
    """An image as it was sent."""

    name: str | None
    content: bytes


class Desk:
    """Takes images for the models, or says with an HTTP status why not."""

    def __init__(self, models: Models, metrics: Metrics, limits: Limits) -> None:
        self._models, self._metrics, self._limits = models, metrics, limits
        self._decoding = asyncio.Semaphore(DECODING)
        to_pixels(
            open_image(_png()), (3, 8, 8)
        )  # what decoding imports isn't for the first client to wait for

    def named(self, name: str | None, wanted: str = VERSION) -> ServedModel:
        """A model; by default the first."""
        name = self._models.names[0] if name is None else name
        if name not in self._models:
            raise HTTPException(404, f"no model {name!r}; there are {', '.join(self._models)}")
        if wanted != VERSION:
            raise HTTPException(404, f"{name} has no version {wanted!r}; it has {VERSION}")
        return self._models[name]

    def with_room(self, name: str | None, wanted: str = VERSION) -> ServedModel:
        """Refuse before a body is parsed or an image decoded, which would take time from those accepted."""
        model = self.named(name, wanted)
        if model.engine.inside >= model.most_waiting:
            raise self._no_room(model, f"{model.most_waiting} images are waiting")
        return model

    def _no_room(self, model: ServedModel, why: object) -> HTTPException:
        self._metrics.refused(model.name)
        return HTTPException(503, f"no room: {why}", {"Retry-After": "1"})

    async def decode(self, sent: Sequence[File], model: ServedModel) -> list[Seen]:
        """Image files as a model sees them.

        Raises:
            ValueError: one can't be read; says which, if there are several.
        """

        most = self._limits.image_pixels

        async def decoded(content: bytes) -> Seen | ValueError:
            async with self._decoding:
                try:
                    return await asyncio.to_thread(
                        lambda: model.task.read(open_image(content, most_pixels=most), model.config)
                    )
                except ValueError as error:
                    return error

        found = []
        for index, one in enumerate(await asyncio.gather(*(decoded(file.content) for file in sent))):
            if isinstance(one, ValueError):
                name = f" ({sent[index].name})" if sent[index].name else ""
                raise one if len(sent) == 1 else ValueError(f"image {index}{name}: {one}")
            found.append(one)
        return found

    async def answer(
        self,
        request: Request,
        name: str | None,
        pixels: NDArray[np.uint8],
        ask: Callable[[ServedModel], Setting],
        ms: Any,
    ) -> Answered:
        """What the network says; `ask` gives the setting, `ms` is the deadline."""
        seconds = self._limits.answer_seconds
        if ms is not None:
            if type(ms) not in (int, float) or not math.isfinite(ms) or ms <= 0:
                raise HTTPException(400, f"deadline_ms is {ms!r}; give a number above 0")
            seconds = min(seconds, ms / 1e3)
        for _ in range(3):  # a model that was loaded again closes the old one
            model = self.named(name)
            with asked():
                setting = ask(model)
            try:
                answers, spent = await model.infer(pixels, setting, seconds)
            except Full as error:
                raise self._no_room(model, error) from error
            except TimeoutError as error:
                raise HTTPException(504, f"not done within {seconds:g} seconds") from error
            except EngineClosedError:
                continue
            request.state.said = {"model": model.name, "exits": answers.exits_B.tolist()[:64]}
            return Answered(model, setting, answers, spent)
        raise HTTPException(503, "the model is being loaded", {"Retry-After": "1"})


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (9, 9)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def asked() -> Iterator[None]:
    """A `ValueError` in here is the client's mistake; elsewhere it is ours."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


async def images_of(request: Request) -> list[File]:
    """The body as an image, or the files of a form.

    Raises:
        ValueError: there are none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if not body:
            raise ValueError("the body is empty; send an image")
        return [File(None, body)]
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            sent = [File(part.filename, await part.read()) for part in parts]
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"the multipart body is damaged: {error}") from error
    if not sent:
        raise ValueError("the form holds no file; send images as files")
    return sent
