"""The report, opened in a real browser: it says what evaluation says, wherever its slider stands."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import in_memory, nothing_wrong
from playwright.sync_api import Browser, Page

import eenet
from eenet.backbones.names import create_backbone
from eenet.data.image_sets import ImageSet
from eenet.evaluation.benching import Bench
from eenet.evaluation.evaluating import collect
from eenet.evaluation.metrics import measure
from eenet.evaluation.page import Entry, build_report
from eenet.networks.building import without_exits
from eenet.networks.network import EENet
from eenet.policies.records import RECORDS_FILE
from eenet.runtime.predictor import Predictor
from eenet.runtime.timing import BenchRow

CHECKPOINT = "digits-eenet8"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with exits beside a plain, untrained one."""
    directory = tmp_path_factory.mktemp("report")
    digits = in_memory("digits", "test")
    arguments = {"num_classes": 10, "in_chans": 1}
    plain = without_exits(create_backbone("resnet8_w4_cifar", arguments), digits.image_size)
    plain.config.backbone, plain.config.backbone_args = "resnet8_w4_cifar", arguments
    plain.config.mean, plain.config.std = digits.mean_std()
    plain.save_pretrained(directory / "plain")
    found = eenet.report(
        [CHECKPOINT, directory / "plain"],
        directory / "report.html",
        data="digits",
        corruptions=["fog", "jpeg"],
        severities=[5],
    )
    assert Path(found.report) == directory / "report.html"
    assert found.bytes == (directory / "report.html").stat().st_size < 6e6
    return directory / "report.html"


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    with nothing_wrong(page):
        yield page


def opened(page: Page, path: Path) -> Page:
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    return page


def test_slider_moves_the_working_point(page: Page, compared: Path) -> None:
    opened(page, compared)
    network, digits = EENet.from_pretrained(CHECKPOINT), in_memory("digits", "test")
    records = collect(network, digits)
    budgets = sorted(network.config.budgets, key=float)
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "budget":
            break
    shown = []
    for key, budget in ((None, None), ("Home", float(budgets[0])), ("End", float(budgets[-1]))):
        if key:
            page.keyboard.press(key)
        expected = measure(records, network.config.exit_policy(budget))
        tiles = page.locator(".tiles").first.locator("b").all_inner_texts()
        assert tiles[:2] == [f"{100 * expected.accuracy:.2f} %", f"{expected.relative_cost:.3f}"]
        bar = page.locator(".shares").first.get_attribute("aria-label") or ""
        assert [float(x) for x in re.findall(r": ([\d.]+) %", bar)] == pytest.approx(
            [100 * count / len(records) for count in expected.exit_counts], abs=0.051
        )
        row = page.locator(".confusion").first.locator("tbody tr").nth(8).locator("td").all_inner_texts()
        right = float(row[8]) / 100
        shown.append((tiles[1], bar, right))
    assert len({cost for cost, _, _ in shown}) == 3
    page.get_by_role("button", name="own policy").press("Enter")
    assert page.locator(".tiles").first.locator("b").nth(1).inner_text() == shown[0][0]


def test_confusion_matrix(page: Page, compared: Path) -> None:
    opened(page, compared)
    digits = in_memory("digits", "test")
    with Predictor(CHECKPOINT, backend="torch") as predictor:
        answers = predictor.run(digits.pixels(list(range(len(digits)))).numpy())
    answers_B, labels_B = answers.probabilities_BN.argmax(1), digits.labels_B.numpy()
    rows = page.locator(".confusion").first.locator("tbody tr")
    for label in range(10):
        of = answers_B[labels_B == label]
        cells = rows.nth(label).locator("td").all_inner_texts()
        for said, cell in enumerate(cells):
            assert float(cell or 0) == pytest.approx(100 * (of == said).mean(), abs=0.51)


def test_comparison_and_damage(page: Page, compared: Path) -> None:
    opened(page, compared)
    assert page.get_by_role("heading", name="plain", exact=True).count() >= 2
    assert page.locator(".shares").count() == 1  # the plain network has no exits
    page.select_option("#kind", "fog")
    assert page.locator("summary", has_text="as a table").count() >= 2
    assert page.locator("figure img").count() > 20
    assert page.locator("figure img").evaluate_all("all => all.every(image => image.naturalWidth > 0)")


def test_plots_keep_to_their_columns(page: Page, compared: Path) -> None:
    plots = opened(page, compared).locator(".plot")
    widths = plots.evaluate_all(
        "all => all.map(plot => [plot.querySelector('.main-svg').clientWidth, plot.clientWidth])"
    )
    assert len(widths) > 2
    assert all(drawn == column for drawn, column in widths)


def test_phone_dark_and_print(browser: Browser, compared: Path) -> None:
    page = opened(browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark"), compared)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 31)"
    page.emulate_media(color_scheme="light", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#budget").is_hidden()
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_names_are_text_not_markup(page: Page, digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    images = ImageSet(digits.pixels_BCHW, digits.labels_B, [evil, *digits.class_names[1:]])
    network.config.class_names = images.class_names
    records = collect(network, images)
    times: Any = {field.name: 1.0 for field in fields(BenchRow)}
    row = BenchRow(**times | {"backend": evil, "batch_size": 1, "exit_shares": [1.0]})
    entry = Entry(
        evil,
        records,
        network.config.exit_policy(),
        about=evil,
        command=evil,
        timings=Bench(rows=[row], hardware=evil, versions={}, repeats=1),
    )
    path = tmp_path / "report.html"
    path.write_text(build_report([entry], images, title=evil))
    opened(page, path)
    assert page.title() == evil
    assert page.get_by_role("heading", name="On the clock").count() == 1
    assert page.locator("pre").inner_text() == evil


def test_many_classes_are_listed(page: Page, digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    """No matrix of a thousand rows."""
    names = [f"kind {i}" for i in range(40)]
    images = ImageSet(digits.pixels_BCHW, digits.labels_B, names)
    records = collect(network, digits)
    entry = Entry("many", records, network.config.exit_policy())
    path = tmp_path / "report.html"
    path.write_text(build_report([entry], images, title="many"))
    opened(page, path)
    assert page.locator(".confusion").count() == 0
    assert page.get_by_role("columnheader", name="it is").count() == 1


def test_stored_records_are_used_only_if_they_fit(tmp_path: Path) -> None:
    """Records of other weights are not believed."""
    network, digits = EENet.from_pretrained(CHECKPOINT), in_memory("digits", "test")
    network.save_pretrained(tmp_path / "mine")
    records = collect(network, digits)
    path = tmp_path / "mine" / RECORDS_FILE.format(split="test")
    right = eenet.report(tmp_path / "mine", tmp_path / "a.html", data="digits")
    for kept in (records, records.subset(torch.arange(len(records)).flip(0))):
        kept.save(path)
        again = eenet.report(tmp_path / "mine", tmp_path / "b.html", data="digits")
        assert again.bytes == right.bytes
        assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_bad_input(digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        eenet.report([CHECKPOINT], tmp_path / "none/report.html", data="digits")
    with pytest.raises(ValueError, match="a directory"):
        eenet.report([CHECKPOINT], tmp_path, data="digits")
    with pytest.raises(ValueError, match="at least one"):
        eenet.report([], tmp_path / "report.html", data="digits")
    entry = Entry("one", collect(network, digits), network.config.exit_policy())
    with pytest.raises(ValueError, match="records of one"):
        build_report([entry], digits.subset(list(range(5))), title="x")
    with pytest.raises(ValueError, match="at least one"):
        build_report([], digits, title="x")
