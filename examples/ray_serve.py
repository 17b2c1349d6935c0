"""A server with Ray Serve: `pip install 'ray[serve]'`, `python examples/ray_serve.py`, then

curl --data-binary @seven.png http://127.0.0.1:8000/
"""

import argparse
import asyncio
from typing import Any

from ray import serve
from starlette.requests import Request

import eenet


@serve.deployment(max_ongoing_requests=64)
class EarlyExit:
    """The queued engine batches; easy images are answered before the hard ones of their batch."""

    def __init__(self, checkpoint: str) -> None:
        self.predictor = eenet.Predictor(checkpoint, engine="queued")

    async def __call__(self, request: Request) -> dict[str, Any]:
        image = await request.body()
        return (await asyncio.to_thread(self.predictor.predict, image)).to_dict()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    serve.start(http_options={"host": "127.0.0.1", "port": parser.parse_args().port})
    serve.run(EarlyExit.bind("digits-eenet8"), blocking=True)
