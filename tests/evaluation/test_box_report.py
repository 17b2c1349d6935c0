"""A report on boxes, opened in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from box_cases import NAMES, made_detector, middling, write_coco
from conftest import nothing_wrong
from playwright.sync_api import Page

import eenet
from eenet.data import load_boxes
from eenet.evaluation import measure
from eenet.policies import RECORDS_FILE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_coco(tmp_path_factory.mktemp("boxes") / "my", {"train": 4, "test": 16}))


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    with nothing_wrong(page):
        yield page


def test_the_page_says_what_evaluation_says(page: Page, data: str, tmp_path: Path) -> None:
    network = made_detector()
    policy = eenet.ExitPolicy("clearness", middling(network, "clearness"))
    network.config.policy = policy.to_dict()
    network.config.budgets = {"0.900": network.config.policy}
    eenet.report(network, tmp_path / "report.html", data=data)
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    records = eenet.collect(network, load_boxes(data, "test", size=(3, 64, 64)))
    found = measure(records, policy)
    tiles = page.locator(".tiles").first.locator("b").all_inner_texts()
    assert tiles[:3] == [f"{100 * found.quality:.2f} %", f"{found.relative_cost:.3f}",
                         f"{100 * found.full_quality:.2f} %"]  # fmt: skip
    assert page.get_by_role("heading", name="mAP against cost").count() == 1
    assert page.get_by_role("heading", name="Confusions").count() == 0
    rows = page.locator("section", has_text="Classes").first.locator("table").first.locator("tbody tr")
    shown = {name: value for name, _, value, _ in (r.locator("td").all_inner_texts() for r in rows.all())}
    assert shown == {name: f"{100 * found.class_ap[name]:.1f} %" for name in NAMES}  # type: ignore[attr-defined]
    assert page.locator("figure.wide img").count() > 4
    assert page.locator("figure img").evaluate_all("all => all.every(image => image.naturalWidth > 0)")


def test_stored_records_are_used_only_if_they_fit(data: str, tmp_path: Path) -> None:
    checkpoint = made_detector().save_pretrained(tmp_path / "c", graph=False)
    records = eenet.collect(made_detector(), load_boxes(data, "test", size=(3, 64, 64)))
    eenet.report(checkpoint, tmp_path / "a.html", data=data)
    for kept in (records, records.subset(list(range(len(records)))[::-1])):
        kept.save(checkpoint / RECORDS_FILE.format(split="test"))
        eenet.report(checkpoint, tmp_path / "b.html", data=data)
        assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
