"""The server as a process: NVIDIA's client, a browser, bad requests, signals."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import schemathesis
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from conftest import nothing_wrong
from fastapi.testclient import TestClient
from hypothesis import given, settings
from PIL import Image
from playwright.sync_api import Page, expect
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tritonclient.utils import InferenceServerException

from eenet import Predictor, data
from eenet.networks.network import EENet
from eenet.runtime import Answers
from eenet.serving.app import create_app
from eenet.serving.guard import Limits
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServeOptions
from eenet.serving.models import Models
from eenet.serving.run import named_checkpoints
from eenet.serving.schemas import found_by

NAME = "digits-eenet8"
OUTPUTS = ("probabilities", "label", "exit_index", "confidence", "relative_cost")


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """`eenet serve` on a free port: its address, its process, and the lines of its log."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eenet", "serve", *arguments, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stderr
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"at http://(\S+)", line):
            break
    else:
        pytest.fail("".join(lines))
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    try:
        wait_until_live(found[1])
        yield found[1], process, lines
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def wait_until_live(address: str) -> None:
    for _ in range(200):
        try:
            if status(address, "/v2/health/live") == 200:
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail("the server doesn't answer")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    copy = tmp_path_factory.mktemp("models") / "second"
    network = EENet.from_pretrained(NAME)
    network.save_pretrained(copy)
    with served(
        NAME, str(copy.parent), "--data", "digits", "--timeout", "3", "--max-megabytes", "1"
    ) as found:
        yield found[0]


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.asarray(data.load("digits", "test").pixels(list(range(40))))


@pytest.fixture(scope="module")
def expected(pixels: Any) -> list[Any]:
    return list(Predictor(NAME).predict_many(pixels[:, 0]))


def send(
    address: str, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, bytes]:
    asked = urllib.request.Request(f"http://{address}{path}", body, method=method)
    for key, value in headers.items():
        asked.add_header(key.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def status(address: str, path: str, body: bytes | None = None, **headers: str) -> int:
    return send(address, path, body, **headers)[0]


def png(pixels_CHW: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_CHW[0]).save(buffer, "PNG")
    return buffer.getvalue()


def asked(pixels: Any, *, binary: bool, kind: Any = triton) -> dict[str, Any]:
    tensor = kind.InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    outputs = [kind.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    return {"inputs": [tensor], "outputs": outputs}


def check(found: Any, expected: list[Any]) -> None:
    labels = [x.decode() if isinstance(x, bytes) else x for x in list(found.as_numpy("label"))]
    assert labels == [e.label for e in expected]
    assert found.as_numpy("exit_index").tolist() == [e.exit for e in expected]
    assert np.allclose(found.as_numpy("probabilities").max(1), [e.probability for e in expected], atol=1e-5)
    assert np.allclose(found.as_numpy("relative_cost"), [e.relative_cost for e in expected])
    confidence = found.as_numpy("confidence")
    assert ((confidence > 0) & (confidence <= 1)).all()


# The protocol ------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client(address: str, pixels: Any, expected: list[Any], binary: bool) -> None:
    with closing(triton.InferenceServerClient(address)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        assert client.is_model_ready(NAME, "1")
        assert not client.is_model_ready("other")
        described = client.get_model_metadata(NAME)
        assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
        assert [output["name"] for output in described["outputs"]] == list(OUTPUTS)
        check(client.infer(NAME, **asked(pixels, binary=binary)), expected)
        check(client.infer(NAME, model_version="1", **asked(pixels, binary=binary)), expected)
        check(
            client.infer(NAME, request_compression_algorithm="gzip", **asked(pixels, binary=binary)), expected
        )
        assert {model["name"] for model in client.get_model_repository_index()} == {NAME, "second"}
        waiting = [client.async_infer(NAME, **asked(pixels[i : i + 1], binary=binary)) for i in range(8)]
        for i, answer in enumerate(waiting):
            check(answer.get_result(), expected[i : i + 1])


def test_triton_client_aio(address: str, pixels: Any, expected: list[Any]) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            found = await asyncio.gather(
                *(
                    client.infer(NAME, **asked(pixels[i : i + 1], binary=True, kind=triton_aio))
                    for i in range(40)
                )
            )
            for i, answer in enumerate(found):
                check(answer, expected[i : i + 1])

    asyncio.run(run())


def test_budget_policy_and_deadline(address: str, pixels: Any) -> None:
    network = EENet.from_pretrained(NAME)
    with closing(triton.InferenceServerClient(address)) as client:
        for budget in (0.48, 0.5, 0.8):
            found: Any = client.infer(NAME, parameters={"budget": budget}, **asked(pixels, binary=True))
            direct = list(
                Predictor(network, policy=network.config.exit_policy(budget)).predict_many(pixels[:, 0])
            )
            assert found.as_numpy("exit_index").tolist() == [p.exit for p in direct]
        assert found.get_response()["parameters"] == {"policy": "0.800"}
        client.infer(NAME, parameters={"policy": "own"}, **asked(pixels, binary=True))
        for wrong, message in (
            ({"policy": "none"}, "no policy 'none'"),
            ({"budget": 0.01}, "the smallest is"),
            ({"budget": 0.5, "policy": "own"}, "not both"),
            ({"deadline_ms": -1}, "deadline_ms"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                client.infer(NAME, parameters=wrong, **asked(pixels, binary=True))
        with pytest.raises(InferenceServerException, match="not done within"):
            client.infer(NAME, parameters={"deadline_ms": 1e-6}, **asked(pixels, binary=True))


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_sends_encoded_images(
    address: str, pixels: Any, expected: list[Any], binary: bool
) -> None:
    """PNG files as a BYTES tensor: the answers are those for their pixels."""
    files: list[Any] = [png(one) for one in pixels]
    if not binary:
        files = [base64.b64encode(one).decode() for one in files]
    with closing(triton.InferenceServerClient(address)) as client:
        for shape in ([len(files)], [len(files), 1]):
            tensor = triton.InferInput("images", shape, "BYTES")
            tensor.set_data_from_numpy(np.array(files, np.object_).reshape(shape), binary_data=binary)
            outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]
            check(client.infer(NAME, [tensor], outputs=outputs), expected)
        files[3] = files[4][:40]
        tensor.set_data_from_numpy(np.array(files, np.object_).reshape(shape), binary_data=binary)
        with pytest.raises(InferenceServerException, match="image 3: the image is"):
            client.infer(NAME, [tensor])


@pytest.mark.parametrize("normalized", [True, False])
def test_triton_client_sends_fp32(address: str, pixels: Any, expected: list[Any], normalized: bool) -> None:
    config = EENet.from_pretrained(NAME).config
    values = pixels.astype(np.float32) / 255
    if normalized:
        mean, std = (np.array(part, np.float32)[:, None, None] for part in (config.mean, config.std))
        values = (values - mean) / std
    tensor = triton.InferInput("images", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    with closing(triton.InferenceServerClient(address)) as client:
        found = client.infer(NAME, [tensor], parameters={"normalized": normalized})
    check(found, expected)


def test_triton_client_finds_configuration_and_statistics(
    address: str, pixels: Any, expected: list[Any]
) -> None:
    with closing(triton.InferenceServerClient(address)) as client:
        assert set(client.get_server_metadata()["extensions"]) >= {"model_configuration", "statistics"}
        for version in ("", "1"):
            config = client.get_model_config(NAME, version)
            assert config["input"][0]["dims"] == [1, 8, 8]
            assert config["input"][0]["data_type"] == "TYPE_UINT8"
            assert [output["name"] for output in config["output"]] == list(OUTPUTS)
            assert json.loads(config["parameters"]["class_names"]["string_value"])[3] == "3"
        too_many = np.zeros((config["max_batch_size"] + 1, 1, 8, 8), np.uint8)
        with pytest.raises(InferenceServerException, match=r"give .* images"):
            client.infer(NAME, **asked(too_many, binary=True))
        (before,) = client.get_inference_statistics(NAME)["model_stats"]
        for i in range(3):
            check(client.infer(NAME, **asked(pixels[i : i + 1], binary=True)), expected[i : i + 1])
        with pytest.raises(InferenceServerException, match="not done"):
            client.infer(NAME, parameters={"deadline_ms": 1e-6}, **asked(pixels, binary=True))
        (after,) = client.get_inference_statistics(NAME, "1")["model_stats"]
        grown = {key: after[key] - before[key] for key in ("inference_count", "execution_count")}
        assert grown == {"inference_count": 3, "execution_count": 3}
        for kind, count in (("success", 3), ("fail", 1)):
            was, now = (found["inference_stats"][kind] for found in (before, after))
            assert now["count"] - was["count"] == count
            assert now["ns"] > was["ns"]
        batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
        assert sum(batches.values()) == after["execution_count"]
        assert abs(after["last_inference"] / 1e3 - time.time()) < 60
        every = client.get_inference_statistics()["model_stats"]
        assert {one["name"] for one in every} == {NAME, "second"}
        with pytest.raises(InferenceServerException, match="no model 'other'"):
            client.get_model_config("other")


def test_triton_client_is_told_what_is_not_there(address: str) -> None:
    with closing(triton.InferenceServerClient(address)) as client:
        for ask in (
            client.get_system_shared_memory_status,
            client.get_cuda_shared_memory_status,
            client.get_trace_settings,
            lambda: client.get_trace_settings(NAME),
            client.get_log_settings,
            lambda: client.unload_model(NAME),
        ):
            with pytest.raises(InferenceServerException, match="Extensions served: binary") as told:
                ask()
            assert told.value.status() == "501"
        with pytest.raises(InferenceServerException, match="load takes no config"):
            client.load_model(NAME, config="{}")
    for path, said in (("/nothing", "/openapi.json"), ("/v2/nothing", "/openapi.json")):
        code, text = send(address, path)
        assert code == 404
        assert said in json.loads(text)["error"]
    code, text = send(address, "/classify")
    assert code == 405
    assert json.loads(text) == {"error": "/classify doesn't take GET; use POST"}


def test_classify(address: str, pixels: Any, expected: list[Any]) -> None:
    for i in range(5):
        code, text = send(address, f"/classify?model={NAME}", png(pixels[i]), Content_Type="image/png")
        (found,) = json.loads(text)["predictions"]
        assert code == 200
        assert (found["label"], found["exit"]) == (expected[i].label, expected[i].exit)
        assert len(found["confidences"]) == min(expected[i].exit + 1, 2)
        assert found["class_index"] == expected[i].class_index
        assert found["file"] is None
        assert list(found["probabilities"]) == [str(n) for n in range(10)]
        assert found["probabilities"][found["label"]] == found["probability"]
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    boundary, form = "sep", b""
    for i in range(3):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{i}.png"\r\n\r\n'
        form += head.encode() + png(pixels[i]) + b"\r\n"
    form += f"--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    code, text = send(address, "/classify?model=second", form, Content_Type=kind)
    found = json.loads(text)
    assert [f["label"] for f in found["predictions"]] == [e.label for e in expected[:3]]
    assert [f["file"] for f in found["predictions"]] == ["0.png", "1.png", "2.png"]
    assert 0 < found["network_milliseconds"] < found["milliseconds"] < 20_000
    code, text = send(address, "/classify?top_k=2", png(pixels[0]))
    (found,) = json.loads(text)["predictions"]
    likeliest = sorted(found["probabilities"].values(), reverse=True)
    assert list(found["probabilities"].values()) == likeliest
    assert next(iter(found["probabilities"])) == found["label"]
    assert len(likeliest) == 2
    assert status(address, "/classify?top_k=0", png(pixels[0])) == 400
    damaged = form.replace(png(pixels[1]), b"no image")
    code, text = send(address, "/classify?model=second", damaged, Content_Type=kind)
    assert code == 400
    assert "image 1 (1.png): the image is not an image" in json.loads(text)["error"]


def test_few_probabilities_of_many_classes() -> None:
    """Unless more are asked for; an oracle sorts them all."""
    model: Any = SimpleNamespace(class_names=[f"c{n}" for n in range(101)], costs=[0.5, 1.0])
    values = np.random.default_rng(0).dirichlet(np.ones(101), 2).astype(np.float32)
    answers = Answers(values, np.array([0, 1]), np.full((2, 1), 0.5, np.float32))
    for top_k, count in ((None, 5), (1, 1), (1000, 101)):
        for found, row in zip(found_by(model, answers, ["a", None], top_k), values.tolist(), strict=True):
            expected = sorted(zip(row, model.class_names, strict=True), reverse=True)[:count]
            assert [(p, name) for name, p in found.probabilities.items()] == expected
            assert (found.probability, found.label) == expected[0]


def test_metrics(address: str, pixels: Any) -> None:
    with closing(triton.InferenceServerClient(address)) as client:
        before = metric(address, f'eenet_images_total{{exit="0",model="{NAME}"}}')
        found: Any = client.infer(NAME, **asked(pixels, binary=True))
        after = metric(address, f'eenet_images_total{{exit="0",model="{NAME}"}}')
    assert after - before == np.sum(found.as_numpy("exit_index") == 0)
    assert metric(address, 'eenet_drift_alarm{model="second"}') == 0
    text = send(address, "/metrics")[1].decode()
    for name in (
        "request_seconds_bucket",
        "batch_images_bucket",
        "images_inside",
        "relative_cost_total",
        "budget",
    ):
        assert f"eenet_{name}" in text


def metric(address: str, name: str) -> float:
    for line in send(address, "/metrics")[1].decode().splitlines():
        if line.startswith(name):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


# Bad requests ------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of 20,000 × 20,000 black pixels in some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501) * 20_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def raw(address: str, text: bytes, *later: bytes, wait: float = 10) -> bytes:
    """Bytes on a socket, some a little later, and what comes back until the server closes."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(text)
        for part in later:
            time.sleep(0.2)
            connection.sendall(part)
        received = b""
        while part := connection.recv(65536):
            received += part
            if b"connection: close" not in received.lower() and b"\r\n\r\n" in received:
                break
        return received


INFER = f"/v2/models/{NAME}/infer"
GOOD = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": [0] * 64}]}


def changed(**changes: Any) -> bytes:
    return json.dumps({"inputs": [GOOD["inputs"][0] | changes]}).encode()


BAD: dict[str, tuple[Callable[[str], int], int]] = {
    "no JSON": (lambda a: status(a, INFER, b"{"), 400),
    "empty": (lambda a: status(a, INFER, b""), 400),
    "NaN": (lambda a: status(a, INFER, changed(data=[0] * 63 + [float("nan")])), 400),
    "deep JSON": (lambda a: status(a, INFER, b"[" * 500_000), 400),
    "wrong shape": (lambda a: status(a, INFER, changed(shape=[1, 3, 8, 8])), 400),
    "wrong dtype": (lambda a: status(a, INFER, changed(datatype="INT8")), 400),
    "FP32 out of range": (lambda a: status(a, INFER, changed(datatype="FP32", data=[9.0] * 64)), 400),
    "encoded, but no image": (
        lambda a: status(a, INFER, changed(datatype="BYTES", shape=[1], data=["YQ=="])),
        400,
    ),
    "encoded bomb": (
        lambda a: status(
            a, INFER, changed(datatype="BYTES", shape=[1], data=[base64.b64encode(bomb()).decode()])
        ),
        400,
    ),
    "too many images": (lambda a: status(a, INFER, changed(shape=[10**9, 1, 8, 8])), 400),
    "wrong JSON length": (
        lambda a: status(a, INFER, changed(), Inference_Header_Content_Length="99999"),
        400,
    ),
    "gzip bomb": (
        lambda a: status(a, INFER, zlib.compress(bytes(10**8)), Content_Encoding="deflate"),
        400,
    ),
    "unknown model": (lambda a: status(a, "/v2/models/none/infer", changed()), 404),
    "unknown version": (lambda a: status(a, f"/v2/models/{NAME}/versions/9/infer", changed()), 404),
    "traversal": (lambda a: status(a, "/v2/models/..%2F..%2Fetc%2Fpasswd"), 404),
    "traversal with dots": (lambda a: status(a, "/v2/models/../../etc/passwd"), 404),
    "load of a path": (lambda a: status(a, "/v2/repository/models/%2Ftmp/load", b"{}"), 404),
    "absent extension": (lambda a: status(a, "/v2/systemsharedmemory/status"), 501),
    "unknown path": (lambda a: status(a, "/nothing"), 404),
    "wrong method": (lambda a: send(a, "/classify", None, "DELETE")[0], 405),
    "no image": (lambda a: status(a, "/classify", b"no image", Content_Type="image/png"), 400),
    "truncated image": (lambda a: status(a, "/classify", png(np.zeros((1, 99, 99), np.uint8))[:60]), 400),
    "bomb": (lambda a: status(a, "/classify", bomb(), Content_Type="image/png"), 400),
    "empty form": (
        lambda a: status(a, "/classify", b"--x--\r\n", Content_Type="multipart/form-data; boundary=x"),
        400,
    ),
    "form without boundary": (
        lambda a: status(a, "/classify", b"--x--\r\n", Content_Type="multipart/form-data"),
        400,
    ),
    "not a number": (lambda a: status(a, "/classify?budget=nan", b"x"), 400),
    "announced too large": (
        lambda a: int(
            raw(a, b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n").split()[1]
        ),
        413,
    ),
    "too large in chunks": (
        lambda a: int(
            raw(
                a,
                b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                + (b"10000\r\n" + bytes(65536) + b"\r\n") * 17,
                *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 2,  # after the answer: it is not to be lost
            ).split()[1]
        ),
        413,
    ),
    "Content-Length too long": (
        lambda a: int(
            raw(a, b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nshort").split()[1]
        ),
        408,
    ),
    "no HTTP": (lambda a: int(raw(a, b"\x16\x03\x01\x02\x00 hello\r\n\r\n").split()[1]), 400),
    "negative Content-Length": (
        lambda a: int(raw(a, b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n").split()[1]),
        400,
    ),
}


def test_bad_requests_get_their_answer(address: str, pixels: Any, expected: list[Any]) -> None:
    """Each kind several times, all at once, while another client is served as if nothing was."""
    wrong: list[str] = []

    def misbehave(kind: str) -> None:
        act, code = BAD[kind]
        for _ in range(1 if code == 408 else 8):
            try:
                found = act(address)
            except OSError as error:
                found = repr(error)
            if found != code:
                wrong.append(f"{kind}: {found}, not {code}")

    threads = [threading.Thread(target=misbehave, args=(kind,)) for kind in BAD]
    for thread in threads:
        thread.start()
    with closing(triton.InferenceServerClient(address)) as client:
        while any(thread.is_alive() for thread in threads):
            check(client.infer(NAME, **asked(pixels, binary=True)), expected)
    assert not wrong
    assert sum(1 if code == 408 else 8 for _, code in BAD.values()) >= 200
    assert status(address, "/v2/health/ready") == 200


def test_slow_and_vanishing_clients(address: str, pixels: Any, expected: list[Any]) -> None:
    """Heads that never end are hung up on; clients that go in the middle leave nothing behind."""
    host, port = address.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost:")
    for i in range(20):
        with socket.create_connection((host, int(port))) as gone:
            body = changed()
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            gone.sendall(head + (body[:20] if i % 2 else body))
    with closing(triton.InferenceServerClient(address)) as client:
        check(client.infer(NAME, **asked(pixels, binary=True)), expected)
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(100) == b""
        connection.close()
    for _ in range(50):
        if metric(address, f'eenet_images_inside{{model="{NAME}"}}') == 0:
            break
        time.sleep(0.1)
    else:
        pytest.fail("images of vanished clients stay inside")


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    metrics = Metrics()
    models = Models(named_checkpoints([NAME]), ServeOptions(backend="torch"), metrics)
    yield create_app(models, metrics, Limits(body_bytes=2**20))
    models.close()


def test_keeps_to_its_openapi(app: Any) -> None:
    """Whatever is sent: a documented answer, in the documented form, and never a 500."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(operations) > 10

    def calls(operation: Any) -> Callable[[], None]:
        @settings(max_examples=15, deadline=None, derandomize=True, database=None)
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])  # a model has no such budget

        return call

    for operation in operations:
        calls(operation)()


# Life and death ----------------------------------------------------------------------


def started(*arguments: str) -> tuple[str, subprocess.Popen[str]]:
    """`eenet serve` that listens, but has loaded nothing yet."""
    command = [sys.executable, "-m", "eenet", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    found = re.match(r"listening on (\S+), loading ", process.stderr.readline())
    assert found
    return found[1], process


def test_lives_before_it_is_ready(pixels: Any) -> None:
    address, process = started(NAME, "--backend", "torch")
    try:
        with closing(triton.InferenceServerClient(address)) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert send(address, "/v2/health/ready") == (503, b'{"ready": false}')
            code, text = send(address, "/classify", png(pixels[0]))
            assert code == 503
            assert "being loaded" in json.loads(text)["error"]
            while not client.is_server_ready():
                assert client.is_server_live()
                time.sleep(0.05)
        assert status(address, "/classify", png(pixels[0])) == 200
    finally:
        process.kill()
        process.communicate()


def test_sigterm_while_models_load() -> None:
    address, process = started(NAME, "--backend", "torch")
    wait_until_live(address)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "at http" not in said


def test_token(tmp_path: Path, pixels: Any) -> None:
    (tmp_path / "token").write_text("secret\n")
    with served(NAME, "--token-file", str(tmp_path / "token"), "--backend", "torch") as (address, _, _):
        assert status(address, "/v2/health/live") == 200
        assert status(address, "/") == 200
        assert status(address, "/v2") == 401
        for given in ("", "Bearer wrong", "secret", "Bearer secret2"):
            assert status(address, "/v2", Authorization=given) == 401
            assert status(address, "/classify", png(pixels[0]), Authorization=given) == 401
        assert status(address, "/classify", png(pixels[0]), Authorization="Bearer secret") == 200


def test_sigterm_loses_no_accepted_request(pixels: Any) -> None:
    """Under load: what the server did for a client, the client got; then the process ends with 0."""
    with served(NAME, "--backend", "torch") as (address, process, lines):
        answers, refused = [], []
        stop = threading.Event()

        def load() -> None:
            with closing(triton.InferenceServerClient(address)) as client:
                while not stop.is_set():
                    try:
                        answers.append(client.infer(NAME, **asked(pixels[:8], binary=True)))
                    except Exception as error:  # an idle connection closed under it has many names
                        refused.append(str(error))
                        return

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(answers) < 40:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert process.wait(20) == 0
        time.sleep(0.2)  # for the last lines of the log
        log = [json.loads(line) for line in lines if line.startswith("{")]
        done = [line for line in log if line.get("path") == INFER]
        assert {line["status"] for line in done} == {200}
        assert len(answers) == len(done) >= 40
        assert all("503" not in text for text in refused)


def test_load_again_while_serving(address: str, pixels: Any, expected: list[Any]) -> None:
    done = threading.Event()

    def again() -> None:
        for _ in range(3):
            assert status(address, f"/v2/repository/models/{NAME}/load", b"{}") == 200
        done.set()

    before = metric(address, f'eenet_model_loads{{model="{NAME}"}}')
    thread = threading.Thread(target=again)
    thread.start()
    with closing(triton.InferenceServerClient(address)) as client:
        while thread.is_alive():
            check(client.infer(NAME, **asked(pixels, binary=True)), expected)
    assert done.is_set()
    assert metric(address, f'eenet_model_loads{{model="{NAME}"}}') == before + 3


def test_no_room_is_said_at_once(pixels: Any) -> None:
    """More images than fit inside: 503 with Retry-After, and those inside are answered."""
    metrics = Metrics()
    options = ServeOptions(backend="torch", most_waiting=8)
    models = Models(named_checkpoints([NAME]), options, metrics)
    model, body = models[NAME], json.dumps(GOOD).encode()
    held = threading.Event()
    engine: Any = model.engine
    run = engine._backend.run
    engine._backend.run = lambda *given: (held.wait(20), run(*given))[1]
    inside = [model.engine.submit(pixels[i : i + 1]) for i in range(8)]
    with TestClient(create_app(models, metrics)) as client:
        answer = client.post(INFER, content=body)
        assert answer.status_code == 503
        assert client.post("/classify", content=b"no image").status_code == 503  # not even looked at
        assert answer.headers["retry-after"] == "1"
        assert "no room" in answer.json()["error"]
        held.set()
        assert all(len(future.result(20).exits_B) == 1 for future in inside)
        assert client.post(INFER, content=body).status_code == 200
    models.close()


def test_a_failing_network_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    """JSON with status 500 on either way to an endpoint; the log has the reason; it goes on serving."""
    metrics = Metrics()
    models = Models(named_checkpoints([NAME]), ServeOptions(backend="torch"), metrics)
    engine: Any = models[NAME].engine
    backend = engine._backend
    run, image = backend.run, io.BytesIO()
    Image.new("L", (8, 8)).save(image, "PNG")
    with TestClient(create_app(models, metrics), raise_server_exceptions=False) as client:
        for path, body in ((INFER, json.dumps(GOOD).encode()), ("/classify", image.getvalue())):
            backend.run = lambda *_: [][0]
            answer = client.post(path, content=body)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("internal error")
            assert "IndexError" in caplog.text
            assert answer.headers["x-request-id"] in [getattr(r, "request_id", "") for r in caplog.records]
            caplog.clear()
            backend.run = run
            assert client.post(path, content=body).status_code == 200
    models.close()


def test_gives_way_under_load_down_to_the_floor(pixels: Any) -> None:
    """While many wait, requests without wishes get cheaper budgets; never one below the floor."""
    metrics = Metrics()
    options = ServeOptions(backend="torch", most_waiting=40, data="digits", accuracy_floor=0.95)
    models = Models(named_checkpoints([NAME]), options, metrics)
    model = models[NAME]
    dearest = model.setting()
    assert dearest.name == "own"
    held = threading.Event()
    engine: Any = model.engine
    run = engine._backend.run
    engine._backend.run = lambda *given: (held.wait(20), run(*given))[1]
    future = model.engine.submit(pixels[:30])
    seen = []
    for _ in range(8):
        time.sleep(0.3)
        seen.append(model.setting())
    assert seen[-1].cost < dearest.cost
    held.set()
    future.result(20)
    models.close()
    with pytest.raises(ValueError, match="below the floor"):
        Models(named_checkpoints([NAME]), ServeOptions(data="digits", accuracy_floor=0.9999), metrics)
    with pytest.raises(ValueError, match="needs its records"):
        Models(named_checkpoints([NAME]), ServeOptions(accuracy_floor=0.9), metrics)


def test_mistakes_at_the_start(tmp_path: Path) -> None:
    def fails(*arguments: str) -> str:
        command = [sys.executable, "-m", "eenet", "serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "no checkpoint directory" in fails(str(tmp_path / "none"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    listening, said = fails(str(damaged), "--port", "0").splitlines()
    assert listening.startswith("listening on")
    assert str(damaged) in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in fails(NAME, "--backend", "torch", "--port", str(port))
    with pytest.raises(ValueError, match="two checkpoints are named"):
        named_checkpoints([NAME, f"x/{NAME}"])


# The page ----------------------------------------------------------------------------


def test_page(page: Page, address: str, pixels: Any, expected: list[Any], tmp_path: Path) -> None:
    files = []
    for i in range(6):
        files.append(tmp_path / f"{i}.png")
        files[-1].write_bytes(png(pixels[i]))
    (tmp_path / "text.png").write_text("no image")
    with nothing_wrong(page):
        page.goto(f"http://{address}/")
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#files", files[:5])
        page.set_input_files("#files", files[5:])  # before the others are through
        expect(page.locator("article")).to_have_count(6)
        rows = page.locator("article").all()
        for row, path, wanted in zip(rows, files, expected, strict=False):
            assert row.get_attribute("data-file") == path.name
            assert row.get_attribute("data-label") == wanted.label
            assert row.get_attribute("data-exit") == str(wanted.exit)
            assert row.locator("li.skipped").count() == 2 - wanted.exit
        mean = sum(e.relative_cost for e in expected[:6]) / 6
        assert f"6 images at {round(100 * mean)} %" in page.locator("#total").inner_text()
        assert "exit 0" in (page.locator("#shares").get_attribute("aria-label") or "")
    page.set_input_files("#files", [files[0], tmp_path / "text.png", files[1]])
    expect(page.locator("article")).to_have_count(9)
    expect(page.locator("article").nth(7)).to_have_text(
        "text.png: the image is not an image in a known format"
    )
    expect(page.locator("article").nth(8)).to_have_attribute("data-file", "1.png")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_says_in_words_what_its_numbers_are(page: Page, address: str) -> None:
    """Server's time beside server's time, work beside that of never leaving early; each exit's verdict."""
    (model, _) = json.loads(send(address, "/state")[1])
    with nothing_wrong(page):
        page.goto(f"http://{address}/")
        page.wait_for_selector("body[data-ready]")
        for name in ("digit 3", "digit 9", "digit 4"):
            with page.expect_response(re.compile("/classify")) as answered:
                page.get_by_role("button", name=name).click()
            found = answered.value.json()
            (first,) = found["predictions"]
            assert first["label"] == name[-1]
            row = page.locator("article").last
            expect(row).to_have_attribute("data-file", f"digit-{name[-1]}.png")
            expect(row).to_contain_text(
                re.compile(r"This request: \S+ ms in the server, of which \S+ in the net")
            )
            never = f"never leaving early: {round(100 * model['costs'][-1])} %, "
            expect(row.locator(".cost")).to_contain_text(never)
            alone, full = map(float, re.findall(r"(\S+) ms", row.locator(".cost").inner_text()))
            assert (alone, full) == pytest.approx(
                (model["alone_ms"][first["exit"]], model["alone_ms"][-1]), rel=0.06
            )
            taken = first["exit"]
            verdicts = ["went on"] * taken + ["left here"] + ["not run"] * (2 - taken)
            said = row.locator("li").all_inner_texts()
            assert [text.rsplit(", ")[-1].rsplit(": ")[-1] for text in said] == verdicts
            for text, score, threshold in zip(said, first["confidences"], found["thresholds"], strict=False):
                low, sign, high = re.findall(r"(\S+) ([>≤]) (\S+),", text)[0]
                assert (float(low) > float(high)) == (score > threshold) == (sign == ">")
        expect(page.locator("#legend")).to_contain_text("score (confidence) beside its threshold")
        expect(page.locator("#total")).to_contain_text("3 images at")
        expect(page.locator("#total")).to_contain_text("Never leaving early: ")
