"""A server with LitServe: `pip install litserve`, `python examples/litserve_server.py`, then

curl -X POST -F request=@seven.png http://127.0.0.1:8000/predict
"""

import argparse
from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Request

import eenet


class EarlyExit(litserve.LitAPI):
    """LitServe batches; images that are sure leave the batch at their exit."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.predictor = eenet.Predictor("digits-eenet8")

    def decode_request(self, request: Request) -> bytes:
        return request["request"].file.read()  # LitServe hands over the form

    def batch(self, inputs: Sequence[bytes]) -> list[bytes]:
        return list(inputs)

    def predict(self, x: list[bytes]) -> list[dict[str, Any]]:
        return [answer.to_dict() for answer in self.predictor.predict_many(x)]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    server = litserve.LitServer(EarlyExit(max_batch_size=16, batch_timeout=0.005), accelerator="cpu")
    server.run(host="127.0.0.1", port=parser.parse_args().port, generate_client_file=False)
