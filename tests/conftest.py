"""Tests run without the network, and always from the same random numbers."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from xdist.scheduler import LoadScopeScheduling

from eenet import data
from eenet.data.image_sets import ImageSet
from eenet.networks.building import create_model
from eenet.networks.network import EENet

CUTS = ["conv1", "layer1.0", "layer2.0"]
SLOW = (
    "backbones/test_backbone_contract.py",
    "cli/test_cli.py",
    "cli/test_verbs.py",
    "compress/test_pruning.py",
    "data/test_batching.py",
    "exporting/test_export.py",
    "networks/test_fuzz.py",
    "optimizing/test_optimize.py",
    "runtime/test_backends.py",
    "runtime/test_queued.py",
    "scale/test_ray_data.py",
    "scale/test_ray_serve.py",
    "serving/test_serving.py",
    "test_examples.py",
    "test_extending.py",
    "test_readme.py",
    "test_wheel.py",
    "training/test_interruption.py",
    "training/test_loop.py",
    "training/test_nodes.py",
    "training/test_run.py",
)
"""In one process they run last, so that a mistake shows early, and not at all in `make quick`."""
TOGETHER = {
    "Ray": (  # they start Ray, which one process at a time should
        "scale/",
        "test_examples.py::test_other_servers[ray",
        "test_docs.py::test_a_tutorial_runs_as_it_is[tutorials/many",
    ),
    "photos": ("test_docs.py::test_a_tutorial_runs_as_it_is[tutorials/own-",),  # the first makes the folder
}
"""By the starts of their names, tests that are for one process, in their order."""
APART = ("test_docs.py", "test_examples.py")
"""Other tests of one file are for one process, where fixtures are made once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


class Shared(LoadScopeScheduling):
    """Which tests of several processes are for the same one."""

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.removeprefix("tests/")
        file = name.partition("::")[0]
        found = (scope for scope, starts in TOGETHER.items() if name.startswith(starts))
        return next(found, name if file in APART else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shared:
    return Shared(config, log)


def in_memory(name: str, split: str) -> ImageSet:
    images = data.load(name, split)
    assert isinstance(images, ImageSet)
    return images


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def digits() -> ImageSet:
    return in_memory("digits", "validation")


@pytest.fixture
def network(digits: ImageSet) -> EENet:
    """Untrained, three early exits, ready for digits."""
    network = create_model(
        "resnet8_w4_cifar", num_classes=10, input_size=(1, 8, 8), placement=CUTS, head="pool"
    )
    network.config.mean, network.config.std = digits.mean_std()
    network.config.class_names = digits.class_names
    return network.eval()


@pytest.fixture(scope="session", autouse=True)
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs that tests make are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EENET_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. From here on no test of the module may run an event loop of its own."""
    if not (chromium := shutil.which("chromium")):
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield page
    page.close()


@contextmanager
def nothing_wrong(page: Page) -> Iterator[None]:
    """In here a page may neither complain, nor ask, nor talk to another machine."""
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: problems.append(r.url) if _is_elsewhere(r.url) else None)
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    yield
    assert not problems


def _is_elsewhere(url: str) -> bool:
    return urlsplit(url).hostname not in (None, "127.0.0.1")


@pytest.fixture(scope="module")
def trained() -> EENet:
    """Random weights, with scores that differ between images."""
    torch.manual_seed(0)
    digits = data.load("digits", "validation")
    network = create_model("resnet8_w4_cifar", placement=CUTS, num_classes=10, input_size=digits.image_size)
    network.config.mean, network.config.std = digits.mean_std()
    network.config.class_names = digits.class_names
    for name, parameter in network.heads.named_parameters():
        if name.endswith(("classifier.weight", "output.weight")):
            torch.nn.init.normal_(parameter)
    return network.eval()
