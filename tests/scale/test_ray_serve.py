"""Ray Serve for real: NVIDIA's client, the same answers either way, a killed replica, the configuration."""

import asyncio
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Full
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import tritonclient.http as triton
import yaml
from ray.exceptions import RayActorError
from watching import actors, raylet_of

from eenet import ExitPolicy, Prediction, Predictor, data
from eenet.runtime import Answers, EngineClosedError
from eenet.scale.ray_serve import Arguments, app
from eenet.scale.session import session
from eenet.scale.staged import StagedEngine, Travelling

ROOT = Path(__file__).parents[2]
NAME = "digits-eenet8"
OUTPUTS = ("probabilities", "label", "exit_index", "confidence", "relative_cost")


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.asarray(data.load("digits", "test").pixels(list(range(40))))


@pytest.fixture(scope="module")
def expected(pixels: Any) -> list[Prediction]:
    return list(Predictor(NAME).predict_many(pixels[:, 0]))


@pytest.fixture(scope="module")
def serve() -> Iterator[Any]:
    with session(cpus=2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray import serve
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.address = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield serve
        serve.shutdown()


def run(serve: Any, **arguments: Any) -> str:
    given = Arguments(checkpoints=NAME, cpus=0.25, **arguments)
    serve.run(app(given), name="eenet", route_prefix="/")
    return serve.address


def asked(pixels: Any) -> dict[str, Any]:
    tensor = triton.InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return {"inputs": [tensor], "outputs": [triton.InferRequestedOutput(name) for name in OUTPUTS]}


def check(found: Any, expected: list[Prediction]) -> None:
    told: dict[str, Any] = {name: found.as_numpy(name) for name in OUTPUTS}
    assert [label.decode() for label in told["label"].tolist()] == [e.label for e in expected]
    assert told["exit_index"].tolist() == [e.exit for e in expected]
    np.testing.assert_allclose(told["probabilities"].max(1), [e.probability for e in expected], atol=1e-5)
    assert np.isfinite(told["confidence"]).all()
    np.testing.assert_allclose(told["relative_cost"], [e.relative_cost for e in expected])


@pytest.mark.parametrize("by", ["network", "stage"])
def test_answers_are_those_of_the_predictor(
    serve: Any, by: str, pixels: Any, expected: list[Prediction]
) -> None:
    """By stage too, where each request may bring a policy of its own; one application follows the other."""
    address = run(serve, by=by, max_replicas=1)
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        check(client.infer(NAME, **asked(pixels)), expected)
        for i in range(8):
            check(client.infer(NAME, **asked(pixels[i : i + 1])), expected[i : i + 1])
        budget = float(min(Predictor(NAME).network.config.budgets, key=float))
        frugal = list(Predictor(NAME, budget=budget).predict_many(pixels[:, 0]))
        assert [e.exit for e in frugal] != [e.exit for e in expected]
        check(client.infer(NAME, **asked(pixels), parameters={"budget": budget}), frugal)
    wrong = httpx.post(f"http://{address}/v2/models/{NAME}/infer", json={"inputs": []})
    assert wrong.status_code == 400
    assert "error" in wrong.json()
    load = httpx.post(f"http://{address}/v2/repository/models/{NAME}/load")
    assert (load.status_code, "serve deploy" in load.json()["error"]) == (501, True)


def test_a_killed_replica_loses_no_request_that_is_sent_again(
    serve: Any, pixels: Any, expected: list[Prediction]
) -> None:
    raylet, name = raylet_of(ray), "ServeReplica:eenet:server"
    before = actors(raylet, name)
    address = run(serve, min_replicas=2, max_replicas=2)
    right, again = list[bool](), list[int]()

    def ask(first: int) -> None:
        with triton.InferenceServerClient(address) as client:
            for i in range(first, first + 30):
                at = i % 40
                for _ in range(40):
                    try:
                        found = client.infer(NAME, **asked(pixels[at : at + 1]))
                        break
                    except Exception:
                        again.append(at)
                        time.sleep(0.25)
                else:
                    right.append(False)
                    return
                exits: Any = found.as_numpy("exit_index")
                right.append(exits.item() == expected[at].exit)

    clients = [threading.Thread(target=ask, args=(10 * k,)) for k in range(4)]
    for client in clients:
        client.start()
    while len(right) < 20:
        time.sleep(0.01)
    fresh = actors(raylet, name) - before
    os.kill((fresh or actors(raylet, name)).pop(), signal.SIGKILL)
    for client in clients:
        client.join()
    assert len(right) == 120
    assert all(right)


class Segment:
    """Dies under its first requests, then answers at exit 0."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.asked = deaths, 0

    async def remote(self, request: Travelling) -> Answers:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.asked <= self.deaths:
            raise RayActorError
        return Answers(np.ones((request.count, 1), np.float32), np.zeros(request.count, np.intp))


def test_what_a_dead_segment_had_is_asked_again() -> None:
    policy, three = ExitPolicy("confidence", (0.5,)), np.zeros((3, 1, 8, 8), np.uint8)
    engine = StagedEngine(segment := Segment(2), policy, most_waiting=4)
    assert engine.submit(three).result().exits_B.tolist() == [0, 0, 0]
    assert (segment.asked, engine.inside) == (3, 0)
    waiting = engine.submit(three)
    with pytest.raises(Full, match="3 images are waiting; the most is 4"):
        engine.hand_in(three, Future(), wait=False)
    late: Future[Answers] = Future()
    engine.hand_in(three[:1], late, timeout=0.001)
    assert isinstance(late.exception(), TimeoutError)
    engine.close()
    assert waiting.done()
    with pytest.raises(EngineClosedError):
        engine.submit(three)
    engine = StagedEngine(Segment(9), policy, most_waiting=4)
    assert isinstance(engine.submit(three).exception(), RayActorError)
    engine.close()


def test_the_configuration_is_one_of_ours() -> None:
    """What `serve run` and KServe are given builds, and names arguments that there are."""
    configuration = yaml.safe_load((ROOT / "deploy/ray-serve.yaml").read_text())
    (application,) = configuration["applications"]
    assert application["import_path"] == "eenet.scale.ray_serve:app"
    Arguments(**application["args"])
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema(**configuration)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"checkpoints": ""}, "at least one checkpoint"),
        ({"checkpoints": NAME, "by": "stage", "backend": "openvino"}, "by stage networks run on onnxruntime"),
        ({"checkpoints": NAME, "min_replicas": 3, "max_replicas": 2}, "max_replicas is 2"),
        ({"checkpoints": NAME, "by": "layer"}, "by"),
        ({"checkpoints": NAME, "replicas": 2}, "replicas"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        app(Arguments(**arguments))
